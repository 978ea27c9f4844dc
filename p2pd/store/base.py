"""The seam to the disk: opaque bytes under keys, in named tables, durable once applied."""

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs


class Table(enum.StrEnum):
    """What is kept: versions of records by key, registry entries by node ID."""

    RECORDS = "records"
    PEERS = "peers"


@attrs.frozen
class Change:
    """One write: `value` None deletes. `expires` is Unix seconds, None for never."""

    table: Table
    key: bytes
    value: bytes | None
    expires: float | None = None


@attrs.frozen
class Usage:
    """What a table holds: number of keys, and bytes of their values."""

    keys: int
    bytes: int


class Store(Protocol):
    """Where a node keeps what must outlive it."""

    async def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under a key; raises `StoreError`."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write all changes or none; on return they are on disk.

        Raises `StoreFull` where records would exceed the configured size, `StoreError`
        where the disk refuses.
        """

    async def scan(self, table: Table) -> list[tuple[bytes, bytes]]:
        """Return all keys and values of a table, in the order of the keys."""

    async def purge(self, now: float) -> int:
        """Delete what expired before `now` (Unix seconds); returns how many keys."""

    def usage(self, table: Table) -> Usage:
        """Tell what a table holds, without touching the disk."""
