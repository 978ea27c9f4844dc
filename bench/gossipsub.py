"""What the spreading of messages is measured against: gossipsub, as py-libp2p has it.

As many hosts as there are daemons, each a process of its own, over TCP on the same loopback.
py-libp2p comes with p2pd's extra `bench`; where it is absent, nothing is compared.
"""

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from bench.hosts import DEADLINE, Host, host

NAME = "gossipsub of py-libp2p"
SKIPPED = "skipped: py-libp2p is not installed (docs/performance.md says how)"

# Each host dials those that are so far ahead of it in a ring, and so has twice as many
# connections: six, at most three links from anybody in a ring of 20.
_STRIDES = (1, 3, 8)
_LEAST_MESH = 4
_POLL = 0.1


def is_installed() -> bool:
    """Whether py-libp2p can be imported."""
    return importlib.util.find_spec("libp2p") is not None


@attrs.frozen
class Hosts:
    """Connected hosts that all subscribe to one topic."""

    hosts: list[Host]

    def publish(self, number: int) -> float:
        """Publish from one of them; returns the milliseconds until the last one had it.

        They begin within the publishing process, just before the call, and end where the last
        subscription gave the message out: no way from or to this process is in it. Raises
        `RuntimeError` or `TimeoutError` where a message is missing.
        """
        self.hosts[number % len(self.hosts)].tell({"publish": number})
        told = [each.hear() for each in self.hosts]
        if any(each["number"] != number for each in told):
            raise RuntimeError(f"not message {number}: {told}")
        return max(float(each["took"]) for each in told) * 1000


@contextmanager
def hosts(parent: Path, count: int) -> Iterator[Hosts]:
    """Run so many hosts within the `with`, which begins once each has its part in the mesh.

    What they log stays in `parent`.
    """
    with ExitStack() as stack:
        command = [sys.executable, "-m", "bench.gossipsub_host"]
        logs = [parent / f"host{i}.log" for i in range(count)]
        running = [stack.enter_context(host(command, log)) for log in logs]
        addresses = [each.hear()["address"] for each in running]
        for i, each in enumerate(running):
            each.ask({"dial": [addresses[(i + stride) % count] for stride in _STRIDES]})
        deadline = time.monotonic() + DEADLINE
        for each in running:
            while not _is_meshed(each.ask({})):
                if time.monotonic() > deadline:
                    raise TimeoutError("the gossipsub hosts did not form a mesh")
                time.sleep(_POLL)
        yield Hosts(running)


def _is_meshed(told: dict[str, Any]) -> bool:
    return bool(told["subscribers"] >= 2 * len(_STRIDES) and told["mesh"] >= _LEAST_MESH)
