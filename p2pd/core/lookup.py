"""The iterative lookup (Maymounkov, Mazieres 2002, section 2.3), as a pure machine.

::

    while not lookup.finished:
        ask = lookup.next()        # None: wait for an answer that is under way
        lookup.answered(ask, nodes)   or   lookup.failed(ask)

It keeps `alpha` queries under way to the closest nodes not yet asked, and is finished when
the `k` closest of all nodes seen, but for those that failed, have answered.
"""

import enum
from collections.abc import Iterable
from operator import attrgetter

import attrs

from p2pd.ids import NodeId, distance
from p2pd.wire.messages import Signed

# Each answer may bring k nodes; more than this many candidates are lies or waste.
MAX_CANDIDATES = 1000


class State(enum.Enum):
    """What is known of a candidate."""

    NEW = enum.auto()
    ASKED = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()


@attrs.define(eq=False)
class Candidate:
    """A node that may be among the closest.

    `depth` is how many answers led to it, `distance` is to what is looked up.
    """

    node_id: NodeId
    signed: Signed
    depth: int
    distance: int
    state: State = State.NEW


class Lookup:
    """A lookup of `target`, started from `start`, the closest nodes already known."""

    def __init__(
        self,
        target: bytes,
        start: Iterable[tuple[NodeId, Signed]],
        *,
        own_id: NodeId,
        k: int,
        alpha: int,
    ) -> None:
        self._target = target
        self._own_id = own_id
        self._k = k
        self._alpha = alpha
        self._asked = 0
        self._candidates: dict[NodeId, Candidate] = {}
        self._closest_first: list[Candidate] = []
        self._add(start, depth=1)

    @property
    def finished(self) -> bool:
        """Whether the k closest live candidates have all answered."""
        return all(each.state is State.ANSWERED for each in self._frontier())

    def next(self) -> Candidate | None:
        """Return the next node to ask, now marked as asked; None while one must wait."""
        if self._asked >= self._alpha:
            return None
        for candidate in self._frontier():
            if candidate.state is State.NEW:
                candidate.state = State.ASKED
                self._asked += 1
                return candidate
        return None

    def answered(self, candidate: Candidate, nodes: Iterable[tuple[NodeId, Signed]]) -> None:
        """Take the nodes that a candidate named, at most k of them."""
        self._settle(candidate, State.ANSWERED)
        self._add(list(nodes)[: self._k], candidate.depth + 1)

    def failed(self, candidate: Candidate) -> None:
        """Note that a candidate did not answer; the next closest takes its place."""
        self._settle(candidate, State.FAILED)

    def closest(self) -> list[Candidate]:
        """Return up to k candidates that answered, closest first."""
        answered = [each for each in self._closest_first if each.state is State.ANSWERED]
        return answered[: self._k]

    def _settle(self, candidate: Candidate, state: State) -> None:
        candidate.state = state
        self._asked -= 1

    def _frontier(self) -> list[Candidate]:
        alive = (each for each in self._closest_first if each.state is not State.FAILED)
        return [candidate for _, candidate in zip(range(self._k), alive, strict=False)]

    def _add(self, nodes: Iterable[tuple[NodeId, Signed]], depth: int) -> None:
        for node_id, signed in nodes:
            if node_id == self._own_id or node_id in self._candidates:
                continue
            if len(self._candidates) >= MAX_CANDIDATES:
                break
            away = distance(node_id, self._target)
            self._candidates[node_id] = Candidate(node_id, signed, depth, away)
        self._closest_first = sorted(self._candidates.values(), key=attrgetter("distance"))
