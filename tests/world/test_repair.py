"""Half of the nodes killed, again and again, newcomers: each key stays on its closest nodes."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from p2pd.ids import Key
from p2pd.net.faults import constant_latency
from p2pd.simulation import measure
from p2pd.simulation.checks import check_always, closest
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.trace import Traffic
from p2pd.simulation.world import SimNode, World, open_world

REPAIR_INTERVAL = 600.0
SETTLED = 120.0


def run(main: Callable[[World], Awaitable[None]], seed: int) -> None:
    print(f"seed {seed}")

    async def in_world() -> None:
        async with open_world(seed, constant_latency(0.05), tick=0.01) as world:
            await main(world)

    run_in_virtual_time(in_world, seed=seed)


async def join(world: World, size: int, **settings: Any) -> list[SimNode]:
    first = await world.start("n0", lan=None, **settings)
    await world.start_many(size - 1, per_second=20, bootstrap=[first], lan=None, **settings)
    await trio.sleep(60)
    return world.living()


def has(node: SimNode, name: str) -> bool:
    return Key.of(name) in node.services.replica.tree


def survivors(world: World, names: list[str]) -> list[str]:
    return [name for name in names if any(has(node, name) for node in world.living())]


def at_home(world: World, names: list[str], replication: int) -> bool:
    """Whether the living nodes closest to each key all have it."""
    return all(
        has(node, name) for name in names for node in closest(world, Key.of(name), replication)
    )


def halved_again_and_again(
    size: int, replication: int, keys: int, least: int, seed: int, *, all_survive: bool
) -> None:
    async def main(world: World) -> None:
        await join(world, size, dht__replication=replication)
        names = [f"k{number}" for number in range(keys)]
        assert (await measure.put_keys(world, names)).share == 1
        await trio.sleep(SETTLED)
        home = partial(at_home, world, names, replication)
        await world.until(home, within=REPAIR_INTERVAL)
        while len(world.living()) > least:
            await world.kill(0.5)
            names[:] = survivors(world, names)
            assert not all_survive or len(names) == keys
            took = await world.until(home, within=REPAIR_INTERVAL)
            print(f"{len(world.living())} live, {len(names)} keys are back after {took:.0f} s")
            assert (await measure.get_keys(world, names)).share == 1
        check_always(world)

    run(main, seed)


@pytest.mark.parametrize(("size", "replication", "least", "seed"), [(20, 20, 6, 0), (20, 5, 6, 1)])
def test_half_die_at_once_again_and_again(
    size: int, replication: int, least: int, seed: int
) -> None:
    survive = replication == size
    halved_again_and_again(size, replication, 30, least, seed, all_survive=survive)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "replication"), [(20, 5), (20, 20), (100, 5), (100, 20)])
def test_in_more_seeds(size: int, replication: int, seed: int) -> None:
    halved_again_and_again(size, replication, 100, 20, seed, all_survive=replication == 20)


@pytest.mark.parametrize("seed", [0])
def test_many_join_and_many_leave(seed: int) -> None:
    async def main(world: World) -> None:
        settings: dict[str, Any] = {"dht__replication": 5}
        first = await join(world, 6, **settings)
        names = [f"k{number}" for number in range(30)]
        await measure.put_keys(world, names)
        await world.start_many(14, per_second=20, bootstrap=[first[0]], lan=None, **settings)
        home = partial(at_home, world, names, 5)
        took = await world.until(home, within=REPAIR_INTERVAL)
        print(f"all is with the newcomers after {took:.0f} s")
        for node in first:
            await world.stop(node)
            assert survivors(world, names) == names
        took = await world.until(home, within=REPAIR_INTERVAL)
        print(f"and {took:.0f} s after those who had it first have left")
        assert (await measure.get_keys(world, names)).share == 1

    run(main, seed)


def test_replicas_that_are_equal_cost_next_to_nothing() -> None:
    async def main(world: World) -> None:
        nodes = await join(world, 6)
        await measure.put_keys(world, [f"k{number}" for number in range(30)])
        await trio.sleep(2 * REPAIR_INTERVAL)
        rounds = 3
        with Traffic(world.network.medium) as traffic:
            await trio.sleep(rounds * REPAIR_INTERVAL)
        sent = dict(traffic.most_first())
        print(sent)
        # One small message for each pair and tender, in each round.
        assert 0 < sent["Compare"] <= 100 * (rounds + 1) * 2 * len(nodes) * len(nodes)
        assert sent["Compared"] < sent["Compare"]
        assert not sent.keys() & {"Fetch", "Fetched", "Give", "Given"}

    run(main, 0)


@pytest.mark.slow
def test_churn_loses_nothing() -> None:
    """Sessions of ten minutes on average, for an hour: each disk keeps what it had."""

    async def main(world: World) -> None:
        await join(world, 30, dht__replication=10)
        names = [f"k{number}" for number in range(60)]
        await measure.put_keys(world, names)
        await trio.sleep(SETTLED)
        world.meanwhile(
            partial(world.churn, mean_session=600.0, mean_absence=300.0, seconds=3600.0)
        )
        asked = right = 0
        for _ in range(12):
            await trio.sleep(300)
            tally = await measure.get_keys(world, names)
            asked, right = asked + tally.asked, right + tally.succeeded
        print(f"{right} of {asked} gets were right at the first try")
        await world.until(partial(at_home, world, names, 10), within=REPAIR_INTERVAL)
        assert (await measure.get_keys(world, names)).share == 1

    run(main, 0)
