"""The service as its administrator meets it: one boot of a container, each finding a test.

What is done in there, in turn: `tests/e2e/inside/administrator.py`.
"""

from pathlib import Path

import pytest

from tests.e2e.containers import Findings, findings_of, machine, reason_to_skip
from tests.e2e.inside.administrator import FAR, NEW_VERSION, NODE, START_TIMEOUT, TWO, WHEELS

MOST_EXPOSURE = 1.3
# Its grace time is 5 s, and nobody is silent here.
STOPPED_WITHIN = 3.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What the administrator found."""
    found = findings_of(tmp_path_factory, "systemd", install_and_boot)
    print("\n".join(found["log"]["end"]) if "log" in found else "it did not come to its end")
    return found


def install_and_boot(place: Path) -> Findings:
    with machine(place) as booted:
        # Booted, it has no way to a package index.
        wheel = f"python3.11 -m pip wheel --quiet --wheel-dir={WHEELS} . setuptools"
        booted.run(*wheel.split())
        booted.run("env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}", "make", "install")
        return booted.boot("administrator", enabled=(NODE,))


def step(findings: Findings, name: str) -> Findings:
    found: Findings = findings[name]
    assert "traceback" not in found, found["traceback"]
    return found


def test_enabled_it_comes_up_with_the_machine_before_any_network(findings: Findings) -> None:
    found = step(findings, "boot")
    assert found["active"] is True
    assert found["links"].split()[0] == "lo"
    assert len(found["links"].splitlines()) == 1
    assert found["status"]["instance"] == "default"


def test_status_shows_what_it_does(findings: Findings) -> None:
    found = step(findings, "status")
    assert "Active: active (running)" in found["text"]
    assert 'Status: "Listening on 0.0.0.0:41000, [::]:41000"' in found["text"]
    assert f"Main PID: {found['pid']} (p2pd)" in found["text"]


def test_root_and_members_of_the_group_drive_it(findings: Findings) -> None:
    found = step(findings, "users")
    assert found["root"].startswith("stored of root on 1 of 1 replicas")
    assert found["member"].startswith("stored of member on 1 of 1 replicas")
    assert found["member reads"] == "1"


def test_somebody_else_is_refused_and_told_what_to_do(findings: Findings) -> None:
    found = step(findings, "users")
    assert found["stranger"].startswith("exit 4: p2pctl: /run/p2pd/default.sock: permission denied")
    assert "usermod -aG p2pd $USER" in found["stranger"]
    assert "Permission denied" in found["stranger's state"]


def test_instances_of_the_template_are_nodes_of_their_own(findings: Findings) -> None:
    found = step(findings, "instances")
    assert found["start"] == ""
    assert found["two"]["node_id"] != found["far"]["node_id"]
    assert (found["two"]["name"], found["far"]["name"]) == ("two", "far")
    assert found["far"]["listen"] == ["0.0.0.0:41000", "[::]:41000"]
    assert found["on one host"] is True


def test_the_journal_is_asked_by_event_and_instance(findings: Findings) -> None:
    assert sorted(step(findings, "instances")["journal"]) == [
        ["far", "node.started"],
        ["two", "node.started"],
    ]
    found = step(findings, "late_network")
    assert found["far"] in found["connected"]


def test_a_network_that_comes_up_late_is_found(findings: Findings) -> None:
    found = step(findings, "late_network")
    assert found["found"] is True
    assert found["addresses"] == ["192.0.2.1:41000"]
    assert found["put"]["replicas"]["stored"] == 3
    assert found["got"] == "3"


def test_reload_takes_a_change_and_refuses_a_mistake(findings: Findings) -> None:
    found = step(findings, "reload")
    assert (found["reload"], found["taken"], found["refused"]) == ("", True, True)
    [why] = found["why"]
    assert "did you mean liveness.ping_interval?" in why
    assert (found["same process"], found["get"]) == (True, "3")


def test_a_daemon_that_hangs_is_started_again(findings: Findings) -> None:
    found = step(findings, "watchdog")
    assert (found["again"], found["stack"], found["restarts"]) == (True, True, "1")
    assert found["get"] == "4"


def test_a_daemon_that_crashes_is_started_again(findings: Findings) -> None:
    found = step(findings, "crash")
    assert (found["again"], found["peers"]) == (True, True)
    assert found["get"] == "5"


def test_the_control_socket_may_be_handed_to_another_group(findings: Findings) -> None:
    found = step(findings, "another_group")
    assert (found["start"], found["stop"]) == ("", "")
    assert not found["manager"].startswith("exit"), found["manager"]
    assert found["member"].startswith("exit 4")


def test_a_start_may_take_as_long_as_the_database_is_read(findings: Findings) -> None:
    assert step(findings, "slow_start_begins")["says so"] is True
    found = step(findings, "slow_start")
    assert (found["settled"], found["after"]) == (True, "active")
    assert found["seconds"] > START_TIMEOUT


def test_an_upgrade_that_fails_leaves_the_old_release(findings: Findings) -> None:
    found = step(findings, "upgrade")
    assert found["failed"] == "exit 2"
    assert found["client after that"]["version"] != NEW_VERSION


def test_an_upgrade_under_a_running_daemon(findings: Findings) -> None:
    found = step(findings, "upgrade")
    assert "systemctl try-restart p2pd" in found["install"]
    meanwhile = found["meanwhile"]
    assert meanwhile["same process"] is True
    assert meanwhile["version"] != NEW_VERSION
    assert meanwhile["put"]["key"] == "meanwhile"
    assert meanwhile["echo"]["text"] == "hello"
    assert "message_id" in meanwhile["publish"]
    assert found["newcomer"] is True
    assert (found["restart"], found["version"]) == ("", NEW_VERSION)
    assert (found["get"], found["peers"]) == ("6", True)


@pytest.mark.parametrize("unit", [NODE, TWO])
def test_the_sandbox_in_which_all_that_works(findings: Findings, unit: str) -> None:
    assert 0 < step(findings, "security")[unit] <= MOST_EXPOSURE


def test_it_stops_with_a_goodbye(findings: Findings) -> None:
    found = step(findings, "stop")
    assert (found["stop"], found["result"]) == ("", "success")
    assert found["seconds"] < STOPPED_WITHIN
    assert (found["socket"], found["goodbye"]) == (False, True)
    assert found["client"].startswith("exit 4: p2pctl: no p2pd answers")
    assert "systemctl start p2pd" in found["client"]
    assert found["others"] == "two"


def test_uninstalled_it_leaves_configuration_and_state(findings: Findings) -> None:
    found = step(findings, "uninstall")
    assert not found["make"].startswith("exit")
    assert found["running"] == dict.fromkeys((NODE, TWO, FAR), "inactive")
    assert found["kept"] == [True, True, True]


def test_nothing_in_the_log_is_a_bug(findings: Findings) -> None:
    found = step(findings, "log")
    assert found["bugs"] == []
    assert found["unreachable"] == 0
