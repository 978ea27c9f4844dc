"""A running node: `open_node` starts its services, `Node` is what may be asked of them."""

import errno
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress

import trio

import p2pd
from p2pd.address import Address
from p2pd.config import Config
from p2pd.core.actions import Liveness
from p2pd.core.entries import Backoff, Source, Status
from p2pd.core.records import Version
from p2pd.errors import (
    AmbiguousPeer,
    DialFailed,
    InvalidRequest,
    NotFound,
    PeerError,
    StartError,
)
from p2pd.hosts import parse_address
from p2pd.ids import ID_BITS, Key, NodeId, closest_first, distance_bits
from p2pd.net.base import Listener, Network
from p2pd.node.chronicle import Chronicle
from p2pd.node.dht import Consistency, Written
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.registry_store import keep_registry, load_registry, save_registry
from p2pd.node.services import Services, wire_services
from p2pd.node.snapshot import (
    Delivery,
    FindingResult,
    FoundNode,
    GetResult,
    LookupHop,
    LookupResult,
    NodeSnapshot,
    PeerCounts,
    PeerSnapshot,
    PutResult,
    StoredVersion,
    StoreUse,
    WhyResult,
    peer_snapshot,
    rfc3339,
)
from p2pd.node.why import explain
from p2pd.store.base import Table
from p2pd.wire.messages import PROTOCOL_VERSION, Echo, Echoed, FindNode, M, Message, Ping, Pong
from p2pd.wire.reasons import ON_REQUEST

_ECHO_TIMEOUT = 10.0
# The shortest text that is taken for a prefix of a node ID.
_LEAST_PREFIX = 4


