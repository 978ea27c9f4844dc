"""The replica side of the store: records kept for others, on disk before it says so.

All writes pass through one task, which takes what has gathered, merges it into what is
stored, and commits it together: many writes share one fsync.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import attrs
import trio

from p2pd.core.records import (
    Version,
    clock_is_plausible,
    gone_at_ms,
    kept,
    merge,
    version_of,
)
from p2pd.errors import BadMessage, Busy, InvalidRequest, P2PError, StoreError
from p2pd.ids import Key, NodeId
from p2pd.node.dispatch import Call, Dispatch, failure
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.fair_channel import FairChannel
from p2pd.store.base import Change, Table
from p2pd.wire import codec
from p2pd.wire.identity import open_record
from p2pd.wire.messages import (
    MAX_SIBLINGS,
    Length,
    Record,
    Signed,
    Store,
    Stored,
)

# Bytes of records that wait for the disk, where a short one counts as `LEAST_SIZE`; beyond
# it, who has most waiting is told to come back.
MAX_WAITING = 1 << 24
LEAST_SIZE = 1 << 14
MAX_BATCH = 256
PURGE_INTERVAL = 600.0
# A disk that refuses does so for each record; this often it is worth a line in the log.
TELL_AGAIN_AFTER = 600.0


@attrs.frozen
class SavedVersions:
    """All versions under one key, as they lie on disk."""

    versions: Annotated[tuple[Signed, ...], Length(1, MAX_SIBLINGS)]


@attrs.define(eq=False)
class _Write:
    """A record on its way to the disk, and what became of it."""

    version: Version
    done: trio.Event = attrs.field(factory=trio.Event)
    error: P2PError | None = None
    call: Call | None = None


class Replica:
    """The records that this node stores."""

    def __init__(
        self, env: Env, dispatch: Dispatch, events: Events, *, max_value_bytes: int
    ) -> None:
        self._env = env
        self._events = events
        self._told_at: dict[str, float] = {}
        self._max_value_bytes = max_value_bytes
        self._waiting: FairChannel[NodeId, _Write] = FairChannel(MAX_WAITING)
        dispatch.add(Store, self._take)

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._purge_at_times)
            while True:
                batch = [await self._waiting.receive()]
                while len(batch) < MAX_BATCH and (write := self._waiting.take()) is not None:
                    batch.append(write)
                await self._commit(batch)

    async def read(self, key: Key) -> list[Version]:
        """Return the versions stored under a key, the winner first; see `core.records.kept`.

        Raises `StoreError`.
        """
        return kept(await self._stored(key), self._env.wall_ms())

    async def write(self, signed: Signed) -> None:
        """Store a record; on return it is on disk.

        Raises `InvalidRequest` for one that breaks the rules, `Busy` and `StoreError`.
        """
        write = _Write(self._checked(signed))
        self._enqueue(write)
        await write.done.wait()
        if write.error is not None:
            raise write.error

    def _take(self, call: Call, message: Store) -> None:
        self._enqueue(_Write(self._checked(message.record), call=call))

    def _checked(self, signed: Signed) -> Version:
        try:
            record = open_record(signed)
        except BadMessage as error:
            raise InvalidRequest(str(error)) from None
        if record.value is not None and len(record.value) > self._max_value_bytes:
            raise InvalidRequest(f"a value of more than {self._max_value_bytes} bytes")
        if not clock_is_plausible(record, self._env.wall_ms()):
            raise InvalidRequest("a record from more than a day ahead; check the writer's clock")
        return version_of(signed, record)

    def _enqueue(self, write: _Write) -> None:
        writer = self._env.identity.node_id if write.call is None else write.call.connection.node_id
        size = max(len(write.version.signed.body), LEAST_SIZE)
        for each in self._waiting.put(writer, write, size):
            self._settle(each, Busy("too many writes wait for the disk; try again"))

    async def _commit(self, batch: Sequence[_Write]) -> None:
        """Write a batch together; where that is refused, one by one."""
        error = await self._try_to_commit(batch)
        if error is None or len(batch) == 1:
            for write in batch:
                self._settle(write, error)
            return
        for write in batch:
            self._settle(write, await self._try_to_commit([write]))

    async def _try_to_commit(self, batch: Sequence[_Write]) -> P2PError | None:
        try:
            merged: dict[Key, list[Version]] = {}
            now_ms = self._env.wall_ms()
            for write in batch:
                key = write.version.key
                before = merged[key] if key in merged else await self._stored(key)
                merged[key] = merge(kept([*before, write.version], now_ms))
            await self._env.store.apply(
                [_change(key, versions) for key, versions in merged.items()]
            )
        except P2PError as error:
            self._note_trouble(error)
            return error
        return None

    def _note_trouble(self, error: P2PError) -> None:
        now = trio.current_time()
        if now - self._told_at.get(error.code, -math.inf) >= TELL_AGAIN_AFTER:
            self._told_at[error.code] = now
            self._events.emit(
                "store.refuses", f"records can't be stored: {error}", level=logging.ERROR
            )

    def _settle(self, write: _Write, error: P2PError | None) -> None:
        write.error = error
        write.done.set()
        if write.call is not None:
            write.call.answer(Stored() if error is None else failure(error))

    async def _stored(self, key: Key) -> list[Version]:
        saved = await self._env.store.get(Table.RECORDS, key)
        if saved is None:
            return []
        # Signatures were checked on the way in.
        return [
            version_of(signed, codec.decode(Record, signed.body))
            for signed in codec.decode(SavedVersions, saved).versions
        ]

    async def _purge_at_times(self) -> None:
        while True:
            await trio.sleep(PURGE_INTERVAL)
            # What the disk refuses to delete is tried again, and is expired meanwhile.
            with suppress(StoreError):
                await self._env.store.purge(self._env.wall_clock())


def _change(key: bytes, versions: Sequence[Version]) -> Change:
    """Lay out the versions under a key; they leave the disk when none need be kept."""
    if not versions:
        return Change(Table.RECORDS, key, None)
    ends = [gone_at_ms(version.record) for version in versions]
    last = max(math.inf if end is None else end / 1000 for end in ends)
    return Change(
        Table.RECORDS,
        key,
        codec.encode(SavedVersions(tuple(version.signed for version in versions))),
        None if math.isinf(last) else last,
    )
