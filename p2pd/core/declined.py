"""What came and could not be taken for want of room: it is asked of nobody for a while.

Else each neighbour that has it would be asked for it in turn, and each link become one of the
tree, just when there is too much already.
"""

import math

# Seconds.
DECLINED_FOR = 5.0
MAX_DECLINED = 8192


class Declined:
    """The last `MAX_DECLINED` that were declined, each for `DECLINED_FOR` seconds."""

    def __init__(self) -> None:
        # Oldest first.
        self._at: dict[bytes, float] = {}

    def add(self, message_id: bytes, now: float) -> None:
        """Note that it was declined; at the bound the oldest is forgotten."""
        self._at.pop(message_id, None)
        self._at[message_id] = now
        if len(self._at) > MAX_DECLINED:
            del self._at[next(iter(self._at))]

    def holds(self, message_id: bytes, now: float) -> bool:
        """Whether it was declined of late."""
        return now < self._at.get(message_id, -math.inf) + DECLINED_FOR