class Node:
    """What may be asked of a running node; get one from `open_node`.

    `services` are its parts, for the simulation's checks.
    """

    def __init__(
        self,
        config: Config,
        env: Env,
        services: Services,
        chronicle: Chronicle,
        instance: str,
    ) -> None:
        self.node_id = env.identity.node_id
        self.events = services.events
        self.stopping = trio.Event()
        self._config = config
        self._env = env
        self.services = services
        self._instance = instance
        self._chronicle = chronicle
        self._started_wall = env.wall_clock()
        self._started = trio.current_time()

    def stop(self) -> None:
        """Ask the owner of this node to end it gracefully."""
        self.stopping.set()

    def reload(self, config: Config) -> None:
        """Apply what may change in a running node: see the `reload` mark of each key."""
        services, connections = self.services, config.connections
        services.registry.backoff = Backoff(connections.backoff_min, connections.backoff_max)
        services.roster.reload(connections)
        services.probing.reload(config.liveness)
        services.keepalive.reload(config.liveness)
        services.discovery.reload(config.discovery.multicast)
        services.bootstrap.reload(config.discovery.bootstrap)
        services.seeds.reload(config.discovery.seeds)
        services.upkeep.retry_all()
        self._config = config

    def snapshot(self) -> NodeSnapshot:
        """Show this node at a glance."""
        own, store = self.services.own, self._env.store
        counts = self.services.registry.counts()
        records = store.usage(Table.RECORDS)
        return NodeSnapshot(
            node_id=self.node_id.hex(),
            name=own.name,
            instance=self._instance,
            version=p2pd.__version__,
            protocol=PROTOCOL_VERSION,
            network=self._config.node.network,
            pid=os.getpid(),
            started_at=rfc3339(self._started_wall),
            uptime_seconds=round(trio.current_time() - self._started, 3),
            listen=[str(address) for address in own.listening],
            addresses=[str(address) for address in own.addresses],
            roles=list(own.roles),
            peers=PeerCounts(
                connected=counts[Status.CONNECTED],
                attempted=counts[Status.ATTEMPTED],
                disconnected=counts[Status.DISCONNECTED],
            ),
            store=StoreUse(records=records.keys, bytes=records.bytes),
            gossip=self.services.gossip.use,
        )

    def peers(self, only: Collection[str] | None = None) -> list[PeerSnapshot]:
        """Show the registry: the connected first, then the latest seen.

        `only`: just those with these node IDs, or these addresses where the node is not known.
        """
        connections = self.services.roster.connections
        liveness, wall = self.services.liveness, self._env.wall_clock()
        shown = [
            peer_snapshot(entry, None, Liveness.UNKNOWN.value, wall)
            if entry.node_id is None
            else peer_snapshot(
                entry, connections.get(entry.node_id), liveness.of(entry.node_id).value, wall
            )
            for entry in self.services.registry
            if only is None or str(entry.node_id or entry.addresses[0]) in only
        ]
        order = [Status.CONNECTED, Status.DISCONNECTED, Status.ATTEMPTED]
        shown.sort(key=lambda peer: peer.last_seen or "", reverse=True)
        shown.sort(key=lambda peer: order.index(Status(peer.status)))
        return shown

    def resolve_peer(self, text: str) -> NodeId:
        """Find a known peer by its ID, a unique prefix of it, or its unique name.

        Raises `NotFound` or `AmbiguousPeer`.
        """
        entries = tuple(self.services.registry)
        found = {
            each.node_id: each.status
            for each in entries
            if each.node_id and (each.name == text or _is_prefix(text, each.node_id))
        }
        if len(found) > 1:
            # Most often of one host, whose earlier identities are disconnected for good.
            shown = ", ".join(sorted(f"{each.short} ({status})" for each, status in found.items()))
            raise AmbiguousPeer(f"{text!r} fits several peers: {shown}; use more of the ID")
        for node_id in found:
            return node_id
        for each in entries:
            if each.node_id is None and text in map(str, each.addresses):
                said = each.last_error or "it was not dialled yet"
                raise NotFound(f"which node is at {text} is not known so far: {said}")
        if text == self.services.own.name or _is_prefix(text, self.node_id):
            raise NotFound(f"{text!r} is this node itself; `p2pctl status` tells about it")
        hint = ""
        if 0 < len(text) < _LEAST_PREFIX and set(text.lower()) <= set("0123456789abcdef"):
            hint = f" (of a node ID, {_LEAST_PREFIX} digits are the least)"
        raise NotFound(
            f"no known peer {text[:100]!r}{hint}; `p2pctl peers` lists them, "
            "`p2pctl doctor` says why one may be missing"
        )

    async def connect(self, address: str) -> NodeId:
        """Dial HOST:PORT now; returns who is there. The connection lasts until a user ends it.

        Raises `InvalidRequest`, or the last of what `Dialler.dial` raises.
        """
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        failure: Exception = DialFailed(f"{host} has no address")
        for each in await self._env.network.resolve(host, port):
            try:
                connection = await self.services.dialler.dial_lasting(each, Source.MANUAL)
            except (DialFailed, PeerError) as error:
                failure = error
                continue
            entry = self.services.registry.get(connection.node_id)
            if entry is not None and entry.source is not Source.SEED:
                entry.source = Source.MANUAL
            return connection.node_id
        raise failure

    async def disconnect(self, peer: NodeId) -> None:
        """Close the connection to a peer; raises `NotFound` where there is none."""
        connection = self.services.roster.connections.get(peer)
        if connection is None:
            raise NotFound(f"no connection to {peer.short}")
        await connection.see_off(ON_REQUEST)

    async def ping(self, peer: NodeId) -> float:
        """Return the seconds of one round trip; dials if need be. Raises `P2PError`."""
        _, seconds = await self._request(peer, Ping(), Pong, self._config.liveness.ping_timeout)
        return seconds

    async def echo(self, peer: NodeId, data: bytes) -> tuple[bytes, float]:
        """Send bytes there and back; returns them and the seconds. Raises `P2PError`."""
        reply, seconds = await self._request(peer, Echo(data), Echoed, _ECHO_TIMEOUT)
        return reply.data, seconds

    async def _request(
        self, peer: NodeId, message: Message, kind: type[M], within: float
    ) -> tuple[M, float]:
        """Return a reply, and the seconds that it took, not counting those of a dial."""
        await self.services.dialler.connect_to(peer)
        sent_at = trio.current_time()
        reply = await self.services.requester.request(peer, message, kind, within)
        return reply, trio.current_time() - sent_at

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        owned: bool = False,
        ttl: float | None = None,
        if_version: str | None = None,
    ) -> PutResult:
        """Write a value; see `Dht.put`."""
        written = await self.services.dht.put(
            key, value, owned=owned, ttl=ttl, if_version=if_version
        )
        return _put_result(key, written)

    async def get(
        self, key: str, *, consistency: str = "quorum", owner: str | None = None
    ) -> GetResult:
        """Read a value: `consistency` is one, quorum or all; see `Dht.get`.

        `owner` is a node's ID, or a unique prefix or name of a peer.
        """
        try:
            wanted = Consistency(consistency)
        except ValueError:
            raise InvalidRequest(
                f"consistency is one, quorum or all, not {consistency!r}"
            ) from None
        whose = None if owner is None else self._node_id(owner)
        winner, *siblings = await self.services.dht.get(key, wanted, owner=whose)
        return GetResult(key, _stored_version(winner), tuple(map(_stored_version, siblings)))

    async def delete(self, key: str, *, owned: bool = False) -> PutResult:
        """Delete a key; see `Dht.delete`."""
        return _put_result(key, await self.services.dht.delete(key, owned=owned))

    async def publish(self, topic: str, data: bytes) -> str:
        """Tell everybody; returns the message ID. See `GossipService.publish`."""
        return self.services.gossip.publish(topic, data).hex()

    def deliveries(
        self, topics: frozenset[str], sink: Callable[[Delivery], None]
    ) -> AbstractContextManager[None]:
        """Within the `with`, `sink` gets each message on these topics; on all where empty."""
        return self.services.gossip.sent_to(topics, sink)

    def why(self, peer: NodeId) -> WhyResult:
        """Tell what led to a peer's present state."""
        return explain(peer, self.services, self._chronicle, self._env.wall_clock())

    async def doctor(self) -> list[FindingResult]:
        """Try out what can be tried, and tell what is wrong; takes some seconds."""
        return [
            FindingResult(each.check, each.code, each.level.value, each.text, each.remedy)
            for each in await self.services.doctor.examine(self._config)
        ]

    async def lookup(self, target: str) -> LookupResult:
        """Show the route to a key, or to a node by ID, unique prefix or name.

        `found` are the closest nodes that answered, this one among them if it is close enough.
        """
        point = self._point(target)
        started = trio.current_time()
        route = await self.services.routes.look_up(point, FindNode(point))
        elapsed = trio.current_time() - started
        answered = (candidate.node_id for candidate in route.closest)
        found = closest_first([self.node_id, *answered], point)
        return LookupResult(
            target=point.hex(),
            reached=point in found if isinstance(point, NodeId) else None,
            found=[
                FoundNode(each.hex(), self._address_of(each), distance_bits(each, point))
                for each in found[: self._config.dht.k]
            ],
            hops=[
                LookupHop(hop.node_id.hex(), hop.depth, round(hop.seconds * 1000, 3), hop.outcome)
                for hop in route.hops
            ],
            elapsed_ms=round(elapsed * 1000, 3),
        )

    def _point(self, target: str) -> bytes:
        try:
            return self._node_id(target)
        except NotFound:
            return Key.of(target)

    def _node_id(self, text: str) -> NodeId:
        """Read the ID of a node that need not be known, or the prefix or name of one that is.

        Of this node, too. Raises `NotFound` or `AmbiguousPeer`.
        """
        if text == self.services.own.name:
            return self.node_id
        if len(text) == ID_BITS // 4:
            with suppress(ValueError):
                return NodeId.from_hex(text)
        try:
            found = self.resolve_peer(text)
        except NotFound:
            if _is_prefix(text, self.node_id):
                return self.node_id
            raise
        if _is_prefix(text, self.node_id):
            raise AmbiguousPeer(f"{text!r} fits this node, and others; use more of the ID")
        return found

    def _address_of(self, peer: NodeId) -> str:
        if peer == self.node_id:
            return next(map(str, self.services.own.addresses), "")
        entry = self.services.registry.get(peer)
        return str(entry.addresses[0]) if entry and entry.addresses else ""


