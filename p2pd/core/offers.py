"""What other peers hold that was never seen here: each is asked for of one peer at a time.

After a partition several neighbours offer the same; anti-entropy would else bring each
publication several times.
"""

from p2pd.ids import NodeId

# Seconds until another peer is asked for what one has promised.
RETRY = 5.0
MAX_WANTED = 4096


class Offers:
    """Offers since the last `to_ask`, and what was asked for; at most `MAX_WANTED` of each.

    At the bound an offer is declined: the next digest brings it again.
    """

    def __init__(self) -> None:
        self._offered: dict[bytes, NodeId] = {}
        # Oldest first.
        self._wanted: dict[bytes, tuple[NodeId, float]] = {}

    def __len__(self) -> int:
        return len(self._offered)

    def offer(self, message_id: bytes, peer: NodeId) -> bool:
        """Note that a peer holds it; False at the bound."""
        if len(self._offered) >= MAX_WANTED:
            return False
        self._offered.setdefault(message_id, peer)
        return True

    def arrived(self, message_id: bytes) -> None:
        """Decline an offer of what has come. It stays on record whom it was asked of."""
        self._offered.pop(message_id, None)

    def is_wanted(self, message_id: bytes, peer: NodeId) -> bool:
        """Whether this peer was asked for it of late."""
        asked = self._wanted.get(message_id)
        return asked is not None and asked[0] == peer

    def link_down(self, peer: NodeId) -> None:
        """Forget what a peer offered and was asked for, so that others may bring it."""
        self._offered = {key: value for key, value in self._offered.items() if value != peer}
        self._wanted = {key: value for key, value in self._wanted.items() if value[0] != peer}

    def to_ask(self, now: float) -> tuple[dict[NodeId, list[bytes]], int]:
        """Return whom to ask now for what, and how many offers were declined at the bound."""
        while self._wanted:
            oldest = next(iter(self._wanted))
            if self._wanted[oldest][1] + RETRY > now:
                break
            del self._wanted[oldest]
        asks: dict[NodeId, list[bytes]] = {}
        declined = 0
        for message_id, peer in self._offered.items():
            if message_id in self._wanted:
                continue
            if len(self._wanted) >= MAX_WANTED:
                declined += 1
                continue
            self._wanted[message_id] = (peer, now)
            asks.setdefault(peer, []).append(message_id)
        self._offered.clear()
        return asks, declined
