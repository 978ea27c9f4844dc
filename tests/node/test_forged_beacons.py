"""What somebody on the LAN can do by beacons, which nobody signs."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.entries import Entry, Source
from p2pd.core.registry import Registry
from p2pd.ids import NodeId
from p2pd.net.sim import SimMulticastSocket, SimNetwork, SimStream
from p2pd.node import discovery
from p2pd.node.dialler import STRANGERS_AT_ONCE, STRANGERS_PER_SECOND
from p2pd.node.discovery import ANSWER_GAP, ANSWERS_AT_ONCE, ANSWERS_PER_SECOND, MAX_TALLIED, Tally
from p2pd.node.probing import ProbeOutcome
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.beacon import Beacon, network_tag, write_beacon
from p2pd.wire.messages import Goodbye, Nodes
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed, connected, stranger

GROUP = "239.255.0.1"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """Note every address that any node dials."""
    seen: list[Address] = []
    dial = SimNetwork.dial

    async def noted(network: SimNetwork, address: Address) -> SimStream:
        seen.append(address)
        return await dial(network, address)

    monkeypatch.setattr(SimNetwork, "dial", noted)
    return seen


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the sender of every datagram."""
    senders: list[str] = []
    send = SimMulticastSocket.send

    async def noted(socket: SimMulticastSocket, data: bytes) -> None:
        senders.append(socket.host)
        await send(socket, data)

    monkeypatch.setattr(SimMulticastSocket, "send", noted)
    return senders


def socket_of(peer: ScriptedPeer) -> SimMulticastSocket:
    """Let a scripted peer's host take part in the LAN."""
    peer.network._lan = "lan"
    return peer.network.open_multicast(peer.network.interfaces()[0], GROUP, 41000)


def forged(world: World, node_id: NodeId, port: int) -> bytes:
    instance = world.rng.randbytes(16).hex()
    return write_beacon(Beacon(node_id, port, network_tag("p2pd"), instance))


@pytest.mark.parametrize("source", ["::", "0.0.0.0", "::ffff:127.0.0.1", "127.0.0.1", "::1"])
async def test_a_beacon_that_leads_back_to_this_host_is_not_dialled(
    autojump_clock: MockClock, dialled: list[Address], source: str
) -> None:
    """Records that lead there are passed over, too: only this host may use its own services."""
    async with open_world(1) as world:
        a = await world.start("a")
        socket = socket_of(ScriptedPeer(world, host="10.9.0.1"))
        # The node joins the group in a task of its own.
        await trio.sleep(1)
        honest, socket.host = socket.host, source
        await socket.send(forged(world, stranger(world.rng).node_id, 22))
        socket.host = honest
        await socket.send(forged(world, stranger(world.rng).node_id, 23))
        await world.until(lambda: bool(dialled), within=2)
        await trio.sleep(5)
        assert set(dialled) == {Address(honest, 23)}
        assert_unharmed(a)


@pytest.mark.parametrize("sources", [1, 8])
async def test_beacons_in_the_name_of_an_absent_peer_make_few_dials(
    autojump_clock: MockClock, dialled: list[Address], sources: int
) -> None:
    """It was connected once, so it is no stranger; where it is said to be is a stranger's word."""
    async with open_world(1) as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.until(lambda: a.is_connected_to(b), within=1)
        await world.crash(b)
        await trio.sleep(20)
        sockets = [socket_of(ScriptedPeer(world, host=f"10.9.0.{n}")) for n in range(sources)]
        dialled.clear()
        started = trio.current_time()
        for number in range(1000):
            await sockets[number % sources].send(forged(world, b.node_id, 1 + number % 16))
            await trio.sleep(0.02)
        elapsed = trio.current_time() - started
        most = STRANGERS_AT_ONCE + 16 + STRANGERS_PER_SECOND * elapsed
        assert len(dialled) <= most
        # One that tells the truth is still heard once the flood is over.
        await trio.sleep(20)
        await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=2)
        assert_unharmed(a, b)


async def test_beacons_without_end_do_not_put_off_the_dial_of_who_sends_them(
    autojump_clock: MockClock,
) -> None:
    """Who waits for the other to dial first does not wait for ever."""
    async with open_world(2) as world:
        a = await world.start("a")
        peer = await lesser(world, a)
        socket = socket_of(peer)
        met = trio.Event()

        async def meet(line: Line) -> None:
            met.set()
            await line.hung_up()

        async with trio.open_nursery() as nursery:
            await nursery.start(peer.listen, meet)
            with trio.fail_after(2):
                while not met.is_set():
                    await socket.send(forged(world, peer.identity.node_id, peer.port))
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


async def lesser(world: World, node: SimNode) -> ScriptedPeer:
    """Make a peer for which a node waits politely, as its ID is smaller."""
    identity = stranger(world.rng)
    while identity.node_id > node.node_id:
        identity = stranger(world.rng)
    return ScriptedPeer(world, identity=identity)


