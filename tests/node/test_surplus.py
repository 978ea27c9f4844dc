"""Connections beyond the target: given up in agreement, so that nobody has to dial."""

from contextlib import suppress
from statistics import fmean

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core.entries import Entry, Source
from p2pd.core.missing import GRAFT_AFTER
from p2pd.ids import NodeId
from p2pd.node.connection import FAREWELL
from p2pd.node.shortage import WELCOME
from p2pd.node.surplus import LEAST_PAUSE, MANY, MIX_INTERVAL
from p2pd.simulation import measure
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import Echo, Message, Pong, Release, Released
from p2pd.wire.session import Received
from tests.node.scripted import HungUp, Line, ScriptedPeer, connected

TARGET = 3


async def start_fifteen(world: World) -> None:
    first = await world.start("n0", lan=None, connections__target=TARGET)
    await world.start_many(
        14, per_second=2, lan=None, bootstrap=[first], connections__target=TARGET
    )


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_too_many_goes_and_the_rest_is_mixed(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        await start_fifteen(world)

        def held() -> dict[NodeId, set[NodeId]]:
            return {
                node.node_id: {each.node_id for each in node.services.roster.lasting()}
                for node in world.living()
            }

        def enough_and_no_more() -> bool:
            counts = [len(peers) for peers in held().values()]
            return min(counts) >= TARGET and fmean(counts) < TARGET + 1.5

        await world.until(enough_and_no_more, within=1800)
        before = held()
        # It is mixed for ever, and stays as it should be.
        for _ in range(15):
            await trio.sleep(100)
            assert min(map(len, held().values())) >= TARGET
        assert enough_and_no_more()
        after = held()
        stayed = sum(len(before[each] & after[each]) for each in after)
        assert 0 < stayed < sum(map(len, before.values()))


@pytest.mark.parametrize("seed", range(2))
async def test_what_goes_never_tears_the_tree_of_messages(
    autojump_clock: MockClock, seed: int
) -> None:
    """No message ever waits until somebody asks for it, though the network is mixed meanwhile."""
    async with open_world(seed) as world:
        await start_fifteen(world)
        await trio.sleep(60)
        spread = await measure.publish(world, 100, warm_up=20, wait=10)
        assert spread.delivered == spread.expected
        assert max(spread.seconds) < GRAFT_AFTER


async def test_who_has_not_enough_keeps_what_it_has(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=2)
        lines = [
            await ScriptedPeer(world, host=f"10.9.{number}.1").connect(node)
            for number in range(2 + 1)
        ]
        assert await lines[0].ask(Release(many=False)) == Released(agreed=True)
        # One of them may go; the next one to ask may not.
        assert await lines[1].ask(Release(many=False)) == Released(agreed=False)
        assert len(connected(node)) == 2 + 1


def agree(question: Message) -> Released | None:
    return Released(agreed=True) if isinstance(question, Release) else None


async def agreeable(line: Line) -> None:
    await line.serve(agree)


async def test_whom_a_user_asked_for_stays(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        for number in range(3):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            await world._nursery.start(peer.listen, agreeable)
            await a.node.connect(str(peer.address))
        await trio.sleep(300)
        assert len(connected(a)) == 3


async def test_who_came_by_itself_is_given_up(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        for number in range(3):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1", listens=True)
            world.meanwhile(agreeable, await peer.connect(a))
        assert len(connected(a)) == 3
        await trio.sleep(300)
        assert len(connected(a)) == 1


async def test_who_has_far_too_many_is_replaced_by_another(autojump_clock: MockClock) -> None:
    """Each of its peers needs its connection; it asks them, and they find each other."""
    target = 3
    async with open_world(1) as world:
        hub = await world.start("hub", lan=None, connections__target=target)
        others = await world.start_many(
            20, per_second=10, lan=None, bootstrap=[hub], connections__target=target
        )
        assert len(connected(hub)) > MANY * target
        # The tree of messages settles as a star.
        for each in others:
            await each.node.publish("t", b"x")
        await trio.sleep(WELCOME + 5)
        for _ in range(60):
            await trio.sleep(1)
            assert min(len(connected(each)) for each in others) >= target
        assert len(connected(hub)) <= MANY * target


async def test_a_question_in_passing_makes_nobody_find_a_replacement(
    autojump_clock: MockClock,
) -> None:
    """Else each would leave one lasting connection more."""
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=1)
        kept = ScriptedPeer(world, host="10.9.0.1")
        world.meanwhile(agreeable, await kept.connect(node))
        hosts = [f"10.8.{number}.1" for number in range(5)]
        for host in hosts:
            peer = ScriptedPeer(world, host=host, listens=True)
            await world._nursery.start(peer.listen, agreeable)
            once = await peer.connect(node, passing=True)
            await once.stream.aclose()
        # What was lost may be dialled again.
        await trio.sleep(60)
        assert connected(node) == {kept.identity.node_id.hex()}
        line = await ScriptedPeer(world, host="10.9.1.1").connect(node, passing=True)
        for _ in range(5):
            assert await line.ask(Release(many=True)) == Released(agreed=False)
            await trio.sleep(1)
        assert [each.node_id for each in node.services.roster.lasting()] == [kept.identity.node_id]


async def one_that_wants_one(world: World) -> tuple[SimNode, ScriptedPeer, ScriptedPeer]:
    """Start a node that is to have one connection, and give it two peers to choose from."""
    node = await world.start("a", lan=None, connections__target=1)
    return (
        node,
        ScriptedPeer(world, host="10.9.0.1", listens=True),
        ScriptedPeer(world, host="10.9.1.1", listens=True),
    )


async def show_life(line: Line) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await line.send(Pong())
            await trio.sleep(1)


@pytest.mark.parametrize("seed", range(4))
async def test_whom_a_user_asks_for_while_another_one_is_dialled_in_its_place_stays(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        node, peer, other = await one_that_wants_one(world)
        for each in (peer, other):
            await world._nursery.start(each.listen, agreeable)
        asker = await peer.connect(node)
        world.meanwhile(show_life, asker)
        await (await other.connect(node)).stream.aclose()
        # Nobody dials it for a question any more.
        await trio.sleep(60)
        registry, other_id = node.services.registry, other.identity.node_id
        entry = registry.get(other_id)
        assert entry is not None
        # It was dialled just before, perhaps.
        await world.until(
            lambda: (
                entry in registry.candidates(trio.current_time())
                and other_id.hex() not in connected(node)
            ),
            within=60,
        )
        # To dial it takes a moment.
        world.conditions.unreachable.add("203.0.113.1")
        entry.addresses.insert(0, Address("203.0.113.1", 41000))
        assert await asker.ask(Release(many=True)) == Released(agreed=False)
        world.meanwhile(agreeable, asker)
        await node.node.connect(str(peer.address))
        # It is one too many then, and may go soon.
        await world.until(lambda: other_id.hex() in connected(node), within=LEAST_PAUSE)
        await trio.sleep(LEAST_PAUSE)
        assert peer.identity.node_id.hex() in connected(node)


@pytest.mark.parametrize("seed", range(4))
async def test_whom_a_user_asks_for_while_its_peer_agrees_to_part_stays(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        node, peer, other = await one_that_wants_one(world)
        asked, answered = trio.Event(), trio.Event()

        async def hesitate(line: Line) -> None:
            """Agree to part once the user has asked."""
            with suppress(HungUp):
                while True:
                    event = await line.next()
                    if isinstance(event, Received) and isinstance(event.message, Release):
                        assert event.request_id is not None
                        # Until then it may be dialled for a question.
                        agreed = trio.current_time() > 60
                        if agreed:
                            asked.set()
                            await answered.wait()
                        reply = line.session.reply(event.request_id, Released(agreed))
                        await line.stream.send_all(reply)

        await world._nursery.start(peer.listen, show_life)
        world.meanwhile(show_life, await other.connect(node))
        entry = node.services.registry.get(other.identity.node_id)
        assert entry is not None
        # This one is not to go.
        entry.source = Source.MANUAL
        line = await peer.connect(node)
        world.meanwhile(show_life, line)
        world.meanwhile(hesitate, line)
        await asked.wait()
        await node.node.connect(str(peer.address))
        answered.set()
        await trio.sleep(FAREWELL + 1)
        assert peer.identity.node_id in {each.node_id for each in node.services.roster.lasting()}


@pytest.mark.parametrize(("many", "is_dead"), [(True, False), (True, True), (False, False)])
async def test_another_one_that_lives_is_dialled_in_the_place_of_who_has_far_too_many(
    autojump_clock: MockClock, *, many: bool, is_dead: bool
) -> None:
    async with open_world(1) as world:
        node, peer, other = await one_that_wants_one(world)
        await world._nursery.start(other.listen, agreeable)
        asker = await peer.connect(node)
        world.meanwhile(show_life, asker)
        await (await other.connect(node)).stream.aclose()
        # Nobody dials it for a question any more.
        await trio.sleep(60)
        if is_dead:
            node.services.registry.died(other.identity.node_id)
        assert connected(node) == {peer.identity.node_id.hex()}
        assert await asker.ask(Release(many)) == Released(agreed=False)
        await trio.sleep(LEAST_PAUSE)
        assert (other.identity.node_id.hex() in connected(node)) is (many and not is_dead)


async def refuse(line: Line) -> None:
    await line.serve(lambda _: Released(agreed=False))


async def test_who_is_filled_with_connections_of_others_keeps_what_it_chose_itself(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        chosen = await world.start("chosen", lan=None, connections__target=0)
        world.meanwhile(refuse, await ScriptedPeer(world, host="10.9.0.1").connect(chosen))
        node = await world.start("a", lan=None, bootstrap=[chosen], connections__target=2)
        await world.until(lambda: node.is_connected_to(chosen), within=5)
        for number in range(1, 4):
            peer = ScriptedPeer(world, host=f"10.9.{number}.1")
            world.meanwhile(refuse, await peer.connect(node))
        # It has more than it wants, and so has the one that it chose, which asks.
        await trio.sleep(300)
        assert node.is_connected_to(chosen)


async def test_who_asks_a_peer_to_give_one_up_agrees_with_no_other_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=1)
        lines = [
            await ScriptedPeer(world, host=f"10.9.{number}.1").connect(node) for number in range(2)
        ]
        not_asked: list[Line] = []

        async def wait_to_be_asked(line: Line, other: Line) -> None:
            await line.expect(Release)
            not_asked.append(other)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_to_be_asked, lines[0], lines[1])
            nursery.start_soon(wait_to_be_asked, lines[1], lines[0])
            await world.until(lambda: bool(not_asked), within=2 * LEAST_PAUSE)
            nursery.cancel_scope.cancel()
        assert await not_asked[0].ask(Release(many=False)) == Released(agreed=False)


async def test_a_question_on_a_connection_that_another_one_replaced_gives_up_neither(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=1)
        await ScriptedPeer(world, host="10.9.1.1").connect(node)
        peer = ScriptedPeer(world)
        old, new = [await peer.connect(node) for _ in range(2)]
        assert await old.ask(Release(many=True)) == Released(agreed=False)
        assert await new.ask(Release(many=True)) == Released(agreed=True)


async def test_who_asks_for_a_replacement_all_the_time_gets_few_tries(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=1)
        line = await ScriptedPeer(world).connect(node)
        tries = 0
        candidates = node.services.roster.registry.candidates

        def count(now: float) -> list[Entry]:
            nonlocal tries
            tries += 1
            return candidates(now)

        monkeypatch.setattr(node.services.roster.registry, "candidates", count)
        for _ in range(100):
            assert await line.ask(Release(many=True)) == Released(agreed=False)
            await trio.sleep(0.05)
        assert 1 <= tries <= 1 + 100 * 0.1 / LEAST_PAUSE


async def agree_and_read_no_more(line: Line, world: World) -> None:
    """Agree to a release, where much waits to be read."""
    while True:
        event = await line.next()
        if isinstance(event, Received) and event.request_id is not None:
            if isinstance(event.message, Release):
                break
            await line.stream.send_all(line.session.reply(event.request_id, Pong()))
    question = Echo(world.rng.randbytes(200_000))
    for _ in range(4):
        await line.stream.send_all(line.session.request(question)[1])
    await line.stream.send_all(line.session.reply(event.request_id, Released(agreed=True)))
    await show_life(line)


async def test_who_agrees_and_then_reads_nothing_is_gone_soon_and_counts_no_more(
    autojump_clock: MockClock,
) -> None:
    """Else another one would be given up each time that the first is still there."""
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=1)
        for number in range(2):
            line = await ScriptedPeer(world, host=f"10.9.{number}.1").connect(node)
            world.meanwhile(agree_and_read_no_more, line, world)
        roster = node.services.roster
        await world.until(lambda: len(roster.lasting()) == 1, within=300)
        assert len(roster.connections) == 2
        await world.until(lambda: len(roster.connections) == 1, within=FAREWELL + 1)
        await trio.sleep(60)
        assert len(roster.lasting()) == 1


async def test_who_wants_no_connections_makes_none_to_be_mixed(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=0)
        other = ScriptedPeer(world, host="10.9.0.1", listens=True)
        await world._nursery.start(other.listen, agreeable)
        await (await other.connect(node)).stream.aclose()
        for _ in range(10):
            await trio.sleep(MIX_INTERVAL / 3)
            assert not node.services.roster.lasting()
        # Nor in the place of another one.
        asker = await ScriptedPeer(world, host="10.9.0.2").connect(node)
        assert await asker.ask(Release(many=True)) == Released(agreed=False)
        await trio.sleep(LEAST_PAUSE)
        assert len(node.services.roster.lasting()) == 1
