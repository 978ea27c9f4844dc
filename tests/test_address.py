"""Addresses as text, and the networks that they are in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.address import Address, IPAddress, is_local, network_group


@given(st.ip_addresses(), st.integers(1, 65535))
def test_text_there_and_back(ip: IPAddress, port: int) -> None:
    address = Address(str(ip), port)
    parsed = Address.parse(str(address))
    assert parsed.port == port
    assert Address.parse(str(parsed)) == parsed
    assert parsed.ip == (getattr(ip, "ipv4_mapped", None) or ip)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("1.2.3.4:5", "1.2.3.4", 5),
        ("[2001:DB8:0:0::1]:65535", "2001:db8::1", 65535),
        ("[fe80::1%eth0]:41000", "fe80::1%eth0", 41000),
        ("[::ffff:1.2.3.4]:5", "1.2.3.4", 5),
    ],
)
def test_one_host_has_one_spelling(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":5",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:000080",
        "1.2.3.4:-1",
        "1.2.3.4:+1",
        "1.2.3.4: 1",
        "1.2.3.4:1_0",
        "1.2.3.4:²",
        "1.2.3.4:٣",
        "[1.2.3.4]:5",
        "::1:5",
        "2001:db8::1:5",
        "[::1]",
        "[::1:5",
        "::1]:5",
        "[]:5",
        "[[::1]]:5",
        "localhost:5",
        "1.2.3:5",
        "01.2.3.4:5",
        "[fe80::1%]:5",
        "[fe80::1%\x1b[2J]:5",
        "[fe80::1%e 0]:5",
        "[fe80::1%é]:5",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Address.parse(text)


@given(st.text(max_size=40))
def test_any_text_gives_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("1.2.3.4", "1.2.3.0/24"),
        ("1.2.3.255", "1.2.3.0/24"),
        ("1.2.4.4", "1.2.4.0/24"),
        ("2001:db8:1:2::1", "2001:db8:1::/48"),
        ("2001:db8:1:ffff::1", "2001:db8:1::/48"),
        ("2001:db8:2::1", "2001:db8:2::/48"),
        ("fe80::1%eth0", "fe80::/48"),
    ],
)
def test_the_network_that_one_operator_holds(host: str, group: str) -> None:
    assert network_group(host) == group


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.1.1", True),
        ("172.16.0.1", True),
        ("169.254.1.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("172.32.0.1", False),
        ("2606:4700::1111", False),
    ],
)
def test_what_counts_as_local(host: str, local: bool) -> None:
    assert is_local(host) is local
