"""A node as the control socket sees it: only the facade's methods, with scripted answers."""

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager

import attrs
import trio

from p2pd.errors import InvalidRequest, NotFound
from p2pd.ids import NodeId
from p2pd.node.events import Events
from p2pd.node.snapshot import (
    Delivery,
    FindingResult,
    FoundNode,
    GetResult,
    GossipUse,
    LookupHop,
    LookupResult,
    NodeSnapshot,
    PeerCounts,
    PeerSnapshot,
    PutResult,
    StoredVersion,
    StoreUse,
    WhyResult,
    WhyStep,
)

EARLY = 1_700_000_000.0
ALICE = NodeId.of(b"alice")
BOB = NodeId.of(b"bob")


def peer(node_id: NodeId = ALICE, name: str = "alice", status: str = "connected") -> PeerSnapshot:
    return PeerSnapshot(
        node_id=str(node_id),
        name=name,
        address="192.0.2.1:41000",
        direction="outbound",
        status=status,
        liveness="alive",
        source="manual",
        success_count=1,
        fail_count=0,
        first_seen="2023-11-14T22:13:20Z",
        last_seen="2023-11-14T22:13:20Z",
        rtt_ms=0.5,
        last_error=None,
    )


def message(
    topic: str = "news", data: bytes = b"hello", origin_name: str | None = "alice", number: int = 1
) -> Delivery:
    return Delivery(
        topic=topic,
        message_id=f"{number:032x}",
        origin=ALICE,
        origin_name=origin_name,
        sequence=number,
        published_at=EARLY + 0.25,
        hops=2,
        data=data,
    )


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()


class FakeNode:
    """`before` runs before each asynchronous method: it may wait or raise."""

    def __init__(self) -> None:
        self.node_id = NodeId.of(b"me")
        self.events = Events(lambda: EARLY)
        self.registry = [peer(), peer(BOB, "bob", "disconnected")]
        self.records: dict[str, bytes] = {}
        self.siblings: tuple[StoredVersion, ...] = ()
        self.before: Callable[[], Awaitable[None]] = _nothing
        self.calls: list[tuple[object, ...]] = []
        self.stopped = trio.Event()
        self.audience: list[tuple[frozenset[str], Callable[[Delivery], None]]] = []
        self.findings = [FindingResult("disk", "disk.ok", "ok", "/var/lib/p2pd is writable", None)]
        self.account = WhyResult(
            node_id=str(BOB),
            name="bob",
            status="disconnected",
            liveness="dead",
            summary="bob is dead: three others could not reach it either",
            steps=[
                WhyStep(time=EARLY, code="probe.silent", text="3 probes without an answer"),
                WhyStep(time=None, code="peer.dead", text="nobody reaches it"),
            ],
        )

    def snapshot(self) -> NodeSnapshot:
        return NodeSnapshot(
            node_id=str(self.node_id),
            name="me",
            instance="default",
            version="0.1.0",
            protocol=1,
            network="test",
            pid=7,
            started_at="2023-11-14T22:13:20Z",
            uptime_seconds=3.5,
            listen=["[::]:41000"],
            addresses=["192.0.2.9:41000"],
            roles=[],
            peers=PeerCounts(connected=1, attempted=0, disconnected=1),
            store=StoreUse(records=len(self.records), bytes=12),
            gossip=GossipUse(published=3, delivered=5, duplicates=1, dropped=0),
        )

    def peers(self, only: Collection[str] | None = None) -> list[PeerSnapshot]:
        return [
            each for each in self.registry if only is None or (each.node_id or each.address) in only
        ]

    def resolve_peer(self, text: str) -> NodeId:
        for each in self.registry:
            if each.node_id is not None and text in {each.name, each.node_id}:
                return NodeId.from_hex(each.node_id)
        raise NotFound(f"no peer {text!r}")

    async def connect(self, address: str) -> NodeId:
        await self.before()
        if ":" not in address:
            raise InvalidRequest(f"{address}: no port")
        return ALICE

    async def disconnect(self, peer: NodeId) -> None:
        await self.before()
        self.calls.append(("disconnect", peer))

    async def ping(self, peer: NodeId) -> float:
        await self.before()
        return 0.00025

    async def echo(self, peer: NodeId, data: bytes) -> tuple[bytes, float]:
        await self.before()
        return data, 0.0005

    async def put(
        self, key: str, value: bytes, *, owned: bool, ttl: float | None, if_version: str | None
    ) -> PutResult:
        await self.before()
        self.calls.append(("put", key, owned, ttl, if_version))
        self.records[key] = value
        return PutResult(key=key, version="v1", stored=2, wanted=3, quorum=2)

    async def get(self, key: str, *, consistency: str, owner: str | None) -> GetResult:
        await self.before()
        self.calls.append(("get", key, consistency, owner))
        if key not in self.records:
            raise NotFound(f"no record {key!r}")
        winner = StoredVersion(value=self.records[key], version="v1", writer=str(ALICE))
        return GetResult(key=key, winner=winner, siblings=self.siblings)

    async def delete(self, key: str, *, owned: bool) -> PutResult:
        await self.before()
        self.calls.append(("delete", key, owned))
        self.records.pop(key, None)
        return PutResult(key=key, version="v2", stored=3, wanted=3, quorum=2)

    async def lookup(self, target: str) -> LookupResult:
        await self.before()
        return LookupResult(
            target=target,
            reached=None,
            found=[FoundNode(node_id=str(ALICE), address="192.0.2.1:41000", distance_bits=250)],
            hops=[LookupHop(node_id=str(BOB), depth=1, rtt_ms=None, outcome="timeout")],
            elapsed_ms=1.5,
        )

    async def publish(self, topic: str, data: bytes) -> str:
        await self.before()
        if topic.startswith("$"):
            raise InvalidRequest(f"{topic}: the network's own")
        published = message(topic, data)
        self.deliver(published)
        return published.message_id

    @contextmanager
    def deliveries(
        self, topics: frozenset[str], sink: Callable[[Delivery], None]
    ) -> Iterator[None]:
        self.audience.append((topics, sink))
        try:
            yield
        finally:
            self.audience.remove((topics, sink))

    def deliver(self, delivery: Delivery) -> None:
        """Give a message to whom it concerns."""
        for topics, sink in tuple(self.audience):
            if not topics or delivery.topic in topics:
                sink(delivery)

    def why(self, peer: NodeId) -> WhyResult:
        self.calls.append(("why", peer))
        return self.account

    async def doctor(self) -> list[FindingResult]:
        await self.before()
        return list(self.findings)

    def stop(self) -> None:
        self.stopped.set()

    def becomes(self, index: int, status: str) -> None:
        """Change a registry entry, and say so."""
        self.registry[index] = changed = attrs.evolve(self.registry[index], status=status)
        assert changed.node_id is not None
        who = NodeId.from_hex(changed.node_id)
        self.events.emit(f"peer.{status}", f"{changed.name} {status}", peer=who)
