"""Signatures made in this process are not worked out again to be checked.

All nodes of a world are one process: whoever checks a signature finds that its maker was
here, and that it is over the very same bytes. Any other signature is checked as always.
"""

from p2pd.wire.identity import Identity
from p2pd.wire.records import RecordCache

# Nearly all are checked once, soon after. At the bound the oldest goes, and is worked out.
MAX_REMEMBERED = 4096
_MAX_OPENED = 1 << 20


class WorldRecords(RecordCache):
    """What all nodes of a world have opened, and the signatures that nobody has checked yet."""

    def __init__(self) -> None:
        super().__init__(_MAX_OPENED)
        self._unchecked: dict[bytes, tuple[bytes, bytes]] = {}

    def signed(self, public_key: bytes, signature: bytes, data: bytes) -> None:
        """Take note of a signature that was made."""
        self._unchecked[signature] = public_key, data
        if len(self._unchecked) > MAX_REMEMBERED:
            del self._unchecked[next(iter(self._unchecked))]

    def is_signed_by(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """See `RecordCache`."""
        made = self._unchecked.pop(signature, None)
        return made == (public_key, data) or super().is_signed_by(public_key, signature, data)


class WorldIdentity(Identity):
    """An identity whose signatures its world remembers."""

    def __init__(self, private_key: bytes, records: WorldRecords) -> None:
        super().__init__(private_key, nonce=0)
        self._records = records

    def sign(self, data: bytes) -> bytes:
        """See `Identity`."""
        signature = super().sign(data)
        self._records.signed(self.public_key, signature, data)
        return signature
