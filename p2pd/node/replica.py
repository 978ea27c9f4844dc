"""The replica side of the store: records kept for others, on disk before they are confirmed.

All records come in through one task, which takes what has gathered, merges it into what is
stored, and commits it together: many writes share one fsync. Beside the disk there is a
Merkle tree of all that is on it, to compare with other replicas, and what was read last.
"""

import logging
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated

import attrs
import trio

from p2pd.core.merkle import Tree, digest_of
from p2pd.core.records import (
    Version,
    clock_is_plausible,
    gone_at_ms,
    is_hidden,
    is_kept,
    is_stale,
    kept,
    merge,
    version_of,
)
from p2pd.core.version_cache import VersionCache
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
    Give,
    Given,
    Length,
    Message,
    Record,
    Signed,
    Store,
    Stored,
)

# Bytes of records that wait for the disk, where a short one counts as `LEAST_SIZE`; beyond
# it, the sender with the most waiting is told to come back.
MAX_WAITING = 1 << 24
LEAST_SIZE = 1 << 14
MAX_BATCH = 64
# Bytes of versions kept decoded, those written or read last; held for as long as the node runs.
MAX_CACHED = 1 << 22
# What need not be kept any more is purged when Unix time is a multiple of this, at the same moment
# everywhere: otherwise the trees of two replicas would differ for a while over each record.
PURGE_INTERVAL = 600.0
_PURGE_MS = int(PURGE_INTERVAL * 1000)
# After this many bytes of records decoded or encoded, all other tasks have their turn; the check
# of a signature counts as so many of them.
_SLICE_BYTES = 1 << 20
_CHECK_BYTES = _SLICE_BYTES // 32
# A disk that refuses does so for each record; only this often is it worth a line in the log.
TELL_AGAIN_AFTER = 600.0
# Seconds after which the reading at the start goes on where the disk had failed.
LOAD_AGAIN_AFTER = 60.0
_PAST_ITS_TIME = "a record that is past its time already; check the clocks"


@attrs.frozen
class SavedVersions:
    """All versions under one key, as they lie on disk."""

    versions: Annotated[tuple[Signed, ...], Length(1, MAX_SIBLINGS)]


@attrs.define(eq=False)
class _Reply:
    """The answer to records that came in one message, once all of them are settled.

    `waiting` counts those that are not; `gift`: they came by `Give`.
    """

    call: Call
    waiting: int
    gift: bool
    stored: int = 0

    def settled(self, error: P2PError | None) -> None:
        """Count one of the records; send the answer after the last one."""
        self.waiting -= 1
        self.stored += error is None
        if self.waiting:
            return
        if error is not None and not self.stored:
            self.call.answer(failure(error))
        else:
            self.call.answer(Given(self.stored) if self.gift else Stored())


@attrs.define(eq=False)
class _Write:
    """A record on its way to the disk, and what became of it."""

    version: Version
    done: trio.Event = attrs.field(factory=trio.Event)
    error: P2PError | None = None
    reply: _Reply | None = None


