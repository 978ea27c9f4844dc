"""Whose keys are whose: the key space cut into prefixes with the same closest nodes.

By XOR, the nodes closest to a key follow from its first bits, as many as it takes to tell
nodes apart (Maymounkov, Mazieres 2002, section 2.1). So what a node is responsible for are
all keys under a few prefixes, and a Merkle tree can be compared under these as it is.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import attrs

from p2pd.core.merkle import EVERYTHING, Prefix
from p2pd.ids import ID_BITS, distance

# Prefixes looked at for one cut. Each bit that nodes have in common takes twice as many prefixes to
# tell them apart, so an attacker who chooses node IDs could make it go on for ever.
MAX_VISITS = 128
# Prefixes looked at to find what is `outside` of others. A peer that confirms single keys could
# make this look at 256 prefixes for each of them.
MAX_OUTSIDE = 2048


@attrs.frozen
class ClosestSet:
    """The nodes closest to all keys under a prefix.

    For each of the `counts` asked for, the first `count` of `nodes` are the `count` closest; those
    between two counts are in no order. `rank` is how many are closer than the node that asked.
    """

    prefix: Prefix
    nodes: tuple[bytes, ...]
    rank: int


def closest_sets(
    own_id: bytes,
    nodes: Iterable[bytes],
    counts: tuple[int, ...],
    *,
    within: int,
    but_for: Callable[[Prefix], bool] = lambda _: False,
) -> list[ClosestSet]:
    """Cut what belongs to `own_id` into prefixes, and tell which nodes are closest to each.

    What belongs to it are the keys for which it is among the `within` (one of `counts`) closest of
    itself and `nodes`. The prefixes don't overlap. Prefixes for which `but_for` holds, because
    nothing is stored there, are left out. After `MAX_VISITS` a prefix is left whole: its `nodes`
    and `rank` may then hold for a part of its keys only.
    """
    cuts = _cut(own_id, nodes, counts, within, but_for)
    return [each for each in cuts if each.rank < within]


def foreign_prefixes(
    own_id: bytes,
    nodes: Iterable[bytes],
    count: int,
    *,
    but_for: Callable[[Prefix], bool],
) -> list[Prefix]:
    """Return the prefixes of all keys to which `count` of `nodes` are closer than `own_id`."""
    cuts = _cut(own_id, nodes, (count,), count, but_for)
    return [each.prefix for each in cuts if each.rank >= count]


def merged(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Return the fewest prefixes that hold the same keys as these, in the order of keys."""
    left = _paths(prefixes)
    for bits in range(max(left, default=0), 0, -1):
        paths = left.get(bits, {})
        for path in list(paths):
            if path & 1 == 0 and path | 1 in paths:
                del paths[path], paths[path | 1]
                left.setdefault(bits - 1, {})[path >> 1] = None
    found = [Prefix(bits, path) for bits, paths in left.items() for path in paths]
    found = [each for each in found if not _is_below(each, left)]
    return sorted(found, key=lambda each: (each.path << ID_BITS - each.bits, each.bits))


def without(prefixes: Iterable[Prefix], known: Iterable[Prefix]) -> list[Prefix]:
    """Return those that hold keys that none of `known`, an output of `merged`, holds."""
    paths = _paths(known)
    return [each for each in prefixes if not _is_in(each, paths)]


def shared(some: Iterable[Prefix], others: Iterable[Prefix]) -> list[Prefix]:
    """Return the prefixes of the keys that both of two lists hold, each of them `merged`."""
    one, other = list(some), list(others)
    new_in_one, new_in_other = without(one, other), without(other, one)
    in_both = [each for each in one if each not in new_in_one]
    return merged([*in_both, *(each for each in other if each not in new_in_other)])


def outside(prefixes: Iterable[Prefix], *, but_for: Callable[[Prefix], bool]) -> list[Prefix]:
    """Return the prefixes of all keys that none of `prefixes` holds.

    `but_for` as in `closest_sets`. After `MAX_OUTSIDE` a prefix is left whole, though some of its
    keys are held.
    """
    known = merged(prefixes)
    paths = _paths(known)
    starts = [each.path << ID_BITS - each.bits for each in known]
    found: list[Prefix] = []
    ahead = [EVERYTHING]
    for visits, prefix in enumerate(ahead):
        if but_for(prefix) or _is_in(prefix, paths):
            continue
        start = prefix.path << ID_BITS - prefix.bits
        end = start + (1 << ID_BITS - prefix.bits)
        if visits < MAX_OUTSIDE and bisect_left(starts, start) < bisect_left(starts, end):
            ahead += prefix.longer(1)
        else:
            found.append(prefix)
    return found


def population(own_id: bytes, nearest: Iterable[bytes]) -> float:
    """Estimate how many nodes there are from how near the nearest ones known are."""
    distances = sorted(distance(own_id, each) for each in nearest)
    return len(distances) / (distances[-1] / (1 << ID_BITS)) if distances else 1.0


def _paths(prefixes: Iterable[Prefix]) -> dict[int, dict[int, None]]:
    """Index prefixes by their bits; dictionaries, not sets, for their order."""
    paths: dict[int, dict[int, None]] = {}
    for each in prefixes:
        paths.setdefault(each.bits, {})[each.path] = None
    return paths


def _is_in(prefix: Prefix, paths: dict[int, dict[int, None]]) -> bool:
    return prefix.path in paths.get(prefix.bits, {}) or _is_below(prefix, paths)


def _is_below(prefix: Prefix, paths: dict[int, dict[int, None]]) -> bool:
    return any(
        prefix.path >> prefix.bits - bits in shorter
        for bits, shorter in paths.items()
        if bits < prefix.bits
    )


def _cut(
    own_id: bytes,
    nodes: Iterable[bytes],
    counts: tuple[int, ...],
    within: int,
    but_for: Callable[[Prefix], bool],
) -> Iterator[ClosestSet]:
    # Nodes in a group are equally far from the prefix, as far as it goes; the groups
    # stand in order. Those that are too far away to matter are left out.
    ahead: list[tuple[Prefix, list[list[bytes]]]] = [(EVERYTHING, [sorted({own_id, *nodes})])]
    most = max(counts)
    for visits, (prefix, groups) in enumerate(ahead):
        if but_for(prefix):
            continue
        near: list[list[bytes]] = []
        undecided: list[bool] = []
        start, rank = 0, most
        for group in groups:
            if start >= most:
                break
            end = start + len(group)
            if own_id in group:
                rank = start
            near.append(group)
            undecided.append(end > start + 1 and any(start < count < end for count in counts))
            start = end
        if rank >= within or visits >= MAX_VISITS or True not in undecided:
            yield ClosestSet(prefix, tuple(chain.from_iterable(near)), rank)
            continue
        halves = [
            _halves(group, prefix.bits) if divide else [group]
            for group, divide in zip(near, undecided, strict=True)
        ]
        # Nodes that have the key's bit are closer.
        without_bit, with_bit = prefix.longer(1)
        ahead.append((without_bit, list(chain.from_iterable(halves))))
        ahead.append((with_bit, list(chain.from_iterable(map(reversed, halves)))))


def _halves(group: list[bytes], index: int) -> list[list[bytes]]:
    """Split nodes, sorted and equal up to a bit, by that bit: those without it first."""
    at, bit = index >> 3, 0x80 >> (index & 7)
    middle = bisect_left(group, 1, key=lambda node: node[at] & bit)
    return [half for half in (group[:middle], group[middle:]) if half]
