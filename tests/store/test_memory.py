"""What a crash leaves of the store in memory: nothing that the one on disk could not leave."""

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2pd.store.base import Change, Table
from p2pd.store.memory import MemoryStore


async def crash_amid_writes(store: MemoryStore, after: float) -> tuple[list[int], list[int]]:
    """Write pairs, four at once and one each second, and crash; returns what was told and is there.

    A pair that is there by half fails.
    """
    told: list[int] = []

    async def write(number: int) -> None:
        await store.apply(
            [Change(Table.RECORDS, b"%d%s" % (number, end), b"x") for end in (b"a", b"b")]
        )
        told.append(number)

    with trio.move_on_after(after):
        async with trio.open_nursery() as nursery:
            for number in itertools.count():
                nursery.start_soon(write, number)
                # The order in which Trio starts tasks is its own.
                await trio.testing.wait_all_tasks_blocked()
                if number >= 3:
                    await trio.sleep(1)
    found = [key async for key, _ in store.scan(Table.RECORDS)]
    whole = sorted(int(key[:-1]) for key in found if key.endswith(b"a"))
    assert whole == sorted(int(key[:-1]) for key in found if key.endswith(b"b"))
    return told, whole


@pytest.mark.parametrize("after", [0.5, 3.5, 7.5])
@pytest.mark.parametrize("lucky", [True, False])
async def test_a_crash_leaves_what_was_told_and_at_most_one_commit_more(
    autojump_clock: MockClock, after: float, lucky: bool
) -> None:
    told, found = await crash_amid_writes(
        MemoryStore(sync_seconds=1, survives=lambda: lucky), after
    )
    assert told == list(range(int(after)))
    assert found == list(range(int(after) + lucky))


async def test_what_is_on_its_way_is_not_read(autojump_clock: MockClock) -> None:
    store = MemoryStore(sync_seconds=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.apply, [Change(Table.RECORDS, b"a", b"1")])
        await trio.sleep(0.5)
        assert await store.get(Table.RECORDS, b"a") is None
        await trio.sleep(1)
        assert await store.get(Table.RECORDS, b"a") == b"1"


async def test_what_does_not_fit_is_not_there_after_a_crash(autojump_clock: MockClock) -> None:
    store = MemoryStore(3, sync_seconds=1, survives=lambda: True)
    with trio.move_on_after(0.5) as crash:
        await store.apply([Change(Table.RECORDS, b"a", b"long")])
    assert crash.cancelled_caught
    assert await store.get(Table.RECORDS, b"a") is None
