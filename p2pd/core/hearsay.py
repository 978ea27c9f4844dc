"""Peers that we only heard of: anybody can make them up, so nobody may fill the table.

Each source (a peer that tells of others, the LAN, ...) and each public network may fill only a
share of it. When its share is full, a source loses its first peer that failed a dial, else its
newest, so that one that makes up many peers displaces only its own inventions. When the share of a
network is full, whose addresses cost somebody something, newcomers are turned away, unless a peer
there failed a dial.
"""

from collections.abc import Iterable
from typing import TypeVar

from p2pd.address import Address, is_local, network_group
from p2pd.core.entries import Entry, Source
from p2pd.ids import NodeId

K = TypeVar("K")

MAX_PER_SOURCE = 256
MAX_PER_NETWORK = 64


class Hearsay:
    """Entries that never were connected, the oldest first."""

    def __init__(self) -> None:
        self._entries: dict[NodeId, Entry] = {}
        self._from_origin: dict[tuple[Source, NodeId | None], dict[NodeId, Entry]] = {}
        self._in_network: dict[str | None, dict[NodeId, Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def is_crowded(self, network: str | None) -> bool:
        """Whether a public network (None: a LAN) has filled its share."""
        return network is not None and len(self._in_network.get(network, ())) >= MAX_PER_NETWORK

    def dialled_in_vain(self, network: str | None) -> NodeId | None:
        """Return the first peer of a network that did not answer a dial, or None."""
        there = self._in_network.get(network, {})
        return next((each for each, entry in there.items() if entry.failures_in_row), None)

    def displaced_by(self, entry: Entry, *, full: bool) -> NodeId | None:
        """Return the peer that must go before `entry` is added, or None.

        `full`: there is no room for one more, whatever the shares.
        """
        own = self._from_origin.get(_origin(entry), {})
        if len(own) >= MAX_PER_SOURCE:
            # The source may have told the truth before it began to make up peers.
            failed = (each for each, other in own.items() if other.failures_in_row > 0)
            return next(failed, next(reversed(own)))
        return next(iter(self._entries), None) if full else None

    def add(self, node_id: NodeId, entry: Entry) -> None:
        """Count an entry for its source and its `network`."""
        self._entries[node_id] = entry
        self._from_origin.setdefault(_origin(entry), {})[node_id] = entry
        self._in_network.setdefault(entry.network, {})[node_id] = entry

    def discard(self, node_id: NodeId) -> None:
        """Stop counting a peer: it was proven, or it is dropped."""
        entry = self._entries.pop(node_id, None)
        if entry is not None:
            _take_out(self._from_origin, _origin(entry), node_id)
            _take_out(self._in_network, entry.network, node_id)

    def move(self, node_id: NodeId, entry: Entry, addresses: Iterable[Address]) -> bool:
        """Count an entry for the network of its new addresses; False where that network is full."""
        network = network_of(addresses)
        if node_id not in self._entries or network in (None, entry.network):
            return True
        if self.is_crowded(network):
            return False
        _take_out(self._in_network, entry.network, node_id)
        entry.network = network
        self._in_network.setdefault(network, {})[node_id] = entry
        return True


def network_of(addresses: Iterable[Address]) -> str | None:
    """Name the first public network among some addresses; None where all are of a LAN."""
    networks = map(public_network, addresses)
    return next((each for each in networks if each is not None), None)


def public_network(address: Address) -> str | None:
    """Name the public network of an address; None on a LAN."""
    return None if is_local(address.host) else network_group(address.host)


def _origin(entry: Entry) -> tuple[Source, NodeId | None]:
    return (entry.origin, entry.told_by)


def _take_out(shares: dict[K, dict[NodeId, Entry]], share: K, node_id: NodeId) -> None:
    # An empty share that is left in place would never go.
    del shares[share][node_id]
    if not shares[share]:
        del shares[share]
