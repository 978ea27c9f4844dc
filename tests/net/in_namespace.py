"""Scenarios for `test_host.py`, each to be run in a network namespace of its own."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
import trio.testing

from p2pd.address import Address, unscoped
from p2pd.errors import DialFailed
from p2pd.net.base import Interface
from p2pd.net.interfaces import interface_changes, list_interfaces
from p2pd.net.multicast import LinuxMulticastSocket
from p2pd.net.real import RealNetwork

V4, V6, PORT = "239.255.0.1", "ff12::4100", 41000
HANG = 20


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def sysctl(name: str, value: int, interface: str = "lan0") -> None:
    Path("/proc/sys/net/ipv6/conf", interface, name).write_text(str(value))


def lan() -> None:
    """Make a veth pair as a LAN of this host alone: `lan0` with addresses, `lan1` without."""
    ip("link set lo up")
    ip("link add lan0 type veth peer name lan1")
    ip("link set lan1 up")
    ip("link set lan0 up")
    ip("addr add 10.9.0.1/24 dev lan0")
    ip("-6 addr flush dev lan0")
    ip("-6 addr add fe80::9/64 dev lan0 nodad")


def get_stuck(name: str) -> None:
    """Let a few datagrams pass over an interface; the next ones wait for hours."""
    limit = "root tbf rate 8bit burst 2000 limit 100000000"
    subprocess.run(["tc", "qdisc", "add", "dev", name, *limit.split()], check=True)


def flap() -> None:
    """Change so much that the kernel drops notices."""
    batch = "\n".join("link set lan0 up\nlink set lan0 down" for _ in range(1500))
    subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)


def interface(name: str) -> Interface:
    return next(each for each in list_interfaces() if each.name == name)


@asynccontextmanager
async def sockets(*where: tuple[str, str, int]) -> AsyncIterator[list[LinuxMulticastSocket]]:
    opened = [LinuxMulticastSocket(interface(name), group, port) for name, group, port in where]
    try:
        with trio.fail_after(HANG):
            yield opened
    finally:
        for each in opened:
            each.close()


async def heard_by(*listeners: LinuxMulticastSocket) -> list[tuple[bytes, str]]:
    return [await each.receive() for each in listeners]


async def two_nodes_on_loopback_hear_each_other() -> None:
    ip("link set lo up")
    async with sockets(("lo", V4, PORT), ("lo", V4, PORT)) as (one, other):
        await one.send(b"from one")
        assert await heard_by(one, other) == [(b"from one", "127.0.0.1")] * 2
        await other.send(b"from the other")
        assert await heard_by(one, other) == [(b"from the other", "127.0.0.1")] * 2


async def two_nodes_on_a_lan_hear_each_other() -> None:
    lan()
    async with sockets(("lan0", V4, PORT), ("lan0", V4, PORT)) as (one, other):
        await one.send(b"from one")
        assert await heard_by(one, other) == [(b"from one", "10.9.0.1")] * 2


async def a_link_local_sender_comes_with_its_scope() -> None:
    lan()
    index = interface("lan0").index
    async with sockets(("lan0", V6, PORT), ("lan0", V6, PORT)) as (one, other):
        await one.send(b"from one")
        for data, host in await heard_by(one, other):
            assert data == b"from one"
            assert host in {"fe80::9%lan0", f"fe80::9%{index}"}, host


async def datagrams_come_from_the_first_address_of_a_family() -> None:
    lan()
    ip("addr add 10.9.1.1/24 dev lan0")
    ip("-6 addr add fd00::9/64 dev lan0 nodad")
    lan0 = interface("lan0")
    for first, group in (
        ("10.9.0.1", V4),
        ("10.9.1.1", V4),
        ("fd00::9", V6),
        (f"fe80::9%{lan0.index}", V6),
    ):
        others = [each for each in lan0.addresses if each != first]
        addresses = (unscoped(first), *others)
        one = LinuxMulticastSocket(attrs.evolve(lan0, addresses=addresses), group, PORT)
        async with sockets(("lan0", group, PORT)) as (other,):
            await one.send(b"from one")
            assert await other.receive() == (b"from one", first)
        one.close()


async def only_its_own_interface_group_and_port_are_heard() -> None:
    lan()
    async with sockets(
        ("lan0", V4, PORT),
        ("lo", V4, PORT),
        ("lan0", "239.255.0.2", PORT),
        ("lan0", V4, PORT + 1),
    ) as (listener, on_loopback, other_group, other_port):
        for stranger in (on_loopback, other_group, other_port):
            await stranger.send(b"not for the listener")
            assert (await stranger.receive())[0] == b"not for the listener"
        await listener.send(b"for the listener")
        assert await listener.receive() == (b"for the listener", "10.9.0.1")


async def what_is_not_sent_to_the_group_is_not_heard() -> None:
    lan()
    async with sockets(("lan0", V4, PORT)) as (listener,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unicast:
            unicast.sendto(b"not to the group", ("10.9.0.1", PORT))
        await listener.send(b"to the group")
        assert await listener.receive() == (b"to the group", "10.9.0.1")


async def a_group_can_be_left_and_joined_again() -> None:
    lan()
    for _ in range(30):
        async with sockets(("lan0", V4, PORT), ("lan0", V6, PORT)):
            pass
    async with sockets(("lan0", V4, PORT)) as (again,):
        await again.send(b"back")
        assert (await again.receive())[0] == b"back"


async def datagrams_stay_on_the_link() -> None:
    lan()
    async with sockets(("lan0", V4, PORT), ("lan0", V6, PORT)) as (v4, v6):
        assert v4._socket.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert v6._socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 1


async def a_closed_socket_ends_who_waits() -> None:
    ip("link set lo up")

    async def wait() -> None:
        try:
            await listener.receive()
        except (OSError, trio.ClosedResourceError):
            return
        raise AssertionError("a closed socket heard something")

    async with sockets(("lo", V4, PORT)) as (listener,), trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()


async def who_sends_on_a_stuck_interface_waits_for_nothing() -> None:
    lan()
    get_stuck("lan0")
    async with sockets(("lan0", V4, PORT)) as (one,):
        refused = 0
        for _ in range(5000):
            try:
                await one.send(b"beacon")
            except OSError:
                refused += 1
        assert refused > 1000


async def what_can_not_be_joined_is_an_os_error() -> None:
    ip("link set lo up")
    gone = Interface("gone0", 99, loopback=False, multicast=True, addresses=("10.9.9.9",))
    for group in (V4, V6, "10.0.0.1"):
        try:
            LinuxMulticastSocket(gone, group, PORT)
        except OSError:
            continue
        raise AssertionError(f"{group} was joined on an interface that is not there")


async def only_interfaces_that_are_up_are_listed() -> None:
    assert list_interfaces() == []
    ip("link set lo up")
    (loopback,) = list_interfaces()
    assert (loopback.name, loopback.index, loopback.loopback) == ("lo", 1, True)
    assert loopback.addresses == ("127.0.0.1", "::1")
    ip("link add lan0 type veth peer name lan1")
    assert [each.name for each in list_interfaces()] == ["lo"]
    ip("link set lan0 up")
    assert [each.name for each in list_interfaces()] == ["lo"], "lan0 has no carrier yet"
    ip("link set lan1 up")
    ip("addr add 10.9.0.1/24 dev lan0")
    ip("addr add 10.9.0.2/24 dev lan0")
    ip("-6 addr flush dev lan0")
    ip("-6 addr add fe80::9/64 dev lan0 nodad")
    lan0 = interface("lan0")
    assert (lan0.loopback, lan0.multicast) == (False, True)
    assert lan0.addresses == ("10.9.0.1", "10.9.0.2", "fe80::9")
    assert interface("lan1").index != lan0.index
    ip("link set lan0 multicast off")
    assert not interface("lan0").multicast
    ip("-6 addr flush dev lan1")
    assert "lan1" not in [each.name for each in list_interfaces()], "it has no address"
    async with interface_changes() as changed:
        ip("link set lan1 down")
        # That lan0 has no carrier any more the kernel notes a moment later.
        with trio.fail_after(HANG):
            while [each.name for each in list_interfaces()] != ["lo"]:
                await changed()


async def a_name_may_hold_any_byte() -> None:
    ip("link set lo up")
    ip("link add odd\udcff type veth peer name lan1")
    ip("link set odd\udcff up")
    ip("link set lan1 up")
    ip("addr add 10.9.0.1/24 dev odd\udcff")
    assert interface(r"odd\xff").addresses[0] == "10.9.0.1"


async def an_address_with_a_label_is_one_of_its_interface() -> None:
    ip("link set lo up")
    ip("addr add 10.9.0.1/24 dev lo label lo:1")
    # It need not begin with the name of the interface and a colon.
    ip("addr add 10.9.1.1/24 dev lo label local")
    (loopback,) = list_interfaces()
    assert loopback.name == "lo"
    assert loopback.addresses == ("10.9.0.1", "10.9.1.1", "127.0.0.1", "::1")


async def of_two_ends_of_a_link_the_own_address_is_listed() -> None:
    lan()
    ip("addr add 10.9.2.1 peer 10.9.2.2 dev lan0")
    ip("-6 addr add fd00::1 peer fd00::2 dev lan0 nodad")
    addresses = interface("lan0").addresses
    assert {"10.9.2.1", "fd00::1"} <= {*addresses}
    assert not {"10.9.2.2", "fd00::2"} & {*addresses}


async def an_address_is_listed_once_it_may_be_used() -> None:
    ip("link add lan0 type veth peer name lan1")
    ip("link set lan1 up")
    async with interface_changes() as changed:
        ip("link set lan0 up")
        ip("-6 addr add fd00::9/64 dev lan0")
        assert interface("lan0").addresses == ()
        with trio.fail_after(HANG):
            while "fd00::9" not in interface("lan0").addresses:
                await changed()


async def addresses_that_last_come_before_those_that_do_not() -> None:
    lan()
    sysctl("use_tempaddr", 2)
    sysctl("accept_dad", 0)
    ip("-6 addr add fd00::1/64 dev lan0 nodad valid_lft 3000 preferred_lft 0")
    ip("addr add 10.8.0.1/24 dev lan0 valid_lft 3000 preferred_lft 0")
    async with interface_changes() as changed:
        ip("-6 addr add fd00::ffff:ffff:ffff:ffff/64 dev lan0 nodad mngtmpaddr")
        with trio.fail_after(HANG):
            while len(addresses := interface("lan0").addresses) < 6:
                await changed()
    lasting = ("10.9.0.1", "fd00::ffff:ffff:ffff:ffff", "fe80::9")
    assert addresses[:3] == lasting
    assert addresses[3] not in {"10.8.0.1", "fd00::1"}, "a temporary one"
    assert addresses[4:] == ("10.8.0.1", "fd00::1")


async def an_address_is_owned_until_it_is_removed() -> None:
    lan()
    network = RealNetwork()
    link_local = f"fe80::9%{interface('lan0').index}"
    for host in ("10.9.0.1", link_local, "127.0.0.1", "::1"):
        assert network.owns(host), host
    ip("link set lan1 down")
    ip("link set lan0 down")
    assert network.owns("10.9.0.1")
    assert not network.owns(link_local), "the kernel takes them off with the link"
    ip("addr del 10.9.0.1/24 dev lan0")
    ip("link del lan0")
    for host in ("10.9.0.1", "10.9.0.2", link_local, "fe80::9%99", "fd00::9"):
        assert not network.owns(host), host


async def every_change_is_told() -> None:
    ip("link add lan0 type veth peer name lan1")
    for command in (
        "link set lo up",
        "link set lan1 up",
        "link set lan0 up",
        "addr add 10.9.0.1/24 dev lan0",
        "addr del 10.9.0.1/24 dev lan0",
        "-6 addr add fd00::9/64 dev lan0 nodad",
        "link set lan0 down",
        "link del lan0",
    ):
        async with interface_changes() as changed:
            ip(command)
            with trio.fail_after(HANG):
                await changed()


async def several_changes_make_one() -> None:
    async with interface_changes() as changed:
        for state in ("up", "down", "up"):
            ip(f"link set lo {state}")
        with trio.fail_after(HANG):
            await changed()
        with trio.move_on_after(0.1) as another:
            await changed()
        assert another.cancelled_caught


async def lost_notices_are_a_change_too() -> None:
    ip("link add lan0 type veth peer name lan1")
    async with interface_changes() as changed:
        flap()
        with trio.fail_after(HANG):
            await changed()
            ip("link set lan0 up")
            await changed()


async def where_no_route_leads_is_said_to_be_this_hosts_affair() -> None:
    lan()
    sysctl("disable_ipv6", 1, "all")
    for host in ("192.0.2.1", "2001:db8::1"):
        said = ""
        with trio.fail_after(HANG):
            try:
                await RealNetwork().dial(Address(host, PORT))
            except DialFailed as failed:
                said = str(failed)
        assert "this host has no route there" in said, said


SCENARIOS: dict[str, Callable[[], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        two_nodes_on_loopback_hear_each_other,
        two_nodes_on_a_lan_hear_each_other,
        a_link_local_sender_comes_with_its_scope,
        datagrams_come_from_the_first_address_of_a_family,
        only_its_own_interface_group_and_port_are_heard,
        what_is_not_sent_to_the_group_is_not_heard,
        a_group_can_be_left_and_joined_again,
        datagrams_stay_on_the_link,
        a_closed_socket_ends_who_waits,
        who_sends_on_a_stuck_interface_waits_for_nothing,
        what_can_not_be_joined_is_an_os_error,
        only_interfaces_that_are_up_are_listed,
        a_name_may_hold_any_byte,
        an_address_with_a_label_is_one_of_its_interface,
        of_two_ends_of_a_link_the_own_address_is_listed,
        an_address_is_listed_once_it_may_be_used,
        addresses_that_last_come_before_those_that_do_not,
        an_address_is_owned_until_it_is_removed,
        every_change_is_told,
        several_changes_make_one,
        lost_notices_are_a_change_too,
        where_no_route_leads_is_said_to_be_this_hosts_affair,
    )
}


if __name__ == "__main__":
    trio.run(SCENARIOS[sys.argv[1]])
