"""Put and get through the control socket, one at a time and many at once."""

import tempfile
import uuid
from pathlib import Path
from typing import Any

from bench.daemons import CONNECTIONS, Daemon, call_all, daemons
from bench.figures import Effort, Figure, compare

AT_ONCE = 32
SIZES = (3, 20)


async def keys(effort: Effort) -> list[Figure]:
    """Measure in a small network and in one as large as the replication."""
    figures: list[Figure] = []
    for size in SIZES:
        awaited = min(size - 1, CONNECTIONS)
        with (
            tempfile.TemporaryDirectory() as parent,
            daemons(Path(parent), size, awaited) as running,
        ):
            figures += await _in_network(effort, running)
    return figures


async def _in_network(effort: Effort, running: list[Daemon]) -> list[Figure]:
    # Each takes seconds, and nothing is promised of them.
    rounds = max(effort.rounds // 3, 1)
    path = running[0].socket
    peer = running[1].status()["node_id"]
    where = f"{len(running)} nodes"

    async def echo() -> float:
        return call_all(path, "echo", [{"peer": peer, "text": "x"}] * AT_ONCE, 1) / AT_ONCE * 1000

    figures: list[Figure] = []
    for method, make in (("put", _puts), ("get", _gets)):

        async def one(method: str = method, make: Any = make) -> float:
            return call_all(path, method, make(path), 1) / AT_ONCE * 1000

        async def rate_of_one(method: str = method, make: Any = make) -> float:
            return AT_ONCE / call_all(path, method, make(path), 1)

        async def rate_at_once(method: str = method, make: Any = make) -> float:
            return AT_ONCE / call_all(path, method, make(path), AT_ONCE)

        mine, theirs, ratio = await compare(rounds, one, echo)
        name = f"{method}, {where}, one at a time"
        figures.append(Figure(name, "ms", mine, "echo to one peer", theirs, ratio))
        mine, theirs, ratio = await compare(rounds, rate_at_once, rate_of_one)
        name = f"{method}, {where}, {AT_ONCE} at once"
        figures.append(Figure(name, "1/s", mine, "one at a time", theirs, ratio))
    return figures


def _puts(_: str) -> list[dict[str, Any]]:
    return [{"key": uuid.uuid4().hex, "value": "x" * 100} for _ in range(AT_ONCE)]


def _gets(path: str) -> list[dict[str, Any]]:
    puts = _puts(path)
    call_all(path, "put", puts, AT_ONCE)
    return [{"key": each["key"]} for each in puts]
