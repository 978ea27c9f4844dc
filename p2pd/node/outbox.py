"""What waits to be sent over one connection, and the task that sends it.

What comes while a write is under way leaves together in the next one. There is no task until
something has to wait for the stream.
"""

import math
from collections.abc import Callable

import trio

from p2pd.net.base import Stream, cause_of
from p2pd.node.background import Background
from p2pd.node.ending import Ending
from p2pd.wire.framing import MAX_PAYLOAD

# A peer that lets this much wait reads too slowly for its own requests.
MAX_OUTBOX = 2 * MAX_PAYLOAD
# While more than this waits, our own requests wait, too, and so does the peer's next message, for
# `connection.FULL_PAUSE` at most: the peer may be stuck waiting for us to read.
FULL_OUTBOX = MAX_OUTBOX // 2
# Seconds in which a peer must take `WRITE_BYTES`, on average over one write: a slow link gets its
# time for a large batch, and a peer that takes nothing is found by its silence sooner.
WRITE_TIMEOUT = 10.0
WRITE_BYTES = 1 << 16


class Outbox:
    """Sends over a stream, in order.

    Calls `on_end` where the connection has to end: why, and what that says of the peer; `stop` must
    follow. Until `open` everything waits, as the handshake may still be writing.
    """

    def __init__(
        self, stream: Stream, background: Background, on_end: Callable[[str, Ending], None]
    ) -> None:
        self._stream = stream
        self._background = background
        self._on_end = on_end
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        # No longer waiting, but not with the kernel yet.
        self._writing_bytes = 0
        self._wants_room = trio.lowlevel.ParkingLot()
        self._writer_wakes: trio.Event | None = None
        self._writer_scope = trio.CancelScope()
        self._writer_ended = trio.Event()
        self._may_send_at_once = False
        self._is_open = False
        self._is_stopped = False
        self._last_words: str | None = None

    @property
    def bytes_waiting(self) -> int:
        """How many bytes wait to be sent."""
        return self._waiting_bytes + self._writing_bytes

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that nothing should be added."""
        return self.bytes_waiting > FULL_OUTBOX

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._last_words is not None

    async def wait_for_room(self) -> None:
        """Wait until it is no longer `is_full`, or is stopped."""
        while self.is_full and not self._is_stopped:
            await self._wants_room.park()

    def open(self) -> None:
        """Begin to send, first what waits."""
        self._is_open = self._may_send_at_once = True
        if self._waiting:
            if self._stream.send_nowait(b"".join(self._waiting)):
                self._empty()
            if self._waiting or self.is_closing:
                self._wake_writer()

    def put(self, data: bytes) -> None:
        """Send, now or later; no effect once it is closing or stopped.

        Where more than `MAX_OUTBOX` bytes wait, the connection ends.
        """
        if self.is_closing or self._is_stopped:
            return
        if self._may_send_at_once and not self._waiting and self._stream.send_nowait(data):
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._wake_writer()
        if self._waiting_bytes > MAX_OUTBOX:
            self._on_end("the peer reads too slowly", Ending.UNWANTED)

    def close(self, reason: str, within: float) -> None:
        """Take no more, and end the connection for this reason once everything is sent.

        Or in so many seconds: a peer that reads little could stay for minutes. Called again, it
        can only shorten that time.
        """
        deadline = trio.current_time() + within
        self._writer_scope.deadline = min(self._writer_scope.deadline, deadline)
        if self.is_closing:
            return
        self._last_words = reason
        # Else `open`, or the writer, has something to send first.
        if self._may_send_at_once and not self._waiting:
            self._on_end(reason, Ending.UNWANTED)

    def stop(self) -> None:
        """Send nothing any more, and tell nobody of an end."""
        self._is_stopped = True
        self._writer_scope.cancel()
        self._empty()
        # In a circle with its connection, it would keep alive all that has come there, megabytes
        # perhaps, until the collector looks.
        self._on_end = _tell_nobody

    async def wait_stopped(self) -> None:
        """Wait until the stream is no longer written to, after `stop`."""
        if self._writer_wakes is not None:
            await self._writer_ended.wait()

    def _wake_writer(self) -> None:
        if self._writer_wakes is not None:
            self._writer_wakes.set()
        elif self._is_open:
            self._writer_wakes = trio.Event()
            self._background.start(self._write)

    async def _write(self) -> None:
        try:
            with self._writer_scope:
                await self._write_what_waits()
            if self._last_words is not None and not self._is_stopped:
                self._on_end(self._last_words, Ending.UNWANTED)
        finally:
            self._writer_ended.set()

    async def _write_what_waits(self) -> None:
        try:
            while True:
                while not self._waiting:
                    if self._last_words is not None:
                        self._on_end(self._last_words, Ending.UNWANTED)
                    self._writer_wakes = trio.Event()
                    await self._writer_wakes.wait()
                data = b"".join(self._waiting)
                self._writing_bytes = len(data)
                self._empty()
                self._may_send_at_once = False
                with trio.fail_after(WRITE_TIMEOUT * math.ceil(len(data) / WRITE_BYTES)):
                    await self._stream.send_all(data)
                self._may_send_at_once = True
                self._writing_bytes = 0
                self._wants_room.unpark_all()
        except trio.BrokenResourceError as error:
            self._on_end(f"the connection broke: {cause_of(error)}", Ending.BROKEN)
        except trio.TooSlowError:
            text = f"the peer did not take {self._writing_bytes} bytes in time"
            self._on_end(text, Ending.SILENT)

    def _empty(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
        self._wants_room.unpark_all()


def _tell_nobody(reason: str, ending: Ending) -> None:
    """Take the place of `on_end` where it is known already that the connection ends."""
