"""What discovery on a LAN is measured against: agents of serf, that find each other by mDNS.

Serf is a native program, from Debian's package `serf`; where it is absent, nothing is compared.
"""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import attrs

NAME = "serf's mDNS"
SKIPPED = "skipped: serf is not installed (apt install serf)"
_DEADLINE = 30.0


def is_installed() -> bool:
    """Whether there is a `serf` to run."""
    return shutil.which("serf") is not None


@attrs.frozen
class Agent:
    """A running agent; `spawned_at` is of `time.perf_counter`."""

    spawned_at: float
    output: IO[bytes]

    def wait_for(self, other: str) -> None:
        """Return once it says that another one joined; raises `TimeoutError`."""
        joined = f"EventMemberJoin: {other} ".encode()
        while joined not in self.output.readline():
            pass


@contextmanager
def agent(name: str, address: str, interface: str) -> Iterator[Agent]:
    """Run an agent within the `with`, at an address of an interface; it leaves at the end."""
    command = ["serf", "agent", "-node", name, "-bind", address, "-iface", interface]
    ours, theirs = socket.socketpair()
    ours.settimeout(_DEADLINE)
    with ours, ours.makefile("rb") as output:
        with theirs:
            spawned_at = time.perf_counter()
            process = subprocess.Popen([*command, "-discover", "bench"], stdout=theirs.fileno())
        try:
            yield Agent(spawned_at, output)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_DEADLINE)
            finally:
                process.kill()
