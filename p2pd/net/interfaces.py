"""The host's network interfaces (Linux), and notice of when they change."""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2pd.net.base import Interface

# netdevice(7).
_SIOCGIFCONF, _SIOCGIFFLAGS = 0x8912, 0x8913
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x8, 0x40, 0x1000
# rtnetlink(7): changes of links and of addresses of both families.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
# A line for each IPv6 address: its 16 bytes, index, prefix length, scope, flags, interface, all
# in hex but the last (net/ipv6/addrconf.c, if6_seq_show).
_IF_INET6 = Path("/proc/self/net/if_inet6")
# linux/if_addr.h: not to be used yet, as another host might have the address.
_IFA_F_TENTATIVE = 0x40
# The last member of the union, a `struct ifmap`, makes the others as long as itself.
_IFREQ_FLAGS = struct.Struct("@16sH22x")
_IFREQ_ADDRESS = struct.Struct("@16sHH4s8x")
_IFREQ_BYTES = struct.calcsize("@16sLLHBBB0L")
_IFCONF = struct.Struct("@iP")


def list_interfaces() -> list[Interface]:
    """List the interfaces that are up and have a carrier, with the addresses in use there.

    Left out are those that have no address. What is not UTF-8 in a name is escaped.
    """
    found: list[Interface] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        addresses = [*_ipv4_addresses(probe), *_ipv6_addresses()]
        for index, name in sorted(socket.if_nameindex()):
            flags = _flags(probe, name)
            here = {host: usable for device, host, usable in addresses if device == name}
            if not here or not flags & _IFF_UP or not flags & _IFF_RUNNING:
                continue
            found.append(
                Interface(
                    name=os.fsencode(name).decode(errors="backslashreplace"),
                    index=index,
                    loopback=bool(flags & _IFF_LOOPBACK),
                    multicast=bool(flags & _IFF_MULTICAST),
                    addresses=tuple(sorted(host for host, usable in here.items() if usable)),
                )
            )
    return found


def _ipv4_addresses(probe: socket.socket) -> Iterator[tuple[str, str, bool]]:
    """Yield each address with its interface, and that it may be used."""
    # Without a buffer it says how much it would write; an empty one would count as none. What
    # comes in between and does not fit is left out, and makes a notice of its own.
    size, _ = _IFCONF.unpack(fcntl.ioctl(probe, _SIOCGIFCONF, _IFCONF.pack(0, 0)))
    buffer = array("B", bytes(size + _IFREQ_BYTES))
    request = _IFCONF.pack(len(buffer), buffer.buffer_info()[0])
    size, _ = _IFCONF.unpack(fcntl.ioctl(probe, _SIOCGIFCONF, request))
    for at in range(0, size, _IFREQ_BYTES):
        label, _, _, host = _IFREQ_ADDRESS.unpack_from(buffer, at)
        # An address may have a label of its own: that of its interface, and `:1` or the like.
        yield os.fsdecode(label.rstrip(b"\0").partition(b":")[0]), socket.inet_ntoa(host), True


def _ipv6_addresses() -> Iterator[tuple[str, str, bool]]:
    """Yield each address with its interface, and whether it may be used yet."""
    try:
        lines = _IF_INET6.read_bytes().splitlines()
    # A kernel without IPv6.
    except FileNotFoundError:
        return
    for line in lines:
        host, _, _, _, flags, name = line.split(maxsplit=5)
        address = ipaddress.IPv6Address(bytes.fromhex(host.decode()))
        yield os.fsdecode(name), str(address), not int(flags, 16) & _IFA_F_TENTATIVE


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
