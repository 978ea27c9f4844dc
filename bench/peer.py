"""The other process of the connection benchmarks: a node, and the reference beside it."""

import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from bench.reference import serve_echo
from p2pd import logs
from p2pd.address import Address
from p2pd.config import (
    Config,
    ConnectionsConfig,
    DiscoveryConfig,
    IdentityConfig,
    ListenConfig,
    LogConfig,
    MulticastConfig,
    NodeConfig,
)
from p2pd.core.entries import Backoff
from p2pd.core.registry import Registry
from p2pd.ids import NodeId
from p2pd.net.base import Stream
from p2pd.net.certificate import make_tls_contexts
from p2pd.net.real import RealNetwork
from p2pd.node.alarms import Alarms
from p2pd.node.dispatch import Dispatch
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.handshaking import Introducer
from p2pd.node.node import Node, open_node
from p2pd.node.own_record import OwnRecord
from p2pd.node.peer_book import PeerBook
from p2pd.store.memory import MemoryStore
from p2pd.wire.handshake import Terms
from p2pd.wire.identity import Identity

_DIFFICULTY = 8


@attrs.frozen
class Peer:
    """Where the other process's node and its reference server listen."""

    node_id: NodeId
    node_address: str
    reference_port: int


@asynccontextmanager
async def open_bench_node() -> AsyncIterator[Node]:
    """Run a node on the real network, logging as a daemon does, that dials nobody by itself."""
    config = Config(
        identity=IdentityConfig(difficulty=_DIFFICULTY),
        listen=ListenConfig(addresses=("127.0.0.1:0",)),
        discovery=DiscoveryConfig(multicast=MulticastConfig(enabled=False)),
        connections=ConnectionsConfig(target=0),
    )
    events = Events(time.time)
    with _logged(events):
        env = _make_env()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(env.alarms.run)
            async with open_node(config, env, events) as node:
                # As the daemon does once it is up.
                gc.collect()
                gc.freeze()
                yield node
            nursery.cancel_scope.cancel()


class Caller:
    """Makes authenticated connections to a node and leaves it at that; is no node itself."""

    def __init__(self) -> None:
        self._env = _make_env()
        terms = Terms(
            identity=self._env.identity,
            instance=os.urandom(16),
            network=NodeConfig().network,
            difficulty=_DIFFICULTY,
        )
        registry = Registry(self._env.identity.node_id, Backoff(1, 1), self._env.rng)
        self._introducer = Introducer(
            self._env,
            terms,
            OwnRecord(self._env, "caller", []),
            PeerBook(self._env, registry, difficulty=_DIFFICULTY),
            Dispatch(Events(time.time)),
        )
        self._dials = 0

    async def dial(self, address: Address) -> Stream:
        """Dial, and shake hands up to the peer's `Accepted`."""
        self._dials += 1
        stream = await self._env.network.dial(address)
        await self._introducer.as_client(stream, self._dials)
        return stream


def _make_env() -> Env:
    return Env(
        network=RealNetwork(),
        store=MemoryStore(),
        alarms=Alarms(),
        identity=Identity.mint(os.urandom(32), _DIFFICULTY),
        rng=random.Random(0),
        entropy=os.urandom,
        wall_clock=time.time,
    )


@contextmanager
def _logged(events: Events) -> Iterator[None]:
    with (
        Path(os.devnull).open("w") as nowhere,
        logs.logging_to(LogConfig(format="console"), "bench", nowhere),
        events.sent_to(logs.log_event),
    ):
        yield


@contextmanager
def other_process() -> Iterator[Peer]:
    """Run this module in another process within the `with`."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("Popen made no pipes")
        told = json.loads(process.stdout.readline())
        yield Peer(NodeId.from_hex(told["node_id"]), told["node_address"], told["reference_port"])
        process.stdin.close()


async def _main() -> None:
    async with open_bench_node() as node, trio.open_nursery() as nursery:
        port = await nursery.start(serve_echo, make_tls_contexts())
        shown = node.snapshot()
        told = {
            "node_id": shown.node_id,
            "node_address": shown.listen[0],
            "reference_port": port,
        }
        print(json.dumps(told), flush=True)
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)
