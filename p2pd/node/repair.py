"""Keeps every record on its closest nodes while nodes come and go.

`core.tending` says what this node is to compare with whom, and when; `Reconciler` does it.
Here are the occasions: a node nearby died, left, came or came back; this node starts, or
leaves. `node.republish` looks after what nobody tends.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

import trio

from p2pd.config import DhtConfig
from p2pd.core.bounded import BoundedTable
from p2pd.core.closest_sets import closest_sets, merged
from p2pd.core.confirmations import Confirmations
from p2pd.core.merkle import EVERYTHING, Prefix
from p2pd.core.tending import RETRY, SOON, TENDERS, Tending, Visit
from p2pd.errors import DialFailed, P2PError, RequestTimedOut
from p2pd.ids import NodeId, closest_first, distance, distance_bits
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection
from p2pd.node.ending import Ending
from p2pd.node.env import Env
from p2pd.node.reconciler import Reconciler
from p2pd.node.replica import Replica
from p2pd.node.roster import Roster
from p2pd.node.routes import Routes
from p2pd.wire.messages import FindNode

# Comparisons that one node has started and not finished.
AT_ONCE = 4
# How many more nodes than replicas are looked at, at least. All are that fall into the same buckets
# as this node's `replication` closest: those closest to a key that it tends are among them, but in
# an order of their own.
MARGIN = 8
# Seconds between two lookups of the node's own ID after deaths: others become neighbours then.
# After arrivals (others may have come with them) there is one in half a `repair_interval` only:
# newcomers make themselves known, and otherwise every node of a large network would look around
# at once when the first record is written.
LOOK_AGAIN = 60.0
# The pause after arrivals is longer by a random share between these: all look around together when
# a node goes, and would do so again when it is back.
_SPREAD = (0.0, 0.5)
# A newcomer asks this many of the nearest whether there are any records, and takes over from
# them what it is to tend.
ASKED_FIRST = 3
# A node that was started less than this many seconds ago is new.
NEW = 60.0
# How many nodes that were near and went are remembered; when full, the one that went first is
# forgotten.
MOST_GONE = 1024
# Seconds that handing over may take, and how many nodes are given records at a time.
HAND_OVER = 2.0
HEIRS_AT_ONCE = 8


class Repair:
    """Compares with other replicas when it is time; `hand_over` is for the end.

    `tending` holds what is to be compared; `replication` is `dht.replication`, at most `dht.k`.
    """

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        roster: Roster,
        routes: Routes,
        replica: Replica,
        reconciler: Reconciler,
        confirmations: Confirmations,
    ) -> None:
        self._env = env
        self._own_id = env.identity.node_id
        self._roster = roster
        self._routes = routes
        self._replica = replica
        self._reconciler = reconciler
        self._confirmations = confirmations
        # Nobody knows more than `k` nodes of a range.
        self.replication = min(config.replication, config.k)
        self.tending = Tending(
            self._own_id,
            replication=self.replication,
            interval=config.repair_interval,
            rng=env.rng,
        )
        self._seldom = config.repair_interval / 2
        self._near: list[NodeId] = []
        # The nodes that matter are no farther from this one.
        self._reach = math.inf
        self._lost: dict[NodeId, None] = {}
        self._gone = BoundedTable[NodeId, None](MOST_GONE)
        # The process that a node nearby was when it was last connected.
        self._instances = BoundedTable[NodeId, bytes](MOST_GONE)
        self._survey_at = self._look_at = math.inf
        self._looked_at = -math.inf
        # Seconds from the last lookup of the own ID to the next one after arrivals.
        self._rest = self._seldom
        self._all_known = False
        self._watching = False
        self._started = trio.current_time()
        self._connected = trio.Event()
        self._alarm = Alarm(env.alarms)
        roster.on_connected.append(self._came)
        roster.on_disconnected.append(self._went)
        replica.on_begun.append(self._begin)

    async def run(self) -> None:
        """Compare when it is time, until cancelled."""
        await self._replica.loaded.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._join)
            limit = trio.CapacityLimiter(AT_ONCE)
            while True:
                visit_at = self.tending.next_due() if limit.available_tokens else math.inf
                due = min(self._survey_at, self._look_at, visit_at)
                await self._alarm.wait(due)
                now = trio.current_time()
                if now >= self._survey_at:
                    self._survey(now)
                if now >= self._look_at:
                    self._look_at, self._looked_at = math.inf, now
                    self._rest = self._seldom * (1 + self._env.rng.uniform(*_SPREAD))
                    nursery.start_soon(self._look_around)
                while limit.available_tokens and (visit := self.tending.take(now)) is not None:
                    limit.acquire_on_behalf_of_nowait(visit)
                    nursery.start_soon(self._visit, visit, limit)

    def note_gone(self, node_id: NodeId) -> None:
        """Take note that a node died, left, or could not be reached."""
        if not self._is_near(node_id):
            return
        # Also before there are records: they may be written while it is away.
        self._gone[node_id] = None
        if self._watching:
            self._plan_survey(self._soon(), LOOK_AGAIN)

    def _plan_survey(self, survey_at: float, look_again: float) -> None:
        self._survey_at = min(self._survey_at, survey_at)
        earliest = max(self._survey_at, self._looked_at + look_again)
        self._look_at = min(self._look_at, earliest)
        self._wake()

    async def hand_over(self) -> None:
        """Give the records of this node to those that become replicas once it has left.

        Takes at most `HAND_OVER` seconds. Where there are no more nodes than replicas, none
        becomes one: then the nearest get what they may have missed, to tell the others.
        """
        nodes = self.alive()
        if not len(self._replica.tree):
            return
        heirs: dict[bytes, list[Prefix]] = {}
        if len(nodes) < self.replication:
            heirs = {node: [EVERYTHING] for node in nodes[:TENDERS]}
        counts = (self.replication, self.replication + 1)
        for each in closest_sets(
            self._own_id,
            nodes,
            counts,
            within=self.replication,
            but_for=self._replica.tree.is_empty,
        ):
            for node in each.nodes[self.replication :]:
                heirs.setdefault(node, []).append(each.prefix)
        limit = trio.CapacityLimiter(HEIRS_AT_ONCE)

        async def give(heir: NodeId, prefixes: list[Prefix]) -> None:
            async with limit:
                with suppress(P2PError):
                    await self._reconciler.reconcile(heir, prefixes, take=False)

        with trio.move_on_after(HAND_OVER):
            async with trio.open_nursery() as nursery:
                for heir, prefixes in heirs.items():
                    if heir != self._own_id:
                        nursery.start_soon(give, NodeId(heir), merged(prefixes))

    def alive(self) -> list[NodeId]:
        """Return all nodes known to be alive, closest first."""
        return closest_first(self._routes.alive(), self._own_id)

    async def _join(self) -> None:
        """Take over what is now this node's to tend, and become known to those with the rest."""
        if not self._routes.table:
            await self._connected.wait()
        await trio.sleep_until(self._soon())
        while (there_are_records := await self._are_there_records()) is None:  # noqa: ASYNC110 - nobody tells when the nearest would answer
            await trio.sleep(RETRY)
        if not there_are_records:
            return
        self._looked_at = trio.current_time()
        await self._look_around()
        self._all_known = False
        self._survey(trio.current_time())
        for peer in self._near[:ASKED_FIRST]:
            with suppress(P2PError):
                await self._reconciler.reconcile(peer, self.tending.prefixes)

    async def _are_there_records(self) -> bool | None:
        """Tell whether anything is stored, here or nearby; None where nobody answers."""
        if len(self._replica.tree):
            return True
        found: bool | None = None
        for peer in self.alive()[:ASKED_FIRST]:
            with suppress(P2PError):
                found = await self._reconciler.holds_anything(peer)
                if found:
                    break
        return found

    async def _look_around(self) -> None:
        """Get to know all nodes nearby; `_came` notes those that are new."""
        count = self.replication + MARGIN
        await self._routes.look_up(self._own_id, FindNode(self._own_id), k=count, urgent=False)

    async def _visit(self, visit: Visit, limit: trio.CapacityLimiter) -> None:
        # A survey meanwhile may add to those of the visit.
        peer, prefixes = NodeId(visit.peer), visit.prefixes
        learned = False

        def note_learned() -> None:
            nonlocal learned
            learned = True

        try:
            # Also where this node has nothing: it may be the one that missed what was written.
            outcome = await self._reconciler.reconcile(peer, prefixes, on_learned=note_learned)
            if outcome.same:
                for each in prefixes:
                    self._confirmations.note(each, trio.current_time())
            self.tending.made(visit, trio.current_time(), learned=learned, gave=outcome.given > 0)
        except P2PError as error:
            self.tending.failed(visit, trio.current_time(), learned=learned)
            # A peer that is connected may just be busy; whether it is alive shows elsewhere.
            is_away = peer not in self._roster.connections
            if is_away and isinstance(error, DialFailed | RequestTimedOut):
                self._routes.note_failure(peer, error)
                self.note_gone(peer)
        finally:
            limit.release_on_behalf_of(visit)
            self._wake()

    def _survey(self, now: float) -> None:
        self._survey_at, self._watching = math.inf, True
        alive = self.alive()
        self._reach = self._reach_among(alive)
        self._near = [each for each in alive if distance(each, self._own_id) <= self._reach]
        self._lost = {each: None for each in self._lost if each in self._near}
        beyond = alive[len(self._near) :]
        self.tending.survey(self._near, now, all_known=self._all_known, beyond=beyond)
        self._all_known = False
        self._wake()

    def _begin(self) -> None:
        """Begin to look after records with the first one.

        Its writer gave it to all that are there now, so that nobody lacks it; unless this node
        is new, and was given it as a part of what it is to tend.
        """
        if self._replica.loaded.is_set() and not self._watching:
            now = trio.current_time()
            self._all_known = now - self._started > NEW
            self._survey_at = now
            self._look_at = now + self._env.rng.uniform(0, self._seldom)
            self._looked_at = self._look_at - self._seldom
            self._wake()

    def _came(self, connection: Connection) -> None:
        self._connected.set()
        node_id, instance = connection.node_id, connection.peer.instance
        was_away = node_id in self._gone
        restarted = self._instances.get(node_id, instance) != instance
        if node_id in self._lost or was_away or restarted:
            # It lacks what was written meanwhile, however short that was.
            self.tending.again(trio.current_time(), node_id)
            self._wake()
        self._lost.pop(node_id, None)
        self._gone.pop(node_id, None)
        if not self._is_near(node_id):
            return
        self._instances[node_id] = instance
        if self._watching and node_id not in self._near:
            self._plan_survey(self._survey_time(connection, was_away=was_away), self._rest)

    def _survey_time(self, connection: Connection, *, was_away: bool) -> float:
        """Return when to look again whose the records are, now that a node came.

        A node that is new, or was away, lacks some of them. One that we merely had not met was
        there when they were written, and lookups in a large network find many of that kind.
        """
        age = (self._env.wall_ms() - connection.peer.record.issued) / 1000
        if age < NEW or was_away:
            return self._soon()
        return trio.current_time() + self._env.rng.uniform(0, self._seldom)

    def _went(self, connection: Connection) -> None:
        if connection.ending is not Ending.UNWANTED and connection.node_id in self._near:
            self._lost[connection.node_id] = None

    def _reach_among(self, alive: Sequence[NodeId]) -> float:
        """Return how far away a node can be and still be a replica of what this one tends."""
        count = self.replication + MARGIN
        if len(alive) < count:
            return math.inf
        bits = distance_bits(alive[self.replication - 1], self._own_id)
        return max(distance(alive[count - 1], self._own_id), (1 << bits) - 1)

    def _is_near(self, node_id: NodeId) -> bool:
        return distance(node_id, self._own_id) <= self._reach

    def _soon(self) -> float:
        return trio.current_time() + self._env.rng.uniform(*SOON[0])

    def _wake(self) -> None:
        self._alarm.ring()