@asynccontextmanager
async def open_node(
    config: Config, env: Env, events: Events, *, instance: str = "default"
) -> AsyncIterator[Node]:
    """Run a node within the `async with`; it listens when this returns.

    At a normal end it says goodbye to its peers and saves its registry. Raises
    `StartError` where an address can't be bound, `StoreError`, and `Exhausted`. A bug in a service
    escapes as an `ExceptionGroup`.
    """
    async with _listening(env.network, config.listen.addresses) as listeners:
        services = wire_services(config, env, events, [each.address for each in listeners])
        await load_registry(env.store, services.registry, events)
        chronicle = Chronicle()
        with events.sent_to(chronicle.sink), events.sent_to(services.doctor.refusals.sink):
            async with _running(config, env, services, chronicle, listeners, instance) as node:
                yield node
        await save_registry(env.store, services.registry, events)


@asynccontextmanager
async def _running(
    config: Config,
    env: Env,
    services: Services,
    chronicle: Chronicle,
    listeners: Sequence[Listener],
    instance: str,
) -> AsyncIterator[Node]:
    events = services.events
    async with trio.open_nursery() as nursery:
        await nursery.start(env.background.run)
        nursery.start_soon(services.inbound.run, listeners)
        for run in (
            services.replica.run,
            services.dht.run,
            services.reconciler.run,
            services.repair.run,
            services.republisher.run,
            services.keepalive.run,
            services.clock_watch.run,
            services.exchange.run,
            services.gossip.run,
            services.liveness.run,
            services.surplus.run,
            services.upkeep.run,
            services.bootstrap.run,
            services.seeds.run,
            services.interfaces.run,
            services.discovery.run,
            services.routes.run,
        ):
            nursery.start_soon(run)
        nursery.start_soon(keep_registry, env.store, services.registry, events)
        node = Node(config, env, services, chronicle, instance)
        yield node
        await services.repair.hand_over()
        services.inbound.stop()
        services.upkeep.stop()
        services.liveness.say_goodbye()
        await services.discovery.say_goodbye()
        await services.roster.say_goodbye()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _listening(
    network: Network, addresses: tuple[str, ...]
) -> AsyncIterator[Sequence[Listener]]:
    """Bind all addresses for the `async with`.

    All addresses with port 0 get the same free port.
    """
    listeners: list[Listener] = []
    chosen = 0
    try:
        for text in addresses:
            host, port = parse_address(text, listening=True)
            try:
                listener = await network.listen(Address(host, port or chosen))
            except StartError as error:
                if listeners and _has_no_ipv6(host, error):
                    continue
                raise
            chosen = chosen if port else listener.address.port
            listeners.append(listener)
        yield listeners
    finally:
        with trio.CancelScope(shield=True):
            for each in listeners:
                await each.aclose()


def _has_no_ipv6(host: str, error: StartError) -> bool:
    cause = error.__cause__
    return host == "::" and isinstance(cause, OSError) and cause.errno == errno.EAFNOSUPPORT


def _put_result(key: str, written: Written) -> PutResult:
    return PutResult(
        key, written.version.name.hex(), written.stored, written.wanted, written.quorum
    )


def _stored_version(version: Version) -> StoredVersion:
    return StoredVersion(
        value=version.record.value or b"",
        version=version.name.hex(),
        writer=NodeId.of(version.record.writer).hex(),
    )


def _is_prefix(text: str, node_id: NodeId) -> bool:
    """Whether a text names a node by its ID, or by enough of it."""
    return len(text) >= _LEAST_PREFIX and node_id.hex().startswith(text.lower())
