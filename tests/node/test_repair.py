"""Replicas that compare, give and fetch, among few nodes and with scripted peers."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.core.merkle import EMPTY, EVERYTHING, Prefix, Tree, compare, prefix_of
from p2pd.core.records import version_of
from p2pd.core.stalemates import MOST_PAUSES
from p2pd.core.tending import SOON, TENDERS
from p2pd.errors import (
    BadMessage,
    Busy,
    NotFound,
    P2PError,
    PeerError,
    RequestRefused,
    StoreError,
    TooFewReplicas,
)
from p2pd.ids import Key, NodeId, closest_first
from p2pd.net.faults import Cut
from p2pd.node import repair, republish
from p2pd.node.reconciler import (
    BATCH_BYTES,
    BYTES_AT_ONCE,
    BYTES_PER_SECOND,
    LEAST_COST,
    REPLY_TIMEOUT,
    Outcome,
    Reconciler,
)
from p2pd.node.repair import NEW, Repair
from p2pd.node.replica import PURGE_INTERVAL, Replica
from p2pd.simulation.checks import closest
from p2pd.simulation.trace import Traffic
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.memory import MemoryStore
from p2pd.wire.identity import open_record
from p2pd.wire.messages import (
    MAX_GIVEN,
    MAX_KEYS,
    Compare,
    Compared,
    Difference,
    Failed,
    Fetch,
    Fetched,
    FindValue,
    Give,
    Given,
    Message,
    Ping,
    Pong,
    Seen,
    Signed,
    Subtree,
)
from p2pd.wire.session import Replied
from tests.node.scripted import HungUp, Line, ScriptedPeer, assert_unharmed, now_ms
from tests.node.test_dht import network, record

WHAT_IS_THERE = Compare((Subtree(b"", 0, EMPTY),))


def tree(node: SimNode) -> Tree:
    return node.services.replica.tree


def holders(world: World, name: str) -> list[SimNode]:
    return [node for node in world.living() if Key.of(name) in tree(node)]


def all_at_home(world: World, names: list[str], replication: int) -> bool:
    return all(
        Key.of(name) in tree(node)
        for name in names
        for node in closest(world, Key.of(name), replication)
    )


async def put_all(nodes: list[SimNode], names: list[str]) -> None:
    for number, name in enumerate(names):
        await nodes[number % len(nodes)].node.put(name, name.encode())


async def test_the_tree_is_of_what_is_stored_also_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, _ = await network(world, 3)
        await put_all([a, b], [f"k{number}" for number in range(50)])
        await a.node.put("k1", b"other")
        await b.node.delete("k2")
        before = tree(a).fingerprint()
        assert len(tree(a)) == 50
        assert before == tree(b).fingerprint() != EMPTY
        await world.stop(a)
        await world.start(a.name)
        await a.services.replica.loaded.wait()
        assert tree(a).fingerprint() == before


async def test_what_expires_leaves_all_trees_at_the_same_moment(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 3)
        for number in range(20):
            await nodes[0].node.put(f"k{number}", b"v", ttl=20.0 * (number + 1))
        await nodes[1].node.put("replaced", b"v")
        await nodes[1].node.put("replaced", b"w", ttl=1.0)
        for moment in range(60):
            await trio.sleep(PURGE_INTERVAL / 30 + 0.3)
            prints = {tree(node).fingerprint() for node in nodes}
            assert len(prints) == 1, moment
        # What replaced something is kept, so that nobody brings back what was there.
        assert [len(tree(node)) for node in nodes] == [1, 1, 1]
        with pytest.raises(NotFound):
            await nodes[2].node.get("replaced")
        assert [node.node.snapshot().store.records for node in nodes] == [1, 1, 1]


async def test_a_newcomer_takes_over_and_a_node_that_was_away_catches_up(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        names = [f"k{number}" for number in range(100)]
        await put_all([a, b], names)
        c = await world.start("c", lan=None, bootstrap=[a])
        await world.until(lambda: len(tree(c)) == len(names), within=10)
        await world.stop(c)
        await a.node.delete("k1")
        await a.node.put("k2", b"changed")
        await a.node.put("new", b"v")
        await world.start("c")
        await world.until(lambda: tree(c).fingerprint() == tree(a).fingerprint(), within=10)
        await world.crash(a)
        await world.crash(b)
        await trio.sleep(30)
        assert (await c.node.get("k2", consistency="one")).winner.value == b"changed"
        assert (await c.node.get("new", consistency="one")).winner.value == b"v"
        with pytest.raises(NotFound):
            await c.node.get("k1", consistency="one")


async def test_every_replica_is_compared_with_however_far_it_is_from_the_tenders(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those closest to a key need not be those closest to its tenders."""

    async def bring_nothing_home(_: republish.Republisher) -> None:
        pass

    monkeypatch.setattr(repair, "MARGIN", 0)
    monkeypatch.setattr(republish.Republisher, "round", bring_nothing_home)
    async with open_world(3) as world:
        nodes = await network(world, 30, dht__replication=3, dht__repair_interval=60.0)
        ids = [node.node_id for node in nodes]

        def is_far(name: str) -> bool:
            *tenders, last = (node.node_id for node in closest(world, Key.of(name), 3))
            return not any(last in closest_first(ids, each)[: 1 + 3] for each in tenders)

        names = [name for name in (f"k{number}" for number in range(3000)) if is_far(name)][:20]
        writer = ScriptedPeer(world)
        for name in names:
            signed = record(writer, name, b"v")
            for tender in closest(world, Key.of(name), TENDERS):
                await tender.services.replica.write_all([signed], {Key.of(name)})
        assert names
        assert not any(all_at_home(world, [name], 3) for name in names)
        await world.until(lambda: all_at_home(world, names, 3), within=300)


