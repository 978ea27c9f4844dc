"""Records for replicas that were late: who does not answer is left alone for a while."""

import pytest
import trio
from trio.testing import MockClock

from p2pd.core.records import Version, version_of
from p2pd.node.late_writes import AT_ONCE, LEFT_FOR, LateWrites
from p2pd.simulation.world import open_world
from p2pd.wire.identity import open_record
from p2pd.wire.messages import Failed, Message, Store, Stored
from tests.node.scripted import Line, ScriptedPeer
from tests.node.test_dht import record


def version(peer: ScriptedPeer, name: str) -> Version:
    signed = record(peer, name, b"v")
    return version_of(signed, open_record(signed))


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (Stored(), AT_ONCE + 1),
        (Failed("store_full", "no room for it"), AT_ONCE + 1),
        (None, 1),
    ],
    ids=["takes it", "refuses it", "is silent"],
)
async def test_who_does_not_answer_is_left_alone_for_a_while(
    autojump_clock: MockClock, answer: Message | None, heard: int
) -> None:
    """A refusal is an answer: the next record may suit the replica."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        stores: list[Store] = []

        def answers(question: Message) -> Message | None:
            if isinstance(question, Store):
                stores.append(question)
            return answer

        world.meanwhile(Line.serve, line, answers)
        late = LateWrites(a.services.requester, 1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.run)
            for number in range(AT_ONCE + 1):
                late.add(peer.identity.node_id, version(peer, f"k{number}"))
                await trio.sleep(2)
            assert len(stores) == heard
            await trio.sleep(LEFT_FOR)
            late.add(peer.identity.node_id, version(peer, "last"))
            await trio.sleep(2)
            assert len(stores) == heard + 1
            nursery.cancel_scope.cancel()


async def test_few_are_given_at_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world)
        line = await peer.connect(a)
        stores: list[Message] = []
        world.meanwhile(Line.serve, line, stores.append)
        late = LateWrites(a.services.requester, 60.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.run)
            for number in range(3 * AT_ONCE):
                late.add(peer.identity.node_id, version(peer, f"k{number}"))
            await trio.sleep(2)
            assert len([each for each in stores if isinstance(each, Store)]) == AT_ONCE
            nursery.cancel_scope.cancel()
