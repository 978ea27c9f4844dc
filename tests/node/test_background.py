"""Tasks that start with an event, and end with the node."""

import pytest
import trio
import trio.testing

from p2pd.node.background import Background


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("steps", range(12))
async def test_a_task_may_start_at_any_moment_of_the_end(steps: int, *, inside: bool) -> None:
    """As a connection does that was admitted in the step in which the last other one ended."""
    ended = trio.Event()

    async def last_words(started: trio.Event) -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async def starts_late(background: Background, started: trio.Event) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            background.start(last_words, started)

    # The order within a step is by chance.
    for _ in range(20):
        background, started, ended = Background(), trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(background.run)
            background.start(trio.sleep_forever)
            if inside:
                background.start(starts_late, background, started)
            else:
                nursery.start_soon(starts_late, background, started)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # One from outside may come when all is over.
        assert started.is_set() or not inside
        assert ended.is_set() is started.is_set()


async def test_what_one_task_raises_ends_all() -> None:
    ended = trio.Event()

    async def lasting() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def broken() -> None:
        raise ZeroDivisionError

    background = Background()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(background.run)
            background.start(lasting)
            await trio.testing.wait_all_tasks_blocked()
            background.start(broken)
    assert ended.is_set()
    background.start(lasting)
