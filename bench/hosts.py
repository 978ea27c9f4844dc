"""References that run as processes of their own: lines of JSON go to them, and come back."""

import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs

DEADLINE = 60.0


@attrs.frozen
class Host:
    """A running host: what goes to its socket, and the lines that come from it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    lines: IO[bytes]

    def tell(self, command: dict[str, Any]) -> None:
        """Send a command."""
        self.sock.sendall(json.dumps(command).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Wait for a line; raises `RuntimeError` where the host has ended."""
        line = self.lines.readline()
        if not line:
            raise RuntimeError("a host of the reference ended")
        told: dict[str, Any] = json.loads(line)
        return told

    def kill(self) -> None:
        """Kill its process, which says goodbye to nobody."""
        self.process.kill()

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a command and wait for a line."""
        self.tell(command)
        return self.hear()


@contextmanager
def host(command: Sequence[str], log: Path) -> Iterator[Host]:
    """Run a host within the `with`: the command, with the number of its socket at its end.

    What it writes goes to `log`.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    with ours, ours.makefile("rb") as lines, log.open("w") as written:
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdout=written,
                stderr=written,
                pass_fds=[theirs.fileno()],
            )
        try:
            yield Host(process, ours, lines)
        finally:
            process.kill()
            process.wait()
