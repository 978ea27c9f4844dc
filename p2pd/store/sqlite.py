"""The store on disk: SQLite in WAL mode, every commit fsynced, in one thread at a time.

A database that fails its check at start is moved aside, never deleted, and a new one is
begun; `quarantined` then says where the old one lies.
"""

import datetime as dt
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from p2pd.errors import StartError, StoreError, StoreFull
from p2pd.store.base import Change, Table, Usage

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entries (
    kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires REAL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX entries_by_expiry ON entries (expires) WHERE expires IS NOT NULL;
"""
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

T = TypeVar("T")


class SqliteStore:
    """See `Store`; make one with `open_sqlite_store`."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, max_bytes: int, quarantined: Path | None
    ) -> None:
        self.quarantined = quarantined
        self._path = path
        self._db = db
        self._max_bytes = max_bytes
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._usage = _measure(db)

    async def get(self, table: Table, key: bytes) -> bytes | None:
        """See `Store`."""
        row = await self._in_thread(
            lambda: self._db.execute(
                "SELECT value FROM entries WHERE kind = ? AND key = ?", (table, key)
            ).fetchone()
        )
        return None if row is None else bytes(row[0])

    async def apply(self, changes: Sequence[Change]) -> None:
        """See `Store`."""
        await self._in_thread(lambda: self._apply(changes))

    async def scan(self, table: Table) -> list[tuple[bytes, bytes]]:
        """See `Store`."""
        return await self._in_thread(
            lambda: self._db.execute(
                "SELECT key, value FROM entries WHERE kind = ? ORDER BY key", (table,)
            ).fetchall()
        )

    async def purge(self, now: float) -> int:
        """See `Store`."""
        return await self._in_thread(lambda: self._purge(now))

    def usage(self, table: Table) -> Usage:
        """See `Store`."""
        return self._usage[table]

    def _apply(self, changes: Sequence[Change]) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            after = dict(self._usage)
            for change in changes:
                after[change.table] = self._write(change, after[change.table])
            grown = after[Table.RECORDS].bytes
            if self._usage[Table.RECORDS].bytes < grown > self._max_bytes:
                raise StoreFull(
                    f"the store would hold {grown} bytes of records, more than "
                    f"store.max_bytes = {self._max_bytes}"
                )
        self._usage = after

    def _write(self, change: Change, usage: Usage) -> Usage:
        where = (change.table, change.key)
        old = self._db.execute(
            "SELECT length(value) FROM entries WHERE kind = ? AND key = ?", where
        ).fetchone()
        if change.value is None:
            self._db.execute("DELETE FROM entries WHERE kind = ? AND key = ?", where)
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                (*where, change.value, change.expires),
            )
        return Usage(
            usage.keys + (change.value is not None) - (old is not None),
            usage.bytes + len(change.value or b"") - (old[0] if old else 0),
        )

    def _purge(self, now: float) -> int:
        with self._db:
            gone = self._db.execute("DELETE FROM entries WHERE expires <= ?", (now,)).rowcount
        if gone:
            self._usage = _measure(self._db)
        return gone

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._one_at_a_time)
        except sqlite3.Error as error:
            raise StoreError(
                f"the database {self._path} refuses: {error}; "
                "check that its disk is writable and has room"
            ) from error


@asynccontextmanager
async def open_sqlite_store(path: Path, max_bytes: int) -> AsyncIterator[SqliteStore]:
    """Open the database at `path`, which is made where there is none.

    `max_bytes` bounds the values of all records. Raises `StartError` where the database
    can't be used as it is: read-only, disk full, or of a later version of p2pd.
    """
    quarantined = None
    try:
        try:
            db = _open(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _CORRUPT:
                raise
            quarantined = _move_aside(path)
            db = _open(path)
        store = SqliteStore(path, db, max_bytes, quarantined)
    except (sqlite3.Error, OSError) as error:
        raise StartError(
            f"can't open the database {path}: {error}; "
            "check that the state directory is writable and its disk has room"
        ) from None
    try:
        yield store
    finally:
        db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        # FULL: in WAL mode only this fsyncs each commit.
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        _check(db)
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        corrupt = sqlite3.DatabaseError(problem)
        corrupt.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise corrupt


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StartError(
            f"the database {path} has schema {version}, this p2pd knows {SCHEMA_VERSION}: "
            "it was written by a later version; upgrade p2pd"
        )


def _move_aside(path: Path) -> Path:
    # To the microsecond: a second one in the same second must not replace the first.
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%f")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}{suffix}.corrupt-{stamp}"))
    return path.with_name(f"{path.name}.corrupt-{stamp}")


def _measure(db: sqlite3.Connection) -> dict[Table, Usage]:
    rows = db.execute("SELECT kind, count(*), sum(length(value)) FROM entries GROUP BY kind")
    found = {kind: Usage(keys, size) for kind, keys, size in rows}
    return {table: found.get(table, Usage(0, 0)) for table in Table}
