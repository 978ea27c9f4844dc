"""TLS over TCP: OpenSSL between two buffers in memory, and a socket that never blocks.

Trio's own `SSLStream` puts a task switch, two locks and a cancel scope around each message.
Here one that comes costs a wait for the socket, and one that goes mostly none.
"""

import socket
import ssl
from contextlib import suppress

import trio

from p2pd.address import Address

# What is taken from the socket in one go: some records of TLS, which hold 16 KiB each.
_READ_BYTES = 1 << 16


class TlsStream:
    """See `Stream`; of no use before `do_handshake`.

    The socket, a non-blocking one, belongs to the stream. Errors of the socket and of TLS are
    told as `trio.BrokenResourceError`.
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
        # So many bytes at the beginning of the next `send_all` are among it.
        self._begun = 0
        self._may_send_at_once = True

    async def do_handshake(self) -> None:
        """Agree on keys."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                # The other side shall hear why.
                with suppress(trio.BrokenResourceError):
                    await self._flush()
                raise trio.BrokenResourceError("no TLS") from error
            else:
                return await self._flush()
            if not await self._receive():
                raise trio.BrokenResourceError("it hung up during the handshake of TLS")

    def certificate_of_peer(self) -> bytes:
        """Return what the listening side showed, in DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    async def receive_some(self) -> bytes:
        """See `Stream`."""
        while True:
            # Without a wait only what the last one brought: all others have their turn, too.
            if self._incoming.pending or self._tls.pending():
                try:
                    return self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError("broken TLS") from error
            if not await self._receive():
                return b""

    def send_nowait(self, data: bytes) -> bool:
        """See `Stream`.

        Only the first after something came goes at once: where many follow each other, they
        had better leave together. Of what was refused a part may be on its way: TLS can't take
        back what it has encrypted.
        """
        if not self._may_send_at_once or self._unsent or self._socket.fileno() < 0:
            return False
        # What went wrong is for `send_all` to tell.
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
        """See `Stream`; without a TLS goodbye, since ours came in a frame."""
        close_socket(self._socket)
        await trio.lowlevel.cancel_shielded_checkpoint()

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
        """Wait for more; False at the end of the stream."""
        self._check_open()
        await trio.lowlevel.wait_readable(self._socket)
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            raise trio.BrokenResourceError("the connection broke") from error
        self._may_send_at_once = True
        self._incoming.write(data)
        return bool(data)

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed already")


def close_socket(sock: socket.socket) -> None:
    """Close a socket, unless that was done; whoever waits for it is told."""
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()
