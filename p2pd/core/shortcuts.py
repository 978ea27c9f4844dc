"""Which link of the tree to exchange for a lazy one, so that publications take fewer hops.

Plumtree (section 3.8) exchanges links as soon as one announcement beats the tree by a
threshold. With many origins that never settles: what is a shortcut for one is a detour for
the next. Here the mean decides, over the publications that came in over one link.
Exchanging it for a lazy link leaves all distances within the two halves of the tree as they
are, and changes those across by that mean: so each exchange makes the mean distance between
two nodes of the tree smaller, and it comes to rest.
"""

import attrs

from p2pd.ids import NodeId

MAX_RECENT = 256
MAX_PAIRS = 1024
# Hops that an announcement must have been ahead, summed over at least so many publications
# and in the mean. Small enough to settle within some twenty publications, great enough that
# chance moves few links.
MIN_SAMPLES = 3
MIN_SUM = 4
MIN_MEAN = 0.5
_WINDOW = 32


@attrs.define
class _Gain:
    """By how many hops a lazy link would have been ahead of a tree link, so far."""

    total: float = 0.0
    samples: float = 0.0


class Shortcuts:
    """Compares announcements with what the tree brought."""

    def __init__(self) -> None:
        self._recent: dict[bytes, tuple[NodeId, int]] = {}
        self._gains: dict[tuple[NodeId, NodeId], _Gain] = {}

    def came(self, message_id: bytes, over: NodeId, hops: int) -> None:
        """Note over which tree link a publication came first, and after how many hops."""
        self._recent[message_id] = (over, hops)
        if len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]

    def announced(self, message_id: bytes, peer: NodeId, hops: int) -> NodeId | None:
        """Note that it came to a lazy peer after `hops`; returns the tree link to exchange.

        At the bound of pairs the one that was first seen starts anew.
        """
        over, own_hops = self._recent.get(message_id, (peer, 0))
        if over == peer:
            return None
        gain = self._gains.get((over, peer))
        if gain is None:
            gain = self._gains[over, peer] = _Gain()
            if len(self._gains) > MAX_PAIRS:
                del self._gains[next(iter(self._gains))]
        gain.total += own_hops - (hops + 1)
        gain.samples += 1
        if (
            gain.samples >= MIN_SAMPLES
            and gain.total >= MIN_SUM
            and gain.total >= MIN_MEAN * gain.samples
        ):
            return over
        if gain.samples >= _WINDOW:
            # The tree changes elsewhere: what was long ago counts less.
            gain.total, gain.samples = gain.total / 2, gain.samples / 2
        return None

    def clear(self) -> None:
        """Begin anew: an own tree link changed, so what was measured is of another tree."""
        self._recent.clear()
        self._gains.clear()
