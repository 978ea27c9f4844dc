"""Dials: an address, or the addresses of a peer side by side, and what came of it."""

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from p2pd.address import Address
from p2pd.core.budget import Budget
from p2pd.core.entries import Entry, Source
from p2pd.core.registry import MAX_ADDRESSES
from p2pd.errors import (
    Busy,
    DialFailed,
    DialTimedOut,
    Exhausted,
    HandshakeRefused,
    NotFound,
    P2PError,
)
from p2pd.ids import NodeId
from p2pd.net.base import Stream
from p2pd.node.connection import Connection, Direction
from p2pd.node.dispatch import BUG
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.handshaking import Introducer
from p2pd.node.roster import MAKING_ROOM, PASSED_AFTER, Roster, describe
from p2pd.node.shortage import Shortage
from p2pd.wire.messages import Message
from p2pd.wire.reasons import Reason

# Tries of addresses of peers that are only heard of: burst, then rate per second. Anybody can name
# such addresses, and there need not be a node behind them.
STRANGERS_AT_ONCE = 64
STRANGERS_PER_SECOND = 8.0
# Lookups dial the peers that others name, and wait for no budget. This bounds how many of a
# victim's addresses we dial for each peer that somebody invents.
ADDRESSES_OF_STRANGERS = 3
# Extra tries in case the peer dials us for its next question at the same moment and its
# connection wins.
_MORE_DIALS = 3
# Seconds after which the next address of a peer is tried beside the last one (RFC 8305, section 5,
# has a quarter of a second for a connection; here a handshake goes with it).
HEAD_START = 0.5
# A peer that gave no answer for this many seconds counts as a failed dial, even if nobody waits
# for it any more.
CUT_SHORT = 1.5
# Seconds until a peer for which there was no room is dialled.
_NO_ROOM_PAUSE = 1.0


@attrs.define(eq=False)
class Dial:
    """A dial of a peer, with the arguments of `dial_entry`; `error` is for others that wait."""

    entry: Entry
    lasting: bool = False
    most: int = MAX_ADDRESSES
    question: Message | None = None
    done: trio.Event = attrs.field(factory=trio.Event)
    error: P2PError | None = None


