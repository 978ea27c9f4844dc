"""Multicast on Linux: one socket for one group on one interface."""

import socket
import struct

import trio

from p2pd.net.base import Interface

# linux/in.h and linux/in6.h; the socket module does not name them. With the option off, a
# socket hears only what it joined itself, not what any other socket of the host joined.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_MAX_DATAGRAM = 2048


class LinuxMulticastSocket:
    """A UDP socket that sends to and hears from one group on one interface.

    `SO_REUSEADDR` lets several nodes of a host, also of different users, share the port:
    Linux delivers a multicast datagram to all of them. Datagrams stay on the link (TTL 1)
    and loop back to the host.
    """

    def __init__(self, interface: Interface, group: str, port: int) -> None:
        self._destination: tuple[str, int] | tuple[str, int, int, int]
        self._source: list[tuple[int, int, bytes]] = []
        v6 = ":" in group
        raw = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if v6:
                self._destination = (group, port, 0, interface.index)
                _join_v6(raw, group, interface.index)
                self._source = _source_v6(interface)
            else:
                self._destination = (group, port)
                _join_v4(raw, group, interface)
            raw.bind(self._destination)
        except BaseException:
            raw.close()
            raise
        self._raw = raw
        self._socket = trio.socket.from_stdlib_socket(raw)

    async def send(self, data: bytes) -> None:
        """See `MulticastSocket`."""
        # Where the interface takes no more, that is an OSError like any other. A task that waited
        # for room would hold up the end of the node, and only one may wait for a socket.
        try:
            self._raw.sendmsg([data], self._source, 0, self._destination)
        except BlockingIOError as error:
            raise OSError(error.errno, "the interface takes no more for now") from None
        await trio.lowlevel.checkpoint()

    async def receive(self) -> tuple[bytes, str]:
        """See `MulticastSocket`; an IPv6 link-local sender comes with its `%scope`."""
        data, sender = await self._socket.recvfrom(_MAX_DATAGRAM)
        host = str(sender[0])
        if len(sender) > 3 and sender[3] and "%" not in host:
            host = f"{host}%{sender[3]}"
        return data, host

    def close(self) -> None:
        """See `MulticastSocket`."""
        self._socket.close()


def _join_v4(raw: socket.socket, group: str, interface: Interface) -> None:
    # Without an address of its own to send from, and without a route, Linux sends from
    # 0.0.0.0, which nobody could answer.
    own = next((each for each in interface.addresses if ":" not in each), "0.0.0.0")
    request = struct.pack("4s4si", socket.inet_aton(group), socket.inet_aton(own), interface.index)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    raw.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)


def _join_v6(raw: socket.socket, group: str, index: int) -> None:
    request = struct.pack("16si", socket.inet_pton(socket.AF_INET6, group), index)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)


def _source_v6(interface: Interface) -> list[tuple[int, int, bytes]]:
    """Say with a datagram where it comes from; there is no option of the socket for that."""
    own = next((each for each in interface.addresses if ":" in each), "::")
    source = struct.pack("16si", socket.inet_pton(socket.AF_INET6, own), interface.index)
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