async def test_who_restarts_unseen_soon_gets_what_was_written_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        # So many that their turns come seldom; most are not connected to those that tend.
        nodes = await network(world, 24, connections__target=2)
        await put_all(nodes[:1], ["other"])
        await trio.sleep(700)
        away, writer = nodes[1], nodes[-1]
        await world.crash(away)
        names = [f"k{number}" for number in range(12)]
        await put_all([writer], names)
        # It has it no longer to give it to whoever was late.
        await world.crash(writer)
        await world.start(away.name)
        mine = [name for name in names if away in closest(world, Key.of(name), 20)]
        assert mine
        assert not any(away in holders(world, name) for name in mine)
        await world.until(lambda: all(away in holders(world, name) for name in mine), within=60)


async def test_what_was_written_on_both_sides_of_a_cut_is_on_both_afterwards(
    autojump_clock: MockClock,
) -> None:
    async with open_world(2) as world:
        nodes = await network(world, 6)
        hosts = [node.network.host for node in nodes]
        cut = Cut(frozenset(hosts[:3]), frozenset(hosts[3:]))
        world.network.medium.cut(cut)
        await trio.sleep(60)
        for node in (nodes[0], nodes[5]):
            await node.node.put("both", node.name.encode())
        await nodes[1].node.put("one side", b"v")
        world.network.medium.heal(cut)
        healed = await world.until(
            lambda: len({tree(node).fingerprint() for node in nodes}) == 1, within=90
        )
        print(f"healed after {healed:.0f} s")
        for node in nodes:
            assert len((await node.node.get("both", consistency="one")).siblings) == 1
            assert (await node.node.get("one side", consistency="one")).winner.value == b"v"


async def test_whom_a_node_had_only_not_met_is_compared_with_later_than_a_newcomer(
    autojump_clock: MockClock,
) -> None:
    # So long that nobody looks around by chance meanwhile.
    interval: dict[str, Any] = {"dht__repair_interval": 20_000.0}
    async with open_world(3) as world:
        a, b = await network(world, 2, **interval)
        c = await world.start("c", lan=None, **interval)
        d = await world.start("d", lan=None, bootstrap=[c], **interval)
        await trio.sleep(NEW)
        await put_all([a, c], ["of a and b", "of c and d"])
        await trio.sleep(NEW)
        with Traffic(world.network.medium) as traffic:
            await a.node.connect(str(c.address))
            await trio.sleep(2 * SOON[0][1] + 1)
        assert "Compare" not in dict(traffic.most_first())
        both = await world.until(
            lambda: len({tree(node).fingerprint() for node in (a, b, c, d)}) == 1, within=20_000
        )
        print(f"all the same after {both:.0f} s")
        newcomer = await world.start("e", lan=None, bootstrap=[d], **interval)
        await world.until(lambda: len(tree(newcomer)) == 2, within=10)


async def test_who_looked_around_together_does_not_do_so_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All look when one of them goes; when it is back, each in its own time."""
    looked: list[float] = []
    look_around = Repair._look_around

    async def noted(self: Repair) -> None:
        looked.append(trio.current_time())
        await look_around(self)

    async with open_world(1) as world:
        nodes = await network(world, 12)
        await nodes[0].node.put("a", b"1")
        await trio.sleep(700)
        monkeypatch.setattr(Repair, "_look_around", noted)
        await world.stop(nodes[1])
        await trio.sleep(20)
        assert len(looked) == 11
        assert max(looked) - min(looked) < 5
        looked.clear()
        await world.start(nodes[1].name)
        # Its own look around is at once.
        await trio.sleep(20)
        looked.clear()
        await trio.sleep(600)
        assert len(looked) == 11
        assert max(looked) - min(looked) > 30


async def test_who_leaves_hands_over(autojump_clock: MockClock) -> None:
    async with open_world(3) as world:
        nodes = await network(world, 10, dht__replication=3)
        names = [f"k{number}" for number in range(60)]
        await put_all(nodes, names)
        await trio.sleep(120)
        assert all_at_home(world, names, 3)
        for node in nodes[:6]:
            began = trio.current_time()
            await world.stop(node)
            assert trio.current_time() - began < 5
            # At once, before any of those who stay could have noticed.
            assert all_at_home(world, names, 3)
            await trio.sleep(60)
        assert_unharmed(*nodes[6:])


@pytest.mark.parametrize("at_once", [republish.MAX_AT_ONCE, 2])
async def test_what_belongs_elsewhere_is_dropped_once_it_is_there(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    dropped: list[int] = []
    drop = Replica.drop

    async def note(replica: Replica, digests: Mapping[Key, bytes]) -> None:
        dropped.append(len(digests))
        await drop(replica, digests)

    monkeypatch.setattr(republish, "MAX_AT_ONCE", at_once)
    monkeypatch.setattr(Replica, "drop", note)
    async with open_world(4) as world:
        settings: dict[str, Any] = {"dht__replication": 3, "dht__repair_interval": 60.0}
        first = await network(world, 3, **settings)
        names = [f"k{number}" for number in range(40)]
        await put_all(first, names)
        for number in range(7):
            await world.start(f"m{number}", lan=None, bootstrap=[first[0]], **settings)
        await world.until(lambda: all_at_home(world, names, 3), within=60)
        gone = await world.until(
            lambda: all(len(holders(world, name)) == 3 for name in names), within=600
        )
        print(f"dropped after {gone:.0f} s")
        assert 0 < max(dropped) <= at_once
        assert all_at_home(world, names, 3)
        assert_unharmed(*world.living())


async def test_what_others_bring_back_is_dropped_ever_more_seldom(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that never reach each other, each takes somebody else for a replica."""
    dropped: Counter[Key] = Counter()
    drop = Replica.drop

    async def note(replica: Replica, digests: Mapping[Key, bytes]) -> None:
        dropped.update(list(digests))
        await drop(replica, digests)

    monkeypatch.setattr(Replica, "drop", note)
    async with open_world(1) as world:
        nodes = await network(world, 10, dht__replication=3, dht__repair_interval=60.0)
        one, other = (frozenset({node.network.host}) for node in nodes[3:5])
        world.network.medium.cut(Cut(one, other))
        await trio.sleep(360)
        await put_all(nodes[:3], [f"k{number}" for number in range(60)])
        await trio.sleep(40 * 60)
        assert 2 < max(dropped.values()) <= 40 / MOST_PAUSES + 6
        assert_unharmed(*nodes)


