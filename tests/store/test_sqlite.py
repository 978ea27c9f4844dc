"""What the store on disk promises beyond the others: it outlives what happens to a host."""

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pd.errors import StartError, StoreError
from p2pd.store import sqlite
from p2pd.store.base import Change, Store, Table, Usage
from p2pd.store.database import SCHEMA_VERSION
from p2pd.store.sqlite import SqliteStore, open_sqlite_store

ROOMY = 1 << 30
COMMITTER = Path(__file__).parent / "committer.py"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p2pd.db"


def record(key: bytes, value: bytes | None) -> Change:
    return Change(Table.RECORDS, key, value)


async def fill(path: Path, count: int = 200) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"%d" % each, b"x" * 100) for each in range(count)])


def contents(path: Path) -> bytes:
    return path.read_bytes()


def execute(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@contextmanager
def mounted(where: Path, *options: str) -> Iterator[Path]:
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(where)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@contextmanager
def write_protected(file: Path) -> Iterator[None]:
    """Within the `with`, not even root may write to the file, which can still be read."""
    command = ["mount", "--bind", str(file), str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(file)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(file)], check=True)


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"a", b"1"), record(b"b", b"22")])
        await store.apply([Change(Table.PEERS, b"p", b"333")])
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is None
        assert [pair async for pair in store.scan(Table.RECORDS)] == [(b"a", b"1"), (b"b", b"22")]
        assert store.usage(Table.RECORDS) == Usage(2, 3)
        assert store.usage(Table.PEERS) == Usage(1, 3)


async def test_a_store_that_is_over_a_smaller_size_can_still_shrink(path: Path) -> None:
    await fill(path)
    async with open_sqlite_store(path, 100) as store:
        with pytest.raises(StoreError, match="max_bytes = 100"):
            await store.apply([record(b"new", b"x")])
        await store.apply([record(b"0", b"short"), record(b"1", None)])
        assert store.usage(Table.RECORDS) == Usage(199, 198 * 100 + 5)


async def test_every_commit_is_synced(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        assert store._database.writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._database.writer.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_who_writes_at_the_same_time_shares_commits(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        statements: list[str] = []
        store._database.writer.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(store.apply, [record(b"%d" % number, b"x")])
        assert statements.count("COMMIT") <= 3
        assert store.usage(Table.RECORDS).keys == 500


async def test_large_writes_do_not_all_wait_for_one_commit(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        statements: list[str] = []
        store._database.writer.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for number in range(9):
                changes = [record(b"%d/%d" % (number, each), b"x") for each in range(500)]
                nursery.start_soon(store.apply, changes)
        # The first to come goes alone, then two at a time: 1,024 changes are the most.
        assert statements.count("COMMIT") == 5
        assert store.usage(Table.RECORDS).keys == 9 * 500


async def test_a_scan_of_large_values_reads_a_mebibyte_ahead(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"%d" % each, bytes(1 << 18)) for each in range(9)])
        scan = store.scan(Table.RECORDS)
        met = [await anext(scan)]
        await store.apply([record(b"3", b"new"), record(b"4", b"new")])
        met += [entry async for entry in scan]
        assert [key for key, value in met if value == b"new"] == [b"4"]


async def test_readers_wait_for_no_writer(path: Path) -> None:
    await fill(path, 1200)
    other = sqlite3.connect(path, isolation_level=None)
    async with open_sqlite_store(path, ROOMY) as store, trio.open_nursery() as nursery:
        written = trio.Event()

        async def write() -> None:
            await store.apply([record(b"0", b"new")])
            written.set()

        other.execute("BEGIN IMMEDIATE")
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert await store.get(Table.RECORDS, b"0") == b"x" * 100
        assert len([key async for key, _ in store.scan(Table.RECORDS)]) == 1200
        assert not written.is_set()
        other.execute("ROLLBACK")
        await written.wait()
        assert await store.get(Table.RECORDS, b"0") == b"new"
    other.close()


async def test_the_log_of_a_large_commit_does_not_stay_large(path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"%d" % each, bytes(1 << 20)) for each in range(32)])
        assert len(contents(log)) > 32 << 20
        for each in range(3):
            await store.apply([record(b"%d" % each, b"small")])
        assert len(contents(log)) <= 8 << 20


def spoil_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 400)


