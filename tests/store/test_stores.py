"""What every store promises, in memory or on disk."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import StoreFull
from p2pd.ids import Key
from p2pd.store.base import Change, Store, Table, Usage
from p2pd.store.memory import MemoryStore
from p2pd.store.sqlite import open_sqlite_store

OpenStore = Callable[[int], AbstractAsyncContextManager[Store]]
ROOMY = 1 << 20


def record(key: bytes, value: bytes | None) -> Change:
    return Change(Table.RECORDS, key, value)


def peer(key: bytes, value: bytes | None) -> Change:
    return Change(Table.PEERS, key, value)


async def all_of(store: Store, table: Table, start: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [entry async for entry in store.scan(table, start)]


async def test_what_was_written_is_read(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        assert await store.get(Table.RECORDS, b"a") is None
        await store.apply([record(b"a", b"1"), record(b"b", b""), peer(b"a", b"3")])
        assert await store.get(Table.RECORDS, b"a") == b"1"
        assert await store.get(Table.RECORDS, b"b") == b""
        assert await store.get(Table.PEERS, b"a") == b"3"
        assert await store.get(Table.PEERS, b"b") is None
        await store.apply([record(b"a", b"2"), record(b"b", None), record(b"none", None)])
        assert await store.get(Table.RECORDS, b"a") == b"2"
        assert await store.get(Table.RECORDS, b"b") is None
        assert await store.get(Table.PEERS, b"a") == b"3"


async def test_many_are_read_in_one_go(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        await store.apply([record(b"%d" % each, b"v%d" % each) for each in range(100)])
        await store.apply([peer(b"none", b"of these"), record(b"7", None)])
        asked = [b"5", b"none", b"7", b"99", b"5"]
        assert await store.get_many(Table.RECORDS, asked) == {b"5": b"v5", b"99": b"v99"}
        assert await store.get_many(Table.RECORDS, []) == {}


async def test_any_bytes_are_a_key_or_a_value(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        key, every = Key.of("name"), bytes(range(256))
        await store.apply([record(key, every), record(every, key), record(b"", b"empty")])
        assert await store.get(Table.RECORDS, bytes(key)) == every
        assert await store.get(Table.RECORDS, every) == bytes(key)
        assert await store.get(Table.RECORDS, b"") == b"empty"


async def test_changes_of_one_key_in_one_go_are_taken_in_order(open_store: OpenStore) -> None:
    async with open_store(100) as store:
        await store.apply([record(b"a", b"x" * 60), record(b"a", b"y" * 61)])
        assert await store.get(Table.RECORDS, b"a") == b"y" * 61
        assert store.usage(Table.RECORDS) == Usage(1, 61)
        await store.apply([record(b"a", None), record(b"a", b"z" * 99)])
        assert store.usage(Table.RECORDS) == Usage(1, 99)
        await store.apply([record(b"b", b"b"), record(b"a", None), record(b"a", None)])
        assert store.usage(Table.RECORDS) == Usage(1, 1)


async def test_a_table_is_scanned_in_the_order_of_its_keys(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        keys = [b"\xff", b"b", b"", b"ab", b"a", b"\x00"]
        await store.apply([peer(key, b"v" + key) for key in keys])
        await store.apply([record(b"other", b"x")])
        assert await all_of(store, Table.PEERS) == [(key, b"v" + key) for key in sorted(keys)]
        assert await all_of(store, Table.RECORDS) == [(b"other", b"x")]


async def test_a_scan_begins_where_it_is_told(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        await store.apply([peer(key, b"") for key in (b"", b"a", b"b", b"b\x00", b"c")])
        assert [key for key, _ in await all_of(store, Table.PEERS, b"b")] == [
            *(b"b", b"b\x00", b"c")
        ]
        assert await all_of(store, Table.PEERS, b"c\x00") == []


@pytest.mark.parametrize(("count", "size"), [(3000, 1), (5, 700_000)])
async def test_a_scan_goes_on_over_many_pages(open_store: OpenStore, count: int, size: int) -> None:
    async with open_store(1 << 30) as store:
        keys = [b"%05d" % each for each in range(count)]
        await store.apply([record(key, key * size) for key in keys])
        assert await all_of(store, Table.RECORDS) == [(key, key * size) for key in keys]


async def test_a_scan_meets_once_what_is_there_all_the_time(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        kept = [b"%05d" % each for each in range(0, 3000, 2)]
        await store.apply([record(key, b"kept") for key in kept])
        met: list[bytes] = []
        async for key, value in store.scan(Table.RECORDS):
            if value != b"kept":
                continue
            met.append(key)
            if len(met) % 100 == 2:
                # One behind the scan, one right before it, one far before it.
                near = [b"%05d" % (int(key) + off) for off in (-1, 1, 601)]
                await store.apply([record(each, b"new") for each in near])
                await store.apply([record(near[1], None)])
        assert met == kept


async def test_an_empty_table_scans_to_nothing(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        assert await all_of(store, Table.PEERS) == []
        await store.apply([])
        assert store.usage(Table.PEERS) == Usage(0, 0)


async def test_a_full_store_has_room_for_deletions(open_store: OpenStore) -> None:
    async with open_store(160) as store:
        await store.apply([record(b"a", b"x" * 160)])
        mark = attrs.evolve(record(b"b", b"x" * 10), spare=True)
        with pytest.raises(StoreFull):
            await store.apply([mark, record(b"c", b"")])
        await store.apply([mark])
        with pytest.raises(StoreFull):
            await store.apply([attrs.evolve(mark, key=b"c")])
        assert store.usage(Table.RECORDS) == Usage(2, 170)


async def test_a_full_store_takes_nothing_of_what_is_too_much(open_store: OpenStore) -> None:
    async with open_store(10) as store:
        await store.apply([record(b"a", b"x" * 10)])
        with pytest.raises(StoreFull, match="max_bytes"):
            await store.apply([peer(b"p", b"1"), record(b"b", b"1"), record(b"a", b"y" * 10)])
        assert await store.get(Table.RECORDS, b"a") == b"x" * 10
        assert await store.get(Table.RECORDS, b"b") is None
        assert await store.get(Table.PEERS, b"p") is None
        assert store.usage(Table.RECORDS) == Usage(1, 10)
        assert store.usage(Table.PEERS) == Usage(0, 0)


async def test_a_full_store_still_takes_what_does_not_grow_it(open_store: OpenStore) -> None:
    async with open_store(10) as store:
        await store.apply([record(b"a", b"x" * 10)])
        await store.apply([record(b"a", b"y" * 10)])
        await store.apply([record(b"a", b"y" * 4), record(b"b", b"z" * 6)])
        await store.apply([record(b"b", None), record(b"c", b"z" * 6)])
        assert store.usage(Table.RECORDS) == Usage(2, 10)


async def test_only_records_count_for_the_size(open_store: OpenStore) -> None:
    async with open_store(10) as store:
        await store.apply([peer(b"p", b"x" * 1000), record(b"a", b"x" * 10)])
        await store.apply([peer(b"q", b"x" * 1000)])
        assert store.usage(Table.PEERS) == Usage(2, 2000)


async def test_many_writers_at_once_all_get_through(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        async with trio.open_nursery() as nursery:
            for number in range(2000):
                nursery.start_soon(store.apply, [record(b"%d" % number, b"x")])
        assert store.usage(Table.RECORDS) == Usage(2000, 2000)
        assert len(await all_of(store, Table.RECORDS)) == 2000


async def test_writers_at_once_are_refused_each_by_itself(open_store: OpenStore) -> None:
    async with open_store(30) as store:
        refused: list[bytes] = []

        async def write(key: bytes, size: int) -> None:
            try:
                await store.apply([record(key, bytes(size)), record(key + b"'", b"")])
            except StoreFull:
                refused.append(key)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(write, b"small %d" % number, 5)
                nursery.start_soon(write, b"large %d" % number, 31)
        assert sorted(refused) == [b"large %d" % number for number in range(6)]
        assert store.usage(Table.RECORDS) == Usage(12, 30)
        assert len(await all_of(store, Table.RECORDS)) == 12


async def test_writers_that_are_cancelled_leave_all_or_nothing_and_harm_nobody(
    open_store: OpenStore,
) -> None:
    async with open_store(ROOMY) as store:
        told: list[bytes] = []

        async def write(key: bytes) -> None:
            await store.apply([record(key + half, b"x") for half in (b"a", b"b")])
            told.append(key)

        async with trio.open_nursery() as lasting:
            for number in range(10):
                async with trio.open_nursery() as nursery:
                    for each in range(5):
                        nursery.start_soon(write, b"cancelled %d %d " % (number, each))
                        lasting.start_soon(write, b"lasting %d %d " % (number, each))
                    for _ in range(number):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
        found = {key for key, _ in await all_of(store, Table.RECORDS)}
        assert len([key for key in told if key.startswith(b"lasting")]) == 50
        assert {key + half for key in told for half in (b"a", b"b")} <= found
        assert {key[:-1] + b"a" for key in found} | {key[:-1] + b"b" for key in found} == found
        assert store.usage(Table.RECORDS) == Usage(len(found), len(found))


changes = st.builds(
    Change,
    st.sampled_from(Table),
    st.sampled_from([b"", b"a", b"b", b"c"]),
    st.none() | st.binary(max_size=8),
)


@given(st.lists(st.lists(changes, max_size=4), max_size=8))
@settings(max_examples=40)
def test_both_stores_agree(script: list[list[Change]]) -> None:
    async def play() -> None:
        memory = MemoryStore(12)
        async with open_sqlite_store(Path(place) / "p2pd.db", 12) as sqlite:
            for step in script:
                outcomes = [await outcome(store, step) for store in (memory, sqlite)]
                assert outcomes[0] == outcomes[1]
                for table in Table:
                    found = await all_of(memory, table)
                    assert found == await all_of(sqlite, table)
                    usage = Usage(len(found), sum(len(value) for _, value in found))
                    assert memory.usage(table) == sqlite.usage(table) == usage

    with tempfile.TemporaryDirectory() as place:
        trio.run(play)


async def outcome(store: Store, step: list[Change]) -> str:
    try:
        await store.apply(step)
    except StoreFull:
        return "full"
    return "applied"


async def test_a_disk_that_is_well_refuses_nothing(open_store: OpenStore) -> None:
    async with open_store(1 << 20) as store:
        disk = await store.try_disk()
        assert disk.refusal is None
        assert disk.free > 0
        assert [each async for each in store.scan(Table.RECORDS)] == []
