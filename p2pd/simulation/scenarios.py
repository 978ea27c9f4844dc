"""Scenarios: how large a world, what befalls it, what is measured; by name or from TOML.

::

    nodes = 100
    join_per_second = 20
    settle = 30                # seconds after the last node's start
    keys = 50
    [[step]]
    kind = "kill"              # or partition, breaks, stalls, churn, skew, weather,
    share = 0.3                # firewalls, liars, wait
    [[step]]
    kind = "measure"           # or publish
"""

import resource
import statistics
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio
from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError

from p2pd.errors import ConfigError
from p2pd.net.faults import Latency, constant_latency, lan_latency, regional_latency
from p2pd.net.medium import TICK
from p2pd.simulation import measure
from p2pd.simulation.adversary import make_liar
from p2pd.simulation.checks import check_always, check_quiet
from p2pd.simulation.world import World, open_world

LATENCIES = ("lan", "wan", "50ms")
# One-way seconds between Europe, America and Asia, as between large clouds.
WAN = ((0.01, 0.045, 0.09), (0.045, 0.01, 0.08), (0.09, 0.08, 0.01))

Progress = Callable[[str], None]
_TELL_EVERY = 10.0
# Messages to everybody before the tree is held to have settled, and those measured.
WARM_UP = 20
PUBLISHED = 30


def _one_of(*allowed: str) -> Any:
    return attrs.validators.in_(allowed)


def _known(_: object, __: object, kind: str) -> None:
    known = [*_MEASURES, *_DEEDS]
    if kind not in known:
        raise ValueError(f"no kind of step {kind!r}; there are: {', '.join(known)}")


@attrs.frozen
class Step:
    """One thing that happens; `seconds` is how long it takes, then the next begins.

    `share` is of nodes (kill, partition, firewalls, liars) or datagrams (weather),
    `per_second` a rate (breaks, stalls), `each` the seconds of one stall, `session` and
    `absence` mean seconds (churn), `most` seconds (skew).
    """

    kind: str = attrs.field(validator=_known)
    seconds: float = 0.0
    share: float = 0.0
    per_second: float = 1.0
    each: float = 5.0
    session: float = 60.0
    absence: float = 10.0
    most: float = 300.0
    one_way: bool = False
    quiet: bool = False


@attrs.frozen
class Scenario:
    """A world and what befalls it."""

    nodes: int = 20
    join_per_second: float = 10.0
    settle: float = 30.0
    keys: int = 20
    latency: str = attrs.field(default="lan", validator=_one_of(*LATENCIES))
    tick: float = TICK
    multicast: bool = False
    step: tuple[Step, ...] = ()


