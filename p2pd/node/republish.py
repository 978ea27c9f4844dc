"""Looks after the records that nobody is seen to tend, and drops those that belong elsewhere.

A record that no longer belongs to this node stays until each of the nodes that it belongs to was
seen to have it. If it is brought back, it is dropped ever more seldom (`core.stalemates`): who
can't reach one of those nodes takes this one for a replica. One that does belong here, but that no
comparison showed to be the same elsewhere for `republish_interval`, is looked up and given to the
nodes that it belongs to (Kademlia, section 2.5). For the nodes that get it this counts as a
comparison, so they do not do the same.
"""

import random
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

import trio

from p2pd.config import DhtConfig
from p2pd.core.closest_sets import foreign_prefixes, outside
from p2pd.core.confirmations import Confirmations
from p2pd.core.merkle import Prefix
from p2pd.core.stalemates import Divergence, Stalemates
from p2pd.errors import P2PError, PeerError
from p2pd.ids import ID_BITS, Key, NodeId, closest_first, distance_bits
from p2pd.node.env import Env
from p2pd.node.reconciler import Reconciler
from p2pd.node.repair import Repair
from p2pd.node.replica import Replica
from p2pd.node.routes import Routes
from p2pd.wire.messages import FindNode

# Lookups in one round, of which there is one in each `repair_interval`.
MAX_LOOKUPS = 32
# A key is taken at random from up to this many that are next to one another.
AMONG = 1024
# Keys that are brought home, and dropped, at once; of more, only those nearer to the one drawn.
MAX_AT_ONCE = 4096
# Tenders get this many of their rounds before what no comparison confirmed is looked up.
PATIENCE = 2.0


