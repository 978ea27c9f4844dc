"""Whom a node dials by itself, and whom it leaves alone."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.entries import Entry, Source
from p2pd.core.registry import MAX_ADDRESSES
from p2pd.errors import Busy, DialFailed, Exhausted, P2PError
from p2pd.ids import NodeId
from p2pd.net.faults import Cut, constant_latency
from p2pd.net.sim import SimListener, SimPending, SimStream
from p2pd.node.connection import Connection, Direction
from p2pd.node.dialler import ADDRESSES_OF_STRANGERS, CUT_SHORT, HEAD_START
from p2pd.node.shortage import WELCOME
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import (
    MAX_VALUE_BYTES,
    Echo,
    Echoed,
    FindNode,
    FindValue,
    Goodbye,
    Message,
    Nodes,
    Peers,
    Value,
)
from p2pd.wire.session import Received
from tests.node.scripted import (
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    make_record,
    reasons,
    stranger,
)
from tests.node.test_dht import network

ECHOED = Echoed(b"")


async def passive(world: World, *names: str) -> list[SimNode]:
    """Start nodes that dial nobody."""
    return [await world.start(name, lan=None, connections__target=0) for name in names]


def known(node: SimNode) -> set[NodeId | None]:
    return {each.node_id for each in node.services.registry}


async def meet(node: SimNode, *others: SimNode) -> None:
    """Let a node know others, and be connected to none of them."""
    for each in others:
        await each.node.connect(str(node.address))
    # They join, which needs the connection.
    await trio.sleep(60)
    for each in others:
        await each.node.disconnect(node.node_id)
    await trio.sleep(1)
    assert not connected(node)


async def test_a_target_above_the_bound_pushes_nobody_out(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        others = await passive(world, "b", "c", "d")
        a = await world.start(
            "a", lan=None, bootstrap=others, connections__target=3, connections__max_outbound=1
        )
        await trio.sleep(600)
        assert a.codes() == ["peer.connected"]
        assert_unharmed(a)


async def test_no_room_for_a_dial_is_no_failure_of_the_peer(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        await c.node.connect(str(b.address))
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await a.node.connect(str(b.address))
        await world.until(lambda: len(a.node.peers()) == 2, within=5)
        for _ in range(3):
            with pytest.raises(Busy):
                await a.node.ping(c.node_id)
        [known] = [each for each in a.node.peers() if each.name == "c"]
        assert known.fail_count == 0
        assert not reasons(a)


@pytest.mark.parametrize(
    ("question", "kind", "network_key", "round_trips"),
    [
        # TCP, TLS, the handshake.
        (FindNode(bytes(32)), Nodes, b"", 3),
        (FindValue(bytes(32), closer=True), Value, b"", 3),
        (Echo(b"hello"), Echoed, b"", 4),
        (FindNode(bytes(32)), Nodes, b"key", 4),
    ],
    ids=["FindNode", "FindValue", "Echo", "private network"],
)
async def test_a_question_that_anybody_may_hear_goes_along_with_the_handshake(
    autojump_clock: MockClock,
    question: Message,
    kind: type[Message],
    network_key: bytes,
    round_trips: int,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        a, b = [
            await world.start(name, lan=None, connections__target=0, network_key=network_key)
            for name in "ab"
        ]
        await meet(a, b)
        began = trio.current_time()
        await a.services.requester.request(b.node_id, question, kind, within=5)
        assert trio.current_time() - began == pytest.approx(0.1 * round_trips, abs=0.02)
        assert_unharmed(a, b)


async def test_an_address_that_is_silent_does_not_hide_those_behind_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        world.conditions.unreachable.add("203.0.113.9")
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        entry.addresses.insert(0, Address("203.0.113.9", 41000))
        began = trio.current_time()
        reply = await a.services.requester.request(b.node_id, FindNode(bytes(32)), Nodes, within=2)
        assert isinstance(reply, Nodes)
        assert trio.current_time() - began == pytest.approx(HEAD_START + 0.3, abs=0.02)
        # The next dial begins there.
        assert entry.addresses[0] == b.address
        assert not reasons(a)
        assert_unharmed(a, b)


async def test_addresses_that_are_taken_by_the_mute_do_not_hide_those_behind_them(
    autojump_clock: MockClock,
) -> None:
    """They accept a connection, also that of TLS, and never say a word."""
    async with open_world(1, constant_latency(0.05)) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        streams: list[SimStream] = []

        async def accept_and_be_mute(listener: SimListener) -> None:
            while True:
                streams.append(await (await listener.accept()).secure())

        for number in range(2):
            mute = ScriptedPeer(world, host=f"10.9.8.{number}")
            world.meanwhile(accept_and_be_mute, await mute.network.listen(mute.address))
            entry.addresses.insert(0, mute.address)
        question = FindNode(bytes(32))
        reply = await a.services.requester.request(
            b.node_id, question, Nodes, within=2 * CUT_SHORT + 1
        )
        assert isinstance(reply, Nodes)
        assert len(streams) == 2
        assert_unharmed(a, b)


@pytest.mark.parametrize("seed", range(6))
async def test_a_peer_that_did_not_run_for_a_moment_gets_one_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two of its addresses were dialled by then: it would close the one, and we the other."""
    slow = random.Random(seed)
    async with open_world(seed, lambda _here, _there: slow.uniform(0.02, 0.08)) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        second = Address("10.9.9.9", 41000)
        world.network.listeners[second] = world.network.listeners[b.address]
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        entry.addresses[:] = [b.address, second]
        runs, secure = trio.Event(), SimPending.secure

        async def secure_once_it_runs(self: SimPending) -> SimStream:
            await runs.wait()
            return await secure(self)

        monkeypatch.setattr(SimPending, "secure", secure_once_it_runs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(a.services.dialler.connect_to, b.node_id, lasting=True))
            await trio.sleep(HEAD_START + 0.3)
            runs.set()
        for _ in range(30):
            await trio.sleep(0.1)
            assert a.is_connected_to(b)
            assert b.is_connected_to(a)
        assert b.codes().count("peer.disconnected") == 1
        assert_unharmed(a, b)


