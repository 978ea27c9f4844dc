"""The contract of the control socket: what daemon and client agree on.

JSON-RPC 2.0 over a Unix stream socket, one object a line, UTF-8. Parameters go by name.
Batches are not supported: several requests may be under way on one connection instead,
and their answers come in any order. The first answer on a connection carries one extra
member, `"p2pd": {"protocol": 1, "version": "0.1.0"}`.

A value (any bytes) travels as `value` where it is UTF-8 text, else as `value_base64`; so
does a message's content, as `data` or `data_base64`.

A subscription (`watch`, `peers.watch`, `subscribe`) is answered by `{"subscription": N}`;
what it delivers then arrives as notifications named after the method, with `subscription`
and one of `event`, `peer` and `message` among the parameters, or with `missed`: how many
were left out because the client reads too slowly.

An error's `data.code` is the stable name from `p2pd.errors`, or one of `parse_error`,
`invalid_request`, `unknown_method`, `internal` where JSON-RPC itself defines the number.

What each method answers: `p2pd.control.results`.

Imports only the standard library and `p2pd.errors`: `p2pctl` must start at once.
"""

import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from p2pd.errors import InvalidRequest

if TYPE_CHECKING:
    from p2pd.control.results import DataJson, ValueJson

PROTOCOL_VERSION: Final = 1

# The largest value (256 KiB) takes 350 KiB as base64; the rest is room for growth.
MAX_LINE_BYTES: Final = 4 * 1024 * 1024

# JSON-RPC 2.0, section 5.1.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

FAILED: Final = -32000
"""Any error of p2pd that has no number of its own in `ERROR_NUMBERS`."""

ERROR_NUMBERS: Final[Mapping[str, int]] = {
    "failed": FAILED,
    "invalid_request": INVALID_PARAMS,
    "not_found": -32001,
    "ambiguous_peer": -32002,
    "version_conflict": -32003,
    "too_few_replicas": -32004,
    "timeout": -32005,
    "busy": -32006,
    "dial_failed": -32007,
    "handshake_refused": -32008,
    "peer": -32009,
    "connection_lost": -32011,
    "bad_message": -32012,
    "store": -32013,
    "store_full": -32014,
    "config": -32015,
    "start": -32016,
    "request_refused": -32017,
    "dial_timeout": -32018,
}
"""`P2PError.code` -> the JSON-RPC error number (-32000 to -32099 are the application's)."""

Params = dict[str, Any]
ParamType = Literal["string", "number", "integer", "boolean", "array of strings"]


class Param(NamedTuple):
    """One parameter of a method. `minimum` and `maximum` are inclusive, `above` is not.

    For an array they bound the number of its items. `min_bytes` and `max_bytes`, inclusive,
    bound each string's length in UTF-8.
    """

    type: ParamType
    doc: str
    required: bool = True
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None


class Method(NamedTuple):
    """A method: what it does, what it takes, whether notifications follow its answer."""

    doc: str
    params: Mapping[str, Param] = {}
    subscription: bool = False


PEER_STATUSES: Final = ("attempted", "connected", "disconnected")
CONSISTENCIES: Final = ("one", "quorum", "all")
DEFAULT_CONSISTENCY: Final = "quorum"
MAX_PINGS: Final = 1000
MAX_TTL_SECONDS: Final = 1e9
MAX_TOPICS: Final = 64

# What a message on the wire has room for: `Publication.topic` there.
MAX_TOPIC_BYTES: Final = 64
# And `Echo.data`.
MAX_ECHO_BYTES: Final = 1 << 18

_PEER = Param("string", "a node ID, a unique prefix of one (4 digits at least), or a unique name")
_KEY = Param("string", "the key")
_OWNED = Param("boolean", "under the key that only this node can write", required=False)
_TOPIC = Param("string", "the topic", min_bytes=1, max_bytes=MAX_TOPIC_BYTES)
_STATUS = Param("string", "only peers with this status", required=False, choices=PEER_STATUSES)

