"""Dials that other nodes ask for: few at once, and within a budget."""

from collections.abc import Awaitable, Callable

import trio

from p2pd.core.budget import Budget, Budgets
from p2pd.errors import Busy
from p2pd.ids import NodeId
from p2pd.node.background import Background
from p2pd.node.dispatch import Call, Dispatch
from p2pd.wire.messages import Message

# One asker gets at most this share of the dials: who asks without end leaves the rest to others.
SHARE_OF_ONE = 0.5
# Askers whose share is remembered; beyond it, the one that asked longest ago starts anew.
MAX_ASKERS = 1024


class DialsForOthers:
    """Answers questions that take a dial, each in a task of its own.

    `most` questions at once; dials: `burst`, then `per_second`. For all that ask together; one of
    them gets no more than `SHARE_OF_ONE`.
    """

    def __init__(
        self,
        background: Background,
        dispatch: Dispatch,
        *,
        most: int,
        burst: int,
        per_second: float,
    ) -> None:
        self._background = background
        self._dispatch = dispatch
        self._most = most
        self._budget = Budget(burst, per_second)
        self._shares = Budgets[NodeId](MAX_ASKERS, SHARE_OF_ONE * burst, SHARE_OF_ONE * per_second)
        self._under_way = 0

    def start(
        self,
        call: Call,
        question: Message,
        answer: Callable[[], Awaitable[Message]],
        *,
        dials: int = 1,
    ) -> None:
        """Answer a question soon by what `answer` returns, after up to so many dials.

        Raises `Busy` where too many are asked for.
        """
        asker, now = call.connection.node_id, trio.current_time()
        if (
            self._under_way >= self._most
            or not self._shares.spend(asker, dials, now)
            or not self._budget.spend(dials, now)
        ):
            raise Busy("too many dials for others are asked for; try again")
        self._under_way += 1
        self._background.start(self._answer, call, question, answer)

    async def _answer(
        self, call: Call, question: Message, answer: Callable[[], Awaitable[Message]]
    ) -> None:
        try:
            await self._dispatch.answer_later(call, question, answer)
        finally:
            self._under_way -= 1
