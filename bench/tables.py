"""What put and get are measured against: other distributed hash tables.

As many nodes as there are daemons, each a process of its own, over UDP on the same loopback.
Neither of them encrypts, authenticates, or writes to a disk. What is absent is not compared.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from bench.hosts import Host, host

# Of the packages of a system, whose own interpreter is the one that finds them.
_SYSTEM_PYTHON = "/usr/bin/python3"
# The last one has joined by then: lookups work after 0.6 to 0.7 s.
_SETTLING = 5.0


@attrs.define
class Table:
    """A network of another distributed hash table; `failed` counts the calls that did not work."""

    hosts: list[Host]
    failed: int = 0

    def call(
        self, method: str, keys: Sequence[str], value: str, under_way: int, *, at: int = -1
    ) -> float:
        """Put or get keys at one of the nodes, so many at a time; returns the seconds spent.

        They are measured in the process that asks: no way from or to this one is in them. Those
        that fail count, too, with the time that it took to find out.
        """
        command = {"do": method, "keys": list(keys), "value": value, "under_way": under_way}
        told = self.hosts[at].ask(command)
        self.failed += told["failed"]
        return float(told["took"])


@attrs.frozen
class Reference:
    """Another distributed hash table: its name and module, how to get it, how its nodes run."""

    name: str
    module: str
    remedy: str
    command: Sequence[str]

    @property
    def is_installed(self) -> bool:
        """Whether its nodes can run here."""
        interpreter = self.command[0]
        check = [interpreter, "-c", f"import {self.module}"]
        return Path(interpreter).exists() and not subprocess.call(check, stderr=subprocess.DEVNULL)

    @property
    def skipped(self) -> str:
        """What to say where it can't run."""
        return f"skipped: {self.name} is not installed ({self.remedy})"

    @contextmanager
    def nodes(self, parent: Path, count: int) -> Iterator[Table]:
        """Run so many nodes within the `with`; what they log stays in `parent`."""
        with ExitStack() as stack:
            logs = [parent / f"{self.name}{i}.log" for i in range(count)]
            running = [stack.enter_context(host(self.command, log)) for log in logs]
            first, *_ = [each.hear()["port"] for each in running]
            for each in running[1:]:
                each.ask({"do": "join", "port": first})
            time.sleep(_SETTLING)
            yield Table(running)


KADEMLIA = Reference(
    "kademlia",
    "kademlia",
    "docs/performance.md says how",
    [sys.executable, "-m", "bench.kademlia_host"],
)
OPENDHT = Reference(
    "OpenDHT",
    "opendht",
    "the system's package python3-opendht",
    [_SYSTEM_PYTHON, str(Path(__file__).with_name("opendht_host.py"))],
)
REFERENCES = (KADEMLIA, OPENDHT)
