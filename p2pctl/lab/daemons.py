"""The lab's daemons: processes of their own, watched through their logs, undisturbed."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs

from p2pctl.lab.networks import Network
from p2pd.control.client import Client
from p2pd.errors import P2PError

_ANSWER_SECONDS: Final = 10.0
_END_SECONDS: Final = 15.0
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_libc: Final = ctypes.CDLL(None)


@attrs.define
class Link:
    """A connection as one side logged it; `dialled`: by this side."""

    since: float
    dialled: bool


class Daemon:
    """A `p2pd`. What it logged since `launch` is in its attributes, as of the last `look`.

    All times are of this machine's wall clock, like those of the log.
    """

    def __init__(self, network: Network, directory: Path, name: str, *flags: str) -> None:
        self.name = name
        self.address, placed = network.place()
        self._network = network
        self._flags = [*placed, *flags]
        self._directory = directory / name
        # A socket's path has at most 107 bytes, and the directory for temporary files may be deep.
        self._socket = str(self._directory / "s")
        self._directory.mkdir()
        self._log = self._directory / "log"
        self._log.touch()
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()

    def _forget(self) -> None:
        self.launched = 0.0
        self.ready: float | None = None
        self.node_id: str | None = None
        self.links: dict[str, Link] = {}
        self.lost: dict[str, float] = {}
        self.dead: dict[str, float] = {}

    def launch(self) -> None:
        """Start the process, and do not wait."""
        self.look()
        self._forget()
        self.launched = time.time()
        with self._log.open("ab") as log, self._network.inside():
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and no words from outside
                [
                    *(sys.executable, "-P", "-m", "p2pd", "--name", self.name),
                    *("--state-dir", str(self._directory / "state")),
                    *("--control", self._socket),
                    *("--log-format", "json", *self._flags),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                # Ctrl-C is for the lab alone; it ends its daemons itself,
                process_group=0,
                # and if the lab is killed, the kernel does.
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - the lab has one thread
            )

    def look(self) -> None:
        """Take in what is new in the log; raises `P2PError` if the process ended with an error."""
        ended = None if self._process is None else self._process.poll()
        with self._log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._note(line)
        if ended is not None and ended != 0:
            raise P2PError(f"p2pd {self.name} ended with {ended}: {self._last_words()}")

    def _note(self, line: bytes) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
            at = datetime.fromisoformat(entry["time"]).timestamp()
        except (ValueError, KeyError):
            # What the interpreter or a library wrote.
            return
        peer = str(entry.get("peer"))
        match entry["event"]:
            case "node.started":
                self.ready, self.node_id = at, entry["node_id"]
            case "peer.connected":
                self.links[peer] = Link(at, dialled=entry["direction"] == "outbound")
                self.lost.pop(peer, None)
                self.dead.pop(peer, None)
            case "peer.disconnected":
                self.links.pop(peer, None)
                self.lost[peer] = at
            case "peer.dead":
                self.dead[peer] = at

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs, and do not wait."""
        if self._process is not None:
            self._process.send_signal(number)

    def reap(self) -> None:
        """Wait for the end of the process; raises `P2PError` if it does not end."""
        if self._process is not None:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                raise P2PError(
                    f"p2pd {self.name} did not end within {_END_SECONDS:g} s of its signal"
                ) from None
            self._process = None

    def call(self, method: str, **params: Any) -> Any:
        """Ask it over its control socket."""
        with Client([self._socket], _ANSWER_SECONDS) as client:
            return client.call(method, params, _ANSWER_SECONDS)

    def entry_of(self, other: "Daemon") -> dict[str, Any]:
        """Return its registry entry of another; empty if there is none."""
        found = [each for each in self.call("peers") if each["node_id"] == other.node_id]
        return found[0] if found else {}

    def linked(self, others: "list[Daemon]") -> bool:
        """Whether it is ready and connected to all of these."""
        return self.ready is not None and all(each.node_id in self.links for each in others)


def _environment() -> dict[str, str]:
    """Let the daemon run the lab's own code, and not as a service, even if the lab does."""
    kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
