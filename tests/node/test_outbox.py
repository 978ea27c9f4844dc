"""What waits for a peer leaves in order, within bounds; whoever waits for room is woken."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pd.net.base import Stream
from p2pd.node.background import Background
from p2pd.node.ending import Ending
from p2pd.node.outbox import FULL_OUTBOX, MAX_OUTBOX, WRITE_BYTES, WRITE_TIMEOUT, Outbox


class SlowStream:
    """Takes data at once or not, as a test says; `send_all` waits for `room`."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.takes_at_once = False
        self.broken = False
        self.is_writing = False
        self.room = trio.Event()

    def send_nowait(self, data: bytes) -> bool:
        if self.takes_at_once:
            self.taken.append(data)
        return self.takes_at_once

    async def send_all(self, data: bytes) -> None:
        if self.broken:
            raise trio.BrokenResourceError
        self.is_writing = True
        try:
            await self.room.wait()
            self.taken.append(data)
        finally:
            self.is_writing = False


class Case:
    def __init__(self, background: Background) -> None:
        self.stream = SlowStream()
        self.ends: list[tuple[str, Ending]] = []
        self.outbox = Outbox(cast("Stream", self.stream), background, self.end)

    def end(self, reason: str, ending: Ending) -> None:
        self.ends.append((reason, ending))
        self.outbox.stop()


@asynccontextmanager
async def case(*, is_open: bool = True) -> AsyncIterator[Case]:
    background = Background()
    async with trio.open_nursery() as nursery:
        await nursery.start(background.run)
        made = Case(background)
        if is_open:
            made.outbox.open()
        yield made
        made.outbox.stop()
        nursery.cancel_scope.cancel()


async def test_what_comes_while_something_waits_leaves_after_it() -> None:
    async with case() as it:
        it.outbox.put(b"a")
        # There is room again before the writer has run.
        it.stream.takes_at_once = True
        it.outbox.put(b"b")
        it.stream.room.set()
        await wait_all_tasks_blocked()
        it.outbox.put(b"c")
        assert b"".join(it.stream.taken) == b"abc"


async def test_what_comes_while_a_write_is_under_way_leaves_after_it() -> None:
    async with case() as it:
        it.outbox.put(b"a")
        await wait_all_tasks_blocked()
        it.stream.takes_at_once = True
        it.outbox.put(b"b")
        assert it.stream.taken == []
        it.stream.room.set()
        await wait_all_tasks_blocked()
        assert it.stream.taken == [b"a", b"b"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_until_it_is_open_everything_waits_and_then_leaves_together(at_once: bool) -> None:
    async with case(is_open=False) as it:
        it.stream.takes_at_once = at_once
        it.stream.room.set()
        it.outbox.put(b"a")
        it.outbox.put(b"b")
        await wait_all_tasks_blocked()
        assert it.stream.taken == []
        it.outbox.open()
        await wait_all_tasks_blocked()
        assert it.stream.taken == [b"ab"]
        assert it.outbox.bytes_waiting == 0


@pytest.mark.parametrize("state", ["sent", "waits", "under way"])
async def test_it_ends_once_what_was_put_before_its_close_is_sent(state: str) -> None:
    async with case() as it:
        it.stream.takes_at_once = state == "sent"
        it.outbox.put(b"a")
        if state == "under way":
            await wait_all_tasks_blocked()
        it.outbox.close("enough", 5)
        it.outbox.put(b"b")
        await wait_all_tasks_blocked()
        assert bool(it.ends) is (state == "sent")
        it.stream.room.set()
        await wait_all_tasks_blocked()
        assert it.stream.taken == [b"a"]
        assert it.ends == [("enough", Ending.UNWANTED)]


async def test_one_that_was_closed_before_it_was_open_ends_when_it_is() -> None:
    async with case(is_open=False) as it:
        it.outbox.put(b"a")
        it.outbox.close("enough", 5)
        it.stream.takes_at_once = True
        it.outbox.open()
        await wait_all_tasks_blocked()
        assert it.stream.taken == [b"a"]
        assert it.ends == [("enough", Ending.UNWANTED)]


@pytest.mark.parametrize("is_open", [True, False])
async def test_who_takes_nothing_has_so_long_to_take_what_is_sent_before_the_end(
    autojump_clock: MockClock, *, is_open: bool
) -> None:
    async with case(is_open=is_open) as it:
        it.outbox.put(b"a")
        it.outbox.close("enough", 5)
        it.outbox.open()
        await trio.sleep(4.9)
        assert it.ends == []
        await trio.sleep(0.2)
        assert it.ends == [("enough", Ending.UNWANTED)]


async def test_a_second_close_can_only_shorten_the_time(autojump_clock: MockClock) -> None:
    async with case() as it:
        it.outbox.put(b"a")
        it.outbox.close("enough", 5)
        it.outbox.close("again", 10)
        it.outbox.close("hurry", 1)
        await trio.sleep(0.9)
        assert it.ends == []
        await trio.sleep(0.2)
        assert it.ends == [("enough", Ending.UNWANTED)]


async def test_nothing_is_sent_or_kept_once_it_is_stopped() -> None:
    async with case() as it:
        it.outbox.put(b"a")
        await wait_all_tasks_blocked()
        it.outbox.put(b"b")
        it.outbox.stop()
        it.stream.takes_at_once = True
        it.stream.room.set()
        it.outbox.put(b"c")
        await it.outbox.wait_stopped()
        assert not it.stream.is_writing
        assert it.stream.taken == []
        # What was being written when it was stopped.
        assert it.outbox.bytes_waiting == 1


@pytest.mark.parametrize("stopped", [True, False])
async def test_whoever_waits_for_room_is_woken_by_it_or_by_the_end(stopped: bool) -> None:
    async with case() as it, trio.open_nursery() as nursery:
        it.outbox.put(bytes(FULL_OUTBOX + 1))
        # Also while it is being written.
        await wait_all_tasks_blocked()
        assert it.outbox.is_full
        nursery.start_soon(it.outbox.wait_for_room)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        if stopped:
            it.outbox.stop()
        else:
            it.stream.room.set()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert it.outbox.is_full is stopped


async def test_what_waits_is_bounded() -> None:
    async with case() as it:
        it.outbox.put(bytes(MAX_OUTBOX))
        assert it.ends == []
        it.outbox.put(b"a")
        assert it.ends == [("the peer reads too slowly", Ending.UNWANTED)]


async def test_a_write_has_time_by_its_length(autojump_clock: MockClock) -> None:
    async with case() as it:
        it.outbox.put(bytes(2 * WRITE_BYTES + 1))
        await trio.sleep(3 * WRITE_TIMEOUT - 0.1)
        assert it.ends == []
        await trio.sleep(0.2)
        assert [ending for _, ending in it.ends] == [Ending.SILENT]


async def test_a_stream_that_breaks_ends_it() -> None:
    async with case() as it:
        it.stream.broken = True
        it.outbox.put(b"a")
        await wait_all_tasks_blocked()
        assert [ending for _, ending in it.ends] == [Ending.BROKEN]
