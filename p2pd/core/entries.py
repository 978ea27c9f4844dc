"""One known peer: its status, where it was heard of, and what came of dialling it."""

import enum
import random

import attrs

from p2pd.address import Address
from p2pd.ids import NodeId
from p2pd.wire.messages import Signed


class Status(enum.StrEnum):
    """The status of a peer: known but never connected, connected, or no longer connected."""

    ATTEMPTED = "attempted"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


class Source(enum.StrEnum):
    """How a peer was heard of, or whom it matters to."""

    MULTICAST = "multicast"
    BOOTSTRAP = "bootstrap"
    SEED = "seed"
    EXCHANGE = "exchange"
    INBOUND = "inbound"
    MANUAL = "manual"


@attrs.define(eq=False)
class Entry:
    """One known peer. Wall-clock times in Unix seconds; `retry_at` in monotonic seconds.

    `node_id` is None for an address (of the configuration or a user) that has not answered yet.
    `origin` is how the peer was first heard of; `source` may change later, when a user or the
    configuration names it. `told_by` is the peer that told us of it, where it came by exchange;
    `answered` are the addresses at which it proved to be, the others are only claimed; `last_host`
    is the host of the last connection, `network` the public network that it counts for, None on a
    LAN. `failures_before` is `failures_in_row` as of the last connection, `reasons` are the codes
    of what made dials fail since then. `parted`: a user asked for the end of the last connection.
    `left`: the node has stopped properly since. `dead`: the node is held dead now. `anchor`: it was
    connected when the process before this one ended, and is dialled first.
    """

    node_id: NodeId | None
    source: Source
    first_seen: float
    told_by: NodeId | None = None
    name: str | None = None
    signed: Signed | None = None
    sequence: int = -1
    addresses: list[Address] = attrs.field(factory=list)
    answered: tuple[Address, ...] = ()
    last_host: str | None = None
    network: str | None = None
    status: Status = Status.ATTEMPTED
    success_count: int = 0
    fail_count: int = 0
    failures_in_row: int = 0
    failures_before: int = 0
    last_seen: float | None = None
    last_error: str | None = None
    reasons: set[str] = attrs.field(factory=set)
    retry_at: float = 0.0
    parted: bool = False
    left: bool = False
    dialling: bool = False
    dead: bool = False
    anchor: bool = False
    origin: Source = attrs.field(init=False)

    @origin.default
    def _first_source(self) -> Source:
        return self.source

    @property
    def proven(self) -> bool:
        """Whether there ever was a connection."""
        return self.success_count > 0

    @property
    def credible(self) -> bool:
        """Whether others may name it at no cost: nothing suggests that it is not there.

        Anybody can prove an identity that names somebody else's addresses, and be gone.
        """
        claims_more = self.claimed(len(self.addresses)) > 0
        return self.proven and not (claims_more and self.failures_in_row)

    def claimed(self, most: int) -> int:
        """Count those of the first `most` addresses where it neither answered nor came from."""
        return sum(
            each not in self.answered and each.host != self.last_host
            for each in self.addresses[:most]
        )


@attrs.frozen
class Backoff:
    """Redial delays in seconds: doubling from `least` up to `most`, each cut at random.

    The cut (to no less than half) keeps nodes that lost each other at the same moment from dialling
    at the same moment ("equal jitter").
    """

    least: float
    most: float

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures in a row (at least 1)."""
        longest = min(self.most, self.least * 2.0 ** min(failures - 1, 32))
        return longest * rng.uniform(0.5, 1.0)
