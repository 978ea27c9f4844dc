"""A node that does not come up leaves nothing behind: its ports are free again."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from p2pd.errors import Exhausted, StoreError
from p2pd.net import sim
from p2pd.simulation.world import World, open_world
from p2pd.store.base import Table
from p2pd.store.memory import MemoryStore


@pytest.mark.parametrize("kind", [StoreError, Exhausted])
async def test_ports_are_free_after_a_start_that_failed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    async def scan(store: MemoryStore, table: Table, start: bytes = b"") -> AsyncIterator[None]:
        raise StoreError("the disk refuses")
        yield

    def interfaces(_: object) -> None:
        raise Exhausted("can't list the interfaces: Too many open files")

    async with open_world(1) as world:
        a = await world.start("a")
        await world.stop(a)
        with monkeypatch.context() as patch:
            if kind is StoreError:
                patch.setattr(MemoryStore, "scan", scan)
            else:
                patch.setattr(sim.SimNetwork, "interfaces", interfaces)
            with pytest.raises(kind):
                await world.start("a")
        await world.start("a")


async def test_ports_are_free_after_a_start_that_was_given_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scan(store: MemoryStore, table: Table, start: bytes = b"") -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield

    async def give_up(world: World) -> None:
        await trio.sleep(1)
        world.nodes["a"].scope.cancel()

    async with open_world(1) as world:
        a = await world.start("a")
        await world.stop(a)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryStore, "scan", scan)
            world.meanwhile(give_up, world)
            with pytest.raises(RuntimeError, match="child exited without calling"):
                await world.start("a")
        await world.start("a")
