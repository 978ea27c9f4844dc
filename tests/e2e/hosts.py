"""Hosts on LANs: what can't be shown on one loopback.

A `Host` is a network namespace of its own, a `Lan` a bridge in one, a `Router` a host that
passes on between LANs. A `Ground` makes them and the daemons on them, and ends all with itself:

    lan = ground.lan()
    first, second = ground.host(lan), ground.host(lan)
    daemon = first.make_daemon().start()
    second.drop_multicast()

On LAN number N, host number H is 192.168.N.H and fd00:0:0:N::H, the router number 1. Nothing
that happens on a ground leaves this machine.
"""

import itertools
import shutil
import subprocess
from pathlib import Path

import attrs

from tests.e2e.daemons import FIRST_PORT, Daemon, Namespace, reason_to_skip, until

ROUTER = 1
# Where a host's own traffic passes a firewall: what comes in, what goes out.
IN, OUT = "input", "output"


def reason_to_skip_hosts() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if shutil.which("nft") is None:
        return "nft (nftables) is not installed"
    return reason_to_skip()


class Lan(Namespace):
    """A switch. `v4`, `v6`: which addresses its hosts have.

    `dad`: hosts look for a second or two whether somebody else has their IPv6 address before
    they use it, as they do outside of tests (RFC 4862, 5.4).
    """

    def __init__(self, number: int, *, v4: bool = True, v6: bool = True, dad: bool = False) -> None:
        super().__init__()
        self.number = number
        self.v4, self.v6, self.dad = v4, v6, dad
        self.numbers = itertools.count(ROUTER + 1)
        self._ports = itertools.count()
        # The switch itself is no host of the LAN.
        self.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        self.ip("link", "add", "switch", "type", "bridge")
        self.join()

    def add_port(self, host: Namespace, interface: str) -> str:
        """Make an interface of a host that ends in a port of this switch; gives its name."""
        port = f"port{next(self._ports)}"
        ends = ("type", "veth", "peer", "name", port, "netns", self.path)
        host.ip("link", "add", interface, *ends)
        self.ip("link", "set", port, "master", "switch", "up")
        return port

    def cut(self) -> None:
        """Let nothing pass any more; the hosts don't notice by their links."""
        self.ip("link", "set", "switch", "down")

    def join(self) -> None:
        """Undo a cut."""
        self.ip("link", "set", "switch", "up")


@attrs.define
class Interface:
    """Where a host's interface leads, and its number there."""

    lan: Lan
    port: str
    number: int

    @property
    def addresses(self) -> list[str]:
        """Its addresses but for the link-local one, IPv4 first."""
        v4 = f"192.168.{self.lan.number}.{self.number}"
        v6 = f"fd00:0:0:{self.lan.number}::{self.number:x}"
        return [v4] * self.lan.v4 + [v6] * self.lan.v6

    @property
    def gateways(self) -> list[str]:
        """The router's addresses."""
        return attrs.evolve(self, number=ROUTER).addresses


