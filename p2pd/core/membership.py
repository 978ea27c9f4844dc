"""Who is alive: evidence goes in, and what to do about it comes out.

SWIM (Das, Gupta, Motivala 2002) with ideas of Lifeguard (Dadgar, Phillips, Currey 2017,
arXiv 1707.00788), over long-lived connections: a lost connection or a report of others
makes a node suspect; dead it is only by a failed probe of our own, or by the reports of
enough distinct reporters that nobody refuted.

The shell hands in what happened and takes the actions after each piece of evidence and
whenever `next_due` has come.
"""

import math
import random
from collections.abc import Callable

from p2pd.core.acquaintances import Acquaintances, Known
from p2pd.core.budget import Budget, Budgets
from p2pd.core.isolation import Isolation
from p2pd.core.reporters import REPORT_TTL, Reporters
from p2pd.core.suspects import Suspects
from p2pd.core.suspicion import ASK_AGAIN, MAX_REPORTS, MOST_UNCLEAR, Case, Statement
from p2pd.core.verdicts import Action, Evidence, Liveness
from p2pd.ids import NodeId

# How far in the future a report may be, in seconds, since clocks differ. The accused dates its
# refutation after the report: the reporter's clock ahead of its own, and its own ahead of
# that of whoever gets it, must together stay within `history.MAX_SKEW`, or it is dropped.
REPORT_EARLY = 30.0
# A peer on a connection is heard at least so often, in seconds, where all is well.
HEARD_LATELY = 15.0
# Reports of ourselves that are refuted: of one reporter so many in a row, and one in 20 seconds;
# of all strangers so many in a row, and one in 10 seconds.
REFUTED_OF_ONE_AT_ONCE = 3
REFUTED_OF_ONE_PER_SECOND = 0.05
REFUTED_AT_ONCE = 10
REFUTED_PER_SECOND = 0.1
# Reporters whose budget for that is remembered.
MAX_REFUTED = 4096
# Lifeguard's S: the worst local health; waits are multiplied by 1 + the score.
WORST_HEALTH = 8


