"""What is known of each node, alive or not, that a judgement of it needs."""

import math

import attrs

from p2pd.core.suspicion import Statement
from p2pd.ids import NodeId

# When full, the oldest node without a connection is forgotten: it is then unknown.
MAX_KNOWN = 16384


@attrs.define(eq=False)
class Known:
    """What is known of a node. Times are monotonic; `issued_ms` is in its own Unix time.

    `alive` counts while it is neither suspect nor dead. `linked_at` is the start of the connection,
    None without one. `had_link`: it was lost with a connection, whose silence may be that of our
    own link. `gone_at` is when it left or we lost it: nothing older revives it. `claims` are
    reports that came while it was connected and well: they are decided by what comes next, a
    message from it or its loss.
    """

    alive: bool = False
    left: bool = False
    lost: bool = False
    had_link: bool = False
    linked_at: float | None = None
    heard_at: float = -math.inf
    gone_at: float = -math.inf
    issued_ms: int = -1
    claims: dict[NodeId, Statement] = attrs.field(factory=dict)


class KnownNodes:
    """The nodes of which anything is known, the oldest first."""

    def __init__(self) -> None:
        self._known: dict[NodeId, Known] = {}

    def get(self, node: NodeId) -> Known | None:
        """Return what is known of a node."""
        return self._known.get(node)

    def of(self, node: NodeId) -> Known:
        """Return what is known of a node, with a new entry if nothing was."""
        known = self._known.get(node)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                unlinked = (each for each, has in self._known.items() if has.linked_at is None)
                del self._known[next(unlinked, next(iter(self._known)))]
            known = self._known[node] = Known()
        return known
