"""Announcements that wait for each other: of a burst, many travel in one message.

Each waits `ANNOUNCE_AFTER` at most, which delays only peers that the tree does not reach.
"""

import math

from p2pd.ids import NodeId
from p2pd.wire.messages import MAX_IDS, Heard

# Seconds.
ANNOUNCE_AFTER = 0.05
MAX_ANNOUNCED = 1024


class Announcements:
    """What each peer is to be told of, up to `MAX_ANNOUNCED` each."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, dict[bytes, int]] = {}
        # In order, as all wait equally long; those that have filled a message come first.
        self._due: dict[NodeId, float] = {}

    def add(self, peer: NodeId, message_id: bytes, hops: int, now: float) -> None:
        """Have a peer told that it is here after `hops`; when full, the oldest is left out."""
        waiting = self._waiting.setdefault(peer, {})
        waiting[message_id] = hops
        if len(waiting) < MAX_IDS:
            self._due.setdefault(peer, now + ANNOUNCE_AFTER)
        elif self._due[peer] > now:
            del self._due[peer]
            self._due = {peer: now, **self._due}
        if len(waiting) > MAX_ANNOUNCED:
            del waiting[next(iter(waiting))]

    def take(self, peer: NodeId) -> list[bytes]:
        """Return the IDs that a peer was to be told, and tell it none of them."""
        self._due.pop(peer, None)
        return list(self._waiting.pop(peer, ()))

    def to_tell(self, now: float) -> list[tuple[NodeId, list[Heard]]]:
        """Return what to tell whom now, and forget it."""
        told = []
        while self.next_due() <= now:
            peer = next(iter(self._due))
            del self._due[peer]
            told.append((peer, [Heard(*each) for each in self._waiting.pop(peer).items()]))
        return told

    def next_due(self) -> float:
        """Return when to call `to_tell`, monotonic; `math.inf` for never."""
        return next(iter(self._due.values()), math.inf)
