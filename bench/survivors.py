"""Reads right after half of twenty nodes were killed, beside OpenDHT with as many."""

import math
import os
import signal
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.daemons import call_all, daemons
from bench.figures import Effort, Figure, Promise, Spread
from bench.tables import OPENDHT

SIZE = 20
KEYS = 50
CONNECTIONS = 6
_VALUE = "x" * 100

# Puts or gets one key at a node, of which 0 is the first; returns the seconds spent.
Call = Callable[[str, str, int], float]


async def survivors(effort: Effort) -> list[Figure]:
    """Kill half of a fresh network at one moment, and read all keys at those that are left.

    Each key is asked for once, one after another: nothing is tried again.
    """
    rounds = max(effort.rounds * 2 // 3, 1)
    ours: list[float] = []
    theirs: list[float] = []
    with_reference = OPENDHT.is_installed
    for _ in range(rounds):
        ours += _our_reads()
        if with_reference:
            theirs += _their_reads()
    lost = rounds * KEYS - len(theirs)
    against = f"{OPENDHT.name}, which lost {lost} keys" if with_reference else OPENDHT.skipped
    return [
        Figure(
            f"a read after half of {SIZE} were killed, {rounds} times {KEYS} keys",
            "ms",
            Spread.of(ours),
            against,
            Spread.of(theirs) if theirs else None,
            promise=Promise(500),
        )
    ]


def _our_reads() -> list[float]:
    settings = {"connections.target": CONNECTIONS}
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(Path(parent), SIZE, CONNECTIONS, settings=settings) as running,
    ):

        def call(method: str, key: str, at: int) -> float:
            value = {"value": _VALUE} if method == "put" else {}
            return call_all(running[at].socket, method, [{"key": key, **value}], 1)

        def kill(at: int) -> None:
            os.kill(running[at].pid, signal.SIGKILL)

        return reads(call, kill)


def _their_reads() -> list[float]:
    with tempfile.TemporaryDirectory() as parent, OPENDHT.nodes(Path(parent), SIZE) as table:

        def call(method: str, key: str, at: int) -> float:
            failed = table.failed
            took = table.call(method, [key], _VALUE, 1, at=at)
            if table.failed == failed:
                return took
            if method == "put":
                raise RuntimeError(f"{OPENDHT.name} did not put {key}")
            return math.inf

        found = reads(call, lambda at: table.hosts[at].kill())
        return [each for each in found if each < math.inf]


def reads(call: Call, kill: Callable[[int], None]) -> list[float]:
    """Put keys at all nodes in turn, kill half of these, and get the keys at the others.

    Returns the milliseconds of each get; raises `RuntimeError` where one finds nothing.
    """
    keys = [uuid.uuid4().hex for _ in range(KEYS)]
    for number, key in enumerate(keys):
        call("put", key, number % SIZE)
    half = SIZE // 2
    for at in range(half):
        kill(at)
    return [call("get", key, half + number % half) * 1000 for number, key in enumerate(keys)]
