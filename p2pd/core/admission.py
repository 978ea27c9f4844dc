"""Whose publications are taken when there are too many: known origins before unknown ones.

Key pairs cost nothing, so a bound for each origin does not bound a peer that invents origins. Each
message is charged to a budget that a flooder can't multiply: its origin's, if we were ever
connected to it or heard of it long enough ago; else that of the peer that told us of the origin;
else the delivering neighbour's; and finally one shared by all. Nobody else draws on a neighbour's
own budget: a flooder behind one neighbour starves nobody behind another.

For that to hold at the next node, too, an honest neighbour must not become the flooder. So as long
as there is too much, a node passes on unasked only what its origin pays for: the rest it gives to
those who ask. Its own budget at its neighbours is then left to the origins that it knows and they
don't.
"""

import enum
import math

from p2pd.core.bounded import BoundedTable
from p2pd.core.budget import Budget, Budgets
from p2pd.core.entries import Entry
from p2pd.core.history import Account, Item
from p2pd.core.registry import Registry
from p2pd.ids import NodeId
from p2pd.wire.messages import Publication

# What the topics begin with on which the network itself publishes; users can't.
SYSTEM = "$"
# For each origin that we were once connected to, burst and rate: as much as an honest one
# publishes.
KNOWN_AT_ONCE = 1200
KNOWN_PER_SECOND = 20.0
# What such an origin says on the network's own topics ($dead, $alive, $left) is paid from this
# first.
SYSTEM_AT_ONCE = 30
SYSTEM_PER_SECOND = 1.0
# For each origin that we only heard of, at least this many seconds ago. A peer that invents origins
# has no more of them this old than its share of the registry (`hearsay`).
ACQUAINTED_AFTER = 60.0
ACQUAINTED_AT_ONCE = 10
ACQUAINTED_PER_SECOND = 0.1
# For each origin that another pays for, and for all origins that the same peer told us of.
HEARD_OF_AT_ONCE = 60
HEARD_OF_PER_SECOND = 1.0
TOLD_AT_ONCE = 500
TOLD_PER_SECOND = 10.0
# For all others: what each peer brings unasked; and, beyond all of the above, what all bring
# together.
PEER_AT_ONCE = 500
PEER_PER_SECOND = 10.0
MOST_AT_ONCE = 4000
MOST_PER_SECOND = 100.0
# For this many seconds after that last budget was used up, there is too much.
SCARCE_FOR = 30.0
# A message charged to these budgets counts once more for each so many bytes.
BYTES_COUNT = 4096
# Budgets kept of each kind; beyond that, the one that has been quiet longest starts anew. Invented
# origins can't fill a kind that is for known peers.
MAX_BUDGETS = 4096
# At most so many messages of one origin that were issued within one slice of time, and as many on
# the network's own topics: whoever publishes all that it may can still say that it is alive.
ORIGIN_SECONDS = 60
MOST_OF_ORIGIN = 1200
# Slices of origins that are counted; beyond that, the one that has been quiet longest is forgotten.
MAX_SLICES = 65_536


class Grant(enum.Enum):
    """What may be done with a publication. `KEEP`: it is taken, and sent only to those who ask."""

    DROP = enum.auto()
    KEEP = enum.auto()
    SPREAD = enum.auto()


