"""Each fault does what its sentence says, and is over when it says so."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from p2pd.errors import DialTimedOut, P2PError
from p2pd.simulation.adversary import make_liar
from p2pd.simulation.checks import check_always, check_quiet
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.base import Change, Table
from p2pd.store.memory import MemoryStore

SEED = 3


def simulate(main: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        print(f"seed {SEED}")
        async with open_world(SEED) as world:
            await main(world)

    run_in_virtual_time(run, seed=SEED)


async def pair(world: World) -> tuple[SimNode, SimNode]:
    one = await world.start("one", lan=None)
    other = await world.start("other", lan=None, bootstrap=[one])
    await world.until(lambda: one.is_connected_to(other) and other.is_connected_to(one))
    return one, other


async def reaches(one: SimNode, other: SimNode) -> bool:
    try:
        await one.node.ping(other.node_id)
    except P2PError:
        return False
    return True


def test_a_partition_stops_both_ways_and_then_heals() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        world.meanwhile(lambda: world.partition(0.5, seconds=60))
        await trio.sleep(1)
        assert not await reaches(one, other)
        assert not await reaches(other, one)
        await trio.sleep(60)
        await world.until(lambda: one.is_connected_to(other), within=10)
        assert await reaches(one, other)
        check_quiet(world)

    simulate(main)


def test_a_one_way_partition_lets_one_side_hear() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        world.meanwhile(lambda: world.partition(0.5, seconds=8, one_way=True))
        await trio.sleep(0.1)
        heard = {node.name: 0 for node in (one, other)}

        def count(now: float, source: str, destination: str, data: bytes) -> None:
            for node in (one, other):
                heard[node.name] += destination == node.network.host and bool(data)

        world.network.medium.trace = count
        await reaches(one, other)
        await reaches(other, one)
        assert sorted(count > 0 for count in heard.values()) == [False, True]

    simulate(main)


def test_a_paused_node_is_silent_and_comes_back() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        world.meanwhile(lambda: world.pause(other, seconds=5))
        await trio.sleep(1)
        assert not await reaches(one, other)
        await trio.sleep(5)
        assert await reaches(one, other)
        assert "peer.disconnected" not in one.codes()

    simulate(main)


def test_broken_connections_are_made_again() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        await world.break_connections(per_second=1, seconds=20)
        assert one.codes().count("peer.disconnected") > 3
        await trio.sleep(5)
        assert await reaches(one, other)
        check_quiet(world)

    simulate(main)


def test_a_stalled_connection_delivers_late() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.stall_connections(per_second=5, each=1, seconds=3))
            await trio.sleep(1)
            asked_at = trio.current_time()
            await one.node.echo(other.node_id, b"late")
            assert trio.current_time() - asked_at > 0.1

    simulate(main)


def test_who_comes_and_goes_is_there_in_the_end() -> None:
    async def main(world: World) -> None:
        first = await world.start("n0")
        await world.start_many(9, per_second=10, bootstrap=[first])
        await world.churn(mean_session=20, mean_absence=5, seconds=120)
        assert len(world.living()) == 10
        assert any(node.codes().count("peer.disconnected") for node in world.living())
        await trio.sleep(60)
        check_quiet(world)

    simulate(main)


def test_wrong_clocks_do_no_harm() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        world.skew_clocks(600)
        assert abs(one.clock_error - other.clock_error) > 1
        await one.node.put("key", b"from one")
        await other.node.put("key", b"from the other")
        assert (await one.node.get("key")).winner.value == b"from the other"

    simulate(main)


def test_bad_weather_only_delays_discovery() -> None:
    async def main(world: World) -> None:
        world.conditions.loss = world.conditions.duplication = world.conditions.reordering = 0.4
        one = await world.start("one")
        other = await world.start("other")
        await world.until(lambda: one.is_connected_to(other), within=10)

    simulate(main)


def test_bandwidth_bounds_what_gets_through() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        world.conditions.bandwidth = 10_000
        asked_at = trio.current_time()
        # Random bytes, which no compression makes shorter.
        await one.node.echo(other.node_id, world.rng.randbytes(20_000))
        assert 4 <= trio.current_time() - asked_at <= 5

    simulate(main)


def test_a_host_behind_a_firewall_dials_but_is_not_dialled() -> None:
    async def main(world: World) -> None:
        one = await world.start("one", lan=None)
        other = await world.start("other", lan=None)
        world.conditions.unreachable.add(one.network.host)
        with pytest.raises(DialTimedOut, match="did not answer"):
            await other.node.connect(str(one.address))
        assert not other.is_connected_to(one)
        await one.node.connect(str(other.address))
        assert other.is_connected_to(one)

    simulate(main)


def test_a_crash_loses_what_was_not_synced_and_nothing_else() -> None:
    async def main(world: World) -> None:
        store = MemoryStore(sync_seconds=1)
        await store.apply([Change(Table.RECORDS, b"synced", b"1")])
        with trio.move_on_after(0.5):
            await store.apply([Change(Table.RECORDS, b"under way", b"1")])
        assert [pair async for pair in store.scan(Table.RECORDS)] == [(b"synced", b"1")]

        lucky = MemoryStore(sync_seconds=1, survives=lambda: True)
        with trio.move_on_after(0.5):
            await lucky.apply([Change(Table.RECORDS, b"under way", b"1")])
        assert await lucky.get(Table.RECORDS, b"under way") == b"1"

    simulate(main)


def test_an_acknowledged_put_survives_a_crash() -> None:
    async def main(world: World) -> None:
        one, other = await pair(world)
        for number in range(20):
            await one.node.put(f"key {number}", b"value")
        for node in (one, other):
            await world.crash(node)
        for node in (one, other):
            await world.start(node.name)
        for number in range(20):
            assert (await one.node.get(f"key {number}")).winner.value == b"value"

    simulate(main)


def test_liars_are_believed_nothing_about_others() -> None:
    async def main(world: World) -> None:
        first = await world.start("n0")
        nodes = await world.start_many(9, per_second=10, bootstrap=[first])
        await trio.sleep(10)
        for node in nodes[:2]:
            make_liar(world, node)
        await trio.sleep(120)
        check_always(world)
        assert await reaches(first, nodes[5])
        await nodes[5].node.put("key", b"value")
        assert (await nodes[6].node.get("key")).winner.value == b"value"

    simulate(main)
