"""The sd_notify protocol as a service manager sees it."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from p2pd.notify import Manager, watchdog_interval


def notify(*lines: str) -> None:
    with closing(Manager()) as manager:
        manager.tell(*lines)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A socket in the service manager's place, named in the environment."""
    if request.param == "path":
        bound = shown = str(tmp_path / "notify")
    else:
        name = f"p2pd-test-{os.getpid()}-{tmp_path.name}"
        bound, shown = "\0" + name, "@" + name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(bound)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", shown)
        yield sock


def test_lines_arrive_in_one_datagram(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=listening on [::]:41000, 3 peers ✓")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=listening on [::]:41000, 3 peers ✓"


def test_it_is_heard_without_a_file_descriptor_to_spare(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Manager()) as own:
        monkeypatch.setattr(socket, "socket", None)
        own.tell("WATCHDOG=1")
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_a_line_cannot_smuggle_in_another(manager: socket.socket) -> None:
    with pytest.raises(ValueError, match="line break"):
        notify("STATUS=peer\nMAINPID=1")
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_service_manager_nothing_happens(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *arguments: opened.append(arguments))
    if value is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")
    assert opened == []


def test_a_service_manager_that_is_gone_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(OSError, match="No such file"):
        notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 15.0),
        ("30000000", 0, 15.0),
        ("500000", None, 0.25),
        ("30000000", 1, None),
        ("30000000", "me", None),
        (None, None, None),
        (None, 0, None),
        ("", None, None),
        ("0", None, None),
        ("-5", None, None),
        ("30s", None, None),
        ("³", None, None),
    ],
)
def test_the_watchdog_is_pinged_twice_in_its_period(
    usec: str | None, pid: str | int | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number says how far the process is from this one."""
    whose = str(os.getpid() + pid) if isinstance(pid, int) else pid
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", whose)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == seconds
