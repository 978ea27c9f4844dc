"""Which deaths this node reports to all others, and when.

A report goes to everybody, so their number matters: if many nodes die at once, each witness reports
them in one publication, leaving out those that enough others have reported.
"""

import math
import random
from collections import deque
from collections.abc import Callable

from p2pd.core.actions import Report
from p2pd.core.bounded import BoundedTable
from p2pd.core.reporters import REPORT_TTL, REPORTS_PER_MINUTE
from p2pd.core.suspicion import QUORUM
from p2pd.ids import NodeId

# A node with a death to report waits for other deaths to report with it: at random up to `GATHER`
# seconds for each suspect, `GATHER_MOST` in all.
GATHER = 0.4
GATHER_MOST = 2.0
# Once a quorum has reported a death, another node that finds it reports it only if drawn at random;
# so does one that looked only because others reported it. About this many of all nodes are drawn.
TELL_AGAIN = 2 * QUORUM
# When full, the oldest is forgotten, and may be reported once more.
MAX_TOLD_OF = 4096


class OwnReports:
    """The reports that wait to be published; times are monotonic seconds.

    `population` is how many nodes may report; the owner keeps it up to date.
    """

    def __init__(self, rng: random.Random) -> None:
        self.population = 0
        self._rng = rng
        self._waiting: dict[NodeId, Report] = {}
        self._due = math.inf
        self._times: deque[float] = deque(maxlen=REPORTS_PER_MINUTE)
        # How many reports of a node came, from anybody, and since when.
        self._told_of = BoundedTable[NodeId, tuple[int, float]](MAX_TOLD_OF)

    @property
    def due(self) -> float:
        """When `take` has something to return; infinity for never."""
        return self._due

    def note_report(self, accused: NodeId, now: float) -> None:
        """Note that a report came, even from a node of which nothing is known."""
        count, since = self._told_of.get(accused, (0, now))
        fresh = now - since <= REPORT_TTL
        self._told_of[accused] = (count + 1, since) if fresh else (1, now)

    def forget(self, node: NodeId) -> None:
        """Forget the reports of an earlier death, so that the next one is reported."""
        self._told_of.pop(node, None)

    def quorum_reported(self, node: NodeId, now: float) -> bool:
        """Whether a quorum has reported a death lately; its members may be invented."""
        count, since = self._told_of.get(node, (0, now))
        return count >= QUORUM and now - since <= REPORT_TTL

    def count_one(self, now: float) -> bool:
        """Count one more report; False if there are `REPORTS_PER_MINUTE` already."""
        if len(self._times) >= REPORTS_PER_MINUTE and now - self._times[0] < 60:
            return False
        self._times.append(now)
        return True

    def is_drawn(self) -> bool:
        """Whether this node is drawn, as are about `TELL_AGAIN` of all nodes."""
        return self._rng.random() * max(1, self.population) < TELL_AGAIN

    def add(self, report: Report, now: float, *, suspects: int) -> None:
        """Have it published, together with what is found out before it is due.

        `suspects` is how many others may turn out to be dead, too.
        """
        if not self._waiting:
            most = min(GATHER * (1 + suspects), GATHER_MOST)
            self._due = now + self._rng.uniform(0, most)
        self._waiting[report.node] = report

    def take(self, now: float, is_wanted: Callable[[NodeId], bool]) -> list[Report]:
        """Return what is to be published now, if it is due.

        These are the deaths for which `is_wanted` holds and that no quorum has reported. Such a
        quorum may be invented, so some nodes, drawn at random, report all the same.
        """
        if now < self._due:
            return []
        waiting, self._waiting, self._due = self._waiting, {}, math.inf
        return [
            report
            for node, report in waiting.items()
            if is_wanted(node) and (not self.quorum_reported(node, now) or self.is_drawn())
        ]
