"""When this node tells everybody that it is alive: by itself, and because others report it dead.

One sign of life refutes all reports that are dated before it. Reports cost a liar nothing while
nobody else counts them, so not each is answered at once. But a quorum of reporters, whom others may
believe without a probe of their own, always is.
"""

import math

from p2pd.core.bounded import BoundedTable
from p2pd.core.budget import Budget
from p2pd.core.reporters import REPORT_EARLY, REPORT_TTL
from p2pd.core.suspicion import QUORUM
from p2pd.ids import NodeId

# Seconds between two signs of life, whoever asks for them. Must stay well below
# `suspicion.REFUTE_WAIT`.
LEAST_INTERVAL = 1.0
# Reports that are answered at once: burst, then rate per second. Others wait until the budget has
# refilled.
ANSWERED_AT_ONCE = 10
ANSWERED_PER_SECOND = 0.05
# A reporter's next report counts towards a quorum here after so many seconds. Sooner than with
# others (`reporters.REPORT_AGAIN`), who may have missed its last one.
COUNTED_AGAIN = 10.0
# For so many seconds a sign of life answers all reports that are dated before it: it reaches
# whomever they reach.
ANSWERS_FOR = 60.0
# Reporters remembered as counted; when full, the oldest counts again.
MAX_COUNTED = 4096


class SignsOfLife:
    """Times are monotonic seconds; dates are Unix milliseconds."""

    def __init__(self) -> None:
        self._wanted_at = math.inf
        self._next_at = -math.inf
        self._later_than_ms = 0
        self._said_at = -math.inf
        self._said_ms = -1
        self._budget = Budget(ANSWERED_AT_ONCE, ANSWERED_PER_SECOND)
        # Who reported this node since its last sign of life; fewer than a quorum, else one is due.
        self._accusers: set[NodeId] = set()
        self._counted = BoundedTable[NodeId, float](MAX_COUNTED)

    @property
    def due(self) -> float:
        """When the next one is to be published; infinity for never."""
        return max(self._wanted_at, self._next_at)

    def want(self, now: float) -> None:
        """Have one published as soon as may be."""
        self._wanted_at = min(self._wanted_at, now)

    def accused(
        self, reporter: NodeId, observed_ms: int, *, wall_ms: int, stranger: bool, now: float
    ) -> None:
        """Note a report that this node is dead, which says when that was observed.

        However old it is: after a partition, it may be all that is left of a verdict. `stranger`:
        nothing is known of the reporter. Mostly, it is invented; whom only others know is answered
        later.
        """
        if observed_ms < self._said_ms and now - self._said_at < ANSWERS_FOR:
            return
        # Nobody believes a report that is dated later than that.
        latest_ms = wall_ms + round(REPORT_EARLY * 1000)
        self._later_than_ms = max(self._later_than_ms, min(observed_ms, latest_ms))
        if not stranger and wall_ms - observed_ms <= REPORT_TTL * 1000:
            self._count(reporter, now)
        if len(self._accusers) >= QUORUM or self._budget.spend(1, now):
            self.want(now)
        else:
            self.want(self._budget.refilled_at())

    def date(self, wall_ms: int) -> int:
        """Return the date of the one that is due: later than all reports that it is to refute."""
        return max(wall_ms, self._later_than_ms + 1)

    def said(self, wall_ms: int, now: float) -> None:
        """Note that one was published now."""
        # Not its `date`: one dated ahead answers no report of what is seen after this moment.
        self._said_ms, self._said_at = wall_ms, now
        self._wanted_at, self._next_at = math.inf, now + LEAST_INTERVAL
        self._later_than_ms = 0
        self._accusers.clear()

    def put_off(self, now: float) -> None:
        """Note that there is no room for one now: it is due again later."""
        self._next_at = now + LEAST_INTERVAL

    def _count(self, reporter: NodeId, now: float) -> None:
        if now - self._counted.get(reporter, -math.inf) >= COUNTED_AGAIN:
            self._counted[reporter] = now
            self._accusers.add(reporter)
