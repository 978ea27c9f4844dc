"""What concurrent clients asked of the store and were told, and whether that can be right.

A history holds the clients' operations, every version that was ever on a disk, and what the
disks hold in the end. Each rule lists its breaches::

    for breach in breaches(history):
        print(breach)

What a client may see while faults last depends on which nodes it can reach: then the rules
only bind what is said to be written. From `settled_at` on all of them bind; in a `calm`
history, where at most one node at a time is away and nobody asks it, they always do. After
Kingsbury's Jepsen: look for what must not be in what clients saw of a run with faults.
"""

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, permutations

import attrs


class Kind(enum.StrEnum):
    """What a client asks for."""

    PUT = "put"
    DELETE = "delete"
    GET = "get"


class Outcome(enum.StrEnum):
    """What a client knows in the end.

    `REFUSED`: that nothing was written, or nothing can be said of what is there;
    `UNKNOWN`: nothing.
    """

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@attrs.define(eq=False)
class Operation:
    """One request of a client at a node; `began` and `ended` in virtual seconds.

    `expected` is the version that a put names (`--if-version`). `version` is the one that
    a write was told, `stored` how many replicas have it; `found` is what a get was told:
    value by version, empty if there is no such key.
    """

    number: int
    kind: Kind
    key: str
    node: str
    began: float
    value: bytes | None = None
    expected: str | None = None
    ended: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    version: str = ""
    stored: int = 0
    found: dict[str, bytes] = attrs.field(factory=dict)
    reason: str = ""

    def __str__(self) -> str:
        condition = f" --if-version {self.expected[:8]}" if self.expected else ""
        answer = f" {self.version[:8]} on {self.stored}" if self.version else ""
        if self.kind is Kind.GET and self.outcome is Outcome.OK:
            answer = f" {', '.join(each[:8] for each in self.found) or 'no such key'}"
        return (
            f"#{self.number} {self.kind} {self.key}{condition} at {self.node} "
            f"({self.began:.3f} to {self.ended:.3f} s): {self.outcome}{answer}"
        )


@attrs.frozen
class Fact:
    """A version that was on disks: `disks` tells since when (virtual seconds), by node.

    It is the write `clock` of `actor`; `seen` names, by actor, the last write that its
    writer knew. `value` None is a tombstone.
    """

    version: str
    key: str
    value: bytes | None
    actor: bytes
    clock: int
    seen: Mapping[bytes, int]
    disks: dict[str, float] = attrs.field(factory=dict)

    @property
    def first_at(self) -> float:
        """When it was on a disk for the first time."""
        return min(self.disks.values())

    def names(self, other: "Fact") -> bool:
        """Whether it claims to replace another."""
        return self.key == other.key and self.seen.get(other.actor, -1) >= other.clock


@attrs.define(eq=False)
class History:
    """What happened, in the order in which it began.

    `kept` is what the disks hold of each key in the end: versions by node, by key;
    `replicas` are the nodes that should. `full` are the keys of which a disk once held as
    many siblings as there may be: what is dropped then is not a breach.
    """

    calm: bool = False
    operations: list[Operation] = attrs.field(factory=list)
    facts: dict[str, Fact] = attrs.field(factory=dict)
    full: set[str] = attrs.field(factory=set)
    settled_at: float = math.inf
    kept: dict[str, dict[str, frozenset[str]]] = attrs.field(factory=dict)
    replicas: dict[str, list[str]] = attrs.field(factory=dict)
    _heirs: dict[str, frozenset[str]] = attrs.field(factory=dict)

    def acknowledged(self) -> list[Operation]:
        """Return the writes that were said to be done."""
        return [
            each
            for each in self.operations
            if each.kind is not Kind.GET and each.outcome is Outcome.OK
        ]

    def answered(self) -> list[Operation]:
        """Return the gets that were told what there is, or that there is nothing."""
        return [
            each for each in self.operations if each.kind is Kind.GET and each.outcome is Outcome.OK
        ]

    def heirs(self, version: str) -> frozenset[str]:
        """Return the versions that replace this one, directly or through others.

        A claim to replace what its writer can't have seen does not count. To be asked once
        the history is whole.
        """
        if not self._heirs:
            self._find_heirs()
        return self._heirs[version]

    def _find_heirs(self) -> None:
        writes = {each.version: each for each in self.operations if each.version}
        direct: dict[str, list[str]] = {version: [] for version in self.facts}
        for earlier, later in permutations(self.facts.values(), 2):
            if later.names(earlier) and (
                earlier.first_at < later.first_at
                or _same_node_knew(writes.get(earlier.version), writes.get(later.version))
            ):
                direct[earlier.version].append(later.version)
        for version in direct:
            found: dict[str, None] = {}
            ahead = [version]
            while ahead:
                new = [each for each in direct[ahead.pop()] if each not in found]
                found.update(dict.fromkeys(new))
                ahead += new
            self._heirs[version] = frozenset(found)


def _same_node_knew(earlier: Operation | None, later: Operation | None) -> bool:
    """Whether the node of one write knew of the other as its own, not from any disk."""
    return (
        earlier is not None
        and later is not None
        and earlier.node == later.node
        and earlier.began < later.ended
    )


Rule = Callable[[History], Iterator[str]]


def breaches(history: History) -> list[str]:
    """List everything that must not be, rule by rule."""
    return [f"{rule.__name__}: {breach}" for rule in RULES for breach in rule(history)]


def nothing_lost(history: History) -> Iterator[str]:
    """An acknowledged write is there in the end, or one that replaces it."""
    for write in history.acknowledged():
        if write.version not in history.facts:
            yield f"{write}; it never was on a disk"
        elif write.key not in history.full:
            left = {each for held in history.kept.get(write.key, {}).values() for each in held}
            if not left & {write.version, *history.heirs(write.version)}:
                yield f"{write}; it is gone, and nothing that is left replaces it"


