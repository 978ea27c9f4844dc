"""Versions of a stored record: which of them count, and which one wins.

Each version carries a version vector of what its writer had seen under the key (Parker et
al. 1983, "Detection of Mutual Inconsistency in Distributed Systems"): for each actor, which
is one process of one writer, the clock of its latest version. All versions of one actor under a key
form a sequence, each replacing those before it (see `Author`), so one clock for each actor says it
all, however many versions a replica has missed.

A replica keeps every version that no other covers, so two writes that did not see each other both
stay, as siblings; the next write that saw both replaces both. The winner among siblings is the same
for everybody that has the same set: the greatest hybrid logical clock, then the greatest name.
"""

import hashlib
from collections.abc import Callable, Iterable

import attrs

from p2pd.ids import Key, NodeId
from p2pd.wire.messages import MAX_SEEN, MAX_SIBLINGS, Record, Seen, Signed

INSTANCE_BYTES = 8
_COUNTER_BITS = 16
# A clock further ahead than any honest one could push all later writers to the end of its range.
MAX_CLOCK_AHEAD_MS = 24 * 3600 * 1000
MAX_CLOCK_BEHIND_MS = MAX_CLOCK_AHEAD_MS
# A reader's limit for clocks ahead is so much lower than a replica's: what it writes next is dated
# later still, and replicas with somewhat slower clocks must take it.
READERS_MARGIN_MS = 3600 * 1000
# What replaced something, above all a deletion, is kept for so long after its end: a replica that
# was away for less can't bring back what was there before.
GRACE_MS = 30 * 24 * 3600 * 1000
# An author remembers what it wrote under so many keys; beyond that, it goes on as a new actor.
MAX_REMEMBERED = 16384


@attrs.frozen
class Version:
    """A record with its name: SHA-256 of the body that its writer signed.

    `key` is where it belongs, `actor` the process of the writer that made it.
    """

    name: bytes
    key: Key
    actor: bytes
    record: Record
    signed: Signed

    @property
    def rank(self) -> tuple[int, bytes]:
        """Order siblings: by clock, then by name."""
        return (self.record.clock, self.name)


def version_of(signed: Signed, record: Record) -> Version:
    """Name a record; `record` is the decoded body of `signed`."""
    owner = NodeId.of(record.writer) if record.owned else None
    return Version(
        name=hashlib.sha256(signed.body).digest(),
        key=Key.of_digest(record.name_digest, owner),
        actor=actor_of(record.writer, record.instance),
        record=record,
        signed=signed,
    )


def actor_of(writer: bytes, instance: bytes) -> bytes:
    """Name one process of one writer in version vectors, so that nobody else can pose as it."""
    return hashlib.sha256(writer + instance).digest()[:INSTANCE_BYTES]


def merge(versions: Iterable[Version]) -> list[Version]:
    """Return those versions of one key that no other covers, the winner first.

    Beyond `MAX_SIBLINGS` the lowest in rank are dropped. The winner does not depend on the order or
    the grouping of merges. Nor do the siblings, as long as no more than `MAX_SIBLINGS` stand side
    by side and no more than `MAX_SEEN` actors write a key.
    """
    by_name = {version.name: version for version in versions}
    if len(by_name) < 2:
        return list(by_name.values())
    covered: dict[bytes, int] = {}
    for version in by_name.values():
        for seen in version.record.seen:
            covered[seen.actor] = max(covered.get(seen.actor, 0), seen.clock)
    uncovered = [
        version
        for version in by_name.values()
        if version.record.clock > covered.get(version.actor, -1)
    ]
    uncovered.sort(key=lambda version: version.rank, reverse=True)
    return uncovered[:MAX_SIBLINGS]


def is_hidden(version: Version, stored: Iterable[Version], now_ms: int) -> bool:
    """Whether a version lost its place to what is `stored`, some of which no reader takes.

    To be covered, or to lose its place to what readers do take, is to be overwritten.
    """
    there = list(stored)
    if any(each.name == version.name for each in there):
        return False
    covered = any(
        seen.actor == version.actor and seen.clock >= version.record.clock
        for each in there
        for seen in each.record.seen
    )
    return not covered and not all(is_for_readers(each.record, now_ms) for each in there)


def living(versions: Iterable[Version], now_ms: int) -> list[Version]:
    """Leave out deletions and what has expired; `now_ms` in Unix milliseconds."""
    return [
        each
        for each in versions
        if each.record.value is not None and not _has_ended(each.record, now_ms)
    ]


def kept(versions: Iterable[Version], now_ms: int) -> list[Version]:
    """Leave out what no longer need be kept; `now_ms` in Unix milliseconds."""
    return [each for each in versions if is_kept(each.record, now_ms)]


def is_kept(record: Record, now_ms: int) -> bool:
    """Whether a record must still be kept; `now_ms` in Unix milliseconds."""
    gone_at = gone_at_ms(record)
    return gone_at is None or gone_at > now_ms


def gone_at_ms(record: Record) -> int | None:
    """Return from when on a record need not be kept, in Unix milliseconds; None for never."""
    if not record.expires:
        return None
    return record.expires + (GRACE_MS if record.seen else 0)


def clock_is_plausible(record: Record, now_ms: int) -> bool:
    """Whether a record's clock is at most a day ahead of ours, so that it can't run out."""
    return _is_plausible(record.clock, now_ms)