@attrs.frozen
class Row:
    """What was measured at one step: virtual and real seconds since the start, MiB in use."""

    step: str
    virtual_seconds: float
    real_seconds: float
    mebibytes: int
    living: int
    connections: float
    put: dict[str, float] = attrs.field(factory=dict)
    get: dict[str, float] = attrs.field(factory=dict)
    lookup: dict[str, float] = attrs.field(factory=dict)
    gossip: dict[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Outcome:
    """One run of a scenario: its seed, the digest of its trace, and its rows."""

    seed: int
    nodes: int
    digest: str
    sendings: int
    rows: list[Row]


async def run_scenario(
    scenario: Scenario,
    seed: int,
    progress: Progress,
    on_world: Callable[[World], None] = lambda _: None,
) -> Outcome:
    """Run a scenario through and return what was measured.

    `progress` is told of each step as it begins, `on_world` gets the world before the
    first node starts. Raises `checks.Unsound` where an invariant breaks.
    """
    started = time.monotonic()
    async with open_world(seed, tick=scenario.tick) as world:
        on_world(world)
        world.conditions.latency = _latency(scenario, world)
        lan = "lan" if scenario.multicast else None
        progress(f"{scenario.nodes} nodes join")
        world.meanwhile(_tell_time, world, progress, started)
        first = await world.start("n0", lan=lan)
        await world.start_many(
            scenario.nodes - 1, per_second=scenario.join_per_second, bootstrap=[first], lan=lan
        )
        await trio.sleep(scenario.settle)
        rows: list[Row] = []
        for step in scenario.step:
            progress(step.kind)
            check_always(world)
            if step.kind in _MEASURES:
                number = sum(row.step.startswith(step.kind) for row in rows)
                rows.append(await _MEASURES[step.kind](world, scenario, number, started))
            else:
                await _DEEDS[step.kind](world, step)
            if step.quiet:
                check_quiet(world)
        check_always(world)
        return Outcome(seed, scenario.nodes, world.trace.digest(), world.trace.count, rows)


async def _tell_time(world: World, progress: Progress, started: float) -> None:
    while True:
        await trio.sleep(_TELL_EVERY)
        progress(
            f"virtual {trio.current_time():.0f} s, real {time.monotonic() - started:.0f} s, "
            f"{len(world.living())} nodes, {_mebibytes()} MiB"
        )


def _mebibytes() -> int:
    """Return the most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def _measure(world: World, scenario: Scenario, number: int, started: float) -> Row:
    names = [f"key {each}" for each in range(scenario.keys)]
    living = world.living()
    connections = [len(each.services.roster.connections) for each in living]
    put = await measure.put_keys(world, names) if number == 0 else measure.Tally()
    get = await measure.get_keys(world, names)
    lookup = await measure.look_up(world, [f"point {number} {each}" for each in names])
    row = _row(world, f"measure {number + 1}", connections, started)
    return attrs.evolve(row, put=put.summary(), get=get.summary(), lookup=lookup.summary())


async def _publish(world: World, _: Scenario, number: int, started: float) -> Row:
    connections = [len(each.services.roster.connections) for each in world.living()]
    spread = await measure.publish(world, PUBLISHED, warm_up=0 if number else WARM_UP)
    row = _row(world, f"publish {number + 1}", connections, started)
    return attrs.evolve(row, gossip=spread.summary())


def _row(world: World, step: str, connections: list[int], started: float) -> Row:
    return Row(
        step=step,
        virtual_seconds=round(trio.current_time(), 1),
        real_seconds=round(time.monotonic() - started, 1),
        mebibytes=_mebibytes(),
        living=len(world.living()),
        connections=round(statistics.fmean(connections), 1),
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


async def _wait(_: World, step: Step) -> None:
    await trio.sleep(step.seconds)


async def _kill(world: World, step: Step) -> None:
    await world.kill(step.share)
    await trio.sleep(step.seconds)


async def _partition(world: World, step: Step) -> None:
    await world.partition(step.share, seconds=step.seconds, one_way=step.one_way)


async def _breaks(world: World, step: Step) -> None:
    await world.break_connections(per_second=step.per_second, seconds=step.seconds)


async def _stalls(world: World, step: Step) -> None:
    await world.stall_connections(per_second=step.per_second, each=step.each, seconds=step.seconds)


async def _churn(world: World, step: Step) -> None:
    await world.churn(mean_session=step.session, mean_absence=step.absence, seconds=step.seconds)


async def _skew(world: World, step: Step) -> None:
    world.skew_clocks(step.most)
    await trio.sleep(step.seconds)


async def _weather(world: World, step: Step) -> None:
    conditions = world.conditions
    conditions.loss = conditions.duplication = conditions.reordering = step.share
    await trio.sleep(step.seconds)


async def _firewalls(world: World, step: Step) -> None:
    world.close_to_inbound(step.share)
    await trio.sleep(step.seconds)


async def _liars(world: World, step: Step) -> None:
    living = world.living()
    for node in world.rng.sample(living, round(step.share * len(living))):
        make_liar(world, node)
    await trio.sleep(step.seconds)


_MEASURES = {"measure": _measure, "publish": _publish}
_DEEDS: dict[str, Callable[[World, Step], Awaitable[None]]] = {
    "wait": _wait,
    "kill": _kill,
    "partition": _partition,
    "breaks": _breaks,
    "stalls": _stalls,
    "churn": _churn,
    "skew": _skew,
    "weather": _weather,
    "firewalls": _firewalls,
    "liars": _liars,
}


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