def spoil_pages(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:] = random.Random(0).randbytes(len(raw) - 4096)
    path.write_bytes(raw)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 3 + 100])


@pytest.mark.parametrize("spoil", [spoil_header, spoil_pages, cut_off])
async def test_a_corrupt_database_is_moved_aside_and_a_new_one_begun(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    await fill(path)
    spoil(path)
    spoiled = contents(path)
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is not None
        assert store.quarantined.parent == path.parent
        assert contents(store.quarantined) == spoiled
        assert store.usage(Table.RECORDS) == Usage(0, 0)
        await store.apply([record(b"a", b"1")])
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is None
        assert await store.get(Table.RECORDS, b"a") == b"1"


async def test_what_is_corrupt_where_opening_does_not_look_is_moved_aside_too(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'index'"
        [page] = db.execute(query).fetchone()
        [size] = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is not None
        assert store.usage(Table.RECORDS) == Usage(0, 0)


async def test_whatever_was_moved_aside_stays(path: Path) -> None:
    moved = []
    for _ in range(5):
        spoil_header(path)
        async with open_sqlite_store(path, ROOMY) as store:
            moved.append(store.quarantined)
    assert len(set(moved)) == 5
    assert all(each is not None and each.exists() for each in moved)


async def test_a_database_of_a_later_version_is_left_alone(path: Path) -> None:
    await fill(path, 3)
    execute(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = contents(path)
    with pytest.raises(StartError, match="upgrade p2pd"):
        async with open_sqlite_store(path, ROOMY):
            pass
    assert contents(path) == before
    assert not list(path.parent.glob("*corrupt*"))


FIRST_SCHEMA = """
    CREATE TABLE entries (
        kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires REAL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE INDEX entries_by_expiry ON entries (expires) WHERE expires IS NOT NULL;
    INSERT INTO entries VALUES
        ('records', x'00ff', x'0102', NULL), ('records', x'', x'', 10.0),
        ('peers', x'00ff', x'03', 20.0);
    PRAGMA user_version = 1;
"""


async def test_a_database_of_the_first_schema_is_brought_up_to_date(path: Path) -> None:
    execute(path, *FIRST_SCHEMA.split(";"))
    for _ in range(2):
        async with open_sqlite_store(path, ROOMY) as store:
            assert store.quarantined is None
            assert [pair async for pair in store.scan(Table.RECORDS)] == [
                *((b"", b""), (b"\x00\xff", b"\x01\x02"))
            ]
            assert await store.get(Table.PEERS, b"\x00\xff") == b"\x03"
            assert store.usage(Table.RECORDS) == Usage(2, 2)
    new = path.with_name("new.db")
    async with open_sqlite_store(new, ROOMY):
        pass
    assert layout(path) == layout(new)


def layout(path: Path) -> list[tuple[str, ...]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    db.close()
    return found


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    execute(path, *FIRST_SCHEMA.split(";"), "CREATE TABLE entries_before (a)")
    before = layout(path)
    with pytest.raises(StartError, match="entries_before"):
        async with open_sqlite_store(path, ROOMY):
            pass
    assert layout(path) == before
    execute(path, "DROP TABLE entries_before")
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.usage(Table.RECORDS) == Usage(2, 2)


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    await trio.Path(path).touch()
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is None
        assert store.usage(Table.RECORDS) == Usage(0, 0)


async def test_no_directory_no_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="state directory"):
        async with open_sqlite_store(tmp_path / "none" / "p2pd.db", ROOMY):
            pass


async def test_a_directory_in_its_place_is_no_start(path: Path) -> None:
    await trio.Path(path).mkdir()
    with pytest.raises(StartError, match=str(path)):
        async with open_sqlite_store(path, ROOMY):
            pass
    assert await trio.Path(path).is_dir()


async def test_a_locked_database_is_no_start_and_not_corrupt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path, 3)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StartError, match="locked"):
            async with open_sqlite_store(path, ROOMY):
                pass
    finally:
        other.close()
    assert not list(path.parent.glob("*corrupt*"))


@needs_root
@pytest.mark.parametrize("exists", [True, False])
async def test_a_read_only_disk_is_no_start(tmp_path: Path, exists: bool) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        if exists:
            await fill(disk / "p2pd.db", 3)
        await trio.run_process(["mount", "-o", "remount,ro", str(disk)])
        with pytest.raises(StartError, match="writable"):
            async with open_sqlite_store(disk / "p2pd.db", ROOMY):
                pass


@needs_root
async def test_a_database_that_may_only_be_read_is_no_start(path: Path) -> None:
    await fill(path, 3)
    with write_protected(path), pytest.raises(StartError, match="belongs to the user"):
        async with open_sqlite_store(path, ROOMY):
            pass


@needs_root
async def test_a_full_disk_is_no_start(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(60 * 1024))
        with pytest.raises(StartError, match="has room"):
            async with open_sqlite_store(disk / "p2pd.db", ROOMY):
                pass


@needs_root
async def test_a_disk_that_fills_up_refuses_and_works_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "disk", "size=512k") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(128 * 1024))
        kept: list[bytes] = []

        async def fill_up(store: Store) -> None:
            for number in range(len(kept), 1000):
                key = b"%04d" % number
                await store.apply([record(key, key * 2000)])
                kept.append(key)

        async with open_sqlite_store(disk / "p2pd.db", ROOMY) as store:
            for _ in range(2):
                before = len(kept)
                with pytest.raises(StoreError, match="has room"):
                    await fill_up(store)
                assert len(kept) > before
                assert [key async for key, _ in store.scan(Table.RECORDS)] == kept
                assert store.usage(Table.RECORDS) == Usage(len(kept), len(kept) * 8000)
                ballast.unlink(missing_ok=True)
        async with open_sqlite_store(disk / "p2pd.db", ROOMY) as store:
            assert [key async for key, _ in store.scan(Table.RECORDS)] == kept
            assert store.quarantined is None


