"""Clients that use a world's store concurrently, amid faults, and what comes of it.

`live_through` makes a history of a world; `histories` judges it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from p2pd.core.records import Version, version_of
from p2pd.errors import InvalidRequest, NotFound, P2PError, VersionConflict
from p2pd.ids import Key
from p2pd.net.medium import on_tick
from p2pd.node.replica import SavedVersions
from p2pd.node.snapshot import GetResult, PutResult
from p2pd.simulation.checks import rightful
from p2pd.simulation.histories import Fact, History, Kind, Operation, Outcome
from p2pd.simulation.world import SimNode, World
from p2pd.store.base import Change, Table
from p2pd.wire import codec
from p2pd.wire.messages import MAX_SIBLINGS, Record

CLIENTS = 4
KEYS = ("a", "b", "c")
# Seconds: clients begin only at whole beats, so that many begin at the same moment.
BEAT = 0.25
MEAN_PAUSE = 0.4
# A client gives up after this long without an answer, and knows nothing.
PATIENCE = 20.0
MOST_SKEW = 600.0
# Seconds that a node gets to find the others again before another one goes.
FINDING = 5.0
# How long the network may take to come together again once nothing is broken any more.
HEALING = 40.0

_WRITTEN_NOTHING = (VersionConflict, NotFound, InvalidRequest)


async def live_through(
    world: World, seconds: float, *, calm: bool = False, repair: float
) -> History:
    """Let clients put, get and delete for `seconds` while faults befall the running nodes.

    `calm`: at most one node is away at any time, and nobody asks it. `repair` is how many
    seconds replicas get to agree once all is healed. At the end all nodes run, and every key
    was read at each of them.
    """
    history = History(calm=calm)
    for node in world.nodes.values():
        node.store.on_disk = partial(_witness, history, node.name)
    faults = Faults(world)
    clients = Clients(world, history, faults.here if calm else world.living)
    until = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(clients.run, number, until)
        for _ in range(1 if calm else 2):
            nursery.start_soon(faults.run, until, CALM if calm else (*CALM, *STORMY))
    await trio.sleep(HEALING + repair)
    history.settled_at = trio.current_time()
    for node in world.living():
        for key in KEYS:
            await clients.get(node, key)
    for key in KEYS:
        history.replicas[key] = [node.name for node in rightful(world, key)]
        history.kept[key] = {
            node.name: frozenset(each.name.hex() for each in await stored(node, key))
            for node in world.living()
        }
    return history


async def stored(node: SimNode, name: str) -> list[Version]:
    """Return the versions of a key that are on a node's disk."""
    saved = await node.store.get(Table.RECORDS, Key.of(name))
    return [] if saved is None else _versions(saved)


def _versions(saved: bytes) -> list[Version]:
    return [
        version_of(signed, codec.decode(Record, signed.body))
        for signed in codec.decode(SavedVersions, saved).versions
    ]


def _witness(history: History, node: str, changes: Sequence[Change]) -> None:
    """Take note of every version that reaches a disk."""
    names = {Key.of(name): name for name in KEYS}
    for change in changes:
        name = names.get(Key(change.key)) if change.table is Table.RECORDS else None
        if name is None or change.value is None:
            continue
        versions = _versions(change.value)
        if len(versions) == MAX_SIBLINGS:
            history.full.add(name)
        for version in versions:
            fact = history.facts.setdefault(version.name.hex(), _fact(name, version))
            fact.disks.setdefault(node, trio.current_time())


def _fact(name: str, version: Version) -> Fact:
    record = version.record
    return Fact(
        version=version.name.hex(),
        key=name,
        value=record.value,
        actor=version.actor,
        clock=record.clock,
        seen={each.actor: each.clock for each in record.seen},
    )


