"""The connections of a node: at most one for each peer, inbound and outbound in one table.

All of them run in one nursery; one that ends, for whatever reason, ends alone.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

import attrs
import trio

from p2pd.address import host_group
from p2pd.config import ConnectionsConfig
from p2pd.core.bounded import BoundedTable
from p2pd.core.clones import Clones
from p2pd.core.diagnosis import UNCLONE
from p2pd.core.duplicates import Link, new_one_stays
from p2pd.core.entries import Entry, Source
from p2pd.core.observations import CLONED
from p2pd.core.registry import MAX_ADDRESSES, Registry
from p2pd.errors import Busy, HandshakeRefused
from p2pd.ids import NodeId
from p2pd.node.addresses import reachable
from p2pd.node.connection import Connection, Direction
from p2pd.node.ending import Ending
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.wire.reasons import LEAVING, Reason
from p2pd.wire.records import OpenedRecord

# When full, a connection that carried no request for this long makes room for a new one.
IDLE_AFTER = 30.0
# The same for an inbound one whose dialler does not mean to stay: the time for a question.
PASSED_AFTER = 1.0
_GOODBYE_GRACE = 0.5
# How long a peer may take to close what its new dial replaced, and to take our goodbye.
_RETIREMENT = 1.0
# The reason in a goodbye when full.
MAKING_ROOM = "making room for others"
# Peers that are remembered because they refused us; beyond that it is news again.
_MAX_REFUSING = 1024
# A peer that has not refused us so many seconds after it was admitted has accepted us.
_ACCEPTED_AFTER = 2.0


class Roster:
    """The table of connections; tasks in the background serve them.

    `on_connected` and `on_disconnected` are called where a peer comes and goes, `on_renewed` where
    another connection takes the place of one to the same process, or the peer's record is new.
    """

    def __init__(
        self, env: Env, config: ConnectionsConfig, registry: Registry, events: Events
    ) -> None:
        self.config = config
        self.registry = registry
        self.connections: dict[NodeId, Connection] = {}
        self.on_connected: list[Callable[[Connection], None]] = []
        self.on_disconnected: list[Callable[[Connection], None]] = []
        self.on_renewed: list[Callable[[Connection], None]] = []
        self._env = env
        self._own_id = env.identity.node_id
        self._events = events
        self._retiring: dict[NodeId, Connection] = {}
        self._clones = Clones()
        # Their last connection ended so: that they come again, and again refuse, is no news.
        self._refusing = BoundedTable[NodeId, None](_MAX_REFUSING)
        self._empty = trio.Event()
        self._leaving = False

    def reload(self, config: ConnectionsConfig) -> None:
        """Use other bounds from now on."""
        self.config = config

    def lasting(self) -> list[Connection]:
        """Return the connections that are meant to stay."""
        return [each for each in self.connections.values() if not each.passing]

    def serve_soon(self, connection: Connection) -> None:
        """Serve a connection in the background until it ends."""
        self._env.background.start(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception as error:  # noqa: BLE001 - the boundary: a bug costs one connection
            self._events.emit_bug("serving a connection", error, connection.node_id)
        finally:
            if self.connections.get(connection.node_id) is connection:
                self._remove(connection, connection.end_reason or "it ended")

    async def say_goodbye(self) -> None:
        """Tell all peers that this node leaves, and give them a moment to hear it."""
        self._leaving = True
        for connection in self.connections.values():
            connection.close(LEAVING)
        if self.connections:
            self._empty = trio.Event()
            with trio.move_on_after(_GOODBYE_GRACE):
                await self._empty.wait()

    def _admit(self, connection: Connection, source: Source) -> bool:
        """Enter a connection into the table; False if another one to the peer stays instead.

        Where the new one stays, the old one is closed.
        """
        node_id = connection.node_id
        old = self.connections.get(node_id)
        if old is not None and old.end_reason is not None:
            self._remove(old, old.end_reason)
        elif old is not None and not self._replace(old, connection):
            return False
        # The same process on another connection is no news, unless only this one lasts.
        replaced = self.connections.get(node_id)
        self.connections[node_id] = connection
        if replaced is not None:
            peer = connection.peer
            entry = self.registry.reconnected(
                peer.signed_record,
                peer.record,
                remote=connection.remote,
                dialled=connection.direction is Direction.OUTBOUND,
                passing=connection.passing,
            )
            _order_addresses(entry, connection)
            self._events.emit(
                "peer.reconnected",
                f"another connection to {describe(entry)} takes the place of the one before, "
                f"{connection.direction}, at {connection.remote}",
                level=logging.DEBUG,
                peer=node_id,
                address=str(connection.remote),
                direction=connection.direction,
            )
            connection.told = replaced.told
            if not connection.told and not connection.passing:
                self._tell_connected(connection, entry)
            for callback in self.on_renewed:
                callback(connection)
        else:
            self._enter(connection, source)
        return True

    def name_of(self, connection: Connection) -> str:
        """Name the peer of a connection for people; by its address if it has no entry."""
        entry = self.registry.get(connection.node_id)
        return str(connection.remote) if entry is None else describe(entry)

    def keep(self, connection: Connection) -> None:
        """Let a connection in passing last from now on."""
        connection.passing = False
        entry = self.registry.get(connection.node_id)
        if entry is not None and not connection.told:
            self._tell_connected(connection, entry)

    def renew(self, node_id: NodeId, opened: OpenedRecord) -> None:
        """Take the record that a connected peer announces in place of the one in its hello."""
        connection = self.connections.get(node_id)
        if connection is not None and opened.record.sequence > connection.peer.record.sequence:
            connection.peer = attrs.evolve(
                connection.peer,
                record=opened.record,
                signed_record=opened.signed,
                addresses=opened.addresses,
            )
            for callback in self.on_renewed:
                callback(connection)

    def _replace(self, old: Connection, new: Connection) -> bool:
        """Close the old connection to a peer if the new one is to stay; returns whether it is."""
        if not self._new_one_stays(old, new):
            return False
        # A peer that asks over a new connection does not mean to end the one that was to last.
        new.passing &= old.passing or old.peer.instance != new.peer.instance
        if old.peer.instance != new.peer.instance:
            self._clones.replaced(new.node_id, old.peer.instance)
            self._remove(old, "the peer restarted")
            self._retire(old, Reason.DUPLICATE)
        elif new.direction is Direction.OUTBOUND:
            self._retire(old, Reason.DUPLICATE)
        else:
            # The peer is left to close what one of its own dials replaces. It learns only now
            # that the new connection was admitted; a goodbye on the old one could overtake
            # that news, and leave it without any for a moment.
            self._retire(old, Reason.DUPLICATE, wait=_RETIREMENT)
        return True

    def _new_one_stays(self, old: Connection, new: Connection) -> bool:
        if self._is_clone(old, new):
            return False
        links = self._link(new), self._link(old)
        return _moved_away(old, new) or new_one_stays(*links, self._own_id, new.node_id)

    def _is_clone(self, old: Connection, new: Connection) -> bool:
        """Whether the old connection's process has taken the place of the new one's before."""
        another = new.peer.instance != old.peer.instance
        return another and self._clones.was_replaced(new.node_id, new.peer.instance)

    def _refuse_clone(self, old: Connection, new: Connection) -> HandshakeRefused:
        """Tell of two processes with one identity; returns what to tell the second one.

        Were it let in, each would displace the other again and again.
        """
        peer = new.node_id
        self._events.emit(
            "peer.cloned",
            f"two nodes run with the same identity as {self.name_of(new)}, at {old.remote} and "
            f"{new.remote}: a cloned disk or a copied state directory? {UNCLONE}",
            level=logging.WARNING if self._clones.is_news(peer) else logging.DEBUG,
            peer=peer,
            address=str(new.remote),
            reason=CLONED,
        )
        return HandshakeRefused(
            Reason.IDENTITY_TAKEN,
            f"another process with this identity is connected here, from {old.remote.host}; "
            f"{UNCLONE}",
        )

    def drop_stranded(self) -> None:
        """End the connections from addresses that this host no longer has.

        Nothing comes or goes over them, and no error would tell.
        """
        for connection in tuple(self.connections.values()):
            local = connection.local.host
            if not self._env.network.owns(local):
                reason = f"this host's address {local} is gone"
                self._remove(connection, reason)
                connection.abort(reason)

    def _retire(self, old: Connection, reason: str, *, wait: float = 0.0) -> None:
        """Close a connection that is out of the table, `wait` seconds from now.

        It no longer counts towards any limit: so it must go soon, even if the peer reads nothing,
        and no peer has more than one such.
        """
        earlier = self._retiring.get(old.node_id)
        if earlier is not None:
            earlier.abort(reason)
        self._retiring[old.node_id] = old
        self._env.background.start(self._close_retired, old, reason, wait)

    async def _close_retired(self, old: Connection, reason: str, wait: float) -> None:
        with trio.move_on_after(wait):
            await old.ended.wait()
        old.close(reason, within=_RETIREMENT)
        await old.ended.wait()
        if self._retiring.get(old.node_id) is old:
            del self._retiring[old.node_id]

    def admit_outbound(self, connection: Connection, source: Source) -> bool:
        """Enter a connection that we dialled; False if another one to the peer stays instead.

        Raises `Busy` where it is full.
        """
        if self._needs_place(connection):
            self.make_room(Direction.OUTBOUND)
        return self._admit(connection, source)

    def admit_inbound(self, connection: Connection) -> None:
        """Admit an inbound connection, or raise `HandshakeRefused`: full, a duplicate, a clone."""
        if self._needs_place(connection):
            self._check_limits(connection)
        if not self._admit(connection, Source.INBOUND):
            old = self.connections[connection.node_id]
            # Perhaps the old one is dead, and its end was not noticed here yet.
            old.probe()
            if self._is_clone(old, connection):
                raise self._refuse_clone(old, connection)
            raise HandshakeRefused(Reason.DUPLICATE, "there is a connection already")

    def _needs_place(self, new: Connection) -> bool:
        """Whether a connection takes a place in its direction that the peer does not hold yet."""
        old = self.connections.get(new.node_id)
        if old is None:
            return True
        return old.direction is not new.direction and (
            old.end_reason is not None or self._new_one_stays(old, new)
        )

    def check_room(self, direction: Direction, *, coming: int) -> None:
        """Raise `Busy` where one more would find no place, besides those that are `coming`."""
        held, missing = self._places(direction, coming)
        if missing > 0 and len(self._idle(held)) < missing:
            raise self._full(direction, held)

    def make_room(self, direction: Direction, *, newcomer: str | None = None) -> None:
        """Where a direction is full, close the connection unused for longest, or raise `Busy`.

        Connections in passing go first, as soon as nothing is under way on them. Inbound, the
        host `newcomer` takes no place from a host that holds fewer than it does.
        """
        held, missing = self._places(direction)
        if missing <= 0:
            return
        places: Counter[str | None] = Counter(map(_host, held))
        idle = [each for each in self._idle(held) if places[_host(each)] >= places[newcomer]]
        if not idle:
            raise self._full(direction, held)
        victim = min(idle, key=lambda each: (not each.passing, each.last_used))
        # Out of the table at once: a peer that reads slowly must not hold its place.
        self._remove(victim, MAKING_ROOM)
        self._retire(victim, MAKING_ROOM)

    def _places(self, direction: Direction, coming: int = 0) -> tuple[list[Connection], int]:
        """Return the connections in a direction, and how many places are missing for one more."""
        inbound = direction is Direction.INBOUND
        most = self.config.max_inbound if inbound else self.config.max_outbound
        held = [each for each in self.connections.values() if each.direction is direction]
        return held, len(held) + coming + 1 - most

    def _full(self, direction: Direction, held: list[Connection]) -> Busy:
        return Busy(
            f"all {len(held)} places for {direction} connections are taken "
            f"(connections.max_{direction}); raise it, or try again later"
        )

    def _idle(self, connections: Iterable[Connection]) -> list[Connection]:
        """Return the connections that may each go to make room."""
        now = trio.current_time()
        return [
            each
            for each in connections
            if now - each.last_used >= _idle_after(each)
            and not each.requests_under_way
            and not self._is_expected(each.node_id)
        ]

    def _is_expected(self, peer: NodeId) -> bool:
        """Whether somebody dials a peer, and may not have got to use its connection yet."""
        entry = self.registry.get(peer)
        return entry is not None and entry.dialling

    def _check_limits(self, connection: Connection) -> None:
        host = _host(connection)
        inside = sum(
            each.direction is Direction.INBOUND and _host(each) == host
            for each in self.connections.values()
        )
        # Nodes that share a host all come from its loopback address.
        if inside >= self.config.max_per_ip and not connection.remote.ip.is_loopback:
            raise HandshakeRefused(
                Reason.FULL, f"{inside} connections from {host} (connections.max_per_ip)"
            )
        try:
            self.make_room(Direction.INBOUND, newcomer=host)
        except Busy as full:
            raise HandshakeRefused(Reason.FULL, str(full)) from None

    def _enter(self, connection: Connection, source: Source) -> None:
        peer = connection.peer
        wall = self._env.wall_clock()
        entry = self.registry.connected(
            peer.signed_record,
            peer.record,
            source,
            wall,
            remote=connection.remote,
            dialled=connection.direction is Direction.OUTBOUND,
            passing=connection.passing,
        )
        _order_addresses(entry, connection)
        self._tell_connected(connection, entry)
        if peer.node_id in self._refusing:
            self._env.background.start(self._tell_if_it_stays, connection, entry)
        for callback in self.on_connected:
            callback(connection)

    def _tell_connected(self, connection: Connection, entry: Entry) -> None:
        """Tell of a connection: at debug where it is for a question, or will be refused again."""
        connection.told = not connection.passing and connection.node_id not in self._refusing
        self._events.emit(
            "peer.connected",
            f"connected to {describe(entry)}, {connection.direction}, at {connection.remote}",
            level=logging.INFO if connection.told else logging.DEBUG,
            peer=connection.node_id,
            address=str(connection.remote),
            direction=connection.direction,
        )

    async def _tell_if_it_stays(self, connection: Connection, entry: Entry) -> None:
        """Tell that a peer which refused us before does so no more."""
        with trio.move_on_after(_ACCEPTED_AFTER):
            await connection.ended.wait()
        if self.connections.get(connection.node_id) is connection and connection.refusal is None:
            self._refusing.pop(connection.node_id, None)
            if not connection.passing:
                self._tell_connected(connection, entry)

    def _remove(self, connection: Connection, reason: str) -> None:
        peer = connection.node_id
        del self.connections[peer]
        if not self.connections:
            self._empty.set()
        wall, now = self._env.wall_clock(), trio.current_time()
        entry = self.registry.disconnected(
            peer,
            None if self._leaving else reason,
            wall,
            now,
            on_request=connection.on_request,
            left=connection.ending is Ending.LEFT,
        )
        if connection.refusal is not None:
            self._refusing[peer] = None
        else:
            self._refusing.pop(peer, None)
        self._events.emit(
            "peer.disconnected",
            f"disconnected from {describe(entry)}: {reason}",
            level=logging.INFO if connection.told else logging.DEBUG,
            peer=peer,
            address=str(connection.remote),
            reason=reason,
        )
        for callback in self.on_disconnected:
            callback(connection)

    def _link(self, connection: Connection) -> Link:
        outbound = connection.direction is Direction.OUTBOUND
        return Link(
            dialler=self._own_id if outbound else connection.node_id,
            dial_number=connection.peer.dial_number,
            peer_instance=connection.peer.instance,
        )


def _order_addresses(entry: Entry, connection: Connection) -> None:
    """Put first what was dialled just now, then what the peer says now, then what was known."""
    claimed = reachable(connection.peer.addresses, connection.remote.host)
    dialled = entry.addresses[: connection.direction is Direction.OUTBOUND]
    known = dict.fromkeys([*dialled, *claimed, *entry.addresses])
    entry.addresses[:] = list(known)[:MAX_ADDRESSES]


def _moved_away(old: Connection, new: Connection) -> bool:
    """Whether a peer that we dialled has moved to another address, and dialled us from there.

    The old connection is dead then, but the rule for duplicates would keep it until we notice.
    """
    return (
        old.direction is Direction.OUTBOUND
        and new.direction is Direction.INBOUND
        and old.remote in old.peer.addresses
        and old.remote not in new.peer.addresses
    )


def _host(connection: Connection) -> str:
    """Name the host at the other end, as the limits count it.

    On this host's own link of IPv6 that is the address: all hosts there share one /64.
    """
    host, group = connection.remote.host, host_group(connection.remote.host)
    return host if host_group(connection.local.host) == group else group


def _idle_after(connection: Connection) -> float:
    """Return for how many seconds a connection must have been unused to make room.

    For one in passing that we dialled, none: we know what we ask on it.
    """
    if not connection.passing:
        return IDLE_AFTER
    return PASSED_AFTER if connection.direction is Direction.INBOUND else 0.0


def describe(entry: Entry) -> str:
    """Name a peer for people: its name and the start of its ID, or its address."""
    if entry.node_id is None:
        return str(entry.addresses[0])
    return f"{entry.name or 'peer'} ({entry.node_id.short})"
