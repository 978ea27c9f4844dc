"""The configuration: frozen, typed, every key declared once.

Each key is listed below with its default, what it may hold, its unit and its meaning;
`config/p2pd.toml` shows the same to people. Times are in seconds, sizes in bytes.
`p2pd.config_file` reads and writes it as TOML.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

import attrs

from p2pd.hosts import address, multicast_group
from p2pd.rules import Rule, integer, list_of, number, one_of, text

DEFAULT_PORT = 41000
DAY = 86400
# What the protocol's messages have room for: `MAX_RECORDS` and so on in `p2pd.wire.messages`.
MAX_K = 64
MAX_VALUE_BYTES = 2**18
MAX_PUBLICATION_BYTES = 2**16

_FLAG = Rule("true or false", lambda value: isinstance(value, bool))
_PATH = text("an absolute path, or nothing", lambda text: text == "" or text.startswith("/"))


def _key(default: object, rule: Rule, doc: str, *, unit: str = "", reload: bool = False) -> Any:
    """Declare a key. `reload`: SIGHUP may change it; any other needs a restart."""
    about = {"doc": doc, "unit": unit, "reload": reload, "rule": rule}
    return attrs.field(default=default, converter=rule, metadata=about)


def _seconds(default: float, low: float, high: float, doc: str, *, reload: bool = False) -> Any:
    return _key(default, number(low, high), doc, unit="seconds", reload=reload)


def _count(default: int, unit: str, low: int, high: int, doc: str, *, reload: bool = False) -> Any:
    return _key(default, integer(low, high), doc, unit=unit, reload=reload)


@attrs.frozen
class NodeConfig:
    """Who this node is to others."""

    name: str = _key(
        "",
        text("printable text of at most 64 bytes", lambda text: len(text.encode()) <= 64),
        "What people call this node: a label, not its identity. Empty: the host name.",
    )
    network: str = _key(
        "p2pd",
        text("printable text of 1 to 64 bytes", lambda text: 1 <= len(text.encode()) <= 64),
        "Nodes of different networks refuse each other.",
    )
    network_key_file: str = _key(
        "",
        _PATH,
        "A file with the secret of a private network: nodes without it are refused. Empty: none.",
    )
    roles: tuple[str, ...] = _key(
        (),
        list_of(one_of("seed")),
        'Roles announced to other nodes. "seed": this node is in their discovery.seeds.',
    )


@attrs.frozen
class IdentityConfig:
    """What an identity must have cost."""

    difficulty: int = _count(
        16,
        "bits",
        0,
        24,
        "Proof of work behind every node ID: leading zero bits. Each one more doubles the cost "
        "of the first start, and nodes with less are refused.",
    )


@attrs.frozen
class ListenConfig:
    """Where connections are accepted."""

    addresses: tuple[str, ...] = _key(
        (f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}"),
        list_of(address(listening=True), at_least=1),
        "Where to accept connections (TCP). Port 0: any free port.",
    )


@attrs.frozen
class MulticastConfig:
    """Discovery on the local network."""

    enabled: bool = _key(
        default=True, rule=_FLAG, doc="Whether to find and be found by nodes on the LAN."
    )
    group_v4: str = _key(
        "239.255.0.1",
        multicast_group(ipaddress.IPv4Address),
        "The IPv4 group of the beacons; of administratively local scope (RFC 2365).",
    )
    group_v6: str = _key(
        "ff12::4100",
        multicast_group(ipaddress.IPv6Address),
        "The IPv6 group of the beacons; transient and of link-local scope (RFC 4291, 2.7).",
    )
    port: int = _key(DEFAULT_PORT, integer(1, 65535), "The UDP port of the beacons.")
    interval: float = _seconds(
        60.0,
        1,
        DAY,
        "Time between two beacons of a node that has been up for a while.",
        reload=True,
    )
    passive: bool = _key(
        default=False,
        rule=_FLAG,
        doc="Whether to send beacons at that interval only, with no burst at the start and no "
        "answers except to `p2pctl doctor`. Nodes then find each other within an interval "
        "instead of at once.",
        reload=True,
    )
    interfaces: tuple[str, ...] = _key(
        (),
        list_of(
            text(
                "a name or pattern",
                lambda text: 0 < len(text.removeprefix("!")) <= 64 and " " not in text,
            )
        ),
        "Interfaces to use, as shell patterns of their names; !PATTERN leaves some out. "
        "Empty: all that suit.",
    )


@attrs.frozen
class DiscoveryConfig:
    """How other nodes are found."""

    bootstrap: tuple[str, ...] = _key(
        (),
        list_of(address(listening=False)),
        "Nodes to dial first, where multicast does not reach.",
        reload=True,
    )
    seeds: tuple[str, ...] = _key(
        (),
        list_of(address(listening=False)),
        "Seed nodes: this node keeps connections to more than half of them.",
        reload=True,
    )
    multicast: MulticastConfig = attrs.field(factory=MulticastConfig)


@attrs.frozen
class ConnectionsConfig:
    """How many connections to keep, and how to dial."""

    target: int = _count(
        6,
        "connections",
        0,
        10_000,
        "How many connections to keep up by dialling known peers.",
        reload=True,
    )
    max_inbound: int = _count(
        64,
        "connections",
        0,
        10_000,
        "How many connections others may have made to this node.",
        reload=True,
    )
    max_outbound: int = _count(
        32,
        "connections",
        0,
        10_000,
        "How many connections this node may have made to others.",
        reload=True,
    )
    max_per_ip: int = _count(
        16,
        "connections",
        1,
        10_000,
        "How many connections one IP address may have made to this node. Of IPv6, one network /64 "
        "counts as an address, unless it is this host's own.",
        reload=True,
    )
    dial_timeout: float = _seconds(
        5.0, 0.1, 300, "How long a connection may take to come up, handshake included.", reload=True
    )
    backoff_min: float = _seconds(
        1.0,
        0.1,
        DAY,
        "The wait after a first failure to reach a peer; it doubles with each further one.",
        reload=True,
    )
    backoff_max: float = _seconds(
        300.0, 0.1, DAY, "The longest wait between two attempts to reach a peer.", reload=True
    )


@attrs.frozen
class LivenessConfig:
    """How soon a silent peer is noticed: after ping_interval + (misses + 1) * ping_timeout / 2.

    Half a ping_timeout later where the peer dialled, so that one side's probe serves both.
    """

    ping_interval: float = _seconds(
        5.0, 0.1, 3600, "Time between two probes of a connected peer.", reload=True
    )
    ping_timeout: float = _seconds(
        2.0, 0.1, 3600, "How long a peer may take to answer a probe.", reload=True
    )
    misses: int = _count(
        3,
        "probes",
        1,
        100,
        "After how many unanswered probes in a row a connection is closed, and its peer suspect "
        "at the latest.",
        reload=True,
    )
    indirect_probes: int = _count(
        3, "peers", 0, 16, "How many others are asked to reach a peer that is suspect.", reload=True
    )
    evict_after: float = _seconds(
        20.0,
        1,
        DAY,
        "Silence after which a connection is closed at the latest, whatever the keys above allow.",
        reload=True,
    )


@attrs.frozen
class GossipConfig:
    """How messages are spread (Plumtree: a tree of connections, announcements beside it)."""

    # Normally all of them: the tree that the first message leaves is then as shallow as possible.
    fanout: int = _count(
        16, "peers", 1, 64, "To how many peers a message is pushed until the tree has settled."
    )
    ttl: int = _count(32, "hops", 1, 255, "After so many hops a message is only announced.")
    probability: float = _key(
        1.0,
        number(0, 1),
        "The share of pushes that are made; the others become announcements.",
    )
    seen_ttl: float = _seconds(
        9000.0, 1, 7 * DAY, "How long a message is recognized when it comes again."
    )
    retention: float = _seconds(
        7200.0, 1, 7 * DAY, "How long a message is kept for those who missed it."
    )
    max_message_bytes: int = _count(
        65536, "bytes", 1, MAX_PUBLICATION_BYTES, "Size of one message; larger ones are refused."
    )


@attrs.frozen
class DhtConfig:
    """The distributed hash table (Kademlia); k, alpha and replication as in its paper."""

    k: int = _count(20, "nodes", 1, MAX_K, "Size of a routing bucket.")
    alpha: int = _count(3, "requests", 1, 32, "Concurrent requests in one lookup.")
    disjoint_paths: int = _count(
        1,
        "paths",
        1,
        16,
        "How many node-disjoint paths a lookup follows. More paths withstand more liars and cost "
        "more requests.",
    )
    limit_local_networks: bool = _key(
        default=False,
        rule=_FLAG,
        doc="Whether the limits of routing contacts from one network (/24, /48) also hold in "
        "private, loopback and link-local ranges.",
    )
    replication: int = _count(20, "nodes", 1, MAX_K, "How many of the closest nodes keep a record.")
    write_quorum: int = _count(
        0,
        "nodes",
        0,
        MAX_K,
        "How many replicas must have a write on disk before it is acknowledged. "
        "0: a majority of them.",
    )
    read_quorum: int = _count(
        0, "nodes", 0, MAX_K, "How many replicas must answer a quorum read. 0: a majority of them."
    )
    record_ttl: float = _seconds(
        0.0, 0, 3650 * DAY, "How long a record lives that was put without --ttl. 0: for ever."
    )
    republish_interval: float = _seconds(
        3600.0,
        1,
        30 * DAY,
        "A record that no other replica has been seen to hold for this long is looked up and "
        "given to the replicas that lack it.",
    )
    repair_interval: float = _seconds(
        600.0,
        1,
        30 * DAY,
        "Time between two rounds in which records are compared with those of other replicas, "
        "where nothing happened that asks for it sooner.",
    )
    request_timeout: float = _seconds(
        2.0, 0.1, 300, "How long a node may take to answer a request."
    )


@attrs.frozen
class StoreConfig:
    """Bounds on what this node stores for everybody."""

    max_bytes: int = _count(
        2**30,
        "bytes",
        4096,
        2**48,
        "Size of all records together; beyond it, new ones are refused.",
    )
    max_value_bytes: int = _count(
        65536, "bytes", 1, MAX_VALUE_BYTES, "Size of one value; larger ones are refused."
    )


@attrs.frozen
class ControlConfig:
    """The control socket of p2pctl. Anyone who may write to it controls the node."""

    socket: str = _key("", _PATH, "Where the control socket is. Empty: by instance.")
    mode: str = _key(
        "0660",
        text('an octal mode in quotes, as "0660"', re.compile(r"0?[0-7]{3}").fullmatch),
        "Permissions of the control socket, in octal.",
    )
    group: str = _key(
        "",
        text("a group's name, or nothing", lambda text: len(text) <= 64 and " " not in text),
        "Group of the control socket. Empty: the daemon's own.",
    )


@attrs.frozen
class LogConfig:
    """The log, on standard error or in the journal."""

    level: str = _key(
        "info",
        one_of("debug", "info", "warning", "error"),
        "The least severe level that is logged.",
        reload=True,
    )
    format: str = _key(
        "auto",
        one_of("auto", "console", "json", "journal"),
        "How to write the log. auto: to the journal under systemd, else for people.",
    )


@attrs.frozen
class Config:
    """The whole configuration, one attribute for each section. `Config()` is the default."""

    node: NodeConfig = attrs.field(factory=NodeConfig)
    identity: IdentityConfig = attrs.field(factory=IdentityConfig)
    listen: ListenConfig = attrs.field(factory=ListenConfig)
    discovery: DiscoveryConfig = attrs.field(factory=DiscoveryConfig)
    connections: ConnectionsConfig = attrs.field(factory=ConnectionsConfig)
    liveness: LivenessConfig = attrs.field(factory=LivenessConfig)
    gossip: GossipConfig = attrs.field(factory=GossipConfig)
    dht: DhtConfig = attrs.field(factory=DhtConfig)
    store: StoreConfig = attrs.field(factory=StoreConfig)
    control: ControlConfig = attrs.field(factory=ControlConfig)
    log: LogConfig = attrs.field(factory=LogConfig)


def keys(section: type[Any] = Config, prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Return all keys by dotted path, in order of declaration, with what is known of each.

    That is its `doc`, its `unit` (may be empty), its `rule`, and whether SIGHUP can
    `reload` it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for field in attrs.fields(section):
        path = prefix + field.name
        if "rule" in field.metadata:
            found[path] = field.metadata
        else:
            found |= keys(field.type, f"{path}.")
    return found


def value_at(config: Config, path: str) -> Any:
    """Return the value of the key with this dotted path."""
    return reduce(getattr, path.split("."), config)