class Clients:
    """Clients of the nodes that `nodes` shows; all that they do enters `history`."""

    def __init__(self, world: World, history: History, nodes: Callable[[], list[SimNode]]) -> None:
        self._world = world
        self._nodes = nodes
        self._history = history
        # The versions of each key that any client was told last.
        self._latest = {key: deque[str](maxlen=2) for key in KEYS}

    async def run(self, number: int, until: float) -> None:
        """Ask for one thing after the other, each at a random node."""
        rng = self._world.rng
        while trio.current_time() < until:
            pause = rng.expovariate(1 / MEAN_PAUSE)
            await trio.sleep_until(on_tick(trio.current_time() + pause, BEAT))
            nodes = self._nodes()
            if not nodes:
                continue
            node, key = rng.choice(nodes), rng.choice(KEYS)
            drawn = rng.random()
            value = f"{number} at {trio.current_time():.6f}".encode()
            if drawn < 0.35:
                await self.get(node, key)
            elif drawn < 0.65:
                await self.put(node, key, value)
            elif drawn < 0.85:
                expected = rng.choice(self._latest[key]) if self._latest[key] else None
                await self.put(node, key, value, expected=expected)
            else:
                await self.delete(node, key)

    async def put(
        self, node: SimNode, key: str, value: bytes, *, expected: str | None = None
    ) -> None:
        """Put a value that nobody else puts."""
        operation = self._begin(Kind.PUT, key, node, value=value, expected=expected)
        await self._written(
            operation, node, partial(node.node.put, key, value, if_version=expected)
        )

    async def delete(self, node: SimNode, key: str) -> None:
        """Delete a key."""
        operation = self._begin(Kind.DELETE, key, node)
        await self._written(operation, node, partial(node.node.delete, key))

    async def get(self, node: SimNode, key: str) -> None:
        """Get a key."""
        operation = self._begin(Kind.GET, key, node)

        async def ask() -> GetResult | None:
            try:
                return await node.node.get(key)
            except NotFound:
                return None

        await self._wait_for(operation, node, ask)
        # The winner comes first.
        for each in list(operation.found)[:1]:
            self._latest[key].append(each)

    async def _written(
        self, operation: Operation, node: SimNode, ask: Callable[[], Awaitable[PutResult]]
    ) -> None:
        await self._wait_for(operation, node, ask)
        if operation.version:
            self._latest[operation.key].append(operation.version)

    async def _wait_for(
        self,
        operation: Operation,
        node: SimNode,
        ask: Callable[[], Awaitable[PutResult | GetResult | None]],
    ) -> None:
        """Wait for an answer until patience ends, or the node does."""
        with trio.move_on_after(PATIENCE), node.while_it_runs():
            try:
                result = await ask()
            except P2PError as error:
                operation.reason = str(error)
                if operation.kind is Kind.GET or isinstance(error, _WRITTEN_NOTHING):
                    operation.outcome = Outcome.REFUSED
            else:
                operation.outcome = Outcome.OK
                if isinstance(result, PutResult):
                    operation.version, operation.stored = result.version, result.stored
                elif result is not None:
                    versions = (result.winner, *result.siblings)
                    operation.found = {each.version: each.value for each in versions}
        operation.ended = trio.current_time()

    def _begin(
        self,
        kind: Kind,
        key: str,
        node: SimNode,
        *,
        value: bytes | None = None,
        expected: str | None = None,
    ) -> Operation:
        number = len(self._history.operations)
        operation = Operation(
            number, kind, key, node.name, trio.current_time(), value=value, expected=expected
        )
        self._history.operations.append(operation)
        return operation


class Faults:
    """What befalls the nodes of a world while it is in use."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        # Each is brought back by the fault that took it away.
        self._away: list[SimNode] = []

    def here(self) -> list[SimNode]:
        """Return the nodes that run, were not paused, and have had the time to find the others."""
        return [each for each in self._world.living() if each not in self._away]

    async def run(self, until: float, kinds: Sequence["Fault"]) -> None:
        """Let one fault follow another; all is healed when this returns."""
        while trio.current_time() < until:
            await trio.sleep(self._rng.uniform(0, 4))
            if self.here():
                await self._rng.choice(kinds)(self)

    async def crash(self) -> None:
        """Crash one node; it comes back after a while."""
        await self._crash(self._rng.sample(self.here(), 1))

    async def crash_half(self) -> None:
        """Crash half of the nodes at the same moment."""
        here = self.here()
        await self._crash(self._rng.sample(here, len(here) // 2))

    async def crash_all(self) -> None:
        """Crash all nodes at the same moment."""
        await self._crash(self.here())

    async def pause(self) -> None:
        """Let nothing reach or leave one node for a while."""
        node = self._rng.choice(self.here())
        self._away.append(node)
        await self._world.pause(node, seconds=self._rng.uniform(1, 15))
        await trio.sleep(FINDING)
        self._away.remove(node)

    async def partition(self) -> None:
        """Cut some nodes from the rest for a while, in one direction or both."""
        await self._world.partition(
            self._rng.uniform(0.2, 0.8),
            seconds=self._rng.uniform(2, 25),
            one_way=self._rng.random() < 0.3,
        )

    async def skew(self) -> None:
        """Set every wall clock wrong anew, by up to `MOST_SKEW` seconds."""
        self._world.skew_clocks(MOST_SKEW)

    async def break_connections(self) -> None:
        """Reset some connections."""
        await self._world.break_connections(per_second=4, seconds=self._rng.uniform(1, 5))

    async def _crash(self, nodes: list[SimNode]) -> None:
        self._away += nodes
        for each in nodes:
            each.scope.cancel()
        for each in nodes:
            await each.ended.wait()
        await trio.sleep(self._rng.choice((0.0, self._rng.uniform(0, 15))))
        for each in nodes:
            await self._world.start(each.name)
        await trio.sleep(FINDING)
        self._away = [each for each in self._away if each not in nodes]


Fault = Callable[[Faults], Awaitable[None]]

CALM: tuple[Fault, ...] = (Faults.crash, Faults.pause, Faults.skew, Faults.break_connections)
STORMY: tuple[Fault, ...] = (
    Faults.partition,
    Faults.partition,
    Faults.crash_half,
    Faults.crash_all,
)
