"""`p2pctl doctor`: what it shows, and what it finds out where no daemon answers."""

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from p2pctl import doctor, local_checks
from p2pctl.cli import main
from p2pd.control import client
from p2pd.node.snapshot import FindingResult
from tests.p2pctl.conftest import Daemon

Captured = pytest.CaptureFixture[str]
PROBLEM = FindingResult(
    "multicast", "multicast.dropped", "problem", "lan0: dropped\x1b", "let UDP port 41000 in"
)
WARNING = FindingResult("clock", "clock.untested", "warning", "no peer", None)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look for state and configuration where the test has them, not where they really are."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(doctor, "DEFAULT_CONFIG", str(tmp_path / "p2pd.toml"))


def findings(capsys: Captured, *argv: str, code: int = 1) -> dict[str, dict[str, Any]]:
    assert main(["--json", "doctor", *argv]) == code
    captured = capsys.readouterr()
    assert captured.err == ""
    return {each["code"]: each for each in json.loads(captured.out)["findings"]}


def test_a_problem_is_shown_with_its_remedy_and_exit_code_1(
    daemon: Daemon, capsys: Captured
) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is well"
    daemon.node.findings = [PROBLEM, WARNING]
    assert main(["doctor"]) == 1
    control, problem, remedy, warning, _, summary = capsys.readouterr().out.splitlines()
    assert control == f"ok       control    p2pd answers at {daemon.path}"
    assert problem == r"problem  multicast  lan0: dropped\x1b"
    assert remedy == "                    -> let UDP port 41000 in"
    assert warning == "warning  clock      no peer"
    assert summary == "1 problem, 1 warning"


def test_a_warning_is_no_failure(daemon: Daemon, capsys: Captured) -> None:
    daemon.node.findings = [WARNING]
    assert set(findings(capsys, code=0)) == {"control.ok", "clock.untested"}


def test_without_a_daemon_the_socket_and_the_disk_are_looked_at(
    tmp_path: Path, capsys: Captured
) -> None:
    state = tmp_path / "state" / "p2pd" / "test"
    state.mkdir(parents=True)
    (state / "lock").touch()
    found = findings(capsys, "--instance", "test")
    assert "is it running" in found["control.unreachable"]["text"]
    assert found["disk.ok"]["text"].startswith(f"{state} is writable, ")
    assert "network.untested" in found
    assert list(state.iterdir()) == [state / "lock"]


def test_a_daemon_that_does_not_answer_is_named(tmp_path: Path, capsys: Captured) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(capsys, "--instance", "test", "--state-dir", str(tmp_path))
        told = found["control.silent"]
        assert f"process {os.getpid()} " in told["text"]
        assert "is it running" not in told["text"]
        assert "--socket PATH" in told["remedy"]


@pytest.fixture
def two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two state directories where one is looked for: of a trial by hand, and of the service."""
    places = [tmp_path / "by hand", tmp_path / "service"]
    for each in places:
        each.mkdir()
        (each / "lock").touch()
    monkeypatch.setattr(local_checks, "_usual_places", lambda _: places)
    return places


@pytest.mark.parametrize("held", [0, 1])
def test_of_two_state_directories_the_one_in_use_is_looked_at(
    two_places: list[Path], capsys: Captured, held: int
) -> None:
    with (two_places[held] / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(capsys, "--instance", "test")
    assert (
        f"process {os.getpid()} has the state directory {two_places[held]}"
        in (found["control.silent"]["text"])
    )
    assert found["disk.ok"]["text"].startswith(f"{two_places[held]} is writable, ")


def test_of_two_state_directories_that_nobody_uses_both_are_looked_at(
    two_places: list[Path], capsys: Captured
) -> None:
    assert main(["--json", "doctor", "--instance", "test"]) == 1
    said = json.loads(capsys.readouterr().out)["findings"]
    disks = [each["text"] for each in said if each["code"] == "disk.ok"]
    assert [each.partition(" is writable, ")[0] for each in disks] == [*map(str, two_places)]


def test_who_may_not_ask_is_not_told_that_the_daemon_hangs(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(client, "_connect_in_time", refuse)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(capsys, "--instance", "test", "--state-dir", str(tmp_path))
    assert "permission denied" in found["control.denied"]["text"]
    assert found["control.denied"]["remedy"] is None


def test_a_state_directory_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    gone = findings(capsys, "--state-dir", str(tmp_path / "gone"), "--instance", "test")
    assert "No such file" in gone["disk.refuses"]["text"]
    assert "disk.untested" in findings(capsys, "--instance", "test")


def test_names_of_the_configuration_are_looked_up_and_dialled(
    tmp_path: Path, capsys: Captured
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as open_one, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there, not_there = (f"127.0.0.1:{each.getsockname()[1]}" for each in (open_one, closed))
        (tmp_path / "p2pd.toml").write_text(
            f'[discovery]\nseeds = ["{there}", "{not_there}"]\nbootstrap = ["nowhere.invalid:1"]\n'
        )
        found = findings(capsys, "--instance", "test")
    assert there in found["seed.ok"]["text"]
    assert not_there in found["seed.unreachable"]["text"]
    assert found["bootstrap.unresolved"]["text"].startswith("can't resolve nowhere.invalid: ")
    assert "check the name" in found["bootstrap.unresolved"]["text"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("[discovery", "is not valid TOML"),
        ("discovery = 3", "discovery: expected a section, [discovery], not 3"),
        ("[discovery]\nseeds = 1", "discovery.seeds: expected a list"),
        ("[dht]\nreplicaton = 3", "did you mean dht.replication?"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ('[node]\nnetwork_key_file = "/no/key"', "can't read /no/key: No such file"),
        ('[control]\ngroup = "no-such-group"', "there is no group 'no-such-group'"),
    ],
)
def test_a_configuration_with_which_p2pd_does_not_start_is_a_problem(
    tmp_path: Path, capsys: Captured, content: str | None, said: str
) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_text(content)
    found = findings(capsys, "--instance", "test", "--config", str(file))
    assert said in found["config.refused"]["text"]
    assert f"`p2pd --config {file} --check`" in found["config.refused"]["remedy"]


def test_a_key_file_that_this_user_may_not_read_is_no_problem_and_hides_none(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[node]\nnetwork_key_file = "/key"\n[discovery]\nbootstrap = ["nowhere.invalid:1"]\n'
    )
    opened = Path.open

    def refuse(path: Path, *rest: Any) -> Any:
        if path == Path("/key"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *rest)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = findings(capsys, "--instance", "test", "--config", str(file))
    assert found["config.untested"]["level"] == "warning"
    assert "config.refused" not in found
    assert "bootstrap.unresolved" in found


def test_a_host_without_ipv6_is_survived(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = socket.socket

    def refuse(family: int = -1, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return make(family, *rest)

    (tmp_path / "p2pd.toml").write_text('[discovery]\nseeds = ["[::1]:1"]\n')
    monkeypatch.setattr("p2pctl.local_checks.socket.socket", refuse)
    found = findings(capsys, "--socket", str(tmp_path / "none.sock"))
    assert "Address family not supported" in found["seed.unreachable"]["text"]