@contextmanager
def no_writes_beyond(size: int) -> Iterator[None]:
    """Within the `with`, no file can be written to beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("size", [0, 100_000])
async def test_a_disk_that_refuses_is_read_and_works_again_when_it_does(
    path: Path, size: int
) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"before", b"1")])
        refused: list[bytes] = []

        async def write(key: bytes) -> None:
            with pytest.raises(StoreError, match="has room"):
                await store.apply([record(key, bytes(500_000)), record(b"before", b"2")])
            refused.append(key)

        with no_writes_beyond(size):
            async with trio.open_nursery() as nursery:
                for key in (b"a", b"b", b"c"):
                    nursery.start_soon(write, key)
            assert sorted(refused) == [b"a", b"b", b"c"]
            assert await store.get(Table.RECORDS, b"before") == b"1"
        assert [pair async for pair in store.scan(Table.RECORDS)] == [(b"before", b"1")]
        assert store.usage(Table.RECORDS) == Usage(1, 1)
        await store.apply([record(b"a", bytes(500_000))])
        assert store.usage(Table.RECORDS) == Usage(2, 500_001)
        gone = [record(b"before", None)]
        with no_writes_beyond(0), pytest.raises(StoreError, match="has room"):
            await store.apply(gone)
        assert store.usage(Table.RECORDS) == Usage(2, 500_001)
        await store.apply(gone)
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.usage(Table.RECORDS) == Usage(1, 500_000)


async def test_what_is_damaged_while_it_runs_is_told_as_such(path: Path) -> None:
    await fill(path, 2000)
    async with open_sqlite_store(path, ROOMY) as store:
        spoil_pages(path)
        with pytest.raises(StoreError, match="moves a damaged one aside"):
            await store.get_many(Table.RECORDS, [b"%d" % each for each in range(2000)])
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is not None


def commit_and_kill(path: Path, commits: int) -> list[int]:
    """Kill a process amid its commits after so many; returns those that it told of."""
    command = [sys.executable, str(COMMITTER), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        return [int(line) for line in [*told, *process.stdout.read().splitlines()]]


@pytest.mark.e2e
@pytest.mark.parametrize("commits", [1, 7, 60])
async def test_what_was_acknowledged_outlives_a_kill(path: Path, commits: int) -> None:
    told = commit_and_kill(path, commits)
    assert len(told) >= commits
    async with open_sqlite_store(path, ROOMY) as store:
        assert store.quarantined is None
        found = {key async for key, _ in store.scan(Table.RECORDS)}
    assert {b"%d.%s" % (each, half) for each in told for half in (b"a", b"b")} <= found
    # A commit is there whole or not at all.
    assert {key[:-1] + b"a" for key in found} == {key for key in found if key.endswith(b"a")}
    assert {key[:-1] + b"b" for key in found} == {key for key in found if key.endswith(b"b")}


@pytest.mark.parametrize("seed", range(20))
async def test_of_a_torn_log_whole_commits_are_left_and_none_between_them_is_missing(
    path: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_sqlite_store(path, ROOMY) as store:
        for number in range(20):
            size = rng.randrange(3000)
            await store.apply([record(b"%d.%d" % (number, each), bytes(size)) for each in range(3)])
        torn = tmp_path / "torn" / path.name
        torn.parent.mkdir()
        shutil.copy(path, torn)
        log = bytearray(contents(path.with_name(path.name + "-wal")))
    cut = rng.randrange(len(log))
    # Either the end never came to the disk, or something else is there.
    log[cut:] = rng.choice([b"", bytes(len(log) - cut), rng.randbytes(len(log) - cut)])
    torn.with_name(path.name + "-wal").write_bytes(log)
    async with open_sqlite_store(torn, ROOMY) as store:
        assert store.quarantined is None
        found = {key async for key, _ in store.scan(Table.RECORDS)}
        assert len(found) % 3 == 0
        assert found == {
            b"%d.%d" % (number, each) for number in range(len(found) // 3) for each in range(3)
        }
        await store.apply([record(b"after", b"x")])


async def test_a_copy_taken_while_it_runs_is_whole(path: Path, tmp_path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"a", b"1")])
        snapshot = tmp_path / "snapshot"
        snapshot.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(path.name + suffix), snapshot)
    async with open_sqlite_store(snapshot / path.name, ROOMY) as store:
        assert await store.get(Table.RECORDS, b"a") == b"1"


async def test_a_value_whose_kind_decayed_is_still_bytes(path: Path) -> None:
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"a", b"\xff\xfe"), record(b"b", b"text")])
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE entries SET value = CAST(value AS TEXT)")
        database.commit()
    async with open_sqlite_store(path, ROOMY) as store:
        assert await store.get(Table.RECORDS, b"a") == b"\xff\xfe"
        assert [value async for _, value in store.scan(Table.RECORDS)] == [b"\xff\xfe", b"text"]


async def test_a_read_does_not_wait_for_the_disk_to_be_tried(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = threading.Event(), os.fsync

    def slow(file: int) -> None:
        synced.wait()
        fsync(file)

    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"a", b"1")])
        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(os, "fsync", slow)
            nursery.start_soon(store.try_disk)
            await trio.testing.wait_all_tasks_blocked()
            try:
                with trio.fail_after(5):
                    assert await store.get(Table.RECORDS, b"a") == b"1"
            finally:
                synced.set()


async def test_a_read_from_a_disk_that_hangs_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), trio.Event()
    loop = trio.lowlevel.current_trio_token()

    def hang(*_: object) -> dict[bytes, bytes]:
        loop.run_sync_soon(asked.set)
        answers.wait()
        return {}

    monkeypatch.setattr(sqlite, "MAX_READS", 10)
    async with open_sqlite_store(path, ROOMY) as store:
        await store.apply([record(b"a", b"1")])
        try:
            with monkeypatch.context() as patch, trio.fail_after(5):
                patch.setattr(SqliteStore, "_get_many", hang)
                for number in range(11):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(store.get, Table.RECORDS, b"%d" % number)
                        await asked.wait()
                        nursery.cancel_scope.cancel()
                # What nobody waits for any more is bounded.
                with pytest.raises(StoreError, match=r"p2pd.db does not answer: 10 reads"):
                    await store.get(Table.RECORDS, b"a")
        finally:
            answers.set()
        monkeypatch.setattr(sqlite, "MAX_READS", 100)
        assert await store.get(Table.RECORDS, b"a") == b"1"


@needs_root
async def test_a_disk_that_takes_nothing_says_why(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        async with open_sqlite_store(disk / "p2pd.db", ROOMY) as store:
            well = await store.try_disk()
            assert (well.directory, well.refusal, well.full) == (str(disk), None, False)
            assert 0 < well.free < 1 << 20
            with (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(1 << 12)) and (await store.try_disk()).free:
                    pass
            full = await store.try_disk()
            assert full.full
            assert full.refusal == "No space left on device"
            (disk / "filler").unlink()
            assert not (await store.try_disk()).full