async def test_nothing_is_dropped_while_one_of_its_replicas_lacks_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(5) as world:
        settings: dict[str, Any] = {"dht__replication": 3, "dht__repair_interval": 60.0}
        nodes = await network(world, 10, **settings)
        key = Key.of("k")
        *home, elsewhere = [*closest(world, key, 3), closest(world, key, 10)[9]]

        async def refuse(*_: object) -> None:
            raise StoreError("full")

        with monkeypatch.context() as patch:
            patch.setattr(home[2].store, "apply", refuse)
            writer = ScriptedPeer(world)
            await elsewhere.services.replica.write_all([record(writer, "k", b"v")], {key})
            await trio.sleep(600)
            assert Key.of("k") in tree(elsewhere)
            assert [Key.of("k") in tree(node) for node in home] == [True, True, False]
        await world.until(lambda: holders(world, "k") == sorted_like(nodes, home), within=600)


async def test_who_becomes_a_replica_while_it_brings_a_record_home_keeps_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconcile = Reconciler.reconcile

    async def kill_the_first(*args: Any, take: bool = True, **options: Any) -> Outcome:
        outcome = await reconcile(*args, take=take, **options)
        # Without `take`, as who brings records home does.
        if args[1] == home[2].node_id and not take and home[0].running is not None:
            await world.crash(home[0])
            # Until its tenders are done with making up for the death.
            await trio.sleep(60)
        return outcome

    monkeypatch.setattr(Reconciler, "reconcile", kill_the_first)
    async with open_world(5) as world:
        settings: dict[str, Any] = {"dht__replication": 3, "dht__repair_interval": 60.0}
        await network(world, 10, **settings)
        key = Key.of("k")
        *home, next_one = closest(world, key, 4)
        signed = record(ScriptedPeer(world), "k", b"v")
        for node in (*home, next_one):
            await node.services.replica.write_all([signed], {key})
        await world.until(lambda: home[0].running is None, within=600)
        for _ in range(300):
            assert key in tree(next_one)
            await trio.sleep(1)


@pytest.mark.parametrize("at_once", [republish.MAX_AT_ONCE, 2])
async def test_each_key_is_dropped_only_once_all_its_own_replicas_have_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    early: list[Key] = []
    drop = Replica.drop

    async def check(replica: Replica, digests: Mapping[Key, bytes]) -> None:
        early.extend(
            key for key in digests if not all(key in tree(node) for node in closest(world, key, 3))
        )
        await drop(replica, digests)

    monkeypatch.setattr(republish, "MAX_AT_ONCE", at_once)
    monkeypatch.setattr(Replica, "drop", check)
    async with open_world(6) as world:
        settings: dict[str, Any] = {"dht__replication": 3, "dht__repair_interval": 60.0}
        elsewhere = (await network(world, 16, **settings))[0]
        # So many that each prefix with the same closest nodes is next to others that have keys.
        names = {f"k{number}": Key.of(f"k{number}") for number in range(200)}
        away = {name: key for name, key in names.items() if elsewhere not in closest(world, key, 3)}
        writer = ScriptedPeer(world)
        records = [record(writer, name, b"v") for name in away]
        await elsewhere.services.replica.write_all(records, {*away.values()})
        there_already = [Key.of(f"other{number}") for number in range(50)]
        for number, key in enumerate(there_already):
            for node in closest(world, key, 3):
                if node is not elsewhere:
                    signed = record(writer, f"other{number}", b"v", clock=now_ms() << 16)
                    await node.services.replica.write_all([signed], {key})
        foreign = [key for key in there_already if elsewhere not in closest(world, key, 3)]
        taken: list[Key] = []

        def all_dropped() -> bool:
            taken.extend(key for key in foreign if key in tree(elsewhere))
            return not any(key in tree(elsewhere) for key in away.values())

        await world.until(all_dropped, within=3600)
        assert early == []
        assert taken == []
        assert all_at_home(world, [*away], 3)


async def test_what_lying_tenders_hold_back_reaches_the_other_replicas(
    autojump_clock: MockClock,
) -> None:
    async with open_world(23) as world:
        settings: dict[str, Any] = {"dht__repair_interval": 60.0, "dht__republish_interval": 600.0}
        nodes = await network(world, 3, **settings)
        liars: list[NodeId] = []
        for number in range(TENDERS):
            liar = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            liars.append(liar.identity.node_id)

            def answer(question: Message) -> Message:
                same = isinstance(question, Compare)
                return Compared(()) if same else Failed("unknown", "not served")

            await world._nursery.start(liar.listen, lambda line: line.serve(answer))
            for node in nodes:
                await node.node.connect(str(liar.address))
        everybody = [*(node.node_id for node in nodes), *liars]
        name = next(
            name
            for name in (f"k{number}" for number in range(1000))
            if {*closest_first(everybody, Key.of(name))[:TENDERS]} == {*liars}
        )
        await trio.sleep(NEW)
        writer = ScriptedPeer(world, host="10.9.9.1")
        await nodes[0].services.replica.write_all([record(writer, name, b"v")], {Key.of(name)})
        took = await world.until(lambda: len(holders(world, name)) == 3, within=1000)
        print(f"with all after {took:.0f} s")


