"""Seed nodes: connections to more than half of those in the configuration, kept up.

Two nodes that each know more than half of the seeds have one in common, through which they
hear of each other and of the dead.
"""

import logging
import math

import trio

from p2pd.address import Address
from p2pd.core.entries import Entry, Source, Status
from p2pd.core.registry import Registry
from p2pd.errors import Busy, DialFailed, HandshakeRefused, P2PError
from p2pd.hosts import parse_address
from p2pd.ids import NodeId
from p2pd.node.connection import Connection
from p2pd.node.dialler import Dialler
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.roster import Roster
from p2pd.wire.reasons import Reason

# Seconds after which each seed that is left is tried again while too few are connected. No address
# is tried more often, whatever its node does, and no name looked up more often.
TRY_INTERVAL = 5.0
# A name may come to stand for other addresses.
RESOLVE_INTERVAL = 300.0
# Seconds that dials of seeds wait for the names of the others to be looked up.
RESOLVE_WITHIN = 1.0


def quorum(seeds: int) -> int:
    """Return how many of `seeds` seeds a node connects to: more than half; of none, none."""
    return seeds // 2 + 1 if seeds else 0


class Seeds:
    """Keeps connections to a quorum of the seeds; each address of a name counts as one seed."""

    def __init__(
        self,
        env: Env,
        texts: tuple[str, ...],
        roster: Roster,
        dialler: Dialler,
        events: Events,
    ) -> None:
        self._env = env
        self._texts = texts
        self._roster = roster
        self._registry: Registry = roster.registry
        self._dialler = dialler
        self._events = events
        self._found: dict[str, list[Address]] = {}
        self._holders: dict[Address, NodeId] = {}
        self._tried: dict[Address, float] = {}
        # Where this node found itself, and when: one list is for all nodes, seeds included.
        self._own: dict[Address, float] = {}
        self._resolve_at = -math.inf
        self._resolving = trio.CancelScope()
        self._resolved = trio.Event()
        self._resolved.set()
        self._short = False
        self._wake = trio.Event()
        roster.on_disconnected.append(self._lost)

    def reload(self, texts: tuple[str, ...]) -> None:
        """Take a new list; connections to seeds no longer in it are kept like any others."""
        self._texts = texts
        self._found = {text: self._found[text] for text in texts if text in self._found}
        self._resolve_at = -math.inf
        self._resolving.cancel()
        self._wake.set()

    def connected(self) -> dict[Address, NodeId]:
        """Return the seeds with lasting connections, by the address in the configuration."""
        lasting = {each.node_id for each in self._roster.lasting()}
        return {at: node for at, node in self._holders.items() if node in lasting}

    async def run(self) -> None:
        """Connect to a quorum, and replace seeds that fail, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                if self._resolve_at <= now and self._resolved.is_set():
                    self._resolve_at, self._resolved = now + TRY_INTERVAL, trio.Event()
                    nursery.start_soon(self._resolve, self._texts)
                    with trio.move_on_after(RESOLVE_WITHIN):
                        await self._resolved.wait()
                missing = await self._connect()
                pause_end = self._next_try() if missing else trio.current_time() + RESOLVE_INTERVAL
                with trio.move_on_at(pause_end):
                    await self._wake.wait()

    async def _resolve(self, texts: tuple[str, ...]) -> None:
        with trio.CancelScope() as self._resolving:
            async with trio.open_nursery() as nursery:
                for text in texts:
                    nursery.start_soon(self._look_up, text)
            self._take_found(texts)
        self._resolved.set()
        self._wake.set()

    def _take_found(self, texts: tuple[str, ...]) -> None:
        found = self._found = {text: self._found.get(text, []) for text in texts}
        known = {each for addresses in found.values() for each in addresses}
        self._holders = {at: node for at, node in self._holders.items() if at in known}
        self._tried = {at: when for at, when in self._tried.items() if at in known}
        self._own = {at: when for at, when in self._own.items() if at in known}
        self._registry.forget_unidentified(Source.SEED, keep=known)
        # An unresolved name may stand for any seed known before the restart.
        if all(found.values()):
            self._give_back(known)

    async def _look_up(self, text: str) -> None:
        """Find the addresses of a seed, to be dialled at once: the next one may take long."""
        try:
            self._found[text] = await self._env.network.resolve(*parse_address(text))
        except DialFailed as error:
            if text not in self._found:
                self._events.emit("seed.unresolved", str(error), level=logging.WARNING)
        else:
            self._wake.set()

    def _give_back(self, known: set[Address]) -> None:
        """Turn former seeds into peers like any other, which may be released."""
        seeds = set(self._holders.values())
        # At an address that has a holder, there is no other node.
        open_addresses = known - self._holders.keys()
        for entry in self._registry:
            if (
                entry.source is Source.SEED
                and entry.node_id is not None
                and entry.node_id not in seeds
                and open_addresses.isdisjoint(entry.addresses)
            ):
                entry.source = Source.BOOTSTRAP

    def _addresses(self) -> list[Address]:
        # Another node may have such an address later.
        since = trio.current_time() - RESOLVE_INTERVAL
        found = (each for addresses in self._found.values() for each in addresses)
        return [each for each in dict.fromkeys(found) if self._own.get(each, -math.inf) < since]

    def _count(self) -> int:
        """Return how many seeds there are; a name without an address stands for one of them.

        Were it left out, a node that starts before its name server would have all that it wants.
        """
        unresolved = sum(not self._found.get(text) for text in self._texts)
        return len(self._addresses()) + unresolved

    def _next_try(self) -> float:
        """Return when (monotonic) the first of those that are left may be tried again."""
        held = self.connected()
        left = [each for each in self._addresses() if each not in held]
        tried = (self._tried.get(each, -math.inf) for each in left)
        return min(tried, default=trio.current_time()) + TRY_INTERVAL

    async def _connect(self) -> int:
        """Dial until there is a quorum or nobody is left; returns how many are missing."""
        wanted = quorum(self._count())
        held = self.connected()
        left = [each for each in self._addresses() if each not in held]
        self._env.rng.shuffle(left)
        for address in left:
            if len(self.connected()) >= wanted:
                break
            if self._tried.get(address, -math.inf) + TRY_INTERVAL <= trio.current_time():
                await self._dial(address)
                # Counted from the end of the dial: one that times out is not repeated at once.
                self._tried[address] = trio.current_time()
        # Names may have come to stand for other addresses meanwhile.
        wanted = quorum(self._count())
        missing = max(0, wanted - len(self.connected()))
        if (missing > 0) is not self._short:
            self._short = missing > 0
            text = f"connected to {wanted - missing} of the {wanted} seeds wanted"
            level = logging.WARNING if self._short else logging.INFO
            self._events.emit("seed.short" if self._short else "seed.enough", text, level=level)
        return missing

    async def _dial(self, address: Address) -> None:
        entry = self._registry.configured(address, Source.SEED, self._env.wall_clock())
        if entry is None or self._is_parted(entry, address):
            return
        try:
            connection = await self._dialler.dial_lasting(address, Source.SEED)
        except Busy:
            # Our own limit is not the seed's fault.
            return
        except P2PError as error:
            # One that has dialled us is there, though it can't be reached.
            if entry.status is not Status.CONNECTED:
                self._registry.failed(entry, str(error), trio.current_time())
            if isinstance(error, HandshakeRefused) and error.reason == Reason.ONESELF:
                self._own[address] = trio.current_time()
            return
        if address not in self._addresses():
            return
        self._holders[address] = connection.node_id
        if entry.node_id is None:
            self._registry.identified(address, connection.node_id)
        known = self._registry.get(connection.node_id)
        if known is not None and known.source is not Source.MANUAL:
            known.source = Source.SEED

    def _is_parted(self, entry: Entry, address: Address) -> bool:
        """Whether a user ended the connection to a seed, and it is too early to dial again.

        Another node may have taken the place of the one that `entry` is.
        """
        now, holder = trio.current_time(), self._holders.get(address)
        return any(
            each.parted
            and each.retry_at > now
            and (each is entry or each.node_id == holder or address in each.answered)
            for each in self._registry
        )

    def _lost(self, connection: Connection) -> None:
        entry = self._registry.get(connection.node_id)
        is_seed = entry is not None and entry.source is Source.SEED
        if is_seed or connection.node_id in self._holders.values():
            self._wake.set()
