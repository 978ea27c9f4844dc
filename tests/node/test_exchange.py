"""What nodes tell each other of third ones, and what survives a restart."""

import itertools

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.ids import NodeId
from p2pd.net.faults import constant_latency
from p2pd.node import exchange, liveness
from p2pd.node.registry_store import SAVE_INTERVAL
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.store.base import Change, Table
from p2pd.wire.identity import open_peer_record, work
from p2pd.wire.messages import Announce, GetPeers, Message, Peers, Publication, Signed
from tests.node.scripted import (
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    make_record,
    stranger,
)


def addresses_of(node: SimNode) -> set[str]:
    return {each.address for each in node.node.peers() if each.address}


async def tell(world: World, node: SimNode, *records: Signed, host: str = "10.9.0.1") -> Line:
    """Connect to a node as a peer that answers its question for peers with these records."""
    line = await ScriptedPeer(world, host=host).connect(node)
    world._nursery.start_soon(line.serve, lambda _: Peers(records))
    await trio.sleep(1)
    return line


async def test_only_what_its_owner_signed_is_passed_on(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        known = ScriptedPeer(world, host="10.9.0.2", listens=True)
        await known.connect(a)
        hearsay = make_record(stranger(world.rng), Address("10.9.0.3", 1))
        forged = Signed(known.record(sequence=1 << 60).body, bytes(64))
        await tell(world, a, hearsay, forged)
        answer = await (await ScriptedPeer(world, host="10.9.0.4").connect(a)).ask(GetPeers(64))
        assert isinstance(answer, Peers)
        names = {open_peer_record(each).public_key for each in answer.records}
        assert known.identity.public_key in names
        assert open_peer_record(hearsay).public_key not in names
        assert forged not in answer.records


async def test_an_answer_is_no_longer_than_was_asked_for_nor_than_is_given(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        lines = [
            await ScriptedPeer(world, host=f"10.9.0.{number}").connect(a)
            for number in range(1, exchange.PEERS_PER_ANSWER + 3)
        ]

        async def told(limit: int) -> int:
            answer = await lines[0].ask(GetPeers(limit))
            assert isinstance(answer, Peers)
            return len(answer.records)

        assert await told(3) == 3
        assert await told(64) == exchange.PEERS_PER_ANSWER


async def test_only_a_node_with_few_records_asks_and_not_in_passing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "ENOUGH_PEERS", 3)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)

        async def is_asked(number: int, *, passing: bool) -> bool:
            line = await ScriptedPeer(world, host=f"10.9.0.{number}").connect(a, passing=passing)
            with trio.move_on_after(1):
                await line.expect(GetPeers)
                return True
            return False

        asked = [await is_asked(number, passing=number == 1) for number in range(1, 5)]
        assert asked == [False, True, False, False]


