"""What is published reaches all who subscribed, once, and nobody can make more of it than that."""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import pytest
import trio
from trio.testing import MockClock

from p2pd.core import admission, history
from p2pd.core.broadcast import GRAFT_GRACE
from p2pd.core.declined import DECLINED_FOR
from p2pd.core.entries import Source
from p2pd.core.missing import GRAFT_AFTER
from p2pd.errors import Busy, InvalidRequest
from p2pd.ids import NodeId
from p2pd.net.faults import Cut
from p2pd.node import exchange, gossip
from p2pd.node.exchange import MOST_EXCHANGE_INTERVAL
from p2pd.node.keepalive import PASSING_SECONDS
from p2pd.node.liveness import LEFT_TOPIC
from p2pd.node.snapshot import Delivery
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    Digest,
    Gossip,
    Graft,
    Have,
    Held,
    Prune,
    Publication,
    Release,
    Released,
    Signed,
    Want,
)
from tests.node.scripted import (
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    now_ms,
    stranger,
)


class Inbox:
    """What one node delivered on the topics that are asked for."""

    def __init__(self, stack: ExitStack, node: SimNode, *topics: str) -> None:
        self.got: list[Delivery] = []
        stack.enter_context(node.node.deliveries(frozenset(topics), self.got.append))

    def data(self) -> Counter[bytes]:
        return Counter(each.data for each in self.got)


def publication(origin: Identity, data: bytes, *, issued: int | None = None) -> Signed:
    issued = now_ms() if issued is None else issued
    return origin.vouch(Publication(origin.public_key, issued, issued, "t", data))


async def in_line(world: World, count: int) -> list[SimNode]:
    """Start nodes of which each is connected to the next one, and to nobody else."""
    nodes = [await world.start(f"n{n}", lan=None, connections__target=0) for n in range(count)]
    for one, other in itertools.pairwise(nodes):
        await one.node.connect(str(other.address))
    return nodes


async def all_connected(world: World, nodes: Sequence[SimNode]) -> None:
    def joined() -> bool:
        reached = {nodes[0].node_id}
        for _ in nodes:
            for each in nodes:
                if each.node_id in reached:
                    reached |= each.services.roster.connections.keys()
        return len(reached) == len(nodes)

    await world.until(joined, within=30)


@pytest.mark.parametrize("count", [2, 3, 10])
async def test_each_subscriber_gets_each_message_once(
    autojump_clock: MockClock, count: int
) -> None:
    async with open_world(count) as world:
        nodes = [await world.start(f"n{n}") for n in range(count)]
        await all_connected(world, nodes)
        with ExitStack() as stack:
            inboxes = [Inbox(stack, each) for each in nodes]
            expected: Counter[bytes] = Counter()
            for number in range(20):
                data = b"%d" % number
                await world.rng.choice(nodes).node.publish("t", data)
                expected[data] += 1
                await trio.sleep(world.rng.uniform(0, 0.5))
            await world.until(lambda: all(each.data() == expected for each in inboxes), within=5)
            await trio.sleep(30)
            assert all(each.data() == expected for each in inboxes)
        assert [each.node.snapshot().gossip.delivered for each in nodes] == [20] * count
        assert sum(each.node.snapshot().gossip.published for each in nodes) == 20
        assert_unharmed(*nodes)


