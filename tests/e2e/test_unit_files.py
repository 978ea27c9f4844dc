"""The units are well formed, closely sandboxed, and the two are alike."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
UNITS = ("p2pd.service", "p2pd@.service")
MOST_EXPOSURE = 1.3

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
    ),
]


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def verify(text: str, name: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Verify a unit; its program, not installed here, has a stub in its place."""
    stub = place / "p2pd"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    text, replaced = re.subn(
        r"^ExecStart=/usr/local/bin/p2pd ", f"ExecStart={stub} ", text, flags=re.MULTILINE
    )
    assert replaced == 1
    unit = place / name
    unit.write_text(text)
    return analyze("verify", "--recursive-errors=no", unit)


@pytest.mark.parametrize("name", UNITS)
def test_verify_finds_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    result = verify((PROJECT / "systemd" / name).read_text(), name, tmp_path)
    of_ours = [line for line in result.stderr.splitlines() if "p2pd" in line]
    assert (result.returncode, of_ours) == (0, [])


def test_verify_would_complain_about_a_misspelt_key(tmp_path: Path) -> None:
    text = (PROJECT / "systemd/p2pd.service").read_text()
    result = verify(text.replace("WatchdogSec=", "WatchdogSecs="), "p2pd.service", tmp_path)
    assert "WatchdogSecs" in result.stderr


@pytest.mark.parametrize("name", UNITS)
def test_the_sandbox_is_as_close_as_a_network_service_allows(name: str) -> None:
    result = analyze("security", "--offline=true", "--no-pager", PROJECT / "systemd" / name)
    score = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", result.stdout)
    assert score is not None, result.stdout + result.stderr
    assert float(score[1]) <= MOST_EXPOSURE, result.stdout


def test_the_template_differs_only_in_what_names_the_instance() -> None:
    single, template = (
        (PROJECT / "systemd" / name).read_text().partition("\nType=notify\n") for name in UNITS
    )
    assert single[2] == template[2] != ""
