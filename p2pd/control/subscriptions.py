"""What a subscriber is still to be told: bounded, with a count of what was left out."""

import logging
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from p2pd.control import api
from p2pd.control.methods import Node, event_json, message_json, peer_json
from p2pd.node.events import Event
from p2pd.node.snapshot import Delivery, PeerSnapshot

MAX_PENDING: Final = 1024
"""How many events (or changed peers, or messages) wait for one slow subscriber."""

MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
"""How many bytes of messages wait for one slow subscriber."""

T = TypeVar("T")


class Backlog(Generic[T]):
    """Items on their way to one subscriber, in order.

    Each has a key, and replaces an item that still waits under the same key. Beyond
    `MAX_PENDING` items or `MAX_PENDING_BYTES` the newest are counted instead of kept,
    until those before them are taken.
    """

    def __init__(self) -> None:
        self._items: dict[Hashable, T] = {}
        self._bytes = 0
        self._missed = 0
        self._closed = False
        self._wake = trio.Event()

    def offer(self, key: Hashable, item: T, size: int = 0) -> None:
        """Add an item that takes `size` bytes."""
        if key in self._items or self._has_room(size):
            self._items[key] = item
            self._bytes += size
        else:
            self._missed += 1
        self._wake.set()

    def close(self) -> None:
        """Let `take` return None from now on."""
        self._closed = True
        self._wake.set()

    async def take(self) -> tuple[list[T], int] | None:
        """Wait for items; returns all of them, and how many were left out after them."""
        await self._wake.wait()
        if self._closed:
            return None
        taken = list(self._items.values()), self._missed
        self._items, self._bytes, self._missed, self._wake = {}, 0, 0, trio.Event()
        return taken

    def _has_room(self, size: int) -> bool:
        # A small item must not slip in after a large one was left out: the count of what
        # was missed is told after everything that was kept.
        return (
            not self._missed
            and len(self._items) < MAX_PENDING
            and self._bytes + size <= MAX_PENDING_BYTES
        )


class Feed(Protocol):
    """One kind of subscription: the node on one side, notifications on the other."""

    def attached(self) -> AbstractContextManager[None]:
        """Within the `with`, take note of what the node has to tell."""

    def close(self) -> None:
        """End the subscription."""

    async def next_batch(self) -> list[dict[str, Any]] | None:
        """Wait for something to tell: the members of each notification, None at the end."""


class EventFeed:
    """`watch`: each event, in order; those for debugging only are left to the log."""

    def __init__(self, node: Node, params: api.Params) -> None:  # noqa: ARG002 - like every feed
        self._node = node
        self._backlog: Backlog[Event] = Backlog()
        self._count = 0
        self.close = self._backlog.close

    def attached(self) -> AbstractContextManager[None]:
        """Within the `with`, take note of events."""
        return self._node.events.sent_to(self._note)

    def _note(self, event: Event) -> None:
        if event.level < logging.INFO:
            return
        self._count += 1
        self._backlog.offer(self._count, event)

    async def next_batch(self) -> list[dict[str, Any]] | None:
        """Wait for events."""
        taken = await self._backlog.take()
        if taken is None:
            return None
        events, missed = taken
        return [{"event": event_json(event)} for event in events] + _missed(missed)


class PeerFeed:
    """`peers.watch`: the whole registry once, then each entry that an event speaks of.

    An entry is read when it is sent, so several changes in a row may arrive as one. With a
    `status`, an entry that loses this status is sent once more.
    """

    def __init__(self, node: Node, params: api.Params) -> None:
        self._node = node
        self._status: str | None = params.get("status")
        self._shown: set[str] = set()
        self._first = True
        self._backlog: Backlog[str] = Backlog()
        self.close = self._backlog.close

    def attached(self) -> AbstractContextManager[None]:
        """Within the `with`, take note of peers that change."""
        return self._node.events.sent_to(self._note)

    def _note(self, event: Event) -> None:
        if not event.code.startswith("peer."):
            return
        name = event.fields.get("address") if event.peer is None else event.peer
        if name is not None:
            self._backlog.offer(str(name), str(name))

    async def next_batch(self) -> list[dict[str, Any]] | None:
        """Wait for changed entries."""
        if self._first:
            self._first = False
            return [{"peer": peer_json(peer)} for peer in self._node.peers() if self._shows(peer)]
        taken = await self._backlog.take()
        if taken is None:
            return None
        names, missed = taken
        entries = {_name(peer): peer for peer in self._node.peers(frozenset(names))}
        self._shown.difference_update(each for each in names if each not in entries)
        changed = [entries[name] for name in names if name in entries]
        return [{"peer": peer_json(peer)} for peer in changed if self._shows(peer)] + _missed(
            missed
        )

    def _shows(self, peer: PeerSnapshot) -> bool:
        if self._status is None:
            return True
        name = _name(peer)
        if peer.status == self._status:
            self._shown.add(name)
            return True
        if name in self._shown:
            self._shown.remove(name)
            return True
        return False


class MessageFeed:
    """`subscribe`: each message on the topics asked for, in the order of its arrival here."""

    def __init__(self, node: Node, params: api.Params) -> None:
        self._node = node
        self._topics = frozenset(params.get("topics", ()))
        self._backlog: Backlog[Delivery] = Backlog()
        self._count = 0
        self.close = self._backlog.close

    def attached(self) -> AbstractContextManager[None]:
        """Within the `with`, take note of messages."""
        return self._node.deliveries(self._topics, self._note)

    def _note(self, message: Delivery) -> None:
        self._count += 1
        self._backlog.offer(self._count, message, len(message.data))

    async def next_batch(self) -> list[dict[str, Any]] | None:
        """Wait for messages."""
        taken = await self._backlog.take()
        if taken is None:
            return None
        messages, missed = taken
        return [{"message": message_json(message)} for message in messages] + _missed(missed)


FEEDS: Final[Mapping[str, Callable[[Node, api.Params], Feed]]] = {
    "watch": EventFeed,
    "peers.watch": PeerFeed,
    "subscribe": MessageFeed,
}


def _name(peer: PeerSnapshot) -> str:
    return str(peer.address if peer.node_id is None else peer.node_id)


def _missed(count: int) -> list[dict[str, Any]]:
    return [{"missed": count}] if count else []
