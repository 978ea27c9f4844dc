"""A session: turns a connection's messages into frames and back, and pairs replies with requests.

Pure. The shell feeds it what arrives and writes what it returns::

    session.feed(data)
    while (event := session.next_event()) is not None: ...
    request_id, data = session.request(Ping())
"""

from collections.abc import Callable
from typing import NamedTuple

from p2pd.errors import BadMessage, Busy
from p2pd.wire import codec
from p2pd.wire.framing import (
    COMPRESSED,
    MAX_HANDSHAKE_PAYLOAD,
    MAX_PAYLOAD,
    REPLY,
    REQUEST,
    Frame,
    FrameReader,
    write_frame,
)
from p2pd.wire.messages import HANDSHAKE_VERSION, Message

MAX_PENDING = 1024


class Received(NamedTuple):
    """A message that is not a reply; `request_id` is None where no answer is wanted."""

    message: Message
    request_id: int | None


class Replied(NamedTuple):
    """The reply to our own request `request_id`."""

    message: Message
    request_id: int


Event = Received | Replied


class Session:
    """Both directions of one connection.

    `timestamp` returns Unix milliseconds. Until `established`, only small frames are taken and none
    is compressed. `peer_ms` is the peer's clock, in Unix milliseconds, when it sent the latest
    frame; None before anything came.
    """

    def __init__(self, timestamp: Callable[[], int]) -> None:
        self._timestamp = timestamp
        self._reader = FrameReader(MAX_HANDSHAKE_PAYLOAD)
        self._version = HANDSHAKE_VERSION
        self._compress = False
        self._last_id = 0
        self._pending: set[int] = set()
        self.late_replies = 0
        self.peer_ms: int | None = None

    def established(self, version: int, *, compress: bool) -> None:
        """Switch to the negotiated version and to frames of full size."""
        self._version = version
        self._compress = compress
        self._reader.max_payload = MAX_PAYLOAD

    def request(self, message: Message) -> tuple[int, bytes]:
        """Take a slot for a request; returns its ID and the bytes to send.

        Raises `Busy` if `MAX_PENDING` requests are under way. The slot is the caller's until the
        reply arrives or `forget` is called.
        """
        if len(self._pending) >= MAX_PENDING:
            raise Busy(f"{MAX_PENDING} requests to this peer are under way")
        self._last_id += 1
        self._pending.add(self._last_id)
        return self._last_id, self._frame(message, REQUEST, self._last_id)

    def forget(self, request_id: int) -> None:
        """Give up the slot of a request; if its reply still comes, it is dropped."""
        self._pending.discard(request_id)

    def reply(self, request_id: int, message: Message) -> bytes:
        """Return the bytes that answer the peer's request."""
        return self._frame(message, REPLY, request_id)

    def notice(self, message: Message) -> bytes:
        """Return the bytes of a message that wants no answer."""
        return self._frame(message, 0, 0)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; call `next_event` until it returns None after that."""
        self._reader.feed(data)

    def next_event(self) -> Event | None:
        """Return what the peer says next, or None until more arrives; raises `BadMessage`."""
        while (frame := self._reader.next(self._is_wanted)) is not None:
            # The client's first question comes in a frame of the handshake's version. Rather than
            # track which frame that is, we always take such frames.
            if frame.version not in {self._version, HANDSHAKE_VERSION}:
                raise BadMessage(f"a frame of version {frame.version}, not {self._version}")
            if frame.flags & COMPRESSED and not self._compress:
                raise BadMessage("a compressed frame, which the two ends did not agree on")
            self.peer_ms = frame.timestamp
            if not self._is_wanted(frame.flags, frame.message_id):
                self.late_replies += 1
                continue
            message = codec.decode_message(frame.tag, frame.payload)
            if not frame.flags & REPLY:
                wants_reply = frame.flags & REQUEST
                return Received(message, frame.message_id if wants_reply else None)
            self._pending.remove(frame.message_id)
            return Replied(message, frame.message_id)
        return None

    def _is_wanted(self, flags: int, message_id: int) -> bool:
        """Whether a frame is not a reply, or one to a request under way; others are dropped."""
        return not flags & REPLY or message_id in self._pending

    def _frame(self, message: Message, flags: int, message_id: int) -> bytes:
        tag, payload = codec.encode_message(message)
        frame = Frame(self._version, tag, flags, 0, message_id, self._timestamp(), payload)
        return write_frame(frame, compress=self._compress)
