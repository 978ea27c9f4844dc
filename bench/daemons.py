"""Real daemons, as a user starts them, and how to talk to them."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from p2pd.control.client import Client
from p2pd.errors import DaemonUnreachable

# How many peers each daemon keeps up connections to, where there are so many.
CONNECTIONS = 10

_SCRIPTS = Path(sys.executable).parent
_DEADLINE = 60.0
_POLL = 0.05


def script(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(_SCRIPTS / name)


@attrs.frozen
class Daemon:
    """A running p2pd; its files lie in `directory`."""

    name: str
    directory: Path
    pid: int
    spawned_at: float

    @property
    def socket(self) -> str:
        """The path of its control socket."""
        return str(self.directory / "control.sock")

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.directory / "state"

    def call(self, method: str) -> Any:
        """Call a method of its control socket."""
        with Client([self.socket]) as client:
            return client.call(method)

    def status(self) -> dict[str, Any]:
        """Ask for its status."""
        status: dict[str, Any] = self.call("status")
        return status

    def wait_for_peers(self, count: int) -> None:
        """Return once at least so many peers are connected."""
        _wait_until(
            lambda: self.status()["peers"]["connected"] >= count,
            f"{self.name} did not get {count} peers",
        )

    def log(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in (self.directory / "log").read_text().splitlines()]


@contextmanager
def daemon(
    parent: Path, name: str, *, settings: Mapping[str, object] = MappingProxyType({})
) -> Iterator[Daemon]:
    """Run a daemon within the `with`, which begins once it answers on its control socket.

    It finds others by multicast, and keeps what is in its state directory from before.
    `settings` are more of its configuration.
    """
    settings = {"identity.difficulty": 8, "connections.target": CONNECTIONS, **settings}
    directory = parent / name
    directory.mkdir(exist_ok=True)
    arguments = [
        *("--instance", name, "--port", "0"),
        *("--state-dir", str(directory / "state"), "--control", str(directory / "control.sock")),
        *("--log-format", "json"),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    ]
    with (directory / "log").open("w") as log:
        spawned_at = time.time()
        process = subprocess.Popen([script("p2pd"), *arguments], stderr=log, cwd=directory)
    try:
        found = Daemon(name, directory, process.pid, spawned_at)
        _wait_until(lambda: _answers(found), f"{name} did not start; see {log.name}")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_DEADLINE)
        finally:
            process.kill()


@contextmanager
def daemons(
    parent: Path,
    count: int,
    peers: int,
    *,
    settings: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[list[Daemon]]:
    """Run several daemons within the `with`, which begins once each has so many peers."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(daemon(parent, f"n{i}", settings=settings)) for i in range(count)
        ]
        for each in running:
            each.wait_for_peers(peers)
        yield running


def call_all(path: str, method: str, params: Sequence[Mapping[str, Any]], under_way: int) -> float:
    """Make calls over one control connection, so many at a time; returns the seconds spent.

    Raises `RuntimeError` where one of them fails.
    """
    lines = (
        json.dumps({"jsonrpc": "2.0", "id": i, "method": method, "params": each}).encode() + b"\n"
        for i, each in enumerate(params)
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        answers = sock.makefile("rb")
        started = time.perf_counter()
        sock.sendall(b"".join(itertools.islice(lines, under_way)))
        for _ in params:
            answer = json.loads(answers.readline())
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            sock.sendall(next(lines, b""))
        return time.perf_counter() - started


def _answers(daemon: Daemon) -> bool:
    try:
        daemon.status()
    except DaemonUnreachable:
        return False
    return True


def _wait_until(holds: Any, otherwise: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(_POLL)
