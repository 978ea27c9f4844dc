"""The iterative lookup (Maymounkov, Mazieres 2002, section 2.3), as a pure machine.

::

    while True:
        ask = lookup.next(now)        # again, until it is None
        if lookup.finished: ...
        wait for an answer, at most until lookup.late_at
        lookup.answered(ask, nodes)   or   lookup.failed(ask)

It asks the closest nodes not yet asked, `alpha` at a time, and is finished when the `k` closest of
all nodes seen have answered, not counting those that failed or are late.

A node that takes longer than expected counts as late: another is asked in its place, but a late
answer still counts. So a silent node holds up the lookup only as long as an answer is expected to
take, not until the request times out. Once k others have answered, the lookup stops waiting for
late nodes, however close; with fewer than k answers it waits until the late ones answer or fail.

`alpha` bounds what is asked on the way, where each answer tells better whom to ask. Nodes that are
`near` the target will most likely be among the k closest, and are all asked at once; so are all
that are left when the `alpha` closest have answered. `spare` more than k are asked then, to make up
for those that will not answer.

Disjoint paths (Baumgart, Mies 2007, "S/Kademlia", section 4.4): the first candidates are dealt
out to `paths` lookups side by side. Each path continues only from nodes named in answers to its own
questions, and no node is asked on two paths. What they found is combined at the end. A liar leads
astray only the path that asked it.
"""

import enum
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from operator import attrgetter

import attrs

from p2pd.ids import NodeId, distance_to
from p2pd.wire.messages import Signed

# Each answer may bring k nodes; candidates beyond this many, on all paths together, are lies or
# waste and are left out.
MAX_CANDIDATES = 1000


class State(enum.Enum):
    """What is known of a candidate.

    `LATE`: asked, and the answer was expected by now. `GONE`: known not to run.
    """

    NEW = enum.auto()
    ASKED = enum.auto()
    LATE = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()
    GONE = enum.auto()


_PASSED_OVER = (State.LATE, State.FAILED, State.GONE)


@attrs.define(eq=False)
class Candidate:
    """A node that may be among the closest.

    `depth` is how many answers led to it, `distance` is to what is looked up, `told_by` who named
    it first, where it is not one that the lookup started from. Once it is asked,
    `path` is the number of the path that asked; `sent_at` is when the question was sent, and
    `late_at` until when the answer is expected, both monotonic.
    """

    node_id: NodeId
    signed: Signed
    depth: int
    distance: int
    told_by: NodeId | None = None
    state: State = State.NEW
    sent_at: float = 0.0
    late_at: float = 0.0
    path: int = 0


@attrs.define
class _Path:
    """One of the disjoint paths: whom it has heard of, and whom it asked.

    `closest_first` are the known nodes that have not failed, `failed` counts those that it asked
    and that did.
    """

    known: dict[NodeId, Candidate] = attrs.field(factory=dict)
    closest_first: list[Candidate] = attrs.field(factory=list)
    under_way: list[Candidate] = attrs.field(factory=list)
    failed: int = 0

    def frontier(self, count: int) -> Iterator[Candidate]:
        """Return the `count` closest that have answered or may still do so in time."""
        hopeful = (each for each in self.closest_first if each.state is not State.LATE)
        return islice(hopeful, count)


