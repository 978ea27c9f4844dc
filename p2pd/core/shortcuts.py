"""Which link of the tree to exchange for a lazy one, so that the last node is reached sooner.

Plumtree (tree optimization) exchanges links as soon as one announcement beats the tree by a
threshold. With many origins that never settles: what is a shortcut for one is a detour for the
next. Here the sum over the publications that came in over one link decides. Exchanging that link
for a lazy one leaves all distances within the two halves of the tree as they are, and the sum
samples the distances across. Hops are raised to a high power: the longest paths count, as they
determine the time to the last node.
"""

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId

MAX_RECENT = 256
MAX_PAIRS = 1024
# Peers whose announcements of one publication are compared; those of further peers don't count.
MAX_COMPARED = 128
# Publications to compare, the power of hops, and the share to which the sum must fall. Chosen on
# random graphs of degree 7, with 100 and 1,000 nodes: a power of 1 exchanges several times as many
# links for trees that are no lower; with fewer samples, or a share nearer to 1, chance begins to
# decide.
MIN_SAMPLES = 8
POWER = 6
BETTER = 0.8
# Samples after which a link that is merely no worse is taken, too. Where no exchange makes the tree
# lower, one that leaves it as low may lead on: over 120 such graphs with 100 nodes, the last node
# was late for 7 of 12,000 publications, and for 47 without this.
WINDOW = 16


@attrs.define
class _Came:
    """Over which tree link a publication came, after how many hops; and the peers compared."""

    over: NodeId
    hops: int
    compared: dict[NodeId, None] = attrs.field(factory=dict)


@attrs.define
class _Pair:
    """Sums of powers of hops over a tree link, and as they would have been over a lazy one."""

    tree: int = 0
    lazy: int = 0
    samples: int = 0


class Shortcuts:
    """Compares announcements with what the tree brought."""

    def __init__(self) -> None:
        self._recent = BoundedTable[bytes, _Came](MAX_RECENT)
        self._pairs = BoundedTable[tuple[NodeId, NodeId], _Pair](MAX_PAIRS)

    def came(self, message_id: bytes, over: NodeId, hops: int) -> None:
        """Note over which tree link a publication came first, and after how many hops."""
        self._recent[message_id] = _Came(over, hops)

    def announced(self, message_id: bytes, peer: NodeId, hops: int) -> NodeId | None:
        """Note that a lazy peer has it after `hops`; returns the tree link to exchange, if any.

        Each publication counts once for each peer, or one that repeats a single announcement would
        get a tree link. When pairs are full, the one seen first is forgotten.
        """
        came = self._recent.get(message_id)
        if came is None or peer == came.over or peer in came.compared:
            return None
        if len(came.compared) >= MAX_COMPARED:
            return None
        came.compared[peer] = None
        over = came.over
        pair = self._pairs.get((over, peer))
        if pair is None:
            pair = self._pairs[over, peer] = _Pair()
        pair.tree += came.hops**POWER
        pair.lazy += (hops + 1) ** POWER
        pair.samples += 1
        if pair.samples >= WINDOW and pair.lazy > pair.tree:
            # As the tree changes elsewhere, these samples no longer count.
            del self._pairs[over, peer]
            return None
        better = pair.samples >= MIN_SAMPLES and pair.lazy <= BETTER * pair.tree
        # Only to a peer that had this publication after fewer hops, or two exchanges at once, at
        # two places in the tree, could split it.
        good = (better or pair.samples >= WINDOW) and hops < came.hops
        return over if good else None

    def clear(self) -> None:
        """Begin anew: a tree link of ours changed, so what was measured is of another tree."""
        self._recent.clear()
        self._pairs.clear()
