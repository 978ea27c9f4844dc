"""Alarms: the timed waits of nodes, all those of a process in one sleep.

A Trio deadline ends a wait by a cancellation, which costs several times as much as a wake-up;
and waking for what might be due took a quarter of a quiet node's processor time.
"""

import heapq
import itertools
import math

import trio

# With fewer entries than this, idle ones are not dropped.
_FEW = 1024


class Alarms:
    """The alarms of one process; `run` must be running for any to ring."""

    def __init__(self) -> None:
        self._set: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._most = _FEW
        self._sleep = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._set)

    async def run(self) -> None:
        """Ring what is due, until cancelled."""
        while True:
            self._ring_due(trio.current_time())
            due = self._set[0][0] if self._set else math.inf
            with trio.CancelScope(deadline=due) as self._sleep:
                await trio.sleep_forever()

    def _ring_due(self, now: float) -> None:
        while self._set and self._set[0][0] <= now:
            due, _, alarm = heapq.heappop(self._set)
            if alarm.set_to == due:
                alarm.come(now)

    def enter(self, alarm: "Alarm", due: float) -> None:
        """Let an alarm know when it is `due`."""
        if not self._set or due < self._set[0][0]:
            self._sleep.deadline = due
        heapq.heappush(self._set, (due, next(self._numbers), alarm))
        if len(self._set) >= self._most:
            self._forget_the_idle()

    def _forget_the_idle(self) -> None:
        """Drop what nobody waits for any more; again once the rest has doubled in number."""
        self._set = [each for each in self._set if each[2].waits_for(each[0])]
        heapq.heapify(self._set)
        self._most = max(_FEW, 2 * len(self._set))


class Alarm:
    """The waits of one task: each ends when it is due, and that may be moved meanwhile.

    `due` is monotonic; it stays what it was when the wait is over.
    """

    def __init__(self, alarms: Alarms) -> None:
        self.due = math.inf
        # When `alarms` will ask; a wait that is put off is not entered anew before that.
        self.set_to = math.inf
        self._alarms = alarms
        self._waiting: trio.lowlevel.Task | None = None

    async def wait(self, due: float) -> None:
        """Wait until `due`, or until the time `move` sets; `math.inf` waits for a `move`."""
        self.due = due
        if due <= trio.current_time():
            await trio.lowlevel.checkpoint()
            return
        self._waiting = trio.lowlevel.current_task()
        self._enter()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def move(self, due: float) -> None:
        """Bring the end of the wait forward, or put it off; where nobody waits, do nothing.

        A wait that is due already, but has not rung yet, can't be put off.
        """
        now = trio.current_time()
        if self._waiting is not None and self.due > now:
            self.due = due
            if due <= now:
                self._ring()
            else:
                self._enter()

    def no_later_than(self, due: float) -> None:
        """Bring the end of the wait forward, if it is later than `due`."""
        if due < self.due:
            self.move(due)

    def ring(self) -> None:
        """End the wait now."""
        self.move(-math.inf)

    def come(self, now: float) -> None:
        """Ring, unless the end of the wait was put off."""
        self.set_to = math.inf
        if self._waiting is not None:
            if self.due <= now:
                self._ring()
            else:
                self._enter()

    def waits_for(self, due: float) -> bool:
        """Whether `alarms` has to ask at `due`; if not, it will not."""
        if self.set_to == due and self._waiting is None:
            self.set_to = math.inf
        return self.set_to == due

    def _enter(self) -> None:
        if self.due < self.set_to:
            self.set_to = self.due
            self._alarms.enter(self, self.due)

    def _ring(self) -> None:
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
