"""Differences between two replicas that stay: one does not keep what the other has.

It may be full, or have a smaller `store.max_value_bytes`. To send the same records at each
comparison would be for nothing, until something changes.
"""

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import Key, NodeId

# How many differences are remembered; at the bound the one noted longest ago is forgotten, and
# sent once more.
MAX_KEPT = 8192
# Each further time the pause is twice as long, up to so many times the first one.
MOST_PAUSES = 8


@attrs.frozen
class Divergence:
    """A key that is not the same here and at a peer: digests of its versions, None for none.

    `sequence` is that of the peer's record: it may have more room after a restart.
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
    """What is not exchanged with whom for now; times are monotonic.

    `pause` is the first one, in seconds.
    """

    def __init__(self, pause: float) -> None:
        self._first_pause = pause
        self._kept = BoundedTable[tuple[NodeId, Key], _Stalemate](MAX_KEPT)

    def note(self, peer: NodeId, divergence: Divergence, now: float) -> None:
        """Note that a key was exchanged with a peer, and not all of it was kept."""
        last = self._kept.get((peer, divergence.key))
        pause = self._first_pause
        if last is not None and last.divergence == divergence:
            pause = min(2 * last.pause, MOST_PAUSES * self._first_pause)
        self._kept[peer, divergence.key] = _Stalemate(divergence, pause, now + pause)

    def holds(self, peer: NodeId, divergence: Divergence, now: float) -> bool:
        """Whether it is too early to exchange a key again that has changed on neither side."""
        last = self._kept.get((peer, divergence.key))
        return last is not None and last.divergence == divergence and now < last.until
