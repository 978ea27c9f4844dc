"""Whole processes: `p2pctl status`, and a second node from its start to its connection."""

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from bench.daemons import Daemon, daemon, script
from bench.figures import Effort, Figure, Promise, Spread, compare

_RUNS = 10
_PASS = [sys.executable, "-c", "pass"]
_IMPORTS = [sys.executable, "-c", "import os, p2pd.cli, p2pd.daemon; os._exit(0)"]


async def status(effort: Effort) -> list[Figure]:
    """Time `p2pctl status` from its start to its end."""
    with tempfile.TemporaryDirectory() as parent, daemon(Path(parent), "n0") as running:
        command = [script("p2pctl"), "--socket", running.socket, "status"]

        async def ours() -> float:
            return _median_run(command)

        async def bare() -> float:
            return _median_run(_PASS)

        mine, theirs, ratio = await compare(effort.rounds, ours, bare)
    return [Figure("p2pctl status", "ms", mine, "python -c pass", theirs, ratio, Promise(4.0))]


async def start(effort: Effort) -> list[Figure]:
    """Time a second node: to its imports, to listening, to connected on both sides."""
    bare, imports, listening, connected = [], [], [], []
    with tempfile.TemporaryDirectory() as parent, daemon(Path(parent), "first") as first:
        for number in range(effort.rounds + 1):
            bare.append(_median_run(_PASS))
            imports.append(_median_run(_IMPORTS))
            with daemon(Path(parent), "second") as second:
                second.wait_for_peers(1)
                first.wait_for_peers(1)
            listening.append(_since_spawn(second, second, "node.started"))
            connected.append(
                max(_since_spawn(second, each, "peer.connected") for each in (first, second))
            )
            if number == 0:
                # The first time, the second node has yet to make its identity.
                for times in (bare, imports, listening, connected):
                    times.clear()
    against = "python -c pass"
    parts = (
        ("the interpreter and p2pd's imports", imports),
        ("start of a node to listening", listening),
        ("start of a second node to connected on both sides", connected),
    )
    return [
        Figure(
            name,
            "ms",
            Spread.of(times),
            against,
            Spread.of(bare),
            Spread.of(mine / theirs for mine, theirs in zip(times, bare, strict=True)),
        )
        for name, times in parts
    ]


def _median_run(command: list[str]) -> float:
    """Return the milliseconds that a run takes, as the median of some."""
    spent: list[float] = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


def _since_spawn(spawned: Daemon, logged_by: Daemon, event: str) -> float:
    """Return the milliseconds from the spawn of a daemon to the last such event in a log."""
    times = [line["time"] for line in logged_by.log() if line["event"] == event]
    return (datetime.fromisoformat(times[-1]).timestamp() - spawned.spawned_at) * 1000
