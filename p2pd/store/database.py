"""The database file: opened, checked, brought to the present schema, or moved aside."""

import datetime as dt
import sqlite3
from pathlib import Path

import attrs

from p2pd.errors import StartError
from p2pd.store.base import Table, Usage

# Element n takes a database from schema n to n + 1; a new one goes through all of them. What
# was once released is never altered.
_MIGRATIONS = (
    """
    CREATE TABLE entries (
        kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires REAL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE INDEX entries_by_expiry ON entries (expires) WHERE expires IS NOT NULL;
    """,
    # With a rowid, values are appended, and only their keys go to random places: a commit
    # of many writes about half as many pages.
    """
    DROP INDEX entries_by_expiry;
    ALTER TABLE entries RENAME TO entries_before;
    CREATE TABLE entries (
        kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires REAL,
        PRIMARY KEY (kind, key)
    );
    INSERT INTO entries SELECT kind, key, value, expires FROM entries_before;
    DROP TABLE entries_before;
    CREATE INDEX entries_by_expiry ON entries (expires) WHERE expires IS NOT NULL;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)
# What a large commit leaves of the log is given back beyond this.
_LOG_BYTES = 1 << 23
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@attrs.frozen
class Database:
    """Two connections to one file, for one thread at a time each.

    In WAL mode the reader sees the last commit and waits for nobody's fsync. Where a damaged
    file was in the way, `quarantined` says where it lies now. `usage` is as of the opening.
    """

    path: Path
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    usage: dict[Table, Usage]
    quarantined: Path | None

    def close(self) -> None:
        """Close both; the last one empties the log."""
        self.reader.close()
        self.writer.close()


def open_database(path: Path) -> Database:
    """Open the database at `path`, which is made where there is none.

    One that fails its check is moved aside, never deleted, and a new one is begun. Raises
    `StartError` where it can't be used as it is: read-only, disk full, or of a later version
    of p2pd. Blocks for as long as it takes to read the whole file.
    """
    quarantined = None
    try:
        try:
            writer = _open(path)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            quarantined = _move_aside(path)
            writer = _open(path)
        reader = _connect(path)
        reader.execute("PRAGMA query_only = ON")
        usage = {table: _measure(reader, table) for table in Table}
    except (sqlite3.Error, OSError) as error:
        raise StartError(
            f"can't open the database {path}: {error}; "
            "check that the state directory is writable and its disk has room"
        ) from None
    return Database(path, writer, reader, usage, quarantined)


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, and not just out of reach."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None)


def _open(path: Path) -> sqlite3.Connection:
    db = _connect(path)
    try:
        # FULL: in WAL mode only this fsyncs each commit.
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            f"PRAGMA journal_size_limit = {_LOG_BYTES};"
        )
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
    if version > SCHEMA_VERSION:
        raise StartError(
            f"the database {path} has schema {version}, this p2pd knows {SCHEMA_VERSION}: "
            "it was written by a later version; upgrade p2pd"
        )
    for reached, migration in enumerate(_MIGRATIONS[version:], version + 1):
        # One that is cut short, as by a crash, has not begun.
        db.executescript(f"BEGIN; {migration} PRAGMA user_version = {reached}; COMMIT;")


def _move_aside(path: Path) -> Path:
    # To the microsecond: a second one in the same second must not replace the first.
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%f")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}{suffix}.corrupt-{stamp}"))
    return path.with_name(f"{path.name}.corrupt-{stamp}")


def _measure(db: sqlite3.Connection, table: Table) -> Usage:
    # By the plus from one end of the file to the other, not from key to key.
    query = "SELECT count(*), sum(length(value)) FROM entries WHERE +kind = ?"
    keys, size = db.execute(query, (table,)).fetchone()
    return Usage(keys, size or 0)
