"""Questions that wait for their turn, and for whoever asked to read on."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import Busy
from p2pd.ids import NodeId
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.events import Events
from p2pd.node.questions import Questions
from p2pd.wire.messages import Echo, Echoed, Failed, Message

PATIENCE = 5.0


class SlowReader:
    """A connection whose peer does not read until `room` is set."""

    node_id = NodeId(bytes(32))
    remote = Address("10.9.0.1", 1)
    end_reason: str | None = None

    def __init__(self) -> None:
        self.room = trio.Event()
        self.replies: list[Message] = []

    @property
    def is_full(self) -> bool:
        """See `Caller`."""
        return not self.room.is_set()

    async def wait_for_room(self) -> None:
        """See `Caller`."""
        await self.room.wait()

    def reply(self, request_id: int, message: Message) -> None:
        """See `Caller`."""
        self.replies.append(message)

    def abort(self, reason: str) -> None:
        """See `Caller`."""
        raise AssertionError(reason)


@pytest.mark.parametrize("in_time", [True, False])
async def test_who_reads_on_only_when_nobody_waits_for_the_answer_gets_none(
    autojump_clock: MockClock, in_time: bool
) -> None:
    dispatch, asker = Dispatch(Events(trio.current_time)), SlowReader()
    questions: Questions[Echo] = Questions(dispatch, 10, "too many", patience=PATIENCE)

    async def answer(_: Call, question: Echo) -> Message:
        return Echoed(question.data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(questions.answer_all, answer))
        questions.take(Call(asker, 1), Echo(b"x"))
        await trio.sleep(PATIENCE + (-1 if in_time else 1))
        assert not asker.replies
        asker.room.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    refused = Failed(Busy.code, "too many")
    assert asker.replies == [Echoed(b"x") if in_time else refused]
