"""TLS over TCP: OpenSSL between two buffers in memory, and a socket that never blocks.

Trio's own `SSLStream` puts a task switch, two locks and a cancel scope around each message.
Here a message received costs one wait for the socket, and one sent mostly none.
"""

import socket
import ssl
from contextlib import suppress

import trio

from p2pd.address import Address

# What is taken from the socket in one go: a few TLS records, which hold up to 16 KiB each.
_READ_BYTES = 1 << 16
# How much of that OpenSSL gets at once, the last record whole: a key update takes it as long as
# a hundred small messages, and blocks the loop.
_RECORDS_AT_ONCE = 32
_BYTES_AT_ONCE = 1 << 14
# Records without data that a peer may send in all: key updates, session tickets. A node sends
# none, and each key update that asks for one in return leaves an answer waiting to be sent.
_MOST_WITHOUT_DATA = 64
_HEADER_BYTES = 5


class TlsStream:
    """See `Stream`; of no use before `do_handshake`.

    The socket, a non-blocking one, belongs to the stream. Errors of the socket and of TLS are
    raised as `trio.BrokenResourceError`.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        local: Address,
        remote: Address,
        *,
        server_side: bool,
    ) -> None:
        self.local = local
        self.remote = remote
        self.certificate = b""
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        # Encrypted, but not taken by the socket yet.
        self._unsent = memoryview(b"")
        # How many bytes at the beginning of the next `send_all` are among them.
        self._begun = 0
        self._may_send_at_once = True
        # From the socket, but not given to TLS yet; and how much is still to come of the
        # record whose beginning TLS was given.
        self._came = b""
        self._to_come = 0
        self._without_data = 0
        self._end: ssl.SSLError | None = None

    async def do_handshake(self) -> None:
        """Agree on keys."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                # Let the other side hear why.
                with suppress(trio.BrokenResourceError):
                    await self._flush()
                raise trio.BrokenResourceError("no TLS") from error
            else:
                self._without_data = 0
                return await self._flush()
            if not await self._receive():
                raise trio.BrokenResourceError("it hung up during the handshake of TLS")

    def certificate_of_peer(self) -> bytes:
        """Return the certificate that the listening side showed, in DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    async def receive_some(self) -> bytes:
        """See `Stream`.

        Between two calls other tasks have their turn, however many records the data was cut into.
        """
        while True:
            if data := self._decrypt():
                return data
            if isinstance(self._end, ssl.SSLZeroReturnError):
                return b""
            if self._end is not None:
                raise trio.BrokenResourceError("broken TLS") from self._end
            if not await self._receive():
                return b""

    def send_nowait(self, data: bytes) -> bool:
        """See `Stream`.

        Only the first after something came goes at once: several in a row had better leave
        together. Part of the data refused may be on its way: TLS can't take back what it has
        encrypted.
        """
        if not self._may_send_at_once or self._unsent or self._socket.fileno() < 0:
            return False
        # `send_all` will raise what went wrong.
        try:
            self._encrypt(data)
        except ssl.SSLError:
            return False
        with suppress(OSError):
            self._send()
        if self._unsent:
            self._begun = len(data)
        return not self._unsent

    async def send_all(self, data: bytes) -> None:
        """See `Stream`."""
        begun, self._begun = self._begun, 0
        try:
            self._encrypt(memoryview(data)[begun:])
        except ssl.SSLError as error:
            raise trio.BrokenResourceError("broken TLS") from error
        await self._flush()

    async def aclose(self) -> None:
        """See `Stream`; without TLS's goodbye, since our own went in a frame."""
        close_socket(self._socket)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _decrypt(self) -> bytes:
        """Return all data of what TLS was given; notes what ends the stream."""
        pieces = []
        while self._end is None and (self._incoming.pending or self._tls.pending()):
            try:
                # One call returns what one record holds, and nothing after the peer's goodbye.
                piece = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._end = error
            else:
                self._end = None if piece else ssl.SSLZeroReturnError("it ended")
                self._without_data -= 1
                pieces.append(piece)
        if self._end is None and self._without_data > _MOST_WITHOUT_DATA:
            self._end = ssl.SSLError("too many records without data")
        return b"".join(pieces)

    def _encrypt(self, data: bytes | memoryview) -> None:
        self._may_send_at_once = False
        if data:
            self._tls.write(data)

    def _send(self) -> None:
        """Send what the socket takes; raises `OSError`."""
        if self._outgoing.pending:
            self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
        while self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return

    async def _flush(self) -> None:
        while True:
            self._check_open()
            try:
                self._send()
            except OSError as error:
                raise trio.BrokenResourceError("the connection broke") from error
            if not self._unsent:
                return
            await trio.lowlevel.wait_writable(self._socket)

    async def _receive(self) -> bool:
        """Wait for more, and give it to TLS; False at the end of the stream."""
        self._check_open()
        if len(self._came) >= _HEADER_BYTES:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                raise trio.BrokenResourceError("the connection broke") from error
            if not data:
                return False
            self._may_send_at_once = True
            self._came += data
        self._feed()
        return True

    def _feed(self) -> None:
        """Give TLS the next records, as far as they are there; no header in part."""
        came, end = self._came, self._to_come
        for _ in range(_RECORDS_AT_ONCE):
            if end >= _BYTES_AT_ONCE or len(came) < end + _HEADER_BYTES:
                break
            end += _HEADER_BYTES + int.from_bytes(came[end + 3 : end + _HEADER_BYTES], "big")
            self._without_data += 1
        self._incoming.write(came[:end])
        self._came = came[end:]
        self._to_come = max(0, end - len(came))

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed already")


def close_socket(sock: socket.socket) -> None:
    """Close a socket, unless it is closed; tasks that wait for it are told."""
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()
