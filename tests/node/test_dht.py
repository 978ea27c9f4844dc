"""Keys and values over nodes, through the face of `Node`."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.config import DhtConfig
from p2pd.core.records import MAX_CLOCK_AHEAD_MS, Version, actor_of
from p2pd.errors import InvalidRequest, NotFound, StoreError, TooFewReplicas, VersionConflict
from p2pd.ids import Key, closest_first
from p2pd.net.faults import Cut, constant_latency
from p2pd.node import replica
from p2pd.node.connection import BUSY_PAUSE
from p2pd.node.dht import MAX_READS
from p2pd.node.dispatch import Call
from p2pd.node.ending import Ending
from p2pd.node.replica import (
    LOAD_AGAIN_AFTER,
    MAX_BATCH,
    MAX_WAITING,
    PURGE_INTERVAL,
    Replica,
)
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.base import Change, Table
from p2pd.store.memory import MemoryStore
from p2pd.wire import identity
from p2pd.wire.identity import is_signed_by, open_record
from p2pd.wire.messages import (
    MAX_SIBLINGS,
    Failed,
    FindNode,
    FindValue,
    Message,
    Nodes,
    Record,
    Refused,
    Seen,
    Signed,
    Store,
    Stored,
    Value,
)
from p2pd.wire.session import Replied
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed, now_ms


async def network(world: World, size: int, **settings: Any) -> list[SimNode]:
    nodes: list[SimNode] = []
    for number in range(size):
        first = nodes[:1]
        nodes.append(await world.start(f"n{number}", lan=None, bootstrap=first, **settings))
    await trio.sleep(10)
    return nodes


def record(peer: ScriptedPeer, name: str, value: bytes | None, **changes: Any) -> Signed:
    fields = Record(
        name_digest=hashlib.sha256(name.encode()).digest(),
        owned=False,
        value=value,
        writer=peer.identity.public_key,
        instance=bytes(8),
        clock=now_ms() << 16,
        seen=(),
        expires=0,
    )
    return peer.identity.vouch(attrs.evolve(fields, **changes))


@pytest.mark.parametrize("size", [1, 2, 3, 25])
async def test_put_get_delete(autojump_clock: MockClock, size: int) -> None:
    async with open_world(size) as world:
        nodes = await network(world, size)
        first, last = nodes[0], nodes[-1]
        with pytest.raises(NotFound):
            await last.node.get("k")
        written = await first.node.put("k", b"1")
        assert written.stored == written.wanted == min(size, 20)
        assert written.quorum == min(size, 20) // 2 + 1
        for node in nodes:
            found = await node.node.get("k", consistency="all")
            assert (found.winner.value, found.siblings) == (b"1", ())
            assert found.winner.version == written.version
            assert found.winner.writer == first.node_id.hex()
        again = await last.node.put("k", b"2", if_version=written.version)
        with pytest.raises(VersionConflict):
            await first.node.put("k", b"3", if_version=written.version)
        with pytest.raises(VersionConflict, match=f"is {again.version}, not none"):
            await first.node.put("k", b"3", if_version="")
        for node in nodes:
            assert (await node.node.get("k")).winner.version == again.version
        await first.node.delete("k")
        for node in nodes:
            with pytest.raises(NotFound):
                await node.node.get("k")
        with pytest.raises(NotFound):
            await last.node.delete("k")
        with pytest.raises(NotFound, match="no key '': it is empty"):
            await last.node.get("")
        await last.node.put("k", b"4")
        assert (await first.node.get("k")).winner.value == b"4"
        assert_unharmed(*nodes)


async def test_a_record_is_gone_after_its_time(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b, _ = await network(world, 3)
        await a.node.put("k", b"v", ttl=100)
        await trio.sleep(99)
        assert (await b.node.get("k")).winner.value == b"v"
        await trio.sleep(2)
        with pytest.raises(NotFound):
            await b.node.get("k")
        await trio.sleep(PURGE_INTERVAL)
        assert a.node.snapshot().store.records == 0


async def test_a_key_put_before_a_node_joined_is_readable_from_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        for number in range(10):
            await a.node.put(f"k{number}", b"v")
        c = await world.start("c", lan=None, bootstrap=[b])
        await world.until(lambda: c.is_connected_to(b), within=1)
        for number in range(10):
            assert (await c.node.get(f"k{number}")).winner.value == b"v"


async def test_a_key_is_there_after_all_restarted(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 3)
        await nodes[0].node.put("k", b"v")
        for node in nodes:
            await world.stop(node)
        for node in nodes:
            await world.start(node.name)
        await trio.sleep(10)
        for node in nodes:
            assert (await node.node.get("k", consistency="all")).winner.value == b"v"


async def test_empty_and_large_values_and_odd_names(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2, store__max_value_bytes=1000)
        for name, value in [("", b""), ("ключ\0\n", b"\0"), ("k" * 5000, bytes(1000))]:
            await a.node.put(name, value)
            assert (await b.node.get(name)).winner.value == value
        with pytest.raises(InvalidRequest, match=r"store\.max_value_bytes = 1000"):
            await a.node.put("k", bytes(1001))
        with pytest.raises(InvalidRequest, match="consistency"):
            await a.node.get("k", consistency="some")


async def test_too_few_replicas(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2, dht__write_quorum=2, dht__read_quorum=2)
        await a.node.put("k", b"v")
        await world.crash(b)
        await trio.sleep(1)
        with pytest.raises(TooFewReplicas, match=r"1 of 1 .* 2 are needed \(dht.write_quorum\)"):
            await a.node.put("k", b"w")
        with pytest.raises(TooFewReplicas, match="2 are needed"):
            await a.node.get("k")
        assert (await a.node.get("k", consistency="one")).winner.value
        assert_unharmed(a)


async def test_siblings_after_a_partition(autojump_clock: MockClock) -> None:
    """Both sides write; nothing is lost, all name one winner, the next write ends it."""
    async with open_world(1) as world:
        nodes = await network(world, 4)
        a, b, c, d = nodes
        await a.node.put("k", b"before")
        cut = Cut(
            frozenset({a.network.host, b.network.host}), frozenset({c.network.host, d.network.host})
        )
        world.network.medium.cut(cut)
        await trio.sleep(60)
        left = await a.node.put("k", b"left")
        right = await c.node.put("k", b"right")
        assert (await b.node.get("k")).winner.value == b"left"
        world.network.medium.heal(cut)
        await world.until(
            lambda: all(x.is_connected_to(y) for x in (a, b) for y in (c, d)), within=600
        )
        views = {(await each.node.get("k")).winner.version for each in nodes}
        assert len(views) == 1
        assert views <= {left.version, right.version}
        for node in nodes:
            found = await node.node.get("k")
            assert {found.winner.value, *(each.value for each in found.siblings)} == {
                b"left",
                b"right",
            }
        await d.node.put("k", b"after")
        for node in nodes:
            found = await node.node.get("k", consistency="all")
            assert (found.winner.value, found.siblings) == (b"after", ())


async def test_a_tombstone_beside_a_write_hides_no_version(autojump_clock: MockClock) -> None:
    """What `get` calls the winner is what `--if-version` asks for."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        assert await line.ask(Store(record(peer, "k", b"v"))) == Stored()
        gone = record(peer, "k", None, clock=(now_ms() + 1000) << 16)
        assert await line.ask(Store(gone)) == Stored()
        found = await a.node.get("k")
        assert found.winner.value == b"v"
        await a.node.put("k", b"w", if_version=found.winner.version)
        assert (await a.node.get("k")).winner.value == b"w"


