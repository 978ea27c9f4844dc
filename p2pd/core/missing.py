"""Publications that were announced but have not come: whom to ask for them, and when.

Plumtree, tree repair: the announcers are asked one after the other, the first one only
after the time in which the copy over the tree should have come.
"""

import heapq
import math
from collections import Counter

import attrs

from p2pd.ids import NodeId

MAX_MISSING = 4096
# First announced by one peer: no single peer can fill the table with IDs that never come.
MAX_MISSING_OF_ONE = MAX_MISSING // 8
MAX_ANNOUNCERS = 8
# Seconds. The copy over the tree travels more links than the announcement, which in turn waits to
# be batched: fifteen links of 50 ms, as in a tree of a thousand nodes that is not low yet. If this
# were less, what is only late would come twice and prune its links, and the tree would never
# settle.
GRAFT_AFTER = 0.75
# Seconds: what an answer takes at most on most links. If shorter, a slow link brings each
# publication several times; if longer, one dead announcer holds it up.
GRAFT_AGAIN = 0.3


@attrs.define
class Absent:
    """One that has not come: who can still be asked, and over how many hops it came to them.

    `first` is the peer that announced it first. Hops are None for one that only listed it in a
    digest.
    """

    first: NodeId
    due: float
    announcers: dict[NodeId, int | None] = attrs.field(factory=dict)
    asked: dict[NodeId, int | None] = attrs.field(factory=dict)


class Missing:
    """All that have not come, at most `MAX_MISSING`, each with up to `MAX_ANNOUNCERS`.

    At most `MAX_MISSING_OF_ONE` of them were first announced by one peer, even if its link is gone.
    """

    def __init__(self) -> None:
        self._absent: dict[bytes, Absent] = {}
        self._first_of: Counter[NodeId] = Counter()
        # An entry is stale once its time differs from its `Absent`'s.
        self._timers: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._absent)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._absent

    def announced(self, message_id: bytes, peer: NodeId, hops: int | None, now: float) -> None:
        """Note that a peer has it, and over how many `hops`, if it said.

        Each is asked once, and again if it says so by itself after that: it had no room for it. Who
        was asked in vain makes room for another one that has it.
        When full, a new ID is not noted; nor is it if `peer` has used up its share, unless another
        announces it.
        """
        absent = self._absent.get(message_id)
        if absent is None:
            if len(self._absent) >= MAX_MISSING or self._first_of[peer] >= MAX_MISSING_OF_ONE:
                return
            absent = self._absent[message_id] = Absent(peer, now + GRAFT_AFTER)
            self._first_of[peer] += 1
            heapq.heappush(self._timers, (absent.due, message_id))
        if peer in absent.asked:
            if hops is not None:
                absent.announcers[peer] = hops
        elif peer in absent.announcers or _has_place(absent):
            absent.announcers.setdefault(peer, hops)

    def was_asked_by_digest(self, message_id: bytes, peer: NodeId) -> bool:
        """Whether a peer was asked for it that never announced it, but listed it by a digest."""
        absent = self._absent.get(message_id)
        return absent is not None and peer in absent.asked and absent.asked[peer] is None

    def arrived(self, message_id: bytes) -> Absent | None:
        """Forget it, as it has come; returns what was known of it."""
        absent = self._absent.pop(message_id, None)
        if absent is not None:
            self._first_of[absent.first] -= 1
            if not self._first_of[absent.first]:
                del self._first_of[absent.first]
        return absent

    def link_down(self, peer: NodeId, now: float, *, eager: bool) -> None:
        """Ask nobody over a link that is gone, and stop waiting for what it was to bring.

        `eager`: any of them could have come over it by itself.
        """
        for message_id, absent in self._absent.items():
            absent.announcers.pop(peer, None)
            is_waited_for = eager or next(reversed(absent.asked), None) == peer
            # Its place is for others: those who come, are asked and go could fill them all.
            absent.asked.pop(peer, None)
            if is_waited_for:
                absent.due = min(absent.due, now)
                heapq.heappush(self._timers, (absent.due, message_id))

    def to_ask(self, now: float) -> dict[NodeId, list[bytes]]:
        """Return whom to ask now for what, and wait for the answers.

        IDs for which nobody is left to ask are forgotten.
        """
        asks: dict[NodeId, list[bytes]] = {}
        while self.next_due() <= now:
            _, message_id = heapq.heappop(self._timers)
            absent = self._absent[message_id]
            if not absent.announcers:
                self.arrived(message_id)
                continue
            # Whoever was not asked comes first: one that only announces would keep it from all.
            fresh = (each for each in absent.announcers if each not in absent.asked)
            peer = next(fresh, next(iter(absent.announcers)))
            absent.asked.pop(peer, None)
            absent.asked[peer] = absent.announcers.pop(peer)
            absent.due = now + GRAFT_AGAIN
            heapq.heappush(self._timers, (absent.due, message_id))
            asks.setdefault(peer, []).append(message_id)
        return asks

    def next_due(self) -> float:
        """Return when to call `to_ask`, monotonic; `math.inf` for never."""
        while self._timers:
            due, message_id = self._timers[0]
            absent = self._absent.get(message_id)
            if absent is not None and absent.due == due:
                return due
            heapq.heappop(self._timers)
        return math.inf


def _has_place(absent: Absent) -> bool:
    """Whether one more announcer may be noted, after forgetting one that was asked in vain.

    Otherwise those who announce again and again what they never send would keep it from all others.
    """
    if len(absent.announcers.keys() | absent.asked.keys()) < MAX_ANNOUNCERS:
        return True
    in_vain = next(iter(absent.asked), None)
    if in_vain is None or len(absent.asked) == 1:
        # The last one that was asked may still answer.
        return False
    del absent.asked[in_vain]
    absent.announcers.pop(in_vain, None)
    return True
