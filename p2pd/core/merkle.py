"""Which records two replicas hold differently: Merkle trees, compared from the top down.

After Dynamo (DeCandia et al. 2007, section 4.7), as the anti-entropy of Demers et al. (1987).
Where two fingerprints are equal, so is everything below; where they differ, the ones below are
exchanged. So n differences among m records cost O(n log m)::

    comparison = Comparison(tree, prefixes, rng)
    while (question := comparison.next()) is not None:
        comparison.answered(...)    # what `compare(their_tree, question)` gave over there
    comparison.only_here, comparison.only_there, comparison.different

A node has one tree of all that it stores, kept up to date, for all its neighbours. Two replicas
hold overlapping sets, but the keys that belong to both are exactly those under a few prefixes, so
parts of the tree are compared as they are: no tree is built for one neighbour.

Fingerprints are hashes of hashes. An exclusive or, or a sum, of the digests below would be
easier to keep up to date, but a writer could choose records that cancel out: with the exclusive or
by solving linear equations, with the sum by the generalized birthday problem (Wagner 2002). With
hashes, the writer needs a collision of SHA-256 cut to 16 bytes, 2**64 steps, and hides only one
difference, which a read of the key repairs.
"""

import hashlib
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from p2pd.errors import BadMessage
from p2pd.ids import ID_BITS, ID_BYTES, distance_bits
from p2pd.wire.messages import (
    ENTRY_BYTES,
    FINGERPRINT_BYTES,
    MAX_LISTED,
    MAX_SUBTREES,
    STEP,
    Compare,
    Compared,
    Difference,
    Subtree,
)

EMPTY = bytes(FINGERPRINT_BYTES)
# Up to so many keys are one leaf, in the tree of every node: fingerprints depend on it. From
# `ID_BITS - STEP` bits on there can't be more, so an answer with children never runs past the last
# bit.
MAX_LEAF = 1 << STEP
# Bounds of one comparison. A liar can make it go on this long; each question costs both sides some
# milliseconds at most.
MAX_QUESTIONS = 64
MAX_PENDING = 4096
MAX_FOUND = 4096


@attrs.frozen
class Prefix:
    """The first `bits` bits of keys, as the integer `path`."""

    bits: int = 0
    path: int = 0

    def holds(self, key: bytes) -> bool:
        """Whether a key begins with this prefix."""
        return int.from_bytes(key) >> ID_BITS - self.bits == self.path

    def bit(self, index: int) -> int:
        """Return one of its bits; the first has index 0."""
        return self.path >> self.bits - 1 - index & 1

    def longer(self, bits: int) -> list["Prefix"]:
        """Return all prefixes that are longer by `bits` bits, in order."""
        first = self.path << bits
        return [Prefix(self.bits + bits, first + each) for each in range(1 << bits)]


EVERYTHING = Prefix()


