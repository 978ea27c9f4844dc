"""How many of a key's replicas have to answer, and how many did.

The replicas of a key are not a fixed group: they are the `dht.replication` closest nodes that
answer. Where fewer than that do, those count, too, that should have answered, or whoever is
cut off would be a majority of itself.
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
        """Return how many that is, where there are `wanted` replicas."""
        return wanted if self.count == math.inf else int(self.count) or wanted // 2 + 1


@attrs.frozen
class Turnout:
    """Who of the replicas of a key has answered.

    `nodes` are the replicas, the closest first, of which `answered` have answered, and the others
    may do so yet. `wanted` is how many there should be, `silent` how many near the key did not
    answer. `mostly_silent`: of those that should have what there is under the key no more than
    half have answered, so that it is not known to be absent.
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
    """Say who the `replication` replicas of a key are, and how many of them have answered.

    `answered` are all near the key that did, `pending` may do so yet; `silent` did not, though
    they may well run. `missing` is how many there are beyond the first two that should have
    answered, the silent ones included: that matters where those are fewer than `replication`.
    """
    nodes = closest_first({*answered, *pending}, key)[:replication]
    there = sum(node in answered for node in nodes)
    wanted = min(replication, len(nodes) + missing)
    unheard = max(len(silent), wanted - len(nodes))
    # Neither may those nearby hide it who fell silent, nor those who were not even found.
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
