"""The store on disk: SQLite in WAL mode, every commit fsynced.

Writes have their own thread and connection, and those that come during a commit share the
next one. Reads have theirs, and wait for no commit.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import attrs
import trio

from p2pd.errors import StoreError, StoreFull
from p2pd.store.base import Change, Disk, Table, Usage, refusal
from p2pd.store.database import Database, is_corrupt, open_database
from p2pd.store.disk import try_disk
from p2pd.store.worker import Worker, open_worker

# A commit takes no more writes beyond this many changes: the first one waits for all of them.
_MAX_CHANGES = 1024
# What one page of a scan holds: this many keys, or fewer if they have this many bytes.
_PAGE_KEYS = 256
_PAGE_BYTES = 1 << 20
# Reads that wait for the disk. While it hangs, those that were given up on are among them; when
# there are so many, further ones are refused.
MAX_READS = 1 << 14

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@attrs.define(eq=False)
class _Write:
    """Changes that wait for a commit, and what became of them."""

    changes: Sequence[Change]
    settled: bool = False
    refusal: StoreError | None = None


class SqliteStore:
    """See `Store`; make one with `open_sqlite_store`."""

    def __init__(self, database: Database, max_bytes: int, writer: Worker, reader: Worker) -> None:
        self.quarantined = database.quarantined
        self._database = database
        self._max_bytes = max_bytes
        self._usage = database.usage
        self._waiting: dict[_Write, None] = {}
        self._turn = trio.Lock()
        self._writer = writer
        self._reader = reader

    async def get(self, table: Table, key: bytes) -> bytes | None:
        """See `Store`."""
        return (await self.get_many(table, [key])).get(key)

    async def get_many(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """See `Store`."""
        return await self._read(self._get_many, table, keys)

    async def apply(self, changes: Sequence[Change]) -> None:
        """See `Store`."""
        write = _Write(changes)
        self._waiting[write] = None
        try:
            try:
                # `acquire` would be a checkpoint: one more pass through the loop.
                self._turn.acquire_nowait()
            except trio.WouldBlock:
                await self._turn.acquire()
            try:
                # A commit that others wait for is not cancelled with this call: a worker can't be.
                if not write.settled:
                    await self._commit_waiting()
            finally:
                self._turn.release()
        finally:
            # In case this is cancelled before its turn.
            self._waiting.pop(write, None)
        if write.refusal is not None:
            raise write.refusal

    async def scan(self, table: Table, start: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
        """See `Store`."""
        while page := await self._read(self._page, table, start):
            for entry in page:
                yield entry
            start = page[-1][0] + b"\0"

    async def try_disk(self) -> Disk:
        """See `Store`."""
        # Reads must not wait for it.
        return await trio.to_thread.run_sync(try_disk, self._database.path.parent)

    def usage(self, table: Table) -> Usage:
        """See `Store`."""
        return self._usage[table]

    async def _commit_waiting(self) -> None:
        """Commit the writes that wait, as far as they fit into one commit, and settle them."""
        group: list[_Write] = []
        size = 0
        for write in self._waiting:
            size += len(write.changes)
            if group and size > _MAX_CHANGES:
                break
            group.append(write)
        refusals: Sequence[StoreError | None]
        try:
            refusals = await self._write(self._commit, group)
        except StoreError as error:
            refusals = [StoreError(str(error)) for _ in group]
        for write, problem in zip(group, refusals, strict=True):
            write.settled, write.refusal = True, problem
            self._waiting.pop(write, None)

    def _commit(self, group: Sequence[_Write]) -> list[StoreFull | None]:
        """Commit each write that fits; returns for each why it doesn't, or None."""
        refusals: list[StoreFull | None] = []
        usage = self._usage
        db = self._database.writer
        with db:
            db.execute("BEGIN IMMEDIATE")
            for write in group:
                last = {(change.table, change.key): change for change in write.changes}
                after = self._usage_after(last.values(), usage)
                full = refusal(
                    usage[Table.RECORDS].bytes,
                    after[Table.RECORDS].bytes,
                    self._max_bytes,
                    last.values(),
                )
                if full is None:
                    self._put(last.values())
                    usage = after
                refusals.append(full)
        self._usage = usage
        return refusals

    def _usage_after(
        self, changes: Iterable[Change], usage: dict[Table, Usage]
    ) -> dict[Table, Usage]:
        after = dict(usage)
        for change in changes:
            old = self._database.writer.execute(
                "SELECT length(value) FROM entries WHERE kind = ? AND key = ?",
                (change.table, change.key),
            ).fetchone()
            before = after[change.table]
            after[change.table] = Usage(
                before.keys + (change.value is not None) - (old is not None),
                before.bytes + len(change.value or b"") - (old[0] if old else 0),
            )
        return after

    def _put(self, changes: Collection[Change]) -> None:
        db = self._database.writer
        db.executemany(
            "DELETE FROM entries WHERE kind = ? AND key = ?",
            ((each.table, each.key) for each in changes if each.value is None),
        )
        db.executemany(
            "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT (kind, key) "
            "DO UPDATE SET value = excluded.value",
            ((each.table, each.key, each.value) for each in changes if each.value is not None),
        )

    def _get_many(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for key in keys:
            row = self._database.reader.execute(
                "SELECT CAST(value AS BLOB) FROM entries WHERE kind = ? AND key = ?", (table, key)
            ).fetchone()
            if row is not None:
                found[key] = row[0]
        return found

    def _page(self, table: Table, start: bytes) -> list[tuple[bytes, bytes]]:
        rows = self._database.reader.execute(
            "SELECT key, CAST(value AS BLOB) FROM entries WHERE kind = ? AND key >= ? "
            "ORDER BY key LIMIT ?",
            (table, start, _PAGE_KEYS),
        )
        page: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in rows:
            page.append((key, value))
            size += len(value)
            if size >= _PAGE_BYTES:
                break
        # An open cursor would keep the log from being emptied.
        rows.close()
        return page

    async def _write(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        with self._refusals_told():
            return await self._writer.run(work, *arguments)

    async def _read(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        if self._reader.waiting >= MAX_READS:
            raise StoreError(
                f"the database {self._database.path} does not answer: {MAX_READS} reads wait for "
                "its disk; `dmesg` may say why"
            )
        with self._refusals_told():
            # The disk may hang, and other nodes may have what it holds.
            return await self._reader.run(work, *arguments, abandon_on_cancel=True)

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        """Raise `StoreError` where SQLite refuses."""
        try:
            yield
        except sqlite3.Error as error:
            advice = (
                "stop p2pd and start it again: it moves a damaged one aside"
                if is_corrupt(error)
                else "check that its disk is writable and has room"
            )
            path = self._database.path
            raise StoreError(f"the database {path} refuses: {error}; {advice}") from error


@asynccontextmanager
async def open_sqlite_store(path: Path, max_bytes: int) -> AsyncIterator[SqliteStore]:
    """Open the database at `path`, which is made if there is none.

    `max_bytes` bounds the values of all records. Raises `StartError` if the database
    can't be used as it is: read-only, disk full, or of a later version of p2pd.
    """
    database = await trio.to_thread.run_sync(open_database, path)
    try:
        with open_worker("store writer") as writer, open_worker("store reader") as reader:
            yield SqliteStore(database, max_bytes, writer, reader)
    finally:
        database.close()
