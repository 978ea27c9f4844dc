"""The seam to the disk: opaque bytes under keys, in named tables, durable once applied."""

import enum
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

import attrs

from p2pd.errors import StoreFull

# For deletions there is room beyond the configured size: one part in this many of it.
SPARE = 16


class Table(enum.StrEnum):
    """What is kept: versions of records by key, registry entries by node ID."""

    RECORDS = "records"
    PEERS = "peers"


@attrs.frozen
class Change:
    """One write: `value` None deletes. `spare`: it may use the room that is kept for deletions.

    The mark that something was deleted takes room itself, often more than what it replaces.
    """

    table: Table
    key: bytes
    value: bytes | None
    spare: bool = False


def refusal(before: int, after: int, max_bytes: int, changes: Iterable[Change]) -> StoreFull | None:
    """Return why changes are refused that lead from so many bytes of records to so many."""
    most = max_bytes + (max_bytes // SPARE if all(each.spare for each in changes) else 0)
    # A store that is over the limit already, as after it was lowered, may shrink.
    if before >= after or after <= most:
        return None
    return StoreFull(
        f"the store would hold {after} bytes of records, more than store.max_bytes = {max_bytes}"
    )


@attrs.frozen
class Usage:
    """What a table holds: number of keys, and bytes of their values."""

    keys: int
    bytes: int


@attrs.frozen
class Disk:
    """What is under a store: its directory, empty for one in memory, and the bytes free there.

    `refusal` is why the disk takes no more, None if it does; `full`: for lack of room.
    """

    directory: str
    free: int
    refusal: str | None = None
    full: bool = False


class Store(Protocol):
    """Where a node keeps what must outlive it."""

    async def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under a key; raises `StoreError`."""

    async def get_many(self, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that have one; raises `StoreError`.

        Costs little more than a `get`, which is mostly the way to the disk and back.
        """

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write all changes or none, in their order; on return they are on disk.

        Calls at the same time share a commit, as if one came after the other. One that is
        refused has changed nothing; one that is cancelled is applied whole or not at all.
        Raises `StoreFull` if records would exceed the configured size, `StoreError` if the
        disk refuses; the next call may succeed.
        """

    def scan(self, table: Table, start: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
        """Go through keys and values from `start` on, in the order of the keys.

        Only a page of them is in memory at a time. What is written or deleted meanwhile
        may be seen or not; what is there all the time is seen once. Raises `StoreError`.
        """

    async def try_disk(self) -> Disk:
        """Write a little to the disk, beside what is kept, and report what came of it."""

    def usage(self, table: Table) -> Usage:
        """Tell what a table holds, without touching the disk."""
