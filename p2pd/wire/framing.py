"""Frames: a fixed binary header, then the payload of one message.

::

    0        1        2        3        4            12           20         24
    | version |  tag   | flags  |  ttl   | message id | timestamp  |  length  | payload
       u8        u8       u8       u8        u64          u64 (ms)     u32

All big endian. `message id` pairs a reply with its request.
"""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from p2pd.errors import BadMessage
from p2pd.wire.messages import MAX_SIBLINGS, MAX_SIGNED_BODY, SIGNED_OVERHEAD

_HEADER = struct.Struct(">BBBBQQI")
HEADER_BYTES = _HEADER.size

REQUEST = 0x01
REPLY = 0x02
COMPRESSED = 0x04
_KNOWN_FLAGS = REQUEST | REPLY | COMPRESSED

# A `Value` with all its siblings is the largest message.
MAX_PAYLOAD = MAX_SIBLINGS * (MAX_SIGNED_BODY + SIGNED_OVERHEAD)
# Until a peer is known, it gets no more room than a `Hello` needs.
MAX_HANDSHAKE_PAYLOAD = 8192
# Below this, compressing costs more time than it saves: short payloads are mostly keys, signatures
# and addresses.
COMPRESS_FROM = 8192


class Frame(NamedTuple):
    """One frame; `timestamp` is the sender's wall clock in Unix milliseconds."""

    version: int
    tag: int
    flags: int
    ttl: int
    message_id: int
    timestamp: int
    payload: bytes


def write_frame(frame: Frame, *, compress: bool = False) -> bytes:
    """Lay out a frame as bytes; a long payload is deflated if that makes it shorter."""
    version, tag, flags, ttl, message_id, timestamp, payload = frame
    if compress and len(payload) >= COMPRESS_FROM and _shrinks(payload[:COMPRESS_FROM]):
        deflated = zlib.compress(payload, level=1)
        if len(deflated) < len(payload):
            flags, payload = flags | COMPRESSED, deflated
    return _HEADER.pack(version, tag, flags, ttl, message_id, timestamp, len(payload)) + payload


def _shrinks(payload: bytes) -> bool:
    return len(zlib.compress(payload, level=1)) < len(payload)


def _always(_flags: int, _message_id: int) -> bool:
    return True


class FrameReader:
    """Cuts a stream of bytes into frames: `feed` what arrived, then `next` until None.

    `max_payload` bounds what is buffered for one frame, and the size of an inflated payload; it may
    be raised between two frames, once the peer is known.
    """

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._buffer: bytes | bytearray = b""
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Take what arrived; call `next` until it returns None before feeding more."""
        if self._start == len(self._buffer):
            # Mostly whole frames arrive: they need not be gathered.
            self._buffer, self._start = data, 0
            return
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer)
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    def next(self, is_wanted: Callable[[int, int], bool] = _always) -> Frame | None:
        """Return the next complete frame, or None.

        `is_wanted` is called with flags and message ID; the payload of an unwanted frame is empty,
        and is not inflated, which would take longer than all else. Raises `BadMessage` for a frame
        that announces more than `max_payload` (before waiting for its payload), for unknown flags
        and for a broken deflate stream. The reader is unusable afterwards.
        """
        payload_start = self._start + HEADER_BYTES
        if len(self._buffer) < payload_start:
            return None
        version, tag, flags, ttl, message_id, timestamp, length = _HEADER.unpack_from(
            self._buffer, self._start
        )
        if length > self.max_payload:
            raise BadMessage(f"a frame of {length} bytes, more than {self.max_payload}")
        if flags & ~_KNOWN_FLAGS:
            raise BadMessage(f"unknown frame flags {flags:#04x}")
        end = payload_start + length
        if len(self._buffer) < end:
            return None
        payload = b""
        if is_wanted(flags, message_id):
            payload = bytes(memoryview(self._buffer)[payload_start:end])
            if flags & COMPRESSED:
                payload = self._inflate(payload)
        self._start = end
        return Frame(version, tag, flags, ttl, message_id, timestamp, payload)

    def _inflate(self, payload: bytes) -> bytes:
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(payload, self.max_payload)
        except zlib.error as error:
            raise BadMessage(f"a broken deflate stream: {error}") from None
        if not inflater.eof or inflater.unused_data:
            raise BadMessage("a deflate stream that is too long, cut short or padded")
        return inflated
