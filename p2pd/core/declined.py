"""What came and could not be taken for want of room: it is asked of nobody for a while.

Else each neighbour that has it would be asked for it in turn, and each link become one of the
tree, just when there is too much already.
"""

import math

from p2pd.core.bounded import BoundedTable

# Seconds.
DECLINED_FOR = 5.0
MAX_DECLINED = 8192


class Declined:
    """The last `MAX_DECLINED` that were declined, each for `DECLINED_FOR` seconds."""

    def __init__(self) -> None:
        # Oldest first.
        self._at = BoundedTable[bytes, float](MAX_DECLINED)

    def add(self, message_id: bytes, now: float) -> None:
        """Note that it was declined; at the bound the oldest is forgotten."""
        self._at[message_id] = now

    def holds(self, message_id: bytes, now: float) -> bool:
        """Whether it was declined of late."""
        return now < self._at.get(message_id, -math.inf) + DECLINED_FOR
