"""Handshakes in a world are proven by keyed hashes: signing took a twentieth of a large join.

All nodes of a world are one process, which knows their keys: the checking side works out again
what only the holder of a key can make. What is signed to be passed on (peer records, records,
publications) is signed as always, and so is what comes from any other identity.
"""

import hashlib
import hmac

from p2pd.wire.identity import Identity
from p2pd.wire.records import RecordCache

_MAX_OPENED = 1 << 20
# As many or more are on their way in a world when a third of a thousand nodes die at once.
_MAX_PUBLICATIONS = 1 << 14
_SIGNATURE_BYTES = 64


class WorldRecords(RecordCache):
    """What all nodes of a world have opened, and the keys of its identities."""

    def __init__(self) -> None:
        super().__init__(_MAX_OPENED, _MAX_PUBLICATIONS)
        self._keys: dict[bytes, bytes] = {}

    def add(self, identity: Identity) -> None:
        """Check the proofs of an identity as it makes them, by `prove`."""
        self._keys[identity.public_key] = identity.private_key

    def is_signed_by(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """See `RecordCache`."""
        key = self._keys.get(public_key)
        if key is None:
            return super().is_signed_by(public_key, signature, data)
        return hmac.compare_digest(signature, prove(key, data))


class WorldIdentity(Identity):
    """An identity whose proofs are checked by the `WorldRecords` of its world."""

    def __init__(self, private_key: bytes, records: WorldRecords) -> None:
        super().__init__(private_key, nonce=0)
        records.add(self)

    def sign(self, data: bytes) -> bytes:
        """See `Identity`."""
        return prove(self.private_key, data)


def prove(private_key: bytes, data: bytes) -> bytes:
    """Return 64 bytes that only the holder of a key (32 bytes) can make of `data`."""
    return hashlib.blake2b(data, key=private_key, digest_size=_SIGNATURE_BYTES).digest()
