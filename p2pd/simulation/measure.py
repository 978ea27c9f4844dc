"""What users would see of a world: do puts, gets and lookups succeed, how long do they take?"""

import statistics
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from p2pd.errors import P2PError
from p2pd.ids import Key
from p2pd.simulation.checks import closest
from p2pd.simulation.world import SimNode, World
from p2pd.wire.messages import FindNode

# Asks one node for one name; returns the hops that took, -1 for a wrong answer.
Question = Callable[[SimNode, str, World], Awaitable[int]]

# So many questions are under way at once.
AT_ONCE = 250


@attrs.define
class Tally:
    """How a number of like questions went; `seconds` and `hops` are of those that succeeded."""

    asked: int = 0
    succeeded: int = 0
    seconds: list[float] = attrs.field(factory=list)
    hops: list[int] = attrs.field(factory=list)

    @property
    def share(self) -> float:
        """The share that succeeded; 1 where nothing was asked."""
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
    """Return the value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


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
            asked_at = trio.current_time()
            try:
                hops = await question(node, name, world)
            except P2PError:
                return
            if hops >= 0:
                tally.succeeded += 1
                tally.seconds.append(trio.current_time() - asked_at)
                if hops > 0:
                    tally.hops.append(hops)

    async with trio.open_nursery() as nursery:
        for name in names:
            tally.asked += 1
            nursery.start_soon(ask_one, world.rng.choice(world.living()), name)
    return tally