class Lookup:
    """A lookup of `target`, started from `start`, the closest nodes already known.

    `k`, `alpha` and `spare` are as above; `own_id` is never asked. `patience` says within how
    many seconds a node's answer is expected. `near` is a distance within which about k nodes,
    or somewhat more, lie around the target; 0 where that is not known. With more than one of
    the `paths`, each may ask its share of `alpha` at a time, and at least one.
    """

    def __init__(
        self,
        target: bytes,
        start: Iterable[tuple[NodeId, Signed]],
        *,
        own_id: NodeId,
        k: int,
        alpha: int,
        patience: Callable[[NodeId], float],
        near: int = 0,
        spare: int = 0,
        paths: int = 1,
    ) -> None:
        self._distance = distance_to(target)
        self._own_id = own_id
        self._k = k
        self._alpha = alpha
        self._patience = patience
        self._near = near
        self._spare = spare
        self._candidates: dict[NodeId, Candidate] = {}
        self._closest_first: list[Candidate] = []
        self._paths = [_Path() for _ in range(paths)]
        first = list(start)
        for number, path in enumerate(self._paths):
            self._add(path, first[number::paths], told_by=None)

    @property
    def finished(self) -> bool:
        """Whether there is nobody left to ask or to wait for, as of the last `next`."""
        for path in self._paths:
            if any(each.state is not State.ANSWERED for each in path.frontier(self._k)):
                return False
        if all(each.state is not State.LATE for each in self._under_way()):
            return True
        return len(self.closest()) == self._k

    @property
    def converged(self) -> bool:
        """Whether the `alpha` closest have answered: what is asked now brings nobody closer."""
        return all(self._has_converged(path) for path in self._paths)

    @property
    def late_at(self) -> float:
        """When the next of those asked will be late; infinity if none can be."""
        due = (each.late_at for each in self._under_way() if each.state is State.ASKED)
        return min(due, default=math.inf)

    def next(self, now: float) -> Candidate | None:
        """Return the next node to ask, now marked as asked; None if the caller must wait."""
        for each in self._under_way():
            if each.state is State.ASKED and each.late_at <= now:
                each.state = State.LATE
        for number, path in enumerate(self._paths):
            candidate = self._next_of(path)
            if candidate is not None:
                candidate.path = number
                self.sent(candidate, now)
                path.under_way.append(candidate)
                return candidate
        return None

    def held_up(self, candidate: Candidate) -> None:
        """Note that a question waits here to be sent: no answer is expected until `sent`."""
        candidate.state, candidate.late_at = State.ASKED, math.inf

    def sent(self, candidate: Candidate, now: float) -> None:
        """Note that a question that was held up, or has to be repeated, is on its way now."""
        candidate.state, candidate.sent_at = State.ASKED, now
        candidate.late_at = now + self._patience(candidate.node_id)

    def answered(self, candidate: Candidate, nodes: Iterable[tuple[NodeId, Signed]]) -> None:
        """Take the nodes that a candidate named in its answer, at most k of them."""
        self._settle(candidate, State.ANSWERED)
        self._add(self._paths[candidate.path], list(nodes)[: self._k], told_by=candidate)

    def failed(self, candidate: Candidate, *, gone: bool = False) -> None:
        """Note that a candidate did not answer; the next closest takes its place.

        `gone`: it is known not to run, so nobody misses its answer.
        """
        self._settle(candidate, State.GONE if gone else State.FAILED)
        self._paths[candidate.path].failed += 1
        for path in self._paths:
            if candidate.node_id in path.known:
                path.closest_first.remove(candidate)

    def tally(self) -> tuple[int, int]:
        """Return how many have answered, and how many should have by now but have not."""
        states = [each.state for each in self._candidates.values()]
        return states.count(State.ANSWERED), sum(map(states.count, _PASSED_OVER))

    def closest(self) -> list[Candidate]:
        """Return up to k candidates that answered, closest first."""
        return [each for each in self._closest_first if each.state is State.ANSWERED][: self._k]

    def frontier(self) -> list[Candidate]:
        """Return the k closest that have answered, or still may in time, closest first."""
        hopeful = [each for each in self._closest_first if each.state not in _PASSED_OVER]
        return hopeful[: self._k]

    def silent(self) -> list[Candidate]:
        """Return those of the k closest seen that failed or are late, closest first.

        Nodes known not to run are neither counted among the k nor returned.
        """
        there = [each for each in self._closest_first if each.state is not State.GONE]
        return [each for each in there[: self._k] if each.state in _PASSED_OVER]

    def _has_converged(self, path: _Path) -> bool:
        return all(each.state is State.ANSWERED for each in path.frontier(self._alpha))

    def _under_way(self) -> Iterator[Candidate]:
        return chain.from_iterable(path.under_way for path in self._paths)

    def _next_of(self, path: _Path) -> Candidate | None:
        late = sum(each.state is State.LATE for each in path.under_way)
        # A node that does not answer makes room for one more: otherwise liars that name many that
        # do not exist could make us wait for them one after another. But late ones cost, too.
        at_once = max(1, self._alpha // len(self._paths)) + min(path.failed + late, self._k)
        at_once_near = max(at_once, self._k + self._spare)
        on_time = len(path.under_way) - min(late, self._k)
        if on_time >= at_once_near:
            return None
        for candidate in path.frontier(self._k + self._spare):
            if candidate.state is State.NEW:
                near = candidate.distance <= self._near or self._has_converged(path)
                return candidate if on_time < (at_once_near if near else at_once) else None
        return None

    def _settle(self, candidate: Candidate, state: State) -> None:
        candidate.state = state
        self._paths[candidate.path].under_way.remove(candidate)

    def _add(
        self, path: _Path, nodes: Iterable[tuple[NodeId, Signed]], *, told_by: Candidate | None
    ) -> None:
        for node_id, signed in nodes:
            if node_id == self._own_id or node_id in path.known:
                continue
            # Each path has its own share, so that liars on one leave room for the others.
            if len(path.known) >= MAX_CANDIDATES // len(self._paths):
                break
            candidate = self._candidates.get(node_id)
            if candidate is None:
                candidate = Candidate(
                    node_id,
                    signed,
                    depth=1 if told_by is None else told_by.depth + 1,
                    distance=self._distance(node_id),
                    told_by=None if told_by is None else told_by.node_id,
                )
                self._candidates[node_id] = candidate
                self._closest_first.append(candidate)
            path.known[node_id] = candidate
            if candidate.state not in (State.FAILED, State.GONE):
                path.closest_first.append(candidate)
        path.closest_first.sort(key=attrgetter("distance"))
        self._closest_first.sort(key=attrgetter("distance"))