async def test_more_nodes_on_a_lan_than_are_remembered_answer_each_other_seldom(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    monkeypatch.setattr(discovery, "MAX_SEEN", 4)
    async with open_world(3) as world:
        nodes = [await world.start(f"n{number}") for number in range(6)]
        await trio.sleep(60)
        sent.clear()
        await trio.sleep(200)
        assert len(sent) <= len(nodes) * 200 * (ANSWERS_PER_SECOND + 0.1)
        assert_unharmed(*nodes)


async def flood(world: World, count: int, *, every: float, query: bool = False) -> None:
    """Send beacons, each of another made-up node."""
    socket, tag = socket_of(ScriptedPeer(world)), network_tag("p2pd")
    for _ in range(count):
        someone = NodeId(world.rng.randbytes(32))
        await socket.send(write_beacon(Beacon(someone, 1, tag, bytes(16).hex(), query=query)))
        await trio.sleep(every)


@pytest.mark.parametrize("query", [False, True])
async def test_a_flood_of_beacons_is_answered_seldom(
    autojump_clock: MockClock, sent: list[str], *, query: bool
) -> None:
    """Each node of the link answers: one datagram would bring as many as there are."""
    async with open_world(4) as world:
        a = await world.start("a", connections__target=0)
        await trio.sleep(10)
        sent.clear()
        await flood(world, 600, every=0.1, query=query)
        answers = sent.count(a.address.host)
        assert ANSWERS_AT_ONCE / 2 <= answers <= ANSWERS_AT_ONCE + 60 * ANSWERS_PER_SECOND + 4


async def test_strangers_who_come_all_at_once_are_answered_together(
    autojump_clock: MockClock, sent: list[str]
) -> None:
    async with open_world(4) as world:
        a = await world.start("a", connections__target=0)
        await trio.sleep(10)
        sent.clear()
        await flood(world, 20, every=ANSWER_GAP / 5)
        assert 4 <= sent.count(a.address.host) <= 5


async def test_a_goodbye_of_a_stranger_is_nobody(autojump_clock: MockClock) -> None:
    async with open_world(4) as world:
        a = await world.start("a")
        await trio.sleep(1)
        socket, tag = socket_of(ScriptedPeer(world)), network_tag("p2pd")
        someone = NodeId(world.rng.randbytes(32))
        await socket.send(write_beacon(Beacon(someone, 1, tag, bytes(16).hex(), leaving=True)))
        await trio.sleep(1)
        assert a.node.peers() == []


async def test_who_is_in_another_network_is_not_dialled_for_its_beacons_until_it_starts_again(
    autojump_clock: MockClock, dialled: list[Address]
) -> None:
    """The beacon names the network, but not its key."""
    async with open_world(1) as world:
        backoff: Any = {"connections__backoff_min": 300, "connections__backoff_max": 300}
        a = await world.start("a", network_key=b"a", **backoff)
        quiet: Any = {"connections__target": 0, "discovery__multicast__interval": 5}
        b = await world.start("b", network_key=b"b", **quiet)
        await trio.sleep(60)
        assert dialled.count(b.address) == 1
        await world.stop(b)
        await world.start("b", network_key=b"a")
        await world.until(lambda: a.is_connected_to(b), within=2)


def test_a_tally_counts_so_many_hosts_and_no_more() -> None:
    tally, tag = Tally(trio.lowlevel.ParkingLot()), network_tag("p2pd")
    own = Beacon(NodeId(bytes(32)), 1, tag, bytes(16).hex())
    for number in range(2 * MAX_TALLIED):
        network = tag if number % 2 else "00" * 8
        other = Beacon(NodeId(bytes(32)), 1, network, (b"x" * 16).hex())
        tally.note(other, f"10.9.{number // 256}.{number % 256}", own)
    assert len(tally.hosts) == len(tally.foreign) == MAX_TALLIED / 2


async def test_beacons_in_the_name_of_the_node_itself_cost_little(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be of a copy of it, and all entries are looked through for its address."""
    looked_through = 0
    configured = Registry.configured

    def count(registry: Registry, address: Address, source: Source, wall: float) -> Entry | None:
        nonlocal looked_through
        looked_through += 1
        return configured(registry, address, source, wall)

    async with open_world(1) as world:
        a = await world.start("a")
        monkeypatch.setattr(Registry, "configured", count)
        socket = socket_of(ScriptedPeer(world))
        for number in range(1000):
            await socket.send(forged(world, a.node_id, 1024 + number))
            await trio.sleep(0.01)
        assert 0 < looked_through <= STRANGERS_AT_ONCE + 10 * STRANGERS_PER_SECOND + 1
        assert_unharmed(a)


async def test_beacons_in_the_name_of_a_peer_that_was_never_dialled_lead_no_probe_astray(
    autojump_clock: MockClock,
) -> None:
    """A probe tries few addresses, and where its host refuses, the peer is held dead."""
    async with open_world(1) as world:
        a = await world.start("a", connections__target=0)
        peer = ScriptedPeer(world, listens=True)
        await world._nursery.start(peer.listen, Line.hung_up)
        line = await peer.connect(a)
        world.meanwhile(line.serve, lambda _: Nodes(()))
        socket = socket_of(peer)
        for port in range(1, 20):
            await socket.send(forged(world, peer.identity.node_id, port))
        await trio.sleep(30)
        await line.send(Goodbye("enough for now"))
        await world.until(lambda: not connected(a), within=1)
        probe = a.services.probing.probe
        assert await probe(peer.identity.node_id) is ProbeOutcome.ANSWERED