class Replica:
    """The records that this node stores.

    `tree` is of all of them, once `loaded`; until then it may lack some. Each of `on_begun` is
    called when a record comes to an empty tree.
    """

    def __init__(
        self, env: Env, dispatch: Dispatch, events: Events, *, max_value_bytes: int
    ) -> None:
        self.tree = Tree()
        self.loaded = trio.Event()
        self.on_begun: list[Callable[[], None]] = []
        self._env = env
        self._events = events
        self._told_at: dict[tuple[str, type[Exception]], float] = {}
        self._max_value_bytes = max_value_bytes
        self._waiting: FairChannel[NodeId, _Write] = FairChannel(MAX_WAITING)
        # Held from reading what is stored to writing it: by the writer, the purge and `drop`.
        self._changing = trio.Lock()
        self._cache = VersionCache(MAX_CACHED)
        self._reading: dict[Key, object] = {}
        self._ends: dict[Key, int] = {}
        self._changed_early: set[Key] = set()
        # On the disk, but unreadable, and not in the tree: to be overwritten, or purged.
        self._decayed: dict[Key, None] = {}
        dispatch.add(Store, self._take)
        dispatch.add(Give, self._take_gift)

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load)
            nursery.start_soon(self._purge_at_times)
            while True:
                batch = [await self._waiting.receive()]
                while len(batch) < MAX_BATCH and (write := self._waiting.take()) is not None:
                    batch.append(write)
                await self._commit(batch)

    def cached(self, key: Key) -> list[Version] | None:
        """Return what `read` would, where that needs no disk; else None."""
        versions = self._known(key)
        return None if versions is None else kept(versions, self._horizon_ms())

    async def read(self, key: Key) -> list[Version]:
        """Return the versions stored under a key, the winner first; see `core.records.kept`.

        Raises `StoreError`.
        """
        return kept(await self._stored(key), self._horizon_ms())

    async def write(self, version: Version) -> None:
        """Store a record that this node has made itself; on return it is on disk.

        Raises `InvalidRequest` for one that breaks the rules, `Busy` and `StoreError`.
        """
        self._check_rules(version.record)
        write = _Write(version)
        self._enqueue(write)
        await write.done.wait()
        if write.error is not None:
            raise write.error

    async def write_all(self, records: Iterable[Signed], keys: Container[Key]) -> list[Version]:
        """Store those that keep the rules, and return those that are on disk then.

        What the disk refuses is left out. Raises `BadMessage`, before anything is stored, where
        one belongs under none of `keys`, and `Busy` where too many wait.
        """
        writes: list[_Write] = []
        for signed in records:
            with suppress(InvalidRequest):
                writes.append(_Write(self._checked(signed)))
        if not all(write.version.key in keys for write in writes):
            raise BadMessage("a record that was not asked for")
        for write in writes:
            self._enqueue(write)
        for write in writes:
            await write.done.wait()
        for write in writes:
            if isinstance(write.error, Busy):
                raise write.error
        return [write.version for write in writes if write.error is None]

    async def drop(self, digests: Mapping[Key, bytes]) -> None:
        """Delete what is under these keys, where it still has the digest given.

        Raises `StoreError`.
        """
        for batch in _batches(digests):
            async with self._changing:
                same = [key for key in batch if self.tree.digest(key) == digests[key]]
                await self._replace({key: [] for key in same})

    def lasting(self, versions: Iterable[Version]) -> list[Version]:
        """Leave out what other replicas, going by their clocks, may have dropped already."""
        return kept(versions, self._horizon_ms() + _PURGE_MS)

    def _take(self, call: Call, message: Store) -> None:
        version = self._checked(message.record)
        if is_stale(version.record, self._env.wall_ms()):
            raise InvalidRequest(_PAST_ITS_TIME)
        self._enqueue(_Write(version, reply=_Reply(call, waiting=1, gift=False)))

    def _take_gift(self, call: Call, message: Give) -> Message | None:
        versions: list[Version] = []
        for signed in message.versions:
            with suppress(InvalidRequest):
                versions.append(self._checked(signed))
        if not versions:
            return Given(0)
        reply = _Reply(call, waiting=len(versions), gift=True)
        for version in versions:
            self._enqueue(_Write(version, reply=reply))
        return None

    def _checked(self, signed: Signed) -> Version:
        try:
            record = open_record(signed)
        except BadMessage as error:
            raise InvalidRequest(str(error)) from None
        self._check_rules(record)
        return version_of(signed, record)

    def _check_rules(self, record: Record) -> None:
        if record.value is not None and len(record.value) > self._max_value_bytes:
            raise InvalidRequest(f"a value of more than {self._max_value_bytes} bytes")
        if not clock_is_plausible(record, self._env.wall_ms()):
            raise InvalidRequest("a record from more than a day ahead; check the writer's clock")
        if not is_kept(record, self._horizon_ms()):
            raise InvalidRequest(_PAST_ITS_TIME)

    def _enqueue(self, write: _Write) -> None:
        reply, own_id = write.reply, self._env.identity.node_id
        writer = own_id if reply is None else reply.call.connection.node_id
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
            # This avoids the checkpoint in `acquire`, which is one more pass through the loop.
            self._changing.acquire_nowait()
        except trio.WouldBlock:
            await self._changing.acquire()
        try:
            merged = await self._stored_under({write.version.key: None for write in batch})
            for write in batch:
                together = [*merged[write.version.key], write.version]
                merged[write.version.key] = merge(kept(together, self._horizon_ms()))
            await self._replace(merged)
            for write in batch:
                if is_hidden(write.version, merged[write.version.key], self._env.wall_ms()):
                    write.error = InvalidRequest(
                        "no room beside versions from almost a day ahead; try again in an hour"
                    )
        except P2PError as error:
            self._tell("store.refuses", "records can't be stored", error)
            return error
        except Exception as error:  # noqa: BLE001 - the boundary between one record and the node
            if self._is_news("bug", error):
                self._events.emit_bug("storing a record", error)
            return P2PError("a bug in this node; see its log")
        finally:
            self._changing.release()
        return None

    async def _stored_under(self, keys: Iterable[Key]) -> dict[Key, Sequence[Version]]:
        stored = {key: self._known(key) for key in keys}
        unknown = [key for key, versions in stored.items() if versions is None]
        saved = await self._env.store.get_many(Table.RECORDS, unknown) if unknown else {}
        size = 0
        for key, value in saved.items():
            versions = stored[Key(key)] = self._versions_in(Key(key), value)
            # Before all is in the tree, each signature is checked.
            checked = 0 if self.loaded.is_set() else len(versions)
            size = await _take_turns(size + len(value) + checked * _CHECK_BYTES)
        return {key: versions or [] for key, versions in stored.items()}

    def _known(self, key: Key) -> Sequence[Version] | None:
        """Return what is stored under a key if that needs no disk: the tree knows what is not."""
        versions = self._cache.get(key)
        if versions is None and self.loaded.is_set() and self.tree.digest(key) is None:
            return []
        return versions

    async def _replace(self, changed: Mapping[Key, Sequence[Version]]) -> None:
        """Put these in place of what is stored under their keys."""
        # A record that is given again is on disk already.
        changes: list[Change] = []
        size = 0
        for key, versions in changed.items():
            digest = digest_of(each.name for each in versions)
            if key in self._decayed or self.tree.digest(key) != digest:
                changes.append(_change(key, versions))
                size = await _take_turns(size + len(changes[-1].value or b""))
        if changes:
            await self._env.store.apply(changes)
        for key, versions in changed.items():
            self._reading.pop(key, None)
            self._cache.remove(key)
            self._decayed.pop(key, None)
            if versions:
                self._cache.put(key, versions)
            self._note(key, versions)
            if not self.loaded.is_set():
                self._changed_early.add(key)

    def _note(self, key: Key, versions: Sequence[Version]) -> None:
        """Keep the tree, and when something is due to go, in step with the disk."""
        self._ends.pop(key, None)
        if not versions:
            self.tree.remove(key)
            return
        begins = not len(self.tree)
        self.tree.put(key, (version.name for version in versions))
        ends = [end for each in versions if (end := gone_at_ms(each.record)) is not None]
        if ends:
            self._ends[key] = min(ends)
        if begins:
            for callback in self.on_begun:
                callback()

    def _tell(self, code: str, what: str, error: Exception) -> None:
        if self._is_news(code, error):
            self._events.emit(code, f"{what}: {error}", level=logging.ERROR)

    def _is_news(self, code: str, error: Exception) -> bool:
        """Whether an error is to be reported: seldom, where it comes again and again."""
        now = trio.current_time()
        told_at = self._told_at.get((code, type(error)), -math.inf)
        if now - told_at < TELL_AGAIN_AFTER:
            return False
        self._told_at[code, type(error)] = now
        return True

    def _settle(self, write: _Write, error: P2PError | None) -> None:
        """End a write, with `error` or with what was found against it on the way to the disk."""
        write.error = error or write.error
        write.done.set()
        if write.reply is not None:
            write.reply.settled(write.error)

    async def _stored(self, key: Key) -> Sequence[Version]:
        known = self._known(key)
        if known is not None:
            return known
        token = self._reading.setdefault(key, object())
        try:
            saved = await self._env.store.get(Table.RECORDS, key)
        finally:
            unchanged = self._reading.get(key) is token
            if unchanged:
                del self._reading[key]
        if saved is None:
            return []
        if not unchanged:
            # Another task wrote or read it meanwhile: mostly it is known now.
            return await self._stored(key)
        versions = self._versions_in(key, saved)
        if versions:
            self._cache.put(key, versions)
        return versions

    async def _load(self) -> None:
        """Make the tree of what is on disk, while everything else goes on."""
        size, last = 0, b""
        while not self.loaded.is_set():
            try:
                async for raw, value in self._env.store.scan(Table.RECORDS, last):
                    last, checked = raw, self._load_one(raw, value)
                    size = await _take_turns(size + len(value) + checked * _CHECK_BYTES)
            except StoreError as error:
                what = "the stored records can't be read, and repair waits for them"
                self._tell("store.unreadable", what, error)
                await trio.sleep(LOAD_AGAIN_AFTER)
            else:
                self._changed_early.clear()
                self.loaded.set()

    def _load_one(self, raw: bytes, value: bytes) -> int:
        """Enter what lies under a key into the tree; returns how many versions, at least one."""
        try:
            key = Key(raw)
        except ValueError as error:
            self._tell("store.unreadable", "what lies under a decayed key is lost here", error)
            return 1
        if key in self._changed_early:
            return 1
        versions = self._versions_in(key, value)
        self._note(key, versions)
        return max(1, len(versions))

    def _versions_in(self, key: Key, saved: bytes) -> list[Version]:
        """Return what lies on the disk under a key; nothing where it decayed.

        The tree forgets a decayed key, so that other replicas give it again.
        """
        try:
            return _sound_versions(key, saved, self.tree.digest(key))
        except BadMessage as error:
            self._decayed[key] = None
            self._note(key, ())
            what = "a stored record can't be read, and is taken from other replicas again"
            self._tell("store.unreadable", what, error)
            return []

    def _horizon_ms(self) -> int:
        """Return the time of the last purge that was due: what ended by then has gone.

        In Unix milliseconds.
        """
        return self._env.wall_ms() // _PURGE_MS * _PURGE_MS

    async def _purge_at_times(self) -> None:
        await self.loaded.wait()
        while True:
            await self._purge()
            await trio.sleep((_PURGE_MS - self._env.wall_ms() % _PURGE_MS) / 1000)

    async def _purge(self) -> None:
        horizon = self._horizon_ms()
        due = [*self._decayed, *(key for key, end in self._ends.items() if end <= horizon)]
        for batch in _batches(due):
            # What the disk refuses to delete is tried again, and is not shown meanwhile.
            with suppress(StoreError):
                async with self._changing:
                    stored = await self._stored_under(batch)
                    await self._replace(
                        {key: kept(versions, horizon) for key, versions in stored.items()}
                    )


