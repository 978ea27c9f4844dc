"""How long answers take, and until when the next one can be expected.

For a peer that was measured, the estimate is TCP's (RFC 6298, section 2: smoothed round trip plus
four times its variation). It does not end a question: it only says from when on another peer is
asked as well, so its bounds are tighter than those of the RFC. Of the other peers, some are near
and some far: for them it is what almost all recent answers took.
"""

from collections import deque

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId

# Peers whose own round trips are remembered; beyond that, the one measured longest ago is
# forgotten.
MAX_PEERS = 1024
# The first holds before anything was measured (RFC 6298, 2.1); the least gives a busy peer a
# moment.
FIRST_SECONDS = 1.0
LEAST_SECONDS = 0.1
# Of so many recent answers, all but one took less than what is expected, by this factor.
RECENT = 64
_MARGIN = 1.25
# RFC 6298, 2.3.
_ALPHA, _BETA, _K = 1 / 8, 1 / 4, 4
# The weight of one lookup against all before it.
_LOST_WEIGHT = 1 / 4


@attrs.frozen
class _Estimate:
    smoothed: float
    variation: float


class RoundTrips:
    """How long questions to peers took, over open connections and with a dial first.

    `lost` is the share of recent questions that were not answered in time.
    """

    def __init__(self) -> None:
        self._peers = BoundedTable[NodeId, _Estimate](MAX_PEERS)
        self._asked: deque[float] = deque(maxlen=RECENT)
        self._dialled: deque[float] = deque(maxlen=RECENT)
        self.lost = 0.0

    def took(self, peer: NodeId, seconds: float, *, dialled: bool) -> None:
        """Note how long an answer took; `dialled`: there was no connection before."""
        if dialled:
            self._dialled.append(seconds)
            return
        self._asked.append(seconds)
        self._peers[peer] = _updated(self._peers.get(peer), seconds)

    def came_back(self, answered: int, lost: int) -> None:
        """Note how many questions of one lookup were answered, and how many were not in time."""
        if answered + lost > 0:
            self.lost += _LOST_WEIGHT * (lost / (answered + lost) - self.lost)

    def spare(self, count: int) -> int:
        """Return how many more to ask so that of all of them `count` answer in time.

        At most half as many: nodes that lie about who exists must not make us ask without end.
        """
        lost = min(self.lost, 1 / 3)
        return round(count * lost / (1 - lost))

    def expected(self, peer: NodeId, *, dialled: bool) -> float:
        """Return within how many seconds to expect an answer.

        It follows from the peer's own answers, else from those of all peers asked in the same way.
        """
        own = None if dialled else self._peers.get(peer)
        if own is not None:
            return max(LEAST_SECONDS, own.smoothed + _K * own.variation)
        longest = sorted(self._dialled if dialled else self._asked)[-2:]
        return max(LEAST_SECONDS, _MARGIN * longest[0]) if longest else FIRST_SECONDS


def _updated(estimate: _Estimate | None, seconds: float) -> _Estimate:
    if estimate is None:
        # RFC 6298, 2.2.
        return _Estimate(seconds, seconds / 2)
    variation = estimate.variation + _BETA * (abs(estimate.smoothed - seconds) - estimate.variation)
    return _Estimate(estimate.smoothed + _ALPHA * (seconds - estimate.smoothed), variation)
