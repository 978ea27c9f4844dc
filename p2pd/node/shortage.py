"""How many connections a node lacks."""

import math

import trio

from p2pd.node.connection import Direction
from p2pd.node.roster import Roster

# For this many seconds from its start, a node leaves half of its target to others that dial it:
# were each to dial all it needs, every node would end up with twice as many.
WELCOME = 30.0


class Shortage:
    """Compares the connections that last with `connections.target`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.welcome_until = math.inf

    def begin(self) -> None:
        """Start the time in which others are to dial this node; it ends at `welcome_until`."""
        self.welcome_until = trio.current_time() + WELCOME

    def wanted(self) -> int:
        """Return how many connections are to be made, including by the dials under way.

        Less than one where there are enough.
        """
        lasting, config = self._roster.lasting(), self._roster.config
        made = sum(each.direction is Direction.OUTBOUND for each in lasting)
        # A peer that fills a node with connections of its own must not keep it from choosing some.
        # In a small network no others might come.
        young = trio.current_time() < self.welcome_until
        enough = config.target if self.is_small() or not young else (config.target + 1) // 2
        wanted = max(enough - len(lasting), config.target // 2 - made)
        # When full, one more would only take the place of another.
        return min(wanted, config.max_outbound - made)

    def is_small(self) -> bool:
        """Whether there are no more nodes than connections wanted."""
        return len(self._roster.registry) <= self._roster.config.target
