"""LAN discovery: beacons by multicast, on every suitable interface, as these come and go.

A fresh node sends a quick burst, then one beacon each interval; a node that hears an unknown
one answers at once. A passive node does neither: its beacons come at the interval only.
Nothing in a beacon is believed: it only says whom to dial.
"""

import errno
import logging
import math

import attrs
import trio

from p2pd.address import Address, is_link_local_v6
from p2pd.config import MulticastConfig
from p2pd.core.bounded import BoundedTable
from p2pd.core.budget import Budget
from p2pd.core.entries import Entry, Source, Status
from p2pd.core.registry import Registry
from p2pd.errors import BadMessage
from p2pd.ids import NodeId
from p2pd.net.base import Interface, MulticastSocket
from p2pd.node.addresses import covering, leads_out
from p2pd.node.dialler import STRANGERS_AT_ONCE, STRANGERS_PER_SECOND
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.interfaces import Interfaces
from p2pd.node.own_record import OwnRecord
from p2pd.node.upkeep import Upkeep
from p2pd.wire.beacon import Beacon, read_beacon, write_beacon
from p2pd.wire.reasons import APART

# Seconds after start (of the node or of an interface): a datagram may be lost, a switch may
# take a while to forward.
BURST = (0.0, 0.1, 0.5, 1.5, 4.0)
# However many strangers are heard, no more than one answer in this time.
ANSWER_GAP = 0.25
# Answers on one link, to strangers and to queries alike: burst, then rate per second. Anybody can
# make up either, and all nodes of the link answer.
ANSWERS_AT_ONCE = 40
ANSWERS_PER_SECOND = 1.0
# The node with the greater ID waits this long for the other one to dial.
POLITE_DELAY = 0.3
# With more nodes than this on all links together, each is news again and again.
MAX_SEEN = 8192
# Hosts that a tally counts; more are passed over.
MAX_TALLIED = 256


@attrs.define(eq=False)
class Tally:
    """The hosts whose beacons were heard while it was kept.

    `looped`: one of this node's own came back. `hosts` are those from which other nodes of
    this network were heard, `foreign` those of other networks. Each beacon wakes the tasks that
    wait for `news`.
    """

    news: trio.lowlevel.ParkingLot
    looped: bool = False
    hosts: set[str] = attrs.field(factory=set)
    foreign: set[str] = attrs.field(factory=set)

    def note(self, beacon: Beacon, host: str, own: Beacon) -> None:
        """Count a beacon from `host`; `own` is one of this node's."""
        if beacon.instance == own.instance:
            self.looped = True
        elif len(self.hosts) + len(self.foreign) < MAX_TALLIED:
            (self.hosts if beacon.network == own.network else self.foreign).add(host)
        self.news.unpark_all()


def _answers() -> Budget:
    return Budget(ANSWERS_AT_ONCE, ANSWERS_PER_SECOND)


@attrs.define(eq=False)
class Link:
    """One multicast group on one interface.

    `socket` is None until the group is joined. `answer`: set to have a beacon sent soon; `retry`:
    set to have a failed join tried again soon. `answered_at` is when a query was last answered.
    `tally`, where somebody keeps one, counts what is heard. `mute` is why nothing can be sent,
    `deaf` why nothing can be heard, None where it can; `port_taken`: because another program has
    the port.
    """

    interface: Interface
    group: str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    socket: MulticastSocket | None = None
    answer: trio.Event = attrs.field(factory=trio.Event)
    tally: Tally | None = None
    mute: str | None = None
    deaf: str | None = None
    port_taken: bool = False
    retry: trio.Event = attrs.field(factory=trio.Event)
    answered_at: float = -math.inf
    to_strangers: Budget = attrs.field(factory=_answers)
    to_queries: Budget = attrs.field(factory=_answers)

    @property
    def trouble(self) -> str | None:
        """Why the link is not fully usable, if it is not."""
        return self.mute or self.deaf


