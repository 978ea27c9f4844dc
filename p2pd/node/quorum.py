"""The replicas of a key, as seen from this node: what they hold, and giving them more.

The replicas are the `dht.replication` closest nodes that answer, this one among them. Where
the routing table holds everybody there is near a key, they are asked at once; else a lookup
finds them.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain

import attrs
import trio

from p2pd.config import DhtConfig
from p2pd.core.lookup import Candidate
from p2pd.core.records import (
    READERS_MARGIN_MS,
    Version,
    clock_is_plausible,
    kept,
    living,
    merge,
    version_of,
)
from p2pd.errors import BadMessage, P2PError, StoreError
from p2pd.ids import Key, NodeId, closest_first
from p2pd.node.dialer import Dialer
from p2pd.node.env import Env
from p2pd.node.replica import Replica
from p2pd.node.roster import Roster
from p2pd.node.routes import Route, Routes
from p2pd.wire.identity import open_record
from p2pd.wire.messages import (
    MAX_SIBLINGS,
    Failed,
    FindValue,
    Message,
    Signed,
    Store,
    Stored,
    Value,
)

# Once enough have a record, the others get so many times as long as these took, from the begin.
_PATIENCE = 4.0


@attrs.frozen
class Needed:
    """How many replicas must answer: `count`, 0 for a majority, infinity for all of them."""

    count: float

    def of(self, wanted: int) -> int:
        """Return how many that is, where there are `wanted` replicas."""
        return wanted if self.count == math.inf else int(self.count) or wanted // 2 + 1


@attrs.frozen
class Holding:
    """What the replicas of a key hold.

    `versions` are those that no other one covers, the winner first; `ahead`: some were left
    out, as they are dated too far ahead. `nodes` are the replicas, the closest first, of which
    `answered` have answered. `wanted` is how many there should be: `nodes`, and, where these
    are fewer than `dht.replication`, those others that were heard of lately and are not known
    to be gone. `silent` is how many near the key did not answer; `late` are those of them that
    would be replicas, but were not waited for. `mostly_silent`: of those that should have it
    no more than half answered.
    """

    versions: list[Version]
    ahead: bool
    nodes: list[NodeId]
    answered: int
    wanted: int
    silent: int
    late: list[NodeId]
    mostly_silent: bool

    def suffices(self, needed: Needed) -> bool:
        """Whether as many of the replicas as are needed have answered."""
        return self.answered >= needed.of(self.wanted)


@attrs.frozen
class StoreResult:
    """How many replicas have a record on disk.

    `refusal` is why no more have it, for people. `late` are the other nodes that did not answer,
    or could not be reached.
    """

    count: int
    refusal: str
    late: list[NodeId]


class _Answers:
    """The versions of a key in the answers to one read: most of them are the same.

    Those of which the clock is not plausible are left out, and noted in `ahead`: whoever
    writes takes a later one than all that it saw. `now_ms` in Unix milliseconds.
    """

    def __init__(self, key: Key, now_ms: int) -> None:
        self.ahead = False
        self._key = key
        self._now_ms = now_ms
        self._opened: dict[Signed, Version | None] = {}

    def know(self, versions: Iterable[Version]) -> list[Version]:
        """Take what this node has itself, for when an answer has it, too; returns what is sound."""
        sound = [each for each in versions if self._is_plausible(each)]
        self._opened.update((each.signed, each) for each in sound)
        return sound

    def _is_plausible(self, version: Version) -> bool:
        plausible = clock_is_plausible(version.record, self._now_ms - READERS_MARGIN_MS)
        self.ahead |= not plausible
        return plausible

    def versions_in(self, reply: Message | None) -> list[Version]:
        """Return the versions in an answer, without those that are not what they say."""
        told = reply.versions[:MAX_SIBLINGS] if isinstance(reply, Value) else ()
        versions = [self._open(signed) for signed in told]
        return [each for each in versions if each is not None]

    def _open(self, signed: Signed) -> Version | None:
        if signed not in self._opened:
            try:
                version = version_of(signed, open_record(signed))
            except BadMessage:
                version = None
            sound = version is not None and version.key == self._key and self._is_plausible(version)
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
        dialer: Dialer,
        replica: Replica,
    ) -> None:
        self._env = env
        self._config = config
        self._roster = roster
        self._routes = routes
        self._dialer = dialer
        self._replica = replica
        self._own_id = env.identity.node_id

    async def read(self, key: Key, needed: Needed, *, until_found: bool) -> Holding:
        """Ask replicas what they hold, until as many as are needed have answered.

        Fewer may have in the end: that is for the caller to judge. With `until_found` all are
        asked before it says that there is nothing. No question waits for its answer longer
        than `dht.request_timeout`.
        """
        await self._routes.join()
        most = self._config.replication
        near = self._routes.known_closest(key, most)
        if near is None:
            return await self._look_up(key, needed, until_found=until_found)
        holding = await self._read_from(key, near, needed, until_found=until_found)
        if holding.silent and len(near) == most:
            # There may be others to take the place of the silent ones.
            return await self._look_up(key, needed, until_found=until_found)
        return holding

    async def store(self, version: Version, nodes: Sequence[NodeId], needed: int) -> StoreResult:
        """Give a record of this node's to all these nodes at once, within `dht.request_timeout`.

        Once `needed` have it, those that take much longer than these are not waited for.
        """
        stored = 0
        late = {node: None for node in nodes if node != self._own_id}
        refusals: list[str] = []
        started = trio.current_time()

        async def store_at(node: NodeId) -> None:
            nonlocal stored
            try:
                if node == self._own_id:
                    await self._replica.write(version)
                    reply: Message = Stored()
                else:
                    reply = await self._dialer.request(node, Store(version.signed), math.inf)
            except P2PError as error:
                refusals.append(str(error))
                return
            late.pop(node, None)
            if isinstance(reply, Failed):
                refusals.append(f"{node.hex()[:12]} refuses: {reply.message}")
            elif isinstance(reply, Stored):
                stored += 1
                if stored == needed:
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
        return StoreResult(stored, refusal, [*late])

    async def _read_from(
        self, key: Key, nodes: list[NodeId], needed: Needed, *, until_found: bool
    ) -> Holding:
        """Read from these nodes, which are all the replicas that there can be."""
        answers = _Answers(key, self._env.wall_ms())
        held: dict[NodeId, list[Version]] = {}

        def lacking() -> int:
            enough = needed.of(len(nodes))
            if until_found and len(held) >= enough:
                found = living(self._merged(chain.from_iterable(held.values())), wall_ms())
                enough = 0 if found else len(nodes)
            return max(0, enough - len(held))

        async def ask(node: NodeId) -> None:
            versions = await self._ask(key, node, answers)
            if versions is not None:
                held[node] = versions

        wall_ms = self._env.wall_ms
        await self._ask_as_needed(sorted(nodes, key=self._effort), ask, lacking)
        found = self._merged(chain.from_iterable(held.values()))
        there, wanted, silent = nodes, len(nodes), list[NodeId]()
        if lacking():
            there = [node for node in nodes if node in held]
            wanted = self._wanted(there, there)
            silent = [each for each in nodes if each not in held and not self._routes.is_gone(each)]
        return Holding(
            found,
            answers.ahead,
            there,
            len(held),
            wanted,
            len(silent),
            self._late(silent),
            mostly_silent=len(held) <= (len(held) + len(silent)) // 2,
        )

    async def _ask_as_needed(
        self,
        waiting: list[NodeId],
        ask: Callable[[NodeId], Awaitable[None]],
        lacking: Callable[[], int],
    ) -> None:
        """Ask as many as are lacking, one more for each that fails, all once one is late.

        Ends when none is lacking, nobody is left, or `dht.request_timeout` is over.
        """
        under_way = 0
        progress = trio.Event()

        async def ask_one(node: NodeId) -> None:
            nonlocal under_way
            await ask(node)
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

    async def _look_up(self, key: Key, needed: Needed, *, until_found: bool) -> Holding:
        most = self._config.replication
        answers = _Answers(key, self._env.wall_ms())
        own = await self._ask(key, self._own_id, answers)
        itself = [] if own is None else [self._own_id]

        def replicas(candidates: list[Candidate]) -> list[NodeId]:
            return closest_first([*itself, *(each.node_id for each in candidates)], key)[:most]

        def versions_of_answers(route: Route) -> list[Version]:
            told = map(answers.versions_in, route.answers.values())
            return [*(own or ()), *chain.from_iterable(told)]

        def answered(route: Route, nodes: list[NodeId]) -> int:
            return sum(each in route.answers or each == self._own_id for each in nodes)

        def enough(route: Route) -> bool:
            nodes = replicas(route.frontier)
            # Late ones may still answer, and nobody can take their place.
            if not route.converged or (route.silent and len(nodes) < most):
                return False
            if answered(route, nodes) < needed.of(len(nodes)):
                return False
            if not until_found:
                return True
            return bool(living(self._merged(versions_of_answers(route)), self._env.wall_ms()))

        route = await self._routes.look_up(key, FindValue(key, closer=True), enough=enough)
        nodes = replicas(route.frontier)
        found = self._merged(versions_of_answers(route))
        wanted = self._wanted(nodes, [*route.answers, *nodes])
        silent = max(len(route.silent), wanted - len(nodes))
        late = self._late(each.node_id for each in route.silent)
        late = [each for each in closest_first([*nodes, *late], key)[:most] if each in late]
        missed = [each.node_id for each in route.silent]
        near = closest_first([*itself, *route.answers, *missed], key)[:most]
        there = answered(route, nodes)
        # Neither may those nearby hide it who fell silent, nor those who were not even found.
        mostly_silent = (
            answered(route, near) <= len(near) // 2 or there <= min(there + silent, most) // 2
        )
        return Holding(
            found,
            answers.ahead,
            nodes,
            there,
            wanted,
            silent,
            late,
            mostly_silent=mostly_silent,
        )

    async def _ask(self, key: Key, node: NodeId, answers: _Answers) -> list[Version] | None:
        """Return the versions that a node holds, None where it did not say."""
        if node == self._own_id:
            try:
                versions = await self._replica.read(key)
            except StoreError:
                return None
            return answers.know(versions)
        reply = await self._routes.ask(node, FindValue(key, closer=False))
        return answers.versions_in(reply) if isinstance(reply, Value) else None

    def _wanted(self, nodes: Sequence[NodeId], answered: Sequence[NodeId]) -> int:
        """Return how many replicas there should be, where these are the ones that were found."""
        missing = 0
        if len(nodes) < self._config.replication:
            # Its own disk may refuse, too.
            missing = self._routes.missing(answered) + (self._own_id not in nodes)
        return min(self._config.replication, len(nodes) + missing)

    def _late(self, silent: Iterable[NodeId]) -> list[NodeId]:
        """Return those silent nodes that were once connected: no liar's inventions."""
        registry = self._roster.registry
        entries = ((each, registry.get(each)) for each in silent)
        return [each for each, entry in entries if entry and entry.proven and not entry.dead]

    def _merged(self, versions: Iterable[Version]) -> list[Version]:
        return merge(kept(versions, self._env.wall_ms()))

    def _effort(self, node: NodeId) -> int:
        """Rank what it takes to ask a node: nothing for oneself, then a message, then a dial."""
        if node == self._own_id:
            return 0
        return 1 if node in self._roster.connections else 2

    def _patience(self, nodes: Sequence[NodeId]) -> float:
        """Return within how many seconds the answers of these nodes can be expected."""
        others = (node for node in nodes if node != self._own_id)
        return max((self._routes.patience(node) for node in others), default=0.0)