async def test_what_can_not_be_brought_home_holds_up_nothing_behind_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(republish, "AMONG", 4)
    async with open_world(5) as world:
        settings: dict[str, Any] = {"dht__replication": 3, "dht__repair_interval": 60.0}
        nodes = await network(world, 16, **settings)
        elsewhere = nodes[0]
        # To the node they are one prefix, all of which belongs to others.
        names = {f"k{number}": Key.of(f"k{number}") for number in range(400)}
        far = sorted(
            (name for name, key in names.items() if (key[0] ^ elsewhere.node_id[0]) & 0x80),
            key=names.__getitem__,
        )
        home = {name: closest(world, names[name], 3) for name in far}
        full = home[far[0]][0]
        held_up = [name for name in far if full in home[name]][: republish.AMONG]
        behind = [name for name in far if names[name] > names[held_up[-1]]]
        behind = [name for name in behind if full not in home[name]][-10:]
        assert len(behind) == 10
        assert not any(elsewhere in home[name] for name in [*held_up, *behind])

        async def refuse(*_: object) -> None:
            raise StoreError("full")

        monkeypatch.setattr(full.store, "apply", refuse)
        writer = ScriptedPeer(world)
        records = [record(writer, name, b"v") for name in [*held_up, *behind]]
        await elsewhere.services.replica.write_all(records, {*names.values()})
        await world.until(
            lambda: all(holders(world, each) == sorted_like(nodes, home[each]) for each in behind),
            within=1800,
        )
        assert all(elsewhere in holders(world, name) for name in held_up)


def sorted_like(nodes: list[SimNode], some: list[SimNode]) -> list[SimNode]:
    return [node for node in nodes if node in some]


async def test_equal_replicas_are_left_in_peace(autojump_clock: MockClock) -> None:
    async with open_world(6) as world:
        nodes = await network(world, 5)
        await put_all(nodes, [f"k{number}" for number in range(100)])
        await trio.sleep(100)
        peer = ScriptedPeer(world)
        line = await peer.connect(nodes[0])
        whole = Compare((Subtree(b"", 0, tree(nodes[1]).fingerprint()),))
        assert await line.ask(whole) == Compared(())


async def test_questions_are_answered_in_bounded_batches(autojump_clock: MockClock) -> None:
    async with open_world(7) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        records = [record(peer, f"k{number}", bytes(20_000)) for number in range(30)]
        forged = Signed(records[0].body, bytes(64))
        assert await line.ask(Give((*records[:15], forged))) == Given(15)
        assert await line.ask(Give(tuple(records[10:]))) == Given(20)
        assert await line.ask(Give((forged,))) == Given(0)
        keys = tuple(Key.of(f"k{number}") for number in range(30))
        place = 0
        fetched: list[Signed] = []
        while place < len(keys):
            answer = await line.ask(Fetch(keys[place:]))
            assert isinstance(answer, Fetched)
            assert sum(len(each.body) for each in answer.versions) <= BATCH_BYTES
            fetched += answer.versions
            place += answer.keys
        assert fetched == records
        nothing = tuple(hashlib.sha256(bytes([number])).digest() for number in range(MAX_KEYS))
        assert await line.ask(Fetch(nothing)) == Fetched(MAX_KEYS, ())
        bad_path = Compare((Subtree(b"\x01", 4, EMPTY),))
        assert isinstance(await line.ask(bad_path), Failed)
        assert_unharmed(a)


async def test_nobody_makes_a_node_send_more_than_its_budget(autojump_clock: MockClock) -> None:
    async with open_world(8) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        for number in range(10):
            await line.ask(Give((record(peer, f"k{number}", bytes(60_000)),)))
        key = Key.of("k1")
        began, count = trio.current_time(), 200
        for _ in range(count):
            assert isinstance(await line.ask(Fetch((key,))), Fetched)
        sent = count * 60_000
        assert trio.current_time() - began >= (sent - BYTES_AT_ONCE) / BYTES_PER_SECOND - 0.5


async def test_who_can_not_be_answered_in_time_is_told_so(autojump_clock: MockClock) -> None:
    async with open_world(8) as world:
        a = await world.start("a", lan=None, store__max_value_bytes=1 << 18)
        key, writer = Key.of("k"), ScriptedPeer(world)
        siblings = [
            record(writer, "k", world.rng.randbytes(1 << 18), instance=bytes(8 * [number]))
            for number in range(4)
        ]
        await a.services.replica.write_all(siblings, {key})
        answers: list[Message] = []

        async def ask(number: int) -> None:
            line = await ScriptedPeer(world, host=f"10.9.1.{number}").connect(a)
            for _ in range(3):
                began = trio.current_time()
                answers.append(await line.ask(Fetch((key,))))
                # Later, nobody waits for an answer, and it is sent for nothing.
                assert trio.current_time() - began < REPLY_TIMEOUT
                await trio.sleep(SOON[0][0])

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        busy = [each for each in answers if isinstance(each, Failed)]
        assert {each.code for each in busy} == {Busy.code}
        assert len(answers) - len(busy) > 10


async def with_liar(
    world: World, answer: Callable[[Message], Message | None]
) -> tuple[SimNode, NodeId]:
    """Start a node with a few records, and a peer that answers its questions so."""
    a = await world.start("a", lan=None)
    liar = ScriptedPeer(world, listens=True)
    await world._nursery.start(liar.listen, lambda line: line.serve(answer))
    await a.node.connect(str(liar.address))
    return a, liar.identity.node_id


async def test_what_was_not_asked_for_is_not_taken(autojump_clock: MockClock) -> None:
    async with open_world(9) as world:
        writer = ScriptedPeer(world, host="10.9.0.2")
        wanted, other = Key.of("wanted"), record(writer, "other", b"v")

        def answer(question: Message, versions: tuple[Signed, ...] = (other,)) -> Message:
            if isinstance(question, Compare):
                return Compared((Difference(0, b"", wanted + bytes(16)),))
            return Fetched(1, versions)

        a, liar = await with_liar(world, answer)
        with pytest.raises(BadMessage):
            await a.services.reconciler.reconcile(liar, [EVERYTHING])
        assert len(tree(a)) == 0
        assert_unharmed(a)


async def test_a_liar_is_asked_a_bounded_number_of_questions(autojump_clock: MockClock) -> None:
    async with open_world(10) as world:
        asked: list[type] = []

        def answer(question: Message) -> Message:
            asked.append(type(question))
            if isinstance(question, Compare):
                children = b"".join(bytes([number]) * 16 for number in range(1, 17))
                many = (Difference(index, children, b"") for index in range(len(question.subtrees)))
                return Compared(tuple(many))
            return Fetched(1, ())

        a, liar = await with_liar(world, answer)
        await a.services.reconciler.reconcile(liar, [EVERYTHING])
        assert asked.count(Compare) <= 64
        assert_unharmed(a)


