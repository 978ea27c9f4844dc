"""The database file: opened, checked, brought to the present schema, or moved aside."""

import datetime as dt
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import attrs

from p2pd.errors import StartError
from p2pd.store.base import Table, Usage

# Element n takes a database from schema n to n + 1; a new one goes through all of them. An
# element that was released is never altered.
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
    # The record itself says when it expires.
    """
    DROP INDEX entries_by_expiry;
    ALTER TABLE entries RENAME TO entries_before;
    CREATE TABLE entries (
        kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
    );
    INSERT INTO entries SELECT kind, key, value FROM entries_before;
    DROP TABLE entries_before;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)
# After a large commit, what the log has beyond this is given back.
_LOG_BYTES = 1 << 23
_CHUNK_BYTES = 1 << 16
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@attrs.frozen
class Database:
    """Two connections to one file, for one thread at a time each.

    In WAL mode the reader sees the last commit and waits for nobody's fsync. If a damaged
    file was in the way, `quarantined` says where it is now. `usage` is as of the opening.
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
    """Open the database at `path`, which is made if there is none.

    One that fails its check is moved aside, never deleted, and a new one is begun. Raises
    `StartError` if it can't be used as it is: read-only, another user's, disk full, or of a later
    version of p2pd. Blocks for as long as it takes to read the whole file.
    """
    try:
        try:
            return _open(path)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
        return _open(path, quarantined=_move_aside(path))
    except (sqlite3.Error, OSError) as error:
        raise StartError(
            f"can't open the database {path}: {error}; check that it belongs to the user that "
            "runs p2pd, that the state directory is writable, and that its disk has room"
        ) from None


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, rather than just out of reach."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def _open(path: Path, *, quarantined: Path | None = None) -> Database:
    # Before SQLite has it open: closing a file drops all locks that this process has on it.
    if path.exists():
        # SQLite would also open a file that may only be read, and then refuse each write.
        path.open("r+b", buffering=0).close()
        _read_through(path)
    with ExitStack() as opened:
        writer = opened.enter_context(closing(_connect(path)))
        # FULL: in WAL mode only this fsyncs each commit.
        writer.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            f"PRAGMA journal_size_limit = {_LOG_BYTES};"
        )
        _check(writer)
        _migrate(writer, path)
        reader = opened.enter_context(closing(_connect(path)))
        reader.execute("PRAGMA query_only = ON")
        usage = {table: _measure(reader, table) for table in Table}
        opened.pop_all()
        return Database(path, writer, reader, usage, quarantined)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None)


def _read_through(path: Path) -> None:
    """Bring the file into the page cache.

    The check visits pages in the order of keys: on a cold disk that takes four times as long
    as this and the check together.
    """
    chunk = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(chunk):
            pass


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
        # A migration that is cut short, as by a crash, changes nothing.
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
    # The plus keeps SQLite off the index: it reads the table in order, not from key to key.
    query = "SELECT count(*), sum(length(value)) FROM entries WHERE +kind = ?"
    keys, size = db.execute(query, (table,)).fetchone()
    return Usage(keys, size or 0)
