"""Who is refused, and that both sides say why: in events and in `last_error`."""

import logging
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import HandshakeRefused, P2PError
from p2pd.node import roster
from p2pd.node.peer_book import MAX_TURNED_AWAY
from p2pd.simulation.world import SimNode, open_world
from p2pd.wire.identity import Identity, open_peer_record
from p2pd.wire.messages import MAX_REDIRECTS, Echo, Echoed, Hello, Refused
from tests.node.scripted import (
    HungUp,
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    last_errors,
    make_record,
    reasons,
)


def assert_refused(reason: str, *nodes: SimNode) -> None:
    for node in nodes:
        assert reasons(node) == {reason}, node.name
        assert not connected(node)
        assert_unharmed(node)


def refusal_in(line: Line) -> Refused:
    refusal = line.heard[-1]
    assert isinstance(refusal, Refused)
    return refusal


async def test_another_network(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a], node__network="elsewhere")
        await world.until(lambda: bool(reasons(a) and reasons(b)), within=1)
        assert_refused("network", a, b)
        for node in (a, b):
            assert "'elsewhere'" in last_errors(node)[0]
            assert "node.network" in last_errors(node)[0]


@pytest.mark.parametrize("keys", [(b"", b"k"), (b"k", b""), (b"k", b"l")])
async def test_another_network_key(autojump_clock: MockClock, keys: tuple[bytes, bytes]) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, network_key=keys[0])
        b = await world.start("b", lan=None, network_key=keys[1], bootstrap=[a])
        await world.until(lambda: bool(reasons(a) and reasons(b)), within=1)
        assert_refused("network_key", a, b)
        for node in (a, b):
            assert "node.network_key_file" in last_errors(node)[0]


async def test_who_proves_nothing_hears_nothing_but_a_refusal(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, network_key=b"k")
        line = await ScriptedPeer(world).connect(a)
        assert [type(each) for each in line.heard] == [Refused]


async def test_the_same_network_key(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, network_key=b"k")
        b = await world.start("b", lan=None, network_key=b"k", bootstrap=[a])
        await world.until(lambda: a.is_connected_to(b) and b.is_connected_to(a), within=1)


async def test_no_common_version(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world, terms={"min_version": 2, "max_version": 3})
        refusal = refusal_in(await peer.connect(a))
        assert refusal.reason == "version"
        assert "1 to 1 here, 2 to 3 there" in refusal.message
        assert_refused("version", a)
        assert "upgrade the older node" in last_errors(a)[0]


async def test_no_common_version_with_the_listener(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        peer = ScriptedPeer(world, listens=True, terms={"min_version": 2, "max_version": 3})
        refusals: list[str] = []

        async def accept(line: Line) -> None:
            refusals.append((await line.expect(Refused)).reason)

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(raw_listen, peer, accept))
            a = await world.start("a", lan=None, discovery__bootstrap=[str(peer.address)])
            await world.until(lambda: bool(refusals), within=1)
            nursery.cancel_scope.cancel()
        assert refusals == ["version"]
        assert_refused("version", a)


async def raw_listen(peer: ScriptedPeer, talk: Any, task_status: Any) -> None:
    """Listen as a peer that says hello to whatever it hears, and then lets `talk` go on."""

    async def serve(stream: Any) -> None:
        line = Line(stream)
        handshake = peer.handshake(line, is_client=False)
        try:
            await line.expect(Hello)
            await line.send(handshake.hello)
            await talk(line)
        except HungUp:
            return

    listener = await peer.network.listen(peer.address)
    task_status.started()
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(serve, await (await listener.accept()).secure())


async def test_oneself(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, discovery__bootstrap=["10.0.0.1:41000"])
        await world.until(lambda: bool(reasons(a)), within=1)
        await trio.sleep(100)
        assert_refused("self", a)
        refused = [each.level for each in a.events if each.code == "peer.refused"]
        assert max(refused) == logging.INFO
        assert "the address leads back to this node" in last_errors(a)[0]
        with pytest.raises(HandshakeRefused) as caught:
            await a.node.connect("10.0.0.1:41000")
        assert caught.value.reason == "self"