class Admission:
    """Counts what comes. Budgets outlive connections: a peer that reconnects gets no new one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known = _budgets(KNOWN_AT_ONCE, KNOWN_PER_SECOND)
        self._known_system = _budgets(SYSTEM_AT_ONCE, SYSTEM_PER_SECOND)
        # A peer that accuses a node again and again makes it speak: that must not cost the node, or
        # those who pass on what it says, their other messages. So the network's own topics have
        # budgets of their own.
        self._acquainted = _apart(ACQUAINTED_AT_ONCE, ACQUAINTED_PER_SECOND)
        self._heard_of = _apart(HEARD_OF_AT_ONCE, HEARD_OF_PER_SECOND)
        self._peer = _apart(PEER_AT_ONCE, PEER_PER_SECOND)
        self._told = _budgets(TOLD_AT_ONCE, TOLD_PER_SECOND)
        self._all = Budget(MOST_AT_ONCE, MOST_PER_SECOND)
        self._issued = BoundedTable[tuple[NodeId, int, bool], int](MAX_SLICES)
        self._scarce_until = -math.inf

    def account_of(self, origin: NodeId, wall: float) -> Account:
        """Say on whose account a publication takes room, see `History`; `wall` in Unix seconds."""
        entry = self._registry.get(origin)
        if entry is None:
            return None
        if entry.proven or _is_acquainted(entry, wall):
            return origin
        return entry.told_by and ("told", entry.told_by)

    def grant(
        self,
        peer: NodeId,
        item: Item,
        publication: Publication,
        now: float,
        wall: float,
        *,
        asked: bool = False,
    ) -> Grant:
        """Pay for a new publication that a peer brings, and say what may be done with it.

        `asked`: we asked for it after a digest; the neighbour's budget for what it brings unasked
        is then left alone. `now` is monotonic, `wall` Unix seconds.
        """
        entry, origin = self._registry.get(item.origin), item.origin
        is_system = is_system_topic(publication.topic)
        if entry is not None and self._pays_itself(entry, origin, now, wall, is_system=is_system):
            return Grant.SPREAD
        if not self._pay_shared(entry, peer, item, now, asked=asked, is_system=is_system):
            self._scarce_until = now + SCARCE_FOR
            return Grant.DROP
        return Grant.KEEP if now < self._scarce_until else Grant.SPREAD

    def within_bounds(self, origin: NodeId, issued: int, topic: str) -> bool:
        """Whether an origin may have issued one more at that time, in Unix milliseconds."""
        return self._issued.get(_slice(origin, issued, topic), 0) < MOST_OF_ORIGIN

    def count(self, origin: NodeId, issued: int, topic: str) -> None:
        """Count a message by when it was issued: after a partition, all come at once."""
        slice_ = _slice(origin, issued, topic)
        self._issued[slice_] = self._issued.get(slice_, 0) + 1

    def _pays_itself(
        self, entry: Entry, origin: NodeId, now: float, wall: float, *, is_system: bool
    ) -> bool:
        if entry.proven:
            by_system = is_system and self._known_system.spend(origin, 1, now)
            return by_system or self._known.spend(origin, 1, now)
        acquainted = _is_acquainted(entry, wall)
        return acquainted and self._acquainted[is_system].spend(origin, 1, now)

    def _pay_shared(
        self,
        entry: Entry | None,
        peer: NodeId,
        item: Item,
        now: float,
        *,
        asked: bool,
        is_system: bool,
    ) -> bool:
        teller = entry.told_by if entry is not None and not entry.proven else None
        cost = 1 + len(item.signed.body) // BYTES_COUNT
        # A flooder may be known to an honest neighbour: it must not use up all of that neighbour's
        # budget here.
        if self._heard_of[is_system].spend(item.origin, 1, now):
            if teller and self._told.spend(teller, 1, now):
                return True
            if not asked and self._peer[is_system].spend(peer, cost, now):
                return True
        return self._all.spend(cost, now)


def is_system_topic(topic: str) -> bool:
    """Whether a topic is one of the network's own."""
    return topic.startswith(SYSTEM)


def _budgets(at_once: float, per_second: float) -> Budgets[NodeId]:
    return Budgets(MAX_BUDGETS, at_once, per_second)


def _apart(at_once: float, per_second: float) -> dict[bool, Budgets[NodeId]]:
    return {is_system: _budgets(at_once, per_second) for is_system in (False, True)}


def _slice(origin: NodeId, issued: int, topic: str) -> tuple[NodeId, int, bool]:
    return origin, issued // (ORIGIN_SECONDS * 1000), is_system_topic(topic)


def _is_acquainted(entry: Entry, wall: float) -> bool:
    return wall - entry.first_seen >= ACQUAINTED_AFTER
