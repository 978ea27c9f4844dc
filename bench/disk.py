"""The store on disk by itself: commits, reads beside them, and a start with many records."""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from bench.figures import Effort, Figure, Spread, compare
from p2pd.store.base import Change, Table
from p2pd.store.sqlite import SqliteStore, open_sqlite_store

RECORDS = 100_000
SIZE = 100
TOGETHER = (32, 256)
_RUNS = 50
_ROOM = 1 << 30
_MIB = 1 << 20


async def disk(effort: Effort) -> list[Figure]:
    """Measure in a database that already holds a hundred thousand records of 100 bytes."""
    rng = random.Random(1)
    keys = [rng.randbytes(32) for _ in range(RECORDS)]

    def changes(count: int) -> list[Change]:
        return [_change(rng.choice(keys), rng) for _ in range(count)]

    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "p2pd.db"
        async with open_sqlite_store(path, _ROOM) as store:
            for start in range(0, RECORDS, 1000):
                await store.apply([_change(key, rng) for key in keys[start : start + 1000]])
            with _plain_file(Path(parent) / "plain") as append:
                figures = await _commits(effort, store, changes, append)
            figures += await _reads(effort, store, lambda: rng.choice(keys), changes)
        return [*figures, *await _starts(effort, path)]


async def _commits(
    effort: Effort,
    store: SqliteStore,
    changes: Callable[[int], list[Change]],
    append: Callable[[], Awaitable[None]],
) -> list[Figure]:
    async def one() -> float:
        return await _median_ms(lambda: store.apply(changes(1)))

    async def plain() -> float:
        return await _median_ms(append)

    async def rate_of_one() -> float:
        return await _rate(store, [changes(1) for _ in range(_RUNS)], at_once=False)

    mine, theirs, ratio = await compare(effort.rounds, one, plain)
    against = "append to a file, fsync"
    figures = [Figure("commit of one write", "ms", mine, against, theirs, ratio)]
    for count in TOGETHER:

        async def in_one(count: int = count) -> float:
            return count * await _rate(store, [changes(count) for _ in range(5)], at_once=False)

        async def at_once(count: int = count) -> float:
            return await _rate(store, [changes(1) for _ in range(count)], at_once=True)

        for name, measure in ((f"{count} in a batch", in_one), (f"{count} at once", at_once)):
            mine, theirs, ratio = await compare(effort.rounds, measure, rate_of_one)
            figures.append(Figure(f"writes, {name}", "1/s", mine, "one at a time", theirs, ratio))
    return figures


async def _reads(
    effort: Effort,
    store: SqliteStore,
    key: Callable[[], bytes],
    changes: Callable[[int], list[Change]],
) -> list[Figure]:
    async def alone() -> float:
        return await _median_ms(lambda: store.get(Table.RECORDS, key()))

    async def many() -> float:
        return await _median_ms(
            lambda: store.get_many(Table.RECORDS, [key() for _ in range(TOGETHER[0])])
        )

    async def beside_a_writer() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_on, store, changes)
            spent = await alone()
            nursery.cancel_scope.cancel()
        return spent

    figures: list[Figure] = []
    for name, measure in (
        ("get, while batches of 256 are written", beside_a_writer),
        (f"get of {TOGETHER[0]} keys in one go", many),
    ):
        mine, theirs, ratio = await compare(effort.rounds, measure, alone)
        figures.append(Figure(name, "ms", mine, "get, nothing else", theirs, ratio))
    return figures


async def _starts(effort: Effort, path: Path) -> list[Figure]:
    opened, scanned, grown = [], [], []
    for _ in range(effort.rounds):
        before = _resident_mib()
        started = time.perf_counter()
        async with open_sqlite_store(path, _ROOM) as store:
            opened.append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            async for _ in store.scan(Table.RECORDS):
                pass
            scanned.append((time.perf_counter() - started) * 1000)
            grown.append(_resident_mib() - before)
    among = f"{RECORDS:,} records"
    return [
        Figure(f"open and check, {among}", "ms", Spread.of(opened)),
        Figure(f"scan, {among}", "ms", Spread.of(scanned)),
        Figure(f"memory of an open store after a scan, {among}", "MiB", Spread.of(grown[:1])),
    ]


def _change(key: bytes, rng: random.Random) -> Change:
    return Change(Table.RECORDS, key, rng.randbytes(SIZE))


async def _write_on(store: SqliteStore, changes: Callable[[int], list[Change]]) -> None:
    while True:
        await store.apply(changes(TOGETHER[-1]))


async def _rate(store: SqliteStore, writes: list[list[Change]], *, at_once: bool) -> float:
    """Return how many writes a second get through."""
    started = time.perf_counter()
    if at_once:
        async with trio.open_nursery() as nursery:
            for each in writes:
                nursery.start_soon(store.apply, each)
    else:
        for each in writes:
            await store.apply(each)
    return len(writes) / (time.perf_counter() - started)


async def _median_ms(action: Callable[[], Awaitable[object]]) -> float:
    spent: list[float] = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        await action()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


@contextmanager
def _plain_file(path: Path) -> Iterator[Callable[[], Awaitable[None]]]:
    """Give what appends a record to a file, and syncs it, in a thread as the store does."""
    with path.open("wb", buffering=0) as stream:

        def append_now() -> None:
            stream.write(bytes(SIZE))
            os.fsync(stream.fileno())

        async def append() -> None:
            await trio.to_thread.run_sync(append_now)

        yield append


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