class Host(Namespace):
    """A host with an interface to each of some LANs: `lan0`, `lan1` and so on."""

    def __init__(self, place: Path, name: str, *lans: Lan, up: bool = True) -> None:
        super().__init__()
        self.name = name
        self.daemons: list[Daemon] = []
        self.interfaces: dict[str, Interface] = {}
        self._place = place
        for number, lan in enumerate(lans):
            self.attach(lan, f"lan{number}", up=up)

    @property
    def addresses(self) -> list[str]:
        """All addresses but the link-local ones and the loopback's."""
        return [each for interface in self.interfaces.values() for each in interface.addresses]

    @property
    def address(self) -> str:
        """The first of them."""
        return self.addresses[0]

    def is_tentative(self) -> bool:
        """Whether some address may not be used yet; see `Lan.dad`."""
        with self.inside():
            command = ["ip", "-6", "address", "show", "tentative"]
            found = subprocess.run(command, check=True, timeout=10, capture_output=True)
        return bool(found.stdout)

    def make_daemon(
        self, *flags: str, name: str | None = None, state_dir: Path | None = None
    ) -> Daemon:
        """Make a daemon on this host; the first one has the host's name."""
        port = FIRST_PORT + len(self.daemons)
        daemon = Daemon(self, self._place, name or self.name, port, *flags, state_dir=state_dir)
        self.daemons.append(daemon)
        return daemon

    def attach(
        self, lan: Lan, interface: str, *, number: int | None = None, up: bool = True
    ) -> None:
        """Add an interface to a LAN, under any name."""
        port = lan.add_port(self, interface)
        number = next(lan.numbers) if number is None else number
        self.interfaces[interface] = Interface(lan, port, number)
        self.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", int(not lan.v6))
        self.sysctl(f"net.ipv6.conf.{interface}.accept_dad", int(lan.dad))
        if up:
            self.up(interface)

    def up(self, interface: str = "lan0") -> None:
        """Set an interface up, with its addresses and, on the first one, the default routes."""
        self.ip("link", "set", interface, "up")
        self._set_addresses(interface)

    def down(self, interface: str = "lan0") -> None:
        """Set an interface down."""
        self.ip("link", "set", interface, "down")

    def plug(self, interface: str = "lan0") -> None:
        """Put the cable of an interface back in."""
        there = self.interfaces[interface]
        there.lan.ip("link", "set", there.port, "up")

    def unplug(self, interface: str = "lan0") -> None:
        """Pull the cable of an interface: it stays up and keeps its addresses."""
        there = self.interfaces[interface]
        there.lan.ip("link", "set", there.port, "down")
        # The kernel tells of it later, up to a second.
        until(f"{interface} has no link", lambda: not self._has_link(interface))

    def _has_link(self, interface: str) -> bool:
        with self.inside():
            command = ["ip", "link", "show", "dev", interface]
            found = subprocess.run(command, check=True, timeout=10, capture_output=True, text=True)
        return " state UP " in found.stdout

    def readdress(self, interface: str = "lan0") -> None:
        """Take other addresses on an interface, as with a new lease."""
        there = self.interfaces[interface]
        for address in there.addresses:
            self.ip("address", "del", _with_prefix(address), "dev", interface)
        there.number = next(there.lan.numbers)
        self._set_addresses(interface)

    def drop_multicast(self, *hooks: str) -> None:
        """Let the firewall drop multicast over UDP: what comes in, or at the `hooks` named."""
        for hook in hooks or (IN,):
            self._drop(hook, "meta l4proto udp ip daddr 224.0.0.0/4")
            self._drop(hook, "meta l4proto udp ip6 daddr ff00::/8")

    def drop_inbound_tcp(self) -> None:
        """Let the firewall drop, without a word, what would open a TCP connection from outside."""
        self._drop(IN, "iif != lo tcp flags & (syn | ack) == syn")

    def drop_longer_than(self, size: int) -> None:
        """Drop, without a word, the larger of the packets that come in: a hole of the MTU."""
        self._drop(IN, f"iif != lo meta length > {size}")

    def drop_all(self) -> None:
        """Let the firewall drop all that comes in or goes out."""
        for hook, direction in ((IN, "iif"), (OUT, "oif")):
            self._drop(hook, f"{direction} != lo")

    def lose(self, percent: int) -> None:
        """Lose this share of the packets that come in, at random."""
        self._drop(IN, f"iif != lo numgen random mod 100 < {percent}")

    def open_firewall(self) -> None:
        """Drop nothing any more."""
        self._nft("flush ruleset")

    def _set_addresses(self, interface: str) -> None:
        there = self.interfaces[interface]
        for address in there.addresses:
            nodad = ["nodad"] if ":" in address and not there.lan.dad else []
            self.ip("address", "replace", _with_prefix(address), "dev", interface, *nodad)
        if interface == next(iter(self.interfaces)) and there.number != ROUTER:
            for gateway in there.gateways:
                self.ip("route", "replace", "default", "via", gateway, "dev", interface)

    def _drop(self, hook: str, what: str) -> None:
        self._nft("add table inet firewall")
        chain = f"{{ type filter hook {hook} priority 0; }}"
        self._nft(f"add chain inet firewall {hook} {chain}")
        self._nft(f"add rule inet firewall {hook} {what} drop")

    def _nft(self, command: str) -> None:
        with self.inside():
            subprocess.run(["nft", command], check=True, timeout=10)


class Router(Host):
    """A host that passes on between its LANs."""

    def __init__(self, place: Path, name: str, *lans: Lan) -> None:
        super().__init__(place, name)
        self.sysctl("net.ipv4.ip_forward", 1)
        self.sysctl("net.ipv6.conf.all.forwarding", 1)
        for number, lan in enumerate(lans):
            self.attach(lan, f"lan{number}", number=ROUTER)

    def cut(self) -> None:
        """Pull all cables."""
        for interface in self.interfaces:
            self.unplug(interface)

    def join(self) -> None:
        """Put them back in."""
        for interface in self.interfaces:
            self.plug(interface)


class Ground:
    """Makes LANs, hosts and routers; all that runs there ends with it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._hosts: list[Host] = []
        self._lans: list[Lan] = []

    def lan(self, *, v4: bool = True, v6: bool = True, dad: bool = False) -> Lan:
        """Make a LAN; see `Lan`."""
        self._lans.append(Lan(len(self._lans) + 1, v4=v4, v6=v6, dad=dad))
        return self._lans[-1]

    def host(self, *lans: Lan, up: bool = True) -> Host:
        """Make a host on these LANs; `up`: with its interfaces up."""
        self._hosts.append(Host(self._place, f"host{len(self._hosts) + 1}", *lans, up=up))
        return self._hosts[-1]

    def router(self, *lans: Lan) -> Router:
        """Make a router between LANs."""
        made = Router(self._place, f"router{len(self._hosts) + 1}", *lans)
        self._hosts.append(made)
        return made

    def close(self) -> None:
        """Kill the daemons, show their logs, and let go of all hosts and LANs."""
        for host in self._hosts:
            for daemon in host.daemons:
                daemon.end()
        for namespace in (*self._hosts, *self._lans):
            namespace.close()


def _with_prefix(address: str) -> str:
    return f"{address}/{64 if ':' in address else 24}"
