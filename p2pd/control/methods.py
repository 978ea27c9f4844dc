"""What each method of the control socket does to the node: parameters in, JSON out.

Parameters have been checked against `api.METHODS` before they come here.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, cast

import attrs

from p2pd.control import api, results
from p2pd.ids import NodeId
from p2pd.node.events import Event, Events
from p2pd.node.snapshot import (
    Delivery,
    FindingResult,
    GetResult,
    LookupResult,
    NodeSnapshot,
    PeerSnapshot,
    PutResult,
    StoredVersion,
    WhyResult,
    rfc3339,
)

LEVEL_NAMES: Final[Mapping[int, str]] = {
    10: "debug",
    20: "info",
    30: "warning",
    40: "error",
    50: "critical",
}


class Node(Protocol):
    """As much of a node as the control socket needs."""

    @property
    def node_id(self) -> NodeId:
        """Its own ID."""

    @property
    def events(self) -> Events:
        """What happens to the node."""

    def snapshot(self) -> NodeSnapshot:
        """Return the node at a glance."""

    def peers(self, only: Collection[str] | None = None) -> list[PeerSnapshot]:
        """Return the registry."""

    def resolve_peer(self, text: str) -> NodeId:
        """Find a peer by its ID, a unique prefix or a unique name."""

    async def connect(self, address: str) -> NodeId:
        """Dial now."""

    async def disconnect(self, peer: NodeId) -> None:
        """Close the connection to a peer."""

    async def ping(self, peer: NodeId) -> float:
        """Return the round-trip time in seconds."""

    async def echo(self, peer: NodeId, data: bytes) -> tuple[bytes, float]:
        """Return the answer and the round-trip time in seconds."""

    async def put(
        self, key: str, value: bytes, *, owned: bool, ttl: float | None, if_version: str | None
    ) -> PutResult:
        """Write a record."""

    async def get(self, key: str, *, consistency: str, owner: str | None) -> GetResult:
        """Read a record."""

    async def delete(self, key: str, *, owned: bool) -> PutResult:
        """Delete a record."""

    async def lookup(self, target: str) -> LookupResult:
        """Find the nodes closest to a key or a node."""

    async def publish(self, topic: str, data: bytes) -> str:
        """Send a message to everybody; returns its ID, 32 hex digits."""

    def deliveries(
        self, topics: frozenset[str], sink: Callable[[Delivery], None]
    ) -> AbstractContextManager[None]:
        """Within the `with`, `sink` gets each message on one of `topics`; empty: on any."""

    def why(self, peer: NodeId) -> WhyResult:
        """Say why a peer has the standing that it has."""

    async def doctor(self) -> list[FindingResult]:
        """Try out what can be tried, and say what is wrong."""

    def stop(self) -> None:
        """Ask for a graceful stop."""


Handler = Callable[[Node, api.Params], Awaitable[Any]]


async def _methods(node: Node, params: api.Params) -> dict[str, Any]:  # noqa: ARG001 - a Handler
    return {name: describe_method(method) for name, method in api.METHODS.items()}


async def _status(node: Node, params: api.Params) -> results.StatusResult:  # noqa: ARG001 - a Handler
    return cast("results.StatusResult", attrs.asdict(node.snapshot()))


async def _peers(node: Node, params: api.Params) -> list[results.PeerJson]:
    wanted = params.get("status")
    return [peer_json(peer) for peer in node.peers() if wanted in {None, peer.status}]


async def _connect(node: Node, params: api.Params) -> results.ConnectResult:
    peer = await node.connect(params["address"])
    return {"peer": str(peer), "address": params["address"]}


async def _disconnect(node: Node, params: api.Params) -> results.DisconnectResult:
    peer = node.resolve_peer(params["peer"])
    await node.disconnect(peer)
    return {"peer": str(peer)}


async def _ping(node: Node, params: api.Params) -> results.PingResult:
    peer = node.resolve_peer(params["peer"])
    times = [await node.ping(peer) for _ in range(params.get("count", 1))]
    return {"peer": str(peer), "rtt_ms": [_milliseconds(each) for each in times]}


async def _echo(node: Node, params: api.Params) -> results.EchoResult:
    peer = node.resolve_peer(params["peer"])
    data, seconds = await node.echo(peer, params["text"].encode())
    text = data.decode(errors="replace")
    return {"peer": str(peer), "text": text, "rtt_ms": _milliseconds(seconds)}


async def _put(node: Node, params: api.Params) -> results.PutResultJson:
    value = api.decode_value(params)
    written = await node.put(
        params["key"],
        value,
        owned=params.get("owned", False),
        ttl=params.get("ttl"),
        if_version=params.get("if_version"),
    )
    return _put_json(written)


async def _get(node: Node, params: api.Params) -> results.GetResultJson:
    consistency = params.get("consistency", api.DEFAULT_CONSISTENCY)
    found = await node.get(params["key"], consistency=consistency, owner=params.get("owner"))
    result = cast("results.GetResultJson", {"key": found.key, **_version_json(found.winner)})
    result["siblings"] = len(found.siblings)
    if params.get("all", False):
        result["versions"] = [_version_json(each) for each in (found.winner, *found.siblings)]
    return result


async def _delete(node: Node, params: api.Params) -> results.PutResultJson:
    return _put_json(await node.delete(params["key"], owned=params.get("owned", False)))


async def _lookup(node: Node, params: api.Params) -> results.LookupResultJson:
    return cast("results.LookupResultJson", attrs.asdict(await node.lookup(params["target"])))


async def _publish(node: Node, params: api.Params) -> results.PublishResult:
    return {"message_id": await node.publish(params["topic"], api.decode_data(params))}


async def _why(node: Node, params: api.Params) -> results.WhyResultJson:
    why = node.why(node.resolve_peer(params["peer"]))
    steps: list[results.WhyStepJson] = [
        {
            "time": None if step.time is None else rfc3339(step.time),
            "code": step.code,
            "text": step.text,
        }
        for step in why.steps
    ]
    return {
        "node_id": why.node_id,
        "name": why.name,
        "status": why.status,
        "liveness": why.liveness,
        "summary": why.summary,
        "steps": steps,
    }


async def _doctor(node: Node, params: api.Params) -> results.DoctorResultJson:  # noqa: ARG001 - a Handler
    findings = [
        cast("results.FindingJson", attrs.asdict(finding)) for finding in await node.doctor()
    ]
    return {"ok": all(each["level"] != "problem" for each in findings), "findings": findings}


HANDLERS: Final[Mapping[str, Handler]] = {
    "rpc.methods": _methods,
    "status": _status,
    "peers": _peers,
    "connect": _connect,
    "disconnect": _disconnect,
    "ping": _ping,
    "echo": _echo,
    "put": _put,
    "get": _get,
    "delete": _delete,
    "lookup": _lookup,
    "why": _why,
    "doctor": _doctor,
    "publish": _publish,
}
"""The methods that only need the node; the server itself answers the others."""


def describe_method(method: api.Method) -> dict[str, Any]:
    """Describe a method as `rpc.methods` does: only what is set."""
    params = {}
    for name, param in method.params.items():
        members = {"type": param.type, "doc": param.doc, "required": param.required}
        optional = {
            "choices": param.choices or None,
            "minimum": param.minimum,
            "above": param.above,
            "maximum": param.maximum,
            "min_bytes": param.min_bytes,
            "max_bytes": param.max_bytes,
        }
        set_ones = {each: value for each, value in optional.items() if value is not None}
        params[name] = members | set_ones
    return {"doc": method.doc, "params": params, "subscription": method.subscription}


def peer_json(peer: PeerSnapshot) -> results.PeerJson:
    """Return the JSON form of a registry entry."""
    return cast("results.PeerJson", attrs.asdict(peer, recurse=False))


def event_json(event: Event) -> results.EventJson:
    """Return the JSON form of an event; numbers that JSON can't hold become null."""
    return {
        "time": rfc3339(event.time),
        "level": LEVEL_NAMES.get(event.level, str(event.level)),
        "code": event.code,
        "message": event.message,
        "peer": None if event.peer is None else str(event.peer),
        "fields": {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in event.fields.items()
        },
    }


def message_json(message: Delivery) -> results.MessageJson:
    """Return the JSON form of a delivered message."""
    return {
        "topic": message.topic,
        "message_id": message.message_id,
        "origin": str(message.origin),
        "origin_name": message.origin_name,
        "sequence": message.sequence,
        "published_at": rfc3339(message.published_at),
        "hops": message.hops,
        **api.encode_data(message.data),
    }


def _put_json(result: PutResult) -> results.PutResultJson:
    replicas: results.ReplicasJson = {
        "stored": result.stored,
        "wanted": result.wanted,
        "quorum": result.quorum,
    }
    return {"key": result.key, "version": result.version, "replicas": replicas}


def _version_json(version: StoredVersion) -> results.VersionJson:
    return {
        **api.encode_value(version.value),
        "version": version.version,
        "writer": version.writer,
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
