"""What came and was not taken: nobody is asked for it, for a while or for good.

Otherwise each neighbour that has it would be asked in turn, and each link would join the tree, just
when there is too much already.
"""

import math

from p2pd.core.bounded import BoundedTable

# Seconds, where there was no room.
DECLINED_FOR = 5.0
MAX_DECLINED = 8192


class Declined:
    """The last `MAX_DECLINED` that were declined."""

    def __init__(self) -> None:
        # Oldest first.
        self._until = BoundedTable[bytes, float](MAX_DECLINED)

    def add(self, message_id: bytes, now: float, *, for_good: bool) -> None:
        """Note that it was declined; when full, the oldest is forgotten."""
        self._until[message_id] = math.inf if for_good else now + DECLINED_FOR

    def holds(self, message_id: bytes, now: float) -> bool:
        """Whether it was declined for good or recently."""
        return now < self._until.get(message_id, -math.inf)
