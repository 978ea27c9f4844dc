"""What can be wrong with the state directory: said clearly, and nothing is deleted."""

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until

pytestmark = pytest.mark.e2e


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """Within the `with`, a file system of its own is at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(directory: Path) -> Path:
    """Use up the room of a file system."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    return filler


def refuses(daemon: Daemon, *words: str) -> None:
    """It does not start, and says why in one line."""
    code, lines = daemon.run_to_end()
    assert code == 1
    [line] = lines
    assert line.startswith("p2pd: ")
    for each in words:
        assert each in line


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "overwritten": lambda content: b"not a database".ljust(len(content), b"!"),
    "its middle overwritten": lambda content: content[:4096] + b"\xff" * (len(content) - 4096),
    "cut short": lambda content: content[: len(content) // 2 - 100],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_corrupt_database_is_moved_aside(
    make_daemon: MakeDaemon, damage: Callable[[bytes], bytes]
) -> None:
    node = make_daemon("a").start()
    for number in range(20):
        node.call("put", key=f"key {number}", value="x" * 1000)
    node_id = node.call("status")["node_id"]
    assert node.stop() == 0
    database = node.state_dir / "p2pd.db"
    damaged = damage(database.read_bytes())
    database.write_bytes(damaged)

    node.start()
    [told] = node.events("store.quarantined")
    assert told["level"] == "error"
    assert Path(told["path"]).read_bytes() == damaged
    assert str(database) in told["message"]
    assert node.call("status")["node_id"] == node_id
    assert node.ctl("put", "key", "value").returncode == 0
    assert node.ctl("get", "key").stdout == "value"


BAD_IDENTITIES = {
    "empty": b"",
    "no JSON": b"\x00\x01\x02",
    "no object": b"[1, 2]\n",
    "deep": b"[" * 100_000,
    "no key": b'{"nonce": 1}\n',
    "a short key": b'{"private_key": "00", "nonce": 1}\n',
    "a negative nonce": b'{"private_key": "%s", "nonce": -1}\n' % (b"00" * 32),
    "a huge nonce": b'{"private_key": "%s", "nonce": 1e400}\n' % (b"00" * 32),
    "no nonce": b'{"private_key": "%s", "nonce": null}\n' % (b"00" * 32),
}


@pytest.mark.parametrize("content", BAD_IDENTITIES.values(), ids=BAD_IDENTITIES.keys())
def test_a_corrupt_identity_file_is_refused_and_kept(
    make_daemon: MakeDaemon, content: bytes
) -> None:
    node = make_daemon("a")
    node.state_dir.mkdir()
    file = node.state_dir / "identity.json"
    file.write_bytes(content)
    refuses(node, str(file), "backup")
    assert file.read_bytes() == content


def test_an_identity_file_is_private(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a").start()
    assert (node.state_dir / "identity.json").stat().st_mode & 0o777 == 0o600
    assert node.state_dir.stat().st_mode & 0o777 == 0o700
    assert json.loads((node.state_dir / "identity.json").read_text()).keys() == {
        *("private_key", "nonce")
    }


def test_more_work_keeps_the_node_id(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a").start()
    node_id = node.call("status")["node_id"]
    node.stop()
    node.flags = ("--set", "identity.difficulty=14")
    assert node.start().call("status")["node_id"] == node_id


def test_a_stale_socket_is_replaced(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a").start()
    node.kill()
    assert node.socket.is_socket()
    node.start()
    assert node.ctl("status").returncode == 0


def test_a_second_daemon_on_one_state_directory(make_daemon: MakeDaemon) -> None:
    first = make_daemon("a").start()
    second = make_daemon("b", state_dir=first.state_dir)
    refuses(second, str(first.state_dir), f"process {first.pid}", "--instance")
    assert first.ctl("status").returncode == 0
    first.kill()
    # The lock went with the process.
    second.start()


def test_a_read_only_state_directory(make_daemon: MakeDaemon) -> None:
    new = make_daemon("a")
    with mounted(new.state_dir, "ro"):
        refuses(new, str(new.state_dir), "Read-only", "--state-dir")


def test_a_state_directory_that_became_read_only(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a")
    with mounted(node.state_dir, "size=4m"):
        node.start()
        node.stop()
        before = node.log_file.read_text()
        subprocess.run(["mount", "-o", "remount,ro", node.state_dir], check=True)
        code, lines = node.run_to_end()
        assert code == 1
        assert len(lines) == len(before.splitlines()) + 1
        assert "Read-only" in lines[-1]


def test_a_full_disk_at_the_first_start(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a")
    with mounted(node.state_dir, "size=64k"):
        filler = fill(node.state_dir)
        refuses(node, str(node.state_dir), "room")
        filler.unlink()
        node.log_file.unlink()
        filler.write_bytes(bytes(40960))
        refuses(node, "p2pd.db", "room")


def test_a_disk_that_fills_up(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a")
    with mounted(node.state_dir, "size=1m"):
        node.start()
        assert node.ctl("put", "before", "1").returncode == 0
        filler = fill(node.state_dir)
        refused = node.ctl("put", "during", "x" * 60_000)
        assert refused.returncode in {1, 5}
        assert len(refused.stderr.splitlines()) == 1
        assert "full" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert node.ctl("get", "before").stdout == "1"
        filler.unlink()
        until("writes work again", lambda: node.ctl("put", "after", "2").returncode == 0)
        assert node.ctl("get", "after").stdout == "2"
        assert len(node.events("store.refuses")) == 1
        assert node.events("bug") == []
        assert node.stop() == 0


def test_the_size_of_the_store_is_bounded(make_daemon: MakeDaemon) -> None:
    small = ("--set", "store.max_bytes=10000", "--set", "store.max_value_bytes=8000")
    node = make_daemon("a", *small).start()
    assert node.ctl("put", "first", "1" * 8000).returncode == 0
    refused = node.ctl("put", "second", "x" * 8000)
    assert refused.returncode in {1, 5}
    assert "store.max_bytes" in refused.stderr
    assert node.ctl("get", "first").stdout == "1" * 8000


def test_a_directory_of_a_control_socket_that_is_gone_does_not_stop_the_leaving(
    make_daemon: MakeDaemon,
) -> None:
    node = make_daemon("a").start()
    node.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(node.socket))
        assert node.stop() == 0
    # Not ours any more: left alone.
    assert node.socket.is_socket()