@pytest.mark.parametrize("lan", ["lan", None])
async def test_a_cloned_identity(autojump_clock: MockClock, lan: str | None) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=lan)
        b = await world.start("b", lan=lan)
        await world.stop(b)
        b.identity = a.identity
        b.events.clear()
        a.events.clear()
        await world.start("b")
        if lan is None:
            with pytest.raises(HandshakeRefused):
                await b.node.connect(str(a.address))
            await world.until(lambda: reasons(a) == {"identity_clash"}, within=1)
        else:
            await world.until(lambda: bool(reasons(a) and reasons(b)), within=2)
            assert_refused("identity_clash", a, b)
            assert "copied state directory" in last_errors(a)[0]
        assert_unharmed(a, b)


async def test_too_little_work(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await world.stop(a)
        a.identity = Identity.mint(world.rng.randbytes(32), 8)
        peer = ScriptedPeer(world)
        b = await world.start("b", lan=None, identity__difficulty=8)
        refusal = refusal_in(await peer.connect(b))
        assert refusal.reason == "difficulty"
        assert_refused("difficulty", b)
        assert "this network asks for 8" in last_errors(b)[0]


async def test_too_little_work_of_a_node_that_is_dialled(autojump_clock: MockClock) -> None:
    """Whoever dialled it finds out when it has let him in already."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        b = await world.start("b", lan=None, bootstrap=[a], identity__difficulty=8)
        await world.until(lambda: bool(reasons(b)), within=1)
        assert_refused("difficulty", b)
        await world.until(lambda: "peer.disconnected" in a.codes(), within=1)
        [told] = [each.message for each in a.events if each.code == "peer.disconnected"]
        assert "the peer refused: the identity proves" in told
        assert_refused("difficulty", a)
        assert "the peer refused: the identity proves" in last_errors(a)[0]
        assert "network.difficulty" in {each.code for each in await a.node.doctor()}
        refused = [each.level for each in a.events if each.code == "peer.refused"]
        await trio.sleep(60)
        assert refused == [logging.WARNING]
        for code in ("peer.refused", "peer.connected", "peer.disconnected"):
            first, *again = [each.level for each in a.events if each.code == code]
            assert first > logging.DEBUG
            assert set(again) == {logging.DEBUG}
        assert_unharmed(a, b)


async def test_a_peer_that_refuses_no_more_is_news(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world)
        for _ in range(2):
            line = await peer.connect(a)
            await line.send(Refused("difficulty", "the identity proves too little", ()))
            await line.stream.aclose()
            await trio.sleep(0.1)
        line = await peer.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        await trio.sleep(3)
        levels = [each.level for each in a.events if each.code == "peer.connected"]
        assert levels == [logging.INFO, logging.DEBUG, logging.DEBUG, logging.INFO]


async def test_nodes_that_want_more_work_than_others_leave_each_other_alone(
    autojump_clock: MockClock,
) -> None:
    """As while `identity.difficulty` is raised node by node."""
    async with open_world(1) as world:
        others = [await world.start(name) for name in "abc"]
        await trio.sleep(20)
        raised = await world.start("d", identity__difficulty=8)
        await trio.sleep(180)
        before = len(raised.events)
        await trio.sleep(180)
        assert len(raised.events) - before < 60
        told = [each for each in raised.events if each.code == "peer.dial_failed"]
        assert [each.level for each in told].count(logging.WARNING) <= len(others)
        began = trio.current_time()
        written = await others[0].node.put("k", b"v")
        assert (written.stored, written.wanted) == (3, 3)
        written = await raised.node.put("k", b"v")
        assert (written.stored, written.wanted) == (1, 1)
        assert trio.current_time() - began < 1


async def test_a_man_in_the_middle(autojump_clock: MockClock) -> None:
    """He ends TLS on both sides with a certificate of his own, and passes all bytes on."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        relay = ScriptedPeer(world, port=42000)

        async def pump(source: Any, sink: Any) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some():
                    await sink.send_all(data)
            await sink.aclose()

        async def listen(task_status: Any) -> None:
            listener = await relay.network.listen(relay.address)
            task_status.started()
            near = await (await listener.accept()).secure()
            far = await relay.network.dial(a.address)
            assert near.certificate != far.certificate
            async with trio.open_nursery() as pumps:
                pumps.start_soon(pump, near, far)
                pumps.start_soon(pump, far, near)

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            b = await world.start("b", lan=None, discovery__bootstrap=[str(relay.address)])
            await world.until(lambda: bool(reasons(a) and reasons(b)), within=1)
            nursery.cancel_scope.cancel()
        assert "man_in_the_middle" in reasons(a) & reasons(b)
        assert not connected(a)
        assert not connected(b)
        assert "terminates TLS" in last_errors(a)[0]
        assert "terminates TLS" in last_errors(b)[0]
        assert_unharmed(a, b)


async def test_a_man_in_the_middle_who_forges_the_certificate_hash(
    autojump_clock: MockClock,
) -> None:
    """Who changes a hello breaks the signature over it."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.dial(a)
        handshake = peer.handshake(line, is_client=True, certificate=bytes(31) + b"x")
        hello = handshake.hello
        object.__setattr__(hello, "certificate", line.stream.certificate)
        await line.send(hello, handshake.proof())
        assert (await line.expect(Refused)).reason == "signature"
        assert_refused("signature", a)


async def test_a_message_of_the_handshake_that_asks_for_an_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.dial(a)
        handshake = peer.handshake(line, is_client=True)
        _, asked = line.session.request(handshake.hello)
        await line.stream.send_all(asked + line.session.notice(handshake.proof()))
        await line.hung_up()
        assert_refused("protocol", a)


async def test_a_replayed_handshake(autojump_clock: MockClock) -> None:
    """All that a peer once said, said again to another process: its certificate is another."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.dial(a)
        handshake = peer.handshake(line, is_client=True)
        await line.send(handshake.hello, handshake.proof())
        await world.until(lambda: bool(connected(a)), within=1)
        b = await world.start("b", lan=None)
        replay = await ScriptedPeer(world, host="10.9.0.2").dial(b)
        await replay.send(handshake.hello, handshake.proof())
        assert (await replay.expect(Refused)).reason == "man_in_the_middle"
        assert_refused("man_in_the_middle", b)
        assert "terminates TLS" in last_errors(b)[0]


async def test_full(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=2)
        b, c = [await world.start(name, lan=None, bootstrap=[a]) for name in "bc"]
        await world.until(lambda: a.is_connected_to(b, c), within=1)
        d = await world.start("d", lan=None, bootstrap=[a], connections__target=1)
        await world.until(lambda: "full" in reasons(d), within=1)
        assert reasons(a) == {"full"}
        assert "connections.max_inbound" in " ".join(
            each.message for each in d.events if each.code == "peer.dial_failed"
        )
        await world.until(lambda: d.is_connected_to(b) or d.is_connected_to(c), within=5)
        assert_unharmed(a, d)


async def test_who_is_turned_away_again_and_again_takes_one_place_of_those_told_of(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=0)
        once = ScriptedPeer(world, host="10.9.0.2", listens=True)
        often = ScriptedPeer(world, host="10.9.0.3", listens=True)
        await once.connect(a)
        for _ in range(MAX_TURNED_AWAY + 1):
            await often.connect(a)
            await trio.sleep(1)
        newest = often.record()
        await often.connect(a, record=newest)
        told = refusal_in(await ScriptedPeer(world).connect(a)).others
        owners = [open_peer_record(each).public_key for each in told]
        assert sorted(owners) == sorted(each.identity.public_key for each in (once, often))
        assert newest in told
        told = refusal_in(await often.connect(a)).others
        assert often.identity.public_key not in {open_peer_record(each).public_key for each in told}


async def test_a_full_node_tells_of_as_many_as_a_refusal_holds_half_of_them_refused_too(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=MAX_REDIRECTS)
        peers = [
            ScriptedPeer(world, host=f"10.9.0.{number}", listens=True)
            for number in range(1, 2 * MAX_REDIRECTS)
        ]
        for peer in peers:
            await peer.connect(a)
        refused = {each.identity.public_key for each in peers[MAX_REDIRECTS:]}
        told = refusal_in(await ScriptedPeer(world).connect(a)).others
        owners = {open_peer_record(each).public_key for each in told}
        assert len(owners) == MAX_REDIRECTS
        assert len(owners & refused) == MAX_REDIRECTS // 2


async def test_a_full_node_tells_of_no_record_so_large_that_a_refusal_could_not_hold_twelve(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=2)
        small, large = [ScriptedPeer(world, host=f"10.9.0.{number}") for number in (1, 2)]
        await small.connect(a)
        addresses = [Address(f"fd00:1111:2222:3333:4444:5555:6666:{n}", 41000) for n in range(16)]
        await large.connect(a, record=make_record(large.identity, *addresses))
        [told] = refusal_in(await ScriptedPeer(world).connect(a)).others
        assert open_peer_record(told).public_key == small.identity.public_key


async def test_an_idle_connection_makes_room(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=1)
        idle, late = ScriptedPeer(world), ScriptedPeer(world, host="10.9.1.1")
        first = await idle.connect(a)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.serve, lambda _: None)
            await trio.sleep(roster.IDLE_AFTER + 10)
            await late.connect(a)
            assert connected(a) == {late.identity.node_id.hex()}
        # Its serving ended, so it was closed.


