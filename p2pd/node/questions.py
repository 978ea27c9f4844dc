"""Questions of other nodes that take a while to answer: they wait, and the askers take turns."""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

import attrs
import trio

from p2pd.errors import Busy
from p2pd.ids import NodeId
from p2pd.node.dispatch import Call, Dispatch, failure
from p2pd.node.fair_channel import FairChannel
from p2pd.wire.messages import Message

Question = TypeVar("Question", bound=Message)
Answer = Callable[[Call, Question], Awaitable[Message]]

# How many answers at once may wait for askers that read too slowly, until they read on; further
# ones queue behind them.
MOST_ANSWERS_HELD = 4


@attrs.frozen
class _Asked(Generic[Question]):
    """A question that waits, and since when."""

    call: Call
    question: Question
    at: float = attrs.field(factory=trio.current_time)


class Questions(Generic[Question]):
    """A queue of questions; `take` is their handler, `answer_all` must be running.

    `most` may wait; beyond it, the asker with the most waiting is told `busy`, in the words of
    `refusal`. So is one that could be answered only more than `patience` seconds after it asked.
    """

    def __init__(
        self, dispatch: Dispatch, most: int, refusal: str, *, patience: float = math.inf
    ) -> None:
        self._dispatch = dispatch
        self._waiting: FairChannel[NodeId, _Asked[Question]] = FairChannel(most)
        self._refusal = refusal
        self._patience = patience

    def take(self, call: Call, question: Question) -> None:
        """Let a question wait for its turn."""
        for each in self._waiting.put(call.connection.node_id, _Asked(call, question)):
            self._refuse(each.call)

    async def answer_all(self, answer: Answer[Question]) -> None:
        """Answer one question after the other, until cancelled.

        A question whose connection has ended is passed over. One whose connection is full waits,
        but holds up only others of that kind. A `P2PError` from `answer` is told to the asker.
        """
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(MOST_ANSWERS_HELD)
            while True:
                asked = await self._waiting.receive()
                if asked.call.connection.is_full:
                    nursery.start_soon(self._answer_when_it_has_room, asked, answer, limit)
                else:
                    await self._answer(asked, answer)
                # A run of answers that never waited must not hold up everything else.
                await trio.lowlevel.checkpoint()

    async def _answer_when_it_has_room(
        self, asked: _Asked[Question], answer: Answer[Question], limit: trio.CapacityLimiter
    ) -> None:
        async with limit:
            await asked.call.connection.wait_for_room()
            await self._answer(asked, answer)

    async def _answer(self, asked: _Asked[Question], answer: Answer[Question]) -> None:
        call, question = asked.call, asked.question
        if call.connection.end_reason is not None:
            return
        if trio.current_time() - asked.at > self._patience:
            self._refuse(call)
            return
        await self._dispatch.answer_later(call, question, partial(answer, call, question))

    def _refuse(self, call: Call) -> None:
        call.answer(failure(Busy(self._refusal)))
