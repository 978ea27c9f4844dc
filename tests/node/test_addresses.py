"""Which listening address covers one of this host's, and what is announced."""

from p2pd.address import Address
from p2pd.net.base import Interface
from p2pd.node.addresses import announced, covering

EVERYWHERE = [Address("0.0.0.0", 1), Address("::", 2)]
LAN = Interface("lan0", 2, loopback=False, multicast=True, addresses=("10.0.0.1", "fe80::1"))
OTHER = Interface("lan1", 3, loopback=False, multicast=True, addresses=("10.1.0.1", "fe80::1"))


def test_a_link_local_listener_covers_its_own_interface_only() -> None:
    listener = Address("fe80::1%2", 3)
    assert covering([listener], LAN, "fe80::1") == listener
    assert covering([listener], OTHER, "fe80::1") is None
    assert covering([listener], LAN, "fe80::2") is None


def test_one_family_does_not_cover_the_other() -> None:
    assert covering(EVERYWHERE, LAN, "10.0.0.1") == EVERYWHERE[0]
    assert covering(EVERYWHERE, LAN, "fe80::1") == EVERYWHERE[1]
    assert covering(EVERYWHERE[:1], LAN, "fe80::1") is None


def test_an_interface_with_many_addresses_does_not_hide_another_one() -> None:
    many = tuple(f"2001:db8::{number}" for number in range(10, 30))
    crowded = Interface("lan0", 2, loopback=False, multicast=True, addresses=("10.0.0.1", *many))
    told = announced([crowded, OTHER], EVERYWHERE)
    assert len(told) == 8
    assert told[:2] == [Address("10.0.0.1", 1), Address("10.1.0.1", 1)]
    assert told[2:] == [Address(host, 2) for host in many[:6]]
