"""Both stores, behind one fixture."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from p2pd.store.base import Store
from p2pd.store.memory import MemoryStore
from p2pd.store.sqlite import open_sqlite_store

OpenStore = Callable[[int], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Return what opens a store that holds at most so many bytes of records."""

    @asynccontextmanager
    async def in_memory(max_bytes: int) -> AsyncIterator[Store]:
        yield MemoryStore(max_bytes)

    @asynccontextmanager
    async def on_disk(max_bytes: int) -> AsyncIterator[Store]:
        async with open_sqlite_store(tmp_path / "p2pd.db", max_bytes) as store:
            yield store

    return in_memory if request.param == "memory" else on_disk