def told_once_on_disk(history: History) -> Iterator[str]:
    """A client that was told how many replicas have a write on disk was told the truth."""
    for write in history.acknowledged():
        if write.version in history.facts:
            versions = (write.version, *history.heirs(write.version))
            disks = {
                node
                for each in versions
                for node, since in history.facts[each].disks.items()
                if since <= write.ended
            }
            if len(disks) < write.stored:
                yield f"{write}; it was on {len(disks)} disks, not {write.stored}"


def replicas_agree(history: History) -> Iterator[str]:
    """In the end all replicas of a key hold the same versions, and all that are left."""
    for key, kept in history.kept.items():
        left = {each for held in kept.values() for each in held if each in history.facts}
        newest = {each for each in left if not left & history.heirs(each)}
        replicas = {node: kept.get(node, frozenset()) for node in history.replicas[key]}
        if any(held != newest for held in replicas.values()) and key not in history.full:
            shown = ", ".join(
                f"{node}: {'+'.join(sorted(each[:8] for each in held)) or 'nothing'}"
                for node, held in replicas.items()
            )
            yield f"{key} should be {sorted(each[:8] for each in newest)}, and is {shown}"


def nothing_invented(history: History) -> Iterator[str]:
    """A get returns only what somebody wrote there before, under the version that was told."""
    writers = {each.value: each for each in history.operations if each.value is not None}
    for get in history.answered():
        for version, value in get.found.items():
            write = writers.get(value)
            if write is None or write.key != get.key or write.began > get.ended:
                yield f"{get}; nobody wrote {value!r} there"
            elif write.outcome is Outcome.REFUSED:
                yield f"{get}; it found what was refused: {write}"
            elif write.version and write.version != version:
                yield f"{get}; it found {value!r} as {version[:8]}, not as {write}"


def nothing_returns(history: History) -> Iterator[str]:
    """What an acknowledged write replaced is not read any more, least of all what was deleted."""
    for get, write, version in stale(history):
        if binds(history, get):
            yield f"{get}; {version[:8]} was replaced by {write}"


def reads_miss_nothing(history: History) -> Iterator[str]:
    """A get finds what was acknowledged before it began, or what replaced that."""
    for get, write in missed(history):
        if binds(history, get):
            yield f"{get}; it misses {write}"


def settled_store_answers(history: History) -> Iterator[str]:
    """Once all is healed, every get is answered."""
    for each in history.operations:
        late = each.kind is Kind.GET and each.began >= history.settled_at
        if late and each.outcome is not Outcome.OK:
            yield f"{each} {each.reason}"


def one_of_a_kind(history: History) -> Iterator[str]:
    """Of two puts that expected the same version and succeeded, neither replaces the other.

    Each that succeeds replaces the version that it expected.
    """
    conditional: dict[tuple[str, str], list[Operation]] = {}
    for each in history.acknowledged():
        if each.expected and each.version in history.facts:
            conditional.setdefault((each.key, each.expected), []).append(each)
            expected = history.facts.get(each.expected)
            if expected is None or not history.facts[each.version].names(expected):
                yield f"{each}; it does not replace what it expected"
    for rivals in conditional.values():
        for one, other in combinations(rivals, 2):
            if one.version == other.version:
                yield f"{one} has the version of {other}"
            elif one.version in history.heirs(other.version):
                yield f"{one}; it replaces {other}"
            elif other.version in history.heirs(one.version):
                yield f"{other}; it replaces {one}"


RULES: tuple[Rule, ...] = (
    nothing_lost,
    told_once_on_disk,
    replicas_agree,
    nothing_invented,
    nothing_returns,
    reads_miss_nothing,
    settled_store_answers,
    one_of_a_kind,
)


def summary(history: History) -> dict[str, float]:
    """Count what clients were told, and which reads were late: `stale` and `missed` are gets."""
    outcomes = Counter(each.outcome for each in history.operations)
    return {
        "acknowledged": len(history.acknowledged()),
        **{each.value: outcomes[each] for each in Outcome},
        "stale": len({get.number for get, _, _ in stale(history)}),
        "missed": len({get.number for get, _ in missed(history)}),
    }


def binds(history: History, get: Operation) -> bool:
    """Whether a get must see all that was acknowledged before it began."""
    return history.calm or get.began >= history.settled_at


def stale(history: History) -> Iterator[tuple[Operation, Operation, str]]:
    """Find what was read although an acknowledged write had replaced it: get, write, version."""
    for get, before in _what_it_must_know(history):
        for version in get.found:
            heirs = history.heirs(version) if version in history.facts else frozenset()
            write = next((each for each in before if each.version in heirs), None)
            if write is not None:
                yield get, write, version


def missed(history: History) -> Iterator[tuple[Operation, Operation]]:
    """Find gets that saw neither an acknowledged value nor what replaced it: get, write."""
    tombstones = [each for each in history.facts.values() if each.value is None]
    for get, before in _what_it_must_know(history):
        gone = {each.version for each in tombstones if each.first_at < get.ended}
        shown = gone.union(get.found)
        for write in before:
            value_is_gone = not shown & {write.version, *history.heirs(write.version)}
            if write.kind is Kind.PUT and value_is_gone:
                yield get, write


def _what_it_must_know(history: History) -> Iterator[tuple[Operation, list[Operation]]]:
    """Show each answered get, and the writes that were acknowledged before it began."""
    writes: dict[str, list[Operation]] = {}
    for each in history.acknowledged():
        if each.version in history.facts and each.key not in history.full:
            writes.setdefault(each.key, []).append(each)
    for get in history.answered():
        yield get, [each for each in writes.get(get.key, ()) if each.ended < get.began]
