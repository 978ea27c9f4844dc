"""Nodes find each other: by multicast, by bootstrap, again after a restart."""

from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import Exhausted
from p2pd.ids import NodeId
from p2pd.net import sim
from p2pd.net.base import Interface
from p2pd.node.discovery import Link
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.beacon import Beacon, network_tag, read_beacon, write_beacon
from p2pd.wire.identity import open_peer_record
from p2pd.wire.messages import Announce
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed, connected, reasons

GROUP = "239.255.0.1"


def all_connected(*nodes: SimNode) -> bool:
    return all(
        each.is_connected_to(*(other for other in nodes if other is not each)) for each in nodes
    )


async def settled(world: World, *nodes: SimNode) -> None:
    """Hold that nothing comes or goes any more once all are connected."""
    await trio.sleep(3)
    before = [len(each.events) for each in nodes]
    await trio.sleep(120)
    late = [[event.message for event in each.events] for each in nodes]
    assert [len(each.events) for each in nodes] == before, late
    assert all_connected(*nodes)


async def test_three_on_a_lan_started_one_after_the_other(autojump_clock: MockClock) -> None:
    async with open_world(seed=1) as world:
        nodes = [await world.start(name) for name in "abc"]
        await world.until(lambda: all_connected(*nodes), within=1)
        await settled(world, *nodes)
        assert_unharmed(*nodes)


@pytest.mark.parametrize("seed", range(10))
async def test_three_on_a_lan_started_at_once(autojump_clock: MockClock, seed: int) -> None:
    async with open_world(seed) as world:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(world.start, name)
        nodes = list(world.nodes.values())
        await world.until(lambda: all_connected(*nodes), within=1)
        await settled(world, *nodes)


async def test_three_on_one_host(autojump_clock: MockClock) -> None:
    async with open_world(seed=3) as world:
        nodes = [
            await world.start(name, host="127.0.0.1", port=port)
            for name, port in [("a", 41000), ("b", 41001), ("c", 41002)]
        ]
        await world.until(lambda: all_connected(*nodes), within=1)
        await settled(world, *nodes)


async def test_bootstrap_without_multicast_and_the_third_by_exchange(
    autojump_clock: MockClock,
) -> None:
    async with open_world(seed=4) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        c = await world.start("c", lan=None, bootstrap=[a])
        await world.until(lambda: all_connected(a, b, c), within=1)
        by_exchange = [each for each in c.node.peers() if each.name == "b"]
        assert [each.source for each in by_exchange] in (["exchange"], ["inbound"])
        await settled(world, a, b, c)


@pytest.mark.parametrize("lan", ["lan", None])
@pytest.mark.parametrize("seed", range(5))
async def test_nodes_that_name_each_other_for_bootstrap(
    autojump_clock: MockClock, lan: str | None, seed: int
) -> None:
    """Who is dialled by address is known by ID a moment later, or already."""
    async with open_world(seed) as world:
        addresses = ["10.0.0.1:41000", "10.0.0.2:41000", "10.0.0.3:41000"]
        async with trio.open_nursery() as nursery:
            for name in "abc":
                start = lambda name=name: world.start(  # noqa: E731 - one name for three
                    name, lan=lan, discovery__bootstrap=addresses
                )
                nursery.start_soon(start)
        nodes = list(world.nodes.values())
        await world.until(lambda: all_connected(*nodes), within=2)
        await trio.sleep(30)
        for node in nodes:
            counts = [each.success_count for each in node.node.peers() if each.node_id]
            assert max(counts) <= 2, counts
            unknown = [each.address for each in node.node.peers() if each.node_id is None]
            assert unknown == [str(node.address)]
            assert reasons(node) <= {"self"}
            connected = [each for each in node.codes() if each == "peer.connected"]
            assert len(connected) == 2