async def test_of_an_answer_no_more_is_taken_than_was_asked_for(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        many = [
            make_record(stranger(world.rng), Address(f"10.8.{number}.1", 1)) for number in range(30)
        ]
        await tell(world, a, *many)
        assert len(a.services.registry) == 1 + exchange.PEERS_PER_ANSWER


async def test_a_record_is_dialled_and_proven(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None)
        await tell(world, a, b.services.own.signed)
        await world.until(lambda: a.is_connected_to(b), within=1)
        found = next(each for each in a.node.peers() if each.node_id == b.node_id.hex())
        assert found.source == "exchange"


async def test_loopback_addresses_from_elsewhere_are_not_dialled(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        record = make_record(
            stranger(world.rng),
            *[Address(host, 41000) for host in ("127.0.0.1", "::1", "0.0.0.0", "239.1.1.1")],
            Address("10.9.0.7", 41000),
        )
        await tell(world, a, record)
        assert "10.9.0.7:41000" in addresses_of(a)
        entry = next(
            each for each in a.services.registry if Address("10.9.0.7", 41000) in each.addresses
        )
        assert entry.addresses == [Address("10.9.0.7", 41000)]


async def test_a_record_with_too_little_work_is_nobody(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, identity__difficulty=8)
        teller = ScriptedPeer(world, identity=stranger(world.rng, 8))
        cheap = make_record(stranger(world.rng), Address("10.9.0.7", 1), nonce=0)
        dear = make_record(stranger(world.rng, 8), Address("10.9.0.8", 1))
        line = await teller.connect(a)
        world._nursery.start_soon(line.serve, lambda _: Peers((cheap, dear)))
        await trio.sleep(1)
        assert "10.9.0.8:1" in addresses_of(a)
        assert "10.9.0.7:1" not in addresses_of(a)


async def test_who_is_connected_can_announce_no_record_with_too_little_work(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, identity__difficulty=8)
        identity = stranger(world.rng, 8)
        line = await ScriptedPeer(world, identity=identity, listens=True).connect(a)
        nonce = next(each for each in range(100) if not work(identity.public_key, each))
        await line.send(Announce(make_record(identity, Address("10.9.0.99", 41000), nonce=nonce)))
        await trio.sleep(1)
        assert a.node.peers()[0].address == "10.9.0.1:41000"
        assert a.services.roster.connections[identity.node_id].peer.record.nonce == identity.nonce


async def test_an_announcement_moves_a_peer(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world, listens=True)
        line = await peer.connect(a)
        await trio.sleep(1)
        moved = make_record(peer.identity, Address("10.9.0.99", 41000))
        await line.send(Announce(moved))
        await trio.sleep(0.1)
        assert a.node.peers()[0].address == "10.9.0.99:41000"
        old = make_record(peer.identity, Address("10.9.0.98", 1), sequence=1)
        await line.send(Announce(old))
        await trio.sleep(0.1)
        assert a.node.peers()[0].address == "10.9.0.99:41000"
        [connection] = a.services.roster.lasting()
        assert connection.peer.signed_record == moved


async def test_an_announcement_of_somebody_else_is_passed_over(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        await line.send(Announce(make_record(stranger(world.rng), Address("10.9.0.7", 1))))
        await trio.sleep(1)
        assert "10.9.0.7:1" not in addresses_of(a)


async def test_a_mute_peer_does_not_hold_up_the_exchange(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        for number in range(10):
            line = await ScriptedPeer(world, host=f"10.9.{number}.1").connect(a)
            world._nursery.start_soon(line.serve, lambda _: None)
        record = make_record(stranger(world.rng), Address("10.9.0.7", 1))
        await tell(world, a, record, host="10.9.0.200")
        assert "10.9.0.7:1" in addresses_of(a)


@pytest.mark.parametrize("new", [False, True])
async def test_others_are_asked_often_only_while_that_brings_records(
    autojump_clock: MockClock, *, new: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        asked: list[float] = []

        def answer(message: Message) -> Message | None:
            if not isinstance(message, GetPeers):
                return None
            asked.append(trio.current_time())
            fresh = make_record(stranger(world.rng), Address(f"10.8.{len(asked)}.1", 1))
            return Peers((fresh,) if new else ())

        line = await ScriptedPeer(world).connect(a)
        world._nursery.start_soon(line.serve, answer)
        await trio.sleep(10 * 1.25 * exchange.EXCHANGE_INTERVAL)
        if new:
            assert len(asked) >= 10
        else:
            # At once, and about one, three and seven minutes later.
            assert 3 <= len(asked) <= 5


async def test_without_news_the_pause_between_questions_doubles_up_to_the_longest(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        asked: list[float] = []

        def answer(message: Message) -> Message | None:
            if isinstance(message, GetPeers):
                asked.append(trio.current_time())
            return Peers(())

        line = await ScriptedPeer(world).connect(a)
        world._nursery.start_soon(line.serve, answer)
        await trio.sleep(6 * exchange.MOST_EXCHANGE_INTERVAL)
        pauses = [after - before for before, after in itertools.pairwise(asked)]
        # Each is a quarter more or less. Until the second one, the peer's own record is news.
        for pause, middle in zip(pauses, (60, 60, 120, 240, 480, 600, 600, 600), strict=False):
            assert 0.74 * middle < pause < 1.26 * middle


@pytest.mark.parametrize(("lan", "many", "told"), [("l", 128, 1), ("l", 1, 0), (None, 128, 0)])
async def test_a_newcomer_introduces_itself_to_few_on_a_lan(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    lan: str | None,
    many: int,
    told: int,
) -> None:
    monkeypatch.setattr(liveness, "INTRODUCE_TO", many)
    async with open_world(1) as world:
        others = [await world.start(f"n{n}", lan=lan) for n in range(3)]
        await trio.sleep(30)
        newcomer = await world.start("a", lan=lan, bootstrap=others)
        words: list[NodeId] = []
        heard = others[0].services.gossip._system[liveness.ALIVE_TOPIC]

        def hear(origin: NodeId, publication: Publication) -> None:
            words.append(origin)
            heard(origin, publication)

        monkeypatch.setitem(others[0].services.gossip._system, liveness.ALIVE_TOPIC, hear)
        await trio.sleep(2 * liveness.INTRODUCE_AFTER)
        assert words.count(newcomer.node_id) == told


async def test_who_is_only_heard_on_a_lan_has_a_name_soon(autojump_clock: MockClock) -> None:
    """A beacon tells no name, and neighbours tell of those only that they were connected to."""
    async with open_world(0) as world:
        nodes = []
        for number in range(30):
            nodes.append(await world.start(f"n{number}"))
            await trio.sleep(0.3)
        names = {each.name for each in nodes}

        def nameless() -> int:
            return sum(
                len(names - {each.name, *(other.name for other in each.node.peers())})
                for each in nodes
            )

        assert nameless() > 0
        await world.until(lambda: nameless() == 0, within=30)


async def test_known_peers_are_redialled_after_a_restart(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None)
        await b.node.connect(str(a.address))
        await world.stop(b)
        await trio.sleep(100)
        await world.start("b")
        await world.until(lambda: b.is_connected_to(a), within=2)
        back = b.node.peers()[0]
        assert (back.name, back.success_count, back.source) == ("a", 2, "manual")


async def test_known_peers_are_redialled_after_a_crash(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None)
        await b.node.connect(str(a.address))
        await trio.sleep(SAVE_INTERVAL + 1)
        await world.crash(b)
        await world.start("b")
        await world.until(lambda: b.is_connected_to(a), within=2)


async def test_unreadable_rows_are_left_out_and_told(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None)
        await b.node.connect(str(a.address))
        await world.stop(b)
        rubbish = {bytes(32): b"rubbish", b"short": b"", bytes(31) + b"x": b"\x9a"}
        await b.store.apply([Change(Table.PEERS, *each) for each in rubbish.items()])
        await world.start("b")
        told = [each.message for each in b.events if each.code == "registry.unreadable"]
        assert len(told) == 1
        assert told[0].startswith("3 saved peers")
        await world.until(lambda: b.is_connected_to(a), within=2)


@pytest.mark.parametrize("times", [30])
async def test_a_peer_that_moves_often_is_remembered(autojump_clock: MockClock, times: int) -> None:
    """Its old addresses are given up in the end, and its row stays readable."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        for number in range(times):
            record = make_record(
                peer.identity, *[Address(f"10.9.{number}.{each}", 41000) for each in range(5)]
            )
            line = await peer.connect(a, record=record)
            await line.stream.aclose()
            await world.until(lambda: not connected(a), within=1)
        entry = next(iter(a.services.registry))
        assert len(entry.addresses) == 8
        assert Address(f"10.9.{times - 1}.0", 41000) in entry.addresses[:5]
        await world.stop(a)
        await world.start("a")
        assert "registry.unreadable" not in a.codes()
        assert [each.node_id for each in a.node.peers()] == [peer.identity.node_id.hex()]
        assert_unharmed(a)


async def test_who_finds_a_node_full_meets_others_who_did(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        full = await world.start("full", lan=None, connections__max_inbound=0)
        first = await world.start("first", lan=None, bootstrap=[full])
        await world.until(lambda: "peer.refused" in full.codes(), within=5)
        second = await world.start("second", lan=None, bootstrap=[full])
        await world.until(lambda: second.is_connected_to(first), within=10)
        assert not full.services.roster.connections


@pytest.mark.parametrize("after", [0.2, 0.45, 5.0])
async def test_a_record_that_changes_in_a_handshake_arrives(
    autojump_clock: MockClock, after: float
) -> None:
    async with open_world(1, constant_latency(0.1)) as world:
        a, b = [await world.start(name, lan=None, connections__target=0) for name in "ab"]
        [interface] = b.network.interfaces()
        b.network.set_interfaces()
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.node.connect, str(a.address))
            await trio.sleep(after)
            b.network.set_interfaces(interface)
        await trio.sleep(30)
        assert a.is_connected_to(b)
        entry = a.services.registry.get(b.node_id)
        assert entry is not None
        assert entry.signed == b.services.own.signed


async def test_a_node_joins_by_a_peer_that_has_an_address_only_later(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, connections__target=0)
        [interface] = b.network.interfaces()
        b.network.set_interfaces()
        await trio.sleep(5)
        await b.node.connect(str(a.address))
        await trio.sleep(1)
        b.network.set_interfaces(interface)
        await trio.sleep(10)
        began = trio.current_time()
        assert (await a.node.put("k", b"v")).stored == 2
        assert trio.current_time() - began < 1
