"""Lookups over nodes: what silent, refusing and dead ones cost, and where a lookup may end."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.routing import RoutingTable
from p2pd.errors import RequestTimedOut
from p2pd.ids import Key, NodeId
from p2pd.net.faults import Cut, constant_latency
from p2pd.node import feelers, surplus
from p2pd.node.routes import REFRESH_AFTER, REFRESH_FIRST, Route, Routes
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import MAX_RECORDS, FindNode, Nodes
from tests.node.scripted import Line, ScriptedPeer, assert_unharmed, make_record, stranger

TIMEOUT = 10.0


async def network(world: World, size: int, **settings: Any) -> list[SimNode]:
    """Start nodes that never fill their connections, and let them settle."""
    first = await world.start("n0", lan=None, dht__request_timeout=TIMEOUT, **settings)
    await world.start_many(
        size - 1,
        per_second=10,
        bootstrap=[first],
        lan=None,
        dht__request_timeout=TIMEOUT,
        **settings,
    )
    await trio.sleep(60)
    return list(world.nodes.values())


def routes(node: SimNode) -> Routes:
    return node.services.routes


async def test_of_one_answer_no_more_than_k_nodes_are_taken(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        line = await ScriptedPeer(world, listens=True).connect(a)
        records = tuple(
            make_record(stranger(world.rng), Address(f"203.0.{number}.1", 41000))
            for number in range(MAX_RECORDS)
        )
        world._nursery.start_soon(line.serve, lambda _: Nodes(records))
        await routes(a).look_up(bytes(32), FindNode(bytes(32)))
        assert len(a.services.registry) == 1 + a.config.dht.k


def ids(route: Route) -> list[NodeId]:
    return [each.node_id for each in route.closest]


def silence(world: World, *nodes: SimNode) -> None:
    """Let nothing reach or leave these nodes any more."""
    mute = frozenset(each.network.host for each in nodes)
    others = frozenset(each.network.host for each in world.nodes.values()) - mute
    world.network.medium.cut(Cut(mute, others))


async def test_silent_nodes_cost_no_timeout_where_k_others_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_world(3, constant_latency(0.05)) as world:
        nodes = await network(world, 40, dht__k=8, dht__replication=8)
        asker, key = nodes[7], Key.of("somewhere")
        near = [each for each in closest(world, key, 12) if each is not asker]
        for number in range(3):
            point = Key.of(f"warm up {number}")
            await routes(asker).look_up(point, FindNode(point))
        silence(world, near[0], near[2], near[3])
        began = trio.current_time()
        route = await routes(asker).look_up(key, FindNode(key))
        assert trio.current_time() - began < TIMEOUT / 2
        answering = [near[1], *near[4:11]]
        # As far as the answers name them: each names eight, the silent ones among them.
        assert ids(route)[:5] == [each.node_id for each in answering[:5]]
        assert len(route.closest) == 8
        silent = {near[0].node_id, near[2].node_id, near[3].node_id}
        assert {each.node_id for each in route.silent} == silent
        assert_unharmed(asker)


async def test_where_fewer_than_k_are_left_the_late_answer_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        nodes = await network(world, 5)
        asker, key = nodes[0], Key.of("somewhere")
        await routes(asker).look_up(key, FindNode(key))
        cut = Cut(
            frozenset({nodes[3].network.host}),
            frozenset(each.network.host for each in nodes if each is not nodes[3]),
        )
        world.network.medium.cut(cut)

        async def heal() -> None:
            await trio.sleep(TIMEOUT / 2)
            world.network.medium.heal(cut)

        world.meanwhile(heal)
        route = await routes(asker).look_up(key, FindNode(key))
        assert set(ids(route)) == {each.node_id for each in nodes[1:]}
        assert route.silent == []


async def test_who_refuses_is_not_missing_and_gives_up_its_place(
    autojump_clock: MockClock,
) -> None:
    async with open_world(2) as world:
        nodes = await network(world, 30, dht__k=4, dht__replication=4, connections__target=2)
        asker, key = nodes[5], Key.of("somewhere")
        before = await routes(asker).look_up(key, FindNode(key))
        # The connections of that lookup go first.
        await trio.sleep(60)
        victims = [each for each in nodes if each.node_id in ids(before)[:2]]
        for each in victims:
            await world.crash(each)
        route = await routes(asker).look_up(key, FindNode(key))
        assert {hop.outcome for hop in route.hops} == {"answered", "dial_failed"}
        assert route.silent == []
        found = [each for each in closest(world, key, 5) if each is not asker][:4]
        assert ids(route) == [each.node_id for each in found]


@pytest.mark.parametrize("seed", range(2))
async def test_in_a_small_network_all_were_connected_to_all(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        first = await world.start("n0", lan=None)
        await world.start_many(39, per_second=20, lan=None, bootstrap=[first])
        await trio.sleep(REFRESH_FIRST[1] + 10)
        for node in world.living():
            others = [each.node_id for each in world.living() if each is not node]
            met = [each for each in map(node.services.registry.get, others) if each and each.proven]
            assert len(met) >= len(others) - 2


async def test_the_dead_are_neither_asked_nor_named(autojump_clock: MockClock) -> None:
    async with open_world(4) as world:
        nodes = await network(world, 6)
        asker, key = nodes[0], Key.of("somewhere")
        await world.crash(nodes[3])
        await trio.sleep(60)
        route = await routes(asker).look_up(key, FindNode(key))
        assert nodes[3].node_id not in [hop.node_id for hop in route.hops]
        assert len(route.closest) == 4
        named = [each.body for each in routes(asker).closest_records(key, asker.node_id)]
        assert len(named) == 4


async def test_a_lookup_ends_where_the_caller_has_enough(autojump_clock: MockClock) -> None:
    async with open_world(5, constant_latency(0.05)) as world:
        nodes = await network(world, 25)
        key, seen = Key.of("somewhere"), list[int]()

        def enough(route: Route) -> bool:
            seen.append(len(route.answers))
            assert set(ids(route)) <= set(route.answers)
            return len(route.closest) >= 3

        route = await routes(nodes[1]).look_up(key, FindNode(key), enough=enough)
        assert seen == sorted(seen)
        assert 3 <= len(route.closest) < 20
        whole = await routes(nodes[1]).look_up(key, FindNode(key))
        assert len(whole.closest) == 20


async def test_lookups_at_once_share_few_connections(autojump_clock: MockClock) -> None:
    async with open_world(6, constant_latency(0.05)) as world:
        few = {"connections__target": 2, "connections__max_outbound": 4}
        nodes = await network(world, 40, dht__k=8, dht__replication=8, **few)
        # Until then those who joined last may not be known to all near them.
        await trio.sleep(REFRESH_FIRST[1])
        asker = nodes[9]
        outcomes: set[str] = set()

        async def look_up(number: int) -> None:
            key = Key.of(f"point {number}")
            route = await routes(asker).look_up(key, FindNode(key))
            outcomes.update(hop.outcome for hop in route.hops)
            found = [each for each in closest(world, key, 9) if each is not asker][:8]
            assert ids(route) == [each.node_id for each in found]

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(look_up, number)
        assert outcomes == {"answered"}


async def test_who_never_was_dialled_is_a_contact_where_it_announces_where_it_comes_from(
    autojump_clock: MockClock,
) -> None:
    async with open_world(7) as world:
        a = await world.start("a", lan=None, connections__target=0)
        open_one = ScriptedPeer(world, listens=True)
        behind_nat = ScriptedPeer(world, listens=True)
        behind_nat.network.host = "192.0.2.7"
        on_this_link = ScriptedPeer(world, listens=True)
        on_this_link.network.host = "fe80::7%1"
        for each in (open_one, behind_nat, on_this_link):
            await each.connect(a)
        await trio.sleep(1)
        contacts = {each.node_id: each.dialable for each in routes(a).table}
        assert contacts == {
            open_one.identity.node_id: False,
            on_this_link.identity.node_id: False,
        }


async def test_contacts_of_one_public_network_are_few(autojump_clock: MockClock) -> None:
    async with open_world(8) as world:
        a = await world.start("a", lan=None, connections__target=0)
        limited = await world.start(
            "b", lan=None, connections__target=0, dht__limit_local_networks=True
        )
        for network in ("9.9.9", "10.9.9"):
            for number in range(1, 10):
                host = f"{network}.{number}"
                near = await world.start(host, host=host, lan=None, connections__target=0)
                for each in (a, limited):
                    await each.node.connect(str(near.address))
        public = {
            node_id: [each.network for each in routes(node).table].count("9.9.9.0/24")
            for node, node_id in ((a, "a"), (limited, "b"))
        }
        assert min(public.values()) >= 2
        assert max(public.values()) < 9
        assert len(routes(a).table) >= 9 + public["a"]
        assert len(routes(limited).table) < 9 + public["b"]


async def test_who_never_was_dialled_is_probed_once_it_is_quiet(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else shall dial it.
    monkeypatch.setattr(RoutingTable, "to_refresh", lambda *_: [])
    monkeypatch.setattr(feelers, "FEELER_INTERVAL", 10 * REFRESH_AFTER)
    monkeypatch.setattr(surplus, "MIX_INTERVAL", 10 * REFRESH_AFTER)
    async with open_world(9) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)

        async def talk(line: Line) -> None:
            await line.serve(lambda _: None)

        await world._nursery.start(peer.listen, talk)
        line = await peer.connect(a)
        await trio.sleep(1)
        await line.stream.aclose()
        await trio.sleep(REFRESH_AFTER / 4)
        [contact] = routes(a).table
        # That its connection broke had it dialled.
        contact.dialable = False
        await trio.sleep(REFRESH_AFTER / 2)
        assert not contact.dialable
        await trio.sleep(REFRESH_AFTER)
        assert contact.dialable
        assert_unharmed(a)


@pytest.mark.parametrize("dialled", [False, True])
async def test_who_answers_nothing_in_an_outage_is_alive_once_it_is_heard_again(
    autojump_clock: MockClock, *, dialled: bool
) -> None:
    async with open_world(1, constant_latency(0.05)) as world:
        nodes = await network(world, 2)
        # Of these one dialled the other.
        one, other = nodes if dialled else nodes[::-1]
        connection = one.services.roster.connections[other.node_id]
        world.meanwhile(lambda: world.partition(0.5, seconds=5))
        await trio.sleep(0.1)
        for _ in range(2):
            routes(one).note_failure(other.node_id, RequestTimedOut("no answer"))
        assert routes(one).alive() == []
        await world.until(lambda: routes(one).alive() == [other.node_id], within=10)
        assert one.services.roster.connections[other.node_id] is connection
