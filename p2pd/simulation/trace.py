"""What happened in a world: who sent what to whom, as a digest of all and a list of the last."""

import hashlib
from array import array
from collections import Counter, deque

from p2pd.net.medium import Medium
from p2pd.wire.framing import HEADER_BYTES
from p2pd.wire.messages import TAGS

LAST = 20_000
# How many are gathered before they are hashed.
_GATHERED = 512


class Trace:
    """Takes note of everything that is carried.

    `digest` covers all of it; `lines` shows the last `LAST` sendings.
    """

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._gathered: list[tuple[float, str, str, bytes]] = []
        self._last: deque[tuple[float, str, str, bytes]] = deque(maxlen=LAST)

    def record(self, now: float, source: str, destination: str, data: bytes) -> None:
        """Take note of bytes that one host sends another; empty for the end of a stream."""
        self.count += 1
        self._gathered.append((now, source, destination, data))
        if len(self._gathered) >= _GATHERED:
            self._take_gathered()

    def digest(self) -> str:
        """Return the digest of all that was recorded: equal for equal runs."""
        self._take_gathered()
        return self._hash.hexdigest()

    def _take_gathered(self) -> None:
        if not self._gathered:
            return
        moments, here, there, data = zip(*self._gathered, strict=True)
        self._hash.update(array("d", moments).tobytes())
        self._hash.update("\n".join((*here, *there)).encode())
        self._hash.update(array("Q", map(len, data)).tobytes())
        self._hash.update(b"".join(data))
        self._last += self._gathered
        self._gathered.clear()

    def lines(self) -> list[str]:
        """Show the last sendings, one a line: when, from where, to where, the first message."""
        self._take_gathered()
        return [
            f"{now:12.4f} {source:>15} -> {destination:<15} {_kind(data[:2])}"
            for now, source, destination, data in self._last
        ]


class Traffic:
    """Counts what is sent, by kind of message, within its `with`."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._trace = medium.trace
        self._bytes: Counter[str] = Counter()

    def __enter__(self) -> "Traffic":
        self._medium.trace = self._record
        return self

    def __exit__(self, *_: object) -> None:
        self._medium.trace = self._trace

    def most_first(self) -> list[tuple[str, int]]:
        """Return the bytes of each kind, headers included, the largest first."""
        return self._bytes.most_common()

    def _record(self, now: float, source: str, destination: str, data: bytes) -> None:
        self._trace(now, source, destination, data)
        # What is sent at once consists of whole frames.
        while data:
            length = HEADER_BYTES + int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big")
            whole = data[:1] == b"{"
            self._bytes[_kind(data[:2])] += len(data) if whole else min(length, len(data))
            data = b"" if whole else data[length:]


def _kind(data: bytes) -> str:
    if not data:
        return "end of stream"
    # A hostile node may send a single byte.
    kind = TAGS.get(data[-1])
    return "beacon" if data[:1] == b"{" else kind.__name__ if kind else f"tag {data[-1]}"