async def test_an_idle_connection_on_which_an_answer_is_waited_for_makes_no_room(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=1)
        asked, late = ScriptedPeer(world), ScriptedPeer(world, host="10.9.1.1")
        line = await asked.connect(a)
        world.meanwhile(line.serve, lambda _: None)

        async def ask() -> None:
            with suppress(P2PError):
                await a.services.requester.request(asked.identity.node_id, Echo(b""), Echoed, 600)

        world.meanwhile(ask)
        await trio.sleep(roster.IDLE_AFTER + 10)
        assert refusal_in(await late.connect(a)).reason == "full"
        assert connected(a) == {asked.identity.node_id.hex()}


async def test_those_that_share_this_host_are_not_counted_as_of_one_host(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_per_ip=1)
        for host in ("127.0.0.1", "10.9.0.1"):
            lines = [await ScriptedPeer(world, host=host).connect(a) for _ in range(2)]
            refused = isinstance(lines[1].heard[-1], Refused)
            assert refused is (host != "127.0.0.1")


@pytest.mark.parametrize("passing", [True, False])
async def test_one_in_passing_makes_room_as_soon_as_it_is_quiet(
    autojump_clock: MockClock, passing: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=1)
        first = await ScriptedPeer(world).connect(a, passing=passing)
        world._nursery.start_soon(first.serve, lambda _: None)
        at_once = await ScriptedPeer(world, host="10.9.1.1").connect(a)
        assert refusal_in(at_once).reason == "full"
        await trio.sleep(roster.PASSED_AFTER)
        soon = await ScriptedPeer(world, host="10.9.1.1").connect(a)
        assert isinstance(soon.heard[-1], Refused) is not passing


