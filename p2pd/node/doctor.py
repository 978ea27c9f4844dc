"""Looks at the node that it is part of, tries out what can be tried, and says what is wrong."""

from collections.abc import Iterable

import attrs
import trio

from p2pd.address import Address, unscoped
from p2pd.config import Config
from p2pd.core.diagnosis import about, diagnose
from p2pd.core.entries import Source, Status
from p2pd.core.findings import Finding
from p2pd.core.observations import (
    CLONED,
    ClockSeen,
    DialSeen,
    DiskSeen,
    EchoSeen,
    InterfaceSeen,
    Observations,
    RefusalSeen,
    TargetSeen,
)
from p2pd.errors import DialFailed, HandshakeRefused, P2PError, RequestTimedOut
from p2pd.hosts import parse_address
from p2pd.net.base import Interface
from p2pd.node.connection import Connection
from p2pd.node.dial_back import DiallingBack
from p2pd.node.dialler import Dialler
from p2pd.node.env import Env
from p2pd.node.own_record import OwnRecord
from p2pd.node.refusals import Refusals
from p2pd.node.roster import Roster, describe
from p2pd.node.soundings import Soundings
from p2pd.node.upkeep import Upkeep
from p2pd.store.base import Table
from p2pd.wire.messages import Echo, Echoed, Ping, Pong
from p2pd.wire.reasons import DialBackOutcome, Reason

# Seconds that each question, dial and name lookup may take; they go side by side.
WITHIN = 3.0
# Seconds that peers in backoff, which are dialled anew, have to connect before peers are asked.
_SETTLE = 0.5
# Peers asked to dial back: where one can't, another may.
MAX_ASKED = 3
# Peers whose clocks are read, and which are sent a long message: enough for a majority.
MAX_CLOCKS = 8
# So long that an Ethernet's largest packets are among those that carry it.
_LONG = bytes(4096)
# Configured names that are looked up and dialled, and addresses of each; any beyond are left out.
MAX_TARGETS = 16
MAX_ADDRESSES = 4
# The cause of an older refusal may have been mended.
REFUSALS_SECONDS = 300.0
# Refusals that show all the same that a node is there, and in order.
_THERE = {Reason.ONESELF, Reason.DUPLICATE, Reason.FULL, Reason.IDENTITY_TAKEN}


@attrs.define
class _Notes:
    """What the parts of an examination, which go on side by side, have found so far.

    `up` are the interfaces that are up, `own_hosts` their addresses.
    """

    up: list[Interface]
    own_hosts: set[str]
    interfaces: tuple[InterfaceSeen, ...] = ()
    targets: list[TargetSeen] = attrs.field(factory=list)
    dials: list[DialSeen] = attrs.field(factory=list)
    clocks: list[ClockSeen] = attrs.field(factory=list)
    answering: list[Connection] = attrs.field(factory=list)
    echoes: list[EchoSeen] = attrs.field(factory=list)
    disk: DiskSeen = attrs.field(factory=lambda: DiskSeen("", 0))


