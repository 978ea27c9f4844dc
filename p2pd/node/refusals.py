"""Nodes that refused this one, were refused by it, or run twice, and why: a sink for events."""

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId
from p2pd.node.events import Event

MAX_REFUSALS = 256
_CODES = {"peer.refused", "peer.dial_failed", "peer.cloned"}


@attrs.frozen
class Refusal:
    """The latest refusal for this reason with this host; `time` is Unix seconds."""

    reason: str
    address: str
    peer: NodeId | None
    time: float


class Refusals:
    """Keeps the latest refusals."""

    def __init__(self) -> None:
        self._latest = BoundedTable[tuple[str, str], Refusal](MAX_REFUSALS)

    def sink(self, event: Event) -> None:
        """Take note of an event."""
        if event.code not in _CODES:
            return
        reason, address = str(event.fields["reason"]), str(event.fields["address"] or "")
        host = address.rpartition(":")[0]
        self._latest[reason, host] = Refusal(reason, address, event.peer, event.time)

    def since(self, time: float) -> list[Refusal]:
        """Return those from `time` (Unix seconds) on, the oldest first."""
        return [each for each in self._latest.values() if each.time >= time]
