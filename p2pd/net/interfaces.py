"""The host's network interfaces (Linux), and notice of when they change."""

import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import ifaddr
import trio

from p2pd.net.base import Interface

_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x8, 0x40, 0x1000
# rtnetlink(7): changes of links and of addresses of both families.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
# A line for each IPv6 address: its 16 bytes, index, prefix length, scope, flags, interface, all
# in hex but the last (net/ipv6/addrconf.c, if6_seq_show).
_IF_INET6 = Path("/proc/self/net/if_inet6")
# linux/if_addr.h: not to be used yet, as another host might have the address.
_IFA_F_TENTATIVE = 0x40
_IFREQ = struct.Struct("16sH14x")


def list_interfaces() -> list[Interface]:
    """List the interfaces that are up and have a carrier, with the addresses in use there."""
    found: list[Interface] = []
    tentative = _tentative_addresses()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for adapter in ifaddr.get_adapters():
            flags = _flags(probe, adapter.name)
            if adapter.index is None or not flags & _IFF_UP or not flags & _IFF_RUNNING:
                continue
            listed = (ip.ip if ip.is_IPv4 else ip.ip[0] for ip in adapter.ips)
            addresses = {str(each).partition("%")[0] for each in listed}
            unusable = {host for index, host in tentative if index == adapter.index}
            found.append(
                Interface(
                    name=adapter.name,
                    index=adapter.index,
                    loopback=bool(flags & _IFF_LOOPBACK),
                    multicast=bool(flags & _IFF_MULTICAST),
                    addresses=tuple(sorted(addresses - unusable)),
                )
            )
    return sorted(found, key=lambda interface: interface.index)


def _tentative_addresses() -> set[tuple[int, str]]:
    """Return the addresses that may not be used yet, each with the index of its interface."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    # A kernel without IPv6.
    except FileNotFoundError:
        return set()
    rows = [line.split() for line in lines]
    return {
        (int(index, 16), str(ipaddress.IPv6Address(bytes.fromhex(host))))
        for host, index, _, _, flags, *_ in rows
        if int(flags, 16) & _IFA_F_TENTATIVE
    }


def _flags(probe: socket.socket, name: str) -> int:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, _IFREQ.pack(name.encode()[:15], 0))
    # The interface went away between being listed and being asked.
    except OSError:
        return 0
    flags: int = _IFREQ.unpack(answer[: _IFREQ.size])[1]
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
