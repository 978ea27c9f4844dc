"""The units under a real systemd: install, boot a container, let probes live in the sandbox.

The container's root is an overlay of this machine's, so that nothing is changed here.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.containers import PROJECT, SOURCE, Findings, findings_of, machine, reason_to_skip

INSTALLED = "usr/local/lib/p2pd"
PROBE = f"/{INSTALLED}/bin/python -I /{INSTALLED}/probe.py"
INSTALL_TIMEOUT = 300.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
]


def dropin(instance: str) -> str:
    return (
        f"[Service]\nWatchdogSec=2s\nRestartSec=100ms\nExecStart=\nExecStart={PROBE} {instance}\n"
    )


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What the judge found in the container."""
    return findings_of(tmp_path_factory, "sandbox", install_and_boot)


def install_and_boot(place: Path) -> Findings:
    with machine(place) as booted:
        subprocess.run(
            ["make", "--no-print-directory", "install", f"DESTDIR={booted.root}"],
            cwd=booted.root / SOURCE,
            check=True,
            timeout=INSTALL_TIMEOUT,
        )
        subprocess.run(["systemd-sysusers", f"--root={booted.root}"], check=True, timeout=60)
        # Where the sandbox lets it be run.
        shutil.copy(PROJECT / "tests/e2e/inside/probe.py", booted.root / INSTALLED)
        units = booted.root / "etc/systemd/system"
        for name, instance in (("p2pd.service", "default"), ("p2pd@.service", "%i")):
            directory = units / f"{name}.d"
            directory.mkdir(parents=True)
            (directory / "probe.conf").write_text(dropin(instance))
        return booted.boot("judge")


def test_the_units_start(findings: Findings) -> None:
    assert findings["start"] == "", findings["log"]


@pytest.mark.parametrize("unit", ["single", "instance"])
def test_what_a_node_needs_works_in_the_sandbox(findings: Findings, unit: str) -> None:
    assert set(findings[unit]["needed"].values()) == {"done"}, findings[unit]["needed"]


@pytest.mark.parametrize("unit", ["single", "instance"])
def test_what_it_must_not_do_is_refused(findings: Findings, unit: str) -> None:
    allowed = [name for name, result in findings[unit]["forbidden"].items() if result == "done"]
    assert allowed == []
    errors = {result.partition(":")[0] for result in findings[unit]["forbidden"].values()}
    assert errors <= {"PermissionError", "FileNotFoundError", "OSError"}


def test_members_of_the_group_drive_the_node_and_others_do_not(findings: Findings) -> None:
    assert findings["member"] == "hello"
    assert findings["stranger"] == "PermissionError"
    assert findings["state mode"] == "700"


def test_the_watchdog_hears_the_pings(findings: Findings) -> None:
    assert findings["watchdog"] is True


def test_reload_sends_the_signal(findings: Findings) -> None:
    assert (findings["reload"], findings["reloaded"]) == ("", True)


def test_the_journal_keeps_fields(findings: Findings) -> None:
    assert findings["journal"] == [["4", "probing"]] * 2


def test_one_instance_stops_without_the_others(findings: Findings) -> None:
    assert (findings["stop"], findings["stopped"]) == ("", "success")
    assert findings["after the other stopped"] == "hello"
    assert findings["its own"] == "FileNotFoundError"


def test_a_crash_is_followed_by_a_start_but_bad_configuration_is_not(
    findings: Findings,
) -> None:
    assert findings["crash"] is True
    assert findings["bad configuration"] == "exit-code 0"


def test_the_daemon_itself_runs_as_installed(findings: Findings) -> None:
    found = findings["daemon"]
    assert (found["start"], found["restart"], found["stop"]) == ("", "", ""), findings["log"]
    assert found["pid"] == found["main pid"]
    assert (found["put"], found["get"]) == ("stored", "value")
    assert (found["reload"], found["reloaded"]) == ("", True)
    assert (found["started"], found["stopped"]) == (2, 2)
    assert (found["result"], found["socket"]) == ("success", False)
