"""The store in memory, for simulations and tests."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress

import trio

from p2pd.errors import StoreFull
from p2pd.store.base import Change, Disk, Table, Usage, refusal


def _unobserved(_: Sequence[Change]) -> None:
    """Tell nobody."""


class MemoryStore:
    """See `Store`; `max_bytes` bounds the values of all records.

    Writes reach the disk one after the other, each in `sync_seconds`. One that is cancelled
    on its way, as by a crash, is lost, or is on the disk although nobody was told:
    `survives()` decides. Writes behind it are lost, writes before it are not.
    `on_disk` is called with all changes once they are there.
    """

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        *,
        sync_seconds: float = 0.0,
        survives: Callable[[], bool] = lambda: False,
    ) -> None:
        self._max_bytes = max_bytes
        self._sync_seconds = sync_seconds
        self._survives = survives
        self.on_disk: Callable[[Sequence[Change]], None] = _unobserved
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._bytes = dict.fromkeys(Table, 0)
        self._turn = trio.Lock()

    async def get(self, table: Table, key: bytes) -> bytes | None:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return self._tables[table].get(key)

    async def get_many(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        stored = self._tables[table]
        return {key: stored[key] for key in keys if key in stored}

    async def apply(self, changes: Sequence[Change]) -> None:
        """See `Store`."""
        async with self._turn:
            try:
                await trio.sleep(self._sync_seconds)
            except trio.Cancelled:
                if self._survives():
                    with suppress(StoreFull):
                        self._apply(changes)
                raise
            self._apply(changes)

    def _apply(self, changes: Sequence[Change]) -> None:
        stored = self._tables[Table.RECORDS]
        last = {each.key: each.value or b"" for each in changes if each.table is Table.RECORDS}
        before = self._bytes[Table.RECORDS]
        after = before + sum(len(value) - len(stored.get(key, b"")) for key, value in last.items())
        if (full := refusal(before, after, self._max_bytes, changes)) is not None:
            raise full
        for change in changes:
            self._write(change)
        self.on_disk(changes)

    async def scan(self, table: Table, start: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        stored = self._tables[table]
        for key in sorted(key for key in stored if key >= start):
            if key in stored:
                yield key, stored[key]

    async def try_disk(self) -> Disk:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return Disk("", self._max_bytes)

    def usage(self, table: Table) -> Usage:
        """See `Store`."""
        return Usage(len(self._tables[table]), self._bytes[table])

    def _write(self, change: Change) -> None:
        table = self._tables[change.table]
        self._bytes[change.table] += len(change.value or b"") - len(table.pop(change.key, b""))
        if change.value is not None:
            table[change.key] = change.value
