"""The replicas of a key, as seen from this node: what they hold, and giving them more.

The replicas are the `dht.replication` closest nodes that answer, this one among them. Where
the routing table holds everybody there is near a key, they are asked at once; else a lookup
finds them.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import chain

import attrs
import trio

from p2pd.config import DhtConfig
from p2pd.core.entries import Entry
from p2pd.core.quorums import Needed, Turnout, turnout
from p2pd.core.records import (
    Version,
    is_for_readers,
    living,
    merge,
    version_of,
)
from p2pd.errors import BadMessage, P2PError, RequestRefused, StoreError
from p2pd.ids import Key, NodeId, closest_first
from p2pd.node.env import Env
from p2pd.node.replica import Replica
from p2pd.node.requester import Requester
from p2pd.node.roster import Roster
from p2pd.node.routes import Route, Routes
from p2pd.wire.identity import open_record
from p2pd.wire.messages import (
    FindValue,
    Message,
    Signed,
    Store,
    Stored,
    Value,
)

# Once enough have a record, the others get this many times as long as those took, from the start.
_PATIENCE = 4.0


@attrs.frozen
class Holding:
    """What the replicas of a key hold.

    `versions` are those that no other one covers, the winner first; `ahead`: at least half of the
    replicas that answered have versions that were left out, as they are dated too far ahead.
    `late` are the nodes that would be replicas, but did not answer in time.
    """

    versions: list[Version]
    ahead: bool
    turnout: Turnout
    late: list[NodeId]


@attrs.frozen
class StoreResult:
    """How many replicas have a record on disk.

    `wanted` is how many should have it, `quorum` how many of these must. `refusal` says, for
    people, why no more have it. `late` are the other replicas that did not answer, or could not be
    reached.
    """

    count: int
    wanted: int
    quorum: int
    refusal: str
    late: list[NodeId]


class _Reading:
    """One read of a key: what the nodes that answered hold, and which nodes have not answered.

    `held` is by node. Those `pending` may still answer, those `silent` did not, but may well run.
    Versions with an implausible clock are left out: a writer takes a later clock than all that it
    saw. `wall_ms` tells the Unix milliseconds.
    """

    def __init__(
        self, key: Key, needed: Needed, *, until_found: bool, wall_ms: Callable[[], int]
    ) -> None:
        self.key = key
        self.held: dict[NodeId, list[Version]] = {}
        self.pending: dict[NodeId, None] = {}
        self.silent: dict[NodeId, None] = {}
        self._ahead: dict[NodeId, None] = {}
        self._needed = needed
        self._until_found = until_found
        self._wall_ms = wall_ms
        # Most answers name the same versions.
        self._opened: dict[Signed, Version | None] = {}

    def versions(self) -> list[Version]:
        """Return those that no other one covers, the winner first.

        What has ended by this node's clock is among them: others may still show it, and a write
        that did not cover it would leave it beside what it writes.
        """
        return merge(chain.from_iterable(self.held.values()))

    def take_own(self, own_id: NodeId, versions: Iterable[Version]) -> None:
        """Take what this node has itself."""
        found = list(versions)
        self._opened.update((each.signed, each) for each in found)
        self._enter(own_id, found)

    def take(self, node: NodeId, answer: Message) -> None:
        """Take the versions in an answer that are properly signed, and of this key."""
        told = answer.versions if isinstance(answer, Value) else ()
        versions = [self._open(signed) for signed in told]
        self._enter(node, [each for each in versions if each is not None])

    def ahead(self, replicas: Collection[NodeId]) -> bool:
        """Whether at least half of the replicas that answered have versions dated too far ahead.

        One of them alone may lie.
        """
        answered = [each for each in replicas if each in self.held]
        return 0 < len(answered) <= 2 * sum(each in self._ahead for each in answered)

    def _enter(self, node: NodeId, versions: list[Version]) -> None:
        now_ms = self._wall_ms()
        self.held[node] = [each for each in versions if is_for_readers(each.record, now_ms)]
        if len(self.held[node]) < len(versions):
            self._ahead[node] = None
        self.pending.pop(node, None)
        self.silent.pop(node, None)

    def counts(self) -> tuple[int, int]:
        """Return how many have answered, and how many have or should, where nobody else is near."""
        return len(self.held), len(self.held) + len(self.pending) + len(self.silent)

    def lacking(self, answered: int, wanted: int) -> int:
        """Return how many answers are needed beyond `answered`, of `wanted` replicas.

        All of them where something is to be found, and nothing was.
        """
        enough = self._needed.of(wanted)
        if self._until_found and answered >= enough:
            enough = 0 if living(self.versions(), self._wall_ms()) else wanted
        return max(0, enough - answered)

    def _open(self, signed: Signed) -> Version | None:
        if signed not in self._opened:
            try:
                version = version_of(signed, open_record(signed))
            except BadMessage:
                version = None
            sound = version is not None and version.key == self.key
            self._opened[signed] = version if sound else None
        return self._opened[signed]


class Quorum:
    """Reads from and writes to the replicas of keys."""

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        roster: Roster,
        routes: Routes,
        requester: Requester,
        replica: Replica,
    ) -> None:
        self._env = env
        self._config = config
        self._roster = roster
        self._routes = routes
        self._requester = requester
        self._replica = replica
        self._own_id = env.identity.node_id

    async def read(self, key: Key, needed: Needed, *, until_found: bool) -> Holding:
        """Ask replicas what they hold, until as many as are needed have answered.

        Fewer may have answered in the end: that is for the caller to judge. With `until_found`
        all are asked before this says that there is nothing. No question waits for its answer
        longer than `dht.request_timeout`.
        """
        await self._routes.join()
        reading = _Reading(key, needed, until_found=until_found, wall_ms=self._env.wall_ms)
        most = self._config.replication
        near = self._routes.known_closest(key, most)
        if near is not None:
            reading.pending = dict.fromkeys(near)
            await self._ask_as_needed(reading, near, lambda: reading.lacking(*reading.counts()))
        # There may be others to take the place of those that are silent, or gone.
        if near is None or len(near) == most > len(reading.held) + len(reading.pending):
            await self._look_up(reading)
        found = self._turnout(reading)
        if reading.lacking(found.answered, found.wanted):
            # A dial settles it: a node that is gone no longer counts, one that is there answers.
            rest = [*reading.pending, *self._missing_ids(reading)]
            await self._ask_as_needed(reading, rest, lambda: self._lacking(reading))
            found = self._turnout(reading)
        late = self._late(reading, found.nodes)
        return Holding(reading.versions(), reading.ahead(found.nodes), found, late)

    async def store(self, version: Version, found: Turnout, needed: Needed) -> StoreResult:
        """Give a record of this node's to all replicas at once, within `dht.request_timeout`.

        Once as many as `needed` have it, nodes that take much longer than those are not waited
        for. Nodes that could not be reached now, nor ever before, are no replicas: somebody may
        have made them up.
        """
        nodes, quorum = found.nodes, needed.of(found.wanted)
        stored = 0
        late = {node: None for node in nodes if node != self._own_id}
        refusals: list[str] = []
        started = trio.current_time()

        async def store_at(node: NodeId) -> None:
            nonlocal stored
            try:
                if node == self._own_id:
                    await self._replica.write(version)
                else:
                    await self._requester.request(node, Store(version.signed), Stored, math.inf)
            except P2PError as error:
                refusals.append(str(error))
                # It has its reason, or is busy: it is left to repair.
                if isinstance(error, RequestRefused):
                    late.pop(node, None)
                return
            late.pop(node, None)
            stored += 1
            if stored == quorum:
                taken = trio.current_time() - started
                patience = max(_PATIENCE * taken, self._patience(nodes))
                scope.deadline = min(scope.deadline, started + patience)

        with trio.move_on_after(self._config.request_timeout) as scope:
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(store_at, node)
        refusal = refusals[0] if refusals else "no answer in time"
        if stored == len(nodes):
            refusal = "there are no more nodes"
        replicas = [node for node in late if self._was_connected(node)]
        wanted = found.wanted - (len(late) - len(replicas))
        return StoreResult(stored, wanted, needed.of(wanted), refusal, replicas)

    async def _ask_as_needed(
        self, reading: _Reading, nodes: Iterable[NodeId], lacking: Callable[[], int]
    ) -> None:
        """Ask as many as are lacking, one more for each that fails, all once one is late.

        Ends when none is lacking, nobody is left, or `dht.request_timeout` is over; where some are
        lacking then, the nodes that have not answered are silent.
        """
        waiting = sorted(nodes, key=self._effort)
        under_way = 0
        progress = trio.Event()

        async def ask_one(node: NodeId) -> None:
            nonlocal under_way
            await self._ask(reading, node)
            under_way -= 1
            # Most answers leave nothing to do but to wait for the next one.
            if not 0 < lacking() <= under_way:
                progress.set()

        hedge_at = trio.current_time() + self._patience(waiting[: lacking()])
        with trio.move_on_after(self._config.request_timeout):
            async with trio.open_nursery() as nursery:
                while lacking():
                    late = trio.current_time() >= hedge_at
                    ask_now = max(0, len(waiting) if late else lacking() - under_way)
                    for node in waiting[:ask_now]:
                        under_way += 1
                        nursery.start_soon(ask_one, node)
                    del waiting[:ask_now]
                    if not under_way:
                        break
                    progress = trio.Event()
                    with trio.move_on_at(hedge_at if waiting else math.inf):
                        await progress.wait()
                nursery.cancel_scope.cancel()
        if lacking():
            for node in [*reading.pending]:
                self._note_silence(reading, node)

    async def _look_up(self, reading: _Reading) -> None:
        """Read from the nodes that a lookup finds; it ends once these are enough."""
        reading.pending, reading.silent = {}, {}
        # This node's own disk may hang.
        with trio.move_on_after(self._config.request_timeout):
            await self._ask(reading, self._own_id)

        def note(route: Route) -> None:
            for node, answer in route.answers.items():
                if node not in reading.held:
                    reading.take(node, answer)
            frontier = (each.node_id for each in route.frontier)
            reading.pending = {each: None for each in frontier if each not in reading.held}
            silent = (each.node_id for each in route.silent)
            reading.silent = {each: None for each in silent if each not in reading.held}

        def enough(route: Route) -> bool:
            note(route)
            # Late ones may still answer where nobody can take their place.
            few = len(reading.held) + len(reading.pending) < self._config.replication
            return route.converged and not (route.silent and few) and not self._lacking(reading)

        question = FindValue(reading.key, closer=True)
        note(await self._routes.look_up(reading.key, question, enough=enough))

    async def _ask(self, reading: _Reading, node: NodeId) -> None:
        """Ask a node what it holds under a key, and enter what it says, or its silence."""
        value: Value | None = None
        if node == self._own_id:
            with suppress(StoreError):
                reading.take_own(node, await self._replica.read(reading.key))
        else:
            value = await self._routes.ask(node, FindValue(reading.key, closer=False), Value)
        if value is not None:
            reading.take(node, value)
        elif node not in reading.held:
            self._note_silence(reading, node)

    def _note_silence(self, reading: _Reading, node: NodeId) -> None:
        reading.pending.pop(node, None)
        if not self._routes.is_gone(node):
            reading.silent[node] = None

    def _lacking(self, reading: _Reading) -> int:
        found = self._turnout(reading)
        return reading.lacking(found.answered, found.wanted)

    def _turnout(self, reading: _Reading) -> Turnout:
        most = self._config.replication
        missing = 0
        if len(reading.held) + len(reading.pending) < most:
            # This node's own disk may refuse, too.
            own_is_silent = self._own_id not in {*reading.held, *reading.pending}
            missing = len(self._missing(reading)) + own_is_silent
        return turnout(
            reading.key,
            most,
            answered=reading.held,
            pending=reading.pending,
            silent=reading.silent,
            missing=missing,
        )

    def _missing(self, reading: _Reading) -> list[Entry]:
        return self._routes.missing({*reading.held, *reading.pending})

    def _missing_ids(self, reading: _Reading) -> list[NodeId]:
        """Return the closest of those that are missing and have not been asked."""
        missing = (each.node_id for each in self._missing(reading))
        unasked = [each for each in missing if each is not None and each not in reading.silent]
        return closest_first(unasked, reading.key)[: self._config.replication]

    def _late(self, reading: _Reading, nodes: Sequence[NodeId]) -> list[NodeId]:
        """Return those that would be replicas, are silent, and were once connected.

        A liar can't have invented these.
        """
        registry = self._roster.registry
        entries = ((each, registry.get(each)) for each in reading.silent)
        late = {each for each, entry in entries if entry and entry.proven and not entry.dead}
        closest = closest_first({*nodes, *late}, reading.key)[: self._config.replication]
        return [each for each in closest if each in late]

    def _was_connected(self, node: NodeId) -> bool:
        entry = self._roster.registry.get(node)
        return entry is not None and entry.proven

    def _effort(self, node: NodeId) -> int:
        """Rank what it takes to ask a node: nothing for this one, then a message, then a dial."""
        if node == self._own_id:
            return 0
        return 1 if node in self._roster.connections else 2

    def _patience(self, nodes: Sequence[NodeId]) -> float:
        """Return within how many seconds the answers of these nodes can be expected."""
        others = (node for node in nodes if node != self._own_id)
        return max((self._routes.patience(node) for node in others), default=0.0)
