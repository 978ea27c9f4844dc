"""Lasting differences between two replicas: one does not keep what the other has.

It may be full, or have a smaller `store.max_value_bytes`, or not take itself for a replica. Until
something changes, sending, or dropping, the same records again and again would be useless.
"""

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import Key, NodeId

# How many differences are remembered; when full, the one noted longest ago is forgotten, and its
# records are sent once more.
MAX_KEPT = 8192
# The pause doubles each further time, up to so many times the first one.
MOST_PAUSES = 8


@attrs.frozen
class Divergence:
    """A key that is not the same here and at a peer: digests of its versions, None for none.

    `sequence` is that of the peer's record: after a restart the peer may have more room.
    """

    key: Key
    ours: bytes | None
    theirs: bytes | None
    sequence: int


@attrs.frozen
class _Stalemate:
    divergence: Divergence
    pause: float
    until: float


class Stalemates:
    """What is not exchanged with which peer for now; times are monotonic.

    `pause` is the first one, in seconds.
    """

    def __init__(self, pause: float) -> None:
        self._first_pause = pause
        self._kept = BoundedTable[tuple[NodeId, Key], _Stalemate](MAX_KEPT)

    def note(self, peer: NodeId, divergence: Divergence, now: float) -> None:
        """Note that a key was exchanged with a peer, but not all of it was kept."""
        last = self._kept.get((peer, divergence.key))
        pause = self._first_pause
        if last is not None and last.divergence == divergence:
            pause = min(2 * last.pause, MOST_PAUSES * self._first_pause)
        self._kept[peer, divergence.key] = _Stalemate(divergence, pause, now + pause)

    def holds(self, peer: NodeId, divergence: Divergence, now: float) -> bool:
        """Whether it is too early to exchange a key again that has changed on neither side."""
        last = self._kept.get((peer, divergence.key))
        return last is not None and last.divergence == divergence and now < last.until
