"""LAN beacons: small JSON datagrams that say "a node of this network listens here".

::

    {"type": "p2p_discovery", "port": 41000, "id": "<64 hex>", "network": "<16 hex>",
     "instance": "<32 hex>", "leaving": false}

A beacon is a hint and proves nothing: the address is the datagram's own source, and the handshake
shows who really listens there. `network` is a digest, so that the name of a private network is not
disclosed. `"query": true` asks all that hear it to answer at once.
"""

import hashlib
import json

import attrs

from p2pd.errors import BadMessage
from p2pd.ids import NodeId

MAX_BEACON = 512
_TYPE = "p2p_discovery"


@attrs.frozen
class Beacon:
    """What a node announces on the LAN; `instance` is drawn anew by every process.

    `query`: it asks who is there, and is not a hint to dial.
    """

    node_id: NodeId
    port: int
    network: str
    instance: str
    leaving: bool = False
    query: bool = False


def network_tag(name: str) -> str:
    """Digest a network name for use in beacons: 16 hex digits."""
    return hashlib.sha256(b"p2pd beacon network\0" + name.encode()).hexdigest()[:16]


def write_beacon(beacon: Beacon) -> bytes:
    """Lay out a beacon as a datagram."""
    fields = {
        "type": _TYPE,
        "port": beacon.port,
        "id": beacon.node_id.hex(),
        "network": beacon.network,
        "instance": beacon.instance,
        "leaving": beacon.leaving,
    }
    if beacon.query:
        fields["query"] = True
    return json.dumps(fields, separators=(",", ":")).encode()


def read_beacon(datagram: bytes) -> Beacon:
    """Read a datagram; raises `BadMessage` for anything that is not a beacon.

    Unknown fields are ignored, so that later versions may say more.
    """
    if len(datagram) > MAX_BEACON:
        raise BadMessage(f"a beacon of {len(datagram)} bytes, more than {MAX_BEACON}")
    try:
        fields = json.loads(datagram)
    # Deep nesting ends in a RecursionError, everything else in a ValueError.
    except (ValueError, RecursionError):
        raise BadMessage("a beacon that is not JSON") from None
    if type(fields) is not dict or fields.get("type") != _TYPE:
        raise BadMessage("not a p2p_discovery beacon")
    port = fields.get("port")
    leaving, query = fields.get("leaving", False), fields.get("query", False)
    if type(port) is not int or not 0 < port < 65536:
        raise BadMessage("a beacon without a usable port")
    if type(leaving) is not bool or type(query) is not bool:
        raise BadMessage("a beacon with a bad 'leaving' or 'query'")
    try:
        return Beacon(
            node_id=NodeId(_hex_field(fields, "id", 64)),
            port=port,
            network=_hex_field(fields, "network", 16).hex(),
            instance=_hex_field(fields, "instance", 32).hex(),
            leaving=leaving,
            query=query,
        )
    except ValueError:
        raise BadMessage("a beacon with a malformed id, network or instance") from None


def _hex_field(fields: dict[str, object], name: str, digits: int) -> bytes:
    text = fields.get(name)
    if type(text) is not str or len(text) != digits:
        raise ValueError(name)
    raw = bytes.fromhex(text)
    # `bytes.fromhex` ignores white space.
    if len(raw) * 2 != digits:
        raise ValueError(name)
    return raw
