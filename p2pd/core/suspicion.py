"""One suspicion: the evidence against a node, and when it is enough for a verdict.

SWIM (Das, Gupta, Motivala 2002, section 4.2) suspects before it declares; Lifeguard
(Dadgar, Phillips, Currey 2017, arXiv 1707.00788) makes the suspicion short only where others
confirm it independently, and the suspecting node is in good health itself.
"""

import math
from contextlib import suppress

import attrs

from p2pd.address import Address
from p2pd.core.actions import Evidence
from p2pd.ids import NodeId
from p2pd.wire.messages import DeadReport

# How many independent reporters are enough without a probe of our own. Lifeguard's K, too.
QUORUM = 3
# How long an accused node has to refute the last report of a quorum, in seconds.
REFUTE_WAIT = 2.0
# The least wait before a verdict on soft evidence, so that a burst of losses is seen as one.
GRACE = 0.5
# About how long the last dial before a verdict takes.
LAST_DIAL = 1.0
# Seconds until a dial that proved nothing is repeated, or others that did not answer are asked
# again; after so many such rounds their silence is taken for a no.
ASK_AGAIN = 1.0
MOST_UNCLEAR = 3
# Bounds of a suspicion by our own soft evidence, in seconds from its start.
SUSPICION_LEAST = REFUTE_WAIT
SUSPICION_MOST = 6.0
# Reports kept of one accused; more do not count.
MAX_REPORTS = 16


def suspicion_time(confirmations: int) -> float:
    """Return how many seconds a suspicion lasts that so many others confirmed.

    Lifeguard, "Local Health Aware Suspicion":
    max(Min, Max - (Max - Min) * log(C + 1) / log(K + 1)).
    """
    share = math.log(confirmations + 1) / math.log(QUORUM + 1)
    return max(SUSPICION_LEAST, SUSPICION_MOST - (SUSPICION_MOST - SUSPICION_LEAST) * share)


def what_it_saw(report: DeadReport) -> str:
    """Say what a reporter saw of a node, for people."""
    where = "it"
    with suppress(ValueError):
        where = str(Address.parse(report.address))
    refused = report.evidence == Evidence.REFUSED
    return f"a dial of {where} was refused" if refused else f"nothing came from {where}"


@attrs.frozen
class Statement:
    """A report of a node: the reporter's public network, if any, and when it was observed.

    `observed_ms` is in the reporter's Unix milliseconds, but never later than when we received it,
    `came_at`, which is monotonic; `saw` is what the reporter says it saw, for people.
    """

    network: str | None
    observed_ms: int
    came_at: float
    saw: str


@attrs.define(eq=False)
class Suspicion:
    """A suspicion under way. Times are monotonic seconds; infinity: not due.

    `lost`: by a lost connection of our own, or by a failed probe that nothing asked for; then
    others are asked before a verdict on soft evidence. `silent`: the isolation has counted the
    loss. `dialled_at` is the start of the latest dial, `failed_at` when the last of our own probes
    failed. `others_failed`: none of the peers asked reached it; `others_tried`: but at least one
    tried; `unclear` counts the rounds in which none of them answered. `held`: the verdict waits
    until we are no longer isolated; `last_chance`: it depends on the outcome of one more dial.
    `announced`: it was reported before the verdict, as no peer asked could try to reach it.
    `quorum_at` is since when enough reports, `independent` of them, wait for a refutation;
    `cut_off`: at the end of the wait nobody had been heard for long, `waited_anew`: so the wait
    began again, once.
    """

    since: float
    lost: bool = False
    silent: bool = False
    dial_due: float = math.inf
    dialled_at: float = -math.inf
    ask_due: float = math.inf
    dial_failed: bool = False
    others_failed: bool = False
    others_tried: bool = False
    unclear: int = 0
    last_chance: bool = False
    announced: bool = False
    failed_at: float | None = None
    held: bool = False
    quorum_at: float | None = None
    cut_off: bool = False
    waited_anew: bool = False
    independent: int = 0
    reports: dict[NodeId, Statement] = attrs.field(factory=dict)

    def start_over(self, now: float) -> None:
        """Forget what our own probes brought; what others reported stands."""
        self.since = now
        self.dial_due = self.ask_due = math.inf
        self.dial_failed = self.others_failed = self.others_tried = self.held = False
        self.last_chance = False
        self.unclear = 0
        self.failed_at = None
        if self.quorum_at is not None:
            self.quorum_at = now

    def note_failure(self, now: float) -> None:
        """Set `failed_at` if all our own probes that this suspicion requires have failed."""
        complete = self.dial_failed and (self.others_failed or not self.lost)
        if complete and self.failed_at is None:
            self.failed_at = now

    def recount(self, independent: int, now: float) -> None:
        """Note how many independent reporters there are."""
        self.independent = independent
        if independent < QUORUM:
            self.quorum_at = None
        elif self.quorum_at is None:
            self.quorum_at = now

    def verdict_due(self, patience: float) -> float:
        """Return when our own soft evidence suffices, except for the last dial.

        Waits are multiplied by `patience`.
        """
        if self.failed_at is None or self.held or self.last_chance:
            return math.inf
        confirmations = self.independent + self.others_tried
        suspected = self.since + suspicion_time(confirmations) * patience
        grace = REFUTE_WAIT if self.announced else GRACE
        return max(self.failed_at + grace * patience, suspected - LAST_DIAL * patience)

    def quorum_due(self, patience: float) -> float:
        """Return when the reports of others suffice, without a probe of our own."""
        return math.inf if self.quorum_at is None else self.quorum_at + REFUTE_WAIT * patience

    def due(self, patience: float) -> float:
        """Return when there is something to do."""
        own = min(self.dial_due, self.ask_due)
        return min(own, self.verdict_due(patience), self.quorum_due(patience))
