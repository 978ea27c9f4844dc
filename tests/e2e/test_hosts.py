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

of_all_families = pytest.mark.parametrize(
    ("v4", "v6"), [(True, True), (True, False), (False, True)], ids=["v4 and v6", "v4", "v6"]
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

    def cut_for(self, seconds: float) -> float:
        """Cut the router off, for so long at least; gives the seconds until all have healed."""
        began = time.monotonic()
        self.router.cut()
        for lan in (self.here, self.there):
            until("each LAN is by itself", know_each_other(lan), 30.0)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        self.router.join()
        joined = time.monotonic()
        until("all are connected again", know_each_other(self.all), HEALED_WITHIN)
        return time.monotonic() - joined


@of_all_families
def test_one_address_joins_two_lans(ground: Ground, v4: bool, v6: bool) -> None:
    lans = TwoLans(ground, v4=v4, v6=v6)
    lans.join()
    assert lans.here[1].ctl("put", "key", "value").returncode == 0
    assert lans.there[1].ctl("get", "key").stdout == "value"


def test_the_lans_heal_when_the_router_is_back(ground: Ground) -> None:
    lans = TwoLans(ground, *QUICK)
    lans.join()
    print("healed in", lans.cut_for(0))


@pytest.mark.slow
def test_the_lans_heal_after_a_minute(ground: Ground) -> None:
    lans = TwoLans(ground)
    lans.join()
    print("healed in", lans.cut_for(60.0))


def addresses_of(daemon: Daemon) -> list[str]:
    announced: list[str] = daemon.call("status")["addresses"]
    return announced


def at_port(daemon: Daemon, addresses: Sequence[str]) -> list[str]:
    return sorted(str(Address(each, daemon.port)) for each in addresses)


def announces_just(daemon: Daemon, addresses: Sequence[str]) -> Callable[[], bool]:
    return lambda: sorted(addresses_of(daemon)) == at_port(daemon, addresses)


@of_all_families
def test_an_interface_comes_up_after_the_daemon(ground: Ground, v4: bool, v6: bool) -> None:
    lan = ground.lan(v4=v4, v6=v6, dad=True)
    late = ground.host(lan, up=False)
    daemons = [late.make_daemon(), ground.host(lan).make_daemon()]
    start_all(daemons)
    late.up()
    until("the host may use its addresses", lambda: not late.is_tentative())
    until("they are connected", know_each_other(daemons), FOUND_WITHIN)
    assert announces_just(daemons[0], late.addresses)()
    assert daemons[0].events("discovery.trouble") == []


@of_all_families
def test_an_address_changes(ground: Ground, v4: bool, v6: bool) -> None:
    lan = ground.lan(v4=v4, v6=v6)
    host = ground.host(lan)
    daemons = [host.make_daemon(), *(ground.host(lan).make_daemon() for _ in range(2))]
    mover, *others = daemons
    start_all(daemons)
    until("they are connected", know_each_other(daemons))
    before = host.addresses
    host.readdress()
    until(
        "all go on from the new address",
        lambda: (
            announces_just(mover, host.addresses)()
            and know_each_other(daemons)()
            and not any(each in str(other.peer(mover.name)) for each in before for other in others)
        ),
        FOUND_WITHIN,
    )
    for other in others:
        assert other.call("ping", peer=mover.name)["rtt_ms"]
    assert {event["reason"] for event in mover.events("peer.dial_failed")} == set()


def test_a_host_with_two_interfaces(ground: Ground) -> None:
    lans = [ground.lan(), ground.lan()]
    both = ground.host(*lans)
    both.down("lan1")
    daemons = [host.make_daemon() for host in (both, *map(ground.host, lans))]
    middle, first, _ = daemons
    start_all(daemons)
    until("the first LAN is there", lambda: middle.connected() == {first.name})
    both.up("lan1")
    until("the second one, too", lambda: len(middle.connected()) == 2, FOUND_WITHIN)
    assert announces_just(middle, both.addresses)()
    both.unplug("lan1")
    only = both.addresses_on("lan0")
    until("what is gone is not announced", announces_just(middle, only), FOUND_WITHIN)
    both.plug("lan1")
    until("it is again", announces_just(middle, both.addresses), FOUND_WITHIN)


def test_what_is_never_announced(ground: Ground) -> None:
    home, container, tunnel, guests, unplugged = (ground.lan() for _ in range(5))
    host = ground.host(home)
    for name, lan in (
        ("docker0", container),
        ("wg0", tunnel),
        ("wifi0", guests),
        ("lan1", unplugged),
    ):
        host.attach(lan, name)
    host.unplug("lan1")
    others = [ground.host(lan).make_daemon() for lan in (home, container, tunnel, guests)]
    daemon = host.make_daemon(
        "--set", 'discovery.multicast.interfaces=["!wifi*", "!docker*", "!wg*"]'
    )
    start_all([daemon, *others])
    until("they are connected", lambda: daemon.connected() == {others[0].name})
    daemon.kill()
    until("they are apart", lambda: others[0].peer(daemon.name)["status"] != "connected")
    [known] = [
        each["text"]
        for each in others[0].call("why", peer=daemon.name)["steps"]
        if each["code"] == "address.known"
    ]
    assert [each.connected() for each in others] == [set(), set(), set(), set()]
    print(known)
