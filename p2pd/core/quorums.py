"""How many of a key's replicas have to answer, and how many did.

The replicas of a key are not a fixed group: they are the `dht.replication` closest nodes that
answer. If fewer answer, those that should have answered count as well; otherwise a node that is cut
off would be its own majority.
"""

import math
from collections.abc import Collection

import attrs

from p2pd.ids import NodeId, closest_first


@attrs.frozen
class Needed:
    """How many replicas must answer: `count`, 0 for a majority, infinity for all of them."""

    count: float

    def of(self, wanted: int) -> int:
        """Return how many that is if there are `wanted` replicas."""
        return wanted if self.count == math.inf else int(self.count) or wanted // 2 + 1


@attrs.frozen
class Turnout:
    """Which replicas of a key have answered.

    `nodes` are the replicas, closest first, of which `answered` have answered; the others may yet
    do so. `wanted` is how many there should be, `silent` how many near the key did not answer.
    `mostly_silent`: at most half of the nodes that should hold the key have answered, so its
    absence is not established.
    """

    nodes: list[NodeId]
    answered: int
    wanted: int
    silent: int
    mostly_silent: bool

    def suffices(self, needed: Needed) -> bool:
        """Whether as many of the replicas as are needed have answered."""
        return self.answered >= needed.of(self.wanted)


def turnout(
    key: bytes,
    replication: int,
    *,
    answered: Collection[NodeId],
    pending: Collection[NodeId],
    silent: Collection[NodeId],
    missing: int,
) -> Turnout:
    """Say which nodes are a key's `replication` replicas, and how many have answered.

    `answered` are all near the key that did, `pending` may yet do so; `silent` did not, though they
    may well run. `missing` is how many should have answered, besides `answered` and `pending` and
    including the silent: it matters where those two are fewer than `replication`.
    """
    nodes = closest_first({*answered, *pending}, key)[:replication]
    there = sum(node in answered for node in nodes)
    wanted = min(replication, len(nodes) + missing)
    unheard = max(len(silent), wanted - len(nodes))
    # Neither silent nodes nearby nor nodes that were never found may conceal the key.
    near = closest_first({*answered, *silent}, key)[:replication]
    near_answered = sum(node in answered for node in near)
    return Turnout(
        nodes,
        there,
        wanted,
        unheard,
        mostly_silent=near_answered <= len(near) // 2
        or there <= min(there + unheard, replication) // 2,
    )
