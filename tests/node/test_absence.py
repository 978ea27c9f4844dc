"""Whether a node that answered nothing is away, or an outage is over."""

import trio
from trio.testing import MockClock

from p2pd.ids import NodeId
from p2pd.node.absence import Absence
from p2pd.simulation.world import open_world
from tests.node.test_dht import network


async def test_an_outage_is_over_for_who_was_heard_since_until_it_answers_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await network(world, 2)
        # Not its own, which hears of answers to its own questions.
        absence = Absence(a.services.routes._env, a.services.roster)
        assert not absence.is_over(b.node_id)
        absence.failed(b.node_id)
        assert not absence.is_over(b.node_id)
        await trio.sleep(10)
        # However often it fails meanwhile: it is heard, and answers nothing.
        absence.failed(b.node_id)
        assert absence.is_over(b.node_id)
        absence.answered(b.node_id)
        assert not absence.is_over(b.node_id)


async def test_who_should_answer_is_heard_and_neither_excused_nor_gone_nor_dead(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, c, d = await network(world, 4)
        absence = Absence(a.services.routes._env, a.services.roster)

        def missing(*excused: NodeId) -> set[NodeId | None]:
            return {each.node_id for each in absence.missing(excused, joined=True)}

        for each in (b, c, d):
            absence.note_contact(each.node_id)
        assert missing() == {b.node_id, c.node_id, d.node_id}
        assert missing(b.node_id) == {c.node_id, d.node_id}
        # It dialled us while we dialled where it was before.
        absence.stopped(c.node_id)
        assert missing() == {b.node_id, c.node_id, d.node_id}
        await world.crash(c)
        await world.crash(d)
        alive = a.services.liveness.of
        await world.until(lambda: alive(c.node_id) == alive(d.node_id) == "dead", within=5)
        assert missing() == {b.node_id}
        absence.failed(b.node_id)
        await trio.sleep(10)
        # It is heard, and answers nothing.
        assert missing() == set()
