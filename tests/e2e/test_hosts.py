"""Several hosts with addresses of their own: what comes and goes on them is followed."""

import time
from collections.abc import Callable, Sequence

import pytest

from p2pd.address import Address
from tests.e2e.daemons import Daemon, until
from tests.e2e.hosts import Ground
from tests.e2e.test_finding import know_each_other, start_all

pytestmark = pytest.mark.e2e

# The promises of the product, in seconds.
FOUND_WITHIN = 2.0
HEALED_WITHIN = 15.0
# Daemons that notice a cut in some seconds.
QUICK = ("--set", "liveness.ping_interval=1", "--set", "liveness.ping_timeout=0.5")

ONE_FAMILY = [pytest.param(True, False, id="v4"), pytest.param(False, True, id="v6")]
of_one_family = pytest.mark.parametrize(("v4", "v6"), ONE_FAMILY)
of_all_families = pytest.mark.parametrize(
    ("v4", "v6"), [*ONE_FAMILY, pytest.param(True, True, id="both")]
)


class TwoLans:
    """Three hosts on one LAN, two on another, a router between."""

    def __init__(self, ground: Ground, *flags: str, v4: bool = True, v6: bool = True) -> None:
        lans = [ground.lan(v4=v4, v6=v6) for _ in range(2)]
        self.router = ground.router(*lans)
        self.here = [ground.host(lans[0]).make_daemon(*flags) for _ in range(3)]
        self.there = [ground.host(lans[1]).make_daemon(*flags) for _ in range(2)]
        self.all = [*self.here, *self.there]

    def join(self) -> None:
        """Let each LAN find its own; then somebody comes who knows an address on the other one."""
        *here, newcomer = self.here
        start_all([*here, *self.there])
        for lan in (here, self.there):
            until("each LAN finds its own, and nobody else", know_each_other(lan))
        newcomer.flags = (*newcomer.flags, "--bootstrap", self.there[0].address)
        newcomer.start()
        until("the two LANs are one network", know_each_other(self.all))

    def cut_for(self, seconds: float) -> None:
        """Cut the router off, for so long at least, and see all heal when it is back."""
        began = time.monotonic()
        self.router.cut()
        for lan in (self.here, self.there):
            until("each LAN is by itself", know_each_other(lan), 30.0)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        self.router.join()
        until("all are connected again", know_each_other(self.all), HEALED_WITHIN)


@of_one_family
def test_one_address_joins_two_lans(ground: Ground, v4: bool, v6: bool) -> None:
    lans = TwoLans(ground, v4=v4, v6=v6)
    lans.join()
    assert lans.here[1].ctl("put", "key", "value").returncode == 0
    assert lans.there[1].ctl("get", "key").stdout == "value"


def test_two_lans_heal_when_the_router_is_back(ground: Ground) -> None:
    lans = TwoLans(ground, *QUICK)
    lans.join()
    lans.cut_for(0)
    assert lans.there[0].ctl("put", "key", "value").returncode == 0
    assert lans.here[0].ctl("get", "key").stdout == "value"


@pytest.mark.slow
def test_two_lans_heal_after_a_minute(ground: Ground) -> None:
    lans = TwoLans(ground)
    lans.join()
    lans.cut_for(60.0)


def test_many_packets_are_lost(ground: Ground) -> None:
    lan = ground.lan()
    hosts = [ground.host(lan) for _ in range(3)]
    for host in hosts:
        host.lose(10)
    daemons = [host.make_daemon() for host in hosts]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons))


def announces_just(daemon: Daemon, addresses: Sequence[str]) -> Callable[[], bool]:
    expected = sorted(str(Address(each, daemon.port)) for each in addresses)
    return lambda: sorted(daemon.call("status")["addresses"]) == expected


@of_all_families
def test_an_interface_comes_up_after_the_daemon(ground: Ground, v4: bool, v6: bool) -> None:
    lan = ground.lan(v4=v4, v6=v6, dad=True)
    late = ground.host(lan, up=False)
    daemons = [late.make_daemon(), ground.host(lan).make_daemon()]
    start_all(daemons)
    assert announces_just(daemons[0], ["127.0.0.1", "::1"])()
    late.up()
    until("the host may use its addresses", lambda: not late.is_tentative())
    until(
        "it is found, and announces what it has now",
        lambda: know_each_other(daemons)() and announces_just(daemons[0], late.addresses)(),
        FOUND_WITHIN,
    )
    assert daemons[0].events("discovery.trouble") == []


@of_one_family
def test_an_address_changes(ground: Ground, v4: bool, v6: bool) -> None:
    lan = ground.lan(v4=v4, v6=v6)
    host = ground.host(lan)
    mover, *others = daemons = [host.make_daemon(), *(ground.host(lan).make_daemon() for _ in "ab")]
    start_all(daemons)
    until("they are connected", know_each_other(daemons))
    [before] = host.addresses
    host.readdress()
    until(
        "all go on from the new address",
        lambda: (
            know_each_other(daemons)()
            and announces_just(mover, host.addresses)()
            and not any(before in other.peer(mover.name)["address"] for other in others)
        ),
        FOUND_WITHIN,
    )
    assert all(other.call("ping", peer=mover.name)["rtt_ms"] for other in others)
    # Nobody took the new connections for duplicates of the old ones.
    assert mover.events("peer.dial_failed") == []


def test_a_host_with_two_interfaces(ground: Ground) -> None:
    lans = [ground.lan(), ground.lan()]
    both = ground.host(*lans)
    both.down("lan1")
    middle, first, second = daemons = [
        host.make_daemon() for host in (both, *map(ground.host, lans))
    ]
    start_all(daemons)
    until("the first LAN is there", lambda: middle.connected() == {first.name})
    both.up("lan1")
    until(
        "the second one is, too",
        lambda: middle.connected() == {first.name, second.name},
        FOUND_WITHIN,
    )
    until("both are announced", announces_just(middle, both.addresses), FOUND_WITHIN)
    both.unplug("lan1")
    left = both.interfaces["lan0"].addresses
    until("what is gone is not announced", announces_just(middle, left), FOUND_WITHIN)
    both.plug("lan1")
    until("what is back is", announces_just(middle, both.addresses), FOUND_WITHIN)


def test_what_is_never_announced(ground: Ground) -> None:
    """Loopback, addresses without a link, containers and tunnels, what the configuration bars."""
    home, inside = ground.lan(), ground.lan()
    host = ground.host(home)
    for interface in ("docker0", "wg0", "guest0", "lan1"):
        host.attach(inside, interface)
    host.unplug("lan1")
    flags = ("--set", 'discovery.multicast.interfaces=["!guest*", "!docker*", "!wg*"]')
    daemon, neighbour, barred = daemons = [
        host.make_daemon(*flags),
        ground.host(home).make_daemon(),
        ground.host(inside).make_daemon(),
    ]
    start_all(daemons)
    until("the neighbour is there", lambda: daemon.connected() == {neighbour.name})
    fit = host.interfaces["lan0"].addresses
    assert announces_just(daemon, fit)()
    daemon.kill()
    until("it is gone", lambda: not neighbour.connected())
    told = [
        step["text"]
        for step in neighbour.call("why", peer=daemon.name)["steps"]
        if step["code"] == "address.known"
    ]
    known = told[0].partition(": ")[2].split(", ")
    assert {each for each in known if "[fe80::" not in each} <= {
        str(Address(each, daemon.port)) for each in fit
    }
    assert barred.call("peers") == []