async def _take_turns(size: int) -> int:
    """Let other tasks have a turn once `size` is large; returns the bytes since the last turn."""
    if size < _SLICE_BYTES:
        return size
    await trio.lowlevel.checkpoint()
    return 0


def _sound_versions(key: Key, saved: bytes, digest: bytes | None) -> list[Version]:
    """Decode what lies on the disk under a key; raises `BadMessage` where it decayed.

    `digest` is that of the tree, if it has the key. Signatures of what is in it were checked.
    """
    signed = codec.decode(SavedVersions, saved).versions
    versions = [version_of(each, codec.decode(Record, each.body)) for each in signed]
    if digest != digest_of(each.name for each in versions):
        versions = [version_of(each, open_record(each)) for each in signed]
    if any(each.key != key for each in versions):
        raise BadMessage("a record lies under the key of another one")
    return versions


def _batches(keys: Iterable[Key]) -> list[list[Key]]:
    """Split up what is changed at once, so that writes have their turn in between."""
    left = list(keys)
    return [left[start : start + MAX_BATCH] for start in range(0, len(left), MAX_BATCH)]


def _change(key: bytes, versions: Sequence[Version]) -> Change:
    """Lay out the versions under a key for the disk; with none, the key is deleted there."""
    if not versions:
        return Change(Table.RECORDS, key, None)
    saved = SavedVersions(tuple(version.signed for version in versions))
    deleted = all(version.record.value is None for version in versions)
    return Change(Table.RECORDS, key, codec.encode(saved), spare=deleted)
