"""Lookups alone, over nodes that are only tables: what they find and cost, also among liars.

`core.lookup` and `core.routing` as they are, without network and Trio: each node has met all
others in an order of its own, answers are computed and take a dial each. To see numbers:
`python -m p2pd.simulation.lookups --nodes 1000 --dead 0.2 --liars 0.2 --paths 4`.
"""

import argparse
import heapq
import itertools
import random
import statistics
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import attrs

from p2pd.config import DhtConfig
from p2pd.core.lookup import Candidate, Lookup
from p2pd.core.round_trips import RoundTrips
from p2pd.core.routing import RoutingTable
from p2pd.ids import ID_BITS, ID_BYTES, NodeId, distance
from p2pd.node.routes import NEAR
from p2pd.simulation.measure import percentile
from p2pd.wire.messages import Signed

# Seconds, one way.
LATENCY = 0.05
# From the dial to the answer: TCP, TLS, and the handshake with the question.
ROUND_TRIPS = 3
REQUEST_TIMEOUT = 2.0
LIES = ("each other", "nothing", "made up")

_UNSIGNED = Signed(b"", b"")


@attrs.define
class Found:
    """What came of one lookup: the closest found, seconds, questions, answers that led there."""

    closest: list[NodeId]
    seconds: float
    asked: int
    depth: int


