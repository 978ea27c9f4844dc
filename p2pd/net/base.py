"""The seam to the outside: streams, listeners, multicast, and the host's interfaces.

`net.real` (TCP + TLS, UDP) and `net.sim` (in memory, virtual time) stand behind it.
Streams fail with Trio's errors: `trio.ClosedResourceError` if we closed them,
`trio.BrokenResourceError` if the world did; end of stream is `b""`.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from p2pd.address import Address


class Stream(Protocol):
    """A reliable, ordered, encrypted stream of bytes to one other process.

    `certificate` is the SHA-256 of the TLS certificate that the listening side holds, as
    this side knows it.
    """

    @property
    def local(self) -> Address:
        """The address of this end."""

    @property
    def remote(self) -> Address:
        """The other end's address."""

    @property
    def certificate(self) -> bytes:
        """The channel binding."""

    async def receive_some(self) -> bytes:
        """Wait for bytes; `b""` at the end."""

    def send_nowait(self, data: bytes) -> bool:
        """Send at once; False if that would wait, or the data had better leave with more.

        Data refused must come first in the next `send_all`. Not while one is under way.
        """

    async def send_all(self, data: bytes) -> None:
        """Send; if this is cancelled midway, the stream is of no further use."""

    async def aclose(self) -> None:
        """Close at once, without waiting for the other side."""


class Pending(Protocol):
    """An accepted connection before encryption is set up."""

    @property
    def remote(self) -> Address:
        """The other end's address."""

    async def secure(self) -> Stream:
        """Set up encryption; raises `trio.BrokenResourceError` if that fails."""

    async def aclose(self) -> None:
        """Close at once."""


class Listener(Protocol):
    """A bound address."""

    @property
    def address(self) -> Address:
        """The address in effect, with the port that was chosen for port 0."""

    async def accept(self) -> Pending:
        """Wait for the next connection.

        Raises `OSError` while the process is out of file descriptors or memory, and
        `trio.ClosedResourceError` once the listener is closed.
        """

    async def aclose(self) -> None:
        """Stop listening."""


@attrs.frozen
class Interface:
    """A network interface that is up, with its addresses in use (numeric, without scope).

    The best come first: those that last, then temporary ones (RFC 8981), then deprecated ones
    (RFC 4862), to which no new connections should be made where there is another.
    """

    name: str
    index: int
    loopback: bool
    multicast: bool
    addresses: tuple[str, ...]


class MulticastSocket(Protocol):
    """Datagrams to and from one group on one interface."""

    async def send(self, data: bytes) -> None:
        """Send to the group, now; raises `OSError` if the interface can't."""

    async def receive(self) -> tuple[bytes, str]:
        """Wait for a datagram; returns it and its sender's host. Raises `OSError`."""

    def close(self) -> None:
        """Leave the group."""


class Network(Protocol):
    """What a node may do with the outside world."""

    async def dial(self, address: Address) -> Stream:
        """Connect and encrypt; the caller bounds the time.

        Raises `DialFailed`, or `Exhausted`.
        """

    async def listen(self, address: Address) -> Listener:
        """Bind an address; raises `StartError` if it can't be had."""

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Look a host name up; raises `DialFailed`."""

    def interfaces(self) -> list[Interface]:
        """List the interfaces that are up; raises `Exhausted`."""

    def owns(self, host: str) -> bool:
        """Whether an address is one of this host's, whether its interface is up or down."""

    def interface_changes(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Within the `async with`, each call of what it yields returns after a change."""

    def open_multicast(self, interface: Interface, group: str, port: int) -> MulticastSocket:
        """Join a group on one interface; raises `OSError`.

        Datagrams are sent from the first of the interface's addresses of the group's family.
        """


def cause_of(error: BaseException) -> str:
    """Say what broke a stream: the words of the system's error, without its number."""
    cause = error.__cause__ or error
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
