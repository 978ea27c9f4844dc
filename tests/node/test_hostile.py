"""Whatever a peer does ends at most its own connection; honest peers are served meanwhile."""

import gc
import itertools
import random
import struct
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.merkle import EMPTY
from p2pd.core.registry import MAX_ADDRESSES
from p2pd.errors import ConnectionLost, P2PError, TooFewReplicas
from p2pd.net import sim
from p2pd.net.faults import constant_latency
from p2pd.net.sim import SimStream
from p2pd.node import inbound, reconciler, replica, routes
from p2pd.node.connection import TIME_SLICE
from p2pd.node.dialler import STRANGERS_AT_ONCE, STRANGERS_PER_SECOND
from p2pd.node.dispatch import BUG, Call
from p2pd.node.handshaking import Introducer
from p2pd.node.routes import IN_VAIN_AT_ONCE, IN_VAIN_PER_SECOND
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import (
    Accepted,
    Announce,
    Compare,
    Compared,
    Echo,
    Echoed,
    Failed,
    Fetch,
    Fetched,
    FindNode,
    FindValue,
    GetPeers,
    Goodbye,
    Message,
    Nodes,
    Peers,
    Ping,
    Pong,
    Signed,
    Store,
    Stored,
    Subtree,
    Value,
)
from tests.node.scripted import (
    HungUp,
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    make_record,
    stranger,
)
from tests.node.test_dht import record

HEADER = struct.Struct(">BBBBQQI")


def frame(
    *, version: int = 1, tag: int = 6, flags: int = 0, length: int = 1, payload: bytes = b"\x90"
) -> bytes:
    return HEADER.pack(version, tag, flags, 0, 1, 0, length) + payload


NONSENSE = {
    "garbage": random.Random(1).randbytes(4000),
    "half a header": frame()[:10],
    "half a frame": frame(length=1000, payload=b"\x90" * 10),
    "an oversized length": frame(length=0xFFFFFFFF),
    "an unknown tag": frame(tag=250),
    "an unknown flag": frame(flags=0x80),
    "another version": frame(version=9),
    "broken deflate": frame(flags=4, length=4, payload=b"oops"),
    "a deflate bomb": frame(flags=4, length=8, payload=b"x\x9cc\x00\x00\x00\x01\x00"),
    "deep nesting": frame(length=5000, payload=b"\x91" * 5000),
    "wrong types": frame(tag=8, length=2, payload=b"\x91\x07"),
    "too few fields": frame(tag=1, length=1, payload=b"\x90"),
    "an http request": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "nothing": b"",
}


async def still_serves(world: World, node: SimNode) -> None:
    """Hold that an honest newcomer is served."""
    honest = ScriptedPeer(world, host="10.8.0.1")
    with trio.fail_after(2):
        line = await honest.connect(node)
        assert await line.ask(Echo(b"hello")) == Echoed(b"hello")
    await line.stream.aclose()
    await world.until(lambda: honest.identity.node_id.hex() not in connected(node), within=1)
    assert_unharmed(node)


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("introduced", [False, True])
async def test_nonsense(autojump_clock: MockClock, what: str, introduced: bool) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await (peer.connect(a) if introduced else peer.dial(a))
        await line.stream.send_all(NONSENSE[what])
        with trio.fail_after(20):
            await line.hung_up()
        await still_serves(world, a)
        assert not connected(a)


@pytest.mark.parametrize("seed", range(20))
async def test_random_messages_at_random_moments(autojump_clock: MockClock, seed: int) -> None:
    async with open_world(seed) as world:
        a = await world.start("a", lan=None)
        rng = world.rng
        messages: list[Callable[[], Message]] = [
            Ping,
            Pong,
            lambda: Echo(rng.randbytes(rng.randrange(1000))),
            lambda: GetPeers(rng.randint(1, 64)),
            lambda: Announce(Signed(rng.randbytes(100), rng.randbytes(64))),
            lambda: FindNode(rng.randbytes(32)),
            lambda: FindValue(rng.randbytes(32), closer=rng.random() < 0.5),
            lambda: Store(Signed(rng.randbytes(100), rng.randbytes(64))),
            lambda: Peers((Signed(rng.randbytes(50), rng.randbytes(64)),)),
            lambda: Value((), ()),
        ]
        line = await ScriptedPeer(world).connect(a)
        for _ in range(300):
            message = rng.choice(messages)()
            kind = rng.randrange(3)
            if kind == 0:
                data = line.session.notice(message)
            elif kind == 1:
                data = line.session.reply(rng.randrange(50), message)
            else:
                data = line.session.request(message)[1]
            cut = rng.randrange(1, len(data))
            await line.stream.send_all(data[:cut])
            await trio.sleep(rng.uniform(0, 0.01))
            await line.stream.send_all(data[cut:])
        assert len(connected(a)) == 1
        await still_serves(world, a)


