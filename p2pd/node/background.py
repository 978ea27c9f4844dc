"""Tasks that start with some event rather than with the node: all have one owner."""

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

Args = TypeVarTuple("Args")


class Background:
    """Starts tasks that end with the node at the latest; `run` must be running."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks, until cancelled; what one of them raises ends all."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            # Not earlier: a task that starts while the others end must end, too, as somebody
            # waits for it.
            self._nursery = None

    def start(self, work: Callable[[*Args], Awaitable[object]], *args: *Args) -> None:
        """Start a task; no effect once the node has ended, as has all that it would serve."""
        if self._nursery is not None:
            self._nursery.start_soon(work, *args)
