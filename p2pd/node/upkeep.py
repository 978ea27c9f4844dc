"""Keeps up as many connections as `connections.target` says: dials the peers next in line."""

import math

import trio

from p2pd.errors import P2PError
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection
from p2pd.node.dialler import Dial, Dialler
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.node.shortage import Shortage

# Dials under way at once.
MAX_DIALS = 8


class Upkeep:
    """Replaces connections that are lost, until `stop` is called."""

    def __init__(self, env: Env, roster: Roster, dialler: Dialler, shortage: Shortage) -> None:
        self._registry = roster.registry
        self._dialler = dialler
        self._shortage = shortage
        self._alarm = Alarm(env.alarms)
        # Whether there were too few connections when it looked last.
        self._wants_more = True
        self._scope = trio.CancelScope()
        roster.on_disconnected.append(self._disconnected)
        # When to try a peer again is known only then.
        dialler.on_end.append(self.wake_if_short)

    def wake(self) -> None:
        """Look again at whom to dial: connections are missing, or their number has changed."""
        self._alarm.ring()

    def retry_all(self) -> None:
        """Dial all that are wanted now, whatever failed before: that may be over by now."""
        self._registry.retry_all()
        self.wake()

    def wake_if_short(self) -> None:
        """Look again at whom to dial, but only where more connections are wanted."""
        if self._wants_more:
            self.wake()

    async def run(self) -> None:
        """Keep `connections.target` connections up, until `stop` is called."""
        limit = trio.CapacityLimiter(MAX_DIALS)
        self._shortage.begin()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await self._keep_up(limit, nursery)

    def stop(self) -> None:
        """Replace no lost connections any more, and give up the dials for that."""
        self._dialler.leave()
        self._scope.cancel()

    async def _keep_up(self, limit: trio.CapacityLimiter, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            wanted = self._shortage.wanted() - limit.borrowed_tokens
            self._wants_more = wanted > 0
            room = min(wanted, int(limit.available_tokens))
            candidates = self._registry.candidates(now)[:room] if room > 0 else []
            next_retry = self._registry.next_retry(now) if wanted > 0 else None
            for entry in candidates:
                if not self._dialler.claim_dial(entry):
                    allowed_at = self._dialler.may_dial_strangers_at()
                    next_retry = min(next_retry or math.inf, allowed_at)
                    break
                dial = self._dialler.begin(entry)
                limit.acquire_on_behalf_of_nowait(dial)
                nursery.start_soon(self._carry_out, dial, limit)
            next_look = next_retry or math.inf
            if now < self._shortage.welcome_until:
                next_look = min(next_look, self._shortage.welcome_until)
            await self._alarm.wait(next_look)

    async def _carry_out(self, dial: Dial, limit: trio.CapacityLimiter) -> None:
        try:
            await self._dialler.carry_out(dial)
        except P2PError:
            # It is in the registry and in the log.
            return
        finally:
            limit.release_on_behalf_of(dial)
            self.wake()

    def _disconnected(self, connection: Connection) -> None:
        # One in passing was not among those that are to be kept up.
        if connection.passing:
            self.wake_if_short()
        else:
            self.wake()