async def test_a_dialled_address_of_a_known_peer_is_not_dialled_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a loop: the address never got a name, as its connection was no news."""
    async with open_world(seed=5) as world:
        a = await world.start("a")
        dials = 0
        medium = world.network.medium
        original = medium.schedule

        def counting(due: float, *args: Any) -> Any:
            nonlocal dials
            dials += 1
            return original(due, *args)

        b = await world.start("b", bootstrap=[a])
        await world.until(lambda: all_connected(a, b))
        await trio.sleep(5)
        monkeypatch.setattr(medium, "schedule", counting)
        await trio.sleep(60)
        assert dials < 200
        assert [each.node_id for each in b.node.peers()] == [a.node_id.hex()]


async def test_a_node_that_restarts_is_back_within_two_seconds(autojump_clock: MockClock) -> None:
    async with open_world(seed=6) as world:
        a, b, c = [await world.start(name) for name in "abc"]
        await world.until(lambda: all_connected(a, b, c), within=1)
        await world.crash(b)
        await world.until(lambda: not a.is_connected_to(b), within=1)
        gone = next(each for each in a.node.peers() if each.name == "b")
        assert gone.status == "disconnected"
        assert gone.last_error
        await trio.sleep(20)
        await world.start("b")
        await world.until(lambda: all_connected(a, b, c), within=2)
        back = next(each for each in a.node.peers() if each.name == "b")
        assert back.success_count == 2
        assert back.fail_count >= 1


async def test_a_node_that_lost_its_memory_is_back_though_nobody_missed_it(
    autojump_clock: MockClock,
) -> None:
    """Its old connections look alive: whoever has one must still answer its beacon."""
    async with open_world(seed=7) as world:
        a = await world.start("a")
        peer = ScriptedPeer(world, host="10.0.0.9")
        await peer.connect(a)
        heard = world.network.groups[("lan", "239.255.0.1", 41000)]
        await trio.sleep(10)
        listener = peer.network
        listener._lan = "lan"
        socket = listener.open_multicast(listener.interfaces()[0], GROUP, 41000)
        beacon = Beacon(peer.identity.node_id, 41000, network_tag("p2pd"), bytes(16).hex())
        await socket.send(write_beacon(beacon))
        with trio.fail_after(1):
            while (await socket.receive())[1] != str(a.address.host):
                pass
        assert socket in heard
        assert_unharmed(a)


async def test_a_goodbye_shows_at_once(autojump_clock: MockClock) -> None:
    async with open_world(seed=8) as world:
        a = await world.start("a")
        b = await world.start("b")
        await world.until(lambda: all_connected(a, b), within=1)
        await world.stop(b)
        await world.until(lambda: not connected(a), within=0.1)
        gone = a.node.peers()[0]
        assert gone.last_error is not None
        assert "goodbye" in gone.last_error
        assert "leaving" in gone.last_error


async def test_a_beacon_cuts_a_backoff_short(autojump_clock: MockClock) -> None:
    async with open_world(seed=9) as world:
        settings: Any = {"connections__backoff_min": 300, "connections__backoff_max": 300}
        a = await world.start("a", **settings)
        b = await world.start("b", **settings)
        await world.until(lambda: all_connected(a, b), within=1)
        await world.crash(b)
        await trio.sleep(600)
        await world.start("b")
        await world.until(lambda: all_connected(a, b), within=1)


def announced(line: Line) -> list[tuple[str, ...]]:
    """Return the addresses in each record that a node announced."""
    records = [each.record for each in line.heard if isinstance(each, Announce)]
    return [open_peer_record(each).addresses for each in records]


async def test_names_of_interfaces_that_fit_none_are_told_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", discovery__multicast__interfaces=("lna*",))
        [up] = a.network.interfaces()
        for _ in range(2):
            a.network.set_interfaces()
            await trio.sleep(10)
            a.network.set_interfaces(up)
            await trio.sleep(10)
        assert a.codes().count("discovery.trouble") == 1


async def test_interfaces_that_can_not_be_listed_are_looked_for_again_after_a_pause(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(seed=11) as world:
        a = await world.start("a")
        [old] = a.network.interfaces()
        looks: list[float] = []

        def run_out() -> list[Interface]:
            looks.append(trio.current_time())
            raise Exhausted("too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(a.network, "interfaces", run_out)
            a.network.set_interfaces()
            await trio.sleep(10)
        assert 5 <= len(looks) <= 20
        await world.until(lambda: not a.services.interfaces.in_use, within=5)
        a.network.set_interfaces(old)
        await world.until(lambda: a.services.interfaces.in_use == [old], within=5)
        assert_unharmed(a)


async def test_interfaces_that_come_and_go(autojump_clock: MockClock) -> None:
    async with open_world(seed=10) as world:
        up = Interface("sim0", 2, loopback=False, multicast=True, addresses=("10.0.0.1",))
        a = await world.start("a")
        watcher = ScriptedPeer(world)
        line = await watcher.connect(a)
        world._nursery.start_soon(line.serve, lambda _: None)
        assert a.node.snapshot().addresses == ["10.0.0.1:41000"]
        a.network.set_interfaces()
        await world.until(lambda: len(announced(line)) == 1, within=1)
        assert a.node.snapshot().addresses == []
        b = await world.start("b")
        await trio.sleep(20)
        assert not a.is_connected_to(b)
        a.network.set_interfaces(up)
        await world.until(lambda: len(announced(line)) == 2, within=1)
        assert announced(line) == [(), ("10.0.0.1:41000",)]
        assert a.node.snapshot().addresses == ["10.0.0.1:41000"]
        await world.until(lambda: all_connected(a, b), within=1)


@pytest.mark.parametrize("multicast", [True, False])
async def test_an_interface_that_comes_up_cuts_backoffs_short(
    autojump_clock: MockClock, multicast: bool
) -> None:
    async with open_world(seed=13) as world:
        unreachable = world.conditions.unreachable
        unreachable.add("10.0.0.1")
        b = await world.start(
            "b",
            lan=None,
            host="10.0.0.2",
            discovery__bootstrap=["10.0.0.1:41000"],
            discovery__multicast__enabled=multicast,
        )
        [up] = b.network.interfaces()
        b.network.set_interfaces()
        await trio.sleep(60)
        failed = b.codes().count("peer.dial_failed")
        await world.until(lambda: b.codes().count("peer.dial_failed") > failed, within=60)
        a = await world.start("a", lan=None, host="10.0.0.1")
        unreachable.clear()
        b.network.set_interfaces(up)
        await world.until(lambda: all_connected(a, b), within=1)


async def test_what_was_connected_from_an_address_that_is_gone_is_dialled_anew(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(seed=12) as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.until(lambda: all_connected(a, b), within=1)
        await trio.sleep(60)
        monkeypatch.setattr(a.network, "owns", lambda _: False)
        a.network.set_interfaces(*a.network.interfaces())
        await trio.sleep(2)
        [ended] = [each for each in a.events if each.code == "peer.disconnected"]
        assert ended.fields["reason"] == "this host's address 10.0.0.1 is gone"
        assert all_connected(a, b)


async def test_a_group_that_can_not_be_joined_is_told_and_tried_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(seed=11) as world:
        a = await world.start("a", discovery__multicast__interval=10)
        await world.stop(a)

        def refuse(*_: object) -> None:
            raise OSError(98, "Address already in use")

        monkeypatch.setattr(a.network, "open_multicast", refuse)
        await world.start("a")
        b = await world.start("b")
        await trio.sleep(35)
        trouble = [each for each in a.events if each.code == "discovery.trouble"]
        assert len(trouble) == 1
        monkeypatch.undo()
        await world.until(lambda: all_connected(a, b), within=15)


async def test_a_reload_has_a_group_that_could_not_be_joined_tried_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(98, "Address already in use")

    async with open_world(seed=11) as world:
        with monkeypatch.context() as taken:
            taken.setattr(sim.SimNetwork, "open_multicast", refuse)
            a = await world.start("a", discovery__multicast__interval=86400)
            await trio.sleep(10)
        b = await world.start("b")
        await trio.sleep(10)
        assert not a.is_connected_to(b)
        a.node.reload(a.config)
        await world.until(lambda: all_connected(a, b), within=1)


async def test_a_socket_that_hears_no_more_is_opened_anew(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise OSError(100, "Network is down")

    async with open_world(seed=11) as world:
        a = await world.start("a", discovery__multicast__interval=10)
        await trio.sleep(1)
        [link] = a.services.discovery.links.values()
        with monkeypatch.context() as broken:
            broken.setattr(sim.SimMulticastSocket, "receive", fail)
            await world.stop(a)
            await world.start("a")
            await trio.sleep(300)
            [link] = a.services.discovery.links.values()
            assert link.trouble == "can't hear beacons on sim0: Network is down"
            assert a.codes().count("discovery.trouble") == 1
        b = await world.start("b", lan="lan", connections__target=0)
        await world.until(lambda: all_connected(a, b), within=15)
        assert link.trouble is None


@pytest.mark.parametrize(("group", "first"), [("239.0.0.1", "192.168.0.1"), ("ff02::1", "fe80::1")])
async def test_of_several_addresses_a_link_local_one_comes_first_of_ipv6_and_last_of_ipv4(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, group: str, first: str
) -> None:
    addresses = ("169.254.0.1", "192.168.0.1", "fd00::1", "fe80::1")
    lan = Interface("sim0", 2, loopback=False, multicast=True, addresses=addresses)
    async with open_world(seed=12) as world:
        a = await world.start("a", lan=None)
        a.services.own.listening = [Address("0.0.0.0", 1), Address("::", 1)]
        opened: list[Interface] = []
        monkeypatch.setattr(a.network, "open_multicast", lambda at, *_: opened.append(at))
        a.services.discovery.open(Link(lan, group))
        assert [each.addresses for each in opened] == [(first,)]


async def test_a_beacon_comes_from_an_address_that_is_listened_on(
    autojump_clock: MockClock,
) -> None:
    async with open_world(seed=12) as world:
        a = await world.start("a", host="10.0.0.7", connections__target=0)
        one = Interface("sim0", 2, loopback=False, multicast=True, addresses=("10.0.0.6",))
        a.network.set_interfaces(one)
        b = await world.start("b")
        await trio.sleep(100)
        assert not a.is_connected_to(b)
        a.network.set_interfaces(attrs.evolve(one, addresses=("10.0.0.6", "10.0.0.7")))
        await world.until(lambda: all_connected(a, b), within=5)
        assert {each.remote.host for each in b.services.roster.connections.values()} == {"10.0.0.7"}


async def test_a_beacon_comes_from_no_link_local_address_where_there_is_another(
    autojump_clock: MockClock,
) -> None:
    async with open_world(seed=12) as world:
        a = await world.start("a", host="192.168.0.7", connections__target=0)
        a.services.own.listening[:] = [Address("0.0.0.0", 41000)]
        [up] = a.network.interfaces()
        a.network.set_interfaces(attrs.evolve(up, addresses=("169.254.0.7", "192.168.0.7")))
        b = await world.start("b")
        await world.until(lambda: all_connected(a, b), within=5)


async def test_where_multicast_is_disabled_nobody_is_found(autojump_clock: MockClock) -> None:
    async with open_world(seed=12) as world:
        a = await world.start("a", discovery__multicast__enabled=False)
        b = await world.start("b")
        await trio.sleep(100)
        assert a.node.peers() == b.node.peers() == []


async def test_loopback_takes_multicast_though_it_does_not_say_so(
    autojump_clock: MockClock,
) -> None:
    async with open_world(seed=12) as world:
        loopback = Interface("lo", 1, loopback=True, multicast=False, addresses=("127.0.0.1",))
        a = await world.start("a", host="127.0.0.1", connections__target=0)
        a.network.set_interfaces(loopback)
        await trio.sleep(1)
        [link] = a.services.discovery.links.values()
        assert (link.interface, link.group, link.trouble) == (loopback, GROUP, None)


async def test_a_link_that_is_gone_leaves_its_group(autojump_clock: MockClock) -> None:
    async with open_world(seed=12) as world:
        a = await world.start("a")
        await trio.sleep(10)
        a.network.set_interfaces()
        await trio.sleep(10)
        assert not any(world.network.groups.values())


async def test_another_network_on_the_same_lan_is_left_alone(autojump_clock: MockClock) -> None:
    async with open_world(seed=12) as world:
        a = await world.start("a")
        b = await world.start("b", node__network="elsewhere")
        await trio.sleep(100)
        assert a.node.peers() == b.node.peers() == []


async def test_who_is_heard_right_after_a_beacon_is_answered_too(
    autojump_clock: MockClock,
) -> None:
    """It may have joined the group too late for that beacon, and is news only once."""
    async with open_world(seed=14) as world:
        a = await world.start("a", connections__target=0)
        await trio.sleep(10)
        stranger = ScriptedPeer(world)
        stranger.network._lan = "lan"
        socket = stranger.network.open_multicast(stranger.network.interfaces()[0], GROUP, 41000)
        tag = network_tag("p2pd")

        async def heard_of_a() -> None:
            while read_beacon((await socket.receive())[0]).node_id != a.node_id:
                pass

        for _ in range(2):
            news = Beacon(stranger_id(world), 41000, tag, world.rng.randbytes(16).hex())
            await socket.send(write_beacon(news))
            with trio.fail_after(1):
                await heard_of_a()


@pytest.mark.parametrize("seed", range(5))
async def test_passive_nodes_find_each_other_by_the_interval_alone(
    autojump_clock: MockClock, seed: int
) -> None:
    passive: Any = {
        "discovery__multicast__passive": True,
        "discovery__multicast__interval": 60,
        "connections__target": 0,
    }
    async with open_world(seed) as world:
        listener = ScriptedPeer(world)
        listener.network._lan = "lan"
        socket = listener.network.open_multicast(listener.network.interfaces()[0], GROUP, 41000)
        a = await world.start("a", **passive)
        started = trio.current_time()
        beacons: list[float] = []

        async def count() -> None:
            while True:
                if read_beacon((await socket.receive())[0]).node_id == a.node_id:
                    beacons.append(trio.current_time() - started)

        world._nursery.start_soon(count)
        for _ in range(5):
            await trio.sleep(50)
            stranger = Beacon(
                stranger_id(world), 41000, network_tag("p2pd"), world.rng.randbytes(16).hex()
            )
            await socket.send(write_beacon(stranger))
        await trio.sleep(50)
        gaps = [later - before for before, later in pairwise([0.0, *beacons])]
        assert len(gaps) >= 4
        assert all(53 <= gap <= 67 for gap in gaps), gaps
        b = await world.start("b", **passive | {"connections__target": 6})
        await world.until(lambda: all_connected(a, b), within=67)


async def test_a_passive_node_is_found_at_once_by_one_that_is_not(
    autojump_clock: MockClock,
) -> None:
    async with open_world(seed=15) as world:
        a = await world.start("a", discovery__multicast__passive=True)
        await trio.sleep(100)
        b = await world.start("b")
        await world.until(lambda: all_connected(a, b), within=1)


async def test_nonsense_on_the_multicast_group(autojump_clock: MockClock) -> None:
    async with open_world(seed=13) as world:
        a = await world.start("a")
        liar = ScriptedPeer(world)
        liar.network._lan = "lan"
        socket = liar.network.open_multicast(liar.network.interfaces()[0], GROUP, 41000)
        tag = network_tag("p2pd")
        for size in (0, 1, 100, 2000):
            await socket.send(world.rng.randbytes(size))
        await socket.send(b"[" * 400)
        own = Beacon(a.node_id, 41000, tag, world.rng.randbytes(16).hex())
        await socket.send(write_beacon(own))
        for _ in range(2000):
            fake = Beacon(stranger_id(world), 41000, tag, world.rng.randbytes(16).hex())
            await socket.send(write_beacon(fake))
            await trio.sleep(0.01)
        b = await world.start("b")
        await world.until(lambda: all_connected(a, b), within=2)
        assert len(a.node.peers()) < 600
        assert_unharmed(a)


def stranger_id(world: World) -> NodeId:
    return ScriptedPeer(world).identity.node_id


async def test_a_reload_to_a_shorter_interval_holds_at_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", discovery__multicast__interval=86400)
        await trio.sleep(60)
        multicast = attrs.evolve(a.config.discovery.multicast, interval=60)
        changed = attrs.evolve(a.config.discovery, multicast=multicast)
        a.node.reload(attrs.evolve(a.config, discovery=changed))
        listener = sim.SimNetwork(world.network, "10.0.0.200", bytes(32), "lan")
        [interface] = listener.interfaces()
        socket = listener.open_multicast(interface, GROUP, a.config.discovery.multicast.port)
        for _ in range(3):
            with trio.fail_after(80):
                await socket.receive()