class Republisher:
    """Works in rounds, until `run` is cancelled."""

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        routes: Routes,
        replica: Replica,
        reconciler: Reconciler,
        confirmations: Confirmations,
        repair: Repair,
    ) -> None:
        self._rng: random.Random = env.rng
        self._own_id = env.identity.node_id
        self._config = config
        self._routes = routes
        self._replica = replica
        self._reconciler = reconciler
        self._confirmations = confirmations
        self._repair = repair
        self._dropped = Stalemates(config.repair_interval)

    async def run(self) -> None:
        """Make a round once in each `repair_interval`, until cancelled."""
        await self._replica.loaded.wait()
        while True:
            await trio.sleep(self._config.repair_interval * self._rng.uniform(0.75, 1.25))
            await self.round()

    async def round(self) -> None:
        """Bring some of what nobody tends to where it belongs."""
        ahead = self._untended()
        for _ in range(MAX_LOOKUPS):
            if not ahead:
                return
            prefix = ahead.pop(self._rng.randrange(len(ahead)))
            if self._replica.tree.is_empty(prefix):
                continue
            # Where that fails, everything under the prefix stays, and its turn comes again.
            with suppress(P2PError):
                around = await self._bring_home(prefix)
                ahead += _rest(prefix, around)

    def _untended(self) -> list[Prefix]:
        """Return some of the prefixes that are not this node's, or were not confirmed lately.

        In a network with no more nodes than replicas, everything belongs to all of them.
        """
        nodes = self._repair.alive()
        if not nodes or not len(self._replica.tree):
            return []
        now = trio.current_time()
        patience = max(self._config.republish_interval, PATIENCE * self._repair.tending.turn())
        foreign = foreign_prefixes(
            self._own_id, nodes, self._repair.replication, but_for=self._replica.tree.is_empty
        )
        seen = [*self._confirmations.since(now - patience), *foreign]
        unseen = outside(seen, but_for=self._replica.tree.is_empty)
        return [*foreign, *unseen]

    async def _bring_home(self, prefix: Prefix) -> Prefix:
        """Give keys of a prefix to the nodes they belong to; drop them if this node is not one.

        Returns the part of the prefix for which that was done: around a key drawn at random,
        all keys with the same closest nodes. Raises what `Reconciler.reconcile` raises, and
        `PeerError` where a node did not keep what it was given, or this node became a replica
        meanwhile; then nothing is dropped.
        """
        key = self._draw(prefix)
        found = await self._closest(key)
        home = found[: self._repair.replication]
        if len(home) < min(self._repair.replication, len(self._repair.alive()) + 1):
            raise PeerError("too few nodes were found to tell whose it is")
        around = _around(key, found, len(home), prefix)
        held = self._held(around)
        while len(held) > MAX_AT_ONCE:
            around = next(each for each in around.longer(1) if each.holds(key))
            held = self._held(around)
        for node in home:
            if node != self._own_id:
                await self._make_sure(node, around)
        if self._own_id in home:
            self._confirmations.note(around, trio.current_time())
            return around
        # One of them may have died while the others were seen to, so that this node is a replica
        # now. Its tenders found it to be one before the drop, and are not back for hours.
        if self._own_id in (await self._closest(key))[: len(home)]:
            raise PeerError("this node became a replica meanwhile")
        await self._drop(held)
        return around

    async def _drop(self, held: Mapping[Key, bytes]) -> None:
        """Drop keys, given with their digests, but for those brought back too soon after that."""
        now = trio.current_time()
        there = [Divergence(key, digest, None, 0) for key, digest in held.items()]
        going = [each for each in there if not self._dropped.holds(self._own_id, each, now)]
        await self._replica.drop({each.key: held[each.key] for each in going})
        for each in going:
            self._dropped.note(self._own_id, each, now)

    def _draw(self, prefix: Prefix) -> Key:
        """Return a key of a prefix at random, from anywhere under it.

        If these were always the first ones, a single node that keeps nothing could hold up
        everything behind them.
        """
        tree = self._replica.tree
        while len(some := list(islice(tree.entries(prefix), AMONG + 1))) > AMONG:
            prefix = self._rng.choice(
                [each for each in prefix.longer(1) if not tree.is_empty(each)]
            )
        return Key(self._rng.choice(some)[0])

    def _held(self, prefix: Prefix) -> dict[Key, bytes]:
        """Return the keys under a prefix with their digests; of many, one more than allowed."""
        entries = islice(self._replica.tree.entries(prefix), MAX_AT_ONCE + 1)
        return {Key(each): digest for each, digest in entries}

    async def _closest(self, key: Key) -> list[NodeId]:
        """Return the nodes closest to a key, this one among them, and one more if there is."""
        known = self._routes.known_closest(key, self._repair.replication + 1)
        if known is not None:
            return known
        route = await self._routes.look_up(key, FindNode(key), urgent=False)
        return closest_first([*(each.node_id for each in route.closest), self._own_id], key)

    async def _make_sure(self, node: NodeId, prefix: Prefix) -> None:
        """See that a node has what is here under a prefix: give it, then compare once more."""
        for _ in range(2):
            outcome = await self._reconciler.reconcile(node, [prefix], take=False)
            if outcome.same:
                return
        raise PeerError(f"{node.short} does not keep what it was given")


def _around(key: Key, found: list[NodeId], count: int, prefix: Prefix) -> Prefix:
    """Return the prefix of the keys around one that have the same `count` closest nodes.

    It is longer than what any node found has in common with the key, long enough to tell the
    last node that is in from the first one that is not, and no shorter than `prefix`.
    """
    bits = max(ID_BITS - distance_bits(key, each) for each in found) + 1
    if len(found) > count:
        bits = max(bits, ID_BITS - distance_bits(found[count - 1], found[count]) + 1)
    bits = min(max(bits, prefix.bits), ID_BITS)
    return Prefix(bits, int.from_bytes(key) >> ID_BITS - bits)


def _rest(prefix: Prefix, part: Prefix) -> list[Prefix]:
    """Return the prefixes of all keys under a prefix that are not under a part of it."""
    return [
        Prefix(bits, part.path >> part.bits - bits ^ 1)
        for bits in range(prefix.bits + 1, part.bits + 1)
    ]
