"""What carries every byte between the hosts of a simulation, in virtual time.

One heap of events `(due, sequence)` for all hosts, so that a run is the same for the same
seed.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

import trio

from p2pd.net.faults import Conditions, Cut

TICK = 0.0005
# The share of a tick by which sums of floats may exceed a whole one and still count as it.
_TOLERANCE = 1e-6

# Called for everything that is carried: when, from where, to where, the bytes.
Trace = Callable[[float, str, str, bytes], None]


def on_tick(moment: float, tick: float) -> float:
    """Return the first whole tick at or after a moment, both in seconds."""
    return math.ceil(moment / tick - _TOLERANCE) * tick


def _untraced(_now: float, _source: str, _destination: str, _data: bytes) -> None:
    """Keep no trace."""


class Medium:
    """The hosts of one simulation and what is under way between them; `run` must be running.

    Deliveries fall on whole ticks (in seconds), so that many share one wake-up.
    """

    def __init__(
        self, conditions: Conditions, trace: Trace = _untraced, *, tick: float = TICK
    ) -> None:
        self.conditions = conditions
        self._tick = tick
        self.trace = trace
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._held: list[tuple[str, str, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._sleep = trio.CancelScope()

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._events and self._events[0][0] <= now:
                _, _, deliver, args = heapq.heappop(self._events)
                deliver(*args)
            next_due = self._events[0][0] if self._events else math.inf
            with trio.CancelScope(deadline=next_due) as self._sleep:
                await trio.sleep_forever()

    def schedule(self, due: float, deliver: Callable[..., None], *args: Any) -> float:
        """Call `deliver(*args)` at the first tick at or after `due`; returns when that is."""
        due = on_tick(due, self._tick)
        if not self._events or due < self._events[0][0]:
            self._sleep.deadline = due
        heapq.heappush(self._events, (due, next(self._sequence), deliver, args))
        return due

    def arrival(self, source: str, destination: str, size: int) -> float:
        """Return when `size` bytes sent now arrive."""
        return self.conditions.arrival(source, destination, size, trio.current_time())

    def hold(self, source: str, destination: str, send: Callable[[], None]) -> bool:
        """Hold a send back while a cut blocks it; returns whether one does."""
        if not self.conditions.blocked(source, destination):
            return False
        self._held.append((source, destination, send))
        return True

    def cut(self, cut: Cut) -> None:
        """Stop all that the cut blocks: streams stall, datagrams are lost."""
        self.conditions.cuts.append(cut)

    def heal(self, cut: Cut) -> None:
        """End a cut; what was held back by it is sent now, in order."""
        self.conditions.cuts.remove(cut)
        held, self._held = self._held, []
        for source, destination, send in held:
            if not self.hold(source, destination, send):
                send()
