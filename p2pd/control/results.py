"""What the methods of the control socket answer, and what subscriptions deliver: JSON's shapes.

For type checkers: a client that only looks at answers need not load it.
"""

from typing import NotRequired, TypedDict


class PeerCountsJson(TypedDict):
    """How many registry entries have each status."""

    connected: int
    attempted: int
    disconnected: int


class StoreUseJson(TypedDict):
    """How much the store holds."""

    records: int
    bytes: int


class GossipUseJson(TypedDict):
    """Messages since the start: own ones sent, ones delivered here, redundant copies.

    `dropped`: too old, too long, or too many.
    """

    published: int
    delivered: int
    duplicates: int
    dropped: int


class StatusResult(TypedDict):
    """`status`; times are RFC 3339 UTC."""

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
    peers: PeerCountsJson
    store: StoreUseJson
    gossip: GossipUseJson


class PeerJson(TypedDict):
    """One entry of `peers`; times are RFC 3339 UTC."""

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


class ConnectResult(TypedDict):
    """`connect`: the peer that the address led to."""

    peer: str
    address: str


class DisconnectResult(TypedDict):
    """`disconnect`."""

    peer: str


class PingResult(TypedDict):
    """`ping`. `p2pctl` puts None for a ping that was lost."""

    peer: str
    rtt_ms: list[float | None]


class EchoResult(TypedDict):
    """`echo`."""

    peer: str
    text: str
    rtt_ms: float


class ReplicasJson(TypedDict):
    """How many replicas have a write on disk, should have it, and must have it."""

    stored: int
    wanted: int
    quorum: int


class PutResultJson(TypedDict):
    """`put` and `delete`."""

    key: str
    version: str
    replicas: ReplicasJson


class ValueJson(TypedDict):
    """A value: exactly one of the two."""

    value: NotRequired[str]
    value_base64: NotRequired[str]


class VersionJson(ValueJson):
    """One version of a record."""

    version: str
    writer: str


class GetResultJson(VersionJson):
    """`get`; `versions`, the winner first, only when `all` was asked for."""

    key: str
    siblings: int
    versions: NotRequired[list[VersionJson]]


class FoundNodeJson(TypedDict):
    """One of the closest nodes that a lookup ended on."""

    node_id: str
    address: str
    distance_bits: int


class LookupHopJson(TypedDict):
    """One query of a lookup."""

    node_id: str
    depth: int
    rtt_ms: float | None
    outcome: str


class LookupResultJson(TypedDict):
    """`lookup`; `reached`: whether the node that was asked for answered, None for a key."""

    target: str
    reached: bool | None
    found: list[FoundNodeJson]
    hops: list[LookupHopJson]
    elapsed_ms: float


class PublishResult(TypedDict):
    """`publish`: the name of the message, 32 hex digits."""

    message_id: str


class DataJson(TypedDict):
    """A message's content: exactly one of the two."""

    data: NotRequired[str]
    data_base64: NotRequired[str]


class MessageJson(DataJson):
    """What `subscribe` delivers; `published_at` is RFC 3339 UTC, by the origin's clock."""

    topic: str
    message_id: str
    origin: str
    origin_name: str | None
    sequence: int
    published_at: str
    hops: int


class WhyStepJson(TypedDict):
    """One fact of `why`; `time` is RFC 3339 UTC, `code` is stable."""

    time: str | None
    code: str
    text: str


class WhyResultJson(TypedDict):
    """`why`: the standing of a peer, one sentence on it, and what led to it, in order."""

    node_id: str | None
    name: str | None
    status: str
    liveness: str
    summary: str
    steps: list[WhyStepJson]


class FindingJson(TypedDict):
    """One finding of `doctor`: `level` is ok, warning or problem, `code` is stable.

    `check` is the first part of the code.
    """

    check: str
    code: str
    level: str
    text: str
    remedy: str | None


class DoctorResultJson(TypedDict):
    """`doctor`: whether there is no problem, and every finding.

    `p2pctl` adds `daemon`: whether it answered; without it, the findings are p2pctl's own.
    """

    ok: bool
    findings: list[FindingJson]
    daemon: NotRequired[bool]


class EventJson(TypedDict):
    """What `watch` delivers; `time` is RFC 3339 UTC, `level` as in logs, in lower case."""

    time: str
    level: str
    code: str
    message: str
    peer: str | None
    fields: dict[str, str | int | float | bool | None]


class SubscribedResult(TypedDict):
    """`watch`, `peers.watch` and `subscribe`."""

    subscription: int


class UnsubscribeResult(TypedDict):
    """`unsubscribe`: False if there was no such subscription any more."""

    unsubscribed: bool


class StopResult(TypedDict):
    """`stop`."""

    stopping: bool
