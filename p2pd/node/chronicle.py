"""What happened with each peer lately, so that `p2pctl why` needs no log."""

from collections import deque

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId
from p2pd.node.events import Event
from p2pd.node.snapshot import WhyStep

# The latest steps of each peer are kept, and the peers that something happened to last.
MAX_STEPS = 24
MAX_PEERS = 1024


class Chronicle:
    """A sink for events that keeps those about a peer."""

    def __init__(self) -> None:
        self._steps = BoundedTable[NodeId, deque[WhyStep]](MAX_PEERS)

    def sink(self, event: Event) -> None:
        """Take note of an event; one that repeats the last of its peer replaces it."""
        if event.peer is None:
            return
        steps = self._steps.get(event.peer) or deque(maxlen=MAX_STEPS)
        if steps and (steps[-1].code, steps[-1].text) == (event.code, event.message):
            steps.pop()
        steps.append(WhyStep(event.time, event.code, event.message))
        self._steps[event.peer] = steps

    def steps(self, peer: NodeId) -> list[WhyStep]:
        """Return what happened with a peer, in order."""
        return list(self._steps.get(peer, ()))
