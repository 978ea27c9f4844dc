"""Whole processes: `p2pctl status`, and a second node from its start to its connection."""

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import attrs

from bench.daemons import Daemon, daemon, script
from bench.figures import Effort, Figure, Promise, Spread, compare

_RUNS = 10
PASS = [sys.executable, "-c", "pass"]
_IMPORTS = [sys.executable, "-c", "import os, p2pd.cli, p2pd.daemon; os._exit(0)"]


async def status(effort: Effort) -> list[Figure]:
    """Time `p2pctl status` from its start to its end."""
    with tempfile.TemporaryDirectory() as parent, daemon(Path(parent), "n0") as running:
        command = [script("p2pctl"), "--socket", running.socket, "status"]

        async def ours() -> float:
            return median_run(command)

        async def bare() -> float:
            return median_run(PASS)

        mine, theirs, ratio = await compare(effort.rounds, ours, bare)
    return [Figure("p2pctl status", "ms", mine, "python -c pass", theirs, ratio, Promise(4.0))]


async def start(effort: Effort) -> list[Figure]:
    """Time a second node: to its imports, to listening, to connected on both sides."""
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as parent, daemon(Path(parent), "first") as first:
        starts = Starts(Path(parent), first)
        for _ in range(effort.rounds + 1):
            bare.append(median_run(PASS))
            starts.again()
    return [
        Figure(
            name,
            "ms",
            Spread.of(times[1:]),
            "python -c pass",
            Spread.of(bare[1:]),
            Spread.of(mine / theirs for mine, theirs in zip(times[1:], bare[1:], strict=True)),
        )
        for name, times in starts.parts().items()
    ]


@attrs.define
class Starts:
    """Starts of a second node beside a running one, each in milliseconds from the spawn.

    At the first, the second node has yet to make its identity. `runs`: how often the imports
    are timed each time.
    """

    parent: Path
    first: Daemon
    runs: int = _RUNS
    imported: list[float] = attrs.field(factory=list)
    listening: list[float] = attrs.field(factory=list)
    connected: list[float] = attrs.field(factory=list)

    def again(self) -> float:
        """Start it once more, and stop it; returns the time until both were connected."""
        self.imported.append(median_run(_IMPORTS, self.runs))
        with daemon(self.parent, "second") as second:
            second.wait_for_peers(1)
            self.first.wait_for_peers(1)
        self.listening.append(_since_spawn(second, second, "node.started"))
        self.connected.append(
            max(_since_spawn(second, each, "peer.connected") for each in (self.first, second))
        )
        return self.connected[-1]

    def parts(self) -> dict[str, list[float]]:
        """Return all times, by what they are until."""
        return {
            "the interpreter and p2pd's imports": self.imported,
            "start of a node to listening": self.listening,
            "start of a second node to connected on both sides": self.connected,
        }


def median_run(command: list[str], runs: int = _RUNS) -> float:
    """Return the milliseconds that a run takes, as the median of some."""
    spent: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


def _since_spawn(spawned: Daemon, logged_by: Daemon, event: str) -> float:
    """Return the milliseconds from the spawn of a daemon to the last such event in a log."""
    times = [line["time"] for line in logged_by.log() if line["event"] == event]
    return (datetime.fromisoformat(times[-1]).timestamp() - spawned.spawned_at) * 1000
