"""Whether it is this node that is cut off, when many peers fall silent at once.

Lifeguard (arXiv 1707.00788) has a node doubt itself first. Here: where three quarters of
the connections fall silent within a short time, our own link is the likelier cause.
"""

from collections import deque

import attrs

from p2pd.core.budget import Budget
from p2pd.ids import NodeId

# Losses within so many seconds count as one event.
WINDOW = 15.0
# A single silent peer says nothing about us, even where it was the only one.
FEWEST_LOSSES = 2
# If this share of the connections is lost at once, our own link is the likelier cause: half of all
# nodes may well die.
MOST = 3 / 4
# A node that still hears somebody after this many seconds is not cut off: the peers it lost are
# gone for good, and no return of theirs will end the isolation.
LONGEST = 6.0
# A node that heard nobody for so many seconds was cut off: a healthy node hears somebody sooner,
# even with a handful of connections. What it missed may still be on its way, including a
# refutation.
CUT_OFF = 3.0
# Isolations: burst, then one in so many seconds. Peers that pretend to be lost again and again must
# not hold off all verdicts.
IN_A_ROW = 3
AGAIN = 60.0


@attrs.define(eq=False)
class Isolation:
    """Watches soft losses of those we were connected to; times are monotonic seconds.

    Soft is silence, or a dial without an answer. A refused connection is not: somebody was there to
    refuse it.
    """

    isolated: bool = False
    _since: float = 0.0
    _budget: Budget = attrs.field(factory=lambda: Budget(IN_A_ROW, 1 / AGAIN))
    _lost: dict[NodeId, float] = attrs.field(factory=dict)
    # When the count of connections changed, and to what. Counts fall from first to last: a smaller
    # one before a greater one can never be the greatest of a window.
    _counts: deque[tuple[float, int]] = attrs.field(factory=deque)

    def connected(self, count: int, now: float) -> None:
        """Note how many peers are connected from now on."""
        while self._counts and self._counts[-1][1] <= count:
            self._counts.pop()
        self._counts.append((now, count))

    def lost(self, node: NodeId, now: float) -> None:
        """Note a soft loss; sets `isolated` where that makes too many.

        As long as no count is known, two losses are too many.
        """
        self._lost.pop(node, None)
        self._lost[node] = now
        begin = now - WINDOW
        for each, lost_at in list(self._lost.items()):
            if lost_at >= begin:
                break
            del self._lost[each]
        while len(self._counts) > 1 and self._counts[1][0] <= begin:
            self._counts.popleft()
        connected = self._counts[0][1] if self._counts else 0
        too_many = len(self._lost) >= max(FEWEST_LOSSES, connected * MOST)
        if too_many and not self.isolated and self._budget.spend(1, now):
            self.isolated = True
            self._since = now

    def back(self, node: NodeId) -> None:
        """Note that a lost peer is back, or that it left on purpose."""
        self._lost.pop(node, None)

    def outlasted(self, heard_at: float, now: float) -> bool:
        """Whether an isolation lasts too long to be one: somebody was heard at `heard_at`.

        That must be recent: a link that is back for a moment is soon gone again.
        """
        return self.isolated and now - self._since >= LONGEST and now - heard_at <= CUT_OFF

    def over(self) -> None:
        """End the isolation; what was lost in it does not begin the next one."""
        self.isolated = False
        self._lost.clear()

    def forget(self) -> None:
        """Forget losses and counts, as after a sleep of our own; `isolated` stays."""
        self._lost.clear()
        self._counts.clear()
