"""Keepalive: a connection on which nothing is heard is probed, and closed after some misses.

One task serves all connections. Whatever is heard counts, so that one side's probes serve
both. The same task notices that the machine slept: then nothing is closed for the silence
of that time, and everybody lost is dialled at once.
"""

import logging
import math
from collections.abc import Callable

import trio

from p2pd.config import LivenessConfig
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection, Direction
from p2pd.node.ending import Ending
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.roster import Roster

# Linux's monotonic clock stands still while the machine sleeps, the wall clock does not.
SLEPT_SECONDS = 15.0
# Where probes are rarer, it looks this often all the same whether the machine slept.
_LONGEST_WAIT = 15.0
# How long a connection that was made for a question is kept for the next one.
PASSING_SECONDS = 10.0
# Probes of several connections that are due at about the same time share a wake-up.
_SHORTEST_WAIT = 1.0
# An eviction that is due does not wait for others.
_EVICTION_WAIT = 0.05


class Keepalive:
    """Probes the connections of a roster."""

    def __init__(
        self,
        env: Env,
        config: LivenessConfig,
        roster: Roster,
        events: Events,
        on_wake: Callable[[], None],
        on_round: Callable[[float], None],
    ) -> None:
        self.config = config
        self._env = env
        self._roster = roster
        self._events = events
        self._on_wake = on_wake
        self._on_round = on_round
        self._alarm = Alarm(env.alarms)
        self._next_round = math.inf
        self._unanswered: dict[Connection, None] = {}
        # Whether some had not answered yet when it looked last.
        self._was_overdue = False

    def reload(self, config: LivenessConfig) -> None:
        """Use another configuration from now on."""
        self.config = config
        self._alarm.move(trio.current_time())

    async def run(self) -> None:
        """Probe until cancelled.

        `on_wake` is called when the machine wakes from sleep; `on_round` each time, with the
        seconds by which this process came late: what it did not hear then was nobody's
        silence.
        """
        offset = self._clock_offset()
        while True:
            now = trio.current_time()
            shortest = min(_SHORTEST_WAIT, self.config.ping_timeout / 2)
            due, evict_at = self._look_round(now, shortest)
            due = min(max(due, now + shortest), now + _LONGEST_WAIT)
            self._next_round = min(due, max(evict_at, now + _EVICTION_WAIT))
            overdue = now + self.config.ping_timeout / 2 if self._unanswered else math.inf
            await self._alarm.wait(min(self._next_round, overdue))
            late = trio.current_time() - self._alarm.due
            if late > shortest:
                for connection in self._roster.connections.values():
                    connection.excuse(late)
            self._on_round(late)
            before, offset = offset, self._clock_offset()
            if self._lost_time(offset - before, late):
                self._on_wake()

    def _lost_time(self, jump: float, late: float) -> bool:
        """Report a jump of the wall clock, or that this process was stopped; both in seconds.

        Returns whether others may have given this node up meanwhile.
        """
        if jump > SLEPT_SECONDS:
            self._events.emit(
                "node.woke",
                f"the machine slept for {jump:.0f} s (or its clock was set): "
                "probing and redialling all peers",
            )
        elif late > SLEPT_SECONDS:
            self._events.emit(
                "node.stalled",
                f"this process did not get to run for {late:.0f} s: probing and redialling all "
                "peers; was it stopped, or is the machine overloaded?",
                level=logging.WARNING,
            )
        elif jump < -SLEPT_SECONDS:
            self._events.emit(
                "node.clock_back",
                f"the clock was set back by {-jump:.0f} s: while it is behind that of others, "
                "their messages are dropped as dated ahead; run NTP",
                level=logging.WARNING,
            )
        return jump > SLEPT_SECONDS or late > SLEPT_SECONDS

    def _look_round(self, now: float, shortest: float) -> tuple[float, float]:
        """Look after all connections; returns when the next is due, and when one is evicted."""
        self._was_overdue = bool(self._unanswered)
        self._unanswered.clear()
        dialled, accepted = self._interval(Direction.OUTBOUND), self._interval(Direction.INBOUND)
        due, longest_silent = now + dialled, math.inf
        for connection in tuple(self._roster.connections.values()):
            heard = connection.last_heard
            quiet_at = heard + (dialled if connection.direction is Direction.OUTBOUND else accepted)
            if connection.passing:
                quiet_at = self._look_after_passing(connection, now)
            else:
                longest_silent = min(longest_silent, heard)
                if quiet_at <= now + shortest:
                    quiet_at = self._look_after(connection, now, shortest)
            due = min(due, quiet_at)
        return due, longest_silent + self.config.evict_after

    def _look_after(self, connection: Connection, now: float, shortest: float) -> float:
        """Probe or close a connection if it is time; returns when to look again.

        A first probe is not late, but up to `shortest` seconds early.
        """
        config = self.config
        # Other services probe, too, for their own reasons: that must not put off the end.
        probes = min(connection.unanswered_probes, config.misses)
        interval = self._interval(connection.direction)
        # Probes follow each other in half a `ping_timeout`; the last one has a whole one.
        waits = probes + (probes == config.misses)
        due = connection.last_heard + interval + waits * config.ping_timeout / 2
        evicted_at = connection.last_heard + config.evict_after
        if now < due - (0 if probes else shortest) and now < evicted_at:
            return due
        if connection.unanswered_probes >= config.misses or now >= evicted_at:
            self._give_up(connection, now)
            return now + config.ping_interval
        self._probe(connection)
        return now + self._interval(Direction.OUTBOUND)

    def _look_after_passing(self, connection: Connection, now: float) -> float:
        """Close a passing one that is not needed, or silent; returns when to look again.

        The end that dialled closes it first, or the close would cross with its next question.
        Beyond that, one probe decides at either end: by then the connection was silent for as long
        as a lasting one may be.
        """
        mine = connection.direction is Direction.OUTBOUND
        kept_until = connection.last_used + (PASSING_SECONDS if mine else 3 * PASSING_SECONDS)
        if connection.requests_under_way:
            kept_until = math.inf
        if now >= kept_until:
            connection.close("no longer needed")
            return math.inf
        # Not counted from `last_used`: questions that nobody answers are no sign of life.
        timeout, probes = self.config.ping_timeout, connection.unanswered_probes
        quiet = max(PASSING_SECONDS + _SHORTEST_WAIT, self._interval(Direction.INBOUND))
        due = connection.last_heard + quiet + min(probes, 1) * timeout
        if now < due:
            return min(due, kept_until)
        if probes:
            self._give_up(connection, now)
        else:
            self._probe(connection)
        return now + timeout

    def _probe(self, connection: Connection) -> None:
        connection.probe(self._answered)
        self._unanswered[connection] = None

    def _give_up(self, connection: Connection, now: float) -> None:
        silence = now - connection.last_heard
        text = f"silent for {silence:.0f} s, {connection.unanswered_probes} probes unanswered"
        connection.abort(text, Ending.SILENT)

    def _answered(self, connection: Connection) -> None:
        """Look again only when the next is due, once all that were probed have answered.

        But at once where that took more than a round: this node may have been out of reach.
        """
        self._unanswered.pop(connection, None)
        if not self._unanswered:
            self._alarm.move(trio.current_time() if self._was_overdue else self._next_round)

    def _interval(self, direction: Direction) -> float:
        """Return how long a connection may be quiet: the dialler probes first, which serves both.

        Nobody is evicted without a probe, however soon that is.
        """
        config = self.config
        dialled = direction is Direction.OUTBOUND
        interval = config.ping_interval + (0 if dialled else config.ping_timeout / 2)
        return min(interval, self._longest())

    def _longest(self) -> float:
        evict_after = self.config.evict_after
        return max(evict_after - 2 * self.config.ping_timeout, evict_after / 2)

    def _clock_offset(self) -> float:
        return self._env.wall_clock() - trio.current_time()
