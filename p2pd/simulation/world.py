"""A world of nodes: the production code on `net.sim` and `store.memory`.

::

    async with open_world(seed=7) as world:
        a = await world.start("a")
        b = await world.start("b", bootstrap=[a])
        await world.until(lambda: a.is_connected_to(b))
        await world.partition(0.4, seconds=30)
        check_quiet(world)  # of `checks`

Run it with `determinism.run_in_virtual_time`, or under Trio's autojump clock.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import attrs
import trio

from p2pd.address import Address
from p2pd.config import Config
from p2pd.config_file import load
from p2pd.ids import NodeId
from p2pd.net.faults import Conditions, Cut, Latency, constant_latency, split
from p2pd.net.medium import TICK, Medium
from p2pd.net.sim import SimNetwork, SimWorld
from p2pd.node.alarms import Alarms
from p2pd.node.env import Env
from p2pd.node.events import Event, Events
from p2pd.node.node import Node, open_node
from p2pd.node.services import Services
from p2pd.simulation.signatures import WorldIdentity, WorldRecords
from p2pd.simulation.trace import Trace
from p2pd.store.memory import MemoryStore
from p2pd.wire.identity import Identity

# Unix seconds at which every world begins: 2026-01-01.
EPOCH = 1767225600.0
PORT = 41000
LAN_LATENCY = 0.0005
MAX_EVENTS = 1000
# How long an fsync takes, and the share of writes under way that a crash leaves on disk.
SYNC_SECONDS = 0.002
SURVIVES = 0.5
_POLL = 0.05


@attrs.define(eq=False)
class SimNode:
    """One node of a world, over all its restarts: it keeps its identity and its disk.

    `clock_error` is how far its wall clock is ahead of the world's, in seconds.
    """

    name: str
    identity: Identity
    store: MemoryStore
    network: SimNetwork
    config: Config
    clock_error: float = 0.0
    events: deque[Event] = attrs.field(factory=lambda: deque(maxlen=MAX_EVENTS))
    running: Node | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    # A dictionary, for its order.
    _callers: dict[trio.CancelScope, None] = attrs.field(factory=dict)

    @contextmanager
    def while_it_runs(self) -> Iterator[None]:
        """Cancel what is within the `with` when the process ends, as for any of its callers."""
        with trio.CancelScope() as scope:
            self._callers[scope] = None
            if self.ended.is_set():
                scope.cancel()
            try:
                yield
            finally:
                del self._callers[scope]

    def end(self) -> None:
        """Note that the process has ended."""
        self.running = None
        for each in self._callers:
            each.cancel()
        self.ended.set()

    @property
    def node(self) -> Node:
        """The running node."""
        if self.running is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.running

    @property
    def services(self) -> Services:
        """The parts of the running node, for checks."""
        return self.node.services

    @property
    def node_id(self) -> NodeId:
        """The node ID, the same after a restart."""
        return self.identity.node_id

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address.parse(self.config.listen.addresses[0])

    def is_connected_to(self, *others: "SimNode") -> bool:
        """Whether it has a connection to each of the others."""
        return self.services.roster.connections.keys() >= {each.node_id for each in others}

    def codes(self) -> list[str]:
        """Return the codes of its latest events."""
        return [event.code for event in self.events]


class World:
    """Nodes on one in-memory network; get one from `open_world`."""

    def __init__(self, seed: int, network: SimWorld, nursery: trio.Nursery, trace: Trace) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a simulation wants no secrets
        self.network = network
        self.trace = trace
        self.nodes: dict[str, SimNode] = {}
        self._nursery = nursery
        self._alarms = Alarms()
        nursery.start_soon(self._alarms.run)
        self.records = WorldRecords()

    @property
    def conditions(self) -> Conditions:
        """What applies to all paths between hosts now: latency, loss and so on."""
        return self.network.medium.conditions

    def living(self) -> list[SimNode]:
        """Return the nodes that run, in the order in which they were made."""
        return [each for each in self.nodes.values() if each.running is not None]

    async def start(
        self,
        name: str,
        *,
        bootstrap: Sequence[SimNode] = (),
        lan: str | None = "lan",
        host: str | None = None,
        port: int = PORT,
        network_key: bytes = b"",
        **settings: Any,
    ) -> SimNode:
        """Start a node, or a stopped one again; returns when it listens.

        `lan` names its multicast segment, None for no multicast; `settings` are
        configuration keys with `__` for the dot. A node that is started again keeps what it
        was given first.
        """
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = self._make(
                name, bootstrap, lan, host or self._next_host(), port, settings
            )
        node.scope, node.ended = trio.CancelScope(), trio.Event()
        await self._nursery.start(partial(self._run, node, network_key))
        return node

    async def start_many(
        self, count: int, *, per_second: float, prefix: str = "n", **settings: Any
    ) -> list[SimNode]:
        """Start `count` nodes, spread over time; `settings` as for `start`."""
        nodes: list[SimNode] = []
        for number in range(len(self.nodes), len(self.nodes) + count):
            nodes.append(await self.start(f"{prefix}{number}", **settings))
            await trio.sleep(1 / per_second)
        return nodes

    async def stop(self, node: SimNode) -> None:
        """Stop a node gracefully; returns when it has left."""
        node.node.stop()
        await node.ended.wait()

    async def crash(self, node: SimNode) -> None:
        """End a node's process without warning: the kernel closes its connections.

        What it had not synced may be lost.
        """
        node.scope.cancel()
        await node.ended.wait()

    async def kill(self, share: float) -> list[SimNode]:
        """Crash a random share of the living nodes at one moment; returns them."""
        living = self.living()
        victims = self.rng.sample(living, round(share * len(living)))
        for each in victims:
            each.scope.cancel()
        for each in victims:
            await each.ended.wait()
        return victims

    async def partition(self, share: float, *, seconds: float, one_way: bool = False) -> None:
        """Cut a random share of the hosts from the rest for a while; returns when healed.

        `one_way`: only what they send is stopped.
        """
        hosts = {each.network.host for each in self.nodes.values()}
        cut, _ = split(hosts, share, self.rng)
        await self._cut_for(attrs.evolve(cut, one_way=one_way), seconds)

    async def isolate(self, *, seconds: float) -> None:
        """Cut every host from all others for a while; returns when all are healed."""
        hosts = frozenset(each.network.host for each in self.nodes.values())
        async with trio.open_nursery() as nursery:
            for each in sorted(hosts):
                cut = Cut(frozenset({each}), hosts - {each})
                nursery.start_soon(self._cut_for, cut, seconds)

    async def pause(self, node: SimNode, *, seconds: float) -> None:
        """Let nothing reach or leave a node for a while, as if its process were stopped.

        Its timers go on, unlike those of a stopped process.
        """
        host = node.network.host
        others = {each.network.host for each in self.nodes.values()} - {host}
        await self._cut_for(Cut(frozenset({host}), frozenset(others)), seconds)

    async def break_connections(self, *, per_second: float, seconds: float) -> None:
        """Reset random connections, both ends at once, at this mean rate for a while."""
        until = trio.current_time() + seconds
        while (pause := self.rng.expovariate(per_second)) + trio.current_time() < until:
            await trio.sleep(pause)
            streams = list(self.network.streams)
            if streams:
                stream = self.rng.choice(streams)
                stream.break_now()
                stream.peer.break_now()
        await trio.sleep_until(until)

    async def stall_connections(self, *, per_second: float, each: float, seconds: float) -> None:
        """Let nothing pass between random connected hosts, `each` seconds long, for a while."""
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            while (pause := self.rng.expovariate(per_second)) + trio.current_time() < until:
                await trio.sleep(pause)
                streams = list(self.network.streams)
                if streams:
                    stream = self.rng.choice(streams)
                    cut = Cut(frozenset({stream.local.host}), frozenset({stream.remote.host}))
                    nursery.start_soon(self._cut_for, cut, each)
        await trio.sleep_until(until)

    async def churn(self, *, mean_session: float, mean_absence: float, seconds: float) -> None:
        """Let nodes come and go for a while: crash, stay away, start again.

        Sessions and absences are exponentially distributed, means in seconds. Afterwards
        all run.
        """
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for node in list(self.nodes.values()):
                nursery.start_soon(self._come_and_go, node, mean_session, mean_absence, until)

    def close_to_inbound(self, share: float) -> None:
        """Put a random share of the hosts behind a firewall: they dial, and can't be dialled."""
        hosts = sorted({node.network.host for node in self.nodes.values()})
        self.conditions.unreachable |= set(self.rng.sample(hosts, round(share * len(hosts))))

    def skew_clocks(self, most: float) -> None:
        """Set every node's wall clock wrong, by up to `most` seconds either way."""
        for node in self.nodes.values():
            node.clock_error = self.rng.uniform(-most, most)

    def meanwhile(self, deed: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Let something run alongside everything else, until the world ends."""
        self._nursery.start_soon(deed, *args)

    async def until(self, condition: Callable[[], bool], *, within: float = 60.0) -> float:
        """Wait until a condition holds; returns the virtual seconds that took.

        Raises `TimeoutError`, with the seed, if it does not hold `within` so many seconds.
        """
        started = trio.current_time()
        while not condition():
            if trio.current_time() - started > within:
                raise TimeoutError(f"not within {within:g} s (seed {self.seed})")
            await trio.sleep(_POLL)
        return trio.current_time() - started

    async def _come_and_go(
        self, node: SimNode, mean_session: float, mean_absence: float, until: float
    ) -> None:
        while trio.current_time() < until:
            with trio.move_on_at(until):
                await trio.sleep(self.rng.expovariate(1 / mean_session))
                await self.crash(node)
                await trio.sleep(self.rng.expovariate(1 / mean_absence))
            if node.running is None:
                await self.start(node.name)

    async def _cut_for(self, cut: Cut, seconds: float) -> None:
        self.network.medium.cut(cut)
        try:
            await trio.sleep(seconds)
        finally:
            self.network.medium.heal(cut)

    def _make(
        self,
        name: str,
        bootstrap: Sequence[SimNode],
        lan: str | None,
        host: str,
        port: int,
        settings: dict[str, Any],
    ) -> SimNode:
        overrides: dict[str, object] = {
            "node.name": name,
            "identity.difficulty": 0,
            "listen.addresses": [str(Address(host, port))],
            "discovery.bootstrap": [str(each.address) for each in bootstrap],
            "discovery.multicast.enabled": lan is not None,
        }
        overrides |= {key.replace("__", "."): value for key, value in settings.items()}
        return SimNode(
            name=name,
            identity=WorldIdentity(self.rng.randbytes(32), self.records),
            store=MemoryStore(
                sync_seconds=SYNC_SECONDS, survives=lambda: self.rng.random() < SURVIVES
            ),
            network=SimNetwork(self.network, host, self.rng.randbytes(32), lan),
            config=load("", overrides),
        )

    def _next_host(self) -> str:
        number = len(self.nodes) + 1
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    async def _run(
        self,
        node: SimNode,
        network_key: bytes,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        rng = random.Random(self.rng.randbytes(16))  # noqa: S311 - a simulation wants no secrets
        env = Env(
            network=node.network,
            store=node.store,
            alarms=self._alarms,
            identity=node.identity,
            rng=rng,
            entropy=rng.randbytes,
            wall_clock=lambda: EPOCH + trio.current_time() + node.clock_error,
            network_key=network_key,
            records=self.records,
        )
        events = Events(env.wall_clock)
        try:
            with node.scope, events.sent_to(node.events.append):
                async with open_node(node.config, env, events, instance=node.name) as running:
                    node.running = running
                    task_status.started()
                    await running.stopping.wait()
        finally:
            node.end()
            self._close_what_is_left(node.network.host)

    def _close_what_is_left(self, host: str) -> None:
        if not any(each.network.host == host for each in self.living()):
            for stream in [each for each in self.network.streams if each.local.host == host]:
                stream.close_now()


@asynccontextmanager
async def open_world(
    seed: int = 0, latency: Latency | None = None, *, tick: float = TICK
) -> AsyncIterator[World]:
    """Make an empty world; its nodes end, without goodbyes, when the `async with` does.

    `latency` is that of a LAN unless another model is given; see `net.faults`. It is rounded
    up to whole ticks: the coarser they are, the faster the world.
    """
    rng = random.Random(~seed)  # noqa: S311 - a simulation wants no secrets
    trace = Trace()
    conditions = Conditions(rng, latency or constant_latency(LAN_LATENCY))
    medium = Medium(conditions, trace.record, tick=tick)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(medium.run)
        yield World(seed, SimWorld(medium), nursery, trace)
        nursery.cancel_scope.cancel()
