"""The recent publications: what can still be sent on, and what is old news.

Two nodes compare what they retain by slices of time (Demers et al. 1987, section 1.3, the
checksums with recent update lists): they exchange one fingerprint for each slice, and IDs only
where these differ.
"""

import heapq
import math
import random
from bisect import bisect_left, insort
from collections.abc import Container, Hashable, Mapping, Sequence
from itertools import chain, islice, takewhile

import attrs

from p2pd.core.shares import Shares
from p2pd.ids import NodeId
from p2pd.wire.messages import MAX_IDS, Signed, Slot

MAX_ITEMS = 1 << 14
MAX_BYTES = 1 << 24
MAX_SEEN = 1 << 16
SLOTS = 60
# Seconds. Clocks set by NTP agree far better, those of a home without it to about a minute. A
# greater allowance would let an origin keep a publication alive longer by dating it ahead.
MAX_SKEW = 60.0
_ID_BYTES = 16

# Whose room something takes. When full, the account that takes most yields; so a flooder under one
# account displaces nothing of the others. None is the account of all that have none.
Account = Hashable
# Where a publication stands among all, the one issued longest ago first: `issued`, message ID.
Place = tuple[int, bytes]


@attrs.frozen
class Item:
    """A publication that is retained.

    `issued` is Unix milliseconds by its origin's clock; `hops` counts the links that it came over,
    0 for our own. `account` is not transmitted: each node decides for itself.
    """

    message_id: bytes
    signed: Signed
    origin: NodeId
    issued: int
    hops: int
    account: Account = None


@attrs.define
class _Slice:
    """What was issued in one slice of time, and the exclusive or of the IDs."""

    places: list[Place] = attrs.field(factory=list)
    fingerprint: int = 0

    def add(self, place: Place) -> None:
        insort(self.places, place)
        self._flip(place)

    def remove(self, place: Place) -> None:
        del self.places[bisect_left(self.places, place)]
        self._flip(place)

    def _flip(self, place: Place) -> None:
        self.fingerprint ^= int.from_bytes(place[1])


class Backlog:
    """The publications in slices that differ from another node's; `len` is how many there are.

    To return some takes about as long as these are many, not as long as all are, but for `newest`
    where few accounts have most: whoever sends a digest decides how often this is asked. Good until
    something is added to the history, or goes.
    """

    def __init__(self, slices: Sequence[list[Place]], items: Mapping[bytes, Item]) -> None:
        self._slices = slices
        self._items = items

    def __len__(self) -> int:
        return sum(map(len, self._slices))

    def newest(self, count: int) -> list[bytes]:
        """Return the IDs of the newest of each account, then of the second newest, and so on.

        So what is told first is not all from one flooder.
        """
        ranked: list[list[bytes]] = [[] for _ in range(count)]
        so_far: dict[Account, int] = {}
        for _, message_id in chain.from_iterable(map(reversed, reversed(self._slices))):
            account = self._items[message_id].account
            rank = so_far.get(account, 0)
            if rank < count:
                ranked[rank].append(message_id)
                so_far[account] = rank + 1
                if len(ranked[0]) == count:
                    break
        return list(islice(chain.from_iterable(ranked), count))

    def draw(self, rng: random.Random) -> Place:
        """Return the place of one of them, at random."""
        [weighted] = rng.choices(self._slices, [len(each) for each in self._slices])
        return rng.choice(weighted)

    def before(self, place: Place, count: int, *, but: Container[bytes]) -> list[Place]:
        """Return `count` that stand before a place, newest first, and after the oldest the newest.

        The IDs in `but` are left out. In this direction those that come meanwhile are behind: the
        other way there could be so many that none of the old ones is ever reached.
        """
        at = bisect_left(self._slices, place, key=_first)
        here = self._slices[at - 1] if at else []
        cut = bisect_left(here, place)
        older, newer = self._slices[: max(at - 1, 0)], self._slices[at:]
        parts = (here[cut:], *newer, *older, here[:cut])
        following = chain.from_iterable(map(reversed, reversed(parts)))
        return list(islice((each for each in following if each[1] not in but), count))