@pytest.mark.parametrize(
    "reply", [Failed("busy", "later"), Given(3), Fetched(2, ()), Compared(())], ids=repr
)
async def test_an_answer_that_is_none_ends_the_comparison(
    autojump_clock: MockClock, reply: Message
) -> None:
    async with open_world(11) as world:

        def answer(question: Message) -> Message:
            if isinstance(question, Compare) and not isinstance(reply, Failed | Compared):
                return Compared((Difference(0, b"", Key.of("k") + bytes(16)),))
            return reply

        a, liar = await with_liar(world, answer)
        if isinstance(reply, Compared):
            outcome = await a.services.reconciler.reconcile(liar, [EVERYTHING])
            assert (outcome.learned, outcome.given, outcome.same) == (0, 0, True)
        else:
            with pytest.raises((PeerError, BadMessage)):
                await a.services.reconciler.reconcile(liar, [EVERYTHING])


async def test_a_silent_peer_costs_a_timeout(autojump_clock: MockClock) -> None:
    async with open_world(12) as world:
        a = await world.start("a", lan=None)
        silent = ScriptedPeer(world, listens=True)
        await world._nursery.start(silent.listen, lambda line: line.serve(lambda _: None))
        await a.node.connect(str(silent.address))
        began = trio.current_time()
        with pytest.raises(P2PError):
            await a.services.reconciler.reconcile(silent.identity.node_id, [EVERYTHING])
        assert trio.current_time() - began < 15


async def test_a_newcomer_whose_question_nobody_answers_asks_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(25) as world:
        peer = ScriptedPeer(world, listens=True)
        keys = [Key.of(f"k{number}") for number in range(3)]
        records = [record(peer, f"k{number}", b"v") for number in range(3)]
        served_from = trio.current_time() + 2 * REPLY_TIMEOUT

        def answer(question: Message) -> Message | None:
            if trio.current_time() < served_from:
                return Failed("busy", "later")
            if isinstance(question, Compare):
                there = b"".join(key + bytes(16) for key in keys)
                return Compared((Difference(0, b"", there),))
            if isinstance(question, Fetch):
                found = [records[keys.index(Key(each))] for each in question.keys]
                return Fetched(len(found), tuple(found))
            return None

        await world._nursery.start(peer.listen, lambda line: line.serve(answer))
        a = await world.start("a", lan=None)
        await a.node.connect(str(peer.address))
        await world.until(lambda: len(tree(a)) == 3, within=90)
        assert_unharmed(a)


async def test_whom_a_user_disconnected_is_not_dialled_to_compare(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        await a.node.put("k", b"v")
        # They refresh their tables, which may dial.
        await trio.sleep(60)
        await a.node.disconnect(b.node_id)
        await trio.sleep(1)
        for one, other in ((a, b), (b, a)):
            with pytest.raises(PeerError, match="a user disconnected"):
                await one.services.reconciler.reconcile(other.node_id, [EVERYTHING])
        assert not a.is_connected_to(b)


class Closing(MemoryStore):
    """A disk that can be made to refuse to read."""

    closed = False

    async def get(self, table: Any, key: bytes) -> bytes | None:
        if self.closed:
            raise StoreError("closed")
        return await super().get(table, key)


async def test_what_was_read_or_written_last_is_read_without_the_disk(
    autojump_clock: MockClock,
) -> None:
    async with open_world(13) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.store = store = Closing()
        await world.start("a")
        await a.node.put("k", b"1")
        await a.node.put("k", b"2")
        store.closed = True
        assert (await a.node.get("k")).winner.value == b"2"
        store.closed = False
        await world.stop(a)
        await world.start("a")
        assert a.services.replica.cached(Key.of("k")) is None
        assert (await a.node.get("k")).winner.value == b"2"
        store.closed = True
        assert (await a.node.get("k")).winner.value == b"2"
        await a.node.delete("k")
        with pytest.raises(NotFound):
            await a.node.get("k")


class Hesitating(MemoryStore):
    """A disk that can be made to hand out late what it has read."""

    go_on: trio.Event | None = None

    async def get(self, table: Any, key: bytes) -> bytes | None:
        found = await super().get(table, key)
        if self.go_on is not None:
            await self.go_on.wait()
        return found


async def test_what_is_written_during_a_read_is_not_forgotten_for_what_was_read(
    autojump_clock: MockClock,
) -> None:
    async with open_world(27) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        store = a.store = Hesitating()
        await world.start("a")
        writer = ScriptedPeer(world)
        old, new = (record(writer, "k", b"v", instance=bytes(8 * [each])) for each in (1, 2))
        key = Key.of("k")
        await a.services.replica.write_all([old], {key})
        await world.stop(a)
        await world.start("a")
        replica = a.services.replica
        await replica.loaded.wait()
        store.go_on = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.read, key)
            await trio.sleep(1)
            await replica.write_all([new], {key})
            store.go_on.set()
        assert {each.signed for each in await replica.read(key)} == {old, new}


async def test_what_changed_meanwhile_is_not_dropped(autojump_clock: MockClock) -> None:
    async with open_world(28) as world:
        a = await world.start("a", lan=None)
        writer, replica = ScriptedPeer(world), a.services.replica
        names = ["changed", "same"]
        await replica.write_all(
            [record(writer, each, b"v") for each in names], {*map(Key.of, names)}
        )
        seen = {Key(key): digest for key, digest in tree(a).entries(EVERYTHING)}
        later = record(writer, "changed", b"w", instance=bytes(8 * [1]))
        await replica.write_all([later], {Key.of("changed")})
        await replica.drop(seen)
        assert [Key.of(each) in tree(a) for each in names] == [True, False]