@pytest.mark.parametrize("introduced", [False, True])
async def test_a_byte_a_second(autojump_clock: MockClock, introduced: bool) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await (peer.connect(a) if introduced else peer.dial(a))
        data = frame(length=8000, payload=bytes(8000))

        async def drip() -> None:
            for each in data:
                await line.stream.send_all(bytes([each]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with trio.fail_after(20):
                await line.hung_up()
            nursery.cancel_scope.cancel()
        await still_serves(world, a)


async def test_a_thousand_connections_left_idle(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        crowd = ScriptedPeer(world)
        for _ in range(1000):
            await crowd.dial(a)
        ends = [each for each in world.network.streams if each.local == a.address]
        assert len(ends) <= inbound.MAX_HANDSHAKES + 1
        await still_serves(world, a)
        for number in range(100):
            await ScriptedPeer(world, host=f"10.9.1.{number}").dial(a)
        await still_serves(world, a)
        await trio.sleep(10)
        assert not [each for each in world.network.streams if each.local == a.address]


async def test_idle_connections_of_one_public_network_keep_nobody_out(
    autojump_clock: MockClock,
) -> None:
    """Of 500 new ones a second, each from another address, none says a word."""
    async with open_world(1, constant_latency(0.05)) as world:
        a = await world.start("a", lan=None)
        crowd = [ScriptedPeer(world, host=f"45.0.7.{number}") for number in range(1, 251)]

        async def dial_on(nursery: trio.Nursery) -> None:
            for each in itertools.cycle(crowd):
                nursery.start_soon(each.dial, a)
                await trio.sleep(0.002)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_on, nursery)
            await trio.sleep(3)
            for number in range(5):
                line = await ScriptedPeer(world, host=f"46.0.{number}.1").connect(a)
                assert isinstance(line.heard[-1], Accepted)
            nursery.cancel_scope.cancel()


async def test_a_peer_that_never_reads(autojump_clock: MockClock) -> None:
    """What it asks for piles up only so far, and only for so long."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        big = Echo(world.rng.randbytes(200_000))
        with trio.fail_after(30):
            try:
                while True:
                    await line.stream.send_all(line.session.request(big)[1])
                    await trio.sleep(0.001)
            except trio.BrokenResourceError:
                pass
        assert not connected(a)
        assert a.node.peers()[0].last_error == "the peer reads too slowly"
        await still_serves(world, a)


async def test_what_came_over_a_connection_goes_when_it_ends(autojump_clock: MockClock) -> None:
    """Not only when the collector looks: a hundred peers may each have sent half a large frame."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        # Of a lasting one the loop that asks for peers holds the last.
        line = await peer.connect(a, passing=True)
        await line.stream.send_all(frame(length=1_000_000, payload=bytes(500_000)))
        gc.collect()
        gc.disable()
        try:
            ended = weakref.ref(a.services.roster.connections[peer.identity.node_id])
            await line.stream.aclose()
            await world.until(lambda: not connected(a), within=1)
            await trio.sleep(1)
            assert ended() is None
        finally:
            gc.enable()


async def test_who_waits_to_ask_a_peer_that_never_reads_hears_of_its_end_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        deaf = ScriptedPeer(world)
        await deaf.connect(a)
        connection = a.services.roster.connections[deaf.identity.node_id]
        while not connection.is_full:
            connection.notify(Echo(world.rng.randbytes(60_000)))

        async def ask() -> None:
            with pytest.raises(ConnectionLost):
                await connection.request(Echo(b""), Echoed, within=1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            connection.abort("enough")
            with trio.fail_after(0.1):
                await connection.ended.wait()
            ended = trio.current_time()
        assert trio.current_time() == ended


async def talk_to(
    world: World, node: SimNode, peer: ScriptedPeer, talk: Callable[[Line], Awaitable[None]]
) -> None:
    """Let a listening scripted peer be known to a node."""
    await world._nursery.start(peer.listen, talk)
    await node.node.connect(str(peer.address))


@pytest.mark.parametrize("seed", range(4))
async def test_an_end_amid_a_write_ends_one_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    wait_and_send = SimStream.send_all

    async def send_at_once(stream: SimStream, data: bytes) -> None:
        """As a TLS stream does: it looks whether it is open before anything else."""
        stream._check_open()
        await wait_and_send(stream, data)

    monkeypatch.setattr(SimStream, "send_all", send_at_once)
    async with open_world(seed) as world:
        node = await world.start("a", lan=None)
        deaf = ScriptedPeer(world)
        await deaf.connect(node)
        await trio.sleep(1)
        connection = node.services.roster.connections[deaf.identity.node_id]
        # More than a stream takes at once: a writer is to wait for a peer that reads nothing.
        while not connection.bytes_waiting:
            connection.notify(Echo(bytes(60_000)))
        connection.abort("enough")
        await trio.sleep(1)
        assert_unharmed(node)


async def test_a_peer_that_never_answers(autojump_clock: MockClock) -> None:
    """The node's lookups go on without it, though it answers pings."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        await world.until(lambda: a.is_connected_to(b), within=1)
        await b.node.put("k", b"v")
        for number in range(5):
            mute = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            await talk_to(world, a, mute, lambda line: line.serve(lambda _: None))
        began = trio.current_time()
        with pytest.raises(TooFewReplicas):
            await a.node.get("k")
        assert (await a.node.get("k", consistency="one")).winner.value == b"v"
        assert trio.current_time() - began < 5
        # Their pings show that they could answer: nobody waits for a quorum with them.
        await trio.sleep(10)
        assert (await a.node.get("k")).winner.value == b"v"
        assert (await a.node.put("k", b"w")).stored == 2
        route = await a.node.lookup("k")
        assert [each.outcome for each in route.hops].count("timeout") == 5
        assert_unharmed(a, b)


VICTIM = "10.66.0.1"


def inventing(world: World, besides: Sequence[Signed] = ()) -> Callable[[Message], Message | None]:
    """Name some peers and 18 more in each answer, which are new each time and not there."""
    ports = itertools.count(1024)

    def answer(question: Message) -> Message | None:
        invented = (
            make_record(stranger(world.rng), Address(VICTIM, next(ports))) for _ in range(18)
        )
        named = (*besides, *invented)
        if isinstance(question, FindValue):
            return Value((), named)
        if isinstance(question, FindNode):
            return Nodes(named)
        return Peers(named) if isinstance(question, GetPeers) else None

    return answer


async def test_lookups_ask_few_of_the_peers_that_a_liar_invents(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        world.conditions.unreachable.add(VICTIM)
        a = await world.start("a", lan=None)
        lies = inventing(world)
        await talk_to(world, a, ScriptedPeer(world, listens=True), lambda line: line.serve(lies))
        began, asked = trio.current_time(), 0
        for number in range(100):
            asked += len((await a.node.lookup(f"k{number}")).hops) - 1
            await trio.sleep(1)
        seconds = trio.current_time() - began
        # One lookup may overdraw what is left.
        assert 20 < asked <= IN_VAIN_AT_ONCE + IN_VAIN_PER_SECOND * seconds + 20


@pytest.mark.parametrize("told_by_another", [False, True])
async def test_whom_a_liar_names_as_well_is_asked_if_another_peer_names_it(
    autojump_clock: MockClock, told_by_another: bool
) -> None:
    async with open_world(1) as world:
        world.conditions.unreachable.add(VICTIM)
        # It wants no more connections, so that only lookups dial.
        a = await world.start("a", lan=None, connections__target=1)
        named = ScriptedPeer(world, host="10.9.3.1", listens=True)
        await world._nursery.start(named.listen, lambda line: line.serve(lambda _: Nodes(())))
        told: list[Signed] = []
        lies = inventing(world, told)
        liar = ScriptedPeer(world, host="10.9.1.1", listens=True)
        await talk_to(world, a, liar, lambda line: line.serve(lies))
        honest = ScriptedPeer(world, host="10.9.2.1", listens=True)
        truth = told if told_by_another else ()
        await talk_to(world, a, honest, lambda line: line.serve(lambda _: Nodes(tuple(truth))))
        for number in range(5):
            await a.node.lookup(f"k{number}")
        told.append(named.record())
        route = await a.node.lookup(named.identity.node_id.hex())
        answered = [each.node_id for each in route.hops if each.outcome == "answered"]
        assert (named.identity.node_id.hex() in answered) is told_by_another


async def test_who_names_peers_that_are_there_may_name_any_number(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "IN_VAIN_AT_ONCE", 30.0)
    async with open_world(1) as world:
        # As many replicas as nodes: so the teller is asked each time.
        a = await world.start("a", lan=None, dht__k=64, connections__max_outbound=64)
        told: list[Signed] = []
        teller = ScriptedPeer(world, listens=True)
        await talk_to(world, a, teller, lambda line: line.serve(lambda _: Nodes(tuple(told))))
        began = trio.current_time()
        for number in range(3):
            named = [ScriptedPeer(world, f"10.10.{number}.{n}", listens=True) for n in range(20)]
            for each in named:
                await world._nursery.start(
                    each.listen, lambda line: line.serve(lambda _: Nodes(()))
                )
            told[:] = [each.record() for each in named]
            found = {each.node_id for each in (await a.node.lookup("k")).found}
            assert found >= {each.identity.node_id.hex() for each in named}
        assert trio.current_time() - began < 10


@pytest.mark.parametrize("unreachable", [False, True])
async def test_writes_succeed_beside_liars_that_invent_peers(
    autojump_clock: MockClock, unreachable: bool
) -> None:
    """Nobody was ever connected to these: they are no replicas that fail to store."""

    def far(source: str, destination: str) -> float:
        return 0.3 if VICTIM in {source, destination} else 0.01

    async with open_world(1, far) as world:
        world.conditions.unreachable.update([VICTIM] if unreachable else [])
        a, *others = [await world.start(name, lan=None) for name in "abcd"]
        for each in others:
            await a.node.connect(str(each.address))
        for number in range(2):
            liar = ScriptedPeer(world, f"10.9.{number}.1", listens=True)
            await talk_to(world, a, liar, partial(Line.serve, answer=inventing(world)))
        for number in range(20):
            written = await a.node.put(f"k{number}", b"v")
            # The liars were connected: as replicas they count, though they store nothing.
            assert (written.stored, written.wanted) == (4, 6)
            await trio.sleep(0.5)


async def test_a_peer_that_answers_lookups_with_lies(autojump_clock: MockClock) -> None:
    """Records of nobody, unsigned addresses, and more of them every time."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        rng = world.rng
        invented: set[str] = set()

        def lies() -> tuple[Signed, ...]:
            strangers = [stranger(rng) for _ in range(20)]
            invented.update(each.node_id.hex() for each in strangers)
            good = [
                make_record(each, addresses=("10.7.0.1:1", "rubbish", "0.0.0.0:1", "224.0.0.1:9"))
                for each in strangers
            ]
            forged = [Signed(each.body, rng.randbytes(64)) for each in good[10:]]
            rubbish = [Signed(rng.randbytes(60), rng.randbytes(64)) for _ in range(20)]
            return (*good[:10], *forged, *rubbish)

        def answer(question: Message) -> Message:
            if isinstance(question, Store):
                return Stored()
            if isinstance(question, FindValue):
                return Value((Signed(rng.randbytes(90), rng.randbytes(64)),), lies())
            return Nodes(lies()) if isinstance(question, FindNode) else Peers(lies())

        for number in range(3):
            liar = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            await talk_to(world, a, liar, lambda line: line.serve(answer))
        await a.node.put("k", b"v")
        for _ in range(20):
            assert (await a.node.get("k", consistency="one")).winner.value == b"v"
        assert len(a.node.peers()) < 1000
        await trio.sleep(100)
        await still_serves(world, a)


async def test_replies_to_nothing_and_floods_of_goodbyes(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        for number in range(1000):
            await line.stream.send_all(line.session.reply(number, Peers(())))
        assert await line.ask(Echo(b"x")) == Echoed(b"x")
        await line.send(*[Goodbye(f"number {number}") for number in range(1000)])
        with trio.fail_after(1):
            await line.hung_up()
        assert a.codes().count("peer.disconnected") == 1
        assert a.node.peers()[0].last_error == "the peer said goodbye: number 0"
        await still_serves(world, a)


async def test_a_bug_in_a_handler_costs_one_connection(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)

        def handler(call: Call, message: Pong) -> None:
            raise ZeroDivisionError("a bug planted by a test")

        a.services.roster.on_connected.append(
            lambda connection: connection._dispatch.add(Pong, handler)
        )
        honest = await ScriptedPeer(world, host="10.8.0.1").connect(a)
        trigger = await ScriptedPeer(world).connect(a)
        await trigger.send(Pong(), Pong(), Pong())
        with trio.fail_after(1):
            await trigger.hung_up()
        bugs = [each for each in a.events if each.code == "bug"]
        assert len(bugs) == 1
        assert "planted by a test" in bugs[0].message
        assert bugs[0].error is not None
        assert bugs[0].error.__traceback__ is not None
        assert len(connected(a)) == 1
        assert await honest.ask(Echo(b"x")) == Echoed(b"x")


async def test_a_bug_in_reading_what_a_peer_sends_costs_one_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> None:
        raise ZeroDivisionError("a bug planted by a test")

    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        honest = await ScriptedPeer(world, host="10.8.0.1").connect(a)
        peer = ScriptedPeer(world)
        trigger = await peer.connect(a)
        connection = a.services.roster.connections[peer.identity.node_id]
        monkeypatch.setattr(connection._session, "next_event", bug)
        await trigger.send(Pong())
        with trio.fail_after(1):
            await trigger.hung_up()
        assert connection.end_reason == BUG
        assert a.codes().count("bug") == 1
        assert await honest.ask(Echo(b"x")) == Echoed(b"x")


@pytest.mark.parametrize(("side", "at"), [("as_client", "b"), ("as_server", "a")])
async def test_a_bug_in_a_handshake_costs_one_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, side: str, at: str
) -> None:
    async def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug planted by a test")

    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None)
        honest = await ScriptedPeer(world, host="10.8.0.1").connect(a)
        with monkeypatch.context() as patch:
            patch.setattr(Introducer, side, bug)
            with pytest.raises(P2PError):
                await b.node.connect(str(a.address))
        assert "bug" in world.nodes[at].codes()
        assert await honest.ask(Echo(b"x")) == Echoed(b"x")
        await b.node.connect(str(a.address))


@pytest.mark.parametrize("question", [Compare((Subtree(b"", 0, EMPTY),)), Fetch((bytes(32),))])
async def test_a_bug_in_answering_what_has_waited_costs_one_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, question: Message
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug planted by a test")

    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        honest = await ScriptedPeer(world, host="10.8.0.1").connect(a)
        trigger = await ScriptedPeer(world).connect(a)
        with monkeypatch.context() as patch:
            patch.setattr(reconciler, "compare", bug)
            patch.setattr(a.services.replica, "read", bug)
            with pytest.raises(HungUp):
                await trigger.ask(question)
        assert a.codes().count("bug") == 1
        assert isinstance(await honest.ask(question), Compared | Fetched)


async def test_a_bug_in_storing_a_record_costs_that_record(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug planted by a test")

    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        with monkeypatch.context() as patch:
            patch.setattr(replica, "merge", bug)
            assert isinstance(await line.ask(Store(record(peer, "k", b"v"))), Failed)
        assert a.codes().count("bug") == 1
        assert await line.ask(Store(record(peer, "k", b"v"))) == Stored()


async def test_a_flood_that_costs_time_holds_up_nobody_for_long(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)

        def handler(call: Call, message: Pong) -> None:
            autojump_clock.jump(TIME_SLICE / 4)

        a.services.roster.on_connected.append(
            lambda connection: connection._dispatch.add(Pong, handler)
        )
        flood = await ScriptedPeer(world).connect(a)
        await flood.send(*[Pong()] * 1000)
        longest = 0.0
        started = last = trio.current_time()
        while last < started + 1000 * TIME_SLICE / 4:
            await trio.sleep(TIME_SLICE / 8)
            now = trio.current_time()
            longest, last = max(longest, now - last), now
        assert longest <= 4 * TIME_SLICE
        await still_serves(world, a)


async def test_forged_peers_do_not_make_a_node_scan_ports(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        started = trio.current_time()
        for teller in range(40):
            records = tuple(
                make_record(
                    stranger(world.rng),
                    *(
                        Address("198.18.0.1", 1 + 128 * teller + 8 * number + each)
                        for each in range(8)
                    ),
                )
                for number in range(15)
            )
            line = await ScriptedPeer(world, host=f"10.9.{teller}.1").connect(a)
            world._nursery.start_soon(line.serve, lambda _, told=records: Peers(told))
            await trio.sleep(0.3)
        elapsed = trio.current_time() - started
        tried = a.codes().count("peer.dial_failed") * 8
        assert STRANGERS_AT_ONCE <= tried <= STRANGERS_AT_ONCE + 8 + STRANGERS_PER_SECOND * elapsed
        await still_serves(world, a)


async def test_who_connects_and_names_addresses_makes_no_scanner_of_a_node(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proves an identity, and is gone at once, so that it is looked for."""
    dials: list[Address] = []
    dial = sim.SimNetwork.dial

    async def count(network: sim.SimNetwork, address: Address) -> SimStream:
        if address.host == "198.18.0.1":
            dials.append(address)
        return await dial(network, address)

    monkeypatch.setattr(sim.SimNetwork, "dial", count)
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        started = trio.current_time()
        for number in range(60):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1")
            targets = [Address("198.18.0.1", 1 + 8 * number + each) for each in range(8)]
            line = await peer.connect(a, record=make_record(peer.identity, *targets))
            line.stream.break_now()
            await trio.sleep(0.2)
        await trio.sleep(30)
        elapsed = trio.current_time() - started
        assert len(dials) <= STRANGERS_AT_ONCE + 8 + STRANGERS_PER_SECOND * elapsed
        await still_serves(world, a)


async def test_lookups_dial_few_addresses_of_peers_that_were_connected_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proves an identity and is gone; a liar goes on naming it at ever new addresses."""
    dials = 0
    dial = sim.SimNetwork.dial

    async def count(network: sim.SimNetwork, address: Address) -> SimStream:
        nonlocal dials
        dials += address.host == VICTIM
        return await dial(network, address)

    monkeypatch.setattr(sim.SimNetwork, "dial", count)
    async with open_world(1) as world:
        world.conditions.unreachable.add(VICTIM)
        a = await world.start("a", lan=None, connections__target=1)
        ports, gone = (
            itertools.count(1024),
            [ScriptedPeer(world, host=f"10.9.{number}.1") for number in range(20)],
        )
        for peer in gone:
            line = await peer.connect(a, passing=True)
            await line.send(Goodbye("no longer needed"))
            await line.stream.aclose()

        def lies(_: Message) -> Nodes:
            at = [Address(VICTIM, next(ports)) for _ in range(MAX_ADDRESSES * len(gone))]
            return Nodes(
                tuple(
                    make_record(peer.identity, *at[number :: len(gone)], peer.address)
                    for number, peer in enumerate(gone)
                )
            )

        liar = ScriptedPeer(world, host="10.10.1.1", listens=True)
        await talk_to(world, a, liar, lambda line: line.serve(lies))
        await trio.sleep(60)
        began, dials = trio.current_time(), 0
        for number in range(60):
            await a.node.lookup(f"k{number}")
        named = IN_VAIN_AT_ONCE + IN_VAIN_PER_SECOND * (trio.current_time() - began)
        # The first failure of each costs nothing, and one lookup may overdraw what is left.
        assert 0 < dials <= MAX_ADDRESSES * (named + 2 * len(gone))
