"""Where a node can be reached: a numeric host and a TCP port, and the network it is in."""

import ipaddress
from functools import lru_cache
from typing import NamedTuple, Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


# Every message asks about the same hosts, and parsing one costs 5 us.
_remembering = lru_cache(maxsize=16_384)
_parsed = _remembering(ipaddress.ip_address)


class Address(NamedTuple):
    """A numeric IP address (IPv6 link-local ones with `%scope`) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.2.3.4:5` or `[2001:db8::1]:5`; raises `ValueError` for anything else.

        An IPv4-mapped IPv6 address (`[::ffff:1.2.3.4]:5`) comes out as IPv4.
        """
        # `ipaddress` takes any text for a scope, even terminal escapes.
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not port.isdecimal() or len(port) > 5:
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        if not 0 < int(port) < 65536:
            raise ValueError(f"{text!r}: the port is not between 1 and 65535")
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (ip.version == 6):
            raise ValueError(f"{text!r}: brackets go around IPv6 addresses, and only those")
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return cls(str(ip), int(port))

    @property
    def ip(self) -> IPAddress:
        """The host as a value of `ipaddress`."""
        return _parsed(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def unscoped(host: str) -> str:
    """Return a host without its `%scope`: as the node there and other nodes know it."""
    return host.partition("%")[0]


@_remembering
def is_link_local_v6(host: str) -> bool:
    """Whether the host is a link-local address of IPv6, which means nothing without a scope.

    Only the host that it is used on can give it one (RFC 4007, section 6).
    """
    ip = _parsed(host)
    return ip.version == 6 and ip.is_link_local


@_remembering
def network_group(host: str) -> str:
    """Name the network that a single operator is likely to hold: /24 of IPv4, /48 of IPv6.

    The unit of the limits that keep one network from filling a table (as in Bitcoin Core's
    address manager and go-libp2p-kad-dht's diversity filter).
    """
    ip = _parsed(host)
    prefix = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip.packed, prefix), strict=False))


@_remembering
def host_group(host: str) -> str:
    """Name what a single host is likely to hold: an address of IPv4, a /64 of IPv6.

    Any host of an IPv6 link can take as many of its addresses as it wants (RFC 7934, section 8).
    """
    ip = _parsed(host)
    return host if ip.version == 4 else str(ipaddress.ip_network((ip.packed, 64), strict=False))


@_remembering
def is_local(host: str) -> bool:
    """Whether the host is in a loopback, link-local or private range: a LAN, one operator."""
    ip = _parsed(host)
    return ip.is_loopback or ip.is_private or ip.is_link_local
