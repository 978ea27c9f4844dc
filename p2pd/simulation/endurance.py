"""Whether what was acknowledged outlives its keepers: the steps that wear a store down."""

import gc
import random

import attrs
import trio

from p2pd.errors import P2PError
from p2pd.simulation import measure
from p2pd.simulation.checks import Unsound, holders, rightful
from p2pd.simulation.plan import Run, Step
from p2pd.simulation.trace import Traffic
from p2pd.simulation.world import SimNode, World
from p2pd.store.memory import MemoryStore

# Half of the nodes are killed again and again, as long as at least this many survive.
FEWEST = 20
# A key that can't be read counts as lost only after this many tries, this many seconds apart.
TRIES = 4
BETWEEN_TRIES = 15.0
# How many others' addresses a newcomer is given.
BOOTSTRAP = 3
# Virtual seconds between two collections of what nodes that went have left in memory: nothing
# else collects it in a world.
SWEEP_INTERVAL = 600.0
# Without new puts, these messages are for repair only.
REPAIR = ("Compare", "Compared", "Fetch", "Fetched", "Give", "Given", "Store", "Stored")


def repair_interval(world: World) -> float:
    """Return the seconds within which replicas are repaired."""
    return world.living()[0].config.dht.repair_interval


async def store(run: Run, step: Step) -> None:
    """Read every acknowledged key, each at a random node; put them all, the first time.

    Raises `Unsound` for a key that is lost, and if the step asks for more than is there.
    """
    if not run.acknowledged:
        put = await measure.put_keys(run.world, run.names)
        run.acknowledged = [each for each in run.names if each not in put.failed]
    get = await measure.get_keys(run.world, run.acknowledged)
    missing = [await _missing(run.world, each) for each in run.acknowledged]
    full = 1 - sum(map(bool, missing)) / max(1, len(missing))
    lost = await _lost(run.world, get.failed)
    measured = {
        "acknowledged": len(run.acknowledged),
        "first try": round(get.share, 6),
        "lost": len(lost),
        "full": round(full, 4),
        "most missing": max(missing, default=0),
    }
    run.add_row("store", get=get.summary(), store=measured)
    where = f"seed {run.world.seed}, at {trio.current_time():.0f} s: {measured}"
    if lost:
        raise Unsound(f"{where}: lost {', '.join(lost[:10])}")
    if get.share < step.at_least:
        raise Unsound(f"{where}: not read at the first try: {', '.join(get.failed[:10])}")
    if step.full and full < 1:
        raise Unsound(f"{where}: not every replica has its records")


async def halves(run: Run, step: Step) -> None:
    """Kill half of the nodes at one moment, at least once, and again while `FEWEST` survive it.

    Each time, every key must be readable at once, and be at full replication within
    `dht.repair_interval`.
    """
    await store(run, attrs.evolve(step, at_least=1.0))
    repair = repair_interval(run.world)
    while True:
        await run.world.kill(0.5)
        await store(run, attrs.evolve(step, at_least=1.0))
        await trio.sleep(repair)
        await store(run, attrs.evolve(step, at_least=1.0, full=True))
        if len(run.world.living()) < 2 * FEWEST:
            return


async def turnover(run: Run, step: Step) -> None:
    """For a while, let nodes go for good and others come, and read keys meanwhile."""
    if not run.acknowledged:
        await store(run, step)
    world, until = run.world, trio.current_time() + step.seconds
    tally = measure.Tally()
    with Traffic(world.network.medium) as traffic:
        async with trio.open_nursery() as nursery:
            for node in world.living():
                nursery.start_soon(_replace, run, node, step, until)
            nursery.start_soon(_read_on, run, step.per_second, until, tally)
            nursery.start_soon(_sweep, until)
    share_of = step.seconds * len(world.living())
    by_kind = {kind: round(count / share_of, 2) for kind, count in traffic.most_first()}
    measured = {
        "acknowledged": len(run.acknowledged),
        "first try": round(tally.share, 6),
        "bytes": round(sum(by_kind.values()), 1),
        "repair": round(sum(by_kind.get(kind, 0.0) for kind in REPAIR), 1),
    }
    run.add_row("turnover", get=tally.summary(), store=measured, traffic=by_kind)
    if tally.share < step.at_least:
        raise Unsound(f"seed {world.seed}: {measured}; failed: {', '.join(tally.failed[:10])}")


async def _missing(world: World, name: str) -> int:
    """Count the rightful replicas that do not hold a key."""
    held = await holders(world, name)
    return sum(node not in held for node in rightful(world, name))


async def _lost(world: World, names: list[str]) -> list[str]:
    """Return those keys that nobody finds although they are asked for patiently."""
    for _ in range(TRIES):
        if not names:
            break
        await trio.sleep(BETWEEN_TRIES)
        names = (await measure.get_keys(world, names)).failed
    return names


async def _replace(run: Run, node: SimNode, step: Step, until: float) -> None:
    """Crash a node after a while, and start another in its place, with a disk of its own."""
    world = run.world
    rng = random.Random(world.rng.randbytes(16))  # noqa: S311 - a simulation wants no secrets
    while True:
        with trio.move_on_at(until):
            await trio.sleep(rng.expovariate(1 / step.session))
        if trio.current_time() >= until:
            return
        await world.crash(node)
        node.store = MemoryStore()
        await trio.sleep(rng.expovariate(1 / step.absence))
        bootstrap = rng.sample(world.living(), min(BOOTSTRAP, len(world.living())))
        name = f"n{len(world.nodes)}"
        node = await world.start(name, bootstrap=bootstrap, **run.scenario.settings)


async def _sweep(until: float) -> None:
    with trio.move_on_at(until):
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            gc.collect()


async def _read_on(run: Run, per_second: float, until: float, tally: measure.Tally) -> None:
    rng = run.world.rng
    async with trio.open_nursery() as nursery:
        while trio.current_time() < until:
            await trio.sleep(rng.expovariate(per_second))
            node, name = rng.choice(run.world.living()), rng.choice(run.acknowledged)
            nursery.start_soon(_read_once, node, name, tally)


async def _read_once(node: SimNode, name: str, tally: measure.Tally) -> None:
    """Get a key; one asked of a node that ends meanwhile is not counted."""
    asked_at, running, right = trio.current_time(), node.running, False
    if running is None:
        return
    with node.while_it_runs():
        try:
            right = (await running.get(name)).winner.value == name.encode()
        except P2PError as error:
            name = f"{name} ({error})"
        tally.add(name, asked_at, right=right)
