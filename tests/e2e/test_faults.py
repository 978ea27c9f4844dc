"""The ground gives way under a running node: it degrades as documented, says so once, recovers."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from p2pd.control.client import Client
from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import DEADLINE, Daemon, Namespace, instrumented_path, until

pytestmark = pytest.mark.e2e

HOUR = 3600
# Each silence is noticed and judged within seconds.
QUICK = (
    *("--set", "liveness.ping_interval=0.5"),
    *("--set", "liveness.ping_timeout=0.3"),
    *("--set", "liveness.evict_after=2"),
)
NEW_INTERFACE = (
    "link add lan0 type veth peer name far0",
    "link set far0 up",
    "link set lan0 up",
    "address add 192.0.2.1/24 dev lan0",
)
STALL, LONG_STALL = 16.0, 60.0


@pytest.fixture
def trio_of_daemons(make_daemon: MakeDaemon) -> list[Daemon]:
    return [make_daemon(name, *QUICK) for name in "abc"]


def all_connected(daemons: list[Daemon]) -> bool:
    names = {each.name for each in daemons}
    return all(each.connected() == names - {each.name} for each in daemons)


def start_all(daemons: list[Daemon]) -> None:
    for each in daemons:
        each.start()
    until("all are connected", lambda: all_connected(daemons))


def says_so(daemon: Daemon, code: str) -> None:
    until(f"{daemon.name} tells {code}", lambda: daemon.events(code))


def held_for(daemon: Daemon, others: list[Daemon]) -> set[str]:
    return {each.peer(daemon.name)["liveness"] for each in others}


def stored(daemon: Daemon, key: str) -> int:
    """On how many replicas a put lands."""
    return int(daemon.call("put", key=key, value="value")["replicas"]["stored"])


def unharmed(*daemons: Daemon) -> None:
    for each in daemons:
        assert each.process is not None
        assert each.process.poll() is None
        assert each.events("bug") == []
        assert "Traceback" not in each.log_file.read_text()
        assert each.stop() == 0


@contextmanager
def failing_disk(image: Path, place: Path) -> Iterator[None]:
    """A file system of its own at `place`, as one that will find an error in itself."""
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("no mkfs.ext4 or no loop device to make a file system with")
    image.touch()
    os.truncate(image, 16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=DEADLINE)
    mount_disk(image, place)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=DEADLINE)


def mount_disk(image: Path, place: Path) -> None:
    place.mkdir(exist_ok=True)
    options = "loop,errors=remount-ro"
    subprocess.run(["mount", "-o", options, image, place], check=True, timeout=DEADLINE)


def test_a_disk_that_becomes_read_only(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    node, other = make_daemon("a"), make_daemon("b")
    with failing_disk(tmp_path / "image", node.state_dir):
        start_all([node, other])
        assert stored(node, "before") == 2
        subprocess.run(["mount", "-o", "remount,abort", node.state_dir], check=True)
        for number in range(3):
            refused = node.ctl("put", f"during {number}", "value")
            assert refused.returncode == 5
            assert "check that its disk is writable" in refused.stderr
        assert node.ctl("get", "before").stdout == "value"
        assert other.ctl("get", "before").stdout == "value"
        assert len(node.events("store.refuses")) == 1
        unharmed(node)
        subprocess.run(["umount", node.state_dir], check=True, timeout=DEADLINE)
        mount_disk(tmp_path / "image", node.state_dir)
        node.start()
        until("they are connected", lambda: node.connected() and other.connected())
        assert node.ctl("get", "before").stdout == "value"
        assert until("both store", lambda: stored(node, "after") == 2)
        unharmed(node, other)


def use_up_descriptors(daemon: Daemon) -> list[socket.socket]:
    """Leave a daemon none; returns connections that took the last ones, or wait for one."""
    highest = max(int(each.name) for each in Path(f"/proc/{daemon.pid}/fd").iterdir())
    limit_descriptors(daemon, highest + 1)
    taken: list[socket.socket] = []
    while not daemon.events("node.exhausted"):
        assert len(taken) < 32
        taken.append(daemon.socket_client())
        time.sleep(0.05)
    return taken


def limit_descriptors(daemon: Daemon, most: int) -> None:
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most, hard))


def test_file_descriptors_are_used_up(trio_of_daemons: list[Daemon], namespace: Namespace) -> None:
    node, other, late = trio_of_daemons
    start_all([node, other])
    with Client([str(node.socket)], DEADLINE) as client, ExitStack() as clients:
        # Connected may mean in the queue.
        client.call("status", {}, DEADLINE)
        for each in use_up_descriptors(node):
            clients.enter_context(each)
        late.start()
        until("the others found each other", lambda: late.connected() >= {"b"})
        # Its interfaces can't be listed now.
        for command in NEW_INTERFACE:
            namespace.ip(*command.split())
        put = client.call("put", {"key": "during", "value": "value"}, DEADLINE)
        assert put["replicas"]["stored"] >= 2
        assert node.ctl("--timeout", "0.5", "status").returncode == 5
        peers = client.call("peers", {"status": "connected"}, DEADLINE)
        assert [each["name"] for each in peers] == ["b"]
        limit_descriptors(node, 1024)
        until("all are connected", lambda: all_connected(trio_of_daemons))
        until(
            "it has the new address",
            lambda: f"192.0.2.1:{node.port}" in node.call("status")["addresses"],
        )
    assert stored(node, "after") == 3
    assert len(node.events("node.exhausted")) == 1
    unharmed(*trio_of_daemons)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_the_clock_jumps(
    trio_of_daemons: list[Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    node, other, _ = trio_of_daemons
    shift = tmp_path / "shift"
    shift.write_text("0")
    other.start()
    trio_of_daemons[2].start()
    monkeypatch.setenv("PYTHONPATH", instrumented_path())
    monkeypatch.setenv("CLOCK_SHIFT_FILE", str(shift))
    node.start()
    until("all are connected", lambda: all_connected(trio_of_daemons))
    there, back = ("node.woke", "node.clock_back")[:: 1 if jump > 0 else -1]
    for seconds, code in ((jump, there), (0, back)):
        replaced = shift.with_suffix(".new")
        replaced.write_text(str(seconds))
        replaced.rename(shift)
        says_so(node, code)
        assert stored(node, f"of a, {seconds}") == stored(other, f"of b, {seconds}") == 3
        assert node.ctl("get", f"of b, {seconds}").stdout == "value"
        assert other.ctl("get", f"of a, {seconds}").stdout == "value"
    assert (len(node.events(there)), len(node.events(back))) == (1, 1)
    # Published once the clock is right, messages reach everybody.
    with Client([str(other.socket)], DEADLINE) as client:
        news = client.subscribe("subscribe", {"topics": ["news"]}, DEADLINE)
        node.call("publish", topic="news", data="hello")
        assert next(news)["message"]["data"] == "hello"
    for each in trio_of_daemons:
        assert each.events("peer.dead") == each.events("peer.disconnected") == []
    unharmed(*trio_of_daemons)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [STALL, LONG_STALL])
def test_a_process_is_stopped_for_long(trio_of_daemons: list[Daemon], seconds: float) -> None:
    node, *others = trio_of_daemons
    start_all(trio_of_daemons)
    node.signal(signal.SIGSTOP)
    began = time.monotonic()
    until("it is held dead", lambda: held_for(node, others) == {"dead"}, 30)
    assert stored(others[0], "meanwhile") >= 2
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    node.signal(signal.SIGCONT)
    until("all are connected", lambda: all_connected(trio_of_daemons))
    until("it is alive", lambda: held_for(node, others) == {"alive"})
    assert len(node.events("node.stalled")) == 1
    assert stored(node, "after") == 3
    assert node.ctl("get", "meanwhile").stdout == "value"
    unharmed(*trio_of_daemons)
