"""A dedicated thread for the store's blocking calls, at less than half of `trio.to_thread`'s cost.

`trio.to_thread` finds a thread, copies the context and makes two tokens for each call. This
thread waits at a queue, and wakes the loop once when it has a result.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, TypeVarTuple

import attrs
import trio

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@attrs.define(eq=False)
class _Job(Generic[T]):
    """A call, the task that waits for it, and what came of it: `result`, or else `error`.

    Nobody waits for one that was abandoned.
    """

    call: Callable[[], T]
    waits: trio.lowlevel.Task | None = attrs.field(factory=trio.lowlevel.current_task)
    result: T | None = None
    error: BaseException | None = None


class Worker:
    """Does one thing after the other in its thread; make one with `open_worker`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()

    @property
    def waiting(self) -> int:
        """How many calls have not begun yet, those abandoned included."""
        return self._jobs.qsize()

    async def run(
        self,
        call: Callable[[*Arguments], T],
        *arguments: *Arguments,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Make a call in the thread; returns and raises what it does.

        It runs to its end, and is waited for, however this is cancelled; but with
        `abandon_on_cancel` it is not waited for any more then, nor made if it has not begun.
        """
        job = _Job(lambda: call(*arguments))

        def abort(_: object) -> trio.lowlevel.Abort:
            if not abandon_on_cancel:
                return trio.lowlevel.Abort.FAILED
            job.waits = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value] # without an error there is a result

    def work(self) -> None:
        """Work until `end`; in the thread."""
        while (job := self._jobs.get()) is not None:
            if job.waits is None:
                continue
            try:
                job.result = job.call()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                job.error = error
            self._token.run_sync_soon(_wake, job)

    def end(self) -> None:
        """Let the thread end after what it was given until now."""
        self._jobs.put(None)


def _wake(job: _Job[Any]) -> None:
    # It may have been abandoned on the way here.
    if job.waits is not None:
        trio.lowlevel.reschedule(job.waits)


@contextmanager
def open_worker(name: str) -> Iterator[Worker]:
    """Have a worker within the `with`; its thread ends with it.

    By then nobody may be waiting for a call. One under way that was abandoned is waited for all the
    same, and this holds up the loop: what it works on is closed next.
    """
    worker = Worker()
    # If the loop itself breaks, nobody ends the thread, but the process must end all the same.
    thread = threading.Thread(target=worker.work, name=name, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.end()
        thread.join()
