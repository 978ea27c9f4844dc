"""The registry on disk: loaded at start, saved when it has changed and at the end."""

import logging
from contextlib import suppress
from typing import Annotated

import attrs
import trio

from p2pd.address import Address
from p2pd.core.entries import Entry, Source, Status
from p2pd.core.registry import Registry
from p2pd.errors import BadMessage, StoreError
from p2pd.ids import NodeId
from p2pd.node.events import Events
from p2pd.store.base import Change, Store, Table
from p2pd.wire import codec
from p2pd.wire.messages import Labels, Length, Range, Signed

SAVE_INTERVAL = 30.0
# Entries that are encoded, some 12 microseconds each, before other tasks get a turn.
_AT_ONCE = 128
_MAX_ERROR = 1024

Count = Annotated[int, Range(0, (1 << 63) - 1)]
# In milliseconds, up to the end of the year 9999, the last that RFC 3339 can write.
Moment = Annotated[int, Range(0, 253_402_300_799_999)]


@attrs.frozen
class _SavedBefore:
    """A registry entry as older versions saved it, without the addresses that had answered."""

    source: Annotated[str, Length(0, 32)]
    signed: Signed | None
    sequence: Annotated[int, Range(-1, (1 << 63) - 1)]
    name: Annotated[str, Length(0, 64)]
    addresses: Labels
    success_count: Count
    fail_count: Count
    first_seen: Moment
    last_seen: Moment
    last_error: Annotated[str, Length(0, _MAX_ERROR)]


@attrs.frozen
class SavedPeer(_SavedBefore):
    """A registry entry as it lies on disk; its key is the node ID."""

    answered: Labels


async def load_registry(store: Store, registry: Registry, events: Events) -> None:
    """Fill the registry with what was saved; an entry that can't be read is deleted."""
    unreadable: list[Change] = []
    async for key, value in store.scan(Table.PEERS):
        try:
            registry.restore(_restored(NodeId(key), _decoded(value)))
        except (BadMessage, ValueError):
            unreadable.append(Change(Table.PEERS, key, None))
    registry.choose_anchors()
    if unreadable:
        events.emit(
            "registry.unreadable",
            f"{len(unreadable)} saved peers could not be read and are forgotten",
            level=logging.WARNING,
        )
        # A disk that refuses has them told of again at the next start.
        with suppress(StoreError):
            await store.apply(unreadable)


async def keep_registry(store: Store, registry: Registry, events: Events) -> None:
    """Save changes every half minute, until cancelled; without changes nothing is written."""
    saved = True
    while True:
        await trio.sleep(SAVE_INTERVAL)
        saved = await save_registry(store, registry, events, told=not saved)


async def save_registry(
    store: Store, registry: Registry, events: Events, *, told: bool = False
) -> bool:
    """Write what changed since the last time; returns whether all is on disk.

    A disk that refuses is reported, unless that was `told` before; what it refused is
    written the next time.
    """
    changed, gone = registry.take_changes()
    if not changed and not gone:
        return True
    changes = [Change(Table.PEERS, node_id, None) for node_id in gone]
    saved = False
    try:
        for number, (node_id, entry) in enumerate(changed, 1):
            changes.append(Change(Table.PEERS, node_id, _saved(entry)))
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        await store.apply(changes)
        saved = True
    except StoreError as error:
        if not told:
            text = f"the peer registry is not saved: {error}"
            events.emit("registry.unsaved", text, level=logging.WARNING)
    finally:
        # Also where this is cancelled: the last save before the end is still to come.
        if not saved:
            registry.not_saved([*dict(changed), *gone])
    return saved


def _saved(entry: Entry) -> bytes:
    return codec.encode(
        SavedPeer(
            source=entry.source.value,
            signed=entry.signed,
            sequence=entry.sequence,
            name=entry.name or "",
            addresses=tuple(map(str, entry.addresses)),
            success_count=entry.success_count,
            fail_count=entry.fail_count,
            first_seen=int(entry.first_seen * 1000),
            last_seen=int((entry.last_seen or 0) * 1000),
            last_error=codec.clip(entry.last_error or "", _MAX_ERROR),
            answered=tuple(map(str, entry.answered)),
        )
    )


def _decoded(value: bytes) -> SavedPeer:
    try:
        return codec.decode(SavedPeer, value)
    except BadMessage:
        before = codec.decode(_SavedBefore, value)
        return SavedPeer(**attrs.asdict(before, recurse=False), answered=())


def _restored(node_id: NodeId, saved: SavedPeer) -> Entry:
    return Entry(
        node_id=node_id,
        source=Source(saved.source),
        first_seen=saved.first_seen / 1000,
        signed=saved.signed,
        sequence=saved.sequence,
        name=saved.name or None,
        addresses=[Address.parse(text) for text in saved.addresses],
        answered=tuple(map(Address.parse, saved.answered)),
        status=Status.DISCONNECTED,
        success_count=saved.success_count,
        fail_count=saved.fail_count,
        last_seen=saved.last_seen / 1000 or None,
        last_error=saved.last_error or None,
    )
