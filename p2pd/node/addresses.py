"""Which interfaces a node uses, and which addresses it announces as its own."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from operator import itemgetter

from p2pd.address import Address, is_link_local_v6
from p2pd.net.base import Interface

# Containers, virtual machines and tunnels: what is told to a LAN about them reaches nobody.
_LEFT_OUT = (
    "br-*", "cali*", "cni*", "docker*", "flannel*", "lxc*", "lxdbr*", "podman*", "ppp*",
    "tailscale*", "tap*", "tun*", "utun*", "veth*", "virbr*", "vnet*", "wg*", "zt*",
)  # fmt: skip
_MAX_ANNOUNCED = 8


def suitable(interfaces: Iterable[Interface], patterns: Sequence[str]) -> list[Interface]:
    """Return the interfaces to use.

    `patterns` are shell patterns of names, `!` before one leaves its matches out. Without
    patterns: all but those of containers, virtual machines and tunnels.
    """
    return [each for each in interfaces if _suits(each, patterns)]


def _suits(interface: Interface, patterns: Sequence[str]) -> bool:
    def matches(wanted: Iterable[str]) -> bool:
        return any(fnmatchcase(interface.name, pattern) for pattern in wanted)

    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    if matches(unwanted):
        return False
    if wanted:
        return matches(wanted)
    return not matches(_LEFT_OUT)


def covering(listening: Iterable[Address], interface: Interface, host: str) -> Address | None:
    """Return the listening address at which `host`, of one of our interfaces, is reached."""
    unspecified = "::" if ":" in host else "0.0.0.0"
    for address in listening:
        if address.host in (host, f"{host}%{interface.index}", unspecified):
            return address
    return None


def announced(interfaces: Iterable[Interface], listening: Sequence[Address]) -> list[Address]:
    """Return the addresses to tell others: every one that is listened on.

    Link-local IPv6 addresses mean nothing without an interface and stay out. Loopback
    addresses are told only where there is nothing else. Where there are too many, each interface
    has its best ones told: one with many addresses does not keep another's from being told.
    """
    inside: list[tuple[int, Address]] = []
    outside: list[tuple[int, Address]] = []
    for interface in interfaces:
        for place, host in enumerate(interface.addresses):
            listener = covering(listening, interface, host)
            if listener is not None and not is_link_local_v6(host):
                found = inside if interface.loopback else outside
                found.append((place, Address(host, listener.port)))
    by_place = sorted(outside or inside, key=itemgetter(0))
    return [address for _, address in by_place[:_MAX_ANNOUNCED]]


def leads_out(host: str, interface: Interface) -> bool:
    """Whether the source of a datagram heard on an interface leads to a host there, if to any.

    Anybody on the link can forge it. Unspecified and IPv4-mapped sources pass the kernel, and a
    dial of one may end at this very host's loopback.
    """
    ip = Address(host, 0).ip
    mapped = ip.version == 6 and ip.ipv4_mapped is not None
    foreign_loopback = ip.is_loopback and host not in interface.addresses
    return not (ip.is_unspecified or mapped or foreign_loopback)


def reachable(addresses: Iterable[Address], told_over: str) -> list[Address]:
    """Leave out what makes no sense from here: loopback addresses heard of from elsewhere.

    `told_over` is the host from which the addresses came.
    """
    over_loopback = Address(told_over, 0).ip.is_loopback
    return [each for each in addresses if over_loopback or not each.ip.is_loopback]
