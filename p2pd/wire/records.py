"""Signed facts that were opened before: a bounded cache in front of the signature check."""

from collections.abc import Iterator

import attrs

from p2pd.address import Address, is_link_local_v6
from p2pd.ids import NodeId
from p2pd.wire.identity import is_signed_by, open_peer_record, open_publication, work
from p2pd.wire.messages import PeerRecord, Publication, Signed

MAX_OPENED = 4096
# A duplicate mostly comes soon after the first.
MAX_PUBLICATIONS = 256


@attrs.frozen
class OpenedRecord:
    """A peer record whose signature is good; `work` is its proof of work in bits.

    `addresses` are those of its addresses that can be dialled at all.
    """

    signed: Signed
    record: PeerRecord
    node_id: NodeId
    work: int
    addresses: tuple[Address, ...]


class RecordCache:
    """Opens peer records and publications; recent ones without checking the signature again.

    When full, the oldest is evicted, and checked again if it comes again. While it is kept, the
    same record always comes back as the same object, so that many tables can share it.
    """

    def __init__(self, most: int = MAX_OPENED, most_publications: int = MAX_PUBLICATIONS) -> None:
        self._most = most
        self._most_publications = most_publications
        self._opened: dict[bytes, OpenedRecord] = {}
        self._publications: dict[Signed, tuple[Publication, NodeId]] = {}

    def open(self, signed: Signed) -> OpenedRecord:
        """Return the record in `signed`; raises `BadMessage` if it is not signed by its owner."""
        opened = self._opened.get(signed.signature)
        if opened is not None and opened.signed.body == signed.body:
            return opened
        record = open_peer_record(signed)
        bits = work(record.public_key, record.nonce)
        node_id, addresses = NodeId.of(record.public_key), tuple(_dialable(record))
        opened = OpenedRecord(signed, record, node_id, bits, addresses)
        self._opened[signed.signature] = opened
        if len(self._opened) > self._most:
            del self._opened[next(iter(self._opened))]
        return opened

    def is_signed_by(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether `signature` over `data` was made with the key of `public_key`; not cached."""
        return is_signed_by(public_key, signature, data)

    def open_publication(self, signed: Signed) -> tuple[Publication, NodeId]:
        """Return the publication in `signed` and its origin; raises `BadMessage`."""
        known = self._publications.get(signed)
        if known is None:
            publication = open_publication(signed)
            known = publication, NodeId.of(publication.origin)
            self._publications[signed] = known
            if len(self._publications) > self._most_publications:
                del self._publications[next(iter(self._publications))]
        return known


def _dialable(record: PeerRecord) -> Iterator[Address]:
    for text in record.addresses:
        try:
            address = Address.parse(text)
        except ValueError:
            continue
        ip, host = address.ip, address.host
        if not (ip.is_unspecified or ip.is_multicast or is_link_local_v6(host) or "%" in host):
            yield address
