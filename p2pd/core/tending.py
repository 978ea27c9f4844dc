"""Who compares which records with whom, and when: each record has two tenders.

The node closest to a key tends it, and knows best who else is close: it compares what it has under
the prefixes of such keys with each of the other replicas. The second closest does the same, later,
so it finds everything equal unless the first is gone or a liar. No other replica does anything: the
comparisons for a record grow with `replication`, not with its square.

A comparison is due soon with a replica that is new, has come back, or is responsible for more keys
than before because another died; with the others in turn. After a death it is due soon with those,
too, that were never visited: the writers may have known nearer nodes, and given them nothing. A
tender that is displaced by newcomers brings them, once, the records that are now theirs to tend.
"""

import math
import random
from collections.abc import Iterable, Sequence

import attrs

from p2pd.core.closest_sets import (
    ClosestSet,
    closest_sets,
    merged,
    population,
    shared,
    without,
)
from p2pd.core.merkle import Prefix
from p2pd.ids import distance

# How many of the closest tend a record.
TENDERS = 2
DISPLACED = -1
# Seconds after which a tender acts, by its rank, drawn between two bounds: deaths come in groups,
# and the second tender should find the work of the first done.
SOON = {DISPLACED: (2.0, 4.0), 0: (2.0, 4.0), 1: (20.0, 40.0)}
# After a failure a visit is due again after so many seconds, doubled after each further failure,
# but at most after the interval.
RETRY = 15.0
MOST_FAILURES = 3
# News makes all visits due again, but only once in so many seconds: otherwise a replica that has
# something new at each visit could keep this node visiting all others without end.
AGAIN_AFTER = 60.0
# In a network of up to so many nodes, each compares with all others in each interval. In larger
# ones all nodes together make no more of these comparisons than that.
SMALL = 20


@attrs.define(eq=False)
class Visit:
    """A comparison that is to be made with another replica, of all keys under `prefixes`.

    `due` and `made_at` (the last time) are monotonic; a visit with an infinite `due` waits for
    its turn. `rank` is that of this node: 0 if it is the closest of all, 1 if it is the second, and
    `DISPLACED` if the peer took its place. With `news` the peer is expected to lack something at
    the next visit, with `bringing` at the one under way. `failures` are in a row.
    """

    peer: bytes
    rank: int
    prefixes: list[Prefix]
    due: float
    made_at: float = -math.inf
    failures: int = 0
    news: bool = False
    bringing: bool = False
    under_way: bool = False