class Doctor:
    """Examines its node; `refusals` must be told of all events."""

    def __init__(
        self,
        env: Env,
        roster: Roster,
        dialler: Dialler,
        upkeep: Upkeep,
        soundings: Soundings,
        dialling_back: DiallingBack,
        own: OwnRecord,
    ) -> None:
        self.refusals = Refusals()
        self._env = env
        self._roster = roster
        self._dialler = dialler
        self._upkeep = upkeep
        self._soundings = soundings
        self._dialling_back = dialling_back
        self._own = own
        self._turn = trio.Lock()

    async def examine(self, config: Config) -> list[Finding]:
        """Try everything out, and return what was found; takes some seconds.

        One examination at a time: further callers wait for their turn. Raises `Exhausted`.
        """
        async with self._turn:
            return diagnose(await self._observe(config))

    async def _observe(self, config: Config) -> Observations:
        up = self._env.network.interfaces()
        notes = _Notes(up, {host for each in up for host in each.addresses})
        # What failed long ago may fail for another reason now.
        self._upkeep.retry_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sound, notes)
            nursery.start_soon(self._try_disk, config, notes)
            nursery.start_soon(self._ask_peers, notes)
            targets = [TargetSeen(text, seed=True) for text in config.discovery.seeds]
            targets += [TargetSeen(text, seed=False) for text in config.discovery.bootstrap]
            for target in targets[:MAX_TARGETS]:
                nursery.start_soon(self._try_target, target, notes)
        registry, wall = self._roster.registry, self._env.wall_clock()
        apart = [each for each in registry if each.status is not Status.CONNECTED]
        multicast = config.discovery.multicast
        return Observations(
            network=config.node.network,
            multicast_port=multicast.port,
            listening=tuple(map(str, self._own.listening)),
            multicast=multicast.enabled,
            patterns=multicast.interfaces,
            interfaces=notes.interfaces,
            targets=tuple(sorted(notes.targets, key=lambda each: (not each.seed, each.text))),
            refusals=tuple(
                RefusalSeen(each.reason, each.address, max(0.0, wall - each.time))
                for each in self.refusals.since(wall - REFUSALS_SECONDS)
                # Of two with one identity, one is connected.
                if each.peer not in self._roster.connections or each.reason == CLONED
            ),
            dials=tuple(notes.dials),
            clocks=tuple(notes.clocks),
            echoes=tuple(notes.echoes),
            disk=notes.disk,
            connected=len(self._roster.connections),
            other_hosts=tuple(unscoped(each.remote.host) for each in self._elsewhere(notes)),
            known=len(registry),
            unreachable=tuple(
                about(describe(each), each.last_error) for each in apart if each.last_error
            ),
        )

    async def _sound(self, notes: _Notes) -> None:
        notes.interfaces = await self._soundings.take(notes.up)

    async def _try_disk(self, config: Config, notes: _Notes) -> None:
        disk = await self._env.store.try_disk()
        notes.disk = DiskSeen(
            disk.directory,
            disk.free,
            disk.refusal,
            disk.full,
            used=self._env.store.usage(Table.RECORDS).bytes,
            most=config.store.max_bytes,
            largest=config.store.max_value_bytes,
        )

    async def _ask_peers(self, notes: _Notes) -> None:
        await trio.sleep(_SETTLE)
        async with trio.open_nursery() as nursery:
            for connection in self._elsewhere(notes)[:MAX_ASKED]:
                nursery.start_soon(self._have_dialled, connection, notes)
            for connection in self._shuffled(self._roster.connections.values())[:MAX_CLOCKS]:
                nursery.start_soon(self._read_clock, connection, notes)
        # Last: where a long message is lost, nothing else gets through on its connection any more.
        async with trio.open_nursery() as nursery:
            for connection in self._elsewhere(notes):
                if connection in notes.answering:
                    nursery.start_soon(self._try_long, connection, notes)

    async def _have_dialled(self, connection: Connection, notes: _Notes) -> None:
        reply = await self._dialling_back.ask(connection)
        if reply is None:
            return
        try:
            host, outcome = Address.parse(reply.address).host, DialBackOutcome(reply.outcome)
        except ValueError:
            return
        own = unscoped(host) in notes.own_hosts
        notes.dials.append(DialSeen(self._roster.name_of(connection), reply.address, outcome, own))

    async def _read_clock(self, connection: Connection, notes: _Notes) -> None:
        asked_at = trio.current_time()
        try:
            await connection.request(Ping(), Pong, WITHIN)
        except P2PError:
            return
        notes.answering.append(connection)
        if connection.peer_ms is not None:
            # The answer was on its way for half of that time.
            now = self._env.wall_clock() - (trio.current_time() - asked_at) / 2
            ahead = connection.peer_ms / 1000 - now
            notes.clocks.append(ClockSeen(self._roster.name_of(connection), ahead))

    async def _try_long(self, connection: Connection, notes: _Notes) -> None:
        if connection.bytes_waiting:
            # The answer would be late for that alone.
            return
        came_back = True
        try:
            await connection.request(Echo(_LONG), Echoed, WITHIN)
        except RequestTimedOut:
            came_back = False
        except P2PError:
            return
        notes.echoes.append(EchoSeen(self._roster.name_of(connection), came_back))

    async def _try_target(self, seen: TargetSeen, notes: _Notes) -> None:
        try:
            addresses = await self._resolve(seen.text)
        except DialFailed as error:
            notes.targets.append(attrs.evolve(seen, unresolved=str(error)))
            return
        for address in addresses[:MAX_ADDRESSES]:
            seen = await self._try_address(address, seen)
            if seen.answered is not None:
                break
        notes.targets.append(seen)

    async def _resolve(self, text: str) -> list[Address]:
        host, port = parse_address(text)
        with trio.move_on_after(WITHIN):
            return await self._env.network.resolve(host, port)
        raise DialFailed(f"can't resolve {host}: no answer within {WITHIN:g} s")

    async def _try_address(self, address: Address, seen: TargetSeen) -> TargetSeen:
        there = attrs.evolve(seen, answered=str(address))
        if any(
            entry.status is Status.CONNECTED and address in entry.answered
            for entry in self._roster.registry
        ):
            return there
        try:
            with trio.move_on_after(WITHIN):
                # Not as a seed: that connection would be kept, however many there are.
                await self._dialler.dial(address, Source.BOOTSTRAP)
                return there
        except P2PError as error:
            reason = error.reason if isinstance(error, HandshakeRefused) else error.code
            if reason in _THERE:
                return there
            return attrs.evolve(seen, failure=str(error), reason=reason)
        silent = f"{address} did not answer within {WITHIN:g} s"
        return attrs.evolve(seen, failure=silent, reason=DialFailed.code)

    def _elsewhere(self, notes: _Notes) -> list[Connection]:
        """Return the connections to other hosts, in a random order."""
        connections = self._roster.connections.values()
        return self._shuffled(
            each for each in connections if unscoped(each.remote.host) not in notes.own_hosts
        )

    def _shuffled(self, connections: Iterable[Connection]) -> list[Connection]:
        chosen = list(connections)
        self._env.rng.shuffle(chosen)
        return chosen
