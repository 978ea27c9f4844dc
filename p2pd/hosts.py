"""Addresses as people write them: HOST:PORT, and multicast groups."""

import ipaddress
import re

from p2pd.rules import Rule, show, text

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]\s]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?![0-9]+\.?$){_LABEL}\.?")


def parse_address(text: str, *, listening: bool = False) -> tuple[str, int]:
    """Split `HOST:PORT`, with IPv6 in brackets, into host and port.

    An address to dial may be a host name and has a port from 1; an address to listen on is
    an IP address, and port 0 stands for any free port. IP addresses come back in canonical
    form. Raises `ValueError`, which says what form is expected.
    """
    form = "ADDR:PORT" if listening else "HOST:PORT"
    match = _ADDRESS.fullmatch(text)
    if match is None or not text.isprintable():
        raise ValueError(f"expected {form} with IPv6 in brackets, as [::1]:41000, not {show(text)}")
    port = int(match["port"])
    lowest = 0 if listening else 1
    if not lowest <= port <= 65535:
        raise ValueError(f"expected a port from {lowest} to 65535 in {show(text)}")
    try:
        if match["v6"] is not None:
            return str(ipaddress.IPv6Address(match["v6"])), port
        return str(ipaddress.IPv4Address(match["host"])), port
    except ipaddress.AddressValueError:
        if match["host"] is not None and not listening and _HOST_NAME.fullmatch(match["host"]):
            return match["host"], port
        what = "an IP address" if listening else "an IP address or a host name"
        raise ValueError(f"expected {what} before the port in {show(text)}") from None


def multicast_group(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> Rule:
    """A multicast address of one family."""

    def fits(text: str) -> bool:
        try:
            return kind(text).is_multicast
        except ipaddress.AddressValueError:
            return False

    return text(f"an {kind.__name__[:4]} multicast address", fits)


def address(*, listening: bool) -> Rule:
    """Text that `parse_address` can read, kept as it is."""

    def keep(text: str) -> str:
        parse_address(text, listening=listening)
        return text

    return Rule(
        "an ADDR:PORT" if listening else "a HOST:PORT", lambda value: isinstance(value, str), keep
    )
