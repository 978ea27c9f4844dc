"""Seed nodes: connections to more than half of those in the configuration, kept up.

Two nodes that each know more than half of the seeds have one in common, through which they
hear of each other and of the dead.
"""

import logging

import trio

from p2pd.address import Address
from p2pd.core.entries import Source
from p2pd.core.registry import Registry
from p2pd.errors import DialFailed, P2PError
from p2pd.hosts import parse_address
from p2pd.ids import NodeId
from p2pd.node.connection import Connection
from p2pd.node.dialer import Dialer
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.roster import Roster

# What a node that is a seed says of itself in its peer record.
SEED = "seed"
# While too few seeds are connected, all that are left are tried again so often, in seconds.
TRY_INTERVAL = 5.0
# A name may come to stand for other addresses.
RESOLVE_INTERVAL = 300.0


def quorum(seeds: int) -> int:
    """Return to how many of so many seeds a node connects: more than half, none of none."""
    return seeds // 2 + 1 if seeds else 0


class Seeds:
    """Keeps connections to a quorum of the seeds; each address of a name is one of them."""

    def __init__(
        self,
        env: Env,
        texts: tuple[str, ...],
        roster: Roster,
        dialer: Dialer,
        events: Events,
    ) -> None:
        self._env = env
        self._texts = texts
        self._roster = roster
        self._registry: Registry = roster.registry
        self._dialer = dialer
        self._events = events
        self._found: dict[str, list[Address]] = {}
        self._holders: dict[Address, NodeId] = {}
        self._short = False
        self._wake = trio.Event()
        roster.on_disconnected.append(self._lost)

    def set_addresses(self, texts: tuple[str, ...]) -> None:
        """Take a new list; connections to seeds that left it are kept as any other."""
        self._texts = texts
        self._wake.set()

    def connected(self) -> dict[Address, NodeId]:
        """Return the seeds that are connected, by the address of the configuration."""
        connections = self._roster.connections
        return {at: node for at, node in self._holders.items() if node in connections}

    async def run(self) -> None:
        """Connect to a quorum, and replace who fails, until cancelled."""
        while True:
            self._wake = trio.Event()
            await self._resolve()
            missing = await self._connect()
            with trio.move_on_after(TRY_INTERVAL if missing else RESOLVE_INTERVAL):
                await self._wake.wait()

    async def _resolve(self) -> None:
        found: dict[str, list[Address]] = {}
        for text in self._texts:
            try:
                found[text] = await self._env.network.resolve(*parse_address(text))
            except DialFailed as error:
                found[text] = self._found.get(text, [])
                if text not in self._found:
                    self._events.emit("seed.unresolved", str(error), level=logging.WARNING)
        self._found = found
        known = {each for addresses in found.values() for each in addresses}
        self._holders = {at: node for at, node in self._holders.items() if at in known}

    async def _connect(self) -> int:
        """Dial until there is a quorum or nobody is left; returns how many are missing."""
        addresses = dict.fromkeys(each for found in self._found.values() for each in found)
        wanted = quorum(len(addresses))
        held = self.connected()
        left = [each for each in addresses if each not in held]
        self._env.rng.shuffle(left)
        for address in left:
            if len(self.connected()) >= wanted:
                break
            await self._dial(address)
        missing = max(0, wanted - len(self.connected()))
        if (missing > 0) is not self._short:
            self._short = missing > 0
            text = f"connected to {wanted - missing} of the {wanted} seeds wanted"
            level = logging.WARNING if self._short else logging.INFO
            self._events.emit("seed.short" if self._short else "seed.enough", text, level=level)
        return missing

    async def _dial(self, address: Address) -> None:
        entry = self._registry.configured(address, Source.SEED, self._env.wall_clock())
        if entry is None:
            return
        try:
            connection = await self._dialer.dial(address, Source.SEED)
        except P2PError as error:
            self._registry.failed(entry, str(error), trio.current_time())
            return
        self._holders[address] = connection.node_id
        # It may have been here before, for a question or by its own dial.
        connection.passing = False
        known = self._registry.get(connection.node_id)
        if known is not None:
            known.source = Source.SEED

    def _lost(self, connection: Connection) -> None:
        if connection.node_id in self._holders.values():
            self._wake.set()
