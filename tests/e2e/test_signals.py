"""How a daemon leaves, and what it takes over without leaving."""

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until

pytestmark = pytest.mark.e2e

SHOWN_WITHIN = 1.0
GRACE = 5.0


def test_it_leaves_when_its_terminal_is_closed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("a")
    with daemon.namespace.inside():
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(daemon.command[0], daemon.command)
    until("it answers", lambda: daemon.ctl("status").returncode == 0)
    os.kill(pid, signal.SIGHUP)
    until(
        "it has read its configuration again",
        lambda: b"config.reloaded" in os.read(terminal, 65536),
    )
    os.close(terminal)
    ended: list[int] = []

    def has_ended() -> bool:
        ended[:] = os.waitpid(pid, os.WNOHANG)
        return ended[0] == pid

    until("it has left", has_ended, GRACE)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert not daemon.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_gracefully(make_daemon: MakeDaemon, number: signal.Signals) -> None:
    staying, leaving = make_daemon("a").start(), make_daemon("b").start()
    until("they are connected", lambda: staying.connected() and leaving.connected())
    leaving.signal(number)
    until(
        "its peer shows that it left",
        lambda: staying.peer("b")["status"] == "disconnected",
        SHOWN_WITHIN,
    )
    assert leaving.wait(GRACE) == 0
    # Not the last error of that peer, which is that of a redial soon.
    [left] = staying.events("peer.disconnected")
    assert "leaving" in left["reason"]
    assert not leaving.socket.exists()
    assert len(leaving.events("node.stopping")) == 1
    assert len(leaving.events("node.stopped")) == 1
    assert "Traceback" not in leaving.log_file.read_text()
    # What it knows survives, and nobody is forgotten.
    leaving.start()
    until("they are connected again", lambda: staying.connected() and leaving.connected())
    assert staying.peer("b")["success_count"] == 2


def test_a_service_manager_that_is_not_there_stops_nothing(
    make_daemon: MakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a shell that some other service started."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    node = make_daemon("a").start()
    node.signal(signal.SIGHUP)
    until("it has reloaded", lambda: node.events("config.reloaded"))
    assert node.stop() == 0
    assert len(node.events("manager.unreachable")) == 1


def test_silent_peers_do_not_hold_it_up(make_daemon: MakeDaemon) -> None:
    node, frozen = make_daemon("a").start(), make_daemon("b").start()
    until("they are connected", lambda: node.connected() and frozen.connected())
    frozen.signal(signal.SIGSTOP)
    node.signal(signal.SIGTERM)
    assert node.wait(GRACE) == 0
    frozen.signal(signal.SIGCONT)


def test_work_under_way_does_not_hold_it_up(make_daemon: MakeDaemon) -> None:
    node, frozen = make_daemon("a").start(), make_daemon("b").start()
    until("they are connected", lambda: node.connected() and frozen.connected())
    frozen.signal(signal.SIGSTOP)
    with node.socket_client() as client:
        client.sendall(
            b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"peer":"b","text":"x"}}\n'
        )
        node.signal(signal.SIGTERM)
        assert node.wait(GRACE) == 0
    frozen.signal(signal.SIGCONT)


def test_a_second_signal_ends_it_at_once(make_daemon: MakeDaemon) -> None:
    node, frozen = make_daemon("a").start(), make_daemon("b").start()
    until("they are connected", lambda: node.connected() and frozen.connected())
    frozen.signal(signal.SIGSTOP)
    # Two of a kind would become one where the process is not quick enough.
    node.signal(signal.SIGTERM)
    node.signal(signal.SIGINT)
    assert node.wait(GRACE) == 1
    assert not node.socket.exists()
    assert "Traceback" not in node.log_file.read_text()
    frozen.signal(signal.SIGCONT)


def test_the_first_signal_after_a_user_has_stopped_it_is_no_second_one(
    make_daemon: MakeDaemon,
) -> None:
    node, frozen = make_daemon("a").start(), make_daemon("b").start()
    until("they are connected", lambda: node.connected() and frozen.connected())
    frozen.signal(signal.SIGSTOP)
    node.call("stop")
    node.signal(signal.SIGTERM)
    assert node.wait(GRACE) == 0
    frozen.signal(signal.SIGCONT)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.15, 0.2])
def test_a_signal_while_it_starts(make_daemon: MakeDaemon, delay: float) -> None:
    node = make_daemon("a")
    node.launch()
    time.sleep(delay)
    node.signal(signal.SIGTERM)
    code = node.wait(GRACE)
    # Before it has a handler, the signal ends the interpreter itself.
    assert code in {0, -signal.SIGTERM}
    assert not node.socket.exists()
    assert "Traceback" not in node.log_file.read_text()


def configured(make_daemon: MakeDaemon, file: Path, content: str) -> Daemon:
    file.write_text(content)
    return make_daemon("a", "--config", str(file)).start()


QUIET = "[discovery.multicast]\nenabled = false\n"


def test_reload_changes_the_log_level(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "p2pd.toml"
    node = configured(make_daemon, file, QUIET + '[log]\nlevel = "error"\n')
    assert node.events("node.started") == []
    file.write_text(QUIET + '[log]\nlevel = "info"\n')
    node.signal(signal.SIGHUP)
    until("it says so", lambda: node.events("config.reloaded"))
    assert node.call("status")["pid"] == node.pid


def test_reload_takes_new_bootstrap_addresses(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "p2pd.toml"
    node = configured(make_daemon, file, QUIET)
    other = make_daemon("b", "--set", "discovery.multicast.enabled=false").start()
    file.write_text(f'[discovery]\nbootstrap = ["{other.address}"]\n{QUIET}')
    node.signal(signal.SIGHUP)
    until("they are connected", lambda: node.connected() == {"b"})


def test_reload_says_what_needs_a_restart(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "p2pd.toml"
    node = configured(make_daemon, file, QUIET)
    file.write_text(QUIET + "[dht]\nalpha = 5\n")
    node.signal(signal.SIGHUP)
    until("it says so", lambda: node.events("config.reloaded"))
    assert "dht.alpha" in node.events("config.reloaded")[0]["message"]


BAD_FILES = {"a mistake": "[dht]\nkk = 3\n", "no TOML": "[dht\n", "a wrong type": "dht = 3\n"}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_not_taken(make_daemon: MakeDaemon, tmp_path: Path, content: str) -> None:
    file = tmp_path / "p2pd.toml"
    node = configured(make_daemon, file, QUIET)
    file.write_text(content)
    node.signal(signal.SIGHUP)
    until("it says why", lambda: node.events("config.refused"))
    [told] = node.events("config.refused")
    assert told["level"] == "error"
    assert "dht" in told["message"] or "line 1" in told["message"]
    assert node.ctl("put", "key", "value").returncode == 0


def test_a_file_that_is_gone_is_not_taken(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "p2pd.toml"
    node = configured(make_daemon, file, QUIET)
    file.unlink()
    node.signal(signal.SIGHUP)
    until("it says why", lambda: node.events("config.refused"))
    assert node.ctl("status").returncode == 0