async def test_those_in_passing_make_room_first(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=2)
        stays, passes = ScriptedPeer(world), ScriptedPeer(world, host="10.9.1.1")
        world._nursery.start_soon((await stays.connect(a)).serve, lambda _: None)
        await trio.sleep(roster.IDLE_AFTER + 10)
        once = await passes.connect(a, passing=True)
        world._nursery.start_soon(once.serve, lambda _: None)
        # It was used later than the other one.
        await trio.sleep(roster.PASSED_AFTER)
        new = ScriptedPeer(world, host="10.9.2.1")
        await new.connect(a)
        assert connected(a) == {each.identity.node_id.hex() for each in (stays, new)}


async def test_many_identities_of_one_host_do_not_push_out_another_host(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=4)
        honest = ScriptedPeer(world, host="10.9.1.1")
        many = [ScriptedPeer(world, host="10.9.2.1") for _ in range(8)]
        for peer in [honest, *many[:3]]:
            line = await peer.connect(a)
            world._nursery.start_soon(line.serve, lambda _: None)
        for peer in many[3:]:
            await trio.sleep(roster.IDLE_AFTER + 10)
            line = await peer.connect(a)
            assert not isinstance(line.heard[-1], Refused)
            world._nursery.start_soon(line.serve, lambda _: None)
            assert honest.identity.node_id.hex() in connected(a)
            assert len(connected(a)) == 4