class History:
    """What is retained for `retention` seconds, and the IDs seen in the last `seen_ttl` seconds.

    Nodes that compare slots must have the same retention.
    """

    def __init__(self, *, retention: float, seen_ttl: float) -> None:
        self._retention_ms = round(retention * 1000)
        # Rounded up, so that no more than `SLOTS` whole slices fit into the retention.
        self._slice_ms = math.ceil(self._retention_ms / SLOTS)
        self._seen_ttl = seen_ttl
        self._items: dict[bytes, Item] = {}
        self._by_age: dict[Account, list[tuple[int, bytes]]] = {}
        self._counts: Shares[Account] = Shares()
        self._bytes: Shares[Account] = Shares()
        self._slices: dict[int, _Slice] = {}
        self._seen: dict[bytes, tuple[float, Account]] = {}
        # For each account, the one seen longest ago first.
        self._seen_of: dict[Account, dict[bytes, None]] = {}
        self._seen_counts: Shares[Account] = Shares()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """Bytes of the bodies that are retained."""
        return self._bytes.total

    def is_stale(self, issued: int, wall_ms: int) -> bool:
        """Whether a publication is out of the window: too old, or dated ahead of our clock.

        Both in Unix milliseconds. A stale one is neither delivered nor passed on, as it could be a
        replay of one that was forgotten.
        """
        return not wall_ms - self._retention_ms <= issued <= wall_ms + MAX_SKEW * 1000

    def has_seen(self, message_id: bytes) -> bool:
        """Whether it came before; what is retained is never forgotten."""
        return message_id in self._items or message_id in self._seen

    def get(self, message_id: bytes) -> Item | None:
        """Return a publication if it is retained."""
        return self._items.get(message_id)

    def add(self, item: Item, now: float) -> bool:
        """Retain a publication; False if it was seen before. `now` is monotonic seconds.

        When full, the account that has most loses its publication issued longest ago, even if that
        is the new one; it stays seen.
        """
        if self.has_seen(item.message_id):
            return False
        self._see(item.message_id, item.account, now)
        self._items[item.message_id] = item
        self._counts.change(item.account, 1)
        self._bytes.change(item.account, len(item.signed.body))
        by_age = self._by_age.setdefault(item.account, [])
        heapq.heappush(by_age, (item.issued, item.message_id))
        part = self._slices.setdefault(item.issued // self._slice_ms, _Slice())
        part.add((item.issued, item.message_id))
        while (crowded := len(self._items) > MAX_ITEMS) or self._bytes.total > MAX_BYTES:
            greatest = (self._counts if crowded else self._bytes).greatest()
            # It may still come again, from a node that has more room.
            self._see(self._drop_oldest(greatest), greatest, now)
        return True

    def expire(self, now: float, wall_ms: int) -> None:
        """Forget what is past its time; `now` monotonic seconds, `wall_ms` Unix milliseconds.

        A slice goes as a whole, once all of it is older than the retention: otherwise two nodes
        that expire at different moments would see a difference each time they compare.
        """
        first_kept = (wall_ms - self._retention_ms) // self._slice_ms
        for account, by_age in list(self._by_age.items()):
            while by_age and by_age[0][0] // self._slice_ms < first_kept:
                self._drop_oldest(account)
        seen = takewhile(lambda each: each[1][0] + self._seen_ttl <= now, self._seen.items())
        # In one go: to find its first item, a dictionary steps over all that were deleted before
        # it.
        for message_id in [message_id for message_id, _ in seen]:
            self._forget(message_id)

    def slots(self) -> tuple[Slot, ...]:
        """Return a fingerprint of each slice that holds anything, oldest first.

        At most `MAX_IDS`, the newest.
        """
        return tuple(
            Slot(number, self._slices[number].fingerprint.to_bytes(_ID_BYTES))
            for number in sorted(self._slices)[-MAX_IDS:]
        )

    def differing(self, theirs: tuple[Slot, ...]) -> Backlog:
        """Return what there is in the slices that differ from theirs, or that they lack.

        Slices too old to have found room in `theirs` don't count: nothing is known of them.
        """
        known = {slot.number: slot.fingerprint for slot in theirs}
        first = min(known) if len(theirs) >= MAX_IDS else None
        slices = [
            self._slices[number].places
            for number in sorted(self._slices)
            if first is None or number >= first
            if known.get(number) != self._slices[number].fingerprint.to_bytes(_ID_BYTES)
        ]
        return Backlog(slices, self._items)

    def _see(self, message_id: bytes, account: Account, now: float) -> None:
        if message_id in self._seen:
            self._forget(message_id)
        self._seen[message_id] = now, account
        self._seen_of.setdefault(account, {})[message_id] = None
        self._seen_counts.change(account, 1)
        if len(self._seen) > MAX_SEEN:
            self._forget(next(iter(self._seen_of[self._seen_counts.greatest()])))

    def _forget(self, message_id: bytes) -> None:
        _, account = self._seen.pop(message_id)
        self._seen_counts.change(account, -1)
        seen = self._seen_of[account]
        del seen[message_id]
        if not seen:
            del self._seen_of[account]

    def _drop_oldest(self, account: Account) -> bytes:
        by_age = self._by_age[account]
        issued, message_id = heapq.heappop(by_age)
        if not by_age:
            del self._by_age[account]
        self._counts.change(account, -1)
        self._bytes.change(account, -len(self._items.pop(message_id).signed.body))
        number = issued // self._slice_ms
        part = self._slices[number]
        part.remove((issued, message_id))
        if not part.places:
            del self._slices[number]
        return message_id


def _first(places: Sequence[Place]) -> Place:
    return places[0]
