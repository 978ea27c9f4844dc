"""Alarms ring when they are due, and what is due may be moved meanwhile."""

import math

import pytest
import trio
from trio.testing import MockClock

from p2pd.node.alarms import Alarm, Alarms


@pytest.fixture
async def alarms(nursery: trio.Nursery) -> Alarms:
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    return alarms


async def waited(alarm: Alarm, due: float) -> float:
    """Wait for an alarm; returns how many seconds that took."""
    began = trio.current_time()
    await alarm.wait(began + due)
    return round(trio.current_time() - began, 1)


async def test_a_wait_ends_when_it_is_due(autojump_clock: MockClock, alarms: Alarms) -> None:
    alarm = Alarm(alarms)
    assert [await waited(alarm, due) for due in (3, 1, 0, -1)] == [3, 1, 0, 0]


async def test_each_alarm_has_its_time(
    autojump_clock: MockClock, alarms: Alarms, nursery: trio.Nursery
) -> None:
    rang: list[tuple[float, int]] = []

    async def wait(due: int) -> None:
        rang.append((await waited(Alarm(alarms), due), due))

    async with trio.open_nursery() as waits:
        for due in (5, 2, 9, 2):
            waits.start_soon(wait, due)
    assert rang == [(2, 2), (2, 2), (5, 5), (9, 9)]


@pytest.mark.parametrize(
    ("moves", "took"),
    [([(1, 4)], 4), ([(1, 20)], 20), ([(1, 20), (2, 5)], 5), ([(1, 4), (2, 20)], 20)],
)
async def test_the_end_of_a_wait_can_be_moved(
    autojump_clock: MockClock,
    alarms: Alarms,
    nursery: trio.Nursery,
    moves: list[tuple[float, float]],
    took: float,
) -> None:
    alarm, began = Alarm(alarms), trio.current_time()

    async def move() -> None:
        for at, due in moves:
            await trio.sleep_until(began + at)
            alarm.move(began + due)

    nursery.start_soon(move)
    assert await waited(alarm, 10) == took
    assert alarm.due == pytest.approx(began + took, abs=0.1)


async def test_forward_never_puts_off(
    autojump_clock: MockClock, alarms: Alarms, nursery: trio.Nursery
) -> None:
    alarm, began = Alarm(alarms), trio.current_time()

    async def move() -> None:
        await trio.sleep(1)
        alarm.no_later_than(began + 20)
        alarm.no_later_than(began + 5)

    nursery.start_soon(move)
    assert await waited(alarm, 10) == 5


async def test_ring_ends_a_wait_that_has_no_end(
    autojump_clock: MockClock, alarms: Alarms, nursery: trio.Nursery
) -> None:
    alarm = Alarm(alarms)

    async def ring() -> None:
        await trio.sleep(2)
        alarm.ring()

    nursery.start_soon(ring)
    assert await waited(alarm, math.inf) == 2


async def test_what_nobody_waits_for_does_not_ring_later(
    autojump_clock: MockClock, alarms: Alarms
) -> None:
    alarm = Alarm(alarms)
    alarm.ring()
    with trio.move_on_after(1):
        await alarm.wait(trio.current_time() + 3)
    # The time of the wait that was given up falls into this one.
    assert await waited(alarm, 7) == 7


async def test_what_is_due_already_can_not_be_put_off(
    autojump_clock: MockClock, alarms: Alarms, nursery: trio.Nursery
) -> None:
    """A process that did not run finds out by how much it is late."""
    alarm, began = Alarm(alarms), trio.current_time()

    async def sleep_through() -> None:
        await trio.sleep(1)
        autojump_clock.jump(30)
        alarm.move(trio.current_time() + 5)

    nursery.start_soon(sleep_through)
    await alarm.wait(began + 10)
    assert trio.current_time() - alarm.due == pytest.approx(21, abs=0.1)


async def test_waits_that_are_over_take_no_room(autojump_clock: MockClock, alarms: Alarms) -> None:
    several = [Alarm(alarms) for _ in range(20_000)]
    for alarm in several:
        with trio.CancelScope() as scope:
            scope.cancel()
            await alarm.wait(trio.current_time() + 3600)
    assert len(alarms) < 2048
    assert await waited(several[0], 3) == 3
