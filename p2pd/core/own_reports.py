"""Which deaths this node tells all others of, and when.

A report goes to everybody, so it matters how many there are: of many that die at once each
witness tells in one publication, and nothing that enough others told before.
"""

import math
import random
from collections import deque
from collections.abc import Callable

from p2pd.core.bounded import BoundedTable
from p2pd.core.reporters import REPORT_TTL, REPORTS_PER_MINUTE
from p2pd.core.suspicion import QUORUM
from p2pd.core.verdicts import Report
from p2pd.ids import NodeId

# Whoever has a death to report gathers for up to so many seconds for each suspect, at most the
# last, what else it finds out.
GATHER = 0.4
GATHER_MOST = 2.0
# Once a quorum has reported a death, a node that finds it out, too, reports it only by lot; so does
# one that looked only because others reported it. Of all nodes about so many draw it.
TELL_AGAIN = 2 * QUORUM
# At the bound the oldest is forgotten, and told once more.
MAX_TOLD_OF = 4096


class OwnReports:
    """The reports that wait to be told; times are monotonic seconds.

    `population` is how many nodes there are that may tell: kept up to date by the owner.
    """

    def __init__(self, rng: random.Random) -> None:
        self.population = 0
        self._rng = rng
        self._waiting: dict[NodeId, Report] = {}
        self._due = math.inf
        self._times: deque[float] = deque(maxlen=REPORTS_PER_MINUTE)
        # How many reports of a node came, by whomever, and since when.
        self._told_of = BoundedTable[NodeId, tuple[int, float]](MAX_TOLD_OF)

    @property
    def due(self) -> float:
        """When `take` has something to return: infinity if never."""
        return self._due

    def note_told(self, accused: NodeId, now: float) -> None:
        """Note that a report came, be it by somebody of whom nothing is known."""
        count, since = self._told_of.get(accused, (0, now))
        fresh = now - since <= REPORT_TTL
        self._told_of[accused] = (count + 1, since) if fresh else (1, now)

    def forget(self, node: NodeId) -> None:
        """What was told of an earlier death keeps nobody from telling of the next one."""
        self._told_of.pop(node, None)

    def is_told(self, node: NodeId) -> bool:
        """Whether a quorum has told of a death: its reporters may be invented."""
        count, _ = self._told_of.get(node, (0, 0.0))
        return count >= QUORUM

    def count_one(self, now: float) -> bool:
        """Count one more report; False if there are `REPORTS_PER_MINUTE` already."""
        if len(self._times) >= REPORTS_PER_MINUTE and now - self._times[0] < 60:
            return False
        self._times.append(now)
        return True

    def is_drawn(self) -> bool:
        """Draw about `TELL_AGAIN` of all nodes."""
        return self._rng.random() * max(1, self.population) < TELL_AGAIN

    def add(self, report: Report, now: float, *, suspects: int) -> None:
        """Tell it, together with what is found out before it is due.

        `suspects` are how many others may turn out to be dead, too.
        """
        if not self._waiting:
            most = min(GATHER * (1 + suspects), GATHER_MOST)
            self._due = now + self._rng.uniform(0, most)
        self._waiting[report.node] = report

    def take(self, now: float, is_wanted: Callable[[NodeId], bool]) -> list[Report]:
        """Return what is to be told now, if it is due.

        These are the deaths for which `is_wanted` holds and that no quorum has reported. Such a
        quorum may be invented, so some nodes, by lot, report all the same.
        """
        if now < self._due:
            return []
        waiting, self._waiting, self._due = self._waiting, {}, math.inf
        return [
            report
            for node, report in waiting.items()
            if is_wanted(node) and (not self.is_told(node) or self.is_drawn())
        ]
