"""What a read or a write waits for, and for how long."""

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.config import DhtConfig
from p2pd.core.round_trips import FIRST_SECONDS
from p2pd.errors import TooFewReplicas
from p2pd.ids import Key
from p2pd.net.faults import constant_latency
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.memory import MemoryStore
from tests.node.scripted import connected
from tests.node.test_dht import BrokenStore, network

TIMEOUT = DhtConfig().request_timeout


class HangingStore(MemoryStore):
    """A disk that answers no read, from when it is told to."""

    hangs = False

    async def get(self, table: Any, key: bytes) -> bytes | None:
        if self.hangs:
            await trio.sleep_forever()
        return await super().get(table, key)


async def with_disk_that_hangs(world: World, node: SimNode, name: str) -> None:
    """Restart a node on a disk that holds a key, and then answers no more."""
    await world.stop(node)
    store = node.store = HangingStore()
    await world.start(node.name)
    await trio.sleep(10)
    await node.node.put(name, b"v")
    await world.stop(node)
    await world.start(node.name)
    await trio.sleep(10)
    assert Key.of(name) in node.services.replica.tree
    store.hangs = True


async def test_a_disk_that_hangs_is_waited_for_no_longer_than_another_node(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, _, _ = await network(world, 3)
        await with_disk_that_hangs(world, a, "k")
        began = trio.current_time()
        assert (await a.node.get("k")).winner.value == b"v"
        assert trio.current_time() - began < FIRST_SECONDS


async def test_a_disk_that_hangs_is_given_up_where_others_have_to_be_found(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        await network(world, 10, dht__k=5, dht__replication=5)
        home = closest(world, Key.of("k"), 5)
        assert home[0].services.routes.known_closest(Key.of("k"), 5) is None
        await with_disk_that_hangs(world, home[0], "k")
        with trio.fail_after(2 * TIMEOUT):
            assert (await home[0].node.get("k")).winner.value == b"v"


async def with_disks(world: World, *seconds: float) -> list[SimNode]:
    """Start nodes with disks that take so long for each write."""
    nodes = await network(world, len(seconds))
    for node, each in zip(nodes, seconds, strict=True):
        await world.stop(node)
        node.store = MemoryStore(sync_seconds=each)
        await world.start(node.name)
    await trio.sleep(60)
    return nodes


async def test_who_is_as_quick_as_ever_is_waited_for_though_one_disk_was_enough(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        a, *_ = await network(world, 4, dht__write_quorum=1)
        assert (await a.node.put("k", b"v")).stored == 4


async def test_who_takes_a_little_longer_than_a_quorum_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, *_ = await with_disks(world, 0.3, 0.3, 0.3, 0.8)
        assert (await a.node.put("k", b"v")).stored == 4


async def test_who_takes_much_longer_than_a_quorum_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, *_ = await with_disks(world, 0.01, 0.01, 0.01, 1.5)
        began = trio.current_time()
        assert (await a.node.put("k", b"v")).stored == 3
        assert trio.current_time() - began < 0.5


async def test_another_is_asked_as_soon_as_an_answer_should_have_come(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, *others = await network(world, 5)
        await a.node.put("k", b"v")
        await a.node.get("k", consistency="all")
        first = next(each for each in closest(world, Key.of("k"), 5) if each in others)
        world.meanwhile(partial(world.pause, first, seconds=5))
        await trio.sleep(0.1)
        with trio.fail_after(0.2):
            assert (await a.node.get("k")).winner.value == b"v"


async def test_who_is_connected_is_asked_before_anybody_is_dialled(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, *others = await network(world, 5)
        await a.node.put("k", b"v")
        # They refresh their tables, which may dial.
        await trio.sleep(60)
        first, second, *rest = [each for each in closest(world, Key.of("k"), 5) if each in others]
        for each in (first, second):
            await a.node.disconnect(each.node_id)
        await trio.sleep(1)
        assert (await a.node.get("k")).winner.value == b"v"
        assert connected(a) == {each.node_id.hex() for each in rest}
        # A dial gets the answers that are lacking.
        assert (await a.node.get("k", consistency="all")).winner.value == b"v"
        assert len(connected(a)) == 4


async def test_a_node_whose_own_disk_refuses_is_one_of_the_replicas_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        await world.stop(a)
        store = a.store = BrokenStore()
        await world.start(a.name)
        await trio.sleep(10)
        await b.node.put("k", b"v")
        await world.stop(a)
        await world.start(a.name)
        await trio.sleep(10)
        store.broken = True
        with pytest.raises(TooFewReplicas, match="1 of 2 replicas stored"):
            await a.node.put("k", b"w")
