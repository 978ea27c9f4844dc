"""Who is away: nodes whose answers nobody waits for, and those that should answer."""

import math
from collections.abc import Collection

import trio

from p2pd.core.bounded import BoundedTable
from p2pd.core.entries import Entry, Status
from p2pd.ids import NodeId
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.wire.reasons import APART

# A node silent for longer is away: nobody waits for it any more, and quorums are of the others.
AWAY_AFTER = 60.0
# When full, the oldest is forgotten, and judged anew.
MAX_GONE = 4096
# Nodes that were contacts are remembered; when full, the one entered first is forgotten.
MAX_ONCE_CONTACTS = 4096


class Absence:
    """Keeps which nodes stopped, and since when others have answered nothing."""

    def __init__(self, env: Env, roster: Roster) -> None:
        self._env = env
        self._roster = roster
        self._started = trio.current_time()
        # Nodes that left, or whose host refused the last dial.
        self._gone = BoundedTable[NodeId, None](MAX_GONE)
        # Contacts, former ones too: those that only dialled us have proven nothing else.
        self._once_contacts = BoundedTable[NodeId, None](MAX_ONCE_CONTACTS)
        # Since when each has answered no question.
        self._unanswered = BoundedTable[NodeId, float](MAX_GONE)

    def stopped(self, node_id: NodeId) -> None:
        """Note that a node left, or that its host refused a dial."""
        self._gone[node_id] = None

    def came(self, node_id: NodeId) -> None:
        """Note that a node connected, or is known to be alive otherwise."""
        self._gone.pop(node_id, None)

    def failed(self, node_id: NodeId) -> None:
        """Note that a node did not answer a question."""
        if node_id not in self._unanswered:
            self._unanswered[node_id] = trio.current_time()

    def answered(self, node_id: NodeId) -> None:
        """Note that a node answered a question."""
        self._unanswered.pop(node_id, None)

    def note_contact(self, node_id: NodeId) -> None:
        """Note that a node was entered into the routing table."""
        if node_id not in self._once_contacts:
            self._once_contacts[node_id] = None

    def is_gone(self, node_id: NodeId) -> bool:
        """Whether a node is known not to run: it left, or its host refused the last dial."""
        # It may have dialled us while we dialled where it was before.
        return node_id in self._gone and node_id not in self._roster.connections

    def is_over(self, node_id: NodeId) -> bool:
        """Whether a node that answered no question was heard since: an outage is over."""
        connection = self._roster.connections.get(node_id)
        since = self._unanswered.get(node_id, math.inf)
        return connection is not None and connection.last_heard > since

    def dialable(self) -> list[Entry]:
        """Return those peers that have an address: no other node plays a part in the DHT.

        A peer that was refused may have become known without one, and need prove nothing for it.
        """
        return [each for each in self._roster.registry if each.addresses]

    def missing(self, excused: Collection[NodeId], *, joined: bool) -> list[Entry]:
        """Return the others that should answer: heard lately, and not known to be gone.

        Before this node has `joined`, those of which no dial has failed yet, and for `AWAY_AFTER`
        from its start all that it was once connected to: it may be cut off itself.
        """
        others = [
            each
            for each in self.dialable()
            if each.node_id is None
            or (each.node_id not in excused and not self.is_gone(each.node_id))
        ]
        if joined:
            return [each for each in others if self._should_answer(each)]
        young = trio.current_time() - self._started < AWAY_AFTER
        return [
            each
            for each in others
            if each.status is not Status.CONNECTED
            and (not each.failures_in_row or (young and each.proven))
        ]

    def _should_answer(self, entry: Entry) -> bool:
        node_id = entry.node_id
        if node_id is None or entry.dead or not entry.reasons.isdisjoint(APART):
            return False
        was_contact = bool(entry.answered) or node_id in self._once_contacts
        return was_contact and self._was_heard_lately(node_id, entry)

    def _was_heard_lately(self, node_id: NodeId, entry: Entry) -> bool:
        connection = self._roster.connections.get(node_id)
        if connection is not None:
            # A node that is heard, but answers no questions, should hold nobody up.
            if self.is_over(node_id):
                return False
            return trio.current_time() - connection.last_heard < AWAY_AFTER
        return 0 <= self._env.wall_clock() - (entry.last_seen or 0) < AWAY_AFTER
