"""What a node looks like from outside at one moment: plain frozen values, ready for JSON.

Field names are those of the control interface; for some of these, `attrs.asdict` is the answer.
"""

import datetime as dt

import attrs
import trio

from p2pd.core.entries import Entry
from p2pd.ids import NodeId
from p2pd.node.connection import Connection


@attrs.frozen
class PeerCounts:
    """How many registry entries have each status."""

    connected: int
    attempted: int
    disconnected: int


@attrs.frozen
class StoreUse:
    """How much the store holds: number of keys, and bytes of records."""

    records: int
    bytes: int


@attrs.frozen
class GossipUse:
    """Messages since the start: own ones sent, ones delivered here, superfluous copies.

    `dropped`: too old, too long, or too many.
    """

    published: int
    delivered: int
    duplicates: int
    dropped: int


@attrs.frozen
class NodeSnapshot:
    """One node at a glance. Times are RFC 3339 UTC."""

    node_id: str
    name: str
    instance: str
    version: str
    protocol: int
    network: str
    pid: int
    started_at: str
    uptime_seconds: float
    listen: list[str]
    addresses: list[str]
    roles: list[str]
    peers: PeerCounts
    store: StoreUse
    gossip: GossipUse


@attrs.frozen
class PeerSnapshot:
    """One registry entry.

    `node_id` is None for an address that never answered; `direction` is `inbound`,
    `outbound` or None where there is no connection.
    """

    node_id: str | None
    name: str | None
    address: str | None
    direction: str | None
    status: str
    liveness: str
    source: str
    success_count: int
    fail_count: int
    first_seen: str | None
    last_seen: str | None
    rtt_ms: float | None
    last_error: str | None


@attrs.frozen
class PutResult:
    """An acknowledged write: its version, and how many replicas have it on disk."""

    key: str
    version: str
    stored: int
    wanted: int
    quorum: int


@attrs.frozen
class StoredVersion:
    """One version of a record: the bytes, the version's name, the writer's node ID."""

    value: bytes
    version: str
    writer: str


@attrs.frozen
class GetResult:
    """What a read found: the winner, and the concurrent versions that stand beside it."""

    key: str
    winner: StoredVersion
    siblings: tuple[StoredVersion, ...]


@attrs.frozen
class FoundNode:
    """One of the closest nodes that a lookup ended on."""

    node_id: str
    address: str
    distance_bits: int


@attrs.frozen
class LookupHop:
    """One query of a lookup: whom it asked, how deep, how long it took, what came of it."""

    node_id: str
    depth: int
    rtt_ms: float | None
    outcome: str


@attrs.frozen
class LookupResult:
    """The route of a lookup: where it ended, and each step on the way, in order.

    `reached` says whether the node that was asked for answered; None if it was a key.
    """

    target: str
    reached: bool | None
    found: list[FoundNode]
    hops: list[LookupHop]
    elapsed_ms: float


@attrs.frozen
class Delivery:
    """One message as its subscribers get it.

    `message_id` has 32 hex digits; `origin_name` is None where this node knows no name for
    the origin; `published_at` is Unix seconds by the origin's clock; `hops` is the number
    of links that it came over, 0 for the node's own.
    """

    topic: str
    message_id: str
    origin: NodeId
    origin_name: str | None
    sequence: int
    published_at: float
    hops: int
    data: bytes


@attrs.frozen
class FindingResult:
    """One finding of the doctor; see `core.findings.Finding`."""

    check: str
    code: str
    level: str
    text: str
    remedy: str | None


@attrs.frozen
class WhyStep:
    """One fact in the account of a peer.

    `time` is Unix seconds, None for what has no moment; `code` is stable; `text` is the
    sentence for people.
    """

    time: float | None
    code: str
    text: str


@attrs.frozen
class WhyResult:
    """Why a peer is in its present state: one sentence, then what led to it, in order.

    `status` and `liveness` are those of `PeerSnapshot`.
    """

    node_id: str | None
    name: str | None
    status: str
    liveness: str
    summary: str
    steps: list[WhyStep]


def rfc3339(wall: float) -> str:
    """Write Unix seconds as RFC 3339 UTC with milliseconds."""
    stamp = dt.datetime.fromtimestamp(wall, dt.UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def peer_snapshot(
    entry: Entry, connection: Connection | None, liveness: str, wall: float
) -> PeerSnapshot:
    """Show a registry entry; `connection` is the peer's, if there is one; `wall` is now."""
    address = next(iter(entry.addresses), connection.remote if connection else None)
    rtt = connection.rtt if connection else None
    last_seen = entry.last_seen
    if connection is not None:
        last_seen = wall - (trio.current_time() - connection.last_heard)
    return PeerSnapshot(
        node_id=entry.node_id.hex() if entry.node_id else None,
        name=entry.name,
        address=str(address) if address else None,
        direction=connection.direction.value if connection else None,
        status=entry.status.value,
        liveness=liveness,
        source=entry.source.value,
        success_count=entry.success_count,
        fail_count=entry.fail_count,
        first_seen=rfc3339(entry.first_seen),
        last_seen=rfc3339(last_seen) if last_seen else None,
        rtt_ms=round(rtt * 1000, 3) if rtt is not None else None,
        last_error=entry.last_error,
    )
