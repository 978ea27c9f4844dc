"""The suspects and the dead: what is due for each, and how a suspicion ends.

A report brings few dials upon the accused: all nodes spread their probes over windows, so that
together they stay at `DIALS_PER_SECOND`.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterable
from functools import partial

import attrs

from p2pd.core.actions import Action, AskOthers, Declare, Evidence, Redial, Report, Revive
from p2pd.core.bounded import BoundedTable
from p2pd.core.budget import Budget
from p2pd.core.isolation import CUT_OFF, Isolation
from p2pd.core.own_reports import OwnReports
from p2pd.core.reporters import Reporters
from p2pd.core.suspicion import ASK_AGAIN, MAX_REPORTS, QUORUM, REFUTE_WAIT, Statement, Suspicion
from p2pd.ids import NodeId

# How often all nodes together dial an accused, and how often we dial because of reports. A probe
# falls into a window of (known nodes / DIALS_PER_SECOND) seconds, at least `PROBE_WINDOW_LEAST`.
DIALS_PER_SECOND = 20
PROBE_WINDOW_LEAST = 0.3
# An action whose outcome is not known within so many seconds is asked for again.
OUTCOME_WITHIN = 60.0
# A node that has heard from nobody for this many seconds gives no verdict on other nodes' reports.
IN_TOUCH = 1.0
# When full, a reported node is not suspected; a lost one displaces the oldest reported one, or if
# there is none, the oldest.
MAX_SUSPECTS = 4096
# When these are full, the oldest is forgotten: a dead node is then unknown, an accused one may be
# dialled once more within a window.
MAX_DEAD = 4096
MAX_WINDOWS = 16384


@attrs.frozen
class Dead:
    """A verdict of this time: by a failed probe of our own at `failed_at`, or by reports (None)."""

    at: float
    failed_at: float | None
    reports: dict[NodeId, Statement]


@attrs.frozen
class _Window:
    """When an accused node is probed, and when its next window may begin; monotonic."""

    probe_at: float
    end: float


class Suspects:
    """Keeps the suspicions under way and the verdicts; times are monotonic seconds.

    `last_heard` says when anything last came from anybody.
    """

    def __init__(
        self,
        rng: random.Random,
        reporters: Reporters,
        isolation: Isolation,
        last_heard: Callable[[], float],
    ) -> None:
        self._patience = 1.0
        self._population = 0
        self._rng = rng
        self._reporters = reporters
        self._isolation = isolation
        self._last_heard = last_heard
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._dead = BoundedTable[NodeId, Dead](MAX_DEAD)
        self._windows = BoundedTable[NodeId, _Window](MAX_WINDOWS)
        self._probes = Budget(DIALS_PER_SECOND, DIALS_PER_SECOND)
        self._own_reports = OwnReports(rng)
        self._news: list[Action] = []
        # (due, count, node): a suspect may have several entries; outdated ones do nothing.
        self._agenda: list[tuple[float, int, NodeId]] = []
        self._entries = 0

    def set_patience(self, patience: float) -> None:
        """Multiply the waits before a verdict by so much, including those under way."""
        sooner, self._patience = patience < self._patience, patience
        if sooner:
            self._renew_agenda()

    def suspicion(self, node: NodeId) -> Suspicion | None:
        """Return the suspicion of a node, if one is under way."""
        return self._suspicions.get(node)

    def dead(self, node: NodeId) -> Dead | None:
        """Return the verdict on a node, if there is one."""
        return self._dead.get(node)

    def verdicts_before(self, then: float) -> list[Report]:
        """Return reports of all that are dead since before `then`."""
        return [
            Report(node, Evidence.SILENT, dead.at)
            for node, dead in self._dead.items()
            if dead.at < then
        ]

    def open_lost(self, node: NodeId, reports: dict[NodeId, Statement], now: float) -> Suspicion:
        """Suspect a node that we lost; `reports` are added to those that already stand."""
        suspicion = self._suspicions.get(node)
        if suspicion is None:
            if len(self._suspicions) >= MAX_SUSPECTS:
                reported = (each for each, other in self._suspicions.items() if not other.lost)
                del self._suspicions[next(reported, next(iter(self._suspicions)))]
            suspicion = self._suspicions[node] = Suspicion(now)
        suspicion.lost = True
        self.start_over(node, now, count_silence_again=True)
        suspicion.reports |= reports
        self.recount(suspicion, now)
        return suspicion

    def accuse(self, accused: NodeId, reporter: NodeId, statement: Statement, now: float) -> bool:
        """Note a report; False if there is no room for it, or there are enough already.

        A node that is not suspect yet becomes so; for a dead one the report is kept, since a
        standing quorum is what keeps it dead.
        """
        suspicion, dead = self._suspicions.get(accused), self._dead.get(accused)
        reports = (
            suspicion.reports if suspicion is not None else dead.reports if dead is not None else {}
        )
        if reporter not in reports and len(reports) >= MAX_REPORTS:
            return False
        if dead is not None:
            dead.reports[reporter] = statement
            return True
        if suspicion is None:
            suspicion = self._open(accused, now)
        if suspicion is None:
            return False
        suspicion.reports[reporter] = statement
        self.recount(suspicion, now)
        self.schedule(accused)
        return True

    def set_population(self, known: int) -> None:
        """Note how many nodes may probe, and report."""
        self._own_reports.population = self._population = known

    def note_report(self, accused: NodeId, now: float) -> None:
        """Note that a report came, even from a node of which nothing is known."""
        self._own_reports.note_report(accused, now)

    def suspect_if_quorum_reported(self, accused: NodeId, now: float) -> None:
        """Suspect a node that a quorum of reporters accused, though they may be invented.

        Only our own dials decide then. When full, the accused is not suspected.
        """
        if accused in self._suspicions or self._dead.get(accused) is not None:
            return
        if self._own_reports.quorum_reported(accused, now):
            self._open(accused, now)

    def refute_older(self, node: NodeId, issued_ms: int, now: float, *, gone_since: bool) -> bool:
        """Drop evidence older than a node's own publication; returns whether nothing is left.

        `gone_since`: we lost it, or failed to dial it, later than that. A verdict by reports then
        becomes a suspicion again: only what we saw is left, and that was not enough.
        """
        suspicion, dead = self._suspicions.get(node), self._dead.get(node)
        if dead is not None and dead.failed_at is None:
            newer = _newer(dead.reports, issued_ms)
            if self._believed(newer, now) >= QUORUM:
                return False
            if gone_since:
                self.drop(node)
                self.open_lost(node, newer, now)
                return False
            for each in newer:
                # They are too few, but not proven wrong.
                del dead.reports[each]
            return True
        if suspicion is None:
            return not gone_since
        newer, still_lost = _newer(suspicion.reports, issued_ms), suspicion.lost and gone_since
        if not newer and not gone_since:
            return True
        if not suspicion.lost and not gone_since:
            self.refute((each for each in suspicion.reports if each not in newer), now)
        suspicion.reports, suspicion.lost = newer, still_lost
        self.recount(suspicion, now)
        if not still_lost:
            self.start_over(node, now)
        return False

    def start_over(self, node: NodeId, now: float, *, count_silence_again: bool = False) -> None:
        """Judge a suspect anew: dial it at once if we lost it, else in a window.

        `count_silence_again`: its silence may count for our isolation once more.
        """
        suspicion = self._suspicions[node]
        suspicion.start_over(now)
        suspicion.silent = suspicion.silent and not count_silence_again
        suspicion.dial_due = now if suspicion.lost else self._probe_at(node, now)
        self.schedule(node)

    def start_all_over(self, now: float, *, count_silence_again: bool = False) -> None:
        """Judge all suspects anew; see `start_over`."""
        for node in self._suspicions:
            self.start_over(node, now, count_silence_again=count_silence_again)

    def release(self) -> None:
        """Go on with the verdicts that waited for the end of what was not an isolation."""
        for node, suspicion in self._suspicions.items():
            # A last dial that failed meanwhile decided nothing.
            suspicion.held = suspicion.last_chance = False
            self.schedule(node)

    def recount(self, suspicion: Suspicion, now: float) -> None:
        """Count the independent reporters that are still believed."""
        suspicion.recount(self._believed(suspicion.reports, now), now)

    def _believed(self, reports: dict[NodeId, Statement], now: float) -> int:
        return _independent(
            each
            for reporter, each in reports.items()
            if not self._reporters.is_discredited(reporter, now)
        )

    def schedule(self, node: NodeId) -> None:
        """Note that a suspicion changed; rebuilds the agenda if it has grown too long."""
        if len(self._agenda) > 4 * len(self._suspicions) + 64:
            # This drops what was put off or settled, or false reports would fill the agenda.
            self._renew_agenda()
        else:
            self._push(node)

    def _renew_agenda(self) -> None:
        self._agenda.clear()
        for each in self._suspicions:
            self._push(each)

    def drop(self, node: NodeId) -> None:
        """Forget a suspicion or verdict."""
        self._suspicions.pop(node, None)
        self._dead.pop(node, None)

    def declare_alive(self, node: NodeId, now: float) -> None:
        """End a suspicion or verdict: the node is alive, and its reporters lose credit.

        If we saw the same ourselves, their reports were no lies.
        """
        self._own_reports.forget(node)
        suspicion, dead = self._suspicions.pop(node, None), self._dead.pop(node, None)
        if suspicion is None and dead is None:
            return
        if suspicion is not None and not suspicion.lost:
            self.refute(suspicion.reports, now)
        if dead is not None and dead.failed_at is None:
            self.refute(dead.reports, now)
        self._news.append(Revive(node))

    def refute(self, reports: Iterable[NodeId], now: float) -> None:
        """Note that these reporters were all wrong."""
        for reporter in reports:
            self._reporters.refuted(reporter, now)

    def declare_dead(
        self, node: NodeId, evidence: Evidence, failed_at: float | None, now: float
    ) -> None:
        """Declare a suspect dead, and report it if our own probe says so (`failed_at`).

        We don't report deaths that a quorum has reported by the time our report is due, most of
        those that we looked at only because of reports, and more than `REPORTS_PER_MINUTE`.
        """
        suspicion = self._suspicions.pop(node)
        self._dead[node] = Dead(now, failed_at, suspicion.reports)
        self._news.append(Declare(node, evidence, tuple(suspicion.reports)))
        if failed_at is None:
            return
        for reporter in suspicion.reports:
            self._reporters.confirmed(reporter)
        own = self._own_reports
        wanted = suspicion.independent < QUORUM and not suspicion.announced
        if wanted and (suspicion.lost or own.is_drawn()) and own.count_one(now):
            own.add(Report(node, evidence, now), now, suspects=len(self._suspicions))

    def announce(self, node: NodeId, now: float) -> None:
        """Report a suspect before the verdict if no peer that was asked could try to reach it.

        It may be out of reach for us alone: this way it learns of the suspicion, and can refute it
        in time.
        """
        suspicion = self._suspicions[node]
        alone = suspicion.lost and not suspicion.others_tried
        complete = suspicion.failed_at is not None and not suspicion.announced
        if alone and complete and not suspicion.independent and not self._isolation.isolated:
            suspicion.announced = self._own_reports.count_one(now)
            if suspicion.announced:
                self._news.append(Report(node, Evidence.SILENT, now))

    def _is_dead_to_few(self, node: NodeId, now: float) -> bool:
        dead = self._dead.get(node)
        return dead is not None and self._believed(dead.reports, now) < QUORUM

    def next_due(self) -> float:
        """Return when there are actions to take; infinity for never."""
        if self._news:
            return -math.inf
        while self._agenda:
            due, _, node = self._agenda[0]
            suspicion = self._suspicions.get(node)
            if suspicion is not None and suspicion.due(self._patience) <= due:
                return min(due, self._own_reports.due)
            heapq.heappop(self._agenda)
            if suspicion is not None:
                self._push(node)
        return self._own_reports.due

    def take(self, now: float) -> list[Action]:
        """Return what is to be done now, in order; each is returned once."""
        while self._agenda and self._agenda[0][0] <= now:
            node = heapq.heappop(self._agenda)[2]
            suspicion = self._suspicions.get(node)
            if suspicion is not None:
                self._look_at(node, suspicion, now)
        self._news += self._own_reports.take(now, partial(self._is_dead_to_few, now=now))
        news, self._news = self._news, []
        return news

    def _look_at(self, node: NodeId, suspicion: Suspicion, now: float) -> None:
        self._ask_for_probes(node, suspicion, now)
        if suspicion.quorum_due(self._patience) <= now and self._quorum_stands(suspicion, now):
            self.declare_dead(node, Evidence.SILENT, None, now)
        else:
            self._push(node)

    def _ask_for_probes(self, node: NodeId, suspicion: Suspicion, now: float) -> None:
        if suspicion.verdict_due(self._patience) <= now:
            suspicion.held = self._isolation.isolated
            if not suspicion.held:
                # It may have come back since it was dialled.
                suspicion.last_chance, suspicion.dial_due = True, now
        if suspicion.dial_due <= now:
            if suspicion.lost or suspicion.last_chance or self._probes.spend(1, now):
                suspicion.dial_due, suspicion.dialled_at = now + OUTCOME_WITHIN, now
                if suspicion.lost and suspicion.last_chance:
                    # It may be back for all but us.
                    self._news.append(AskOthers(node, last=True))
                self._news.append(Redial(node, suspicion.last_chance))
            else:
                suspicion.dial_due = now + self._spread()
        if suspicion.ask_due <= now:
            suspicion.ask_due = now + OUTCOME_WITHIN
            self._news.append(AskOthers(node))

    def put_off(self, node: NodeId, now: float) -> None:
        """Have a suspect dialled later that could not be dialled: that took none of the budget."""
        suspicion = self._suspicions.get(node)
        if suspicion is None:
            return
        self._give_back(suspicion)
        suspicion.dial_due = now + ASK_AGAIN + self._spread()
        self.schedule(node)

    def give_up_in_time(self, node: NodeId, now: float) -> None:
        """Forget a suspect that can't be dialled, unless a quorum of reports is to decide."""
        suspicion = self._suspicions[node]
        self._give_back(suspicion)
        suspicion.dial_due = suspicion.since + OUTCOME_WITHIN
        if now < suspicion.dial_due or suspicion.quorum_at is not None:
            suspicion.dial_due = max(suspicion.dial_due, now + ASK_AGAIN)
            self.schedule(node)
        else:
            self.drop(node)

    def _give_back(self, suspicion: Suspicion) -> None:
        """Return to the budget what a dial cost that was not made."""
        if not (suspicion.lost or suspicion.last_chance):
            self._probes.give_back(1)

    def _spread(self) -> float:
        """Return seconds at random, the more the more suspects there are."""
        return self._rng.uniform(0.05, max(1.0, len(self._suspicions) / DIALS_PER_SECOND))

    def _quorum_stands(self, suspicion: Suspicion, now: float) -> bool:
        """Whether enough reports stand unrefuted after the wait; else it goes on, or is over."""
        silence = now - self._last_heard()
        if silence > IN_TOUCH:
            # No refutation could have reached us: look again in a moment.
            suspicion.cut_off |= silence > CUT_OFF
            suspicion.quorum_at = now + IN_TOUCH / 2 - REFUTE_WAIT * self._patience
            return False
        if suspicion.cut_off and not suspicion.waited_anew:
            # Only once: among few peers silences are long, and a verdict must come in the end.
            suspicion.waited_anew, suspicion.quorum_at = True, now
            return False
        # Somebody may have been discredited meanwhile.
        self.recount(suspicion, now)
        return suspicion.quorum_at is not None

    def _probe_at(self, node: NodeId, now: float) -> float:
        """Return when to probe next: once in a window, however many reports there are.

        A time once chosen stands, or endless reports and refutations would put it off for ever.
        """
        window = self._windows.get(node)
        if window is None or window.probe_at < now:
            begin = now if window is None else max(now, window.end)
            length = max(PROBE_WINDOW_LEAST, self._population / DIALS_PER_SECOND)
            window = _Window(begin + self._rng.uniform(0, length), begin + length)
        self._windows[node] = window
        return window.probe_at

    def _open(self, accused: NodeId, now: float) -> Suspicion | None:
        """Suspect a node that others reported; None if there is no room."""
        if len(self._suspicions) >= MAX_SUSPECTS:
            return None
        suspicion = self._suspicions[accused] = Suspicion(now)
        self.start_over(accused, now)
        return suspicion

    def _push(self, node: NodeId) -> None:
        due = self._suspicions[node].due(self._patience)
        if due < math.inf:
            self._entries += 1
            heapq.heappush(self._agenda, (due, self._entries, node))


def _newer(reports: dict[NodeId, Statement], issued_ms: int) -> dict[NodeId, Statement]:
    return {who: each for who, each in reports.items() if each.observed_ms >= issued_ms}


def _independent(statements: Iterable[Statement]) -> int:
    """Count reports, only one from each public network."""
    networks = [each.network for each in statements]
    return networks.count(None) + len(set(networks) - {None})