class Tree:
    """The digests of all versions that a node stores, by key.

    Takes 70 bytes of memory for a key (measured with 100,000), 210 where somebody chose the keys to
    that end. A change costs some tens of microseconds, and as much again for the hashes above it,
    which are computed when next asked for.

    A binary trie in which a branch stands where keys first differ (Morrison 1968, PATRICIA), so
    that long common prefixes cost nothing. A subtree of up to `MAX_LEAF` keys is one leaf. So the
    shape, and with it what every fingerprint covers, follows from the keys alone.
    """

    def __init__(self, records: Mapping[bytes, Iterable[bytes]] | None = None) -> None:
        """Take the names of the versions by key, at least one of each."""
        entries = [_entry(key, names) for key, names in (records or {}).items()]
        self._root = _build(b"".join(sorted(entries)))

    def __len__(self) -> int:
        return self._root.count

    def __contains__(self, key: bytes) -> bool:
        return self.digest(key) is not None

    def digest(self, key: bytes) -> bytes | None:
        """Return the digest of the versions under a key; None for nothing."""
        entries = self._descend(key)[1].entries
        start = _position(entries, key)
        end = start + ENTRY_BYTES
        return entries[start + ID_BYTES : end] if entries.startswith(key, start) else None

    def put(self, key: bytes, names: Iterable[bytes]) -> None:
        """Note that these are the versions under a key now: their names, in any order."""
        entry = _entry(key, names)
        above, leaf = self._descend(key)
        start = _position(leaf.entries, key)
        end = start + ENTRY_BYTES * leaf.entries.startswith(key, start)
        if end == start and leaf.entries:
            shared = ID_BITS - distance_bits(key, leaf.entries[:ID_BYTES])
            for place, branch in enumerate(above):
                if branch.bits > shared:
                    new = _Leaf(entry)
                    pair = (branch, new) if _bit(key, shared) else (new, branch)
                    self._replace(above[:place], branch, _branch(shared, *pair))
                    return
        self._replace(above, leaf, _build(leaf.entries[:start] + entry + leaf.entries[end:]))

    def remove(self, key: bytes) -> None:
        """Note that nothing is stored under a key any more."""
        above, leaf = self._descend(key)
        start = _position(leaf.entries, key)
        if not leaf.entries.startswith(key, start):
            return
        rest = leaf.entries[:start] + leaf.entries[start + ENTRY_BYTES :]
        self._replace(above, leaf, _Leaf(rest))
        if not above:
            return
        branch = above.pop()
        if branch.count <= MAX_LEAF:
            self._replace(above, branch, _Leaf(_entries(branch)))
        elif not rest:
            self._replace(above, branch, branch.left if branch.left.count else branch.right)

    def fingerprint(self, prefix: Prefix = EVERYTHING) -> bytes:
        """Return 16 bytes that are equal if all below a prefix is; `EMPTY` if there is nothing."""
        return _fingerprint(_under(self._root, prefix))

    def is_empty(self, prefix: Prefix) -> bool:
        """Whether there is nothing below a prefix."""
        return _under(self._root, prefix).count == 0

    def entries(self, prefix: Prefix = EVERYTHING) -> Iterator[tuple[bytes, bytes]]:
        """Go through keys and digests of their versions, in the order of the keys."""
        for leaf in _leaves(_under(self._root, prefix)):
            yield from _unpacked(leaf.entries)

    def tell(self, prefix: Prefix, fingerprint: bytes) -> tuple[bytes, bytes] | None:
        """Return what a `Difference` tells an asker with this fingerprint; None if there is none.

        That is `children` and `entries`.
        """
        node = _under(self._root, prefix)
        if _fingerprint(node) == fingerprint:
            return None
        if node.count <= (MAX_LISTED if fingerprint == EMPTY else MAX_LEAF):
            return b"", _entries(node)
        return b"".join(self.children(prefix)), b""

    def children(self, prefix: Prefix) -> list[bytes]:
        """Return the 16 fingerprints `STEP` bits further down."""
        nodes = [_under(self._root, prefix)]
        for bits in range(prefix.bits, prefix.bits + STEP):
            nodes = [half for node in nodes for half in _halves(node, bits)]
        return [_fingerprint(node) for node in nodes]

    def _descend(self, key: bytes) -> tuple[list["_Branch"], "_Leaf"]:
        """Go down by the bits of a key alone; whether its other bits match shows in the leaf."""
        above: list[_Branch] = []
        node = self._root
        while isinstance(node, _Branch):
            above.append(node)
            node = node.right if _bit(key, node.bits) else node.left
        return above, node

    def _replace(self, above: Sequence["_Branch"], old: "_Node", new: "_Node") -> None:
        for branch in above:
            branch.count += new.count - old.count
            branch.fingerprint = b""
        if not above:
            self._root = new
        elif above[-1].left is old:
            above[-1].left = new
        else:
            above[-1].right = new


def compare(tree: Tree, question: Compare) -> Compared:
    """Answer a question; raises `BadMessage` for an invalid path."""
    told = [tree.tell(prefix_of(each), each.fingerprint) for each in question.subtrees]
    return Compared(
        tuple(Difference(index, *each) for index, each in enumerate(told) if each is not None)
    )


def digest_of(names: Iterable[bytes]) -> bytes | None:
    """Return what represents versions of these names in a tree; None if there are none."""
    ordered = sorted(names)
    return _hash(b"".join(ordered)) if ordered else None