async def test_where_all_addresses_fail_the_best_one_tells_why(autojump_clock: MockClock) -> None:
    """That is where the peer was last."""
    async with open_world(1) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        await world.crash(b)
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        for number in range(1, 3):
            elsewhere = Address(f"203.0.113.{number}", 41000)
            world.conditions.unreachable.add(elsewhere.host)
            entry.addresses.append(elsewhere)
        with pytest.raises(DialFailed, match=str(b.address)):
            await a.services.dialler.connect_to(b.node_id)


async def test_of_a_peer_that_somebody_made_up_few_addresses_are_dialled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may all be of one victim, and lookups wait for no budget."""
    async with open_world(1) as world:
        (a,) = await passive(world, "a")
        made_up = stranger(world.rng)
        addresses = [Address("198.18.0.1", 1 + number) for number in range(MAX_ADDRESSES)]
        line = await ScriptedPeer(world).connect(a)
        answer = Peers((make_record(made_up, *addresses),))
        world.meanwhile(lambda: line.serve(lambda _: answer))
        await world.until(lambda: made_up.node_id in known(a), within=5)
        dialled: list[Address] = []
        dial = a.network.dial

        async def note(address: Address) -> SimStream:
            dialled.append(address)
            return await dial(address)

        monkeypatch.setattr(a.network, "dial", note)
        with pytest.raises(DialFailed):
            await a.node.ping(made_up.node_id)
        assert dialled == addresses[:ADDRESSES_OF_STRANGERS]


async def test_addresses_dialled_side_by_side_need_one_place(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=2)
        await meet(a, b)
        await a.node.connect(str(c.address))
        world.conditions.unreachable.add("203.0.113.9")
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        entry.addresses.insert(0, Address("203.0.113.9", 41000))
        await a.services.dialler.connect_to(b.node_id)
        assert a.is_connected_to(b, c)


@pytest.mark.parametrize("lag", [0.0, 0.04, 0.05, 0.06, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(4))
async def test_whom_a_user_connects_stays_and_gets_the_answer_that_it_dialled_for(
    autojump_clock: MockClock, seed: int, lag: float
) -> None:
    async with open_world(seed, constant_latency(0.05)) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        async with trio.open_nursery() as nursery:
            # Both dial at once, and whose connection stays is decided by their IDs.
            nursery.start_soon(b.services.requester.request, a.node_id, Echo(b""), Echoed, 5.0)
            await trio.sleep(lag)
            await a.node.connect(str(b.address))
            assert not a.services.roster.connections[b.node_id].passing
        await trio.sleep(600)
        assert not a.services.roster.connections[b.node_id].passing


@pytest.mark.parametrize("seed", range(6))
async def test_a_dial_that_replaces_what_the_peer_made_needs_a_place(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed, constant_latency(0.05)) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, c)
        await b.node.connect(str(a.address))
        await a.node.ping(c.node_id)

        async def ask() -> None:
            await trio.sleep(0.25)
            await a.node.ping(c.node_id)

        async with trio.open_nursery() as nursery:
            # The place that was to be had when the dial began is in use again at its end.
            nursery.start_soon(ask)
            with suppress(Busy):
                await a.services.dialler.dial(b.address, Source.MANUAL, lasting=True)
        assert a.is_connected_to(b, c)
        held = a.services.roster.connections.values()
        assert sum(each.direction is Direction.OUTBOUND for each in held) == 1
        await trio.sleep(2)
        # Nor does one that found no place stay behind it.
        assert sum(each.local.host == a.network.host for each in world.network.streams) == len(held)


async def test_no_other_dial_takes_the_place_of_a_connection_before_who_dialled_has_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=2)
        await meet(a, b, c)
        busy = ScriptedPeer(world, listens=True)

        async def talk(line: Line) -> None:
            await line.serve(lambda _: None)

        await world._nursery.start(busy.listen, talk)
        await a.node.connect(str(busy.address))
        await a.node.disconnect(busy.identity.node_id)
        await trio.sleep(1)
        await a.node.ping(busy.identity.node_id)
        given: list[Connection] = []

        async def dial(node: SimNode) -> None:
            with suppress(Busy):
                connection = await a.services.dialler.connect_to(node.node_id)
                assert a.services.roster.connections.get(node.node_id) is connection
                assert connection.end_reason is None
                given.append(connection)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, b)
            nursery.start_soon(dial, c)
            await trio.sleep(0.1)
            # The place that was to be had when the dials began is in use again at their end.
            held = a.services.roster.connections[busy.identity.node_id]
            with trio.move_on_after(1), suppress(P2PError):
                await held.request(Echo(b""), Echoed, 1)
        assert len(given) == 1
        assert_unharmed(a, b, c)


async def test_whoever_is_silent_is_dialled_for_one_read_and_not_for_the_next(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await network(world, 5, connections__max_outbound=6)
        a, teller = nodes[0], nodes[1]
        await a.node.put("k", b"v")
        before = connected(a)
        for number in range(4):
            host = f"203.0.113.{number}"
            world.conditions.unreachable.add(host)
            record = make_record(stranger(world.rng), Address(host, 41000))
            a.services.exchange._book.learn(
                record, told_over=teller.network.host, told_by=teller.node_id
            )
        took: list[float] = []
        for _ in range(5):
            began = trio.current_time()
            assert (await a.node.get("k")).winner.value == b"v"
            took.append(trio.current_time() - began)
        print(took)
        # Not all of them may be dialled by the first one.
        assert max(took) < 3
        assert max(took[3:]) < 0.1
        # Nor does a dial that comes to nothing cost a connection.
        assert connected(a) == before


async def test_what_went_along_with_the_handshake_is_not_asked_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)
        question, heard = FindNode(bytes(32)), list[Message]()

        def answer(asked: Message) -> Message:
            heard.append(asked)
            return Nodes(())

        async def talk(line: Line) -> None:
            await line.serve(answer)

        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, talk)
            await a.node.connect(str(peer.address))
            await a.node.disconnect(peer.identity.node_id)
            await world.until(lambda: not connected(a))
            heard.clear()
            # Along with the handshake, then over the connection that it made.
            for _ in range(2):
                reply = await a.services.requester.request(
                    peer.identity.node_id, question, Nodes, within=5
                )
                assert reply == Nodes(())
            assert heard.count(question) == 2
            nursery.cancel_scope.cancel()
        assert_unharmed(a)


async def test_requests_wait_for_room_while_others_are_answered(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        others = await passive(world, *[f"n{number}" for number in range(12)])
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=3)
        await meet(a, *others)
        answered: list[str] = []

        async def ask(other: SimNode) -> None:
            reply = await a.services.requester.request(
                other.node_id, Echo(b"hello"), Echoed, within=5
            )
            assert reply == Echoed(b"hello")
            answered.append(other.name)

        async with trio.open_nursery() as nursery:
            for each in others:
                nursery.start_soon(ask, each)
        assert sorted(answered) == sorted(each.name for each in others)
        assert_unharmed(a)


async def test_no_request_waits_for_room_without_end(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, b, c)
        await a.node.connect(str(b.address))
        began = trio.current_time()
        with pytest.raises(Busy):
            await a.services.requester.request(c.node_id, Echo(b""), Echoed, within=7)
        assert trio.current_time() - began == pytest.approx(7)


async def test_a_request_has_the_room_of_a_dial_that_came_to_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, b, c)
        world.conditions.unreachable.add(b.network.host)

        async def ask_in_vain() -> None:
            with suppress(P2PError):
                await a.services.requester.request(b.node_id, Echo(b""), Echoed, within=3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_in_vain)
            await trio.sleep(1)
            began = trio.current_time()
            await a.services.requester.request(c.node_id, Echo(b""), Echoed, within=7)
        assert trio.current_time() - began == pytest.approx(2, abs=0.5)


async def test_who_wants_connections_while_all_places_are_in_use_does_not_try_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        deaf = ScriptedPeer(world, listens=True)
        await world._nursery.start(deaf.listen, lambda line: line.hung_up())
        (b,) = await passive(world, "b")
        a = await world.start("a", lan=None, connections__target=1, connections__max_outbound=1)
        await a.node.connect(str(deaf.address))
        await a.node.disconnect(deaf.identity.node_id)
        tries = 0
        check_room = a.services.roster.check_room

        def count(*args: Any, **kwargs: Any) -> None:
            nonlocal tries
            tries += 1
            assert tries < 100
            check_room(*args, **kwargs)

        async def ask_in_vain() -> None:
            with suppress(P2PError):
                await a.services.requester.request(deaf.identity.node_id, Echo(b""), Echoed, 8)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_in_vain)
            await trio.sleep(1)
            monkeypatch.setattr(a.services.roster, "check_room", count)
            discovery = attrs.evolve(a.config.discovery, bootstrap=(str(b.address),))
            a.node.reload(attrs.evolve(a.config, discovery=discovery))
            await trio.sleep(6)
            assert not a.is_connected_to(b)
        assert 3 <= tries <= 10
        await world.until(lambda: a.is_connected_to(b), within=10)


async def test_a_request_has_the_room_of_a_connection_that_ends(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, b, c)
        await a.node.connect(str(b.address))

        async def end_it_later() -> None:
            await trio.sleep(3)
            await a.node.disconnect(b.node_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_it_later)
            began = trio.current_time()
            await a.services.requester.request(c.node_id, Echo(b""), Echoed, within=7)
        assert trio.current_time() - began == pytest.approx(3, abs=0.5)


async def test_a_request_has_the_room_of_a_connection_whose_own_was_answered(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        slow = ScriptedPeer(world, listens=True)

        async def talk(line: Line) -> None:
            while True:
                event = await line.next()
                if isinstance(event.message, Echo) and isinstance(event, Received):
                    await trio.sleep(3)
                    await line.stream.send_all(line.session.reply(event.request_id or 0, ECHOED))

        await world._nursery.start(slow.listen, talk)
        [b] = await passive(world, "b")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, b)
        await a.node.connect(str(slow.address))
        await a.node.disconnect(slow.identity.node_id)
        await trio.sleep(1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            ask = a.services.requester.request
            nursery.start_soon(ask, slow.identity.node_id, Echo(b""), Echoed, 9)
            await trio.sleep(1)
            await ask(b.node_id, Echo(b""), Echoed, within=7)
        assert trio.current_time() - began == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("change", ["it is forgotten", "it comes by itself"])
async def test_a_request_that_needs_no_room_any_more_leaves_it_to_the_next(
    autojump_clock: MockClock, change: str
) -> None:
    async with open_world(1) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        deaf = ScriptedPeer(world, listens=True)
        await world._nursery.start(deaf.listen, Line.hung_up)
        await a.node.connect(str(deaf.address))
        await a.node.disconnect(deaf.identity.node_id)
        await meet(a, b, c)
        await a.node.connect(str(b.address))

        async def ask_in_vain() -> None:
            with suppress(P2PError):
                await a.services.requester.request(deaf.identity.node_id, Echo(b""), Echoed, 20)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_in_vain)
            await trio.sleep(0.1)
            nursery.start_soon(a.services.requester.request, c.node_id, Echo(b""), Echoed, 20)
            await trio.sleep(0.1)
            if change == "it is forgotten":
                a.services.registry._drop(deaf.identity.node_id)
            else:
                world.meanwhile(Line.hung_up, await deaf.connect(a))
            await a.node.disconnect(b.node_id)
            await world.until(lambda: a.is_connected_to(c), within=1)


async def test_a_request_outlives_its_connection(autojump_clock: MockClock) -> None:
    """The peer makes room just when it is asked."""
    async with open_world(1) as world:
        peer = ScriptedPeer(world, listens=True)
        echo = Echo(b"once more")
        served = 0

        async def talk(line: Line) -> None:
            nonlocal served
            served += 1
            if served == 1:
                await line.expect(Echo)
                await line.send(Goodbye("making room for others"))
                await line.stream.aclose()
                return
            await line.serve(lambda question: Echoed(b"done") if question == echo else None)

        await world._nursery.start(peer.listen, talk)
        a = await world.start("a", lan=None, connections__target=0)
        await a.node.connect(str(peer.address))
        answer, _ = await a.node.echo(peer.identity.node_id, echo.data)
        assert (answer, served) == (b"done", 2)


@pytest.mark.parametrize("cause", ["no room", "lost"])
async def test_a_request_says_while_it_can_not_be_on_its_way(
    autojump_clock: MockClock, cause: str
) -> None:
    """So that a lookup asks nobody else in vain, and counts no time against the node."""
    spans: list[tuple[float, float]] = []

    @contextmanager
    def held_up() -> Iterator[None]:
        began = trio.current_time()
        yield
        spans.append((began, trio.current_time()))

    async with open_world(1, constant_latency(0.05)) as world:
        b, c = await passive(world, "b", "c")
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        await meet(a, b, c)
        held = c if cause == "lost" else b
        await a.node.connect(str(held.address))
        connection = a.services.roster.connections[held.node_id]

        async def make_way() -> None:
            await trio.sleep(1.02)
            connection.close("making room for others")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_way)
            if cause == "lost":
                await trio.sleep(1)
            began = trio.current_time()
            await a.services.requester.request(c.node_id, Echo(b""), Echoed, 7, held_up)
        [(since, until)] = spans
        assert since - began == pytest.approx(0.02 if cause == "lost" else 0, abs=0.01)
        assert until < trio.current_time()
        # A dial and a round trip follow.
        assert trio.current_time() - until == pytest.approx(0.4, abs=0.15)


async def test_a_dial_that_a_leaving_node_cuts_short_is_no_failure(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        world.conditions.unreachable.add("10.7.0.1")
        bootstrap = ["10.7.0.1:41000"]
        a = await world.start("a", lan=None, discovery__bootstrap=bootstrap)
        await trio.sleep(CUT_SHORT + 0.1)
        [entry] = a.services.registry
        assert entry.dialling
        await world.stop(a)
        assert "peer.dial_failed" not in a.codes()


async def test_a_leaving_node_makes_no_more_connections(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        others = await passive(world, "b", "c", "d")
        a = await world.start("a", lan=None, bootstrap=others, connections__target=2)
        await world.until(lambda: len(connected(a)) == 2, within=WELCOME + 5)
        # One that takes no goodbye: the others are gone while it is waited for.
        deaf = await ScriptedPeer(world).connect(a)
        for _ in range(8):
            question = Echo(world.rng.randbytes(MAX_VALUE_BYTES))
            await deaf.stream.send_all(deaf.session.request(question)[1])
        await trio.sleep(0.1)
        [spare] = [each for each in others if "peer.connected" not in each.codes()]
        await world.stop(a)
        assert "peer.connected" not in spare.codes()


@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_request_sets_out_once_the_dial_of_another_has_ended(
    autojump_clock: MockClock, *, gives_up: bool
) -> None:
    """A lookup does not hold it against the node that only the first question went along."""
    told: list[float] = []

    @contextmanager
    def held_up() -> Iterator[None]:
        told.append(trio.current_time())
        yield

    async with open_world(1, constant_latency(0.05)) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)

        async def ask_first() -> None:
            with trio.move_on_after(0.2 if gives_up else 7):
                await a.services.requester.request(b.node_id, FindNode(bytes(32)), Nodes, 7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_first)
            await trio.sleep(0.1)
            began = trio.current_time()
            await a.services.requester.request(b.node_id, FindNode(bytes(32)), Nodes, 7, held_up)
        assert told == [pytest.approx(began + (0.1 if gives_up else 0.2), abs=0.01)]
        assert_unharmed(a, b)


async def test_a_dial_that_somebody_else_made_is_tried_again(autojump_clock: MockClock) -> None:
    """It was under way when the backoff ended: the dialler hears of its end."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=1, connections__backoff_max=4)
        [b] = await passive(world, "b")
        await a.node.connect(str(b.address))
        await trio.sleep(5)
        cut = Cut(frozenset({a.network.host}), frozenset({b.network.host}))
        world.network.medium.cut(cut)
        for stream in list(world.network.streams):
            stream.break_now()
        # Liveness dials at once, and its dial is still under way when the backoff ends.
        await trio.sleep(30)
        world.network.medium.heal(cut)
        await world.until(lambda: a.is_connected_to(b), within=10)
        assert_unharmed(a, b)


