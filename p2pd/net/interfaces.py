"""The host's network interfaces (Linux), and notice of when they change."""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import trio

from p2pd.net.base import Interface

# netdevice(7).
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x8, 0x40, 0x1000
_IFREQ_FLAGS = struct.Struct("@16sH22x")
# netlink(7), rtnetlink(7): changes of links and of addresses of both families, and all addresses.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLMSGHDR, _IFADDRMSG = struct.Struct("@IHHII"), struct.Struct("@BBBBI")
_RTATTR, _NLMSGERR = struct.Struct("@HH"), struct.Struct("@i")
# linux/if_addr.h. With a peer at the other end of the link, `IFA_ADDRESS` is the peer's.
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# Of IPv6: one of many that follow each other, for the sake of privacy (of IPv4: a second one).
_IFA_F_TEMPORARY = 0x1
# On the way out: still to be used by the connections that there are.
_IFA_F_DEPRECATED = 0x20
# Not to be used yet, as another host might have the address.
_IFA_F_TENTATIVE = 0x40
# More than the kernel puts into one datagram of a list, however long that is.
_MAX_DATAGRAM = 1 << 16


def list_interfaces() -> list[Interface]:
    """List the interfaces that are up and have a carrier, with the addresses in use there.

    Left out are those that have no address. What is not UTF-8 in a name is escaped.
    """
    found: list[Interface] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        addresses = list(_addresses())
        for index, name in sorted(socket.if_nameindex()):
            flags = _flags(probe, name)
            here = {host: has for at, host, has in addresses if at == index}
            if not here or not flags & _IFF_UP or not flags & _IFF_RUNNING:
                continue
            found.append(
                Interface(
                    name=os.fsencode(name).decode(errors="backslashreplace"),
                    index=index,
                    loopback=bool(flags & _IFF_LOOPBACK),
                    multicast=bool(flags & _IFF_MULTICAST),
                    addresses=_usable(here),
                )
            )
    return found


def _usable(addresses: dict[str, int]) -> tuple[str, ...]:
    """Return the addresses that may be used, by their flags, the best first."""

    def preference(host: str) -> tuple[bool, bool, str]:
        has = addresses[host]
        temporary = ":" in host and bool(has & _IFA_F_TEMPORARY)
        return bool(has & _IFA_F_DEPRECATED), temporary, host

    usable = (host for host, has in addresses.items() if not has & _IFA_F_TENTATIVE)
    return tuple(sorted(usable, key=preference))


def _addresses() -> Iterator[tuple[int, str, int]]:
    """Yield each address with the index of its interface, and its flags."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        size = _NLMSGHDR.size + _IFADDRMSG.size
        header = _NLMSGHDR.pack(size, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
        sock.send(header + _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        while True:
            for kind, body in _parts(sock.recv(_MAX_DATAGRAM), _NLMSGHDR):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -_NLMSGERR.unpack_from(body)[0]
                    raise OSError(code, os.strerror(code))
                family, _, flags, _, index = _IFADDRMSG.unpack_from(body)
                if kind == _RTM_NEWADDR and family in {socket.AF_INET, socket.AF_INET6}:
                    found = dict(_parts(body[_IFADDRMSG.size :], _RTATTR))
                    host = ipaddress.ip_address(found.get(_IFA_LOCAL) or found[_IFA_ADDRESS])
                    yield index, str(host), flags


def _parts(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Split what netlink says: parts that begin with their size and their kind, aligned to 4."""
    at = 0
    while at < len(data):
        size, kind, *_ = header.unpack_from(data, at)
        yield kind, data[at + header.size : at + size]
        at += (size + 3) & ~3


def _flags(probe: socket.socket, name: str) -> int:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(os.fsencode(name), 0))
    # The interface went away between being listed and being asked.
    except OSError:
        return 0
    flags: int = _IFREQ_FLAGS.unpack(answer)[1]
    return flags


@asynccontextmanager
async def interface_changes() -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Open a netlink socket; each call of what this yields returns after some change.

    Several changes at once count as one. It does not say what changed: list the interfaces anew.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(0)
        sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

        async def changed() -> None:
            await trio.lowlevel.wait_readable(sock)
            while _has_notice(sock):
                pass

        yield changed


def _has_notice(sock: socket.socket) -> bool:
    """Take one notice off a netlink socket; False if there is none."""
    try:
        sock.recv(65536)
    except BlockingIOError:
        return False
    except OSError as error:
        # Notices were lost, but something did change.
        if error.errno != errno.ENOBUFS:
            raise
    return True