class Comparison:
    """A comparison of our own tree with a neighbour's, under `prefixes` that don't overlap.

    Both trees may change meanwhile. Whatever the neighbour answers, there are at most
    `MAX_QUESTIONS` questions and `MAX_FOUND` keys; the rest is left to another comparison. Chance
    decides what is left out, so that what can't be repaired does not block the rest for ever.

    What differs are the keys `only_here`, those `only_there` and those with `different` versions,
    the latter two with the neighbour's digests.
    """

    def __init__(self, tree: Tree, prefixes: Iterable[Prefix], rng: random.Random) -> None:
        self.only_here: list[bytes] = []
        self.only_there: dict[bytes, bytes] = {}
        self.different: dict[bytes, bytes] = {}
        self._tree = tree
        self._rng = rng
        self._questions = 0
        self._asked: list[Prefix] = []
        self._pending: list[Prefix] = []
        self._bounded = False
        self._add(prefixes)

    @property
    def complete(self) -> bool:
        """Whether everything was compared; else more may differ than was found."""
        return not self._bounded and not self._pending and not self._asked

    def next(self) -> Compare | None:
        """Return what to ask the neighbour; None at the end."""
        if not self._pending or self._questions == MAX_QUESTIONS or self._room == 0:
            return None
        self._questions += 1
        # The deepest first: this keeps little pending, and finds some keys soon.
        self._asked = self._pending[-MAX_SUBTREES:]
        del self._pending[-MAX_SUBTREES:]
        return Compare(
            tuple(_subtree(prefix, self._tree.fingerprint(prefix)) for prefix in self._asked)
        )

    def answered(self, answer: Compared) -> None:
        """Take the answer to the last question.

        Raises `BadMessage` for one that does not match it. What was found until then stays.
        """
        last = -1
        for each in answer.differences:
            if not last < each.index < len(self._asked):
                raise BadMessage("subtrees that were not asked for, or not in order")
            last = each.index
            if each.children:
                self._compare_children(self._asked[each.index], each)
            else:
                self._compare_entries(self._asked[each.index], each.entries)
        self._asked = []

    @property
    def _room(self) -> int:
        found = len(self.only_here) + len(self.only_there) + len(self.different)
        return MAX_FOUND - found

    def _compare_children(self, prefix: Prefix, theirs: Difference) -> None:
        if len(theirs.children) != FINGERPRINT_BYTES << STEP or theirs.entries:
            raise BadMessage("neither children nor entries")
        if prefix.bits + STEP > ID_BITS:
            raise BadMessage("children of a key")
        told = _chunks(theirs.children, FINGERPRINT_BYTES)
        pairs = zip(prefix.longer(STEP), self._tree.children(prefix), told, strict=True)
        differing = [(child, there) for child, here, there in pairs if here != there]
        self._add(child for child, there in differing if there != EMPTY)
        for child, there in differing:
            if there == EMPTY:
                self._compare_entries(child, b"")

    def _compare_entries(self, prefix: Prefix, entries: bytes) -> None:
        theirs = dict(_unpacked(entries))
        if len(theirs) * ENTRY_BYTES != len(entries) or not all(map(prefix.holds, theirs)):
            raise BadMessage("half an entry, a key twice, or one of another subtree")
        for key, digest in self._tree.entries(prefix):
            there = theirs.pop(key, None)
            if there == digest:
                continue
            if not self._room:
                self._bounded = True
                return
            if there is None:
                self.only_here.append(key)
            else:
                self.different[key] = there
        for key, there in theirs.items():
            if not self._room:
                self._bounded = True
                return
            self.only_there[key] = there

    def _add(self, prefixes: Iterable[Prefix]) -> None:
        added = list(prefixes)
        self._rng.shuffle(added)
        room = MAX_PENDING - len(self._pending)
        self._bounded = self._bounded or len(added) > room
        self._pending += added[:room]


