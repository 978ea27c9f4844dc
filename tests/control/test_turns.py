"""Places for work under way: the bound, whose turn it is, and who goes while waiting."""

from collections.abc import Iterable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pd.control.turns import Turns


class Work:
    """Work of owners that goes on until it is told to end; `begun` in this order."""

    def __init__(self, places: int, nursery: trio.Nursery) -> None:
        self.begun: list[str] = []
        self.turns: Turns[str] = Turns(places)
        self._nursery = nursery
        self._ends: dict[str, trio.Event] = {}
        self.scopes: dict[str, trio.CancelScope] = {}

    async def ask(self, names: Iterable[str]) -> None:
        """Let each, named by its owner's letter and a number, want a place."""
        for name in names:
            self._nursery.start_soon(self._do, name)
            await wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await wait_all_tasks_blocked()

    async def cancel(self, name: str) -> None:
        self.scopes[name].cancel()
        await wait_all_tasks_blocked()

    async def _do(self, name: str) -> None:
        self._ends[name] = trio.Event()
        with trio.CancelScope() as self.scopes[name]:
            async with self.turns.turn(name[0]):
                self.begun.append(name)
                await self._ends[name].wait()


async def test_owners_take_turns_however_much_one_wants(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(1, nursery)
    await work.ask(["g0", "g1", "g2", "g3", "m0", "m1"])
    order = ["g0", "g1", "m0", "g2", "m1", "g3"]
    for number, name in enumerate(order):
        assert work.begun == order[: number + 1]
        await work.end(name)


async def test_a_place_that_nobody_waits_for_is_free_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(2, nursery)
    await work.ask(["a0", "a1"])
    await work.end("a0")
    await work.end("a1")
    await work.ask(["b0", "b1", "b2"])
    assert work.begun == ["a0", "a1", "b0", "b1"]


@pytest.mark.parametrize("gone", ["b0", "b1", "c0"])
async def test_who_goes_while_waiting_takes_no_place(
    autojump_clock: MockClock, nursery: trio.Nursery, gone: str
) -> None:
    work = Work(1, nursery)
    await work.ask(["a0", "b0", "b1", "c0"])
    await work.cancel(gone)
    for name in [name for name in ["a0", "b0", "c0", "b1"] if name != gone]:
        await work.end(name)
    assert gone not in work.begun
    assert len(work.begun) == 3
    await work.ask(["d0"])
    assert work.begun[-1] == "d0"


async def test_who_goes_while_at_work_gives_its_place_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(1, nursery)
    await work.ask(["a0", "b0"])
    await work.cancel("a0")
    assert work.begun == ["a0", "b0"]


async def test_a_place_given_to_one_who_goes_at_the_same_moment_is_not_lost(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(1, nursery)
    async with work.turns.turn("a"):
        await work.ask(["b0", "c0"])
        # It does not run before the place is given to it.
        work.scopes["b0"].cancel()
    await wait_all_tasks_blocked()
    assert work.begun == ["c0"]
    await work.end("c0")
    await work.ask(["d0"])
    assert work.begun == ["c0", "d0"]