METHODS: Final[Mapping[str, Method]] = {
    "rpc.methods": Method("every method with its parameters"),
    "status": Method("this node, at a glance"),
    "peers": Method("the registry: every known peer", {"status": _STATUS}),
    "connect": Method("dial now", {"address": Param("string", "HOST:PORT or [IPV6]:PORT")}),
    "disconnect": Method("close the connection to a peer", {"peer": _PEER}),
    "ping": Method(
        "round-trip times to a peer",
        {
            "peer": _PEER,
            "count": Param(
                "integer",
                "how many, one after the other; default 1",
                required=False,
                minimum=1,
                maximum=MAX_PINGS,
            ),
        },
    ),
    "echo": Method(
        "send a text to a peer and get it back",
        {"peer": _PEER, "text": Param("string", "the text", max_bytes=MAX_ECHO_BYTES)},
    ),
    "put": Method(
        "write a record",
        {
            # One that was stored under no name can still be read, and deleted.
            "key": Param("string", "the key", min_bytes=1),
            "value": Param("string", "the value, as text", required=False),
            "value_base64": Param("string", "the value, as base64 of any bytes", required=False),
            "ttl": Param(
                "number",
                "seconds until the record expires",
                required=False,
                above=0,
                maximum=MAX_TTL_SECONDS,
            ),
            "owned": _OWNED,
            "if_version": Param(
                "string",
                "write only if this is the version there; empty: only if there is none",
                required=False,
            ),
        },
    ),
    "get": Method(
        "read a record",
        {
            "key": _KEY,
            "consistency": Param(
                "string",
                f"how many replicas must answer; default {DEFAULT_CONSISTENCY}",
                required=False,
                choices=CONSISTENCIES,
            ),
            "all": Param("boolean", "also give every concurrent version", required=False),
            "owner": Param(
                "string",
                "read the key that only this node can write: its ID, or a unique prefix or name",
                required=False,
            ),
        },
    ),
    "delete": Method("delete a record", {"key": _KEY, "owned": _OWNED}),
    "lookup": Method(
        "the DHT's route to a key or a node, hop by hop",
        {
            "target": Param(
                "string",
                "a node ID, or the prefix or name of a known node; else a key",
                min_bytes=1,
            )
        },
    ),
    "why": Method("why a peer has the standing that it has, step by step", {"peer": _PEER}),
    "doctor": Method("what is wrong with this node and its surroundings; takes some seconds"),
    "publish": Method(
        "send a message to everybody who subscribes to its topic",
        {
            "topic": _TOPIC,
            "data": Param("string", "the message, as text", required=False),
            "data_base64": Param("string", "the message, as base64 of any bytes", required=False),
        },
    ),
    "subscribe": Method(
        "the messages on some topics as they arrive",
        {
            "topics": Param(
                "array of strings",
                "only messages on these topics; default all",
                required=False,
                minimum=1,
                maximum=MAX_TOPICS,
                min_bytes=1,
                max_bytes=MAX_TOPIC_BYTES,
            ),
        },
        subscription=True,
    ),
    "watch": Method("the node's events (level info and above) as they happen", subscription=True),
    "peers.watch": Method(
        "every known peer, then each again when something changes",
        {"status": _STATUS},
        subscription=True,
    ),
    "unsubscribe": Method(
        "end a subscription of this connection",
        {"subscription": Param("integer", "the number that its answer gave")},
    ),
    "stop": Method("ask the daemon to leave gracefully"),
}
"""Everything that the control socket does: `rpc.methods` and the checks read this table."""


def encode_value(value: bytes) -> "ValueJson":
    """Return a record's bytes in the form in which they travel."""
    return cast("ValueJson", _encode(value, "value"))


def decode_value(members: Mapping[str, Any]) -> bytes:
    """Read a value from the members of a request or an answer.

    Raises `InvalidRequest` unless exactly one of `value` and `value_base64` is there and
    well-formed.
    """
    return _decode(members, "value")


def encode_data(data: bytes) -> "DataJson":
    """Return a message's bytes in the form in which they travel."""
    return cast("DataJson", _encode(data, "data"))


def decode_data(members: Mapping[str, Any]) -> bytes:
    """Read a message's bytes: `decode_value` for `data` and `data_base64`."""
    return _decode(members, "data")


def _encode(content: bytes, name: str) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": binascii.b2a_base64(content, newline=False).decode()}


def _decode(members: Mapping[str, Any], name: str) -> bytes:
    in_base64 = f"{name}_base64"
    if (name in members) == (in_base64 in members):
        raise InvalidRequest(f"give exactly one of `{name}` and `{in_base64}`")
    if name in members:
        return str(members[name]).encode()
    try:
        return binascii.a2b_base64(members[in_base64], strict_mode=True)
    except ValueError as error:
        raise InvalidRequest(f"`{in_base64}` is not base64: {error}") from None
