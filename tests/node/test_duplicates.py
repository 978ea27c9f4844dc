"""Both ends dial at the same time: one connection stays, the same on both sides."""

import gc
import logging
import random
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.entries import Entry, Source
from p2pd.errors import DialFailed, HandshakeRefused, P2PError
from p2pd.net import sim
from p2pd.net.sim import SimPending, SimStream
from p2pd.node.connection import Connection
from p2pd.node.roster import IDLE_AFTER, PASSED_AFTER
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import Accepted, Echo, Echoed, Goodbye, Hello, Ping, Refused
from tests.node.scripted import (
    HungUp,
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    make_record,
    stranger,
)
from tests.node.test_liveness import publish

SEEDS = range(100)


def random_latency(seed: int, slowest: float = 0.05) -> Callable[[str, str], float]:
    rng = random.Random(seed)
    return lambda _source, _destination: rng.uniform(0.0001, slowest)


async def two(world: World, **settings: Any) -> tuple[SimNode, SimNode]:
    a = await world.start("a", lan=None, connections__target=0, **settings)
    b = await world.start("b", lan=None, connections__target=0, **settings)
    return a, b


def greater_peer(world: World, node: SimNode, **where: Any) -> ScriptedPeer:
    """Make a listening peer with an ID greater than a node's."""
    identities = (stranger(world.rng) for _ in range(100))
    greater = next(each for each in identities if each.node_id > node.node_id)
    return ScriptedPeer(world, identity=greater, listens=True, **where)


def smaller_peer(world: World, node: SimNode, **where: Any) -> ScriptedPeer:
    """Make a listening peer with an ID smaller than a node's."""
    identities = (stranger(world.rng) for _ in range(100))
    smaller = next(each for each in identities if each.node_id < node.node_id)
    return ScriptedPeer(world, identity=smaller, listens=True, **where)


async def try_to(dial: Callable[..., Awaitable[object]], *args: object) -> None:
    try:
        await dial(*args)
    except P2PError:
        return


async def assert_one_connection(world: World, a: SimNode, b: SimNode) -> None:
    """Hold that exactly one stays, that both ends mean the same one, and that it works."""
    await trio.sleep(5)
    assert a.is_connected_to(b), f"seed {world.seed}"
    assert b.is_connected_to(a), f"seed {world.seed}"
    # A node may be about to dial itself.
    open_streams = [each for each in world.network.streams if each.local.host != each.remote.host]
    assert len(open_streams) == 2, f"seed {world.seed}"
    directions = {node.node.peers()[0].direction for node in (a, b)}
    assert directions == {"inbound", "outbound"}, f"seed {world.seed}"
    for node, other in ((a, b), (b, a)):
        if node.node.peers()[0].direction == "outbound":
            entry = node.services.registry.get(other.node_id)
            assert entry is not None
            assert entry.answered == (other.address,), f"seed {world.seed}"
    assert (await a.node.echo(b.node_id, b"there"))[0] == b"there"
    assert (await b.node.echo(a.node_id, b"back"))[0] == b"back"
    assert_unharmed(a, b)


async def dial_at_once(world: World, *dials: tuple[SimNode, SimNode], spread: float = 0.05) -> None:
    async with trio.open_nursery() as nursery:
        for dialler, listener in dials:

            async def dial(dialler: SimNode = dialler, listener: SimNode = listener) -> None:
                await trio.sleep(world.rng.uniform(0, spread))
                await try_to(dialler.node.connect, str(listener.address))

            nursery.start_soon(dial)


async def test_both_dial_an_address(autojump_clock: MockClock) -> None:
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed)) as world:
            a, b = await two(world)
            await dial_at_once(world, (a, b), (b, a))
            await assert_one_connection(world, a, b)


async def test_three_dials_at_once(autojump_clock: MockClock) -> None:
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed)) as world:
            a, b = await two(world)
            await dial_at_once(world, (a, b), (b, a), (a, b))
            await assert_one_connection(world, a, b)


async def test_many_dials_at_once(autojump_clock: MockClock) -> None:
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed, 0.3)) as world:
            a, b = await two(world)
            await dial_at_once(world, *[(a, b), (b, a)] * 5, spread=0.5)
            await assert_one_connection(world, a, b)


async def test_nodes_that_find_each_other_by_multicast_and_bootstrap(
    autojump_clock: MockClock,
) -> None:
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed)) as world:
            async with trio.open_nursery() as nursery:
                for name in "ab":
                    start = lambda name=name: world.start(  # noqa: E731 - one name for two
                        name, discovery__bootstrap=["10.0.0.1:41000", "10.0.0.2:41000"]
                    )
                    nursery.start_soon(start)
            await assert_one_connection(world, world.nodes["a"], world.nodes["b"])


