"""What a read or a write waits for, and for how long."""

from typing import Any

import trio
from trio.testing import MockClock

from p2pd.config import DhtConfig
from p2pd.core.round_trips import FIRST_SECONDS
from p2pd.ids import Key
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.memory import MemoryStore
from tests.node.test_dht import network

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