async def test_a_record_about_to_go_is_not_given_any_more(autojump_clock: MockClock) -> None:
    async with open_world(14) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        soon = record(peer, "soon", b"v", expires=now_ms() + 60_000)
        late = record(peer, "late", b"v", expires=now_ms() + 3_600_000)
        assert await line.ask(Give((soon, late))) == Given(2)
        told = await line.ask(WHAT_IS_THERE)
        assert told == compare(tree(a), WHAT_IS_THERE)
        assert len(tree(a)) == 2
        ask = partial(Fetch, (Key.of("soon"), Key.of("late")))
        assert await line.ask(ask()) == Fetched(2, (late,))


@pytest.mark.parametrize("others", [0, 3])
async def test_what_both_tenders_missed_reaches_them_all_the_same(
    autojump_clock: MockClock, others: int
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5)
        await trio.sleep(120)
        await put_all(nodes[:1], [f"other{number}" for number in range(others)])
        first, second, *rest = closest(world, Key.of("k"), 5)
        cut = Cut(
            frozenset({first.network.host, second.network.host}),
            frozenset(each.network.host for each in rest),
        )
        world.network.medium.cut(cut)
        assert (await rest[0].node.put("k", b"v")).stored == 3
        await trio.sleep(5)
        world.network.medium.heal(cut)
        await world.until(lambda: len(holders(world, "k")) == 5, within=5400)
        for node in rest:
            await world.stop(node)
        for node in (first, second):
            assert (await node.node.get("k")).winner.value == b"v"