class Discovery:
    """Sends and hears beacons; `run` must be running."""

    def __init__(
        self,
        env: Env,
        config: MulticastConfig,
        interfaces: Interfaces,
        own: OwnRecord,
        registry: Registry,
        upkeep: Upkeep,
        events: Events,
        *,
        network: str,
        instance: str,
    ) -> None:
        self.config = config
        self._env = env
        self._interfaces = interfaces
        self._own = own
        self._registry = registry
        self._upkeep = upkeep
        self._events = events
        self._network = network
        self._instance = instance
        self.links: dict[tuple[str, str], Link] = {}
        self._seen = BoundedTable[tuple[NodeId, str, str], None](MAX_SEEN)
        # Bounds the dials for beacons of known peers, and of this node: anybody can send one in any
        # name.
        self._redials = Budget(STRANGERS_AT_ONCE, STRANGERS_PER_SECOND)

    def reload(self, config: MulticastConfig) -> None:
        """Use other intervals from now on; each link sends a beacon soon."""
        self.config = config
        for link in self.links.values():
            link.answer.set()
            link.retry.set()

    async def run(self) -> None:
        """Send and hear beacons where configured, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._follow(nursery)
                await self._interfaces.changes.park()

    async def say_goodbye(self) -> None:
        """Tell the LAN that this node leaves."""
        for link in list(self.links.values()):
            await self._send(link, leaving=True)

    def _follow(self, nursery: trio.Nursery) -> None:
        wanted = {
            (interface.name, group): interface
            for interface in self._interfaces.in_use
            for group in self.groups(interface)
            if self.config.enabled
        }
        for where, link in list(self.links.items()):
            if wanted.get(where) != link.interface:
                link.scope.cancel()
                del self.links[where]
        for where, interface in wanted.items():
            if where not in self.links:
                link = self.links[where] = Link(interface, where[1])
                nursery.start_soon(self._serve, link)

    def groups(self, interface: Interface) -> list[str]:
        """Return the groups that an interface can take part in."""
        groups: list[str] = []
        # Loopback takes IPv4 multicast, though it does not say so.
        if not interface.multicast and not interface.loopback:
            return groups
        if any(":" not in host for host in interface.addresses):
            groups.append(self.config.group_v4)
        if interface.multicast and any(map(is_link_local_v6, interface.addresses)):
            groups.append(self.config.group_v6)
        return groups

    async def _serve(self, link: Link) -> None:
        with link.scope:
            while True:
                link.socket = socket = await self._join(link)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._send_beacons, link)
                        await self._hear(socket, link)
                        nursery.cancel_scope.cancel()
                finally:
                    link.socket = None
                    socket.close()
                await self._pause(link)

    async def _pause(self, link: Link) -> None:
        """Wait before a group is joined again."""
        link.retry = trio.Event()
        with trio.move_on_after(self.config.interval):
            await link.retry.wait()

    async def _join(self, link: Link) -> MulticastSocket:
        """Join the group of a link, as often as it takes."""
        while True:
            try:
                return self.open(link)
            except OSError as error:
                link.mute = self._tell(link, link.mute, f"can't join {link.group}", error)
            await self._pause(link)

    async def _send_beacons(self, link: Link) -> None:
        if not self.config.passive:
            await self._send_burst(link)
        next_beacon = trio.current_time() + self._interval()
        while True:
            asked = False
            with trio.move_on_at(next_beacon):
                await link.answer.wait()
                if not link.to_strangers.spend(1, trio.current_time()):
                    await trio.sleep_until(link.to_strangers.refilled_at())
                    link.to_strangers.spend(1, trio.current_time())
                asked = True
            # Before sending: a node heard from now on may have missed this beacon.
            link.answer = trio.Event()
            await self._send(link)
            # A reload may have made the interval shorter.
            regular = trio.current_time() + self._interval()
            next_beacon = min(next_beacon, regular) if asked else regular
            await trio.sleep(ANSWER_GAP)

    async def _send_burst(self, link: Link) -> None:
        started = trio.current_time()
        for at in BURST:
            await trio.sleep_until(started + at)
            link.answer = trio.Event()
            await self._send(link)

    def _interval(self) -> float:
        return self.config.interval * self._env.rng.uniform(0.9, 1.1)

    def beacon(self, interface: Interface, group: str) -> Beacon | None:
        """Return what to say to a group; None where this node does not listen there."""
        source = self._source(interface, group)
        if source is None:
            return None
        _, listener = source
        own_id = self._env.identity.node_id
        return Beacon(own_id, listener.port, self._network, self._instance)

    def open(self, link: Link) -> MulticastSocket:
        """Join the group of a link, to send from where this node listens; raises `OSError`."""
        interface = link.interface
        source = self._source(interface, link.group)
        if source is not None:
            interface = attrs.evolve(interface, addresses=(source[0],))
        return self._env.network.open_multicast(interface, link.group, self.config.port)

    def _source(self, interface: Interface, group: str) -> tuple[str, Address] | None:
        """Return the host to send from, which is where others will dial, and what listens there.

        Link-local ones come first of IPv6, as they last, and last of IPv4, as they lead nowhere
        else.
        """
        v6 = ":" in group
        listeners = {
            host: listener
            for host in interface.addresses
            if (":" in host) == v6
            and (listener := covering(self._own.listening, interface, host)) is not None
        }
        order = sorted(listeners, key=lambda host: Address(host, 0).ip.is_link_local is not v6)
        return next(((host, listeners[host]) for host in order), None)

    async def query(self, link: Link) -> None:
        """Ask all nodes on a link to answer at once; their answers are heard as any beacon is."""
        await self._send(link, query=True)

    async def _send(self, link: Link, *, leaving: bool = False, query: bool = False) -> None:
        beacon = self.beacon(link.interface, link.group)
        if beacon is None or link.socket is None:
            return
        beacon = attrs.evolve(beacon, leaving=leaving, query=query)
        try:
            await link.socket.send(write_beacon(beacon))
            link.mute = None
        except OSError as error:
            link.mute = self._tell(link, link.mute, "can't send beacons", error)

    async def _hear(self, socket: MulticastSocket, link: Link) -> None:
        """Take what comes, until the socket fails."""
        while True:
            try:
                data, host = await socket.receive()
            except OSError as error:
                link.deaf = self._tell(link, link.deaf, "can't hear beacons", error)
                return
            link.deaf = None
            try:
                beacon = read_beacon(data)
            except BadMessage:
                continue
            if not leads_out(host, link.interface):
                continue
            if link.tally is not None:
                own = self.beacon(link.interface, link.group)
                if own is not None:
                    link.tally.note(beacon, host, own)
            if beacon.query:
                # From another network, too: otherwise that node can't know that the name of its
                # network is the cause.
                await self._answer_query(link)
            elif beacon.network == self._network:
                self._take(beacon, host, link)

    async def _answer_query(self, link: Link) -> None:
        """Answer at once, but not too often: a node left without one heard those to others."""
        now = trio.current_time()
        if now - link.answered_at >= ANSWER_GAP and link.to_queries.spend(1, now):
            link.answered_at = now
            await self._send(link)

    def _take(self, beacon: Beacon, host: str, link: Link) -> None:
        if beacon.instance == self._instance or beacon.leaving:
            return
        address = Address(host, beacon.port)
        wall, now = self._env.wall_clock(), trio.current_time()
        if beacon.node_id == self._env.identity.node_id:
            # Perhaps a copy of this node. The handshake will tell, on both sides.
            if self._redials.spend(1, now):
                self._registry.configured(address, Source.MULTICAST, wall)
                self._upkeep.wake()
            return
        entry = self._registry.heard(beacon.node_id, address, Source.MULTICAST, wall)
        if entry is None:
            return
        is_news = self._remember(beacon, link)
        if is_news:
            # Perhaps it restarted, and a connection to it is dead: let it hear of us.
            self._answer(link)
        if entry.status is Status.CONNECTED:
            return
        if is_news:
            self._events.emit(
                "peer.discovered",
                f"heard a beacon of {beacon.node_id.short} from {address} on {link.interface.name}",
                level=logging.DEBUG,
                peer=beacon.node_id,
                address=str(address),
            )
        polite = self._env.identity.node_id > beacon.node_id
        at = now + POLITE_DELAY if polite else now
        # The same process as before is in the same network as before.
        if is_news:
            entry.reasons -= APART
        if entry.reasons.isdisjoint(APART) and self._claim_redial(entry, at):
            self._registry.retry_by(entry, at)
            self._upkeep.wake()

    def _claim_redial(self, entry: Entry, at: float) -> bool:
        """Take the right to have a peer dialled by `at` for a beacon; False where there is none.

        The dialler counts strangers itself. A peer that was connected once may be dialled when its
        time has come, and before that within a budget: otherwise a flood of beacons in its name
        would have it dialled without end.
        """
        if not entry.proven or entry.retry_at <= at:
            return True
        return self._redials.spend(len(entry.addresses), trio.current_time())

    def _answer(self, link: Link) -> None:
        if not self.config.passive:
            link.answer.set()

    def _remember(self, beacon: Beacon, link: Link) -> bool:
        """Note that a process was heard on a link; returns whether that is news."""
        heard = (beacon.node_id, beacon.instance, link.interface.name)
        news = heard not in self._seen
        self._seen[heard] = None
        return news

    def _tell(self, link: Link, before: str | None, what: str, error: OSError) -> str:
        """Put trouble into words, and report it, unless there was some `before`."""
        message = f"{what} on {link.interface.name}: {error.strerror}"
        if before is None:
            self._events.emit("discovery.trouble", message, level=logging.WARNING)
        link.port_taken = error.errno == errno.EADDRINUSE
        return message
