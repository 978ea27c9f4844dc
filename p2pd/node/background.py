"""Tasks that start with some event rather than with the node: all have one owner."""

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

Args = TypeVarTuple("Args")


class Background:
    """Starts tasks that end with the node at the latest; `run` must be running."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._tasks = 0
        self._last_ended = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks, until cancelled; what one of them raises ends all."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                await self._wait_for_the_last()
                self._nursery = None

    def start(self, work: Callable[[*Args], Awaitable[object]], *args: *Args) -> None:
        """Start a task; no effect once the node has ended, as has all that it would serve."""
        if self._nursery is not None:
            self._tasks += 1
            self._nursery.start_soon(self._work, work, *args)

    async def _work(self, work: Callable[[*Args], Awaitable[object]], *args: *Args) -> None:
        try:
            await work(*args)
        finally:
            self._tasks -= 1
            if self._tasks == 0:
                self._last_ended.set()

    async def _wait_for_the_last(self) -> None:
        """Wait until no task is left, those included that start while the others end.

        Somebody may wait for such a task to end; and a nursery takes none once its last has.
        """
        with trio.CancelScope(shield=True):
            while self._tasks:
                self._last_ended = trio.Event()
                await self._last_ended.wait()
