"""Whose reports count: a node that reports the living, or too many, is not heard for a while."""

from collections import Counter, deque
from itertools import takewhile

import attrs

from p2pd.ids import NodeId

# Seconds after which a report is too old.
REPORT_TTL = 300.0
# How far in the future a report may be dated, in seconds, since clocks differ. The accused dates
# its refutation after the report: how far the reporter's clock is ahead of the accused's, and that
# one ahead of the receiver's, must together stay within `history.MAX_SKEW`, or the refutation is
# dropped.
REPORT_EARLY = 30.0
# A reporter's next report of the same node counts after so many seconds.
REPORT_AGAIN = 60.0
# A node's own reports in any minute; more are left to others that noticed, too.
REPORTS_PER_MINUTE = 60
# What one reporter may say in REPORT_AGAIN seconds: all its reports that are not too old yet may
# have waited for a route to us, and come at once.
MAX_RECENT_OF_ONE = int(REPORTS_PER_MINUTE * REPORT_TTL / 60)
# When full, the oldest is forgotten, so that its repetition counts again.
MAX_RECENT = 16384
# After so many refuted reports within the window, in seconds, a reporter is discredited for the
# length of the window.
FALSE_REPORTS = 3
CREDIT_WINDOW = 600.0
# Reporters remembered as wrong. When full, the oldest is forgiven, preferably one that is not
# discredited.
MAX_REPORTERS = 4096


@attrs.define(eq=False)
class _Standing:
    refuted: deque[float] = attrs.field(factory=lambda: deque(maxlen=FALSE_REPORTS))
    discredited_until: float = 0.0


class Reporters:
    """Keeps who recently reported whom, and who was wrong; times are monotonic seconds."""

    def __init__(self) -> None:
        self._standings: dict[NodeId, _Standing] = {}
        # When each accused was reported by each reporter, the oldest first.
        self._recent: dict[tuple[NodeId, NodeId], float] = {}
        self._recent_of: Counter[NodeId] = Counter()

    def is_discredited(self, reporter: NodeId, now: float) -> bool:
        """Whether this reporter's reports count for nothing."""
        standing = self._standings.get(reporter)
        return standing is not None and now < standing.discredited_until

    def admit(self, accused: NodeId, reporter: NodeId, now: float) -> bool:
        """Note a report; False if it is a repetition, or one of too many."""
        recent = self._recent
        old = takewhile(lambda each: now - each[1] >= REPORT_AGAIN, recent.items())
        # In one go: to find its first item, a dictionary steps over all that were deleted before
        # it.
        for each in [each for each, _ in old]:
            self._forget(each)
        if len(recent) >= MAX_RECENT:
            self._forget(next(iter(recent)))
        if (accused, reporter) in recent or self._recent_of[reporter] >= MAX_RECENT_OF_ONE:
            return False
        recent[accused, reporter] = now
        self._recent_of[reporter] += 1
        return True

    def _forget(self, report: tuple[NodeId, NodeId]) -> None:
        _, reporter = report
        del self._recent[report]
        self._recent_of[reporter] -= 1
        if not self._recent_of[reporter]:
            del self._recent_of[reporter]

    def refuted(self, reporter: NodeId, now: float) -> None:
        """Note that a node that it reported dead is alive."""
        standing = self._standings.get(reporter)
        if standing is None:
            self._make_room(now)
            standing = self._standings[reporter] = _Standing()
        standing.refuted.append(now)
        oldest = standing.refuted[0]
        if len(standing.refuted) == FALSE_REPORTS and now - oldest <= CREDIT_WINDOW:
            standing.discredited_until = now + CREDIT_WINDOW

    def confirmed(self, reporter: NodeId) -> None:
        """Note that a report proved true: it cancels the latest false one."""
        standing = self._standings.get(reporter)
        if standing is not None and standing.refuted:
            standing.refuted.pop()

    def _make_room(self, now: float) -> None:
        if len(self._standings) >= MAX_REPORTERS:
            believed = (each for each in self._standings if not self.is_discredited(each, now))
            del self._standings[next(believed, next(iter(self._standings)))]
