"""The interfaces of the host, as they come and go: what to announce, and whom to dial anew."""

import logging
from collections.abc import Sequence

import trio

from p2pd.errors import Exhausted
from p2pd.net.base import Interface
from p2pd.node.addresses import announced, suitable
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.exchange import Exchange
from p2pd.node.own_record import OwnRecord
from p2pd.node.roster import Roster
from p2pd.node.upkeep import Upkeep

_SETTLE = 0.05
_LOOK_AGAIN = 1.0


class Interfaces:
    """Keeps the node's announced addresses up to date; `run` must be running.

    `patterns` say which interfaces to use: see `addresses.suitable`. Those are `in_use`; tasks that
    wait for a change of them are parked in `changes`.
    """

    def __init__(
        self,
        env: Env,
        patterns: Sequence[str],
        own: OwnRecord,
        roster: Roster,
        upkeep: Upkeep,
        exchange: Exchange,
        events: Events,
    ) -> None:
        self.in_use: list[Interface] = []
        self.changes = trio.lowlevel.ParkingLot()
        self._env = env
        self._patterns = patterns
        self._own = own
        self._roster = roster
        self._upkeep = upkeep
        self._exchange = exchange
        self._events = events
        self._fits_none = False
        self._look()

    async def run(self) -> None:
        """Follow the interfaces until cancelled."""
        async with self._env.network.interface_changes() as changed:
            while True:
                try:
                    self._look()
                except Exhausted as error:
                    self._events.emit_exhausted(str(error))
                    await trio.sleep(_LOOK_AGAIN)
                    continue
                await changed()
                # Changes come in bursts, and are taken together.
                await trio.sleep(_SETTLE)

    def _look(self) -> None:
        """Announce the addresses that the host has now.

        Peers that were connected from an address that is gone are dialled anew. Raises `Exhausted`.
        """
        self._roster.drop_stranded()
        before, self.in_use = self.in_use, suitable(self._env.network.interfaces(), self._patterns)
        self._tell_of_none()
        if self._own.update(announced(self.in_use, self._own.listening)):
            self._exchange.announce()
        if not set(before).issuperset(self.in_use):
            # A new way out: peers that were out of reach may be within it now.
            self._upkeep.retry_all()
        self.changes.unpark_all()

    def _tell_of_none(self) -> None:
        """Tell when no interface matches any more what the configuration names."""
        names = [each for each in self._patterns if not each.startswith("!")]
        fits_none = bool(names) and not self.in_use
        if fits_none and not self._fits_none:
            self._events.emit(
                "discovery.trouble",
                f"no interface that is up fits discovery.multicast.interfaces = {names}: no "
                "address is announced, no beacon sent; `p2pctl doctor` shows those that are up",
                level=logging.WARNING,
            )
        self._fits_none = fits_none
