"""Recently read versions, kept decoded: a hot key costs no disk access and no decoding."""

from collections.abc import Sequence

from p2pd.core.records import Version
from p2pd.ids import Key

# What a version takes in memory besides its signed body, whose value is held twice.
_OVERHEAD = 1024


class VersionCache:
    """Up to `most` bytes of versions by key; when full, what was used longest ago is evicted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._versions: dict[Key, Sequence[Version]] = {}

    def get(self, key: Key) -> Sequence[Version] | None:
        """Return the versions under a key; None if they are not known here."""
        versions = self._versions.pop(key, None)
        if versions is not None:
            self._versions[key] = versions
        return versions

    def put(self, key: Key, versions: Sequence[Version]) -> None:
        """Keep what is under a key now, at least one version."""
        self.remove(key)
        self._versions[key] = versions
        self._bytes += _size(versions)
        while self._bytes > self._most:
            self.remove(next(iter(self._versions)))

    def remove(self, key: Key) -> None:
        """Forget a key."""
        self._bytes -= _size(self._versions.pop(key, ()))


def _size(versions: Sequence[Version]) -> int:
    return sum(2 * len(each.signed.body) + _OVERHEAD for each in versions)
