"""What other peers hold that was never seen here: one peer at a time is asked for each.

After a partition several neighbours offer the same; otherwise anti-entropy would bring each
publication several times.
"""

import math
from collections import Counter
from itertools import takewhile

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId

# Seconds until another peer is asked for what one has offered.
RETRY = 3.0
# For this many seconds, a peer that did not bring a publication is not asked for it again, unless
# it is the only one.
BROKEN_FOR = 30.0
# The same, for a peer that brought others that it was asked for meanwhile: there may have been no
# room for all. One round, so that the next may find another peer.
SLOW_FOR = 5.0
MAX_WANTED = 8192
# Of one peer: what it tells in two rounds of anti-entropy, as both sides begin rounds.
MAX_WANTED_OF_ONE = MAX_WANTED // 8


@attrs.define
class _Wanted:
    """What a peer was asked for; `came`: from anybody."""

    peer: NodeId
    asked_at: float
    came: bool = False


class Offers:
    """Offers since the last `to_ask`, and what was asked for; at most `MAX_WANTED` of each.

    Of each, at most `MAX_WANTED_OF_ONE` are of the same peer. When full, an offer is declined: the
    next digest brings it again.
    """

    def __init__(self) -> None:
        self._offered: dict[bytes, NodeId] = {}
        self._offered_of: Counter[NodeId] = Counter()
        # Oldest first.
        self._wanted: dict[bytes, _Wanted] = {}
        self._wanted_of: Counter[NodeId] = Counter()
        # When each peer last brought what it was asked for.
        self._brought: dict[NodeId, float] = {}
        # Until when it counts that a peer did not bring what it offered; oldest first.
        self._broken = BoundedTable[tuple[bytes, NodeId], float](MAX_WANTED)

    def __len__(self) -> int:
        return len(self._offered)

    def offer(self, message_id: bytes, peer: NodeId, now: float, *, alone: bool) -> None:
        """Note that a peer holds it, unless another has said so since the last `to_ask`.

        A peer that recently offered it and did not bring it is passed over, unless it is `alone`
        with us.
        """
        self._expire(now)
        if message_id in self._offered or len(self._offered) >= MAX_WANTED:
            return
        if not alone and self._broken.get((message_id, peer), now) > now:
            return
        if self._offered_of[peer] < MAX_WANTED_OF_ONE:
            self._offered[message_id] = peer
            self._offered_of[peer] += 1

    def brought(self, peer: NodeId, now: float) -> None:
        """Note that a peer brings what it was asked for: the rest of its offers may follow."""
        self._brought[peer] = now

    def arrived(self, message_id: bytes) -> None:
        """Decline an offer of what has come; which peer was asked for it stays on record."""
        peer = self._offered.pop(message_id, None)
        if peer is not None:
            self._offered_of[peer] -= 1
        wanted = self._wanted.get(message_id)
        if wanted is not None:
            wanted.came = True

    def is_wanted(self, message_id: bytes, peer: NodeId) -> bool:
        """Whether this peer was recently asked for it."""
        wanted = self._wanted.get(message_id)
        return wanted is not None and wanted.peer == peer

    def link_down(self, peer: NodeId) -> None:
        """Forget what a peer offered and was asked for, so that others may bring it."""
        self._offered = {key: value for key, value in self._offered.items() if value != peer}
        self._wanted = {key: value for key, value in self._wanted.items() if value.peer != peer}
        del self._offered_of[peer], self._wanted_of[peer]
        self._brought.pop(peer, None)

    def to_ask(self, now: float) -> dict[NodeId, list[bytes]]:
        """Return whom to ask now for what."""
        self._expire(now)
        asks: dict[NodeId, list[bytes]] = {}
        for message_id, peer in self._offered.items():
            if (
                message_id in self._wanted
                or len(self._wanted) >= MAX_WANTED
                or self._wanted_of[peer] >= MAX_WANTED_OF_ONE
            ):
                continue
            self._wanted[message_id] = _Wanted(peer, now)
            self._wanted_of[peer] += 1
            asks.setdefault(peer, []).append(message_id)
        self._offered.clear()
        self._offered_of.clear()
        return asks

    def _expire(self, now: float) -> None:
        old = takewhile(lambda each: each[1].asked_at + RETRY <= now, self._wanted.items())
        for oldest, wanted in list(old):
            del self._wanted[oldest]
            self._wanted_of[wanted.peer] -= 1
            if not self._wanted_of[wanted.peer]:
                del self._wanted_of[wanted.peer]
            if not wanted.came:
                self._note_broken(oldest, wanted)

    def _note_broken(self, message_id: bytes, wanted: _Wanted) -> None:
        key = message_id, wanted.peer
        is_slow = self._brought.get(wanted.peer, -math.inf) >= wanted.asked_at
        self._broken[key] = wanted.asked_at + RETRY + (SLOW_FOR if is_slow else BROKEN_FOR)