async def test_who_asks_while_a_dial_begins_waits_for_that_one(autojump_clock: MockClock) -> None:
    """And who gives up waiting does not make the dialler begin another one."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=3)
        [b] = await passive(world, "b")
        await a.node.connect(str(b.address))
        await trio.sleep(5)
        host = b.network.host
        world.conditions.unreachable.add(host)
        await world.crash(b)
        await trio.sleep(20)
        for _ in range(30):
            a.services.upkeep.retry_all()
            # Whoever is first, the dialler or the user, is up to Trio.
            await trio.lowlevel.checkpoint()
            with trio.move_on_after(0.5):
                with suppress(P2PError):
                    await a.node.ping(b.node_id)
            a.services.upkeep.retry_all()
            await trio.sleep(10)
        assert_unharmed(a)


async def test_a_newcomer_leaves_half_of_its_target_to_others(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        hub, *others = await passive(world, *"bcdefghijk")
        for each in others:
            await hub.node.connect(str(each.address))
        a = await world.start("a", lan=None, bootstrap=[hub], connections__target=4)
        await trio.sleep(WELCOME - 1)
        lasting = a.services.roster.lasting()
        assert [each.direction for each in lasting].count(Direction.OUTBOUND) == 2


@pytest.mark.parametrize(("gracefully", "level"), [(True, logging.INFO), (False, logging.WARNING)])
async def test_that_a_peer_which_left_is_not_there_is_no_warning(
    autojump_clock: MockClock, gracefully: bool, level: int
) -> None:
    async with open_world(31) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b))
        await (world.stop(b) if gracefully else world.crash(b))
        await trio.sleep(60)
        failures = [each.level for each in a.events if each.code == "peer.dial_failed"]
        assert max(failures) == level


async def test_a_failed_dial_of_an_address_names_it_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, discovery__bootstrap=["10.7.0.1:41000"])
        await trio.sleep(10)
        told = [each.message for each in a.events if each.code == "peer.dial_failed"]
        assert told
        assert {each.count("10.7.0.1:41000") for each in told} == {1}


async def test_who_joins_a_dial_has_all_addresses_tried(autojump_clock: MockClock) -> None:
    """A probe's dial tries only the first ones."""
    async with open_world(1) as world:
        (a,) = await passive(world, "a")
        peer = ScriptedPeer(world, listens=True)
        silent = [Address("10.7.0.1", 41000), Address("10.7.0.2", 41000)]
        world.conditions.unreachable |= {each.host for each in silent}
        record = make_record(peer.identity, *silent, peer.address)
        line = await ScriptedPeer(world, host="10.9.0.9").connect(a)
        world.meanwhile(lambda: line.serve(lambda _: Peers((record,))))
        await world.until(lambda: peer.identity.node_id in known(a), within=5)
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, lambda line: line.serve(lambda _: None))

            async def probe() -> None:
                with suppress(P2PError):
                    await a.services.dialler.connect_to(peer.identity.node_id, most=2)

            nursery.start_soon(probe)
            await trio.sleep(0.05)
            await a.node.ping(peer.identity.node_id)
            nursery.cancel_scope.cancel()