async def test_forged_and_broken_records_are_refused(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, store__max_value_bytes=100)
        peer, victim = ScriptedPeer(world), ScriptedPeer(world)
        line = await peer.connect(a)
        good = record(peer, "k", b"v")
        bad = {
            "another's name": record(peer, "k", b"x", writer=victim.identity.public_key),
            "changed": Signed(good.body.replace(b"v", b"w"), good.signature),
            "a peer record": peer.record(),
            "rubbish": Signed(b"rubbish", bytes(64)),
            "too large": record(peer, "k", bytes(101)),
            "from the future": record(peer, "k", b"x", clock=(now_ms() + 90_000_000) << 16),
        }
        for what, signed in bad.items():
            assert isinstance(await line.ask(Store(signed)), Failed), what
        assert await line.ask(FindValue(Key.of("k"), closer=True)) == Value((), ())
        assert await line.ask(Store(good)) == Stored()
        assert (await a.node.get("k")).winner.value == b"v"
        assert_unharmed(a)


async def test_a_record_under_another_key_than_asked_for(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        liar = ScriptedPeer(world, listens=True)
        other = record(liar, "other", b"v")
        answer = Value((other,), ())
        await world._nursery.start(liar.listen, lambda line: line.serve(lambda _: answer))
        await a.node.connect(str(liar.address))
        with pytest.raises(NotFound):
            await a.node.get("k")


async def test_a_full_store_says_so(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = MemoryStore(max_bytes=5000)
        await world.start("a")
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        answers = [await line.ask(Store(record(peer, f"k{n}", bytes(900)))) for n in range(10)]
        assert answers[0] == Stored()
        assert isinstance(answers[-1], Failed)
        assert answers[-1].code == "store_full"
        # Not once for each.
        assert a.codes().count("store.refuses") == 1
        with pytest.raises(TooFewReplicas):
            await a.node.put("k", bytes(900))
        assert (await a.node.get("k0")).winner.value == bytes(900)
        assert_unharmed(a)


async def test_what_is_in_a_full_store_can_be_deleted(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = MemoryStore(max_bytes=20_000)
        await world.start("a")
        names = [f"k{number}" for number in range(200)]
        for name in names:
            with suppress(TooFewReplicas):
                await a.node.put(name, b"v")
        with pytest.raises(TooFewReplicas):
            await a.node.put("one more", b"v")
        for name in names[:3]:
            await a.node.delete(name)


class BrokenStore(MemoryStore):
    """A disk that refuses everything, from when it is told to."""

    broken = False
    path = "/home/\U0001f600" + "\U0001f512" * 100

    async def get(self, table, key):  # type: ignore[no-untyped-def] # as its parent
        self._refuse()
        return await super().get(table, key)

    async def apply(self, changes):  # type: ignore[no-untyped-def] # as its parent
        self._refuse()
        await super().apply(changes)

    async def scan(self, table, start=b""):  # type: ignore[no-untyped-def] # as its parent
        if table is Table.RECORDS:
            self._refuse()
        async for each in super().scan(table, start):
            yield each

    def _refuse(self) -> None:
        if self.broken:
            raise StoreError(f"the database {self.path} refuses")


async def test_a_disk_that_refuses_does_not_end_the_node(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        await world.stop(a)
        store = a.store = BrokenStore()
        await world.start("a")
        await world.until(lambda: b.is_connected_to(a), within=5)
        store.broken = True
        await trio.sleep(2 * PURGE_INTERVAL)
        for node in (a, b):
            with pytest.raises(TooFewReplicas, match="1 of 2 replicas stored"):
                await node.node.put("k", b"v")
            # What is not on a disk can be told without it.
            assert (await node.node.get("k")).winner.value == b"v"
        store.broken = False
        await b.node.put("k", b"v")
        assert (await a.node.get("k", consistency="all")).winner.value == b"v"
        assert_unharmed(a, b)


async def decay(node: SimNode, name: str) -> bytes | None:
    """Let what a node has on its disk under a key go bad; returns what was there."""
    whole = await node.store.get(Table.RECORDS, Key.of(name))
    await node.store.apply([Change(Table.RECORDS, Key.of(name), b"decayed")])
    return whole


async def test_what_decayed_on_the_disk_comes_from_other_replicas_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2, dht__repair_interval=60)
        await b.node.put("k", b"v")
        await world.stop(a)
        await world.start(a.name)
        await trio.sleep(1)
        whole = await decay(a, "k")
        assert (await a.node.get("k")).winner.value == b"v"
        await trio.sleep(120)
        assert await a.store.get(Table.RECORDS, Key.of("k")) == whole
        assert a.codes().count("store.unreadable") == 1
        assert_unharmed(a, b)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_bit_that_flipped_in_a_value_on_the_disk_is_never_read(
    autojump_clock: MockClock, *, restarts: bool
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2, dht__repair_interval=60)
        await b.node.put("k", b"a value")
        await world.stop(a)
        if not restarts:
            await world.start(a.name)
            await trio.sleep(1)
        whole = await a.store.get(Table.RECORDS, Key.of("k"))
        assert whole is not None
        flipped = whole.replace(b"a value", b"a valuf")
        await a.store.apply([Change(Table.RECORDS, Key.of("k"), flipped)])
        if restarts:
            await world.start(a.name)
        await trio.sleep(1)
        assert (await a.node.get("k")).winner.value == b"a value"
        await trio.sleep(120)
        assert await a.store.get(Table.RECORDS, Key.of("k")) == whole
        assert (await a.node.get("k", consistency="one")).winner.value == b"a value"
        assert a.codes().count("store.unreadable") == 1


async def test_a_key_that_decayed_on_the_disk_is_passed_over(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        [a] = await network(world, 1)
        await a.node.put("k", b"v")
        await world.stop(a)
        await a.store.apply([Change(Table.RECORDS, b"too short", b"decayed")])
        await world.start(a.name)
        await trio.sleep(1)
        assert (await a.node.get("k")).winner.value == b"v"
        assert a.codes().count("store.unreadable") == 1
        assert_unharmed(a)


class Turns(trio.abc.Instrument):
    """Counts how often the event loop has gone round."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_others_have_their_turn_between_large_records(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, worked = Turns(), Counter[int]()
    sound_versions = replica._sound_versions

    def count(key: Key, saved: bytes, digest: bytes | None) -> list[Version]:
        worked[turns.count] += len(saved)
        return sound_versions(key, saved, digest)

    async with open_world(1) as world:
        [a] = await network(world, 1)
        names = [f"k{number}" for number in range(60)]
        for name in names:
            await a.node.put(name, bytes(60_000))
        await world.stop(a)
        await world.start(a.name)
        await trio.sleep(1)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        monkeypatch.setattr(replica, "_sound_versions", count)
        trio.lowlevel.add_instrument(turns)
        await line.send(*(Store(record(peer, name, b"v")) for name in names))
        await trio.sleep(1)
        trio.lowlevel.remove_instrument(turns)
    # Some are in the cache.
    assert sum(worked.values()) > 1_200_000
    assert max(worked.values()) < 1_200_000


async def test_what_decayed_on_the_disk_is_purged_like_all_else(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        [a] = await network(world, 1)
        await a.node.put("k", b"v", ttl=60)
        await world.stop(a)
        await world.start(a.name)
        await trio.sleep(1)
        await decay(a, "k")
        await trio.sleep(2 * PURGE_INTERVAL)
        assert await a.store.get(Table.RECORDS, Key.of("k")) is None
        assert_unharmed(a)


async def test_a_disk_that_can_not_be_read_at_the_start_is_read_on(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await a.node.put("k", b"v")
        await world.stop(a)
        store = a.store = BrokenStore()
        await world.start("a")
        await a.node.put("k", b"v")
        await world.stop(a)
        store.broken = True
        await world.start("a")
        await trio.sleep(10)
        assert not a.services.replica.loaded.is_set()
        assert a.codes().count("store.unreadable") == 1
        store.broken = False
        await trio.sleep(LOAD_AGAIN_AFTER)
        assert a.services.replica.loaded.is_set()
        assert Key.of("k") in a.services.replica.tree
        assert_unharmed(a)


async def test_what_the_disk_says_is_not_for_peers(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        store = a.store = BrokenStore()
        await world.start("a")
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        assert await line.ask(Store(record(peer, "k", b"v"))) == Stored()
        # What was read or written since the start is known without the disk.
        await world.stop(a)
        await world.start("a")
        line = await peer.connect(a)
        store.broken = True
        for question in (Store(record(peer, "k", b"v")), FindValue(Key.of("k"), closer=True)):
            assert await line.ask(question) == Failed("store", "the disk refuses")
        [told] = [event.message for event in a.events if event.code == "store.refuses"]
        assert store.path in told


async def test_lookup_shows_its_route(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5)
        found = await nodes[0].node.lookup("some key")
        assert {each.node_id for each in found.found} == {each.node_id.hex() for each in nodes}
        assert all(hop.outcome == "answered" for hop in found.hops)
        distances = [int(each.node_id, 16) ^ int(found.target, 16) for each in found.found]
        assert distances == sorted(distances)
        assert found.reached is None
        by_name = await nodes[0].node.lookup("n3")
        assert by_name.found[0].node_id == nodes[3].node_id.hex() == by_name.target
        assert by_name.reached
        assert (await nodes[0].node.lookup("n0")).reached, "it is this node itself"
        assert (await nodes[0].node.lookup("ab" * 32)).reached is False


class SlowStore(MemoryStore):
    """A disk that takes its time; most of all to tell what is on it."""

    def __init__(self, delay: float = 0.1) -> None:
        super().__init__()
        self._delay = delay

    async def get(self, table, key):  # type: ignore[no-untyped-def] # as its parent
        await trio.sleep(self._delay)
        return await super().get(table, key)

    async def scan(self, table, start=b""):  # type: ignore[no-untyped-def] # as its parent
        await trio.sleep(10_000)
        async for entry in super().scan(table, start):
            yield entry


def flood(line: Line, questions: Sequence[Message]) -> bytes:
    return b"".join(line.session.request(each)[1] for each in questions)


async def answers(line: Line, count: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < count:
        event = await line.next()
        if isinstance(event, Replied):
            found.append(event.message)
    return found


async def test_one_peers_reads_do_not_hold_up_another_ones(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = SlowStore()
        await world.start("a")
        greedy = await ScriptedPeer(world, host="10.8.0.1").connect(a)
        modest = await ScriptedPeer(world, host="10.8.0.2").connect(a)
        wanted = FindValue(bytes(32), closer=True)
        await greedy.stream.send_all(flood(greedy, [wanted] * MAX_READS * 2))
        with trio.fail_after(1):
            assert isinstance(await modest.ask(wanted), Value)
        refused = await answers(greedy, MAX_READS - 1)
        assert {each.code for each in refused if isinstance(each, Failed)} == {"busy"}


async def test_a_read_that_waited_too_long_for_the_disk_is_told_so(
    autojump_clock: MockClock,
) -> None:
    """Who asked has given up, or will before the answer comes; so would all behind it."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = SlowStore(delay=0.2)
        await world.start("a")
        timeout = a.config.dht.request_timeout
        asked, in_time = 20, 0

        async def ask(number: int) -> None:
            nonlocal in_time
            line = await ScriptedPeer(world, host=f"10.8.1.{number}").connect(a)
            # As from nodes whose questions go on coming.
            for _ in range(3):
                with trio.move_on_after(timeout) as scope:
                    answer = await line.ask(FindValue(bytes(32), closer=False))
                    in_time += isinstance(answer, Value)
                assert not scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(asked):
                nursery.start_soon(ask, number)
        assert in_time > 5


async def test_writes_that_wait_are_bounded_in_bytes(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = SlowStore(delay=10_000)
        await world.start("a")
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        large = [Store(record(peer, f"k{number}", bytes(60_000))) for number in range(700)]
        await line.stream.send_all(flood(line, large))
        with trio.fail_after(60):
            refused = await answers(line, len(large) - MAX_BATCH - MAX_WAITING // 60_000)
        assert {each.code for each in refused if isinstance(each, Failed)} == {"busy"}


async def test_who_was_told_busy_is_not_listened_to_for_a_moment(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        # None of its reads waits so long that it is told so for that.
        a.store = SlowStore(delay=0.001)
        await world.start("a")
        line = await ScriptedPeer(world).connect(a)
        await line.stream.send_all(flood(line, [FindValue(bytes(32), closer=True)] * MAX_READS * 4))
        started = trio.current_time()
        said = await answers(line, 200)
        busy = sum(isinstance(each, Failed) for each in said)
        assert 0 < busy <= (trio.current_time() - started) / BUSY_PAUSE + 1


async def test_a_node_checks_no_signature_twice_or_of_its_own(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        checked: list[bytes] = []

        def check(public_key: bytes, signature: bytes, data: bytes) -> bool:
            checked.append(data)
            return is_signed_by(public_key, signature, data)

        monkeypatch.setattr(identity, "is_signed_by", check)
        await a.node.put("k", b"v")
        assert len(checked) == 1
        for node in (a, b):
            assert (await node.node.get("k", consistency="all")).winner.value == b"v"
        assert len(checked) == 1


async def test_a_put_if_a_version_is_there_is_not_fooled_by_an_older_state(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 3)
        a, b, _ = nodes
        first, key = await b.node.put("k", b"1"), Key.of("k")
        [shown] = await a.services.replica.read(key)
        await b.node.put("k", b"2")
        await a.node.put("k", b"3")
        for replica in (each.services.replica for each in nodes):
            await replica.drop({key: replica.tree.digest(key) or b""})
            await replica.write(shown)
        with pytest.raises(TooFewReplicas, match="are behind what this node has seen"):
            await a.node.put("k", b"4", if_version=first.version)
        await a.node.put("k", b"4")
        assert (await b.node.get("k")).winner.value == b"4"


async def test_an_owned_key_is_its_owners_alone(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b, c = await network(world, 3)
        await a.node.put("k", b"mine", owned=True)
        await b.node.put("k", b"everybody's")
        await b.node.put("k", b"b's", owned=True)
        for node in (a, b, c):
            assert (await node.node.get("k", owner=str(a.node_id))).winner.value == b"mine"
            assert (await node.node.get("k")).winner.value == b"everybody's"
            # By a prefix also where the owner is the node itself, as by its whole ID and its name.
            found = await node.node.get("k", owner=str(a.node_id)[:16].upper())
            assert found.winner.value == b"mine"
        await b.node.delete("k", owned=True)
        with pytest.raises(NotFound):
            await a.node.get("k", owner=str(b.node_id))
        with pytest.raises(NotFound, match="no known peer"):
            await a.node.get("k", owner="nobody")
        forged = record(ScriptedPeer(world), "k", b"forged", owned=True)
        line = await ScriptedPeer(world).connect(a)
        assert await line.ask(Store(forged)) == Stored()
        found = await c.node.get("k", owner=str(a.node_id))
        assert (found.winner.value, found.siblings) == (b"mine", ())


async def test_writes_of_one_key_through_one_node_stand_in_a_row(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, _ = await network(world, 3)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(a.node.put, "k", b"%d" % number)
        found = await b.node.get("k", consistency="all")
        assert found.siblings == ()
        # Nor is a lock kept for each key ever written.
        assert not a.services.dht._writing


async def test_a_silent_replica_costs_little_once_a_quorum_has_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5)
        await nodes[0].node.put("k", b"v")
        silent = nodes[4]
        cut = Cut(
            frozenset({silent.network.host}), frozenset(each.network.host for each in nodes[:4])
        )
        world.network.medium.cut(cut)
        began = trio.current_time()
        written = await nodes[0].node.put("k", b"w")
        assert (written.stored, written.wanted) == (4, 5)
        assert (await nodes[1].node.get("k")).winner.value == b"w"
        assert trio.current_time() - began < DhtConfig().request_timeout
        # To know that there is nothing, it is waited for, but once.
        began = trio.current_time()
        with pytest.raises(NotFound):
            await nodes[1].node.get("other")
        assert trio.current_time() - began < 1.5 * DhtConfig().request_timeout


async def test_a_replica_that_was_late_gets_the_record_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 8, dht__k=3, dht__replication=3, dht__read_quorum=3)
        await nodes[0].node.put("k", b"v")
        key = Key.of("k")
        late, *_ = closest_first([each.node_id for each in nodes[1:]], key)
        paused = next(each for each in nodes if each.node_id == late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.pause, paused, seconds=1))
            await trio.sleep(0.1)
            # Others have taken its place, and it was sent nothing to find when it is back.
            assert (await nodes[0].node.put("k", b"w")).stored == 3
        assert [each.record.value for each in await paused.services.replica.read(key)] == [b"v"]
        # Long before repair comes by.
        await trio.sleep(0.5)
        assert [each.record.value for each in await paused.services.replica.read(key)] == [b"w"]


async def test_a_replica_that_a_write_did_not_reach_gets_it_afterwards(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Store] = []
    take = Replica._take

    def lose_one(replica: Replica, call: Call, message: Store) -> None:
        if not lost:
            lost.append(message)
        else:
            take(replica, call, message)

    async with open_world(1) as world:
        monkeypatch.setattr(Replica, "_take", lose_one)
        nodes = await network(world, 5)
        written = await nodes[0].node.put("k", b"v")
        assert (written.stored, written.wanted) == (4, 5)
        await trio.sleep(0.5)
        held = [await each.services.replica.read(Key.of("k")) for each in nodes]
        assert all(each[0].record.value == b"v" for each in held)


async def test_a_replica_that_refuses_a_write_is_left_to_repair(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Store] = []
    take = Replica._take

    def refuse_one(replica: Replica, call: Call, message: Store) -> None:
        if replica is nodes[4].services.replica:
            asked.append(message)
            raise InvalidRequest("it breaks a rule")
        take(replica, call, message)

    async with open_world(1) as world:
        monkeypatch.setattr(Replica, "_take", refuse_one)
        nodes = await network(world, 5)
        written = await nodes[0].node.put("k", b"v")
        assert (written.stored, written.wanted) == (4, 5)
        await trio.sleep(2)
        assert len(asked) == 1


async def test_what_most_could_not_say_is_not_said_to_be_absent(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 6)
        hosts = [each.network.host for each in nodes]
        world.network.medium.cut(Cut(frozenset(hosts[:1]), frozenset(hosts[1:])))
        with pytest.raises(TooFewReplicas, match="1 of 6 replicas answered"):
            await nodes[0].node.get("k")
        with pytest.raises(TooFewReplicas, match="5 of the nodes that may have it"):
            await nodes[0].node.get("k", consistency="one")
        with pytest.raises(TooFewReplicas):
            await nodes[0].node.delete("k")
        with pytest.raises(NotFound):
            await nodes[1].node.get("k")


async def test_no_record_covers_what_will_be_written_after_it(autojump_clock: MockClock) -> None:
    """Else what a node writes from then on would be acknowledged, and lost."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, dht__write_quorum=1, dht__read_quorum=1)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        await a.node.put("k", b"v")
        stored = await line.ask(FindValue(Key.of("k"), closer=False))
        assert isinstance(stored, Value)
        written = open_record(stored.versions[0])
        actor, clock = actor_of(written.writer, written.instance), (now_ms() + 1000) << 16
        for ahead in (0, 1 << 40):
            seen = (Seen(actor, clock + ahead),)
            bad = record(peer, "k", b"x", clock=clock, seen=seen)
            assert isinstance(await line.ask(Store(bad)), Failed)
        assert await line.ask(Store(record(peer, "k", b"x", clock=clock))) == Stored()
        for value in (b"1", b"2", b"3"):
            await a.node.put("k", value)
            assert (await a.node.get("k")).winner.value == value


async def test_who_was_refused_or_has_no_address_is_no_replica_that_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        foreign = await ScriptedPeer(world, terms={"network": "elsewhere"}).connect(a)
        assert isinstance(foreign.heard[-1], Refused)
        began = trio.current_time()
        assert (await a.node.put("k", b"v")).stored == 1
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        await a.node.put("k", b"v")
        line.stream.break_now()
        await trio.sleep(0.1)
        await a.node.put("k", b"v")
        assert (await a.node.get("k")).winner.value == b"v"
        assert trio.current_time() - began < 1
        # With others, it still knows all there are, and asks them at once.
        b = await world.start("b", lan=None, bootstrap=[a])
        await trio.sleep(10)
        for node in (a, b):
            assert node.services.routes.known_closest(Key.of("k"), 20) is not None


@pytest.mark.parametrize("set_back", [0, 3600])
async def test_who_was_heard_in_the_future_is_away_like_others(
    autojump_clock: MockClock, set_back: float
) -> None:
    """Hosts come back from a power cut with their clocks set back; most others don't."""
    async with open_world(1) as world:
        small: Any = {"dht__k": 5, "dht__replication": 5}
        b, *off = [await world.start(name, lan=None, **small) for name in "bcdef"]
        a = await world.start("a", lan=None, bootstrap=[b, *off], **small)
        a.clock_error = b.clock_error = set_back
        await world.until(lambda: a.is_connected_to(b, *off), within=20)
        await world.crash(a)
        await world.start("a")
        await world.until(lambda: a.is_connected_to(b, *off), within=20)
        await trio.sleep(120)
        await world.crash(a)
        await world.crash(b)
        gone = frozenset(each.network.host for each in off)
        world.network.medium.cut(Cut(gone, frozenset({a.network.host, b.network.host})))
        await trio.sleep(60)
        a.clock_error = b.clock_error = 0
        await world.start("b")
        await world.start("a")
        await trio.sleep(150)
        assert (await a.node.put("k", b"v")).stored == 2


@pytest.mark.parametrize("consistency", ["quorum", "all"])
@pytest.mark.parametrize(("size", "dead"), [(4, 1), (4, 2), (6, 1), (6, 2)])
async def test_others_take_the_place_of_replicas_that_are_gone(
    autojump_clock: MockClock, size: int, dead: int, consistency: str
) -> None:
    """In the moment after they died, for a node that is none of the closest itself."""
    async with open_world(1) as world:
        nodes = await network(world, size, dht__replication=3, connections__target=1)
        reader, ids = nodes[0], [each.node_id for each in nodes]
        names = (f"k{number}" for number in itertools.count())
        name = next(
            each for each in names if reader.node_id not in closest_first(ids, Key.of(each))[:3]
        )
        await reader.node.put(name, b"v")
        await trio.sleep(100)
        for victim in closest_first(ids, Key.of(name))[:dead]:
            await world.crash(next(each for each in nodes if each.node_id == victim))
        found = await reader.node.get(name, consistency=consistency)
        assert found.winner.value == b"v"
        assert (await reader.node.put(name, b"w")).stored >= 2


async def test_who_is_gone_is_asked_before_it_is_missed(autojump_clock: MockClock) -> None:
    """Those who are out of the routing table, but were heard a moment ago."""
    async with open_world(1) as world:
        a, b, *others = await network(world, 4)
        for other in others:
            a.services.roster.connections[other.node_id].abort("a test", Ending.UNWANTED)
            await world.crash(other)
            entry = a.services.registry.get(other.node_id)
            assert entry is not None
            a.services.registry.failed(entry, "a test", trio.current_time())
            a.services.routes.died(other.node_id)
        assert len(a.services.routes.missing({a.node_id, b.node_id})) == 2
        assert (await a.node.put("k", b"v", if_version="")).stored == 2
        assert (await b.node.get("k")).winner.value == b"v"


@pytest.mark.parametrize("switched_off", [False, True])
async def test_who_left_is_no_node_that_may_have_the_key(
    autojump_clock: MockClock, switched_off: bool
) -> None:
    async with open_world(1) as world:
        a, b = await world.start("a"), await world.start("b")
        await trio.sleep(10)
        for number in range(6):
            guest = await world.start(f"guest{number}")
            await trio.sleep(2.5)
            await world.stop(guest)
            if switched_off:
                # Nobody refuses a dial there.
                away = frozenset({guest.network.host})
                world.network.medium.cut(Cut(away, frozenset({a.network.host, b.network.host})))
            for pause in (0.1, 5):
                await trio.sleep(pause)
                for node in (a, b):
                    with pytest.raises(NotFound):
                        await node.node.get("k")


DAY = 86400.0


async def test_a_clock_far_ahead_stops_nobody_but_itself(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b, ahead = await network(world, 3)
        ahead.clock_error = 3 * DAY
        with pytest.raises(TooFewReplicas, match="check the writer's clock"):
            await ahead.node.put("k", b"far ahead")
        # It is on that one's own disk, and the others read it there.
        for node in (a, b):
            for name in ("k", "other"):
                assert (await node.node.put(name, b"v")).stored == 3
                assert (await a.node.get(name, consistency="all")).winner.value == b"v"
        ahead.clock_error = 0
        assert (await ahead.node.put("k", b"right again")).stored == 3
        assert (await a.node.get("k")).winner.value == b"right again"


@pytest.mark.parametrize("number", [MAX_SIBLINGS - 1, MAX_SIBLINGS])
async def test_what_finds_no_place_beside_records_dated_ahead_is_not_acknowledged(
    autojump_clock: MockClock, *, number: int
) -> None:
    """Readers pass these over, and would find nothing."""
    async with open_world(1) as world:
        a, b, c = await network(world, 3)
        clock = (now_ms() + MAX_CLOCK_AHEAD_MS - 60_000) << 16
        for each in range(number):
            liar = ScriptedPeer(world, host=f"10.9.{each}.1")
            for node in (a, b, c):
                line = await liar.connect(node)
                stored = await line.ask(Store(record(liar, "k", b"ahead", clock=clock)))
                assert stored == Stored()
        if number < MAX_SIBLINGS:
            assert (await a.node.put("k", b"v")).stored == 3
            assert (await b.node.get("k")).winner.value == b"v"
        else:
            with pytest.raises(TooFewReplicas, match="a day ahead"):
                await a.node.put("k", b"v")
        assert_unharmed(a, b, c)


async def test_a_replica_that_shows_the_last_of_all_clocks_stops_nobody(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, _ = await network(world, 2)
        liar = ScriptedPeer(world, listens=True)
        shown = record(liar, "k", b"v", clock=(1 << 64) - 1)

        def answer(message: Message) -> Message | None:
            if isinstance(message, FindValue):
                return Value((shown,), ())
            return Nodes(()) if isinstance(message, FindNode) else Stored()

        await world._nursery.start(liar.listen, lambda line: line.serve(answer))
        await a.node.connect(str(liar.address))
        await trio.sleep(10)
        for name in ("k", "other", "k"):
            await a.node.put(name, b"v")
        assert (await a.node.get("k", consistency="all")).winner.value == b"v"
        assert_unharmed(a)


async def test_one_replica_that_shows_what_is_dated_ahead_does_not_hide_that_a_key_is_absent(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 4)
        liar = ScriptedPeer(world, listens=True)
        shown = record(liar, "k", b"v", clock=(1 << 64) - 1)

        def answer(message: Message) -> Message | None:
            return Value((shown,), ()) if isinstance(message, FindValue) else Nodes(())

        await world._nursery.start(liar.listen, lambda line: line.serve(answer))
        await nodes[0].node.connect(str(liar.address))
        await trio.sleep(10)
        with pytest.raises(NotFound):
            await nodes[0].node.get("k")
        with pytest.raises(NotFound):
            await nodes[0].node.delete("k")


async def test_who_is_far_behind_says_so_however_many_others_were_asked_on_the_way(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 30, dht__replication=3)
        reader = nodes[0]
        reader.clock_error = -30 * 3600.0
        for number in range(5):
            await nodes[1].node.put(f"k{number}", b"v")
            with pytest.raises(TooFewReplicas, match="ahead of this node's clock"):
                await reader.node.get(f"k{number}")


async def test_who_is_far_behind_says_so_instead_of_that_there_is_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        await a.node.put("k", b"v")
        b.clock_error = -3 * DAY
        for consistency in ("one", "quorum", "all"):
            with pytest.raises(TooFewReplicas, match="clock"):
                await b.node.get("k", consistency=consistency)
        with pytest.raises(TooFewReplicas, match="clock"):
            await b.node.delete("k")
        # It would be past its time at once, and be nowhere.
        with pytest.raises(TooFewReplicas, match="past its time"):
            await b.node.put("other", b"v", ttl=DAY)
        assert (await a.node.get("k")).winner.value == b"v"


async def test_who_is_far_behind_says_so_where_half_of_the_replicas_have_what_it_refuses(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        [a] = await network(world, 1)
        await a.node.put("k", b"v")
        b = await world.start("b", lan=None, bootstrap=[a])
        b.clock_error = -3 * DAY
        await trio.sleep(60)
        assert Key.of("k") not in b.services.replica.tree
        with pytest.raises(TooFewReplicas, match="ahead of this node's clock"):
            await b.node.get("k")


@pytest.mark.parametrize("before", [[], [b"before"]])
async def test_a_value_that_is_over_already_is_not_acknowledged(
    autojump_clock: MockClock, before: list[bytes]
) -> None:
    async with open_world(1) as world:
        a, b, _ = await network(world, 3)
        for value in before:
            await a.node.put("k", value)
        b.clock_error = -400.0
        with pytest.raises(TooFewReplicas, match="past its time"):
            await b.node.put("k", b"v", ttl=300)
        await b.node.put("k", b"v", ttl=500)
        assert (await a.node.get("k")).winner.value == b"v"


async def test_what_has_ended_by_the_writers_clock_is_replaced_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, c = await network(world, 3)
        await a.node.put("k", b"1", ttl=300)
        b.clock_error = 400.0
        await b.node.put("k", b"2")
        assert (await c.node.get("k")).siblings == ()
        await b.node.delete("k")
        with pytest.raises(NotFound):
            await c.node.get("k")


async def test_a_delete_by_a_clock_far_behind_holds(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        await a.node.put("k", b"v")
        b.clock_error = -DAY / 2
        await b.node.delete("k")
        a.clock_error = b.clock_error = 30 * DAY - 3600
        await trio.sleep(2 * PURGE_INTERVAL)
        # As long as anybody else's is it kept.
        assert Key.of("k") in a.services.replica.tree
        with pytest.raises(NotFound):
            await a.node.get("k")


async def test_a_delete_by_a_clock_days_behind_is_refused(autojump_clock: MockClock) -> None:
    """Replicas would forget it days too soon, and who was away would bring back what was there."""
    async with open_world(1) as world:
        a, b, _ = await network(world, 3)
        await a.node.put("k", b"v")
        for node in world.living():
            node.clock_error = 40 * DAY
        b.clock_error = 38 * DAY
        with pytest.raises(TooFewReplicas, match="past its time"):
            await b.node.delete("k")
        await a.node.put("k", b"w")
        b.clock_error = 39.1 * DAY
        await b.node.delete("k")


@pytest.mark.parametrize("size", [10, 30])
async def test_nothing_is_said_of_a_key_while_its_replicas_are_silent(
    autojump_clock: MockClock, size: int
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, size, dht__replication=3)
        await nodes[0].node.put("k", b"v")
        await trio.sleep(60)
        home = closest(world, Key.of("k"), 3)
        others = [each for each in nodes if each not in home]
        world.network.medium.cut(
            Cut(
                frozenset(each.network.host for each in home),
                frozenset(each.network.host for each in others),
            )
        )
        # Later they are held dead.
        for node in others[:2]:
            with pytest.raises(TooFewReplicas):
                await node.node.get("k")


async def test_what_a_tombstone_does_not_cover_is_found_though_that_came_first(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, c = await network(world, 3, dht__repair_interval=100_000.0)
        one, other, at = ScriptedPeer(world), ScriptedPeer(world), now_ms() << 16
        seen = (Seen(actor_of(one.identity.public_key, bytes(8)), at - 3),)
        name = next(
            f"k{number}"
            for number in range(100)
            if closest(world, Key.of(f"k{number}"), 3)[-1] is c
        )
        stale = record(one, name, b"stale", clock=at - 3)
        deleted = record(other, name, None, clock=at - 2, seen=seen, expires=now_ms())
        apart = record(one, name, b"apart", clock=at - 1, instance=b"another.")
        for node, version in ((a, stale), (b, deleted), (c, apart)):
            await node.services.replica.write_all([version], {Key.of(name)})
        assert (await a.node.get(name)).winner.value == b"apart"


async def test_what_joined_after_a_write_does_not_hide_it_from_a_delete(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await trio.sleep(60)
        await a.node.put("k", b"1")
        await world.start("b", lan=None, bootstrap=[a])
        c = await world.start("c", lan=None, bootstrap=[a])
        await trio.sleep(1)
        await c.node.put("k", b"2")
        await c.node.delete("k")
        await trio.sleep(60)
        with pytest.raises(NotFound):
            await c.node.get("k")


@pytest.mark.parametrize("settled", [20, 600])
async def test_whoever_is_cut_off_refuses_at_first_also_who_never_dialled(
    autojump_clock: MockClock, settled: float
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5)
        await trio.sleep(settled)
        hosts = [node.network.host for node in nodes]
        for few in ([nodes[0]], [nodes[-1]], nodes[:2]):
            here = frozenset(node.network.host for node in few)
            cut = Cut(here, frozenset(hosts) - here)
            world.network.medium.cut(cut)
            for node in few:
                with pytest.raises(TooFewReplicas, match=f"{len(few)} of 5 replicas"):
                    await node.node.put("k", b"v")
            world.network.medium.heal(cut)
            await trio.sleep(120)


async def test_who_restarts_while_cut_off_refuses_at_first(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5)
        await nodes[0].node.put("k", b"v")
        await trio.sleep(60)
        alone = nodes[0]
        hosts = frozenset(each.network.host for each in nodes[1:])
        await world.stop(alone)
        world.network.medium.cut(Cut(frozenset({alone.network.host}), hosts))
        await world.start(alone.name)
        for _ in range(6):
            await trio.sleep(5)
            with pytest.raises(TooFewReplicas):
                await alone.node.put("k", b"alone")


@pytest.mark.parametrize("latency", [0.0005, 0.05])
async def test_many_large_values_at_once_break_no_connection(
    autojump_clock: MockClock, latency: float
) -> None:
    async with open_world(1, constant_latency(latency)) as world:
        nodes = await network(world, 5, store__max_value_bytes=1 << 18)
        values = {f"k{number}": world.rng.randbytes(1 << 18) for number in range(32)}
        async with trio.open_nursery() as nursery:
            for name, value in values.items():
                nursery.start_soon(nodes[0].node.put, name, value)

        async def get(name: str) -> None:
            assert (await nodes[1].node.get(name)).winner.value == values[name]

        async with trio.open_nursery() as nursery:
            for name in values:
                nursery.start_soon(get, name)
        for node in nodes:
            assert "peer.disconnected" not in node.codes()
