"""Connections that left the table do not pile up behind it, though their peers read nothing."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from p2pd.errors import P2PError
from p2pd.node.connection import FAREWELL
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import Echo, Echoed, Goodbye, Pong
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed


def open_at(world: World, node: SimNode) -> int:
    return sum(each.local == node.address for each in world.network.streams)


async def clog(world: World, line: Line) -> None:
    """Ask for more than the way takes, and read nothing of it."""
    question = Echo(world.rng.randbytes(200_000))
    for _ in range(4):
        await line.stream.send_all(line.session.request(question)[1])


@pytest.mark.parametrize("restarts", [False, True])
async def test_one_identity_that_connects_again_and_again_holds_few_connections(
    autojump_clock: MockClock, *, restarts: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        for _ in range(10):
            if restarts:
                peer.instance = world.rng.randbytes(16)
            await clog(world, await peer.connect(a))
            await trio.sleep(0.05)
            assert open_at(world, a) <= 3
        assert_unharmed(a)


async def test_who_made_room_for_others_is_soon_gone(autojump_clock: MockClock) -> None:
    places = 4
    async with open_world(2) as world:
        a = await world.start("a", lan=None, connections__max_inbound=places)
        for number in range(12):
            peer = ScriptedPeer(world, host=f"10.9.0.{number}")
            await clog(world, await peer.connect(a, passing=True))
            await trio.sleep(0.5)
            assert open_at(world, a) <= 2 * places + 1
        assert_unharmed(a)


@pytest.mark.parametrize("waits", [True, False])
async def test_whoever_a_user_disconnects_is_soon_gone(
    autojump_clock: MockClock, waits: bool
) -> None:
    """Also where the user waits no longer."""
    async with open_world(3) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        await clog(world, line)

        async def show_life() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await line.send(Pong())
                    await trio.sleep(1)

        world.meanwhile(show_life)
        await trio.sleep(1)
        before = trio.current_time()
        with trio.move_on_after(FAREWELL + 1 if waits else 1):
            await a.node.disconnect(peer.identity.node_id)
        assert trio.current_time() - before <= FAREWELL
        await trio.sleep(1)
        assert open_at(world, a) == 0
        [entry] = a.services.registry
        assert entry.parted
        assert_unharmed(a)


async def test_who_was_asked_in_passing_and_reads_nothing_is_soon_gone(
    autojump_clock: MockClock,
) -> None:
    """Though it shows that it lives, and is asked again: each question would wait in vain."""
    async with open_world(4) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)
        node_id = peer.identity.node_id

        async def show_life(line: Line) -> None:
            while True:
                await line.send(Pong())
                await trio.sleep(1)

        async def ask(data: bytes) -> None:
            with suppress(P2PError):
                await a.services.requester.request(node_id, Echo(data), Echoed, 3)

        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, show_life)
            await a.node.connect(str(peer.address))
            await a.node.disconnect(node_id)
            for _ in range(8):
                nursery.start_soon(ask, world.rng.randbytes(200_000))
            await trio.sleep(1)
            connection = a.services.roster.connections[node_id]
            assert connection.passing
            await world.until(lambda: connection._outbox.is_closing, within=60)
            began = trio.current_time()
            while connection.end_reason is None:
                nursery.start_soon(ask, b"once more")
                await trio.sleep(0.5)
            assert trio.current_time() - began <= FAREWELL + 1
            nursery.cancel_scope.cancel()
        assert_unharmed(a)


async def test_no_goodbye_of_the_peer_undoes_what_a_user_asked_for(
    autojump_clock: MockClock,
) -> None:
    """It comes while ours waits to be sent."""
    async with open_world(3) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        await clog(world, line)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.node.disconnect, peer.identity.node_id)
            await trio.sleep(1)
            await line.send(Goodbye("making room for others"))
        [entry] = a.services.registry
        assert entry.parted


async def test_what_a_user_asked_for_counts_though_a_goodbye_was_said_before(
    autojump_clock: MockClock,
) -> None:
    async with open_world(3) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await clog(world, await peer.connect(a))
        await trio.sleep(1)
        a.services.roster.connections[peer.identity.node_id].close("no longer needed")
        await a.node.disconnect(peer.identity.node_id)
        [entry] = a.services.registry
        assert entry.parted
