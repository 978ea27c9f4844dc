"""The thread of the store: one for all calls, in their order, each to its end if it must."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from p2pd.store.worker import open_worker


async def test_all_calls_are_made_in_one_thread_that_ends_with_it() -> None:
    with open_worker("w") as worker:
        threads = {await worker.run(threading.current_thread) for _ in range(3)}
        [thread] = threads
        assert thread is not threading.current_thread()
        assert thread.is_alive()
    assert not thread.is_alive()


async def test_it_returns_and_raises_what_the_call_does() -> None:
    with open_worker("w") as worker:
        assert await worker.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await worker.run(divmod, 7, 0)
        assert await worker.run(divmod, 7, 3) == (2, 1)


async def test_a_call_that_is_cancelled_runs_to_its_end_and_is_waited_for() -> None:
    made: list[int] = []

    def waiting(for_what: threading.Event, number: int) -> Callable[[], None]:
        def call() -> None:
            for_what.wait()
            made.append(number)

        return call

    go_on = threading.Event()
    with open_worker("w") as worker:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(worker.run, waiting(go_on, number))
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()
            assert not made
            go_on.set()
        assert made == [0, 1, 2]


async def test_a_call_that_may_be_abandoned_is_not_waited_for() -> None:
    made: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait()

    with open_worker("w") as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(worker.run, hang, abandon_on_cancel=True))
            await trio.to_thread.run_sync(began.wait)
            nursery.start_soon(partial(worker.run, made.append, "x", abandon_on_cancel=True))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        waiting = worker.waiting
        go_on.set()
        assert waiting == 1
        assert await worker.run(divmod, 7, 2) == (3, 1)
    # What nobody waited for any more when its turn came was left out.
    assert not made


def test_a_loop_that_broke_does_not_keep_the_process() -> None:
    """Where nothing is unwound, nobody ends the thread."""
    command = [sys.executable, "-c", _BREAKS]
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True)
    assert b"it broke" in ended.stdout


_BREAKS = """
import trio
from p2pd.store.worker import open_worker

kept = []

async def waiting():
    with open_worker("w"):
        await trio.sleep_forever()

# As a loop that breaks leaves it: begun, never unwound, and still referred to.
async def main():
    coroutine = waiting()
    kept.append(coroutine)
    coroutine.send(None)

try:
    trio.run(main)
finally:
    print("it broke", flush=True)
"""