async def test_newcomers_at_once_do_not_break_the_bound(autojump_clock: MockClock) -> None:
    """One idle peer makes room for one, though it is slow to hear of that."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=3)
        for number in range(3):
            line = await ScriptedPeer(world, host=f"10.9.{number}.1").connect(a)
            world._nursery.start_soon(line.serve, lambda _: None)
        await trio.sleep(roster.IDLE_AFTER + 10)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                newcomer = ScriptedPeer(world, host=f"10.9.{number}.2")
                nursery.start_soon(newcomer.connect, a)
        assert len(connected(a)) == 3
        assert_unharmed(a)


async def test_one_that_would_replace_our_own_takes_an_inbound_place_too(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=1, connections__target=0)
        peer = ScriptedPeer(world, host="10.9.1.1", listens=True)
        await world._nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
        await a.node.connect(str(peer.address))
        await ScriptedPeer(world).connect(a)
        # It was started again, and dials before this node knows.
        peer.instance = world.rng.randbytes(16)
        assert refusal_in(await peer.connect(a)).reason == "full"
        assert_unharmed(a)


async def test_too_many_of_one_host(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_per_ip=2)
        for _ in range(2):
            await ScriptedPeer(world).connect(a)
        third = refusal_in(await ScriptedPeer(world).connect(a))
        assert third.reason == "full"
        assert "connections.max_per_ip" in third.message
        elsewhere = await ScriptedPeer(world, host="10.9.0.2").connect(a)
        assert not isinstance(elsewhere.heard[-1], Refused)
        assert len(connected(a)) == 3


@pytest.mark.parametrize(
    ("own", "is_full"),
    [("10.0.0.1", True), ("2600:1:2:4::1", True), ("2600:1:2:3::1", False), ("fd00::1", True)],
)
async def test_an_ipv6_network_is_one_host_unless_it_is_this_hosts_own(
    autojump_clock: MockClock, own: str, is_full: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, host=own, connections__max_per_ip=2)
        for number in range(2):
            await ScriptedPeer(world, host=f"2600:1:2:3::{number + 7}").connect(a)
        third = await ScriptedPeer(world, host="2600:1:2:3:4:5:6:7").connect(a)
        assert isinstance(third.heard[-1], Refused) is is_full
        elsewhere = await ScriptedPeer(world, host="2600:1:2:5::7").connect(a)
        assert not isinstance(elsewhere.heard[-1], Refused)


async def test_a_network_past_its_share_pushes_nobody_out(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_inbound=3)
        alone = ScriptedPeer(world, host="2600:1::1")
        for peer in (alone, *(ScriptedPeer(world, host=f"2600:2::{each}") for each in range(8))):
            line = await peer.connect(a)
            world._nursery.start_soon(line.serve, lambda _: None)
            await trio.sleep(roster.IDLE_AFTER + 10)
        assert len(connected(a)) == 3
        assert alone.identity.node_id.hex() in connected(a)


async def test_a_host_past_its_share_pushes_nobody_out(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__max_per_ip=1, connections__max_inbound=2)
        honest, greedy = ScriptedPeer(world), ScriptedPeer(world, host="10.9.0.2")
        for peer in (honest, greedy):
            line = await peer.connect(a)
            world._nursery.start_soon(line.serve, lambda _: None)
        await trio.sleep(roster.IDLE_AFTER + 10)
        for _ in range(5):
            refusal = refusal_in(await ScriptedPeer(world, host="10.9.0.2").connect(a))
            assert refusal.reason == "full"
        assert honest.identity.node_id.hex() in connected(a)
        assert len(connected(a)) == 2
