"""Identifiers: 256-bit node IDs and keys, and the XOR metric between them.

Kademlia (Maymounkov, Mazieres 2002), section 2.1. Node IDs and keys live in one space,
so that a record belongs to the nodes whose IDs are closest to its key.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Self, TypeVar

ID_BYTES = 32
ID_BITS = ID_BYTES * 8

AnyId = TypeVar("AnyId", bound=bytes)


class Id(bytes):
    """A point in the 256-bit space: 32 bytes, big endian."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        """Take 32 raw bytes; raises `ValueError` for any other length."""
        if len(raw) != ID_BYTES:
            raise ValueError(f"an ID has {ID_BYTES} bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 hex digits; raises `ValueError` for anything else."""
        # `bytes.fromhex` skips white space.
        if len(text) != 2 * ID_BYTES:
            raise ValueError(f"an ID has {2 * ID_BYTES} hex digits, not {len(text)}")
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first digits, as shown to people."""
        return self.hex()[:12]

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short}..)"


class NodeId(Id):
    """The name of a node: SHA-256 of its public key."""

    __slots__ = ()

    @classmethod
    def of(cls, public_key: bytes) -> Self:
        """Derive the node ID of a raw Ed25519 public key (32 bytes)."""
        return cls(hashlib.sha256(public_key).digest())


class Key(Id):
    """Where a record lives."""

    __slots__ = ()

    @classmethod
    def of(cls, name: str, owner: NodeId | None = None) -> Self:
        """Derive the key of `name`: the one that anybody may write, or an owner's."""
        return cls.of_digest(hashlib.sha256(name.encode()).digest(), owner)

    @classmethod
    def of_digest(cls, name_digest: bytes, owner: NodeId | None = None) -> Self:
        """Derive the key from the SHA-256 of its name: so no record can be put elsewhere."""
        return cls(hashlib.sha256((owner or b"") + name_digest).digest())


def distance(a: bytes, b: bytes) -> int:
    """XOR distance of two IDs, as an integer from 0 to 2**256 - 1."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def distance_to(target: bytes) -> Callable[[bytes], int]:
    """Return a function that gives an ID's `distance` to one `target`, for many IDs."""
    point = int.from_bytes(target, "big")
    return lambda each: int.from_bytes(each, "big") ^ point


def closest_first(ids: Iterable[AnyId], target: bytes) -> list[AnyId]:
    """Return these IDs in the order of their distance to `target`."""
    return sorted(ids, key=distance_to(target))


def distance_bits(a: bytes, b: bytes) -> int:
    """Length in bits of the distance: 0 for the same ID, 256 where the first bit differs.

    `distance_bits(...) - 1` is the index of the k-bucket (section 2.2) of one ID as seen
    from the other.
    """
    return distance(a, b).bit_length()
