"""What all must know, with twenty daemons: a message to everybody, and half of them killed."""

import json
import os
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import attrs
import trio

from bench import gossipsub
from bench.daemons import Daemon, daemons
from bench.figures import Effort, Figure, Promise, Spread, compare

SIZE = 20
# So many connections each, as `connections.target` says by default.
CONNECTIONS = 6
MESSAGES_PER_ROUND = 10
_TOPIC = "bench"
# In these, each node publishes once, and finds its way to all others.
_WARM_UP_ROUNDS = SIZE // MESSAGES_PER_ROUND
# Before each message, so that it does not compete with the copies of the one before.
_PAUSE = 0.05
_DEADLINE = 60.0


# Publishes a message with a number that is new each time; returns milliseconds.
Publish = Callable[[int], float]


async def everybody(effort: Effort) -> list[Figure]:
    """Measure from publishing to the last of twenty, and from a kill to the last who knows."""
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(
            Path(parent), SIZE, CONNECTIONS, settings={"connections.target": CONNECTIONS}
        ) as running,
        _subscribed_to_all(running) as network,
        ExitStack() as stack,
    ):
        reference = None
        if gossipsub.is_installed():
            reference = stack.enter_context(gossipsub.hosts(Path(parent), SIZE)).publish
        figures = await message_to_all(network.publish, reference, effort.rounds)
    rounds = max(effort.rounds * 2 // 3, 1)
    for name, count in (("one", 1), ("half", SIZE // 2)):
        found = [_kill(count) for _ in range(rounds)]
        title = f"{name} of {SIZE} killed: all survivors list all dead"
        figures.append(Figure(title, "s", Spread.of(found), promise=Promise(3)))
    return figures


async def message_to_all(ours: Publish, reference: Publish | None, rounds: int) -> list[Figure]:
    """Publish by both in turn, rounds of ten messages; by ours alone where there is no reference.

    The first figure is about each message, the second about the medians of the rounds.
    """
    mine = _Rounds(ours)
    name, promise = f"message to all of {SIZE}", Promise(20, of_median=True)
    for _ in range(_WARM_UP_ROUNDS):
        await mine.measure()
    if reference is None:
        for _ in range(rounds):
            await mine.measure()
        each = Spread.of(mine.last(rounds))
        return [Figure(name, "ms", each, gossipsub.SKIPPED, promise=promise)]
    others = _Rounds(reference)
    for _ in range(_WARM_UP_ROUNDS):
        await others.measure()
    spent, theirs, ratio = await compare(rounds, mine.measure, others.measure)
    return [
        Figure(name, "ms", Spread.of(mine.last(rounds)), promise=promise),
        Figure(
            f"{name}, {MESSAGES_PER_ROUND} at a time",
            "ms",
            spent,
            gossipsub.NAME,
            theirs,
            ratio,
            Promise(1),
        ),
    ]


@attrs.define
class _Rounds:
    """Messages one after another, of which each node publishes one in its turn."""

    publish: Publish
    _spent: list[float] = attrs.field(factory=list)

    async def measure(self) -> float:
        """Publish one round; returns the median of its milliseconds."""
        for _ in range(MESSAGES_PER_ROUND):
            await trio.sleep(_PAUSE)
            self._spent.append(self.publish(len(self._spent)))
        return statistics.median(self._spent[-MESSAGES_PER_ROUND:])

    def last(self, rounds: int) -> list[float]:
        """Return the milliseconds of all messages of the last rounds."""
        return self._spent[-rounds * MESSAGES_PER_ROUND :]


@attrs.frozen
class _Network:
    """Daemons with a subscriber to each."""

    daemons: list[Daemon]
    streams: list[IO[bytes]]

    def publish(self, number: int) -> float:
        """Publish from one of them; returns the milliseconds until the last subscriber had it.

        They include the way from this process to the control socket, and back from all of them.
        """
        origin = self.daemons[number % len(self.daemons)]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(origin.socket)
            params = {"topic": _TOPIC, "data": str(number)}
            call = {"jsonrpc": "2.0", "id": 1, "method": "publish", "params": params}
            began = time.perf_counter()
            sock.sendall(json.dumps(call).encode() + b"\n")
            for stream in self.streams:
                notice = json.loads(stream.readline())
                if notice["params"].get("message", {}).get("data") != str(number):
                    raise RuntimeError(f"not message {number}: {notice}")
            return (time.perf_counter() - began) * 1000


@contextmanager
def _subscribed_to_all(running: list[Daemon]) -> Iterator[_Network]:
    with ExitStack() as stack:
        yield _Network(running, [stack.enter_context(_subscribed(each)) for each in running])


@contextmanager
def _subscribed(daemon: Daemon) -> Iterator[IO[bytes]]:
    """Within the `with`, read what comes on the topic, line by line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_DEADLINE)
        sock.connect(daemon.socket)
        call = {"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": {"topics": [_TOPIC]}}
        sock.sendall(json.dumps(call).encode() + b"\n")
        stream = sock.makefile("rb")
        answer = json.loads(stream.readline())
        if "result" not in answer:
            raise RuntimeError(f"subscribe: {answer}")
        yield stream


def _kill(count: int) -> float:
    """Kill so many of a fresh network; returns the seconds until all others hold them dead.

    Raises `RuntimeError` where somebody else is held dead, too.
    """
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(
            Path(parent), SIZE, CONNECTIONS, settings={"connections.target": CONNECTIONS}
        ) as running,
    ):
        survivors, victims = running[count:], running[:count]
        dead = {each.status()["node_id"] for each in victims}
        _wait(survivors, dead, "alive", "unknown")
        began = time.perf_counter()
        for each in victims:
            os.kill(each.pid, signal.SIGKILL)
        _wait(survivors, dead, "dead")
        took = time.perf_counter() - began
        for survivor in survivors:
            if set(_seen(survivor, "dead")) - dead:
                raise RuntimeError(f"{survivor.name} holds somebody dead who is not")
    return took


def _wait(survivors: list[Daemon], nodes: set[str], *liveness: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    for survivor in survivors:
        while not nodes <= set(_seen(survivor, *liveness)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{survivor.name} does not hold all of them {liveness[0]}")
            time.sleep(0.02)


def _seen(daemon: Daemon, *liveness: str) -> list[str]:
    peers: list[dict[str, Any]] = daemon.call("peers")
    return [each["node_id"] for each in peers if each["liveness"] in liveness]
