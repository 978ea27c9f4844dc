"""Put and get with twenty daemons, beside other distributed hash tables with as many nodes."""

import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from bench.daemons import Daemon, call_all, daemons
from bench.figures import Effort, Figure, Spread, compare
from bench.tables import REFERENCES, Table
from p2pd.ids import Key, NodeId, distance

SIZE = 20
# By default as many replicas as there are nodes; eight copies are what the references keep.
REPLICATIONS = (8, 20)
AT_ONCE = 32
CONNECTIONS = 6
_VALUE = "x" * 100

# Calls a method for so many new keys, so many at a time; returns the seconds spent.
Call = Callable[[str, int], float]


async def keys(effort: Effort) -> list[Figure]:
    """Measure over the control socket of a node that holds none of the keys, if there is one."""
    figures: list[Figure] = []
    for replication in REPLICATIONS:
        settings = {"dht.replication": replication, "connections.target": CONNECTIONS}
        with (
            tempfile.TemporaryDirectory() as parent,
            daemons(Path(parent), SIZE, CONNECTIONS, settings=settings) as running,
            ExitStack() as stack,
        ):
            there = {
                each.name: stack.enter_context(each.nodes(Path(parent), SIZE))
                for each in REFERENCES
                if each.is_installed
            }
            ours = _Ours(running, replication)
            for reference in REFERENCES:
                theirs = there.get(reference.name)
                compared = await compare_keys(
                    ours.call,
                    None if theirs is None else _Theirs(theirs).call,
                    reference.name if theirs is not None else reference.skipped,
                    f"{replication} replicas",
                    effort.rounds,
                )
                if theirs is not None and theirs.failed:
                    said = f"{reference.name} ({theirs.failed} of its calls failed)"
                    compared = [attrs.evolve(each, against=said) for each in compared]
                figures += compared
    return figures


async def compare_keys(
    ours: Call, theirs: Call | None, against: str, where: str, rounds: int
) -> list[Figure]:
    """Put, then get, one at a time and many at once; ours alone where there is no reference."""
    figures: list[Figure] = []
    for method in ("put", "get"):
        for at_once in (1, AT_ONCE):

            async def measure(call: Call, method: str = method, at_once: int = at_once) -> float:
                seconds = call(method, at_once)
                return seconds / AT_ONCE * 1000 if at_once == 1 else AT_ONCE / seconds

            async def mine() -> float:
                return await measure(ours)

            name = f"{method}, {where}, {'one' if at_once == 1 else at_once} at a time"
            unit = "ms" if at_once == 1 else "1/s"
            if theirs is None:
                spread = Spread.of([await mine() for _ in range(rounds)])
                figures.append(Figure(name, unit, spread, against))
                continue

            async def reference(call: Call = theirs) -> float:
                return await measure(call)

            spent, other, ratio = await compare(rounds, mine, reference)
            figures.append(Figure(name, unit, spent, against, other, ratio))
    return figures


@attrs.define
class _Ours:
    """Daemons; the last one is asked for keys of which it is no replica, where that can be."""

    running: list[Daemon]
    replication: int
    _ids: list[NodeId] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ids = [NodeId.from_hex(each.status()["node_id"]) for each in self.running]

    def call(self, method: str, at_once: int) -> float:
        path = self.running[-1].socket
        names = [self._name() for _ in range(AT_ONCE)]
        puts = [{"key": name, "value": _VALUE} for name in names]
        if method == "put":
            return call_all(path, "put", puts, at_once)
        # Elsewhere: who has put a key may have it at hand.
        call_all(self.running[0].socket, "put", puts, AT_ONCE)
        return call_all(path, "get", [{"key": name} for name in names], at_once)

    def _name(self) -> str:
        while True:
            name = uuid.uuid4().hex
            key = Key.of(name)
            closest = sorted(self._ids, key=lambda each: distance(each, key))[: self.replication]
            if self._ids[-1] not in closest or len(closest) == len(self._ids):
                return name


@attrs.frozen
class _Theirs:
    """A network of a reference, asked in the same way."""

    table: Table

    def call(self, method: str, at_once: int) -> float:
        names = [uuid.uuid4().hex for _ in range(AT_ONCE)]
        if method == "get":
            # Elsewhere: who has put a key may have it at hand.
            self.table.call("put", names, _VALUE, 1, at=0)
        return self.table.call(method, names, _VALUE, at_once)