async def test_where_a_connected_peer_answers_as_well_is_known_from_then_on(
    autojump_clock: MockClock,
) -> None:
    """Else each new list of bootstrap addresses would have it dialled once more."""
    async with open_world(1) as world:
        a, b = sorted(await passive(world, "a", "b"), key=lambda each: each.node_id)
        await a.node.connect(str(b.address))
        entry = b.services.registry.get(a.node_id)
        assert entry is not None
        assert not entry.answered
        connection = b.services.roster.connections[a.node_id]
        await b.node.connect(str(a.address))
        assert b.services.roster.connections[a.node_id] is connection
        assert entry.answered == (a.address,)


async def test_who_joins_a_dial_of_a_stranger_that_fails_does_not_repeat_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        (a,) = await passive(world, "a")
        node_id = stranger(world.rng).node_id
        entry = a.services.registry.heard(node_id, Address("10.7.0.1", 41000), Source.EXCHANGE, 0.0)
        assert entry is not None

        async def ask() -> None:
            with pytest.raises(DialFailed):
                await a.services.dialler.connect_to(node_id)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert entry.fail_count == 1


async def test_who_joins_a_dial_to_stay_has_what_is_not_tried_yet_dialled_to_stay(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        world.conditions.unreachable.add("203.0.113.9")
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        entry.addresses.insert(0, Address("203.0.113.9", 41000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.services.dialler.connect_to, b.node_id)
            await trio.sleep(HEAD_START / 2)
            connection = await a.services.dialler.connect_to(b.node_id, lasting=True)
        assert not connection.passing


@pytest.mark.parametrize("failed", [False, True])
async def test_a_dial_that_nobody_waits_for_any_more_failed_if_it_took_long(
    autojump_clock: MockClock, failed: bool
) -> None:
    async with open_world(1) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        world.conditions.unreachable.add(b.network.host)
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        before = entry.fail_count
        with trio.move_on_after(CUT_SHORT + (0.1 if failed else -0.1)):
            await a.services.dialler.connect_to(b.node_id)
        assert entry.fail_count - before == failed


async def test_a_request_that_finds_no_file_descriptor_waits_for_no_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)

        async def dial(_: Address) -> SimStream:
            raise Exhausted("too many open files")

        monkeypatch.setattr(a.network, "dial", dial)
        began = trio.current_time()
        with pytest.raises(Exhausted):
            await a.services.requester.request(b.node_id, Echo(b""), Echoed, within=7)
        assert trio.current_time() - began < 1


async def test_what_a_peer_or_a_user_vouches_for_is_dialled_whatever_strangers_cost(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        (a,) = await passive(world, "a")
        claim = a.services.dialler.claim_dial

        def entry(host: str, **changes: Any) -> Entry:
            node_id = stranger(world.rng).node_id
            return Entry(node_id, Source.EXCHANGE, 0.0, addresses=[Address(host, 1)], **changes)

        while claim(entry("198.18.0.1")):
            pass
        assert not claim(entry("198.18.0.1"))
        assert not claim(entry("198.18.0.1", last_host="198.18.0.2"))
        # It came from there, or answered there.
        assert claim(entry("198.18.0.1", last_host="198.18.0.1"))
        assert claim(entry("198.18.0.1", answered=(Address("198.18.0.1", 1),)))
        asked_for = entry("198.18.0.1")
        asked_for.source = Source.MANUAL
        assert claim(asked_for)


@pytest.mark.parametrize("made_by", ["connect", "seeds", "bootstrap"])
async def test_no_question_undoes_a_disconnect(autojump_clock: MockClock, made_by: str) -> None:
    async with open_world(1) as world:
        (b,) = await passive(world, "b")
        lists: dict[str, Any] = (
            {} if made_by == "connect" else {f"discovery__{made_by}": [str(b.address)]}
        )
        target = 1 if made_by == "bootstrap" else 0
        a = await world.start("a", lan=None, connections__target=target, **lists)
        if made_by == "connect":
            await a.node.connect(str(b.address))
        await world.until(lambda: a.is_connected_to(b), within=10)
        await trio.sleep(15)
        await a.node.disconnect(b.node_id)
        await trio.sleep(1)
        await a.node.lookup("some key")
        await trio.sleep(60)
        assert not a.is_connected_to(b)
        # The user's wish has its time; from then on it is a peer like any other.
        if made_by == "bootstrap":
            await trio.sleep(600)
            assert [each.node_id for each in a.services.roster.lasting()] == [b.node_id]


async def test_a_dial_is_no_failure_where_the_peer_came_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """As a peer behind a firewall does: nobody reaches it, and it dials out."""
    async with open_world(1) as world:
        a, b = await passive(world, "a", "b")
        await meet(a, b)
        world.conditions.unreachable.add(b.network.host)
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        failures = entry.fail_count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.services.dialler.connect_to, b.node_id)
            await trio.sleep(1)
            await b.node.connect(str(a.address))
        assert a.is_connected_to(b)
        assert (entry.fail_count, entry.last_error) == (failures, None)
        assert "peer.dial_failed" not in a.codes()
        assert_unharmed(a, b)


async def test_a_connection_for_a_question_is_no_news_until_it_comes_to_stay(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world)

        def told() -> list[tuple[str, int]]:
            codes = ("peer.connected", "peer.disconnected")
            return [(each.code, each.level) for each in a.events if each.code in codes]

        question = await peer.connect(a, passing=True)
        await question.stream.aclose()
        await world.until(lambda: len(told()) == 2, within=1)
        assert [level for _, level in told()] == [logging.DEBUG] * 2

        await peer.connect(a, passing=True)
        lasting = await peer.connect(a)
        await world.until(lambda: len(told()) == 4, within=1)
        await lasting.stream.aclose()
        await world.until(lambda: len(told()) == 5, within=1)
        assert told()[2:] == [
            ("peer.connected", logging.DEBUG),
            ("peer.connected", logging.INFO),
            ("peer.disconnected", logging.INFO),
        ]

        # One that both ends gave up, and that a question takes the place of, ends as it began.
        await peer.connect(a)
        connection = a.services.roster.connections[peer.identity.node_id]
        connection.passing = connection.given_up = True
        question = await peer.connect(a, passing=True)
        assert a.services.roster.connections[peer.identity.node_id] is not connection
        await question.stream.aclose()
        await world.until(lambda: len(told()) == 7, within=1)
        assert told()[5:] == [
            ("peer.connected", logging.INFO),
            ("peer.disconnected", logging.INFO),
        ]
