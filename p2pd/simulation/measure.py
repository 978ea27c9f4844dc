"""What users would see of a world: do puts, gets and lookups succeed, how long do they take?"""

import math
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import attrs
import trio

from p2pd.errors import P2PError
from p2pd.ids import Key, NodeId
from p2pd.node.snapshot import Delivery
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World
from p2pd.wire.messages import FindNode

# Asks one node for one name; returns the hops that took, -1 for a wrong answer.
Question = Callable[[SimNode, str, World], Awaitable[int]]

# The topic of the messages to everybody.
TOPIC = "simulation"
# How many questions are under way at once.
AT_ONCE = 250


@attrs.define
class Tally:
    """How a number of similar questions went; `seconds` and `hops` are of those that succeeded.

    `failed` are the names of the others.
    """

    asked: int = 0
    succeeded: int = 0
    seconds: list[float] = attrs.field(factory=list)
    hops: list[int] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)

    def add(self, name: str, asked_at: float, *, right: bool) -> None:
        """Take note of the answer to a question that was asked at a virtual time."""
        self.asked += 1
        if right:
            self.succeeded += 1
            self.seconds.append(trio.current_time() - asked_at)
        else:
            self.failed.append(name)

    @property
    def share(self) -> float:
        """The share that succeeded; 1 if nothing was asked."""
        return self.succeeded / self.asked if self.asked else 1.0

    def summary(self) -> dict[str, float]:
        """Show the share, the median and the 99th percentile of the seconds, mean hops."""
        shown = {"asked": self.asked, "share": round(self.share, 4)}
        if self.seconds:
            shown["median_ms"] = round(statistics.median(self.seconds) * 1000, 2)
            shown["p99_ms"] = round(percentile(self.seconds, 0.99) * 1000, 2)
        if self.hops:
            shown["mean_hops"] = round(statistics.fmean(self.hops), 3)
        return shown


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that this share of all is at most (nearest rank)."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


async def put_keys(world: World, names: Sequence[str]) -> Tally:
    """Put each name, from a random node each; what is put is the name itself."""
    return await _ask(world, names, _put)


async def get_keys(world: World, names: Sequence[str]) -> Tally:
    """Get each name, from a random node each; only the right value is a success."""
    return await _ask(world, names, _get)


async def look_up(world: World, names: Sequence[str]) -> Tally:
    """Look each name up, from a random node each; finding the closest living node succeeds.

    Its hops are how many answers led to that node.
    """
    return await _ask(world, names, _look_up)


@attrs.define
class Spread:
    """How messages to everybody went.

    `seconds` are those until the last of those that had a message first had it; `twice`
    counts the deliveries that were repeated at a node. `copies` is how many payloads came
    for each delivery, `diameter` that of the overlay, in links.
    """

    published: int = 0
    expected: int = 0
    delivered: int = 0
    twice: int = 0
    copies: float = 0.0
    diameter: int = 0
    seconds: list[float] = attrs.field(factory=list)

    def summary(self) -> dict[str, float]:
        """Show the share delivered, copies, the median and the longest time to the last node."""
        return {
            "asked": self.published,
            "share": round(self.delivered / self.expected, 6) if self.expected else 1.0,
            "twice": self.twice,
            "copies": round(self.copies, 4),
            "median_ms": round(statistics.median(self.seconds) * 1000, 2) if self.seconds else 0.0,
            "most_ms": round(max(self.seconds) * 1000, 2) if self.seconds else 0.0,
            "diameter": self.diameter,
        }


async def publish(world: World, count: int, *, warm_up: int = 0, wait: float = 3.0) -> Spread:
    """Publish `count` messages from random nodes, one at a time, `wait` seconds apart.

    Before them `warm_up` others go out, unmeasured, for the tree to settle.
    """
    spread = Spread()
    came: Counter[tuple[str, str]] = Counter()
    last: dict[str, float] = {}
    living = world.living()

    def hear(node: SimNode, message_id: str) -> None:
        if (node.name, message_id) not in came:
            last[message_id] = trio.current_time()
        came[node.name, message_id] += 1

    with ExitStack() as heard:
        for node in living:
            sink = partial(_heard, hear, node)
            heard.enter_context(node.node.deliveries(frozenset({TOPIC}), sink))
        for number in range(warm_up):
            await world.rng.choice(living).node.publish(TOPIC, b"warm up %d" % number)
            await trio.sleep(wait)
        before = {node.name: node.services.gossip.payloads for node in living}
        at: dict[str, float] = {}
        for number in range(count):
            now = trio.current_time()
            message_id = await world.rng.choice(living).node.publish(TOPIC, b"%d" % number)
            at[message_id] = now
            await trio.sleep(wait)
    alive = [node for node in living if node.running is not None]
    spread.published = count
    spread.expected = count * len(alive)
    spread.delivered = sum((node.name, each) in came for node in alive for each in at)
    spread.twice = sum(times > 1 for (_, each), times in came.items() if each in at)
    # The origin needs no copy.
    deliveries = max(1, spread.delivered - count)
    payloads = sum(node.services.gossip.payloads - before[node.name] for node in alive)
    spread.copies = payloads / deliveries
    spread.diameter = diameter(world)
    spread.seconds = [last[each] - now for each, now in at.items()]
    return spread


def diameter(world: World) -> int:
    """Return the longest of the shortest paths between two living nodes, in connections."""
    living = {node.node_id: node for node in world.living()}
    links = {
        node_id: [each.node_id for each in node.services.roster.lasting() if each.node_id in living]
        for node_id, node in living.items()
    }
    return max((_depth(links, each) for each in links), default=0)


def _depth(links: Mapping[NodeId, Sequence[NodeId]], start: NodeId) -> int:
    seen, edge, depth = {start}, [start], 0
    while edge:
        edge = [far for near in edge for far in links[near]]
        edge = [each for each in dict.fromkeys(edge) if each not in seen]
        seen.update(edge)
        depth += bool(edge)
    return depth


def _heard(hear: Callable[[SimNode, str], None], node: SimNode, delivery: Delivery) -> None:
    hear(node, delivery.message_id)


async def _put(node: SimNode, name: str, _: World) -> int:
    await node.node.put(name, name.encode())
    return 0


async def _get(node: SimNode, name: str, _: World) -> int:
    found = await node.node.get(name)
    return 0 if found.winner.value == name.encode() else -1


async def _look_up(node: SimNode, name: str, world: World) -> int:
    key = Key.of(name)
    others = [each for each in closest(world, key, 2) if each is not node]
    route = await node.services.routes.look_up(key, FindNode(key))
    first = next(iter(route.closest), None)
    return first.depth if first and others and first.node_id == others[0].node_id else -1


async def _ask(world: World, names: Sequence[str], question: Question) -> Tally:
    tally = Tally()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def ask_one(node: SimNode, name: str) -> None:
        async with limit:
            asked_at, hops = trio.current_time(), -1
            with suppress(P2PError):
                hops = await question(node, name, world)
            tally.add(name, asked_at, right=hops >= 0)
            if hops > 0:
                tally.hops.append(hops)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask_one, world.rng.choice(world.living()), name)
    return tally
