"""The units under a real systemd: install, boot a container, let probes live in the sandbox.

The container's root is an overlay of this machine's, so that nothing is changed here.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "sandbox"
INSTALLED = "usr/local/lib/p2pd"
PROBE = f"/{INSTALLED}/bin/python -I /{INSTALLED}/probe.py"
BOOT_TIMEOUT = 180.0
INSTALL_TIMEOUT = 300.0

JUDGE_UNIT = f"""
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
Requires=basic.target systemd-journald.service
After=basic.target systemd-journald.service

[Service]
Type=oneshot
TimeoutStartSec=150s
ExecStart=/{INSTALLED}/bin/python -I /{INSTALLED}/judge.py /findings.json
"""


def dropin(instance: str) -> str:
    return (
        f"[Service]\nWatchdogSec=2s\nRestartSec=100ms\nExecStart=\nExecStart={PROBE} {instance}\n"
    )


def reason_to_skip() -> str | None:
    if os.geteuid() != 0:
        return "booting a container needs root"
    for tool in ("systemd-nspawn", "systemd-sysusers", "make"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A writable view of this machine's root file system."""
    place = tmp_path_factory.mktemp("machine")
    upper, work, root = (place / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir()
    options = f"lowerdir=/,upperdir={upper},workdir={work}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, root],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no overlay mount here: {mounted.stderr.strip()}")
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@pytest.fixture(scope="module")
def findings(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the judge found in the container."""
    # Building writes into the source tree: use a copy.
    source = tmp_path_factory.mktemp("source") / "p2pd"
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
    subprocess.run(
        ["make", "--no-print-directory", "install", f"DESTDIR={overlay}"],
        cwd=source,
        check=True,
        timeout=INSTALL_TIMEOUT,
    )
    subprocess.run(["systemd-sysusers", f"--root={overlay}"], check=True, timeout=60)
    for script in ("probe.py", "judge.py"):
        shutil.copy(SCRIPTS / script, overlay / INSTALLED)
    units = overlay / "etc/systemd/system"
    for name, instance in (("p2pd.service", "default"), ("p2pd@.service", "%i")):
        directory = units / f"{name}.d"
        directory.mkdir(parents=True)
        (directory / "probe.conf").write_text(dropin(instance))
    (units / "judge.service").write_text(JUDGE_UNIT)
    booted = subprocess.run(
        [
            *(
                "systemd-nspawn",
                "--quiet",
                f"--directory={overlay}",
                f"--machine=p2pd-{os.getpid()}",
            ),
            *("--register=no", "--keep-unit", "--private-network", "--console=pipe"),
            *("--boot", "systemd.unit=judge.service"),
        ],
        env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=BOOT_TIMEOUT,
        check=False,
    )
    report = overlay / "findings.json"
    assert report.exists(), booted.stdout[-4000:] + booted.stderr[-4000:]
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_the_units_start(findings: dict[str, Any]) -> None:
    assert findings["start"] == "", findings["log"]


@pytest.mark.parametrize("unit", ["single", "instance"])
def test_what_a_node_needs_works_in_the_sandbox(findings: dict[str, Any], unit: str) -> None:
    assert set(findings[unit]["needed"].values()) == {"done"}, findings[unit]["needed"]


@pytest.mark.parametrize("unit", ["single", "instance"])
def test_what_it_must_not_do_is_refused(findings: dict[str, Any], unit: str) -> None:
    allowed = [name for name, result in findings[unit]["forbidden"].items() if result == "done"]
    assert allowed == []
    errors = {result.partition(":")[0] for result in findings[unit]["forbidden"].values()}
    assert errors <= {"PermissionError", "FileNotFoundError", "OSError"}


def test_members_of_the_group_drive_the_node_and_others_do_not(findings: dict[str, Any]) -> None:
    assert findings["member"] == "hello"
    assert findings["stranger"] == "PermissionError"
    assert findings["state mode"] == "700"


def test_the_watchdog_hears_the_pings(findings: dict[str, Any]) -> None:
    assert findings["watchdog"] is True


def test_reload_sends_the_signal(findings: dict[str, Any]) -> None:
    assert (findings["reload"], findings["reloaded"]) == ("", True)


def test_the_journal_keeps_fields(findings: dict[str, Any]) -> None:
    assert findings["journal"] == [["4", "probing"]] * 2


def test_one_instance_stops_without_the_others(findings: dict[str, Any]) -> None:
    assert (findings["stop"], findings["stopped"]) == ("", "success")
    assert findings["after the other stopped"] == "hello"
    assert findings["its own"] == "FileNotFoundError"


def test_a_crash_is_followed_by_a_start_but_bad_configuration_is_not(
    findings: dict[str, Any],
) -> None:
    assert findings["crash"] is True
    assert findings["bad configuration"] == "exit-code 0"


def test_the_daemon_itself_runs_as_installed(findings: dict[str, Any]) -> None:
    found = findings["daemon"]
    assert (found["start"], found["restart"], found["stop"]) == ("", "", ""), findings["log"]
    assert found["pid"] == found["main pid"]
    assert (found["put"], found["get"]) == ("stored", "value")
    assert (found["reload"], found["reloaded"]) == ("", True)
    assert (found["started"], found["stopped"]) == (2, 2)
    assert (found["result"], found["socket"]) == ("success", False)
