"""Who is alive: evidence goes in, and what to do about it comes out.

SWIM (Das, Gupta, Motivala 2002) with ideas of Lifeguard (Dadgar, Phillips, Currey 2017, arXiv
1707.00788), over long-lived connections: a lost connection or another node's report makes a node
suspect; it is held dead only after a failed probe of our own, or by the reports of enough distinct
reporters that nobody refuted.

The shell hands in what happened, and takes the actions after each piece of evidence and whenever
`next_due` has come.
"""

import math
import random
from collections.abc import Callable

from p2pd.core.actions import Action, Evidence, Liveness, Report
from p2pd.core.isolation import Isolation
from p2pd.core.known_nodes import Known, KnownNodes
from p2pd.core.reporters import REPORT_EARLY, REPORT_TTL, Reporters
from p2pd.core.suspects import Suspects
from p2pd.core.suspicion import (
    ASK_AGAIN,
    MAX_REPORTS,
    MOST_UNCLEAR,
    Statement,
    Suspicion,
    what_it_saw,
)
from p2pd.ids import NodeId
from p2pd.wire.messages import DeadReport

# If all is well, a connected peer is heard at least once in so many seconds.
HEARD_LATELY = 15.0
# Lifeguard's S: the worst local health; waits are multiplied by 1 + the score.
WORST_HEALTH = 8


