"""Compares this host's clock with those of its peers, and tells when most of them disagree.

What a node publishes by a wrong clock is dropped by all others, or it drops what they publish.
Neither shows to whoever publishes.
"""

import logging

import trio

from p2pd.core.diagnosis import wrong_clock
from p2pd.core.observations import ClockSeen
from p2pd.node.alarms import Alarm
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.roster import Roster

# Seconds. A verdict has to be the same twice: right after a sleep, or after the clock was set, what
# was heard before gives a wrong one.
COMPARE_INTERVAL = 30.0


class ClockWatch:
    """Looks at what the clocks of lasting connections said last; liars in the majority fool it."""

    def __init__(self, env: Env, roster: Roster, events: Events) -> None:
        self._env = env
        self._roster = roster
        self._events = events
        self._alarm = Alarm(env.alarms)
        self._seemed_wrong = self._told_wrong = False

    async def run(self) -> None:
        """Compare now and then, until cancelled."""
        while True:
            await self._alarm.wait(trio.current_time() + COMPARE_INTERVAL)
            if clocks := self._clocks():
                self._compare(clocks)

    def _compare(self, clocks: list[ClockSeen]) -> None:
        wrong = wrong_clock(clocks)
        seems_wrong = wrong is not None
        certain, self._seemed_wrong = seems_wrong is self._seemed_wrong, seems_wrong
        if not certain or seems_wrong is self._told_wrong:
            return
        self._told_wrong = seems_wrong
        if wrong is not None:
            self._events.emit(
                "node.clock_wrong", f"{wrong.text}; {wrong.remedy}", level=logging.WARNING
            )
        else:
            self._events.emit("node.clock_right", "this host's clock agrees with most peers again")

    def _clocks(self) -> list[ClockSeen]:
        now, wall = trio.current_time(), self._env.wall_clock()
        return [
            ClockSeen(
                self._roster.name_of(each),
                each.peer_ms / 1000 - (wall - (now - each.last_heard)),
            )
            for each in self._roster.lasting()
            if each.peer_ms is not None
        ]
