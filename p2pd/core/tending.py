"""Who compares which records with whom, and when: each record has its two tenders.

The node closest to a key tends it, and knows best who else is close: it compares what it has
under the prefixes of such keys with each of the other replicas. The second closest does the
same, later, so that it finds all equal unless the first one is gone or a liar. No other
replica does anything: a record has `replication` comparisons, not that many squared.

A comparison is due soon where another replica is new, has come back, or is one for more
keys than before, as somebody died; with the others in turn.
"""

import math
import random
from collections.abc import Sequence

import attrs

from p2pd.core.closest_sets import closest_sets, merged, population, without
from p2pd.core.merkle import Prefix

# How many of the closest tend a record.
TENDERS = 2
# Seconds after which a tender acts, by its rank: deaths come in groups, and the second one
# shall find the work done.
SOON = ((2.0, 4.0), (20.0, 40.0))
# After a failure a visit is due again after so many seconds, twice as many after each further
# one, but at most after the interval.
RETRY = 15.0
# In larger networks nodes compare in turn as often, all together, as so many of them would do
# that each compare with all others in each interval.
SMALL = 32


@attrs.define(eq=False)
class Visit:
    """What is to be compared with another replica; `due` is monotonic, infinite for in turn.

    `rank` is that of this node: 0 where it is the closest of all, 1 for the second. With
    `news` the peer is expected to lack something.
    """

    peer: bytes
    rank: int
    prefixes: list[Prefix]
    due: float
    made_at: float = -math.inf
    failures: int = 0
    news: bool = False
    under_way: bool = False


class Tending:
    """The visits that a node is to make; `replication` and `interval` as in `DhtConfig`."""

    def __init__(
        self, own_id: bytes, *, replication: int, interval: float, rng: random.Random
    ) -> None:
        self._own_id = own_id
        self._replication = replication
        self._interval = interval
        self._rng = rng
        self._visits: dict[tuple[bytes, int], Visit] = {}
        self._round_at = math.inf
        self.population = 1.0

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def prefixes(self) -> list[Prefix]:
        """What this node tends."""
        return merged(prefix for each in self._visits.values() for prefix in each.prefixes)

    def survey(self, nodes: Sequence[bytes], now: float, *, all_known: bool) -> None:
        """Take who else is alive nearby, all that are known, closest first.

        `all_known`: what is new of it is new to us only, and is compared in turn.
        """
        self.population = population(self._own_id, nodes[: self._replication])
        if len(nodes) <= self._replication:
            self.population = len(nodes) + 1.0
        if self._round_at == math.inf:
            self._round_at = now + self._interval * self._rng.uniform(0.75, 1.25)
        within = min(TENDERS, self._replication)
        counts = tuple(sorted({1, within, self._replication}))
        wanted: dict[tuple[bytes, int], list[Prefix]] = {}
        for each in closest_sets(self._own_id, nodes, counts, within=within):
            for node in each.nodes:
                if node != self._own_id:
                    wanted.setdefault((node, min(each.rank, 1)), []).append(each.prefix)
        visits: dict[tuple[bytes, int], Visit] = {}
        for (peer, rank), prefixes in wanted.items():
            visit = self._visits.get((peer, rank)) or Visit(peer, rank, [], math.inf)
            shortest = merged(prefixes)
            if not all_known and without(shortest, visit.prefixes):
                visit.due = min(visit.due, self._soon(rank, now))
                visit.news = True
            visit.prefixes = shortest
            visits[peer, rank] = visit
        self._visits = visits

    def again(self, now: float, peer: bytes | None = None) -> None:
        """Let all visits, or those to one peer, be due soon."""
        for visit in self._visits.values():
            if peer is None or visit.peer == peer:
                visit.due = min(visit.due, self._soon(visit.rank, now))

    def take(self, now: float) -> Visit | None:
        """Return the visit that is due for longest, now under way."""
        if now >= self._round_at:
            self._begin_round(now)
        due = [each for each in self._visits.values() if each.due <= now and not each.under_way]
        if not due:
            return None
        visit = min(due, key=lambda each: each.due)
        visit.under_way, visit.due = True, math.inf
        return visit

    def made(self, visit: Visit, now: float, *, learned: bool, gave: bool) -> None:
        """Note that a visit was made, and what came of it.

        What was learned, or was lacking unexpectedly, others may lack, too: all are due soon.
        """
        if learned or (gave and not visit.news):
            self.again(now)
        visit.under_way, visit.made_at = False, now
        visit.failures, visit.news = 0, False

    def failed(self, visit: Visit, now: float) -> None:
        """Note that a visit came to nothing."""
        pause = min(RETRY * 2.0**visit.failures, self._interval)
        visit.under_way, visit.failures = False, min(visit.failures + 1, 16)
        visit.due = min(visit.due, now + pause * self._rng.uniform(0.75, 1.25))

    def next_due(self) -> float:
        """Return when `take` has something to return, as far as that is known."""
        waiting = (each.due for each in self._visits.values() if not each.under_way)
        return min(self._round_at, min(waiting, default=math.inf))

    def turn(self) -> float:
        """Return the seconds in which all are visited once in turn."""
        return self._interval * max(1.0, self.population / SMALL)

    def _begin_round(self, now: float) -> None:
        """Spread the visits whose turn it is over the interval."""
        self._round_at = now + self._interval * self._rng.uniform(0.75, 1.25)
        share = self._interval / self.turn()
        longest_ago = sorted(self._visits.values(), key=lambda each: each.made_at)
        for visit in longest_ago[: math.ceil(share * len(longest_ago))]:
            visit.due = min(visit.due, now + self._rng.uniform(0, self._interval))

    def _soon(self, rank: int, now: float) -> float:
        return now + self._rng.uniform(*SOON[rank])
