"""Real daemons in network namespaces: the driver of these tests.

A `Namespace` is a network of its own that lives as long as its object; nothing that happens in
it leaves this machine. A `Daemon` is a `p2pd` process in one, with its own state directory,
control socket and log file.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from p2pctl.lab.namespace import Namespace as LabNamespace
from p2pd.address import Address
from p2pd.control.client import Client
from p2pd.errors import DaemonUnreachable

BIN = Path(sys.executable).parent
P2PD, P2PCTL = str(BIN / "p2pd"), str(BIN / "p2pctl")
DEADLINE = 15.0
# Below the range of ports that the kernel gives to outgoing connections: those may hold any of it.
FIRST_PORT = 21001
_POLL = 0.01

T = TypeVar("T")


def instrumented_path() -> str:
    """The `PYTHONPATH` of daemons that tests reach into: see `instruments/sitecustomize.py`."""
    own = str(Path(__file__).parent / "instruments")
    return os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))


def reason_to_skip() -> str | None:
    """Why these tests can't run here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    return None


def until(what: str, probe: Callable[[], T], within: float = DEADLINE) -> T:
    """Return the first value of `probe` that is true; fail after `within` seconds."""
    give_up = time.monotonic() + within
    while not (value := probe()):
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {within:g} s: {what}; last seen: {value!r}")
        time.sleep(_POLL)
    return value


class Namespace(LabNamespace):
    """A network namespace in which only the loopback is up."""

    @property
    def address(self) -> str:
        """Where its daemons are reached."""
        return "127.0.0.1"

    def sysctl(self, name: str, value: int) -> None:
        """Set a parameter of the kernel's network, in the namespace."""
        with self.inside():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    def dial(self, port: int) -> socket.socket:
        """Open a TCP connection to a port of the loopback."""
        with self.inside():
            sock = socket.socket()
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", port))
        return sock


class Daemon:
    """A `p2pd`; `start` it, `stop` it, ask it.

    Its proof of work is made cheap; `flags` may say otherwise.
    """

    def __init__(
        self,
        namespace: Namespace,
        place: Path,
        name: str,
        port: int,
        *flags: str,
        state_dir: Path | None = None,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.port = port
        self.state_dir = place / name if state_dir is None else state_dir
        self.socket = place / f"{name}.sock"
        self.log_file = place / f"{name}.log"
        self.flags = flags
        self.environment: Mapping[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where others reach it."""
        return str(Address(self.namespace.address, self.port))

    @property
    def command(self) -> list[str]:
        """The whole command line."""
        return [
            *(P2PD, "--instance", self.name, "--name", self.name, "--port", str(self.port)),
            *("--state-dir", str(self.state_dir), "--control", str(self.socket)),
            *("--log-format", "json", "--set", "identity.difficulty=8", *self.flags),
        ]

    @property
    def pid(self) -> int:
        """The process ID."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start the process, and do not wait."""
        with self.log_file.open("ab") as log, self.namespace.inside():
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)

    def start(self) -> "Daemon":
        """Start the process, and wait until it answers on its control socket."""
        self.launch()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until it answers on its control socket."""
        until(f"{self.name} answers", self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.log_file.read_text()}"
        try:
            return bool(self.call("status")["pid"] == self.pid)
        except DaemonUnreachable:
            return False

    def wait(self, within: float = DEADLINE) -> int:
        """Wait for the process to end; gives its exit code."""
        assert self.process is not None
        return self.process.wait(within)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Ask it to leave, and wait; gives its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """`kill -9` it, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)

    def end(self) -> None:
        """Kill it, and show its log where the test fails."""
        self.kill()
        if self.log_file.exists():
            print(f"--- {self.name}\n{self.log_file.read_text()}")

    def run_to_end(self) -> tuple[int, list[str]]:
        """Run it until it ends by itself; gives the exit code and what it wrote."""
        self.launch()
        try:
            code = self.wait()
        finally:
            self.kill()
        return code, self.log_file.read_text().splitlines()

    def call(self, method: str, **params: Any) -> Any:
        """Ask it over its control socket."""
        with Client([str(self.socket)], DEADLINE) as client:
            return client.call(method, params, DEADLINE)

    def socket_client(self) -> socket.socket:
        """Open a connection to its control socket, to write what no client would."""
        client = socket.socket(socket.AF_UNIX)
        # With a timeout, a full backlog would be an error instead of a wait.
        client.connect(str(self.socket))
        client.settimeout(DEADLINE)
        return client

    def peer(self, other: str) -> dict[str, Any]:
        """What it knows of the peer with this name; empty if nothing."""
        found = [each for each in self.call("peers") if each["name"] == other]
        return found[0] if found else {}

    def connected(self) -> set[str]:
        """The names of the peers that it is connected to."""
        return {each["name"] for each in self.call("peers", status="connected")}

    def events(self, code: str) -> list[dict[str, Any]]:
        """Its log's entries of one event."""
        lines = self.log_file.read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == code]

    def ctl(self, *argv: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run `p2pctl` against it."""
        return p2pctl("--socket", str(self.socket), *argv, **options)

    def resident_mib(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def p2pctl(
    *argv: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `p2pctl` to its end."""
    return subprocess.run(
        [P2PCTL, *argv],
        input=stdin,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def following(daemon: Daemon, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a `p2pctl` that goes on by itself; killed at the end, or where it hangs."""
    with subprocess.Popen(
        [P2PCTL, "--socket", str(daemon.socket), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = threading.Timer(4 * DEADLINE, process.kill)
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()