async def test_who_does_not_subscribe_passes_on(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, _, c = await in_line(world, 3)
        with ExitStack() as stack:
            own, inbox = Inbox(stack, a), Inbox(stack, c, "news", "more")
            message_id = await a.node.publish("news", b"1")
            await a.node.publish("other", b"2")
            await a.node.publish("more", b"3")
            await world.until(lambda: len(inbox.got) == 2, within=1)
            assert [each.topic for each in inbox.got] == ["news", "more"]
            first = inbox.got[0]
            assert first.message_id == message_id
            assert (first.origin, first.data, first.hops) == (a.node_id, b"1", 2)
            assert first.sequence < inbox.got[1].sequence
            assert [each.hops for each in own.got] == [0, 0, 0]
            assert {each.origin_name for each in own.got} == {a.name}
        await a.node.publish("news", b"4")
        await trio.sleep(1)
        assert len(inbox.got) == 2


async def test_what_is_published_alone_goes_out_with_the_first_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        for number in range(100):
            await a.node.publish("t", b"%d" % number)
        await trio.sleep(600)
        b = await world.start("b", lan=None)
        with ExitStack() as stack:
            inbox = Inbox(stack, b)
            await b.node.connect(str(a.address))
            await world.until(lambda: len(inbox.got) == 100, within=0.1)
            await trio.sleep(30)
            assert set(inbox.data().values()) == {1}


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_comes_twice_though_connections_break(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        nodes = [await world.start(f"n{n}") for n in range(5)]
        await all_connected(world, nodes)
        with ExitStack() as stack:
            inboxes = [Inbox(stack, each) for each in nodes]
            world.meanwhile(lambda: world.break_connections(per_second=2, seconds=20))
            for number in range(20):
                await world.rng.choice(nodes).node.publish("t", b"%d" % number)
                await trio.sleep(1)
            await world.until(lambda: all(len(each.got) >= 20 for each in inboxes), within=30)
            await trio.sleep(60)
            assert all(set(each.data().values()) == {1} for each in inboxes), seed
            assert all(len(each.got) == 20 for each in inboxes), seed


@pytest.mark.parametrize("seed", range(2))
async def test_both_sides_have_all_after_a_partition(autojump_clock: MockClock, seed: int) -> None:
    async with open_world(seed) as world:
        nodes = [await world.start(f"n{n}") for n in range(6)]
        await all_connected(world, nodes)
        with ExitStack() as stack:
            inboxes = [Inbox(stack, each) for each in nodes]
            world.meanwhile(lambda: world.partition(0.5, seconds=60))
            for number in range(60):
                await nodes[number % 6].node.publish("t", b"%d" % number)
                await trio.sleep(0.9)
            assert max(len(each.got) for each in inboxes) < 60
            await world.until(lambda: all(len(each.got) >= 60 for each in inboxes), within=60)
            await trio.sleep(60)
            assert all(set(each.data().values()) == {1} for each in inboxes), seed
        assert_unharmed(*nodes)


async def test_who_passes_on_a_forged_message_loses_his_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        honest, liar = ScriptedPeer(world, host="10.8.0.1"), ScriptedPeer(world)
        good, bad = await honest.connect(a), await liar.connect(a)
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            true = publication(stranger(world.rng), b"true")
            await good.send(Gossip(true, 1))
            await bad.send(Gossip(Signed(true.body[:-1] + b"!", true.signature), 1))
            with trio.fail_after(1):
                await bad.hung_up()
            assert set(inbox.data()) == {b"true"}
            [gone] = [each for each in a.node.peers() if each.status == "disconnected"]
            assert gone.node_id == liar.identity.node_id.hex()
            assert "forged" in (gone.last_error or "")
            assert connected(a) == {honest.identity.node_id.hex()}
        assert_unharmed(a)


async def test_stale_and_oversized_messages_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, gossip__retention=600, gossip__max_message_bytes=100)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        await trio.sleep(1)
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for data, ahead in (
                (b"too old", -601),
                (b"old", -599),
                (b"of the future", 61),
                (b"of a clock ahead", 59),
                (b"x" * 101, 0),
                (b"x" * 100, 0),
            ):
                issued = now_ms() + ahead * 1000
                await line.send(Gossip(publication(peer.identity, data, issued=issued), 1))
            await trio.sleep(1)
            assert list(inbox.data()) == [b"old", b"of a clock ahead", b"x" * 100]
        assert a.services.gossip.dropped == {"stale": 2, "oversized": 1}
        assert len(connected(a)) == 1


async def test_a_flood_is_cut_to_what_one_peer_may_bring(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PEER_AT_ONCE", 50)
    monkeypatch.setattr(admission, "PEER_PER_SECOND", 10.0)
    monkeypatch.setattr(admission, "MOST_AT_ONCE", 0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        honest = ScriptedPeer(world, host="10.8.0.1")
        good, flood = await honest.connect(a), await ScriptedPeer(world).connect(a)
        # Each by another origin: it is who brings them that counts.
        origins = [stranger(world.rng) for _ in range(200)]
        messages = [publication(each, b"%d" % n) for n, each in enumerate(origins)]
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            await flood.send(*[Gossip(each, 1) for each in messages])
            await trio.sleep(0.1)
            assert 50 <= len(inbox.got) <= 53
            # Some come again from one who brings no more than he may.
            await good.send(*[Gossip(each, 1) for each in messages[-40:]])
            await trio.sleep(0.1)
            assert len(inbox.got) <= 53 + 41
            assert inbox.got[-1].data == b"199"
            # Time for the budget to be full again, but not for a silent peer to be given up.
            await trio.sleep(7)
            await flood.send(*[Gossip(each, 1) for each in messages])
            await trio.sleep(0.1)
            assert 50 + 40 + 50 <= len(inbox.got) <= 53 + 40 + 53
            assert max(inbox.data().values()) == 1
        dropped = a.services.gossip.dropped
        assert set(dropped) == {"peer_flood"}
        assert dropped["peer_flood"] >= 150
        assert len(connected(a)) == 2


async def test_a_flood_behind_an_honest_neighbour_leaves_room_for_whom_that_one_knows(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in (("PEER_AT_ONCE", 20), ("MOST_AT_ONCE", 50)):
        monkeypatch.setattr(admission, name, bound)
    for name in ("PEER_PER_SECOND", "MOST_PER_SECOND"):
        monkeypatch.setattr(admission, name, 2.0)
    # Nobody tells `far` of whom its neighbour knows.
    monkeypatch.setattr(exchange, "EXCHANGE_INTERVAL", MOST_EXCHANGE_INTERVAL)
    async with open_world(1) as world:
        honest, far = await in_line(world, 2)
        flood, known = await ScriptedPeer(world).connect(honest), ScriptedPeer(world)
        with ExitStack() as stack:
            inbox = Inbox(stack, far)

            async def flood_for(seconds: int) -> None:
                for _ in range(10 * seconds):
                    invented = [publication(stranger(world.rng), b"f") for _ in range(5)]
                    await flood.send(*[Gossip(each, 1) for each in invented])
                    await trio.sleep(0.1)

            await flood_for(45)
            line = await known.connect(honest)
            for number in range(15):
                await line.send(Gossip(publication(known.identity, b"%d" % number), 1))
                await flood_for(1)
            came = inbox.data()
        assert far.services.registry.get(known.identity.node_id) is None
        assert [came[b"%d" % number] for number in range(15)] == [1] * 15
        assert 0 < came[b"f"] < 300


async def test_a_flooding_origin_is_cut_by_when_it_issued(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a partition all comes at once, and none of it is too much."""
    monkeypatch.setattr(admission, "MOST_OF_ORIGIN", 10)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        lines = [await ScriptedPeer(world, host=f"10.9.{n}.1").connect(a) for n in range(3)]
        flooder, other = stranger(world.rng), stranger(world.rng)
        begin = now_ms() // 60_000 * 60_000
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for number in range(30):
                flood = publication(flooder, b"f%d" % number, issued=begin + number)
                await lines[number % 3].send(Gossip(flood, 1))
            await lines[0].send(Gossip(publication(other, b"o"), 1))
            for minute in range(1, 4):
                for number in range(10):
                    issued = begin - minute * 60_000 + number
                    earlier = publication(flooder, b"e%d.%d" % (minute, number), issued=issued)
                    await lines[0].send(Gossip(earlier, 1))
            await trio.sleep(1)
            kinds = Counter(data[:1] for data in inbox.data())
        assert kinds == {b"f": 10, b"o": 1, b"e": 30}
        assert a.services.gossip.dropped == {"origin_flood": 20}
        assert len(connected(a)) == 3


async def test_what_an_origin_issued_too_much_of_spends_nothing_that_others_share(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in (("MOST_OF_ORIGIN", 10), ("PEER_AT_ONCE", 30), ("MOST_AT_ONCE", 0)):
        monkeypatch.setattr(admission, name, bound)
    for name in ("PEER_PER_SECOND", "MOST_PER_SECOND"):
        monkeypatch.setattr(admission, name, 0.0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        flooder = stranger(world.rng)
        begin = now_ms() // 60_000 * 60_000
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for number in range(100):
                flood = publication(flooder, b"f%d" % number, issued=begin + number)
                await line.send(Gossip(flood, 1))
            for _ in range(15):
                await line.send(Gossip(publication(stranger(world.rng), b"o"), 1))
            await trio.sleep(1)
            kinds = Counter(data[:1] for data in inbox.data().elements())
        assert kinds == {b"f": 10, b"o": 15}
        assert a.services.gossip.dropped == {"origin_flood": 90}


async def test_too_many_of_ones_own_are_refused_and_others_take_the_rest(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MOST_OF_ORIGIN", 10)
    async with open_world(1) as world:
        a, b = await in_line(world, 2)
        with ExitStack() as stack:
            inbox = Inbox(stack, b)
            for number in range(10):
                await a.node.publish("t", b"%d" % number)
            with pytest.raises(Busy):
                await a.node.publish("t", b"10")
            await trio.sleep(61)
            await a.node.publish("t", b"later")
            await trio.sleep(1)
            assert len(inbox.got) == 11
        assert not b.services.gossip.dropped


async def test_who_published_all_that_it_may_still_says_that_it_leaves(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MOST_OF_ORIGIN", 10)
    async with open_world(1) as world:
        a, _, c = await in_line(world, 3)
        left: list[NodeId] = []
        c.services.gossip.on_system(LEFT_TOPIC, lambda origin, _: left.append(origin))
        for number in range(10):
            await a.node.publish("t", b"%d" % number)
        with pytest.raises(Busy):
            await a.node.publish("t", b"10")
        await world.stop(a)
        await world.until(lambda: left == [a.node_id], within=1)
        assert not c.services.gossip.dropped


async def test_topics_and_sizes_that_can_not_be(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await in_line(world, 2)
        bad = ["", "x" * 65, "é" * 33, "a\nb", "\x1b[31m", "\ud800", "$", "$dead", "$alive", "$x"]
        with ExitStack() as stack:
            inbox = Inbox(stack, b)
            for topic in bad:
                with pytest.raises(InvalidRequest):
                    await a.node.publish(topic, b"")
            with pytest.raises(InvalidRequest, match="65537 bytes"):
                await a.node.publish("t", bytes((1 << 16) + 1))
            await a.node.publish("é" * 32, b"")
            await a.node.publish("a $ b", bytes(1 << 16))
            await trio.sleep(1)
            assert [(each.topic, len(each.data)) for each in inbox.got] == [
                ("é" * 32, 0),
                ("a $ b", 1 << 16),
            ]
        assert a.node.snapshot().gossip.published == 2


async def test_a_peer_that_reads_slowly_costs_only_so_much(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await in_line(world, 2)
        deaf = ScriptedPeer(world)
        await deaf.connect(a)
        most = 0
        with ExitStack() as stack:
            inbox = Inbox(stack, b)
            for _ in range(120):
                await a.node.publish("t", world.rng.randbytes(1 << 16))
                held = a.services.roster.connections.get(deaf.identity.node_id)
                most = max(most, held.bytes_waiting if held else 0)
                await trio.sleep(0.05)
            assert 0 < most < 2 * gossip.MAX_WAITING
            await world.until(lambda: len(inbox.got) == 120, within=10)
            await world.until(lambda: connected(a) == {b.node_id.hex()}, within=20)


async def test_a_burst_that_exceeds_what_may_wait_follows_as_soon_as_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await in_line(world, 3)
        await trio.sleep(30)
        world.conditions.bandwidth = 10_000_000
        with ExitStack() as stack:
            inbox = Inbox(stack, nodes[-1])
            for _ in range(60):
                # Random bytes, which no compression makes shorter.
                await nodes[0].node.publish("t", world.rng.randbytes(1 << 16))
            await world.until(lambda: len(inbox.got) == 60, within=6)
            assert set(inbox.data().values()) == {1}
        assert_unharmed(*nodes)


async def test_what_was_published_before_is_fetched_as_fast_as_there_is_room(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        for _ in range(48):
            await a.node.publish("t", world.rng.randbytes(1 << 16))
        b = await world.start("b", lan=None)
        world.conditions.bandwidth = 10_000_000
        with ExitStack() as stack:
            inbox = Inbox(stack, b)
            await b.node.connect(str(a.address))
            # A mebibyte in each of three rounds.
            await world.until(lambda: len(inbox.got) == 48, within=3 * gossip.ANTI_ENTROPY_INTERVAL)
            assert set(inbox.data().values()) == {1}


async def test_one_that_lasts_in_the_place_of_one_for_a_question_has_its_part(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await peer.connect(a, passing=True)
        await trio.sleep(1)
        before = await a.node.publish("t", b"1")
        line = await peer.connect(a)
        await trio.sleep(8)
        after = await a.node.publish("t", b"2")
        pushed = ""
        with trio.fail_after(1):
            # It says that it is there, too.
            while pushed != after:
                pushed = gossip.message_id_of((await line.expect(Gossip)).publication).hex()
                assert pushed != before


async def test_who_came_in_passing_and_gossips_is_linked(autojump_clock: MockClock) -> None:
    """For the peer it took the place of a connection that was to last: else one end has a link."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a, passing=True)
        await trio.sleep(1)
        assert not a.services.roster.lasting()
        await line.send(Have(()))
        await trio.sleep(0.1)
        assert [each.level for each in a.events if each.code == "peer.connected"] == [
            logging.DEBUG,
            logging.INFO,
        ]
        published = await a.node.publish("t", b"1")
        with trio.fail_after(1):
            pushed = (await line.expect(Gossip)).publication
        assert gossip.message_id_of(pushed).hex() == published
        assert len(a.services.roster.lasting()) == 1


async def test_whom_we_ask_in_passing_does_not_stay_by_gossiping(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)

        async def gossips(line: Line) -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await line.send(Have(()), Graft(()))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, gossips)
            await a.services.dialler.dial(peer.address, Source.EXCHANGE)
            await trio.sleep(PASSING_SECONDS / 2)
            assert connected(a) == {peer.identity.node_id.hex()}
            assert not a.services.roster.lasting()
            await world.until(lambda: not connected(a), within=PASSING_SECONDS)
            nursery.cancel_scope.cancel()


async def test_a_connection_that_was_given_up_is_not_linked_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=1)
        peers = [ScriptedPeer(world, host=f"10.9.0.{number}") for number in (1, 2)]
        line, _ = [await peer.connect(a) for peer in peers]
        assert await line.ask(Release(many=True)) == Released(agreed=True)
        await line.send(Have(()))
        await trio.sleep(0.1)
        assert len(a.services.roster.lasting()) == 1


async def test_nor_is_one_that_came_to_stay_and_was_given_up(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=1)
        await ScriptedPeer(world, host="10.9.0.1").connect(a)
        line = await ScriptedPeer(world, host="10.9.0.2").connect(a, passing=True)
        await line.send(Have(()))
        await trio.sleep(0.1)
        assert len(a.services.roster.lasting()) == 2
        assert await line.ask(Release(many=True)) == Released(agreed=True)
        await line.send(Have(()))
        await trio.sleep(0.1)
        assert len(a.services.roster.lasting()) == 1


@pytest.mark.parametrize("cut_off", [0, 1])
async def test_a_message_survives_the_loss_of_the_way_it_was_on(
    autojump_clock: MockClock, cut_off: int
) -> None:
    """A link falls silent without a word, and there is another way: one is of the tree."""
    async with open_world(1) as world:
        a, b, c = nodes = await in_line(world, 3)
        await c.node.connect(str(a.address))
        with ExitStack() as stack:
            inboxes = [Inbox(stack, each) for each in (b, c)]
            for number in range(5):
                await a.node.publish("t", b"%d" % number)
                await trio.sleep(0.5)
            side, other = frozenset({c.network.host}), frozenset({nodes[cut_off].network.host})
            world.network.medium.cut(Cut(side, other))
            await a.node.publish("t", b"cut")
            await world.until(
                lambda: all(len(each.got) == 6 for each in inboxes), within=GRAFT_AFTER + 0.25
            )


async def test_who_reconnects_may_not_bring_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "KNOWN_AT_ONCE", 50)
    monkeypatch.setattr(admission, "KNOWN_PER_SECOND", 1.0)
    monkeypatch.setattr(admission, "PEER_AT_ONCE", 0)
    monkeypatch.setattr(admission, "MOST_AT_ONCE", 0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for attempt in range(3):
                line = await peer.connect(a)
                for number in range(60):
                    message = publication(peer.identity, b"%d.%d" % (attempt, number))
                    await line.send(Gossip(message, 1))
                await trio.sleep(0.1)
                await line.stream.aclose()
                await trio.sleep(0.1)
            assert 50 <= len(inbox.got) <= 53


async def test_what_is_no_old_news_yet_is_delivered_once_whatever_seen_ttl_says(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_ITEMS", 1)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, gossip__seen_ttl=1, gossip__retention=600)
        origin = stranger(world.rng)
        signed = [publication(origin, data) for data in (b"one", b"two")]
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for _ in range(2):
                line = await ScriptedPeer(world).connect(a)
                await line.send(*(Gossip(each, 1) for each in signed))
                await trio.sleep(60)
            assert inbox.data() == {b"one": 1, b"two": 1}


async def test_what_was_dated_ahead_is_no_news_twice_either(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is forgotten for want of room, and could come again for longer than others could."""
    monkeypatch.setattr(history, "MAX_ITEMS", 1)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, gossip__seen_ttl=1, gossip__retention=120)
        origin = stranger(world.rng)
        ahead = now_ms() + 55_000
        signed = [publication(origin, b"%d" % n, issued=ahead + n) for n in range(2)]
        with ExitStack() as stack:
            inbox = Inbox(stack, a)
            for _ in range(18):
                line = await ScriptedPeer(world).connect(a)
                await line.send(Gossip(signed[0], 1), Gossip(signed[1], 1))
                await trio.sleep(10)
            assert inbox.data() == {b"0": 1, b"1": 1}


async def test_what_is_past_the_retention_is_told_to_nobody(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, gossip__retention=60)
        old = await a.node.publish("t", b"old")
        assert old in await told_by(world, a)
        await trio.sleep(60 + 60 / history.SLOTS + 1.25 * gossip.QUIET_INTERVAL)
        new = await a.node.publish("t", b"new")
        told = await told_by(world, a)
        assert new in told
        assert old not in told


async def told_by(world: World, node: SimNode) -> set[str]:
    """Return the IDs that a node tells somebody who holds nothing."""
    line = await ScriptedPeer(world).connect(node)
    await line.send(Digest((), reply=False))
    with trio.fail_after(1):
        held = await line.expect(Held)
    return {each.hex() for each in held.ids}


async def test_what_there_was_no_room_for_is_asked_for_by_and_by(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PEER_AT_ONCE", "MOST_AT_ONCE"):
        monkeypatch.setattr(admission, name, 0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line, other = [await ScriptedPeer(world).connect(a) for _ in range(2)]
        signed = publication(stranger(world.rng), b"1")
        message_id = gossip.message_id_of(signed)
        await line.send(Gossip(signed, 1))
        await trio.sleep(0.1)
        assert a.services.gossip.dropped == {"peer_flood": 1}
        await other.send(Held((message_id,)))
        with trio.move_on_after(DECLINED_FOR - 0.2):
            await other.expect(Want)
        assert not any(isinstance(each, Want) for each in other.heard)
        await trio.sleep(0.2)
        await other.send(Held((message_id,)))
        with trio.fail_after(0.5):
            assert (await other.expect(Want)).ids == (message_id,)


async def test_a_tree_link_that_is_lost_is_replaced_before_anything_else_is_sent(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        tree, lazy = [await ScriptedPeer(world).connect(a) for _ in range(2)]
        await trio.sleep(GRAFT_GRACE)
        signed = publication(stranger(world.rng), b"1")
        for line in (tree, lazy):
            await line.send(Gossip(signed, 1))
            await trio.sleep(0.1)
        with trio.fail_after(0.1):
            await lazy.expect(Prune)
        await trio.sleep(0.1)
        await tree.stream.aclose()
        with trio.fail_after(0.1):
            assert (await lazy.expect(Graft)).ids == ()


async def test_comparisons_are_rare_where_there_is_no_news_and_begin_again_with_some(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        began: list[float] = []

        def note() -> None:
            message = line.heard[-1]
            if isinstance(message, Digest) and message.reply:
                began.append(trio.current_time())

        world.meanwhile(lambda: line.serve(lambda _: None, note))
        await trio.sleep(600)
        began.clear()
        await trio.sleep(300)
        assert len(began) >= 300 // (1.25 * gossip.QUIET_INTERVAL)
        assert len(began) <= 300 // (0.75 * gossip.QUIET_INTERVAL) + 1
        await a.node.publish("t", b"1")
        began.clear()
        await trio.sleep(30)
        assert len(began) >= 30 // (1.25 * gossip.ANTI_ENTROPY_INTERVAL)
        assert len(connected(a)) == 1