class Tending:
    """The visits that a node should make, by its `survey` of who is near.

    `replication` is how many replicas a record has, `interval` the seconds in which a small network
    (`SMALL`) compares everything once. `prefixes` are those of the keys that this node tends,
    `population` is about how many nodes there are.
    """

    def __init__(
        self, own_id: bytes, *, replication: int, interval: float, rng: random.Random
    ) -> None:
        self._own_id = own_id
        self._replication = replication
        self._interval = interval
        self._rng = rng
        self._visits: dict[tuple[bytes, int], Visit] = {}
        self._nodes: Sequence[bytes] = ()
        self._round_at = math.inf
        # From when on all visits were due again last, or will be next, because of news.
        self._again_at = -math.inf
        self.population = 1.0
        self.prefixes: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._visits)

    def survey(
        self, nodes: Sequence[bytes], now: float, *, all_known: bool, beyond: Sequence[bytes] = ()
    ) -> None:
        """Take the other nodes that are known to be alive nearby, closest first.

        `beyond` are those farther away: they have the keys there that no node nearby is close to.
        A replica of more keys than at the last survey is visited soon, but not with `all_known`:
        then these are not newcomers, this node only learned of them just now, and whoever wrote the
        records is assumed to have known all that are nearer.
        """
        self.population = population(self._own_id, nodes)
        if len(nodes) <= self._replication:
            self.population = len(nodes) + 1.0
        if self._round_at == math.inf:
            self._round_at = now + self._interval * self._rng.uniform(0.75, 1.25)
        within = min(TENDERS, self._replication)
        counts = tuple(sorted({1, within, self._replication}))
        everybody = [self._own_id, *nodes, *beyond]
        sets = closest_sets(self._own_id, everybody, counts, within=within)
        self._plan_visits(sets, now, all_known=all_known, after_deaths=self._has_lost_any(nodes))
        before, self.prefixes = self.prefixes, merged(each.prefix for each in sets)
        lost = without(before, self.prefixes)
        newcomers = [each for each in nodes if each not in self._nodes]
        self._nodes = nodes
        if lost:
            self._hand_on(lost, newcomers, everybody, within, now)

    def _has_lost_any(self, nodes: Sequence[bytes]) -> bool:
        """Whether nodes of the last survey are gone, other than by nearer ones in their place."""
        gone = set(self._nodes).difference(nodes)
        if not gone or set(self._nodes).issuperset(nodes):
            return bool(gone)
        farthest = distance(nodes[-1], self._own_id)
        return any(distance(each, self._own_id) < farthest for each in gone)

    def _plan_visits(
        self, sets: Iterable[ClosestSet], now: float, *, all_known: bool, after_deaths: bool
    ) -> None:
        """Visit the other replicas of what this node tends; no longer visit former replicas."""
        wanted: dict[tuple[bytes, int], list[Prefix]] = {}
        for each in sets:
            for node in each.nodes:
                if node != self._own_id:
                    wanted.setdefault((node, each.rank), []).append(each.prefix)
        visits: dict[tuple[bytes, int], Visit] = {}
        for (peer, rank), prefixes in wanted.items():
            visit = self._visits.get((peer, rank)) or Visit(peer, rank, [], math.inf)
            shortest = merged(prefixes)
            untried = after_deaths and visit.made_at == -math.inf
            if not all_known and (untried or without(shortest, visit.prefixes)):
                visit.due = min(visit.due, self._soon(rank, now))
                visit.news = True
            visit.prefixes = shortest
            visits[peer, rank] = visit
        visits |= {where: each for where, each in self._visits.items() if where[1] == DISPLACED}
        self._visits = visits

    def _hand_on(
        self,
        lost: Sequence[Prefix],
        newcomers: Iterable[bytes],
        everybody: Sequence[bytes],
        within: int,
        now: float,
    ) -> None:
        """Visit, once, each newcomer that tends something of what this node has `lost`."""
        for peer in newcomers:
            theirs = merged(
                each.prefix for each in closest_sets(peer, everybody, (within,), within=within)
            )
            if taken := shared(lost, theirs):
                due = self._soon(DISPLACED, now)
                self._visits[peer, DISPLACED] = Visit(peer, DISPLACED, taken, due, news=True)

    def again(self, now: float, peer: bytes | None = None) -> None:
        """Let all visits, or those to one peer, be due soon."""
        for visit in self._visits.values():
            if peer is None or visit.peer == peer:
                visit.due = min(visit.due, self._soon(visit.rank, now))

    def take(self, now: float) -> Visit | None:
        """Return the visit due longest, now under way; only one at a time for each peer."""
        if now >= self._round_at:
            self._begin_round(now)
        due = [each for each in self._waiting() if each.due <= now]
        if not due:
            return None
        visit = min(due, key=lambda each: each.due)
        visit.under_way, visit.due = True, math.inf
        visit.bringing, visit.news = visit.news, False
        return visit

    def made(self, visit: Visit, now: float, *, learned: bool, gave: bool) -> None:
        """Note that a visit was made: whether this node learned something, or gave something.

        Others, too, may lack what it learned, or what the peer unexpectedly lacked: then all visits
        are due soon.
        """
        if learned or (gave and not visit.bringing):
            self._tell_others(now)
        if visit.rank == DISPLACED:
            self._drop(visit)
        visit.under_way, visit.made_at, visit.failures = False, now, 0

    def failed(self, visit: Visit, now: float, *, learned: bool = False) -> None:
        """Note that a visit failed, and whether this node learned something until then."""
        if learned:
            self._tell_others(now)
        if visit.rank == DISPLACED and visit.failures == MOST_FAILURES:
            self._drop(visit)
        pause = min(RETRY * 2.0 ** min(visit.failures, 16), self._interval)
        visit.under_way, visit.failures = False, visit.failures + 1
        visit.news |= visit.bringing
        visit.due = min(visit.due, now + pause * self._rng.uniform(0.75, 1.25))

    def next_due(self) -> float:
        """Return when `take` has something to return, as far as that is known."""
        return min(self._round_at, min((each.due for each in self._waiting()), default=math.inf))

    def turn(self) -> float:
        """Return the seconds in which all replicas are visited once, in turn."""
        return self._interval * max(1.0, self.population / SMALL)

    def _begin_round(self, now: float) -> None:
        """Spread the visits whose turn it is over the interval."""
        self._round_at = now + self._interval * self._rng.uniform(0.75, 1.25)
        share = self._interval / self.turn()
        longest_ago = sorted(self._visits.values(), key=lambda each: each.made_at)
        for visit in longest_ago[: math.ceil(share * len(longest_ago))]:
            visit.due = min(visit.due, now + self._rng.uniform(0, self._interval))

    def _tell_others(self, now: float) -> None:
        if now > self._again_at:
            self._again_at = max(now, self._again_at + AGAIN_AFTER)
        self.again(self._again_at)

    def _waiting(self) -> list[Visit]:
        busy = {each.peer for each in self._visits.values() if each.under_way}
        return [each for each in self._visits.values() if each.peer not in busy]

    def _drop(self, visit: Visit) -> None:
        if self._visits.get((visit.peer, visit.rank)) is visit:
            del self._visits[visit.peer, visit.rank]

    def _soon(self, rank: int, now: float) -> float:
        return now + self._rng.uniform(*SOON[rank])