class Membership:
    """Decides who is alive, as seen from `own_id`.

    `network_of` names the public network of a node, None where it is on a LAN or unknown:
    of one public network only one report counts. `last_heard` says when anything last came
    from anybody. All `now` are monotonic seconds.
    """

    def __init__(
        self,
        own_id: NodeId,
        *,
        rng: random.Random,
        network_of: Callable[[NodeId], str | None],
        last_heard: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._own_id = own_id
        self._network_of = network_of
        self._health = 0
        self._known = Acquaintances()
        self._reporters = Reporters()
        self._isolation = Isolation()
        self._suspects = Suspects(rng, self._reporters, self._isolation, last_heard)
        self._by_strangers = Budget(REFUTED_AT_ONCE, REFUTED_PER_SECOND)
        self._by_reporter = Budgets[NodeId](
            MAX_REFUTED, REFUTED_OF_ONE_AT_ONCE, REFUTED_OF_ONE_PER_SECOND
        )

    @property
    def isolated(self) -> bool:
        """Whether we seem to be cut off ourselves: no soft evidence of ours kills meanwhile."""
        return self._isolation.isolated

    def liveness(self, node: NodeId) -> Liveness:
        """Return what we believe of a node."""
        if self._suspects.case(node) is not None:
            return Liveness.SUSPECT
        if self._suspects.dead(node) is not None:
            return Liveness.DEAD
        known = self._known.get(node)
        return Liveness.ALIVE if known is not None and known.alive else Liveness.UNKNOWN

    def has_left(self, node: NodeId) -> bool:
        """Whether the last thing that we know of a node is its goodbye."""
        known = self._known.get(node)
        return known is not None and known.left and self.liveness(node) is Liveness.UNKNOWN

    def accusers(self, node: NodeId) -> dict[NodeId, Statement]:
        """Return who reports a node dead, and what each says; for people."""
        case, dead = self._suspects.case(node), self._suspects.dead(node)
        return dict(case.reports if case is not None else dead.reports if dead is not None else {})

    def set_population(self, connected: int, known: int, now: float) -> None:
        """Note how many lasting connections there are, and how many nodes are known in all.

        To be called before losses, too: isolation is judged by the most connections of the
        last `isolation.WINDOW` seconds.
        """
        self._suspects.set_population(known)
        self._isolation.connected(connected, now)

    def heard(self, node: NodeId, now: float) -> None:
        """Note a handshake with a node, or a message from it: it is alive.

        Who reported it without need loses credit.
        """
        known = self._known.get(node)
        if known is not None and known.alive and known.linked_at is not None and not known.claims:
            known.heard_at = now
            return
        if node == self._own_id:
            return
        known = known or self._known.of(node)
        if known.linked_at is None:
            known.linked_at = now
        known.heard_at = now
        self._suspects.refute(known.claims, now)
        known.claims = {}
        self._acquit(node, known, now)
        if known.lost:
            known.lost = False
            self._isolation.back(node)
            if self.isolated:
                self._isolation.over()
                self._suspects.start_all_over(now)

    def in_touch(self, heard_at: float, now: float) -> None:
        """Note when we last heard anybody at all: an isolation that lasts is over by that."""
        if self._isolation.outlasted(heard_at, now):
            self._isolation.over()
            self._suspects.release()

    def vouched(self, node: NodeId, issued_ms: int, now: float, wall_ms: int) -> None:
        """Note a publication signed by a node, of its Unix milliseconds `issued_ms`.

        It is alive, unless the publication is older than the latest one known, than what we
        saw ourselves, or than a report that stands (a quorum of them, if it is dead). What was
        reported of an earlier time counts no more in any case. `wall_ms` is the present in
        Unix milliseconds.
        """
        if node == self._own_id:
            return
        known = self._known.of(node)
        if issued_ms <= known.issued_ms:
            return
        # Dated ahead it would hide the reports of what happens until then.
        known.issued_ms = min(issued_ms, wall_ms)
        older = [who for who, each in known.claims.items() if each.observed_ms < issued_ms]
        self._suspects.refute(older, now)
        for reporter in older:
            del known.claims[reporter]
        gone_at, dead = known.gone_at, self._suspects.dead(node)
        if dead is not None and dead.failed_at is not None:
            gone_at = max(gone_at, dead.failed_at)
        gone_since = now - (wall_ms - issued_ms) / 1000 <= gone_at
        if self._suspects.refute_older(node, issued_ms, now, gone_since=gone_since):
            self._acquit(node, known, now)

    def unlinked(self, node: NodeId) -> None:
        """Note that our connection to a node ended, be it for a reason that says nothing of it."""
        known = self._known.get(node)
        if known is not None:
            known.linked_at = None

    def left(self, node: NodeId, now: float) -> None:
        """Note that a node said goodbye: it is unknown, and nobody probes it."""
        known = self._known.of(node)
        known.alive = known.lost = False
        known.left = True
        known.linked_at = None
        known.gone_at = now
        known.claims = {}
        self._isolation.back(node)
        self._suspects.drop(node)

    def lost(self, node: NodeId, now: float, *, reset: bool, linked: bool = True) -> None:
        """Note that our connection to a node ended without a goodbye: it is suspect.

        `reset`: by a reset or the end of the stream; else by silence. Not `linked`: there was no
        connection, but a probe came to nothing that nothing had asked for.
        """
        if node == self._own_id:
            return
        known = self._known.of(node)
        known.alive = False
        known.lost = True
        known.had_link = linked
        known.linked_at = None
        known.gone_at = now
        claims, known.claims = known.claims, {}
        if self._suspects.dead(node) is not None:
            return
        case = self._suspects.open_lost(node, claims, now)
        if not reset:
            case.ask_due = now
            self._fell_silent(node, case, now)
        self._suspects.schedule(node)

    def dial_failed(self, node: NodeId, now: float, *, refused: bool) -> None:
        """Note that our dial of a node came to nothing; it matters if the node is suspect.

        `refused`: at once, by its host; else there was no answer, or no way to it.
        """
        case = self._suspects.case(node)
        if case is None:
            return
        if refused:
            self._suspects.convict(node, Evidence.REFUSED, now, now)
            return
        case.dial_due = math.inf
        case.dial_failed = True
        if case.last_chance and not self.isolated:
            self._suspects.convict(node, Evidence.SILENT, case.dialled_at, now)
            return
        if case.lost:
            self._fell_silent(node, case, now)
            if not case.others_failed and case.ask_due == math.inf:
                case.ask_due = now
        case.note_failure(now)
        self._suspects.announce(node, now)
        self._suspects.schedule(node)

    def dial_unclear(self, node: NodeId, now: float) -> None:
        """Note that our dial of a node came to nothing, but we were not in touch with others.

        It may be ourselves who are cut off: it is dialled again.
        """
        case = self._suspects.case(node)
        if case is not None:
            case.dial_due = now + ASK_AGAIN
            if case.lost:
                self._fell_silent(node, case, now)
            self._suspects.schedule(node)

    def others_reached(self, node: NodeId, now: float) -> None:
        """Note that a peer whom we asked reached a suspect: it is alive, if not for us."""
        case = self._suspects.case(node)
        if case is not None:
            # That is one peer's word: it takes no reporter's credit.
            case.reports.clear()
            self._acquit(node, self._known.of(node), now)

    def others_failed(self, node: NodeId, now: float, *, tried: bool = True) -> None:
        """Note that nobody whom we asked reached a node.

        `tried`: at least one tried to; else there was nobody to ask who knew it.
        """
        case = self._suspects.case(node)
        if case is not None:
            case.ask_due = math.inf
            case.others_failed = True
            case.others_tried = tried
            if case.last_chance:
                # They were asked because it could not be dialled.
                case.dial_due = now + ASK_AGAIN
            case.note_failure(now)
            self._suspects.announce(node, now)
            self._suspects.schedule(node)

    def others_unclear(self, node: NodeId, now: float) -> None:
        """Note that those whom we asked about a node gave no answer, or were busy.

        They, too, may be out of our reach: they are asked again, up to `MOST_UNCLEAR` times.
        """
        case = self._suspects.case(node)
        if case is None:
            return
        case.unclear += 1
        if case.unclear >= MOST_UNCLEAR:
            self.others_failed(node, now, tried=False)
            return
        case.ask_due = now + ASK_AGAIN
        self._suspects.schedule(node)

    def reported(
        self,
        accused: NodeId,
        reporter: NodeId,
        *,
        observed_ms: int,
        sequence: int,
        wall_ms: int,
        known_sequence: int,
        heard_at: float | None,
        now: float,
        stranger: bool = False,
        saw: str = "",
    ) -> bool:
        """Note somebody's signed dead report; returns whether it counts.

        `observed_ms` and `sequence` (of the accused's record) are the report's, `wall_ms` is
        the present in Unix milliseconds, `known_sequence` that of the latest record we know,
        `heard_at` when anything last came over our connection to the accused, None without
        one. A report of ourselves is for the shell to refute. `stranger`: of the reporter
        nothing is known. Reports of such do not count; where enough of them came, whom they
        accuse is dialled. `saw` is for `accusers`.
        """
        self._suspects.told(accused, now)
        age = (wall_ms - observed_ms) / 1000
        if (
            accused in (self._own_id, reporter)
            or reporter == self._own_id
            or not -REPORT_EARLY <= age <= REPORT_TTL
            or sequence < known_sequence
            or self._reporters.is_discredited(reporter, now)
        ):
            return False
        known = self._known.of(accused)
        if heard_at is not None:
            known.heard_at = max(known.heard_at, heard_at)
        if known.left or known.issued_ms > observed_ms:
            return False
        observed_at = now - max(age, 0.0)
        if stranger or not self._reporters.admit(accused, reporter, now):
            if stranger and heard_at is None and known.heard_at <= observed_at:
                self._suspects.look_at_told(accused, now)
            return False
        # A report of the future could not be refuted by anything of the present.
        statement = Statement(self._network_of(reporter), min(observed_ms, wall_ms), saw)
        if heard_at is not None and now - known.heard_at <= HEARD_LATELY:
            _keep_claim(known, reporter, statement, observed_at)
            return False
        if known.heard_at > observed_at or not self._suspects.accuse(
            accused, reporter, statement, now
        ):
            return False
        known.alive = False
        return True

    def claim_refutation(self, reporter: NodeId, now: float, *, stranger: bool) -> bool:
        """Take the right to refute somebody's report of ourselves; False where there is none.

        Others may believe it, however old it is. Each reporter has a budget, and all strangers
        together, as these may be invented: false reports make no storm of answers.
        """
        allowed = self._by_reporter.spend(reporter, 1, now)
        return allowed and (not stranger or self._by_strangers.spend(1, now))

    def forget(self, node: NodeId) -> None:
        """Give up a suspicion of a node of which nothing is known any more: nobody can look."""
        self._suspects.drop(node)

    def slept(self, now: float) -> None:
        """Note that we were paused or very late: silence meanwhile says nothing of others.

        All suspicions start anew, and the counts of connections are forgotten.
        """
        self._isolation.forget()
        self._suspects.start_all_over(now, count_silence_again=True)

    def late(self, seconds: float) -> None:
        """Note that a timer of ours came late: verdicts wait longer (Lifeguard's LHM).

        Each time costs one point, and one more for each whole second.
        """
        self._set_health(min(WORST_HEALTH, self._health + 1 + int(max(seconds, 0.0))))

    def on_time(self) -> None:
        """Note that a timer of ours came on time."""
        self._set_health(max(0, self._health - 1))

    def next_due(self) -> float:
        """Return when actions are due, monotonic: -infinity for now, infinity for never."""
        return self._suspects.next_due()

    def take_actions(self, now: float) -> list[Action]:
        """Return what is to be done now, in order; each is returned once."""
        return self._suspects.take(now)

    def _acquit(self, node: NodeId, known: Known, now: float) -> None:
        known.alive = True
        known.left = False
        self._suspects.acquit(node, now)

    def _fell_silent(self, node: NodeId, case: Case, now: float) -> None:
        if self._known.of(node).had_link and not case.silent:
            case.silent = True
            self._isolation.lost(node, now)

    def _set_health(self, score: int) -> None:
        self._health = score
        self._suspects.set_patience(1.0 + score)


def _keep_claim(known: Known, reporter: NodeId, statement: Statement, observed_at: float) -> None:
    """Keep a report of a node that we hear, unless all that we know of it is later.

    It might be dying just now, and the reporter's clock be a little slow: only what we hear
    after that refutes the report.
    """
    linked_since = known.linked_at is None or known.linked_at > observed_at
    if not (known.heard_at > observed_at and linked_since) and len(known.claims) < MAX_REPORTS:
        known.claims[reporter] = statement
