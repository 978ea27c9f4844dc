"""What p2pd is measured against: TLS over Trio with nothing else, in the same two processes.

The certificate is of the very kind that p2pd uses; a message is 4 bytes of length, then
the payload.
"""

import socket
import struct

import trio

from p2pd.net.certificate import TlsContexts

_LENGTH = struct.Struct(">I")
_HOST = "127.0.0.1"

TlsStream = trio.SSLStream[trio.SocketStream]


async def serve_echo(
    tls: TlsContexts, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Send every message back, until cancelled; `started` tells the port."""
    (listener,) = await trio.open_tcp_listeners(0, host=_HOST)
    secured = trio.SSLListener(listener, tls.server, https_compatible=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, _echo, [secured])
        task_status.started(listener.socket.getsockname()[1])


async def _echo(stream: TlsStream) -> None:
    reader = MessageReader(stream)
    try:
        await stream.do_handshake()
        while (message := await reader.receive()) is not None:
            await send(stream, message)
    except trio.BrokenResourceError:
        return
    finally:
        await trio.aclose_forcefully(stream)


async def connect(tls: TlsContexts, port: int) -> TlsStream:
    """Connect and shake hands: all that TLS 1.3 asks for, and no more."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await sock.connect((_HOST, port))
    stream = trio.SSLStream(trio.SocketStream(sock), tls.client, https_compatible=True)
    await stream.do_handshake()
    return stream


async def send(stream: TlsStream, message: bytes) -> None:
    """Send one message."""
    await stream.send_all(_LENGTH.pack(len(message)) + message)


class MessageReader:
    """Cuts a stream into messages."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def receive(self) -> bytes | None:
        """Return the next message, or None at the end of the stream."""
        while True:
            if len(self._buffer) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
                if len(self._buffer) >= end:
                    message = bytes(self._buffer[_LENGTH.size : end])
                    del self._buffer[:end]
                    return message
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