async def test_one_handshake_is_cancelled(autojump_clock: MockClock) -> None:
    """Wherever in the handshake it ends: one connection stays, or the next dial makes one."""
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed)) as world:
            a = await world.start("a", lan=None)
            b = await world.start("b", lan=None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(try_to, b.node.connect, str(a.address))
                with trio.move_on_after(world.rng.uniform(0, 0.2)):
                    await try_to(a.node.connect, str(b.address))
            await assert_one_connection(world, a, b)


def in_order(world: World, a: SimNode, b: SimNode) -> bool:
    connected = a.is_connected_to(b)
    return b.is_connected_to(a) is connected and len(world.network.streams) == 2 * connected


@pytest.mark.parametrize("dial_timeout", [0.1, 0.15])
async def test_handshakes_run_out_of_time(autojump_clock: MockClock, dial_timeout: float) -> None:
    """An end that gave up in the last step keeps nothing of it in its table."""
    for seed in SEEDS:
        async with open_world(seed, random_latency(seed)) as world:
            a, b = await two(world, connections__dial_timeout=dial_timeout)
            await dial_at_once(world, (a, b), (b, a))
            await trio.sleep(5)
            # Whoever lost the other redials for a while: between two such dials all is in order.
            await world.until(partial(in_order, world, a, b), within=30)


async def test_a_handshake_that_stalls_after_admission_leaves_the_table(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the handshake can't be sent, as the peer takes nothing."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        secure = SimPending.secure

        async def secured(pending: SimPending) -> SimStream:
            stream = await secure(pending)

            async def send_never(_: bytes) -> None:
                await trio.sleep_forever()

            monkeypatch.setattr(stream, "send_nowait", lambda _: False)
            monkeypatch.setattr(stream, "send_all", send_never)
            return stream

        monkeypatch.setattr(SimPending, "secure", secured)

        async def connect() -> None:
            with suppress(HungUp):
                await peer.connect(a)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await world.until(lambda: bool(connected(a)))
            await world.until(lambda: not connected(a), within=8)
            nursery.cancel_scope.cancel()
        assert a.node.peers()[0].status == "disconnected"


async def test_a_restarted_peer_replaces_its_former_self(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        old = await peer.connect(a)
        peer.instance = bytes(16)
        new = await peer.connect(a)
        with trio.fail_after(1):
            await old.hung_up()
        assert len(connected(a)) == 1
        assert a.node.peers()[0].success_count == 2
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await new.hung_up()


@pytest.mark.parametrize("count", [2, 3])
async def test_those_who_take_turns_under_one_identity_are_told_of_once(
    autojump_clock: MockClock, count: int
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        processes = [bytes([number] * 16) for number in range(count)]
        lines = []
        for turn in range(6):
            peer.instance = processes[turn % count]
            lines.append(await peer.connect(a))
        # Each takes over once, as if it had been started again; the last one stays.
        with trio.fail_after(1):
            for line in lines[: count - 1]:
                await line.hung_up()
                assert Goodbye("duplicate") in line.heard
        refused = [line.heard[-1] for line in lines if isinstance(line.heard[-1], Refused)]
        assert [each.reason for each in refused] == ["identity_taken"] * 2
        assert all("move its identity.json away" in each.message for each in refused)
        told = [each.level for each in a.events if each.code == "peer.cloned"]
        assert told == [logging.WARNING, logging.DEBUG]
        why = a.node.why(peer.identity.node_id)
        assert any(each.code == "peer.cloned" for each in why.steps)
        findings = {each.code: each for each in await a.node.doctor()}
        assert findings["identity.peer"].level == "warning"
        assert peer.network.host in findings["identity.peer"].text
        assert "identity.clash" not in findings


async def test_two_with_one_identity_do_not_displace_each_other_at_a_third(
    autojump_clock: MockClock,
) -> None:
    """The second one takes the first for restarted; from then on the first is told why not."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        c = await world.start("c", lan=None, bootstrap=[a])
        await world.stop(c)
        c.identity = b.identity
        a.events.clear()
        await world.start("c")
        await trio.sleep(60)
        assert connected(a) == {b.node_id.hex()}
        assert a.codes().count("peer.disconnected") <= 2
        [first] = [each for each in (b, c) if not connected(each)]
        findings = {each.code: each for each in await first.node.doctor()}
        assert findings["identity.clash"].level == "problem"
        assert a.network.host in findings["identity.clash"].text
        told = {each.code: each for each in await a.node.doctor()}
        assert told["identity.peer"].level == "warning"
        assert "identity.clash" not in told
        assert_unharmed(a, b, c)


async def test_a_later_dial_of_the_same_process_replaces_the_earlier(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        old = await peer.connect(a)
        await peer.connect(a)
        with trio.fail_after(2):
            await old.hung_up()
        assert len(connected(a)) == 1
        assert a.codes().count("peer.disconnected") == 0


async def test_who_is_refused_as_a_duplicate_takes_nobodys_place(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0, connections__max_inbound=3)
        peer = greater_peer(world, a, host="10.9.1.1")
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
            await a.node.connect(str(peer.address))
            for number in range(3):
                idle = await ScriptedPeer(world, host=f"10.9.2.{number}").connect(a)
                nursery.start_soon(idle.serve, lambda _: None)
            await trio.sleep(IDLE_AFTER + 1)
            before = connected(a)
            assert len(before) == 4
            line = await peer.connect(a)
            assert isinstance(line.heard[-1], Refused)
            assert connected(a) == before
            nursery.cancel_scope.cancel()
        assert_unharmed(a)


async def test_who_finds_its_own_dial_a_duplicate_says_so_and_keeps_the_other(
    autojump_clock: MockClock,
) -> None:
    """The peer has accepted it: it may have lost the one that stays."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = smaller_peer(world, a)
        heard: list[Line] = []

        async def talk(line: Line) -> None:
            heard.append(line)
            await line.hung_up()

        await world._nursery.start(peer.listen, talk)
        world.meanwhile((await peer.connect(a)).serve, lambda _: None)
        [stays] = a.services.roster.connections.values()
        assert await a.services.dialler.dial(peer.address, Source.MANUAL) is stays
        await trio.sleep(1)
        [line] = heard
        assert line.heard[-1] == Goodbye("duplicate")
        assert stays.end_reason is None


@pytest.mark.parametrize("by", ["gossip", "another dial"])
async def test_what_comes_to_last_while_a_user_waits_is_not_replaced(
    autojump_clock: MockClock, by: str
) -> None:
    """The peer had dialled for a question; where it gossips, it takes the connection to last."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = smaller_peer(world, a)
        await world._nursery.start(peer.listen, lambda line: line.hung_up())
        line = await peer.connect(a, passing=True)
        world.meanwhile(line.serve, lambda _: None)

        async def make_it_last() -> None:
            await trio.sleep(PASSED_AFTER / 2)
            if by == "gossip":
                await line.send(publish(peer, "news", b"x"))
            else:
                world.meanwhile((await peer.connect(a)).serve, lambda _: None)
            await trio.sleep(PASSED_AFTER / 4)
            lasting.extend(a.services.roster.lasting())

        lasting: list[Connection] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_it_last)
            await a.node.connect(str(peer.address))
        assert len(lasting) == 1
        assert a.services.roster.lasting() == lasting
        assert lasting[0].end_reason is None


async def test_who_refuses_a_duplicate_probes_what_stays(autojump_clock: MockClock) -> None:
    """It may be dead, and its end not noticed yet."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = greater_peer(world, a)
        lines: list[Line] = []

        async def talk(line: Line) -> None:
            lines.append(line)
            await line.serve(lambda _: None)

        await world._nursery.start(peer.listen, talk)
        await a.node.connect(str(peer.address))
        await trio.sleep(1)
        [stays] = lines
        assert Ping() not in stays.heard
        line = await peer.connect(a)
        assert isinstance(line.heard[-1], Refused)
        await trio.sleep(0.5)
        assert Ping() in stays.heard


async def test_an_answer_still_comes_over_what_a_new_dial_of_the_peer_replaced(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        old = await peer.connect(a)
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append((await a.node.echo(peer.identity.node_id, b"?"))[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not isinstance((event := await old.next()).message, Echo):
                pass
            new = await peer.connect(a)
            await trio.sleep(0.5)
            answer = old.session.reply(event.request_id or 0, Echoed(b"over the old one"))
            await old.stream.send_all(answer)
        assert answers == [b"over the old one"]
        assert not any(isinstance(each, Echo) for each in new.heard)


async def test_a_question_of_a_restarted_peer_makes_no_lasting_connection(
    autojump_clock: MockClock,
) -> None:
    """Though its former self had one."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await peer.connect(a)
        peer.instance = bytes(16)
        await peer.connect(a, passing=True)
        assert len(connected(a)) == 1
        assert not a.services.roster.lasting()


@pytest.mark.parametrize("moved", [True, False])
async def test_a_peer_that_moved_away_is_no_duplicate(
    autojump_clock: MockClock, moved: bool
) -> None:
    """We dialled it where it is no more: nothing else would tell that this connection is dead."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = greater_peer(world, a)
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
            await a.node.connect(str(peer.address))
            now_at = Address("10.9.0.2", peer.port) if moved else peer.address
            line = await peer.connect(a, record=make_record(peer.identity, now_at))
            nursery.cancel_scope.cancel()
        assert isinstance(line.heard[-1], Accepted if moved else Refused)
        assert_unharmed(a)


@pytest.mark.parametrize("dialled", [False, True])
async def test_a_connection_from_elsewhere_brings_the_newer_record(
    autojump_clock: MockClock, dialled: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = greater_peer(world, a)
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
            if dialled:
                await a.node.connect(str(peer.address))
            else:
                await peer.connect(a)
            await trio.sleep(1)
            now_at = Address("10.9.0.2", peer.port)
            peer.network = sim.SimNetwork(world.network, now_at.host, bytes(32))
            record = make_record(peer.identity, now_at, sequence=2_000_000_000_000)
            line = await peer.connect(a, record=record)
            nursery.start_soon(line.serve, lambda _: None)
            await trio.sleep(8)
            entry = a.services.registry.get(peer.identity.node_id)
            assert entry is not None
            assert now_at in entry.addresses
            assert entry.signed == record
            assert record in a.services.registry.sample(5, None)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_who_parted_and_connects_again_is_parted_no_more(
    autojump_clock: MockClock, seed: int
) -> None:
    """Whichever of the two connections stays, where the peer has made one for a question."""
    print(f"seed {seed}")
    async with open_world(seed) as world:
        a, b = await two(world)
        await a.node.connect(str(b.address))
        await trio.sleep(15)
        await a.node.disconnect(b.node_id)
        await trio.sleep(1)
        await b.node.ping(a.node_id)
        assert a.services.roster.connections[b.node_id].passing
        await a.node.connect(str(b.address))
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        assert not entry.parted


async def test_two_dials_find_another_node_at_a_known_address(autojump_clock: MockClock) -> None:
    """Both take the address out of the entry; the second finds it gone."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        b = await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        await world.crash(b)
        await world.until(lambda: not connected(a))
        # Somebody else moves in at b's address.
        stranger = ScriptedPeer(world, host=b.address.host, listens=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger.listen, lambda line: line.hung_up())
            failures = []

            async def ping() -> None:
                try:
                    await a.node.ping(b.node_id)
                except DialFailed as error:
                    failures.append(str(error))

            entry = a.node.services.registry.get(b.node_id)
            dialler = a.node.services.dialler
            async with trio.open_nursery() as dials:
                dials.start_soon(ping)
                dials.start_soon(try_to, dialler.dial_entry, entry)
            nursery.cancel_scope.cancel()
        assert len(failures) == 1
        assert "another node" in failures[0]
        assert entry is not None
        assert entry.addresses == []
        assert_unharmed(a)


async def test_nobody_is_a_duplicate_who_proves_nothing(autojump_clock: MockClock) -> None:
    """A peer's own record and a refusal would make any address one of that peer's."""
    async with open_world(1) as world:
        a, b = await two(world)
        await a.node.connect(str(b.address))
        liar = ScriptedPeer(world)
        listener = await liar.network.listen(liar.address)

        async def pretend() -> None:
            line = Line(await (await listener.accept()).secure())
            handshake = liar.handshake(line, is_client=False, record=b.services.own.signed)
            await line.expect(Hello)
            await line.send(handshake.hello, Refused("duplicate", "", ()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pretend)
            with pytest.raises(HandshakeRefused):
                await a.node.connect(str(liar.address))
        [known] = [each for each in a.services.registry if each.node_id == b.node_id]
        assert liar.address not in known.addresses


async def test_a_dial_for_a_question_does_not_end_what_was_to_last(
    autojump_clock: MockClock,
) -> None:
    """As where somebody names our peer's address for one of a node that he made up."""
    async with open_world(7) as world:
        a, b = await two(world)
        await a.node.connect(str(b.address))
        [lasting] = a.services.roster.connections.values()
        connection = await a.services.dialler.dial(b.address, Source.EXCHANGE)
        assert connection is not lasting
        await trio.sleep(60)
        for node in (a, b):
            assert len(node.services.roster.lasting()) == 1
        # Nor is it dialled at all for another one, while it is known whose it is.
        entry = Entry(stranger(world.rng).node_id, Source.EXCHANGE, 0.0, addresses=[b.address])
        dialled = len(a.codes())
        with pytest.raises(DialFailed, match="another node"):
            await a.services.dialler.dial_entry(entry)
        assert "peer.connected" not in a.codes()[dialled:]
        assert a.services.roster.connections[b.node_id] is connection


async def test_nothing_is_kept_of_a_connection_that_another_one_replaced(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await peer.connect(a)
        replaced = weakref.ref(a.services.roster.connections[peer.identity.node_id])
        line = await peer.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        await trio.sleep(60)
        # Peer exchange holds on to the connection that it asked last.
        await ScriptedPeer(world, host="10.9.0.2").connect(a)
        await trio.sleep(1)
        gc.collect()
        assert replaced() is None
