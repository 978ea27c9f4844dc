"""Virtual time, and the same order of tasks for the same seed.

Trio shuffles its tasks on purpose, and offers no public way to seed that. Its private
knobs are touched here and nowhere else; a version of Trio without them is refused.
"""

import gc
import math
import random
from collections.abc import Awaitable, Callable, MutableSequence
from typing import Any, TypeVar

import trio
from trio._core import _run

from p2pd.net.medium import on_tick

T = TypeVar("T")


class _Shuffler(random.Random):
    """Shuffles like `random.Random`, several times as fast, but to another order."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """See `random.Random`; `x` is the list of tasks that may run."""
        draw = self.random
        x[:] = sorted(x, key=lambda _: draw())


class JumpingClock(trio.abc.Clock):
    """A clock that stands still, and jumps to the next deadline when there is nothing to do.

    Trio asks how long to sleep only when no task can run. `trio.testing.MockClock` jumps,
    too, but takes a tenth of a large world's time to do so. Only for programs that wait
    for no I/O and no thread.

    With a tick it jumps to whole ticks (in seconds), just as a kernel's timers fire a little
    late: then many timers of a large world share one wake-up.
    """

    def __init__(self, tick: float = 0.0) -> None:
        self._now = 0.0
        self._tick = tick

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See `trio.abc.Clock`: jump there, and do not sleep."""
        if deadline == math.inf:
            return math.inf
        if deadline > self._now:
            ticked = on_tick(deadline, self._tick) if self._tick else deadline
            self._now = max(deadline, ticked)
        return 0.0


def run_in_virtual_time(
    main: Callable[..., Awaitable[T]], *args: Any, seed: int, tick: float = 0.0
) -> T:
    """Run `main(*args)` as `trio.run` does, on a clock that jumps from event to event.

    `tick` is that of `JumpingClock`. Two runs with one seed schedule their tasks alike,
    whatever PYTHONHASHSEED is.
    """
    knobs = vars(_run)
    if not {"_ALLOW_DETERMINISTIC_SCHEDULING", "_r"} <= knobs.keys():
        raise RuntimeError(
            f"Trio {trio.__version__} can't be made deterministic: its private scheduler knobs "
            "are gone; use the version of pyproject.toml"
        )
    before = knobs["_ALLOW_DETERMINISTIC_SCHEDULING"], knobs["_r"]
    knobs["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    knobs["_r"] = _Shuffler(seed)
    collected = gc.isenabled()
    # Nearly all of a world stays until its end: to go through it again and again took a
    # tenth of the time, and freed three per cent of the memory.
    gc.disable()
    try:
        return trio.run(main, *args, clock=JumpingClock(tick))
    finally:
        knobs["_ALLOW_DETERMINISTIC_SCHEDULING"], knobs["_r"] = before
        if collected:
            gc.enable()