@attrs.define(eq=False)
class _Race:
    """Addresses of one peer that are dialled side by side: only one of them gets a connection.

    So there is one handshake at a time, and none once there is a `winner`: two connections at once
    would each have the peer close the other. One for which others wait has `CUT_SHORT` seconds.
    """

    winner: Connection | None = None
    _handshake: trio.Lock = attrs.field(factory=trio.Lock)
    _under_way: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _yields_at: float = math.inf

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn at the handshake.

        Raises `DialFailed` where the race is over, `DialTimedOut` where another one gets the turn.
        """
        self._under_way.deadline = self._yields_at
        async with self._handshake:
            if self.winner is not None:
                raise DialFailed("another address of the peer has answered first")
            self._yields_at = trio.current_time() + CUT_SHORT
            others_wait = self._handshake.statistics().tasks_waiting > 0
            scope = trio.CancelScope(deadline=self._yields_at if others_wait else math.inf)
            self._under_way = scope
            with scope:
                yield
            if scope.cancelled_caught:
                raise DialTimedOut(f"nothing came in {CUT_SHORT:g} s; another address has its turn")


class Dialler:
    """Makes outbound connections.

    Tasks that wait for room for one more are parked in `room`; each of `on_end` is called at the
    end of each dial of a peer.
    """

    def __init__(
        self, env: Env, introducer: Introducer, roster: Roster, shortage: Shortage, events: Events
    ) -> None:
        self._env = env
        self._introducer = introducer
        self._roster = roster
        self._registry = roster.registry
        self._events = events
        self._dial_count = 0
        self._under_way = 0
        # Of these, those that are meant to last.
        self._lasting_under_way = 0
        self._dials: dict[NodeId, Dial] = {}
        self._strangers = Budget(STRANGERS_AT_ONCE, STRANGERS_PER_SECOND)
        self._shortage = shortage
        self._leaving = False
        self.room = trio.lowlevel.ParkingLot()
        self.on_end: list[Callable[[], None]] = []

    def leave(self) -> None:
        """Hold no dial that is cut short from now on against its peer: this node leaves."""
        self._leaving = True

    def claim_dial(self, entry: Entry, *, most: int = MAX_ADDRESSES) -> bool:
        """Whether up to `most` addresses of an entry may be dialled now; if so, counts them.

        Addresses at which nobody answered, and from which nobody came, are dialled seldom: anybody
        can name any address, connected peers included.
        """
        if entry.node_id is None or entry.source is Source.MANUAL:
            return True
        claimed = entry.claimed(most)
        return not claimed or self._strangers.spend(claimed, trio.current_time())

    def may_dial_strangers_at(self) -> float:
        """Return the moment from which `claim_dial` allows more, once it has refused."""
        return self._strangers.refilled_at()

    async def connect_to(
        self,
        peer: NodeId,
        *,
        lasting: bool = False,
        most: int = MAX_ADDRESSES,
        question: Message | None = None,
        waited: Callable[[], None] = lambda: None,
    ) -> Connection:
        """Return the connection to a peer; where there is none, dial its known addresses.

        Of these at most `most`, the best first, and of a peer that was never connected no more
        than `ADDRESSES_OF_STRANGERS`. `lasting` and `question`: see `dial_entry`. Several callers
        wait for one dial; `waited` is called when one that somebody else began has ended, also if
        that caller gave it up and another one follows. Raises what `dial_entry` raises, or
        `NotFound` where no address is known.
        """
        while (connection := self._roster.connections.get(peer)) is None:
            entry = self._registry.get(peer)
            if entry is not None and not entry.proven:
                most = min(most, ADDRESSES_OF_STRANGERS)
            under_way = self._dials.get(peer)
            if under_way is None:
                if entry is None or not entry.addresses:
                    raise NotFound(f"no address is known for peer {peer.short}")
                return await self.dial_entry(entry, lasting=lasting, most=most, question=question)
            # The addresses that the dial under way has not tried yet are dialled to stay.
            under_way.lasting |= lasting
            await under_way.done.wait()
            if under_way.error is not None and under_way.most >= most:
                raise under_way.error
            waited()
        return connection

    async def wait_for_room(self, peer: NodeId) -> None:
        """Wait until there may be room for a dial of a peer."""
        await self.room.park()
        entry = self._registry.get(peer)
        connected = peer in self._roster.connections or peer in self._dials
        if connected or entry is None or not entry.addresses:
            # It needs none any more: that is the next one's.
            self.room.unpark()

    async def dial_entry(
        self,
        entry: Entry,
        *,
        lasting: bool = False,
        most: int = MAX_ADDRESSES,
        question: Message | None = None,
    ) -> Connection:
        """Dial the addresses of a registry entry, and note there what came of it.

        At most `most` of them, the best first, each next one once the last has failed or taken
        `HEAD_START`. `lasting`: the connection is meant to last, even where there are enough. The
        `question` may go along with the handshake: see `Introducer.as_client`. Where the dial
        fails, but the peer has dialled us meanwhile, that connection is returned, which may be one
        in passing. Raises what `dial` raised for the best of the addresses that failed, and
        `DialFailed` where another node was found there.
        """
        return await self.carry_out(
            self.begin(entry, lasting=lasting, most=most, question=question)
        )

    def begin(
        self,
        entry: Entry,
        *,
        lasting: bool = False,
        most: int = MAX_ADDRESSES,
        question: Message | None = None,
    ) -> Dial:
        """Begin what `dial_entry` does: callers that want this peer now wait for this dial.

        `carry_out` must follow.
        """
        dial = Dial(entry, lasting, most, question)
        if entry.node_id is not None:
            self._dials[entry.node_id] = dial
        entry.dialling = True
        return dial

    async def carry_out(self, dial: Dial) -> Connection:
        """End what was begun; see `dial_entry`."""
        entry, began = dial.entry, trio.current_time()
        connection: Connection | None = None
        try:
            with self._place():
                connection = await self._try_addresses(dial)
        except Busy as error:
            # Our own limit is not the peer's fault.
            dial.error = error
            self._registry.postpone(entry, trio.current_time() + _NO_ROOM_PAUSE)
            raise
        except P2PError as error:
            # The peer may have dialled us meanwhile, as one behind a firewall does: then it is no
            # news that it can't be reached, and whoever waits has a connection.
            came = self._roster.connections.get(entry.node_id) if entry.node_id else None
            if came is not None:
                return came
            dial.error = error
            self._note_failure(entry, error)
            raise
        finally:
            cut_short = connection is None and dial.error is None and not self._leaving
            silent = entry.node_id not in self._roster.connections
            took = trio.current_time() - began
            if cut_short and silent and took >= CUT_SHORT:
                said = f"no answer in {took:.1f} s, and nobody waited any longer"
                self._note_failure(entry, DialTimedOut(said))
            entry.dialling = False
            if entry.node_id is not None and self._dials.get(entry.node_id) is dial:
                del self._dials[entry.node_id]
            dial.done.set()
            # When to try again is known only now.
            for ended in self.on_end:
                ended()
        return connection

    async def dial(
        self,
        address: Address,
        source: Source,
        *,
        lasting: bool = False,
    ) -> Connection:
        """Dial an address; returns the connection to the node that listens there.

        Where the new one is a duplicate, it is the one already in the table. `lasting`: see
        `dial_entry`. Raises `DialFailed`, `ConnectionLost`, `HandshakeRefused`, or `Busy` when
        full.
        """
        with self._place():
            lasts = _lasts(source, lasting=lasting)
            return await self._dial(address, source, None, _Race(), lasts=lasts)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Keep a place for one more connection within the `with`; raises `Busy`."""
        self._roster.check_room(Direction.OUTBOUND, coming=self._under_way)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self.room.unpark()

    async def dial_lasting(self, address: Address, source: Source) -> Connection:
        """Dial an address as `dial` does, and see that the connection is one that lasts.

        Where this dial is a duplicate of a connection that the peer made for a question of its
        own, that one is closed first, once the peer had time to get its answer.
        """
        connection = await self.dial(address, source, lasting=True)
        for _ in range(_MORE_DIALS):
            if not connection.passing:
                break
            with trio.move_on_after(PASSED_AFTER):
                await connection.ended.wait()
            held = self._roster.connections.get(connection.node_id)
            if held is not None and not held.passing:
                # The peer has seen to it meanwhile.
                return held
            await connection.see_off("another one takes its place")
            connection = await self.dial(address, source, lasting=True)
        return connection

    async def _dial(
        self,
        address: Address,
        source: Source,
        question: Message | None,
        race: _Race,
        *,
        lasts: bool | None,
    ) -> Connection:
        """Dial one address; `lasts` is what `_lasts` returned."""
        self._dial_count += 1
        number = self._dial_count
        timeout = self._roster.config.dial_timeout
        with trio.move_on_after(timeout):
            try:
                stream = await self._env.network.dial(address)
            except Exhausted as error:
                self._events.emit_exhausted(str(error))
                raise
            try:
                async with race.turn():
                    connection = await self._introduce(stream, number, question, lasts=lasts)
            except BaseException as error:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
                existing = _duplicate_of(error, self._roster)
                if existing is not None:
                    self._registry.answered(existing.node_id, address)
                    return existing
                raise
            return self._admit(connection, source)
        raise DialTimedOut(f"{address} did not answer within {timeout:g} s")

    async def _introduce(
        self,
        stream: Stream,
        number: int,
        question: Message | None,
        *,
        lasts: bool | None,
    ) -> Connection:
        # In a small network several dials under way lead to the same nodes.
        coming = 0 if self._shortage.is_small() else self._lasting_under_way
        is_lasting = self._shortage.wanted() > coming if lasts is None else lasts
        self._lasting_under_way += is_lasting
        try:
            return await self._introducer.as_client(
                stream, number, passing=not is_lasting, question=question
            )
        except P2PError:
            raise
        except Exception as error:
            # The boundary: a bug costs one connection.
            self._events.emit_bug("a handshake", error)
            raise DialFailed(BUG) from error
        finally:
            self._lasting_under_way -= is_lasting

    def _admit(self, connection: Connection, source: Source) -> Connection:
        """Enter a connection into the table; returns the one already there if that one stays."""
        try:
            admitted = self._roster.admit_outbound(connection, source)
        except Busy:
            self._roster.serve_soon(connection)
            connection.close(MAKING_ROOM)
            raise
        self._roster.serve_soon(connection)
        if not admitted:
            connection.close(Reason.DUPLICATE)
        return self._roster.connections[connection.node_id]

    async def _try_addresses(self, dial: Dial) -> Connection:
        errors: dict[int, P2PError] = {}
        race = _Race()

        async def attempt(number: int, address: Address, settled: trio.Event) -> None:
            try:
                race.winner = await self._try_address(dial, address, race)
                nursery.cancel_scope.cancel()
            except P2PError as error:
                errors[number] = error
            settled.set()

        async with trio.open_nursery() as nursery:
            for number, address in enumerate(tuple(dial.entry.addresses[: dial.most])):
                settled = trio.Event()
                nursery.start_soon(attempt, number, address, settled)
                with trio.move_on_after(HEAD_START):
                    await settled.wait()
        if race.winner is not None:
            return race.winner
        if errors:
            # The failure at the best address counts: that is where the peer was last.
            raise errors[min(errors)]
        raise DialFailed(f"no address of {describe(dial.entry)} is left to try")

    async def _try_address(self, dial: Dial, address: Address, race: _Race) -> Connection:
        entry = dial.entry
        if self._is_anothers(address, entry):
            raise DialFailed(f"at {address} there is another node now")
        parted = entry.parted and trio.current_time() < entry.retry_at
        lasts = _lasts(entry.source, lasting=dial.lasting, parted=parted)
        connection = await self._dial(address, entry.source, dial.question, race, lasts=lasts)
        if entry.node_id is None:
            self._registry.identified(address, connection.node_id)
        elif entry.node_id != connection.node_id:
            # Another dial may have found the same meanwhile.
            if address in entry.addresses:
                entry.addresses.remove(address)
            raise DialFailed(f"at {address} there is another node now, {connection.node_id.short}")
        return connection

    def _is_anothers(self, address: Address, entry: Entry) -> bool:
        """Whether another node answered at an address, and is still connected over that dial."""
        return entry.node_id is not None and any(
            each.direction is Direction.OUTBOUND
            and each.remote == address
            and each.node_id != entry.node_id
            for each in self._roster.connections.values()
        )

    def _note_failure(self, entry: Entry, error: P2PError) -> None:
        reason = error.reason if isinstance(error, HandshakeRefused) else error.code
        news = reason not in entry.reasons
        entry.reasons.add(reason)
        # One list of bootstrap addresses for a whole fleet names every node to itself, and a node
        # that said it stops is mostly no longer there.
        expected = reason == Reason.ONESELF or entry.left
        level = logging.INFO if expected else logging.WARNING
        who = describe(entry)
        self._registry.failed(entry, str(error), trio.current_time())
        self._events.emit(
            "peer.dial_failed",
            # An address is named by the error itself.
            str(error) if who in str(error) else f"can't connect to {who}: {error}",
            level=level if news else logging.DEBUG,
            peer=entry.node_id,
            address=str(entry.addresses[0]) if entry.addresses else None,
            reason=reason,
        )


def _lasts(source: Source, *, lasting: bool, parted: bool = False) -> bool | None:
    """Say whether a connection is meant to last; None: only if more such are wanted.

    For a while after a user `parted` from a peer, no dial for a question makes one that lasts.
    """
    if lasting or parted:
        return lasting
    return True if source in {Source.MANUAL, Source.SEED} else None


def _duplicate_of(error: BaseException, roster: Roster) -> Connection | None:
    """Return the connection because of which a peer refused ours as a duplicate."""
    if not isinstance(error, HandshakeRefused) or error.reason != Reason.DUPLICATE:
        return None
    # Otherwise anybody could pass off its own address as another peer's.
    return roster.connections.get(error.claimed) if error.claimed and error.proven else None
