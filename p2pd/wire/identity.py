"""A node's identity: an Ed25519 key pair (RFC 8032) that costs some work to mint.

The proof of work is S/Kademlia's static crypto puzzle (Baumgart, Mies 2007, section 4.1),
with the nonce hashed beside the key so that the key pair itself need not be redrawn.
"""

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pd.errors import BadMessage
from p2pd.ids import NodeId
from p2pd.wire import codec
from p2pd.wire.messages import PeerRecord, Publication, Record, Signed

# What kind of fact a signature is for, so that one kind can't be passed off as another.
_LABELS: dict[type, bytes] = {
    PeerRecord: b"p2pd peer record 1\0",
    Record: b"p2pd record 1\0",
    Publication: b"p2pd publication 1\0",
}


class Identity:
    """A key pair and the nonce that proves the work spent on it."""

    def __init__(self, private_key: bytes, nonce: int) -> None:
        """Take a raw Ed25519 private key (32 bytes) and its nonce; raises `ValueError`."""
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.private_key = private_key
        self.nonce = nonce
        self.public_key = self._key.public_key().public_bytes_raw()
        self.node_id = NodeId.of(self.public_key)

    @classmethod
    def mint(cls, seed: bytes, difficulty: int) -> "Identity":
        """Make an identity from 32 random bytes: 2**difficulty hashes on average."""
        public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        nonce = 0
        while work(public_key, nonce) < difficulty:
            nonce += 1
        return cls(seed, nonce)

    def sign(self, data: bytes) -> bytes:
        """Sign `data` for a peer to check now; it must begin with a label for its purpose."""
        return self._key.sign(data)

    def vouch(self, fact: PeerRecord | Record | Publication) -> Signed:
        """Encode and sign a fact, to be passed on."""
        body = codec.encode(fact)
        return Signed(body, self._key.sign(_LABELS[type(fact)] + body))


def work(public_key: bytes, nonce: int) -> int:
    """Count the leading zero bits of SHA-256(public key || nonce as 8 bytes)."""
    digest = hashlib.sha256(public_key + nonce.to_bytes(8, "big")).digest()
    return 256 - int.from_bytes(digest, "big").bit_length()


def is_signed_by(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` was made with the key of the raw Ed25519 `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def open_peer_record(signed: Signed) -> PeerRecord:
    """Return the record after checking its signature; raises `BadMessage`."""
    record = codec.decode(PeerRecord, signed.body)
    _check_signature(signed, PeerRecord, record.public_key)
    return record


def open_record(signed: Signed) -> Record:
    """Return the record after checking its writer's signature; raises `BadMessage`.

    Also raises it for a record that claims to have seen what is not older than itself: it would
    cover what is yet to be written, which would then be acknowledged and lost.
    """
    record = codec.decode(Record, signed.body)
    _check_signature(signed, Record, record.writer)
    if any(seen.clock >= record.clock for seen in record.seen):
        raise BadMessage("Record: what it has seen is not older than itself")
    return record


def open_publication(signed: Signed) -> Publication:
    """Return the publication after checking its origin's signature; raises `BadMessage`."""
    publication = codec.decode(Publication, signed.body)
    _check_signature(signed, Publication, publication.origin)
    return publication


def _check_signature(signed: Signed, kind: type, public_key: bytes) -> None:
    if not is_signed_by(public_key, signed.signature, _LABELS[kind] + signed.body):
        raise BadMessage(f"{kind.__name__}: the signature is not its owner's")