class Net:
    """`size` living nodes, of which a share lies, and dead ones that the others know, too.

    A share `dead` of all that the tables know is dead and silent. The liars are dealt out
    to the kinds of `lies`: they name only each other, or nobody, or nodes that do not exist.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        k: int = 20,
        dead: float = 0,
        liars: float = 0,
        lies: Sequence[str] = LIES,
        latency: float = LATENCY,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a model wants no secrets
        self.k = k
        self._round_trip = 2 * latency
        self.living = [self._new() for _ in range(size)]
        silent = [self._new() for _ in range(round(size * dead / (1 - dead)))]
        lying = self.rng.sample(self.living, round(size * liars))
        self.liars = {each: lies[number % len(lies)] for number, each in enumerate(lying)}
        self._is_living = dict.fromkeys(self.living)
        self._in_order = sorted([*self.living, *silent])
        self._tables: dict[NodeId, RoutingTable] = {}

    def closest_honest(self, target: NodeId, but_for: NodeId) -> NodeId:
        """Return the closest honest living node: what a lookup must find."""
        honest = (each for each in self.living if each not in self.liars and each != but_for)
        return min(honest, key=lambda each: distance(each, target))

    def honest(self) -> NodeId:
        """Pick an honest living node."""
        return self.rng.choice([each for each in self.living if each not in self.liars])

    def point(self) -> NodeId:
        """Pick a point of the ID space."""
        return self._new()

    def look_up(
        self, asker: NodeId, target: NodeId, trips: RoundTrips, *, alpha: int, paths: int
    ) -> Found:
        """Look a target up from one node; `trips` is what lookups before this one measured."""
        lookup = Lookup(
            target,
            self._known_to(asker, target),
            own_id=asker,
            k=self.k,
            alpha=alpha,
            patience=lambda node_id: trips.expected(node_id, dialled=True),
            near=NEAR * self._table(asker).radius(self.k),
            spare=trips.spare(self.k),
            paths=paths,
        )
        now, order, asked = 0.0, itertools.count(), 0
        events: list[tuple[float, int, Candidate]] = []
        while True:
            while (candidate := lookup.next(now)) is not None:
                asked += 1
                takes = self._round_trip * ROUND_TRIPS * self.rng.uniform(1, 1.2)
                takes = takes if candidate.node_id in self._is_living else REQUEST_TIMEOUT
                heapq.heappush(events, (now + takes, next(order), candidate))
            if lookup.finished:
                break
            if lookup.late_at < events[0][0]:
                now = lookup.late_at
                continue
            now, _, candidate = heapq.heappop(events)
            if candidate.node_id in self._is_living:
                trips.took(candidate.node_id, now - candidate.sent_at, dialled=True)
                lookup.answered(candidate, self._answer(candidate.node_id, target))
            else:
                lookup.failed(candidate)
        trips.came_back(*lookup.tally())
        closest = lookup.closest()
        depth = closest[0].depth if closest else 0
        return Found([each.node_id for each in closest], now, asked, depth)

    def _answer(self, node_id: NodeId, target: NodeId) -> list[tuple[NodeId, Signed]]:
        lie = self.liars.get(node_id)
        if lie is None:
            return self._known_to(node_id, target)
        named: list[NodeId] = []
        if lie == "each other":
            named = heapq.nsmallest(self.k, self.liars, key=lambda each: distance(each, target))
        elif lie == "made up":
            named = [NodeId(target[:2] + self.rng.randbytes(30)) for _ in range(self.k)]
        return [(each, _UNSIGNED) for each in named]

    def _known_to(self, node_id: NodeId, target: NodeId) -> list[tuple[NodeId, Signed]]:
        contacts = self._table(node_id).closest(target, self.k)
        return [(each.node_id, each.signed) for each in contacts]

    def _table(self, node_id: NodeId) -> RoutingTable:
        """Fill each bucket from its range, as if all of it had been met in a random order."""
        if node_id in self._tables:
            return self._tables[node_id]
        table = self._tables[node_id] = RoutingTable(node_id, self.k)
        own, ids = int.from_bytes(node_id), self._in_order
        for bits in range(1, ID_BITS + 1):
            first = (own >> (bits - 1) ^ 1) << (bits - 1)
            low = bisect_left(ids, first.to_bytes(ID_BYTES))
            high = bisect_right(ids, (first | (1 << bits - 1) - 1).to_bytes(ID_BYTES))
            met = min(self.k, high - low) if len(table) >= self.k else high - low
            for each in self.rng.sample(ids[low:high], met):
                table.heard_from(each, _UNSIGNED)
        return table

    def _new(self) -> NodeId:
        return NodeId(self.rng.randbytes(ID_BYTES))


def measure(net: Net, count: int, *, alpha: int, paths: int) -> dict[str, float]:
    """Look up `count` points, each from a random honest node; returns what is worth knowing."""
    trips = RoundTrips()
    found: list[Found] = []
    succeeded = 0
    for _ in range(count):
        asker, target = net.honest(), net.point()
        found.append(net.look_up(asker, target, trips, alpha=alpha, paths=paths))
        succeeded += net.closest_honest(target, asker) in found[-1].closest
    seconds = [each.seconds for each in found]
    return {
        "share": succeeded / count,
        "median_s": round(statistics.median(seconds), 3),
        "p99_s": round(percentile(seconds, 0.99), 3),
        "most_s": round(max(seconds), 3),
        "asked": round(statistics.fmean(each.asked for each in found), 1),
        "hops": round(statistics.fmean(each.depth for each in found), 2),
    }


def main(argv: Sequence[str]) -> int:
    """Measure what the flags ask for; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m p2pd.simulation.lookups", description="Lookups in a model, measured."
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000], help="living ones")
    parser.add_argument("--dead", type=float, default=0.0, help="share of the tables, silent")
    parser.add_argument("--liars", type=float, default=0.0, help="share of the living")
    parser.add_argument("--lies", choices=LIES, nargs="+", default=LIES, help="of which kinds")
    parser.add_argument("--paths", type=int, nargs="+", default=[1], help="disjoint ones")
    parser.add_argument("--alpha", type=int, default=DhtConfig().alpha)
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--latency", type=float, default=LATENCY, help="one-way seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    for nodes, paths in itertools.product(options.nodes, options.paths):
        net = Net(
            options.seed,
            nodes,
            dead=options.dead,
            liars=options.liars,
            lies=options.lies,
            latency=options.latency,
        )
        found = measure(net, options.lookups, alpha=options.alpha, paths=paths)
        shown = "  ".join(f"{name} {value:g}" for name, value in found.items())
        sys.stdout.write(f"nodes {nodes}  paths {paths}  {shown}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
