"""The real network: TCP by Trio, TLS 1.3 by OpenSSL; interfaces and multicast by Linux."""

import errno
import hashlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from p2pd.address import Address, is_link_local_v6
from p2pd.errors import DialFailed, Exhausted, StartError
from p2pd.net.base import Interface, cause_of
from p2pd.net.certificate import TlsContexts, make_tls_contexts
from p2pd.net.interfaces import interface_changes, list_interfaces
from p2pd.net.multicast import LinuxMulticastSocket
from p2pd.net.names import unresolved
from p2pd.net.tls import TlsStream, close_socket

_BACKLOG = 256
# Descriptors or memory are used up: waiting may help.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# No interface has the address, or the interface of its scope is gone.
_NOT_OURS = {errno.EADDRNOTAVAIL, errno.ENODEV}


class TcpPending:
    """An accepted TCP connection."""

    def __init__(self, sock: socket.socket, remote: Address, tls: TlsContexts) -> None:
        self._socket = sock
        self._tls = tls
        self.remote = remote

    async def secure(self) -> TlsStream:
        """See `Pending`."""
        # A TLS session takes some 50 KiB: a peer that only opens connections must not cost us that.
        await trio.lowlevel.wait_readable(self._socket)
        local = _address(self._socket.getsockname())
        stream = TlsStream(self._socket, self._tls.server, local, self.remote, server_side=True)
        await stream.do_handshake()
        stream.certificate = self._tls.certificate
        return stream

    async def aclose(self) -> None:
        """See `Pending`."""
        close_socket(self._socket)
        await trio.lowlevel.checkpoint()


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, sock: trio.socket.SocketType, tls: TlsContexts) -> None:
        self._socket = sock
        self._tls = tls
        self.address = _address(sock.getsockname())

    async def accept(self) -> TcpPending:
        """See `Listener`."""
        while True:
            try:
                accepted, name = await self._socket.accept()
                return TcpPending(_detached(accepted), _address(name), self._tls)
            except OSError as error:
                # Anything else, such as a reset before we got to it, is the other side's doing.
                if error.errno in _EXHAUSTED:
                    raise
                if error.errno == errno.EBADF:
                    raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        """See `Listener`."""
        self._socket.close()
        await trio.lowlevel.checkpoint()


class RealNetwork:
    """The network of the host that the process runs on."""

    def __init__(self, tls: TlsContexts | None = None) -> None:
        """Take `tls` if it was made before, else make it now."""
        self._tls = tls or make_tls_contexts()

    async def dial(self, address: Address) -> TlsStream:
        """See `Network`."""
        family = _family(address.host)
        try:
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            kind = Exhausted if error.errno in _EXHAUSTED else DialFailed
            raise kind(f"can't dial {address}: {_strerror(error)}") from None
        stream: TlsStream | None = None
        try:
            await sock.connect(_sockaddr(address))
            local = _address(sock.getsockname())
            stream = TlsStream(_detached(sock), self._tls.client, local, address, server_side=False)
            await stream.do_handshake()
        except BaseException as error:
            sock.close()
            if stream is not None:
                await stream.aclose()
            if isinstance(error, OSError):
                refused = isinstance(error, ConnectionRefusedError)
                raise DialFailed(_dial_problem(address, error), refused=refused) from None
            if isinstance(error, trio.BrokenResourceError):
                raise DialFailed(_no_tls(address, error)) from None
            raise
        stream.certificate = hashlib.sha256(stream.certificate_of_peer()).digest()
        return stream

    async def listen(self, address: Address) -> TcpListener:
        """See `Network`."""
        family = _family(address.host)
        try:
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise StartError(_listen_problem(address, error)) from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await sock.bind(_sockaddr(address))
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise StartError(_listen_problem(address, error)) from None
        return TcpListener(sock, self._tls)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """See `Network`."""
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise unresolved(host, error) from None
        return list(dict.fromkeys(_address(sockaddr) for *_, sockaddr in found))

    def interfaces(self) -> list[Interface]:
        """See `Network`."""
        try:
            return list_interfaces()
        except OSError as error:
            raise Exhausted(f"can't list the interfaces: {_strerror(error)}") from None

    def owns(self, host: str) -> bool:
        """See `Network`."""
        try:
            with socket.socket(_family(host), socket.SOCK_DGRAM) as probe:
                probe.bind(_sockaddr(Address(host, 0)))
        except OSError as error:
            return error.errno not in _NOT_OURS
        return True

    def interface_changes(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """See `Network`."""
        return interface_changes()

    def open_multicast(self, interface: Interface, group: str, port: int) -> LinuxMulticastSocket:
        """See `Network`."""
        return LinuxMulticastSocket(interface, group, port)


def _detached(sock: trio.socket.SocketType) -> socket.socket:
    """Take the standard library's socket out of Trio's, which is of no use afterwards."""
    detached = socket.socket(fileno=sock.detach())
    detached.setblocking(False)  # noqa: FBT003 - there is no other way to say it
    # What is to be sent has been gathered already.
    detached.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return detached


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _address(sockaddr: tuple[Any, ...]) -> Address:
    host = str(sockaddr[0])
    mapped = ipaddress.IPv6Address(host).ipv4_mapped if host.startswith("::ffff:") else None
    if mapped is not None:
        # The same host as over IPv4, for the limits too.
        return Address(str(mapped), int(sockaddr[1]))
    scope = int(sockaddr[3]) if len(sockaddr) > 3 else 0
    if scope and "%" not in host:
        host = f"{host}%{scope}"
    return Address(host, int(sockaddr[1]))


def _sockaddr(address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    host, _, scope = address.host.partition("%")
    if ":" not in host:
        return (host, address.port)
    index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope) if scope else 0
    return (host, address.port, 0, index)


def _no_tls(address: Address, error: BaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return (
            f"{address} answers, but does not speak TLS 1.3: most likely another program than "
            f"p2pd has this port ({cause.reason})"
        )
    return f"{address} does not speak TLS 1.3, or hung up: {cause_of(error)}"


def _dial_problem(address: Address, error: OSError) -> str:
    text = f"can't dial {address}: {_strerror(error)}"
    # Where IPv6 is turned off, there is no address to dial from.
    if error.errno == errno.ENETUNREACH or (
        error.errno == errno.EADDRNOTAVAIL and ":" in address.host
    ):
        text += ": this host has no route there (`ip route`, `ip address`)"
    return text + _missing_scope(address)


def _missing_scope(address: Address) -> str:
    if not is_link_local_v6(address.host) or "%" in address.host:
        return ""
    return f": name the interface, as in [{address.host}%eth0]:{address.port}"


def _strerror(error: OSError) -> str:
    # Trio's own text repeats the address.
    return os.strerror(error.errno) if error.errno else str(error)


def _listen_problem(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"can't listen on {address}: another program has this port; "
            "choose another with --port N or --listen ADDR:PORT (--port 0: any free one)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"can't listen on {address}: no interface of this host has that address; "
            "choose another with --listen ADDR:PORT"
        )
    if error.errno == errno.EACCES:
        return (
            f"can't listen on {address}: ports below 1024 need privileges; "
            "choose another with --port N"
        )
    scope = _missing_scope(address)
    return (
        f"can't listen on {address}: {_strerror(error)}{scope}; "
        "choose another with --listen ADDR:PORT"
    )
