"""The doctor's own means: dials back on request, and beacons that ask who is there."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import Exhausted
from p2pd.ids import NodeId
from p2pd.net import sim
from p2pd.node.dial_back import DIAL_BACK_AGAIN, DIALS_BACK_AT_ONCE, MAX_DIALS_BACK
from p2pd.node.env import Env
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.beacon import Beacon, network_tag, read_beacon, write_beacon
from p2pd.wire.messages import DialBack, DialledBack, Failed
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed, make_record

GROUP = "239.255.0.1"
HOUR_MS = 3_600_000


async def problems(node: SimNode) -> list[str]:
    return [each.code for each in await node.node.doctor() if each.level == "problem"]


async def test_healthy_nodes_have_no_problem(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=1)
        found = {each.code: each.text for each in await a.node.doctor()}
        assert found["multicast.ok"].endswith(b.address.host)
        assert found["inbound.ok"].endswith(f"connected to {a.address}")
        assert "2 peers" not in found["clock.ok"]
        assert await problems(a) == await problems(b) == []
        assert_unharmed(a, b)


async def test_a_node_by_itself_has_one(autojump_clock: MockClock) -> None:
    async with open_world(2) as world:
        a = await world.start("a")
        assert await problems(a) == ["peers.none"]


async def test_a_misspelt_network_is_named_though_the_others_are_silent(
    autojump_clock: MockClock,
) -> None:
    async with open_world(10) as world:
        await world.start("a")
        await trio.sleep(10)
        b = await world.start("b", node__network="p2dp")
        await trio.sleep(10)
        assert await problems(b) == ["multicast.other_network"]


async def test_a_port_taken_by_another_program_is_named_and_tried_again_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(11) as world:
        a = await world.start("a", discovery__multicast__interval=60)
        await world.stop(a)

        def refuse(*_: object) -> None:
            raise OSError(98, "Address already in use")

        monkeypatch.setattr(a.network, "open_multicast", refuse)
        a = await world.start("a", discovery__multicast__interval=60)
        assert await problems(a) == ["multicast.port_taken"]
        monkeypatch.undo()
        assert await problems(a) == ["peers.none"]


async def test_two_examinations_at_once_wait_for_each_other(autojump_clock: MockClock) -> None:
    async with open_world(3) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=1)
        results: list[list[str]] = []

        async def examine() -> None:
            results.append(await problems(a))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(examine)
            nursery.start_soon(examine)
        assert results == [[], []]


async def test_clocks_are_compared(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = Env.wall_ms, set[NodeId]()
    monkeypatch.setattr(
        Env, "wall_ms", lambda env: real(env) + HOUR_MS * (env.identity.node_id in ahead)
    )
    async with open_world(4) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=1)
        assert await problems(a) == []
        ahead.add(b.node_id)
        found = {each.code: each.text for each in await a.node.doctor()}
        assert "60 min behind" in found["clock.wrong"]


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """What any node dials from now on."""
    seen: list[Address] = []
    original = sim.SimNetwork.dial

    async def dial(network: sim.SimNetwork, address: Address) -> Any:
        seen.append(address)
        return await original(network, address)

    monkeypatch.setattr(sim.SimNetwork, "dial", dial)
    return seen


async def announcing(world: World, node: SimNode, *addresses: Address) -> Line:
    """Connect to a node as a peer that announces these addresses."""
    peer = ScriptedPeer(world)
    return await peer.connect(node, record=make_record(peer.identity, *addresses))


async def test_only_the_host_that_asks_is_dialled(
    autojump_clock: MockClock, dialled: list[Address]
) -> None:
    async with open_world(5) as world:
        a = await world.start("a", lan=None, connections__target=0)
        line = await announcing(world, a, Address("10.1.2.3", 22), Address("10.9.0.1", 41007))
        dialled.clear()
        reply = await line.ask(DialBack())
        assert reply == DialledBack("10.9.0.1:41007", "refused")
        assert dialled == [Address("10.9.0.1", 41007)]
        # As one behind a router that translates addresses: where it comes from, all the same.
        other = await announcing(world, a, Address("10.1.2.3", 22))
        dialled.clear()
        await trio.sleep(DIAL_BACK_AGAIN)
        assert await other.ask(DialBack()) == DialledBack("10.9.0.1:22", "refused")
        assert dialled == [Address("10.9.0.1", 22)]
        assert_unharmed(a)


async def test_who_comes_over_loopback_or_announces_nothing_is_not_dialled(
    autojump_clock: MockClock, dialled: list[Address]
) -> None:
    async with open_world(6) as world:
        a = await world.start("a", host="127.0.0.1", connections__target=0)
        proxied = ScriptedPeer(world, host="127.0.0.1", port=22, listens=True)
        line = await proxied.connect(a)
        dialled.clear()
        reply = await line.ask(DialBack())
        assert isinstance(reply, Failed)
        assert reply.code == "not_found"
        b = await world.start("b", lan=None, connections__target=0)
        silent = await announcing(world, b)
        dialled.clear()
        reply = await silent.ask(DialBack())
        assert isinstance(reply, Failed)
        assert dialled == []


async def test_who_has_no_descriptors_left_dials_nobody_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial(network: sim.SimNetwork, address: Address) -> Any:
        raise Exhausted("can't dial: Too many open files")

    async with open_world(9) as world:
        a = await world.start("a", lan=None, connections__target=0)
        line = await announcing(world, a, Address("10.9.0.1", 41007))
        monkeypatch.setattr(sim.SimNetwork, "dial", dial)
        reply = await line.ask(DialBack())
        assert isinstance(reply, Failed)
        assert reply.code == "busy"
        assert_unharmed(a)


async def test_who_has_no_descriptors_left_is_told_so(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interfaces(_: object) -> None:
        raise Exhausted("can't list the interfaces: Too many open files")

    async with open_world(10) as world:
        a = await world.start("a")
        monkeypatch.setattr(sim.SimNetwork, "interfaces", interfaces)
        with pytest.raises(Exhausted, match="Too many open files"):
            await a.node.doctor()


async def test_dials_back_are_few(autojump_clock: MockClock) -> None:
    async with open_world(7) as world:
        a = await world.start("a", lan=None, connections__target=0)
        lines = [await announcing(world, a, Address("10.9.0.1", 41007)) for _ in range(3)]
        began = trio.current_time()
        dialled = 0
        for turn in range(200):
            for line in lines:
                dialled += isinstance(await line.ask(DialBack()), DialledBack)
            await trio.sleep(0.25)
            # They are three, but of one host.
            assert dialled <= 1 + (trio.current_time() - began) / DIAL_BACK_AGAIN, turn
        assert dialled > 10
        assert_unharmed(a)


async def test_dials_back_of_many_hosts_are_few_too(
    autojump_clock: MockClock, dialled: list[Address]
) -> None:
    async with open_world(8) as world:
        a = await world.start("a", lan=None, connections__target=0)
        lines = []
        for number in range(40):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            lines.append(await peer.connect(a))
        dialled.clear()
        replies: list[object] = []

        async def ask(line: Line) -> None:
            replies.append(await line.ask(DialBack()))

        async with trio.open_nursery() as nursery:
            for line in lines:
                nursery.start_soon(ask, line)
        assert len(dialled) <= MAX_DIALS_BACK
        for line in lines:
            await line.ask(DialBack())
        assert len(dialled) <= MAX_DIALS_BACK + DIALS_BACK_AT_ONCE


async def test_a_query_is_answered_at_once_and_makes_nobody_dial(
    autojump_clock: MockClock, dialled: list[Address]
) -> None:
    async with open_world(9) as world:
        a = await world.start("a", connections__target=0)
        await trio.sleep(2)
        asker = ScriptedPeer(world)
        asker.network._lan = "lan"
        socket = asker.network.open_multicast(asker.network.interfaces()[0], GROUP, 41000)
        query = Beacon(
            asker.identity.node_id, 41000, network_tag("p2pd"), bytes(16).hex(), query=True
        )
        dialled.clear()
        answers = 0
        for _ in range(10):
            await socket.send(write_beacon(query))
        with trio.move_on_after(0.2):
            while True:
                answers += read_beacon((await socket.receive())[0]).node_id == a.node_id
        assert answers == 1
        assert a.node.peers() == []
        assert dialled == []
        foreign = Beacon(asker.identity.node_id, 41000, "00" * 8, bytes(16).hex(), query=True)
        await trio.sleep(1)
        await socket.send(write_beacon(foreign))
        with trio.fail_after(0.2):
            while read_beacon((await socket.receive())[0]).node_id != a.node_id:
                pass
        assert a.node.peers() == []
        assert dialled == []


async def test_nobody_is_blamed_for_our_own_bound(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        b, seed = await world.start("b", lan=None), await world.start("seed", lan=None)
        a = await world.start(
            "a",
            lan=None,
            discovery__seeds=[str(seed.address)],
            discovery__bootstrap=[str(b.address)],
            connections__max_outbound=1,
            connections__target=1,
        )
        await trio.sleep(20)
        found = [each for each in await a.node.doctor() if each.check in {"seed", "bootstrap"}]
        assert {each.code.partition(".")[2] for each in found} == {"ok", "untested"}
        (untried,) = [each for each in found if each.code.endswith("untested")]
        assert "connections.max_outbound" in untried.text
