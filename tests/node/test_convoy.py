"""Who leaves with whom, and who does not wait."""

import pytest
import trio
from trio.testing import MockClock

from p2pd.node.convoy import PATIENCE, Convoy
from p2pd.simulation.world import SimNode, open_world
from p2pd.store.base import Change


class Travellers:
    """Who prepare for some seconds each, and when they left."""

    def __init__(self) -> None:
        self.left: dict[str, float] = {}
        self.convoy = Convoy()

    async def travel(self, name: str, starts: float, takes: float) -> None:
        await trio.sleep_until(starts)
        with self.convoy.preparing():
            await trio.sleep(takes)
        await self.convoy.gather(takes)
        self.left[name] = trio.current_time()


async def departures(*travellers: tuple[str, float, float]) -> dict[str, float]:
    """Return when each of them left, in seconds from the begin of all."""
    all_of_them, began = Travellers(), trio.current_time()
    async with trio.open_nursery() as nursery:
        for name, starts, takes in travellers:
            nursery.start_soon(all_of_them.travel, name, began + starts, takes)
    return {name: left - began for name, left in all_of_them.left.items()}


async def test_a_single_one_waits_for_nobody(autojump_clock: MockClock) -> None:
    left = await departures(("a", 0, 1), ("b", 2, 1))
    assert left == {"a": pytest.approx(1), "b": pytest.approx(3)}


async def test_who_is_ready_waits_for_who_prepares(autojump_clock: MockClock) -> None:
    left = await departures(("a", 0, 1), ("b", 0.5, 1), ("c", 1.2, 1))
    assert list(left.values()) == [pytest.approx(2.2)] * 3


async def test_nobody_waits_much_longer_than_it_prepared(autojump_clock: MockClock) -> None:
    left = await departures(("slow", 0, 100), ("a", 0, 1), ("b", 2, 1))
    # With the first who has waited enough all others go that are ready.
    assert left["a"] == left["b"] == pytest.approx(1 + PATIENCE)
    assert left["slow"] == pytest.approx(100)


async def test_who_fails_is_not_waited_for(autojump_clock: MockClock) -> None:
    travellers, began = Travellers(), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(travellers.travel, "a", began, 1)
        with trio.move_on_after(1.5):
            await travellers.travel("b", began, 100)
    assert travellers.left == {"a": pytest.approx(began + 1.5)}


async def test_puts_under_way_together_share_a_commit_of_each_replica(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        await trio.sleep(10)
        began = trio.current_time()
        await a.node.put("how long", b"v")
        took = trio.current_time() - began
        commits = commits_of(b)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(a.node.put, f"k{number}", b"v")
                await trio.sleep(took / 8)
        assert [len(each) for each in commits] == [3]


async def test_a_put_with_a_condition_waits_for_no_other(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        await trio.sleep(10)
        began = trio.current_time()
        written = await a.node.put("k", b"v")
        took = trio.current_time() - began
        commits = commits_of(b)
        async with trio.open_nursery() as nursery:

            async def put() -> None:
                await a.node.put("k", b"w", if_version=written.version)

            nursery.start_soon(put)
            await trio.sleep(took / 4)
            nursery.start_soon(a.node.put, "other", b"v")
        assert [len(each) for each in commits] == [1, 1]


def commits_of(node: SimNode) -> list[list[Change]]:
    """Return a list that each commit of a node from now on is added to."""
    commits: list[list[Change]] = []
    node.store.on_disk = lambda changes: commits.append(list(changes))
    return commits
