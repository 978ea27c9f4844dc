"""Bootstrap addresses: entered into the registry, host names looked up again and again."""

import logging

import trio

from p2pd.address import Address
from p2pd.core.entries import Source
from p2pd.core.registry import Registry
from p2pd.errors import DialFailed
from p2pd.hosts import parse_address
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.roster import Roster
from p2pd.node.upkeep import Upkeep

# While nobody is connected, names are looked up again this often: their addresses may change.
RESOLVE_INTERVAL = 30.0


class Bootstrap:
    """Keeps the configured addresses known to the services that dial."""

    def __init__(
        self,
        env: Env,
        addresses: tuple[str, ...],
        registry: Registry,
        roster: Roster,
        upkeep: Upkeep,
        events: Events,
    ) -> None:
        self._env = env
        self._addresses = addresses
        self._registry = registry
        self._roster = roster
        self._upkeep = upkeep
        self._events = events
        self._resolved: dict[str, list[Address]] = {}
        self._unresolved: set[str] = set()
        self._changed = trio.Event()

    def reload(self, addresses: tuple[str, ...]) -> None:
        """Take a new list; addresses no longer in it are forgotten unless a node answered there."""
        self._addresses = addresses
        self._changed.set()

    async def run(self) -> None:
        """Resolve and enter the addresses, until cancelled."""
        while True:
            self._changed = trio.Event()
            texts = self._addresses
            async with trio.open_nursery() as nursery:
                for text in texts:
                    nursery.start_soon(self._look_up, text)
            self._resolved = {text: self._resolved.get(text, []) for text in texts}
            found = [each for addresses in self._resolved.values() for each in addresses]
            self._registry.forget_unidentified(Source.BOOTSTRAP, keep=found)
            with trio.move_on_after(RESOLVE_INTERVAL):
                await self._changed.wait()
            while self._roster.connections and not self._changed.is_set():
                with trio.move_on_after(RESOLVE_INTERVAL):
                    await self._changed.wait()

    async def _look_up(self, text: str) -> None:
        """Enter an address or a name at once: the next one may take long to look up."""
        host, port = parse_address(text)
        try:
            found = await self._env.network.resolve(host, port)
        except DialFailed as error:
            if text not in self._unresolved:
                self._unresolved.add(text)
                self._events.emit("bootstrap.unresolved", str(error), level=logging.WARNING)
            # The name's last known addresses are better than nothing while its servers are away.
            return
        self._unresolved.discard(text)
        self._resolved[text] = found
        wall = self._env.wall_clock()
        for address in found:
            self._registry.configured(address, Source.BOOTSTRAP, wall)
        self._upkeep.wake()