def is_stale(record: Record, now_ms: int) -> bool:
    """Whether a record that its writer made just now is old already, by a clock that is behind.

    A value past its time would be nowhere, and what it replaced gone. A deletion of days ago would
    be kept for so much less than `GRACE_MS`.
    """
    if record.value is None:
        return record.clock >> _COUNTER_BITS < now_ms - MAX_CLOCK_BEHIND_MS
    return _has_ended(record, now_ms)


def is_for_readers(record: Record, now_ms: int) -> bool:
    """Whether who reads, and then writes, takes a record; see `READERS_MARGIN_MS`."""
    return clock_is_plausible(record, now_ms - READERS_MARGIN_MS)


def _has_ended(record: Record, now_ms: int) -> bool:
    return 0 < record.expires <= now_ms


def _is_plausible(clock: int, now_ms: int) -> bool:
    return clock >> _COUNTER_BITS <= now_ms + MAX_CLOCK_AHEAD_MS


class Author:
    """Makes the versions that one process writes: as one actor, as long as it remembers them.

    Its versions of a key each cover the one before, even if that was not seen when they were made:
    an author that misses its own last write (few replicas have it, or they are cut off) must not
    write a sibling of it. So only one caller at a time may write a key. Its clock is a hybrid
    logical one (Kulkarni et al. 2014, "Logical Physical Clocks", section 3), kept for each key:
    what somebody dated ahead under one key does not date what is written under others.
    """

    def __init__(self, public_key: bytes, entropy: Callable[[int], bytes]) -> None:
        self._public_key = public_key
        self._entropy = entropy
        self._begin()

    def _begin(self) -> None:
        self._instance = self._entropy(INSTANCE_BYTES)
        self._actor = actor_of(self._public_key, self._instance)
        self._written: dict[Key, tuple[Seen, ...]] = {}

    def has_seen_more(self, key: Key, versions: Iterable[Version], now_ms: int) -> bool:
        """Whether this author's last write under a key covers others' versions not among these.

        If so, these are an older state. Versions that no longer need be kept at `now_ms`, or had no
        room in a vector that was extended since, don't count.
        """
        there = list(versions)
        shown = _clocks(there, ())
        if shown.get(self._actor, -1) >= self._last_clock(key):
            # Whoever has seen that write has seen what it covers, whatever else is shown.
            return False
        full = [each.record.seen for each in there if len(each.record.seen) >= MAX_SEEN]
        dropped = max((min(seen.clock for seen in each) for each in full), default=-1)
        return any(
            seen.clock > max(shown.get(seen.actor, -1), dropped)
            and seen.clock >> _COUNTER_BITS > now_ms - GRACE_MS
            for seen in self._written.get(key, ())
            if seen.actor != self._actor
        )

    def supersede(
        self,
        seen: Iterable[Version],
        *,
        name: str,
        owned: bool,
        value: bytes | None,
        now_ms: int,
        expires: int,
    ) -> Record:
        """Make the record that replaces all versions seen, and this author's last one.

        `now_ms` and `expires` are Unix milliseconds, `expires` 0 for never. `value` None
        deletes, whatever `expires` says. All that was seen must have plausible clocks.
        """
        versions = list(seen)
        digest = hashlib.sha256(name.encode()).digest()
        key = Key.of_digest(digest, NodeId.of(self._public_key) if owned else None)
        if len(self._written) >= MAX_REMEMBERED and key not in self._written:
            self._begin()
        if not _is_plausible(self._last_clock(key), now_ms):
            # Our own clock was far ahead, and no replica took what we made. We begin as a new
            # actor, or all that we write would be dated as far ahead.
            self._begin()
        latest = max((each.record.clock for each in versions), default=0)
        clock = max(now_ms << _COUNTER_BITS, latest + 1, self._last_clock(key) + 1)
        vector = _vector(versions, self._written.get(key, ()), self._actor)
        self._written[key] = (*vector, Seen(self._actor, clock))
        return Record(
            name_digest=digest,
            owned=owned,
            value=value,
            writer=self._public_key,
            instance=self._instance,
            clock=clock,
            seen=vector,
            # Dated by a wall clock far behind, a tombstone would not need to be kept at all.
            expires=clock >> _COUNTER_BITS if value is None else expires,
        )

    def _last_clock(self, key: Key) -> int:
        """Return the clock of what this actor wrote last under a key."""
        written = self._written.get(key, ())
        return written[-1].clock if written else 0


def _clocks(versions: list[Version], earlier: Iterable[Seen]) -> dict[bytes, int]:
    """Return the latest clock of each actor in versions, and in what they have seen."""
    clocks: dict[bytes, int] = {}
    direct = [Seen(each.actor, each.record.clock) for each in versions]
    before = (seen for each in versions for seen in each.record.seen)
    for seen in (*direct, *before, *earlier):
        clocks[seen.actor] = max(clocks.get(seen.actor, 0), seen.clock)
    return clocks


def _vector(versions: list[Version], earlier: Iterable[Seen], writer: bytes) -> tuple[Seen, ...]:
    """Sum up what was seen; when full, the actors that wrote longest ago are dropped.

    If a replica kept a version of theirs all that time, it comes back as a sibling. The `writer`
    itself stays: its versions follow one another.
    """
    staying = {writer, *(each.actor for each in versions)}
    ordered = sorted(
        _clocks(versions, earlier).items(),
        key=lambda item: (item[0] in staying, item[1], item[0]),
        reverse=True,
    )
    return tuple(Seen(actor, clock) for actor, clock in ordered[:MAX_SEEN])
