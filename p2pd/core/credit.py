"""Which reporters are still believed: who accuses the living loses his say for a while."""

from collections import deque

import attrs

from p2pd.ids import NodeId

# So many refuted reports within the window, in seconds, and a reporter is discredited for
# as long as the window.
FALSE_REPORTS = 3
CREDIT_WINDOW = 600.0
# At the bound the oldest is forgiven, one not discredited first.
MAX_REPORTERS = 4096


@attrs.define(eq=False)
class _Standing:
    refuted: deque[float] = attrs.field(factory=lambda: deque(maxlen=FALSE_REPORTS))
    discredited_until: float = 0.0


class Credit:
    """Keeps the standing of reporters who were wrong; times are monotonic seconds."""

    def __init__(self) -> None:
        self._standings: dict[NodeId, _Standing] = {}

    def __len__(self) -> int:
        return len(self._standings)

    def is_discredited(self, reporter: NodeId, now: float) -> bool:
        """Whether the reports of this one count for nothing."""
        standing = self._standings.get(reporter)
        return standing is not None and now < standing.discredited_until

    def refuted(self, reporter: NodeId, now: float) -> None:
        """Note that somebody whom it reported dead is alive."""
        standing = self._standings.get(reporter)
        if standing is None:
            self._make_room(now)
            standing = self._standings[reporter] = _Standing()
        standing.refuted.append(now)
        oldest = standing.refuted[0]
        if len(standing.refuted) == FALSE_REPORTS and now - oldest <= CREDIT_WINDOW:
            standing.discredited_until = now + CREDIT_WINDOW

    def confirmed(self, reporter: NodeId) -> None:
        """Note that a report proved true: it takes the latest false one back."""
        standing = self._standings.get(reporter)
        if standing is not None and standing.refuted:
            standing.refuted.pop()

    def _make_room(self, now: float) -> None:
        if len(self._standings) < MAX_REPORTERS:
            return
        for reporter in self._standings:
            if not self.is_discredited(reporter, now):
                break
        else:
            reporter = next(iter(self._standings))
        del self._standings[reporter]
