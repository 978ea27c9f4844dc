"""Scenarios: how large a world, what befalls it, what is measured; by name or from TOML.

::

    nodes = 100
    join_per_second = 20
    settle = 30                # seconds after the last node's start
    keys = 50
    [[step]]
    kind = "kill"              # see `plan.KINDS`
    share = 0.3
    [[step]]
    kind = "measure"
"""

import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError

from p2pd.errors import ConfigError
from p2pd.net.faults import Latency, constant_latency, lan_latency, regional_latency
from p2pd.simulation.checks import Unsound, check_always, check_quiet
from p2pd.simulation.plan import Outcome, Run, Scenario, Step, mebibytes
from p2pd.simulation.steps import STEPS
from p2pd.simulation.world import World, open_world

# One-way seconds between Europe, America and Asia, as between large clouds.
WAN = ((0.01, 0.045, 0.09), (0.045, 0.01, 0.08), (0.09, 0.08, 0.01))

Progress = Callable[[str], None]
_TELL_EVERY = 10.0
_QUIET_TRIES = 4


async def run_scenario(
    scenario: Scenario,
    seed: int,
    progress: Progress,
    on_world: Callable[[World], None] = lambda _: None,
) -> Outcome:
    """Run a scenario through and return what was measured.

    `progress` is told of each step as it begins, `on_world` gets the world before the
    first node starts. Raises `checks.Unsound` if an invariant breaks.
    """
    async with open_world(seed, tick=scenario.tick) as world:
        on_world(world)
        world.conditions.latency = _latency(scenario, world)
        run = Run(world, scenario)
        progress(f"{scenario.nodes} nodes join")
        world.meanwhile(_tell_time, run, progress)
        first = await world.start("n0", **scenario.settings)
        await world.start_many(
            scenario.nodes - 1,
            per_second=scenario.join_per_second,
            bootstrap=[first],
            **scenario.settings,
        )
        await trio.sleep(scenario.settle)
        for step in scenario.step:
            progress(step.kind)
            check_always(world)
            await STEPS[step.kind](run, step)
            if step.quiet:
                await _check_quiet(world)
        check_always(world)
        return Outcome(seed, scenario.nodes, world.trace.digest(), world.trace.count, run.rows)


async def _check_quiet(world: World) -> None:
    """Check a quiet world, at a moment when nobody happens to be dialling for a question."""
    for _ in range(_QUIET_TRIES - 1):
        with suppress(Unsound):
            return check_quiet(world)
        await trio.sleep(1)
    check_quiet(world)
    return None


async def _tell_time(run: Run, progress: Progress) -> None:
    while True:
        await trio.sleep(_TELL_EVERY)
        progress(
            f"virtual {trio.current_time():.0f} s, real {time.monotonic() - run.started:.0f} s, "
            f"{len(run.world.living())} nodes, {mebibytes()} MiB"
        )


def _latency(scenario: Scenario, world: World) -> Latency:
    rng = world.conditions.rng
    if scenario.latency == "lan":
        return lan_latency(rng)
    if scenario.latency == "50ms":
        return constant_latency(0.05)
    return regional_latency(rng, _Regions(), WAN)


class _Regions(dict[str, int]):
    """Hosts spread evenly over the regions, by their number."""

    def __missing__(self, host: str) -> int:
        region = self[host] = int(host.rpartition(".")[2]) % len(WAN)
        return region


def _steps(*kinds: Mapping[str, Any]) -> tuple[Step, ...]:
    return tuple(Step(**each) for each in kinds)


def _killed(share: float) -> Scenario:
    """Kill a share of a thousand nodes; measure before, at once, and five minutes later."""
    wait = {"kind": "wait", "seconds": 300}
    return Scenario(
        nodes=1000,
        join_per_second=50,
        keys=50,
        latency="wan",
        tick=0.01,
        step=_steps(_MEASURE, {"kind": "kill", "share": share}, _MEASURE, wait, _MEASURE),
    )


_MEASURE = {"kind": "measure"}
_QUIET = {"kind": "wait", "seconds": 30, "quiet": True}

NAMED: dict[str, Scenario] = {
    "small": Scenario(step=_steps(_MEASURE, _QUIET)),
    "faulty": Scenario(
        multicast=True,
        step=_steps(
            {"kind": "weather", "share": 0.1},
            {"kind": "breaks", "per_second": 2, "seconds": 30},
            {"kind": "stalls", "per_second": 1, "each": 5, "seconds": 30},
            {"kind": "partition", "share": 0.4, "seconds": 60},
            {"kind": "churn", "session": 60, "absence": 10, "seconds": 60},
            {"kind": "skew", "most": 600},
            {"kind": "wait", "seconds": 120, "quiet": True},
            _MEASURE,
        ),
    ),
    "thousand": Scenario(
        nodes=1000,
        join_per_second=50,
        keys=100,
        latency="wan",
        tick=0.01,
        step=_steps({"kind": "wait", "seconds": 535}, _MEASURE),
    ),
    "ten-thousand": Scenario(
        nodes=10_000,
        join_per_second=100,
        keys=1000,
        latency="wan",
        tick=0.01,
        step=_steps(_MEASURE),
    ),
    **{f"kill-{percent}": _killed(percent / 100) for percent in (10, 30, 50, 70)},
    "gossip": Scenario(
        nodes=100,
        join_per_second=50,
        keys=0,
        latency="50ms",
        tick=0.01,
        step=_steps(
            {"kind": "wait", "seconds": 90},
            {"kind": "publish"},
            {"kind": "kill", "share": 0.5},
            {"kind": "publish"},
        ),
    ),
    "store-halves": Scenario(
        nodes=100,
        join_per_second=50,
        settle=60,
        keys=1000,
        latency="50ms",
        tick=0.01,
        step=_steps({"kind": "halves"}),
    ),
    "store-churn": Scenario(
        nodes=200,
        join_per_second=50,
        settle=60,
        keys=1000,
        latency="50ms",
        tick=0.01,
        step=_steps(
            {"kind": "store", "at_least": 1},
            {
                "kind": "turnover", "seconds": 6 * 3600, "session": 600, "absence": 10,
                "per_second": 5, "at_least": 0.999,
            },
            {"kind": "store"},
        ),
    ),
    "histories": Scenario(
        nodes=7,
        replication=5,
        repair_interval=20,
        settle=10,
        step=_steps({"kind": "history", "seconds": 40}),
    ),
    "histories-calm": Scenario(
        nodes=7,
        replication=5,
        repair_interval=20,
        settle=10,
        step=_steps({"kind": "history", "seconds": 40, "calm": True}),
    ),
    "third-away": Scenario(
        nodes=100,
        step=_steps(
            _MEASURE, {"kind": "kill", "share": 1 / 3}, _MEASURE, {"kind": "wait", "seconds": 300},
            _MEASURE,
        ),
    ),
}  # fmt: skip


def load_scenario(name_or_file: str) -> Scenario:
    """Return a named scenario or read one from a TOML file; raises `ConfigError`."""
    if name_or_file in NAMED:
        return NAMED[name_or_file]
    if not name_or_file.endswith(".toml"):
        raise ConfigError(f"no scenario {name_or_file!r}; there are: {', '.join(NAMED)}")
    try:
        table = tomllib.loads(Path(name_or_file).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read the scenario {name_or_file}: {error}") from None
    try:
        return Converter(forbid_extra_keys=True).structure(table, Scenario)
    except BaseValidationError as error:
        raise ConfigError(*transform_error(error, path=name_or_file)) from None