def _subtree(prefix: Prefix, fingerprint: bytes) -> Subtree:
    path = prefix.path << -prefix.bits % 8
    return Subtree(path.to_bytes((prefix.bits + 7) // 8), prefix.bits, fingerprint)


def prefix_of(subtree: Subtree) -> Prefix:
    """Read the path of a subtree; raises `BadMessage` for an invalid one."""
    prefix = Prefix(subtree.bits, int.from_bytes(subtree.path) >> -subtree.bits % 8)
    if prefix.path.bit_length() > prefix.bits or _subtree(prefix, subtree.fingerprint) != subtree:
        raise BadMessage("not the path of a subtree")
    return prefix


@attrs.define(eq=False, weakref_slot=False)
class _Leaf:
    """Up to `MAX_LEAF` keys, each with its digest, in order; packed, at a third of the memory."""

    entries: bytes
    fingerprint: bytes = b""

    @property
    def count(self) -> int:
        return len(self.entries) // ENTRY_BYTES


@attrs.define(eq=False, weakref_slot=False)
class _Branch:
    """More keys, all the same in their first `bits` bits; the next bit tells left from right.

    An empty fingerprint is yet to be computed.
    """

    bits: int
    left: "_Node"
    right: "_Node"
    count: int
    fingerprint: bytes = b""


_Node = _Leaf | _Branch


def _build(entries: bytes) -> _Node:
    if len(entries) <= MAX_LEAF * ENTRY_BYTES:
        return _Leaf(entries)
    first, last = entries[:ID_BYTES], entries[-ENTRY_BYTES:-FINGERPRINT_BYTES]
    bits_after = distance_bits(first, last) - 1
    least_right = (int.from_bytes(last) >> bits_after << bits_after).to_bytes(ID_BYTES)
    middle = _position(entries, least_right)
    return _branch(ID_BITS - bits_after - 1, _build(entries[:middle]), _build(entries[middle:]))


def _branch(bits: int, left: _Node, right: _Node) -> _Branch:
    return _Branch(bits, left, right, left.count + right.count)


def _under(node: _Node, prefix: Prefix) -> _Node:
    """Return the node of all keys below `node` that begin with the prefix."""
    while isinstance(node, _Branch) and node.bits < prefix.bits:
        node = node.right if prefix.bit(node.bits) else node.left
    if isinstance(node, _Branch):
        return node if prefix.holds(next(_leaves(node)).entries[:ID_BYTES]) else _Leaf(b"")
    kept = [each for each in _chunks(node.entries, ENTRY_BYTES) if prefix.holds(each[:ID_BYTES])]
    return node if len(kept) == node.count else _Leaf(b"".join(kept))


def _halves(node: _Node, bits: int) -> tuple[_Node, _Node]:
    """Split keys by the bit after the first `bits`, which they all have in common."""
    if isinstance(node, _Branch):
        if node.bits == bits:
            return node.left, node.right
        to_right = _bit(next(_leaves(node)).entries, bits)
    else:
        keys = _chunks(node.entries, ENTRY_BYTES)
        middle = sum(not _bit(key, bits) for key in keys) * ENTRY_BYTES
        if 0 < middle < len(node.entries):
            return _Leaf(node.entries[:middle]), _Leaf(node.entries[middle:])
        to_right = middle == 0
    return (_Leaf(b""), node) if to_right else (node, _Leaf(b""))


def _fingerprint(node: _Node) -> bytes:
    if node.count == 0:
        return EMPTY
    if not node.fingerprint:
        if isinstance(node, _Leaf):
            node.fingerprint = _hash(b"leaf" + node.entries)
        else:
            below = _fingerprint(node.left) + _fingerprint(node.right)
            node.fingerprint = _hash(b"branch" + below)
    return node.fingerprint


def _leaves(node: _Node) -> Iterator[_Leaf]:
    ahead = [node]
    while ahead:
        node = ahead.pop()
        if isinstance(node, _Leaf):
            yield node
        else:
            ahead += [node.right, node.left]


def _entries(node: _Node) -> bytes:
    return b"".join([leaf.entries for leaf in _leaves(node)])


def _entry(key: bytes, names: Iterable[bytes]) -> bytes:
    return key + (digest_of(names) or EMPTY)


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]


def _position(entries: bytes, key: bytes) -> int:
    """Return where a key stands among entries, or would stand."""
    count = len(entries) // ENTRY_BYTES
    at = bisect_left(range(count), key, key=lambda index: _key_at(entries, index))
    return at * ENTRY_BYTES


def _key_at(entries: bytes, index: int) -> bytes:
    start = index * ENTRY_BYTES
    return entries[start : start + ID_BYTES]


def _unpacked(entries: bytes) -> Iterator[tuple[bytes, bytes]]:
    for entry in _chunks(entries, ENTRY_BYTES):
        yield entry[:ID_BYTES], entry[ID_BYTES:]


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _bit(key: bytes, index: int) -> int:
    return key[index >> 3] >> (7 - (index & 7)) & 1
