"""Between two nodes in two processes: round trips, requests under way, new connections."""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from bench import reference
from bench.figures import Effort, Figure, Promise, compare
from bench.peer import Caller, Peer, open_bench_node, other_process
from p2pd.address import Address
from p2pd.net.certificate import make_tls_contexts
from p2pd.node.node import Node

PAYLOAD = b"x" * 100
ROUND_TRIPS = 500
UNDER_WAY = 64
CONNECTS = 20
# Round trips between two measurements, so that neither carries what the other left undone.
SETTLING = 20

T = TypeVar("T")


async def request_reply(effort: Effort) -> list[Figure]:
    """Time one request and its reply over an open connection."""
    async with _two_nodes() as (node, peer):
        stream = await reference.connect(make_tls_contexts(), peer.reference_port)
        reader = reference.MessageReader(stream)

        async def ours() -> float:
            started = time.perf_counter()
            await _echo(node, peer, ROUND_TRIPS)
            return (time.perf_counter() - started) / ROUND_TRIPS * 1000

        async def bare() -> float:
            started = time.perf_counter()
            for _ in range(ROUND_TRIPS):
                await reference.send(stream, PAYLOAD)
                await reader.receive()
            return (time.perf_counter() - started) / ROUND_TRIPS * 1000

        mine, theirs, ratio = await compare(effort.rounds, ours, bare)
        await trio.aclose_forcefully(stream)
    name = f"request and reply, {len(PAYLOAD)} bytes"
    return [Figure(name, "ms", mine, "bare Trio TLS echo", theirs, ratio, Promise(2.5))]


async def under_way(effort: Effort) -> list[Figure]:
    """Compare the rate of many requests under way with that of one at a time."""
    async with _two_nodes() as (node, peer):

        async def many() -> float:
            each = max(ROUND_TRIPS // 16, 1)
            started = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(UNDER_WAY):
                    nursery.start_soon(_echo, node, peer, each)
            return each * UNDER_WAY / (time.perf_counter() - started)

        async def one() -> float:
            started = time.perf_counter()
            await _echo(node, peer, ROUND_TRIPS)
            return ROUND_TRIPS / (time.perf_counter() - started)

        mine, theirs, ratio = await compare(effort.rounds, many, one)
    name = f"requests, {UNDER_WAY} under way"
    promise = Promise(2.0, at_least=True)
    return [Figure(name, "1/s", mine, "one at a time", theirs, ratio, promise)]


async def new_connection(effort: Effort) -> list[Figure]:
    """Time a dial up to the peer's `Accepted`, and all that a node does for a new peer."""
    tls = make_tls_contexts()
    async with _two_nodes() as (node, peer):
        caller = Caller()
        address = Address.parse(peer.node_address)
        steady = await reference.connect(tls, peer.reference_port)
        reader = reference.MessageReader(steady)
        await node.disconnect(peer.node_id)

        async def settle() -> None:
            """Let the other process finish what the connection before has left to do."""
            for _ in range(SETTLING):
                await reference.send(steady, PAYLOAD)
                await reader.receive()

        async def median_time(
            connect: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]
        ) -> float:
            spent: list[float] = []
            for _ in range(CONNECTS):
                await settle()
                started = time.perf_counter()
                connection = await connect()
                spent.append(time.perf_counter() - started)
                await settle()
                await close(connection)
            return statistics.median(spent) * 1000

        async def bare() -> float:
            return await median_time(
                lambda: reference.connect(tls, peer.reference_port), trio.aclose_forcefully
            )

        async def authenticated() -> float:
            return await median_time(lambda: caller.dial(address), lambda stream: stream.aclose())

        async def whole() -> float:
            return await median_time(lambda: node.connect(peer.node_address), node.disconnect)

        against = "bare TLS 1.3 handshake in Trio"
        name = "a new authenticated connection"
        mine, theirs, ratio = await compare(effort.rounds, authenticated, bare)
        figures = [Figure(name, "ms", mine, against, theirs, ratio, Promise(2.0))]
        name = "the same, with the registry, the log and the limits"
        mine, theirs, ratio = await compare(effort.rounds, whole, bare)
        figures.append(Figure(name, "ms", mine, against, theirs, ratio))
        await trio.aclose_forcefully(steady)
    return figures


@asynccontextmanager
async def _two_nodes() -> AsyncIterator[tuple[Node, Peer]]:
    with other_process() as peer:
        async with open_bench_node() as node:
            await node.connect(peer.node_address)
            yield node, peer


async def _echo(node: Node, peer: Peer, count: int) -> None:
    for _ in range(count):
        await node.echo(peer.node_id, PAYLOAD)
