"""Where the lab's daemons run: on one loopback, or on hosts of one LAN.

Nothing leaves this machine: daemons on a loopback use no other interface, hosts are in network
namespaces of their own.
"""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from p2pctl.lab.namespace import Namespace, NoNamespace
from p2pd.errors import P2PError

HOST_PORT: Final = 41000
GROUP: Final = "239.255.0.1"
# Below the range from which the kernel takes ports for outgoing connections: those may hold
# any of it while a daemon is restarted.
_PORTS: Final = range(20000, 30000)
_TRIES: Final = 100
_DATAGRAM: Final = 2048


class Network(Protocol):
    """A host as its daemons see it."""

    def inside(self) -> AbstractContextManager[None]:
        """Within the `with`, sockets and processes of this thread are made there."""

    def place(self) -> tuple[str, list[str]]:
        """Choose an address for one more daemon; returns it, and the flags that set it."""


class Loopback:
    """A loopback, in a namespace of its own if that is allowed, else this machine's.

    Several daemons share it. Their beacons have a port of their own, so that no other node of
    the machine hears them.
    """

    def __init__(self) -> None:
        self.namespace: Namespace | None = None
        self.reason: str | None = None
        try:
            self.namespace = Namespace()
        except NoNamespace as error:
            self.reason = str(error)
        self._taken: set[int] = set()
        self._beacon_port = self._free_port(socket.SOCK_DGRAM)

    def close(self) -> None:
        """Let it go."""
        if self.namespace is not None:
            self.namespace.close()

    def inside(self) -> AbstractContextManager[None]:
        """See `Network`."""
        return nullcontext() if self.namespace is None else self.namespace.inside()

    def place(self) -> tuple[str, list[str]]:
        """See `Network`."""
        address = f"127.0.0.1:{self._free_port(socket.SOCK_STREAM)}"
        return address, [
            *("--listen", address, "--set", 'discovery.multicast.interfaces=["lo"]'),
            *("--set", f"discovery.multicast.port={self._beacon_port}"),
            *("--set", f'discovery.multicast.group_v4="{GROUP}"'),
        ]

    @contextmanager
    def ear(self) -> Iterator["Ear"]:
        """Hear the beacons on this loopback within the `with`."""
        with self.inside():
            heard = Ear("lo", self._beacon_port)
        try:
            yield heard
        finally:
            heard.close()

    def _free_port(self, kind: socket.SocketKind) -> int:
        for port in random.sample(_PORTS, _TRIES):
            with self.inside(), socket.socket(socket.AF_INET, kind) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in self._taken:
                self._taken.add(port)
                return port
        raise P2PError(f"no free port among {_TRIES} of {_PORTS[0]} to {_PORTS[-1]}: try again")


class Host:
    """A host with one interface, `lan0`, on a LAN; for one daemon."""

    def __init__(self, lan: Namespace, number: int) -> None:
        self._namespace = Namespace()
        try:
            self.address = f"192.0.2.{number}"
            port = f"port{number}"
            for command in (
                f"link add lan0 type veth peer name {port} netns {lan.path}",
                f"address add {self.address}/24 dev lan0",
                "link set lan0 up",
                "route add default dev lan0",
            ):
                self._namespace.ip(*command.split())
            lan.ip("link", "set", port, "master", "switch", "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let it go."""
        self._namespace.close()

    def inside(self) -> AbstractContextManager[None]:
        """See `Network`."""
        return self._namespace.inside()

    def place(self) -> tuple[str, list[str]]:
        """See `Network`."""
        return f"{self.address}:{HOST_PORT}", ["--port", str(HOST_PORT)]


@contextmanager
def lan_of_hosts(count: int) -> Iterator[list[Host]]:
    """Make `count` hosts on a switch, a bridge in a namespace of its own.

    Raises `NoNamespace`.
    """
    lan, hosts = Namespace(), list[Host]()
    try:
        lan.ip("link", "add", "switch", "type", "bridge")
        lan.ip("link", "set", "switch", "up")
        for number in range(1, count + 1):
            hosts.append(Host(lan, number))
        yield hosts
    finally:
        for each in hosts:
            each.close()
        lan.close()


class Ear:
    """Counts beacons on an interface; to be made in the network of that interface."""

    def __init__(self, interface: str, port: int) -> None:
        self.count = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # struct ip_mreqn of ip(7).
        joined = struct.pack(
            "4s4si", socket.inet_aton(GROUP), bytes(4), socket.if_nametoindex(interface)
        )
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        self._socket.bind((GROUP, port))
        self._socket.setblocking(False)  # noqa: FBT003 - the socket's own interface

    def listen(self) -> None:
        """Count what came since the last call."""
        while True:
            try:
                self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            self.count += 1

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
