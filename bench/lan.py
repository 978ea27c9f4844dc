"""A second host on a LAN, from its start until both are connected, beside serf."""

import itertools
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import serf
from bench.daemons import daemon
from bench.figures import Effort, Figure, Spread, compare
from bench.processes import PASS, Starts, median_run
from tests.e2e.hosts import Ground

# As many starts as a promise of a median needs, from the rounds that suit all others.
_STARTS_PER_ROUND = 2
_NAME = "start of a second host on a LAN to connected on both sides"


async def lan(effort: Effort) -> list[Figure]:
    """Start a second host again and again, one of p2pd and one of serf in turn."""
    rounds = _STARTS_PER_ROUND * effort.rounds
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as parent, ExitStack() as stack:
        ground = Ground(Path(parent))
        stack.callback(ground.close)
        switch = ground.lan()
        here, there = ground.host(switch), ground.host(switch)
        with here.inside():
            first = stack.enter_context(daemon(Path(parent), "first"))
        starts = Starts(Path(parent), first, runs=1)

        async def ours() -> float:
            bare.append(median_run(PASS, 1))
            with there.inside():
                return starts.again()

        if serf.is_installed():
            with here.inside():
                agent = stack.enter_context(serf.agent("first", here.address, "lan0"))

            numbers = itertools.count()

            async def reference() -> float:
                # Under a name that left, it would first have to be told so, and to deny it.
                name = f"second{next(numbers)}"
                with there.inside(), serf.agent(name, there.address, "lan0") as second:
                    second.wait_for("first")
                    agent.wait_for(name)
                    return (time.perf_counter() - second.spawned_at) * 1000

            mine, theirs, ratio = await compare(rounds, ours, reference)
            whole = Figure(_NAME, "ms", mine, serf.NAME, theirs, ratio)
        else:
            mine = Spread.of([await ours() for _ in range(rounds + 1)][1:])
            whole = Figure(_NAME, "ms", mine, serf.SKIPPED)
    times = {
        "python -c pass": bare,
        "the interpreter and p2pd's imports": starts.imported,
        "to listening": starts.listening,
        "from listening to connected on both sides": [
            connected - listening
            for connected, listening in zip(starts.connected, starts.listening, strict=True)
        ],
    }
    parts = [Figure(f"of that, {name}", "ms", Spread.of(each[1:])) for name, each in times.items()]
    return [whole, *parts]
