"""What a node knows of its peers reaches the disk, also where the disk is slow or refuses."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgpack
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.entries import Backoff, Entry, Source, Status
from p2pd.core.registry import Registry
from p2pd.errors import StoreError
from p2pd.ids import NodeId
from p2pd.node.events import Events
from p2pd.node.registry_store import SAVE_INTERVAL, SavedPeer, load_registry, save_registry
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.base import Change, Table
from p2pd.store.memory import MemoryStore
from p2pd.wire.messages import Signed


class MoodyStore(MemoryStore):
    """A disk that takes `delay` seconds to begin a write, and may refuse it."""

    refuses = False
    delay = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.begun = trio.Event()

    async def apply(self, changes: Sequence[Change]) -> None:
        self.begun.set()
        await trio.sleep(self.delay)
        if self.refuses:
            raise StoreError("the disk is full")
        await super().apply(changes)


async def two(world: World, store: MoodyStore) -> tuple[SimNode, SimNode]:
    """Start a node with this store, and connect it with another one."""
    b = await world.start("b", lan=None)
    a = await world.start("a", lan=None)
    await world.stop(a)
    a.store = store
    await world.start("a")
    await a.node.connect(str(b.address))
    return a, b


async def test_what_a_full_disk_refused_is_saved_later_and_told_once(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        store = MoodyStore()
        store.refuses = True
        a, b = await two(world, store)
        await trio.sleep(5 * SAVE_INTERVAL)
        assert a.codes().count("registry.unsaved") == 1
        store.refuses = False
        await trio.sleep(2 * SAVE_INTERVAL)
        assert [key async for key, _ in store.scan(Table.PEERS)] == [b.node_id]
        store.refuses = True
        await world.crash(b)
        await trio.sleep(2 * SAVE_INTERVAL)
        assert a.codes().count("registry.unsaved") == 2


async def test_that_a_node_stopped_is_no_error_of_its_peers_when_it_starts_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, _ = await two(world, MoodyStore())
        await world.stop(a)
        a = await world.start("a", connections__target=0)
        assert [each.last_error for each in a.node.peers()] == [None]


async def test_a_save_that_the_end_interrupts_is_made_up_for(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        store = MoodyStore()
        a, b = await two(world, store)
        # Nothing changes after that, so that nothing else brings it to the disk.
        await world.crash(b)
        store.delay = 1.0
        await store.begun.wait()
        await world.stop(a)
        assert [key async for key, _ in store.scan(Table.PEERS)] == [b.node_id]


async def test_what_was_forgotten_while_the_disk_refused_is_deleted_later() -> None:
    store = MoodyStore()
    registry = Registry(NodeId(bytes(32)), Backoff(1.0, 300.0), random.Random(1))
    node_id = NodeId.of(bytes(32))
    await store.apply([Change(Table.PEERS, node_id, b"known once")])
    registry.not_saved([node_id])
    store.refuses = True
    assert not await save_registry(store, registry, Events(time.time))
    store.refuses = False
    assert await save_registry(store, registry, Events(time.time))
    assert [key async for key, _ in store.scan(Table.PEERS)] == []


async def test_others_get_a_turn_while_many_peers_are_saved() -> None:
    store = MoodyStore()
    registry = Registry(NodeId(bytes(32)), Backoff(1.0, 300.0), random.Random(1))
    for number in range(1000):
        node_id = NodeId.of(number.to_bytes(32))
        registry.restore(Entry(node_id, Source.EXCHANGE, first_seen=1.0, success_count=1))
        registry.not_saved([node_id])
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(save_registry, store, registry, Events(time.time))
        while not store.begun.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()
    assert turns > 5
    assert len([key async for key, _ in store.scan(Table.PEERS)]) == 1000


async def test_what_is_known_of_a_peer_is_saved_once_and_read_again() -> None:
    store, events = MoodyStore(), Events(time.time)
    before, after = [
        Registry(NodeId(bytes(32)), Backoff(1.0, 300.0), random.Random(1)) for _ in range(2)
    ]
    one = Entry(
        NodeId.of(b"1"),
        Source.SEED,
        first_seen=1_700_000_000.25,
        name="one",
        signed=Signed(b"what it signed", bytes(64)),
        sequence=3,
        addresses=[Address("10.9.0.1", 41000), Address("10.9.0.2", 41000)],
        answered=(Address("10.9.0.2", 41000),),
        success_count=4,
        fail_count=5,
        last_seen=1_700_000_100.75,
        last_error="nobody was there",
    )
    bare = Entry(NodeId.of(b"2"), Source.INBOUND, first_seen=1_700_000_001.0, success_count=1)
    for node_id, entry in ((NodeId.of(b"1"), one), (NodeId.of(b"2"), bare)):
        before.restore(entry)
        before.not_saved([node_id])
    assert await save_registry(store, before, events)
    # Nothing is written, so nothing is refused, where nothing changed.
    store.refuses = True
    assert await save_registry(store, before, events)
    await load_registry(store, after, events)
    now_only = attrs.filters.exclude("status", "anchor")
    back = [attrs.asdict(each, recurse=False, filter=now_only) for each in after]
    for each in (one, bare):
        assert attrs.asdict(each, recurse=False, filter=now_only) in back
    assert all(each.anchor and each.status is Status.DISCONNECTED for each in after)


async def test_where_a_peer_answered_is_known_after_a_restart(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await two(world, MoodyStore())
        await world.stop(a)
        await world.crash(b)
        await world.start("a")
        [entry] = a.services.registry
        assert entry.answered == (b.address,)


async def start_again(
    world: World, a: SimNode, b: SimNode, edit: Callable[[list[Any]], list[Any]]
) -> None:
    """Stop a node, edit the fields of what it saved of its peer, and start it again."""
    await world.stop(a)
    saved = await a.store.get(Table.PEERS, b.node_id)
    assert saved is not None
    edited = msgpack.packb(edit(msgpack.unpackb(saved)))
    await a.store.apply([Change(Table.PEERS, b.node_id, edited)])
    await world.start("a", connections__target=0)


async def test_a_time_that_no_calendar_has_is_not_read(autojump_clock: MockClock) -> None:
    def edit(fields: list[Any]) -> list[Any]:
        names = [field.name for field in attrs.fields(SavedPeer)]
        fields[names.index("first_seen")] |= 1 << 50
        return fields

    async with open_world(1) as world:
        a, b = await two(world, MoodyStore())
        await start_again(world, a, b, edit)
        assert a.node.peers() == []
        assert a.codes().count("registry.unreadable") == 1
        await world.stop(a)
        await world.start("a", connections__target=0)
        assert a.codes().count("registry.unreadable") == 1


async def test_what_is_not_read_may_stay_on_a_disk_that_refuses(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        store = MoodyStore()
        await store.apply([Change(Table.PEERS, b"no node ID", b"")])
        store.refuses = True
        await two(world, store)
        assert [key async for key, _ in store.scan(Table.PEERS)] == [b"no node ID"]


async def test_what_an_earlier_version_saved_is_read(autojump_clock: MockClock) -> None:
    def edit(fields: list[Any]) -> list[Any]:
        *before, answered = fields
        assert answered == [str(b.address)]
        return before

    async with open_world(1) as world:
        a, b = await two(world, MoodyStore())
        await start_again(world, a, b, edit)
        [entry] = a.services.registry
        assert (entry.node_id, entry.proven) == (b.node_id, True)
        assert "registry.unreadable" not in a.codes()
