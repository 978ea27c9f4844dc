"""Connections that left the table do not pile up behind it, though their peers read nothing."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from p2pd.node.connection import FAREWELL
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import Echo, Goodbye, Pong
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
