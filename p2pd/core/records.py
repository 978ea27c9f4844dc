"""Versions of a stored record: which of them count, and which one wins.

A write names the versions that its writer saw. A replica keeps every version that no other
one names, so that two writers who did not see each other both stay, as siblings; the next
write that saw both replaces both. The winner among siblings is the same for everybody who
has the same set: the greatest hybrid logical clock, then the greatest version.

A replica may have missed the versions between the one it has and the newest. So a write
also names what the versions it saw named, the newest first, as far as there is room:
otherwise the old one would come back as a sibling, and a deleted value with it.
"""

import hashlib
from collections.abc import Iterable
from itertools import chain, islice

import attrs

from p2pd.ids import Key
from p2pd.wire.messages import MAX_SIBLINGS, Record, Signed

_COUNTER_BITS = 16
# A clock further ahead than any honest one could push all later writers to its end.
MAX_CLOCK_AHEAD_MS = 24 * 3600 * 1000


@attrs.frozen
class Version:
    """A record with its name: SHA-256 of the body that its writer signed."""

    name: bytes
    record: Record
    signed: Signed

    @property
    def rank(self) -> tuple[int, bytes]:
        """Order siblings: by clock, then by name."""
        return (self.record.clock, self.name)


def version_of(signed: Signed, record: Record) -> Version:
    """Name a record; `record` is the decoded body of `signed`."""
    return Version(hashlib.sha256(signed.body).digest(), record, signed)


def merge(versions: Iterable[Version]) -> list[Version]:
    """Return those versions that no other one supersedes, the winner first.

    At the bound of `MAX_SIBLINGS` the lowest in rank are dropped. The winner does not
    depend on the order or the grouping of merges. Nor do the siblings, while no more than
    `MAX_SIBLINGS` stand side by side and none is further back than its successors name.
    """
    by_name = {version.name: version for version in versions}
    superseded = {name for version in by_name.values() for name in version.record.supersedes}
    kept = [version for name, version in by_name.items() if name not in superseded]
    kept.sort(key=lambda version: version.rank, reverse=True)
    return kept[:MAX_SIBLINGS]


def unexpired(versions: Iterable[Version], now_ms: int) -> list[Version]:
    """Leave out what is past its time; `now_ms` in Unix milliseconds."""
    return [each for each in versions if not each.record.expires or each.record.expires > now_ms]


def clock_is_plausible(record: Record, now_ms: int) -> bool:
    """Whether a record's clock is at most a day ahead of ours, so that it can't run out."""
    return record.clock >> _COUNTER_BITS <= now_ms + MAX_CLOCK_AHEAD_MS


def next_clock(seen: Iterable[Version], now_ms: int) -> int:
    """Return a hybrid logical clock above all seen ones, at the wall clock if that is ahead.

    Kulkarni et al. 2014, "Logical Physical Clocks", section 3.
    """
    latest = max((version.record.clock for version in seen), default=0)
    return max(now_ms << _COUNTER_BITS, latest + 1)


def supersede(
    seen: list[Version],
    *,
    key: Key,
    value: bytes | None,
    writer: bytes,
    now_ms: int,
    expires: int,
) -> Record:
    """Make the record that replaces all versions seen (at most `MAX_SIBLINGS`).

    `value` None deletes.
    """
    newest_first = sorted(seen, key=lambda version: version.rank, reverse=True)
    names = chain(
        (version.name for version in newest_first),
        chain.from_iterable(version.record.supersedes for version in newest_first),
    )
    return Record(
        key=key,
        value=value,
        writer=writer,
        clock=next_clock(seen, now_ms),
        supersedes=tuple(islice(dict.fromkeys(names), MAX_SIBLINGS)),
        expires=expires,
    )
