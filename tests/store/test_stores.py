"""What every store promises, in memory or on disk."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

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


def record(key: bytes, value: bytes | None, expires: float | None = None) -> Change:
    return Change(Table.RECORDS, key, value, expires)


def peer(key: bytes, value: bytes | None) -> Change:
    return Change(Table.PEERS, key, value)


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
        assert await store.scan(Table.PEERS) == [(key, b"v" + key) for key in sorted(keys)]
        assert await store.scan(Table.RECORDS) == [(b"other", b"x")]


async def test_an_empty_table_scans_to_nothing(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        assert await store.scan(Table.PEERS) == []
        await store.apply([])
        assert store.usage(Table.PEERS) == Usage(0, 0)


async def test_what_expired_is_purged_and_nothing_else(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        await store.apply(
            [
                record(b"past", b"1", expires=10.0),
                record(b"now", b"22", expires=20.0),
                record(b"later", b"333", expires=20.5),
                record(b"never", b"4444"),
                record(b"renewed", b"5", expires=5.0),
                record(b"kept", b"6", expires=5.0),
            ]
        )
        await store.apply([record(b"renewed", b"55", expires=99.0), record(b"kept", b"66")])
        assert await store.purge(20.0) == 2
        assert [key for key, _ in await store.scan(Table.RECORDS)] == sorted(
            [b"later", b"never", b"renewed", b"kept"]
        )
        assert store.usage(Table.RECORDS) == Usage(4, 11)
        assert await store.purge(20.0) == 0
        assert await store.purge(1000.0) == 2
        assert store.usage(Table.RECORDS) == Usage(2, 6)


async def test_what_was_deleted_is_not_purged_again(open_store: OpenStore) -> None:
    async with open_store(ROOMY) as store:
        await store.apply([record(b"a", b"1", expires=1.0)])
        await store.apply([record(b"a", None)])
        assert await store.purge(2.0) == 0


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
            for number in range(20):
                nursery.start_soon(store.apply, [record(b"%d" % number, b"x")])
        assert store.usage(Table.RECORDS) == Usage(20, 20)
        assert len(await store.scan(Table.RECORDS)) == 20


changes = st.builds(
    Change,
    st.sampled_from(Table),
    st.sampled_from([b"", b"a", b"b", b"c"]),
    st.none() | st.binary(max_size=8),
    st.none() | st.integers(0, 9).map(float),
)


@given(st.lists(st.lists(changes, max_size=4) | st.integers(0, 9), max_size=8))
@settings(max_examples=40)
def test_both_stores_agree(script: list[list[Change] | int]) -> None:
    async def play() -> None:
        memory = MemoryStore(12)
        async with open_sqlite_store(Path(":memory:"), 12) as sqlite:
            for step in script:
                outcomes = [await outcome(store, step) for store in (memory, sqlite)]
                assert outcomes[0] == outcomes[1]
                for table in Table:
                    found = await memory.scan(table)
                    assert found == await sqlite.scan(table)
                    usage = Usage(len(found), sum(len(value) for _, value in found))
                    assert memory.usage(table) == sqlite.usage(table) == usage

    trio.run(play)


async def outcome(store: Store, step: list[Change] | int) -> object:
    if isinstance(step, int):
        return await store.purge(step)
    try:
        await store.apply(step)
    except StoreFull:
        return "full"
    return "applied"
