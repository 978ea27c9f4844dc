"""Peer records from others: checked, remembered, entered into the registry.

Most records come many times, from many peers. Checking a signature costs more than all
the rest, so what was checked is remembered, in a bounded cache that may be shared.
"""

from collections.abc import Callable

from p2pd.core.bounded import BoundedTable
from p2pd.core.entries import Source
from p2pd.core.registry import Registry
from p2pd.errors import BadMessage
from p2pd.ids import NodeId
from p2pd.node.addresses import reachable
from p2pd.node.env import Env
from p2pd.wire.messages import MAX_REDIRECTS, Signed
from p2pd.wire.records import OpenedRecord

# So that a refusal with all its redirects fits into a frame of the handshake.
MAX_REDIRECT_BYTES = 512
# When full, the one turned away longest ago is forgotten.
MAX_TURNED_AWAY = 64


class PeerBook:
    """What peers say about peers; `on_news` is called when the registry learned something."""

    def __init__(self, env: Env, registry: Registry, *, difficulty: int) -> None:
        self.on_news: list[Callable[[], None]] = []
        self._env = env
        self._registry = registry
        self._difficulty = difficulty
        self._turned_away = BoundedTable[NodeId, Signed](MAX_TURNED_AWAY)

    def turned_away(self, node_id: NodeId, signed: Signed) -> None:
        """Note the record of a proven peer for which there was no room here.

        It is alive, and most likely has room itself.
        """
        self._turned_away[node_id] = signed

    def redirects(self, exclude: NodeId | None) -> tuple[Signed, ...]:
        """Pick records of good peers, for one that finds this node full.

        Up to half of them are others that were turned away: otherwise all that come at once would
        be sent to the same few, which are full, too.
        """
        waiting = [each for peer, each in self._turned_away.items() if peer != exclude]
        picked = self._env.rng.sample(waiting, min(len(waiting), MAX_REDIRECTS // 2))
        picked += self._registry.sample(MAX_REDIRECTS - len(picked), exclude)
        return tuple(signed for signed in picked if len(signed.body) <= MAX_REDIRECT_BYTES)

    def learn(
        self, signed: Signed, *, told_over: str, told_by: NodeId | None
    ) -> OpenedRecord | None:
        """Take a record that was passed on, and return it; None if it is no good.

        Nothing is believed but what the record's owner signed. `told_over` is the host from
        which the record came, `told_by` the peer, where it is known.
        """
        try:
            opened = self._env.records.open(signed)
        except BadMessage:
            return None
        if opened.work < self._difficulty:
            return None
        known = self._registry.get(opened.node_id)
        if known is None or opened.record.sequence > known.sequence:
            self._registry.learn(
                opened.signed,
                opened.record,
                reachable(opened.addresses, told_over),
                Source.EXCHANGE,
                self._env.wall_clock(),
                told_by=told_by,
            )
            for callback in self.on_news:
                callback()
        return opened

    def owner(self, signed: Signed) -> NodeId | None:
        """Say whose record it is, without keeping it; None if it is no good."""
        try:
            return self._env.records.open(signed).node_id
        except BadMessage:
            return None