async def test_the_last_who_has_a_record_hands_it_over_in_a_small_network_too(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, c = await network(world, 3)
        await trio.sleep(60)
        peer = ScriptedPeer(world)
        await a.services.replica.write_all([record(peer, "k", b"v")], {Key.of("k")})
        await world.stop(a)
        assert holders(world, "k") == [b, c]


async def test_deletes_reach_a_replica_that_is_full(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, _, c = await network(world, 3)
        await world.stop(c)
        c.store = MemoryStore(max_bytes=20_000)
        await world.start(c.name)
        await trio.sleep(10)
        for number in range(30):
            await a.node.put(f"k{number}", bytes(900))
        kept = [f"k{number}" for number in range(30) if Key.of(f"k{number}") in tree(c)][:5]
        await world.crash(c)
        for name in kept:
            await a.node.delete(name)
        await world.start(c.name)
        await trio.sleep(1800)
        for name in kept:
            [version] = await c.services.replica.read(Key.of(name))
            assert version.record.value is None


async def test_what_one_replica_does_not_keep_is_not_sent_to_it_again_and_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        small = await world.start("small", lan=None, bootstrap=[a], store__max_value_bytes=1000)
        for number in range(20):
            await a.node.put(f"large{number}", world.rng.randbytes(20_000))
        await a.node.put("first", b"v")
        with Traffic(world.network.medium) as traffic:
            await trio.sleep(4 * 3600)
        sent = dict(traffic.most_first())
        print(sent)
        assert len(tree(small)) == 1
        assert sent["Give"] + sent["Fetched"] < 7_000_000
        await a.node.put("large1", b"short now")
        await world.stop(b)
        await a.node.put("large2", b"short, too")
        await world.until(lambda: len(tree(small)) == 3, within=1)
        await world.stop(small)
        await a.node.put("second", b"v")
        small.config = attrs.evolve(small.config, store=a.config.store)
        await world.start(small.name)
        await world.until(lambda: len(tree(small)) == 22, within=60)


@pytest.mark.parametrize("busy", [True, False])
async def test_a_newer_version_waits_for_a_busy_replica_shortly_and_for_a_full_one_longer(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2, dht__repair_interval=600.0)
        await a.node.put("k", b"old")
        there = b.services.replica
        with monkeypatch.context() as patch:
            error = Busy("later") if busy else StoreError("full")
            patch.setattr(there, "_enqueue", lambda write: there._settle(write, error))
            with pytest.raises(TooFewReplicas):
                await a.node.put("k", b"new")
            reconciler = a.services.repair._reconciler
            for _ in range(2):
                with suppress(P2PError):
                    await reconciler.reconcile(b.node_id, [EVERYTHING])
        outcome = await reconciler.reconcile(b.node_id, [EVERYTHING])
        assert outcome.given == (1 if busy else 0)
        await trio.sleep(2 * 600)
        assert tree(a).fingerprint() == tree(b).fingerprint()


async def test_who_answers_each_question_late_does_not_hold_repair_up(
    autojump_clock: MockClock,
) -> None:
    async def answer_late(line: Line, request_id: int) -> None:
        await trio.sleep(9)
        reply = Compared((Difference(0, world.rng.randbytes(256), b""),))
        with suppress(trio.BrokenResourceError):
            await line.stream.send_all(line.session.reply(request_id, reply))

    async def talk(line: Line) -> None:
        async with trio.open_nursery() as nursery:
            with suppress(HungUp, trio.BrokenResourceError):
                while True:
                    event = await line.next()
                    if isinstance(event, Replied) or event.request_id is None:
                        continue
                    if isinstance(event.message, Compare):
                        nursery.start_soon(answer_late, line, event.request_id)
                        continue
                    is_ping = isinstance(event.message, Ping)
                    reply: Message = Pong() if is_ping else Failed("unknown", "not served")
                    await line.stream.send_all(line.session.reply(event.request_id, reply))

    async with open_world(1) as world:
        nodes = await network(world, 3)
        await put_all(nodes, [f"k{number}" for number in range(20)])
        late: list[NodeId] = []
        for number in range(4):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            late.append(peer.identity.node_id)
            await world._nursery.start(peer.listen, talk)
            for node in nodes:
                await node.node.connect(str(peer.address))
        await trio.sleep(60)
        newcomer = await world.start("newcomer", lan=None, bootstrap=nodes[:1])
        everybody = [*(node.node_id for node in world.living()), *late]
        mended = [
            key
            for key in (Key.of(f"k{number}") for number in range(20))
            if not {*closest_first(everybody, key)[:TENDERS]} <= {*late}
        ]
        took = await world.until(lambda: all(key in tree(newcomer) for key in mended), within=400)
        print(f"{len(mended)} of 20 are with the newcomer after {took:.0f} s")


async def test_what_a_death_adds_to_a_comparison_under_way_was_not_compared(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a, b, c = await network(world, 3, dht__repair_interval=100_000.0)
        await put_all([a], [f"k{number}" for number in range(20)])
        await trio.sleep(200)
        repair, reconcile = a.services.repair, a.services.reconciler.reconcile
        compared, confirmed, unproven = list[Prefix](), list[Prefix](), list[Prefix]()

        async def while_c_dies(peer: NodeId, prefixes: list[Prefix], **kwargs: Any) -> Outcome:
            outcome = await reconcile(peer, prefixes, **kwargs)
            compared.extend(prefixes)
            repair.tending.survey([b.node_id], trio.current_time(), all_known=False)
            return outcome

        def note(prefix: Prefix, _: float) -> None:
            confirmed.append(prefix)
            if prefix not in compared:
                unproven.append(prefix)

        monkeypatch.setattr(a.services.reconciler, "reconcile", while_c_dies)
        monkeypatch.setattr(repair._confirmations, "note", note)
        repair.tending.again(trio.current_time(), b.node_id)
        repair._wake()
        await world.until(lambda: bool(confirmed), within=60)
        assert unproven == []
        assert c.is_connected_to(a)


@pytest.mark.parametrize(("count", "size"), [(8, 20_000), (MAX_GIVEN + 5, 10)])
async def test_what_a_peer_lacks_is_given_in_bounded_batches(
    autojump_clock: MockClock, count: int, size: int
) -> None:
    async with open_world(16) as world:
        batches: list[tuple[Signed, ...]] = []

        def answer(question: Message) -> Message:
            if isinstance(question, Compare):
                return Compared(
                    tuple(Difference(n, b"", b"") for n in range(len(question.subtrees)))
                )
            if isinstance(question, Give):
                batches.append(question.versions)
                return Given(len(question.versions))
            return Failed("unknown", "not served")

        a, liar = await with_liar(world, answer)
        writer = ScriptedPeer(world, host="10.9.0.2")
        names = [f"k{number}" for number in range(count)]
        records = [record(writer, name, bytes(size)) for name in names]
        await a.services.replica.write_all(records, {*map(Key.of, names)})
        assert (await a.services.reconciler.reconcile(liar, [EVERYTHING])).given == count
        assert all(sum(len(each.body) for each in batch) <= BATCH_BYTES for batch in batches)
        assert len(batches) <= 3


async def test_what_a_node_asks_and_gives_for_repair_keeps_to_its_budget(
    autojump_clock: MockClock,
) -> None:
    async with open_world(16) as world:

        def answer(question: Message) -> Message:
            if isinstance(question, Compare):
                return Compared(
                    tuple(Difference(n, b"", b"") for n in range(len(question.subtrees)))
                )
            if isinstance(question, Give):
                return Given(len(question.versions))
            return Failed("unknown", "not served")

        a, liar = await with_liar(world, answer)
        writer = ScriptedPeer(world, host="10.9.0.2")
        names = [f"k{number}" for number in range(40)]
        records = [record(writer, name, bytes(60_000)) for name in names]
        await a.services.replica.write_all(records, {*map(Key.of, names)})
        began, count = trio.current_time(), 5
        for _ in range(count):
            outcome = await a.services.reconciler.reconcile(liar, [EVERYTHING])
            assert outcome.given == 40
        sent = count * 40 * 60_000
        assert trio.current_time() - began >= (sent - BYTES_AT_ONCE) / BYTES_PER_SECOND - 0.5


async def test_who_waits_longest_for_the_budget_gets_it_first(autojump_clock: MockClock) -> None:
    async with open_world(26) as world:
        a, peer = await with_liar(world, lambda _: Compared(()))
        while a.services.reconciler._budget.spend(BATCH_BYTES, trio.current_time()):
            pass
        done: list[int] = []

        async def compare(number: int) -> None:
            await a.services.reconciler.reconcile(peer, [EVERYTHING])
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(compare, number)
                await trio.sleep(0.001)
        assert done == [*range(8)]


async def test_questions_that_cost_little_count_all_the_same(autojump_clock: MockClock) -> None:
    async with open_world(17) as world:
        a, peer = await with_liar(world, lambda _: Compared(()))
        line = await ScriptedPeer(world, host="10.9.0.3").connect(a)
        began, count = trio.current_time(), 3000
        for _ in range(count):
            assert await line.ask(WHAT_IS_THERE) == Compared(())
        asked = trio.current_time()
        assert asked - began >= (count * LEAST_COST - BYTES_AT_ONCE) / BYTES_PER_SECOND - 0.5
        for _ in range(count):
            await a.services.reconciler.reconcile(peer, [EVERYTHING])
        took = trio.current_time() - asked
        assert took >= count * LEAST_COST / BYTES_PER_SECOND - 0.5


async def test_what_a_peer_shows_and_does_not_hand_out_is_not_fetched_at_each_comparison(
    autojump_clock: MockClock,
) -> None:
    async with open_world(18) as world:
        fetched: list[Fetch] = []

        def answer(question: Message) -> Message:
            if isinstance(question, Compare):
                return Compared((Difference(0, b"", Key.of("k") + bytes(16)),))
            if isinstance(question, Fetch):
                fetched.append(question)
                return Fetched(1, ())
            return Failed("unknown", "not served")

        a, liar = await with_liar(world, answer)
        for _ in range(10):
            outcome = await a.services.reconciler.reconcile(liar, [EVERYTHING])
            assert outcome.learned == 0
        assert len(fetched) == 1
        await trio.sleep(a.config.dht.repair_interval)
        await a.services.reconciler.reconcile(liar, [EVERYTHING])
        assert len(fetched) == 2


async def test_who_asks_shows_what_it_has_too(autojump_clock: MockClock) -> None:
    async with open_world(19) as world:
        a = await world.start("a", lan=None)
        await a.node.put("k", b"v")
        await trio.sleep(10)
        line = await ScriptedPeer(world).connect(a)
        full = Prefix(1, int.from_bytes(Key.of("k")) >> 255)
        empty = Prefix(1, full.path ^ 1)
        paths = [bytes([each.path << 7]) for each in (full, empty)]
        began = trio.current_time()
        confirmed = partial(a.services.repair._confirmations.since, began)
        # It may be written to on one side only.
        assert await line.ask(Compare((Subtree(paths[1], 1, EMPTY),))) == Compared(())
        await line.ask(Compare((Subtree(paths[0], 1, bytes([1] * 16)),)))
        assert confirmed() == []
        same = Compare((Subtree(paths[0], 1, tree(a).fingerprint(full)),))
        assert await line.ask(same) == Compared(())
        assert confirmed() == [full]


async def test_who_hands_out_one_key_at_a_time_is_asked_within_the_budget(
    autojump_clock: MockClock,
) -> None:
    async with open_world(20) as world:
        asked: list[Fetch] = []

        def answer(question: Message) -> Message:
            if isinstance(question, Compare):
                keys = sorted(world.rng.randbytes(32) for _ in range(64))
                return Compared((Difference(0, b"", b"".join(each + bytes(16) for each in keys)),))
            if isinstance(question, Fetch):
                asked.append(question)
                return Fetched(1, ())
            return Failed("unknown", "not served")

        a, liar = await with_liar(world, answer)
        began = trio.current_time()
        while len(asked) < 3000:
            await a.services.reconciler.reconcile(liar, [EVERYTHING])
        cost = len(asked) * LEAST_COST
        assert trio.current_time() - began >= (cost - BYTES_AT_ONCE) / BYTES_PER_SECOND - 0.5


async def test_who_is_full_gets_each_delete_at_the_first_comparison(
    autojump_clock: MockClock,
) -> None:
    async with open_world(21) as world:
        a, b = await network(world, 2)
        await world.stop(b)
        b.store = MemoryStore(max_bytes=24_000)
        await world.start(b.name)
        await trio.sleep(10)
        writer = ScriptedPeer(world, host="10.9.0.2")
        old = {f"k{number}": record(writer, f"k{number}", bytes(900)) for number in range(20)}
        await b.services.replica.write_all(old.values(), {*map(Key.of, old)})
        assert len(tree(b)) == 20
        newer = dict[str, Signed]()
        for number, (name, signed) in enumerate(old.items()):
            version = version_of(signed, open_record(signed))
            clock = version.record.clock + 1
            newer[name] = record(
                writer,
                name,
                None if number % 4 == 0 else bytes(60_000),
                clock=clock,
                seen=(Seen(version.actor, clock - 1),),
                expires=0 if number % 4 else clock >> 16,
            )
        await a.services.replica.write_all(newer.values(), {*map(Key.of, newer)})
        outcome = await a.services.reconciler.reconcile(b.node_id, [EVERYTHING])
        assert outcome.given == 5
        # What is new has no place there, and is not sent in vain.
        other = [record(writer, f"other{number}", bytes(60_000)) for number in range(20)]
        await a.services.replica.write_all(
            other, {Key.of(f"other{number}") for number in range(20)}
        )
        with Traffic(world.network.medium) as traffic, pytest.raises(RequestRefused):
            await a.services.reconciler.reconcile(b.node_id, [EVERYTHING])
        assert dict(traffic.most_first())["Give"] < 2 * BATCH_BYTES


async def test_a_replica_busy_with_repair_still_counts_as_one(autojump_clock: MockClock) -> None:
    async with open_world(22) as world:
        asked: list[type] = []

        def answer(question: Message) -> Message | None:
            asked.append(type(question))
            silent = isinstance(question, Compare | FindValue)
            return None if silent else Failed("unknown", "not served")

        a, busy = await with_liar(world, answer)
        await trio.sleep(NEW)
        writer = ScriptedPeer(world, host="10.9.0.2")
        await a.services.replica.write_all([record(writer, "k", b"v")], {Key.of("k")})
        await trio.sleep(3 * a.config.dht.repair_interval)
        assert Compare in asked
        assert busy in a.services.roster.connections
        # It may have what others wrote: that it compares nothing in time says nothing of its reads.
        with pytest.raises(TooFewReplicas):
            await a.node.put("k", b"w")


async def test_what_a_comparison_brought_is_told_on_though_it_failed_afterwards(
    autojump_clock: MockClock,
) -> None:
    async with open_world(24) as world:
        a, b = await network(world, 2)
        await put_all([a], [f"old{number}" for number in range(40)])
        await trio.sleep(NEW)
        peer = ScriptedPeer(world, listens=True)
        # Of a key that `b` does not tend: nobody else brings it there.
        everybody = [a.node_id, b.node_id, peer.identity.node_id]
        name = next(
            name
            for name in (f"k{number}" for number in range(1000))
            if [*closest_first(everybody, Key.of(name))][::2] == [a.node_id, b.node_id]
        )
        key, new = Key.of(name), record(peer, name, b"v")
        comes_at = trio.current_time() + 2000

        def answer(question: Message) -> Message:
            if isinstance(question, Compare) and trio.current_time() < comes_at:
                return Compared(())
            if isinstance(question, Compare):
                asked = enumerate(question.subtrees)
                there = [number for number, each in asked if prefix_of(each).holds(key)]
                return Compared(tuple(Difference(each, b"", key + bytes(16)) for each in there))
            # It does not take what it lacks.
            return Fetched(1, (new,)) if isinstance(question, Fetch) else Failed("busy", "later")

        await world._nursery.start(peer.listen, lambda line: line.serve(answer))
        await a.node.connect(str(peer.address))
        await world.until(lambda: key in tree(a), within=4000)
        await world.until(lambda: key in tree(b), within=90)


async def test_only_the_first_record_of_all_is_a_beginning(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        begun: list[int] = []
        replica = a.services.replica
        replica.on_begun.append(lambda: begun.append(len(replica.tree)))
        for name in ("k", "k", "l"):
            signed = record(ScriptedPeer(world), name, b"v")
            await replica.write_all([signed], [Key.of(name)])
        assert begun == [1]