class Membership:
    """Decides who is alive, as seen from `own_id`.

    `network_of` names the public network of a node, None where it is on a LAN or unknown: only one
    report from each public network counts. `last_heard` says when anything last came from anybody.
    All `now` are monotonic seconds.
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
        self._known = KnownNodes()
        self._reporters = Reporters()
        self._isolation = Isolation()
        self._suspects = Suspects(rng, self._reporters, self._isolation, last_heard)

    @property
    def isolated(self) -> bool:
        """Whether we seem to be cut off ourselves: our soft evidence decides nothing then."""
        return self._isolation.isolated

    def liveness(self, node: NodeId) -> Liveness:
        """Return what we believe of a node."""
        if self._suspects.suspicion(node) is not None:
            return Liveness.SUSPECT
        if self._suspects.dead(node) is not None:
            return Liveness.DEAD
        known = self._known.get(node)
        return Liveness.ALIVE if known is not None and known.alive else Liveness.UNKNOWN

    def has_left(self, node: NodeId) -> bool:
        """Whether the last we know of a node is its goodbye."""
        known = self._known.get(node)
        return known is not None and known.left and self.liveness(node) is Liveness.UNKNOWN

    def accusers(self, node: NodeId) -> dict[NodeId, Statement]:
        """Return who reports a node dead, and what each says; for people."""
        suspicion, dead = self._suspects.suspicion(node), self._suspects.dead(node)
        return dict(
            suspicion.reports if suspicion is not None else dead.reports if dead is not None else {}
        )

    def verdicts_before(self, then: float) -> list[Report]:
        """Return reports of all that are dead since before `then`.

        Where these are too old to be evidence, they still tell the accused what it is to refute.
        """
        return self._suspects.verdicts_before(then)

    def set_population(self, connected: int, known: int, now: float) -> None:
        """Note how many lasting connections there are, and how many nodes are known in all.

        Call it before losses, too: isolation is judged by the most connections that there were in
        the last `isolation.WINDOW` seconds.
        """
        self._suspects.set_population(known)
        self._isolation.connected(connected, now)

    def heard(self, node: NodeId, now: float) -> None:
        """Note a handshake with a node, or a message from it: it is alive.

        Those who reported it dead lose credit, unless we saw the same ourselves.
        """
        known = self._known.get(node)
        if known is not None and known.alive and known.linked_at is not None and not known.claims:
            known.heard_at = now
            return
        known = known or self._known.of(node)
        if known.linked_at is None:
            known.linked_at = now
        known.heard_at = now
        self._suspects.refute(known.claims, now)
        known.claims = {}
        self._declare_alive(node, known, now)
        if known.lost:
            known.lost = False
            self._isolation.back(node)
            if self.isolated:
                self._isolation.over()
                self._suspects.start_all_over(now)

    def in_touch(self, heard_at: float, now: float) -> None:
        """Note when we last heard anybody at all: this ends an isolation that lasts too long."""
        if self._isolation.outlasted(heard_at, now):
            self._isolation.over()
            self._suspects.release()

    def vouched(self, node: NodeId, issued_ms: int, now: float, wall_ms: int) -> None:
        """Note a publication that a node signed, issued at `issued_ms` by its clock (Unix ms).

        The node is alive, unless the publication is older than the latest one known, than what we
        saw ourselves, or than a report that stands (a quorum of them, if it is dead). In any case,
        reports of an earlier time no longer count. `wall_ms` is the present in Unix milliseconds.
        """
        known = self._known.of(node)
        if issued_ms <= known.issued_ms:
            return
        # A date ahead of now would hide the reports of what happens until then.
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
            self._declare_alive(node, known, now)

    def unlinked(self, node: NodeId, heard_at: float, now: float) -> None:
        """Note that our connection to a node ended, even if the reason says nothing about it.

        Of the reports that waited for what would come over it, those count from now on that came
        after the node was last heard, at `heard_at`.
        """
        known = self._known.get(node)
        if known is None:
            return
        known.linked_at = None
        claims, known.claims = known.claims, {}
        for reporter, statement in claims.items():
            if statement.came_at > heard_at and self._suspects.accuse(
                node, reporter, statement, now
            ):
                known.alive = False

    def left(self, node: NodeId, now: float, issued_ms: int | None = None) -> None:
        """Note that a node said goodbye: it is unknown, and nobody probes it.

        `issued_ms` is when it published that (Unix ms), None where it said so just now. What comes
        late, or again, does not hide that the node has been back since.
        """
        known = self._known.of(node)
        known.alive = known.lost = False
        known.left = True
        known.linked_at = None
        if issued_ms is None:
            known.gone_at = now
        else:
            known.issued_ms = max(known.issued_ms, issued_ms)
        known.claims = {}
        self._isolation.back(node)
        self._suspects.drop(node)

    def lost(self, node: NodeId, now: float, *, reset: bool, linked: bool = True) -> None:
        """Note that our connection to a node ended without a goodbye: it is suspect.

        `reset`: by a reset or the end of the stream; else by silence. Not `linked`: there was no
        connection, but a probe that nothing had asked for failed.
        """
        known = self._known.of(node)
        known.alive = False
        known.lost = True
        known.had_link = linked
        known.linked_at = None
        known.gone_at = now
        claims, known.claims = known.claims, {}
        if self._suspects.dead(node) is not None:
            return
        suspicion = self._suspects.open_lost(node, claims, now)
        if not reset:
            suspicion.ask_due = now
            self._fell_silent(node, suspicion, now)

    def dial_failed(self, node: NodeId, now: float, *, refused: bool) -> None:
        """Note that our dial of a node failed; this matters only if the node is suspect.

        `refused`: at once, by its host; else there was no answer, or no route to it.
        """
        suspicion = self._suspects.suspicion(node)
        if suspicion is None:
            return
        if refused:
            self._suspects.declare_dead(node, Evidence.REFUSED, now, now)
            return
        suspicion.dial_due = math.inf
        suspicion.dial_failed = True
        if suspicion.last_chance and not self.isolated:
            self._suspects.declare_dead(node, Evidence.SILENT, suspicion.dialled_at, now)
            return
        if suspicion.lost:
            self._fell_silent(node, suspicion, now)
            if not suspicion.others_failed and suspicion.ask_due == math.inf:
                suspicion.ask_due = now
        suspicion.note_failure(now)
        self._suspects.announce(node, now)
        self._suspects.schedule(node)

    def dial_unclear(self, node: NodeId, now: float) -> None:
        """Note that our dial of a node failed while we were not in touch with others.

        We may be cut off ourselves: the node is dialled again.
        """
        suspicion = self._suspects.suspicion(node)
        if suspicion is not None:
            suspicion.dial_due = now + ASK_AGAIN
            if suspicion.lost:
                self._fell_silent(node, suspicion, now)
            self._suspects.schedule(node)

    def dial_put_off(self, node: NodeId, now: float) -> None:
        """Note that a node was not dialled, for want of room or budget: it is dialled later."""
        self._suspects.put_off(node, now)

    def wants_others(self, node: NodeId) -> bool:
        """Whether others are still to be asked about a suspect that could not be dialled."""
        suspicion = self._suspects.suspicion(node)
        if suspicion is None or suspicion.others_failed:
            return False
        return suspicion.ask_due == math.inf

    def dial_impossible(self, node: NodeId, now: float) -> None:
        """Note that a node can't be dialled: no address of it is known, or we dial nobody.

        If we lost it, that is as good as no answer. A node that others reported is given up in
        time: one reporter alone must not kill it, and it would be suspect for ever.
        """
        suspicion = self._suspects.suspicion(node)
        if suspicion is not None and suspicion.lost:
            self.dial_failed(node, now, refused=False)
        elif suspicion is not None:
            self._suspects.give_up_in_time(node, now)

    def others_reached(self, node: NodeId, now: float) -> None:
        """Note that a peer we asked reached a suspect: it is alive, though we can't reach it."""
        suspicion = self._suspects.suspicion(node)
        if suspicion is not None:
            # This is only one peer's word: it costs no reporter any credit.
            suspicion.reports.clear()
            self._declare_alive(node, self._known.of(node), now)

    def others_failed(self, node: NodeId, now: float, *, tried: bool = True) -> None:
        """Note that no peer that we asked reached a node.

        `tried`: at least one tried; else there was no peer to ask that knew it.
        """
        suspicion = self._suspects.suspicion(node)
        if suspicion is not None:
            suspicion.ask_due = math.inf
            suspicion.others_failed = True
            suspicion.others_tried = tried
            if suspicion.last_chance:
                # They were asked because it could not be dialled.
                suspicion.dial_due = now + ASK_AGAIN
            suspicion.note_failure(now)
            self._suspects.announce(node, now)
            self._suspects.schedule(node)

    def others_unclear(self, node: NodeId, now: float) -> None:
        """Note that the peers that we asked about a node gave no answer, or were busy.

        They, too, may be out of our reach: peers are asked again, for `MOST_UNCLEAR` rounds in all.
        """
        suspicion = self._suspects.suspicion(node)
        if suspicion is None:
            return
        suspicion.unclear += 1
        if suspicion.unclear >= MOST_UNCLEAR:
            self.others_failed(node, now, tried=False)
            return
        suspicion.ask_due = now + ASK_AGAIN
        self._suspects.schedule(node)

    def reported(
        self,
        report: DeadReport,
        reporter: NodeId,
        *,
        known_sequence: int,
        heard_at: float | None,
        wall_ms: int,
        now: float,
        stranger: bool = False,
    ) -> bool:
        """Note somebody's signed dead report; returns whether it counts, now or when more is known.

        `known_sequence` is that of the latest record that we know of the accused, `heard_at` when
        anything last came over our connection to it, None without one; `wall_ms` is the present in
        Unix milliseconds. Reports of this node itself are for `SignsOfLife`. `stranger`: nothing is
        known of the reporter. Strangers' reports do not count, but when enough have come, the
        accused is dialled.
        """
        accused, observed_ms = NodeId(report.accused), report.observed
        age = (wall_ms - observed_ms) / 1000
        if (
            accused in (self._own_id, reporter)
            or reporter == self._own_id
            or not -REPORT_EARLY <= age <= REPORT_TTL
            or report.sequence < known_sequence
            or self._reporters.is_discredited(reporter, now)
        ):
            return False
        known = self._known.of(accused)
        if heard_at is not None:
            known.heard_at = max(known.heard_at, heard_at)
        if known.left or known.issued_ms > observed_ms:
            return False
        # Only what others may believe: what nobody does must not keep us from reporting a death.
        self._suspects.note_report(accused, now)
        observed_at = now - age
        if stranger or not self._reporters.admit(accused, reporter, now):
            if stranger and heard_at is None and known.heard_at <= observed_at:
                self._suspects.suspect_if_quorum_reported(accused, now)
            return False
        # Nothing issued now could refute a report dated in the future.
        date = min(observed_ms, wall_ms)
        statement = Statement(self._network_of(reporter), date, now, what_it_saw(report))
        if heard_at is not None and now - known.heard_at <= HEARD_LATELY:
            return _keep_claim(known, reporter, statement, observed_at)
        if known.heard_at > observed_at or not self._suspects.accuse(
            accused, reporter, statement, now
        ):
            return False
        known.alive = False
        return True

    def forget(self, node: NodeId) -> None:
        """Give up suspecting a node of which nothing is known any more: nobody can dial it."""
        self._suspects.drop(node)

    def slept(self, now: float) -> None:
        """Note that we were paused or very late: silence meanwhile says nothing about others.

        All suspicions start anew, and the counts of connections are forgotten.
        """
        self._isolation.forget()
        self._suspects.start_all_over(now, count_silence_again=True)

    def late(self, seconds: float) -> None:
        """Note that a timer of ours came late: verdicts wait longer (Lifeguard's LHM).

        Each time costs one point, and one more for each whole second.
        """
        self._set_health(min(WORST_HEALTH, self._health + 1 + int(seconds)))

    def on_time(self) -> None:
        """Note that a timer of ours came on time."""
        self._set_health(max(0, self._health - 1))

    def next_due(self) -> float:
        """Return when there are actions to take, in monotonic seconds; infinity for never."""
        return self._suspects.next_due()

    def take_actions(self, now: float) -> list[Action]:
        """Return what is to be done now, in order; each is returned once."""
        return self._suspects.take(now)

    def _declare_alive(self, node: NodeId, known: Known, now: float) -> None:
        known.alive = True
        known.left = False
        self._suspects.declare_alive(node, now)

    def _fell_silent(self, node: NodeId, suspicion: Suspicion, now: float) -> None:
        if self._known.of(node).had_link and not suspicion.silent:
            suspicion.silent = True
            self._isolation.lost(node, now)

    def _set_health(self, score: int) -> None:
        self._health = score
        self._suspects.set_patience(1.0 + score)


def _keep_claim(known: Known, reporter: NodeId, statement: Statement, observed_at: float) -> bool:
    """Keep a report of a node that we hear, unless all that we know of it is later.

    It might be dying just now, with the reporter's clock a little slow: only what we hear later
    refutes the report.
    """
    linked_since = known.linked_at is not None and known.linked_at > observed_at
    kept = not linked_since and len(known.claims) < MAX_REPORTS
    if kept:
        known.claims[reporter] = statement
    return kept
