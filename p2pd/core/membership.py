"""Who is alive: evidence goes in, and what to do about it comes out.

SWIM (Das, Gupta, Motivala 2002) with ideas of Lifeguard (Dadgar, Phillips, Currey 2017,
arXiv 1707.00788), over long-lived connections: a lost connection or a report of others
makes a node suspect; dead it is only by a failed probe of our own, or by the reports of
enough distinct reporters that nobody refuted. A report costs its accused few dials: all
nodes spread their probes so that together they stay at `DIALS_PER_SECOND`.

The shell hands in what happened and takes the actions after each piece of evidence and
whenever `next_due` has come.
"""

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import StrEnum

import attrs

from p2pd.core.budget import Budget
from p2pd.core.credit import Credit
from p2pd.core.isolation import Isolation
from p2pd.core.suspicion import MAX_REPORTS, QUORUM, Case, Statement
from p2pd.ids import NodeId

# Seconds after which a report is too old, and how far it may be in the future, since
# clocks differ.
REPORT_TTL = 300.0
REPORT_EARLY = 60.0
# A reporter's next report of the same node counts after so many seconds.
REPORT_AGAIN = 60.0
# Our own reports in any minute; more are left to the others who noticed, too.
REPORTS_PER_MINUTE = 60
# What all nodes together dial an accused, and what we dial because of reports. A probe
# falls into a window of known nodes / DIALS_PER_SECOND seconds, and into no shorter one.
DIALS_PER_SECOND = 20
PROBE_WINDOW_LEAST = 0.3
# A peer on a connection is heard at least so often, in seconds, where all is well.
HEARD_LATELY = 15.0
# An action whose outcome was not told within so many seconds is asked for again.
OUTCOME_WITHIN = 60.0
# Lifeguard's S: the worst local health; waits are multiplied by 1 + the score.
WORST_HEALTH = 8
# At the bound a reported node is not suspected, a lost one takes the place of the oldest
# reported one.
MAX_SUSPECTS = 4096
# At these bounds the oldest is forgotten: a dead or alive node is then unknown, a report
# may count again.
MAX_DEAD = 4096
MAX_KNOWN = 16384
MAX_RECENT_REPORTS = 16384


class Liveness(StrEnum):
    """What we believe of a node."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Evidence(StrEnum):
    """Why a node is held dead: its address refused a dial, or nothing came from it."""

    REFUSED = "refused"
    SILENT = "silent"


@attrs.frozen
class Redial:
    """Dial it now; tell the outcome by `heard` or `dial_failed`."""

    node: NodeId


@attrs.frozen
class AskOthers:
    """Ask connected peers to reach it; tell the outcome by `others_reached` or `others_failed`.

    Where there is nobody to ask, they failed.
    """

    node: NodeId


@attrs.frozen
class Report:
    """Publish a signed dead report."""

    node: NodeId
    evidence: Evidence


@attrs.frozen
class Declare:
    """The verdict: it is dead. By `reporters` alone, the evidence is `SILENT`."""

    node: NodeId
    evidence: Evidence
    reporters: tuple[NodeId, ...]


@attrs.frozen
class Revive:
    """It was suspect or dead, and is alive."""

    node: NodeId


Action = Redial | AskOthers | Report | Declare | Revive


@attrs.define(eq=False)
class _Known:
    """What is known of a node. Times are monotonic; `issued_ms` is in its own Unix time.

    `linked_at` is the begin of the connection, None without one. `gone_at` is when it left
    or was found gone: nothing older revives it. `claims` are reports that came while it was
    connected and well: what comes next, its word or its loss, decides about them.
    `probed_until` is the end of the latest probe window.
    """

    alive: bool = False
    left: bool = False
    lost: bool = False
    linked_at: float | None = None
    heard_at: float = -math.inf
    gone_at: float = -math.inf
    issued_ms: int = -1
    probed_until: float = -math.inf
    claims: dict[NodeId, Statement] = attrs.field(factory=dict)


@attrs.frozen
class _Dead:
    """A verdict: whether by a failed probe of our own, and who reported it."""

    own: bool
    reports: dict[NodeId, Statement]


class Membership:
    """Decides who is alive, as seen from `own_id`.

    `network_of` names the public network of a node, None where it is on a LAN or unknown:
    of one public network only one report counts. All `now` are monotonic seconds.
    """

    def __init__(
        self,
        own_id: NodeId,
        *,
        rng: random.Random,
        network_of: Callable[[NodeId], str | None],
    ) -> None:
        self._own_id = own_id
        self._rng = rng
        self._network_of = network_of
        self._now = 0.0
        self._wall_offset: float | None = None
        self._population = 0
        self._health = 0
        self._known: dict[NodeId, _Known] = {}
        self._cases: dict[NodeId, Case] = {}
        self._dead: dict[NodeId, _Dead] = {}
        self._credit = Credit()
        self._isolation = Isolation()
        # When each reporter last reported each accused, the oldest first.
        self._recent: dict[tuple[NodeId, NodeId], float] = {}
        self._recent_of: Counter[NodeId] = Counter()
        self._own_reports: deque[float] = deque(maxlen=REPORTS_PER_MINUTE)
        self._probes = Budget(DIALS_PER_SECOND, DIALS_PER_SECOND)
        self._news: list[Action] = []
        # (due, count, node): a case may have several entries, only its next due one counts.
        self._agenda: list[tuple[float, int, NodeId]] = []
        self._entries = 0

    @property
    def isolated(self) -> bool:
        """Whether we seem to be cut off ourselves: soft evidence kills nobody meanwhile."""
        return self._isolation.isolated

    @property
    def health(self) -> int:
        """Lifeguard's local health: 0 is well, `WORST_HEALTH` the worst."""
        return self._health

    def liveness(self, node: NodeId) -> Liveness:
        """Return what we believe of a node."""
        if node in self._cases:
            return Liveness.SUSPECT
        if node in self._dead:
            return Liveness.DEAD
        known = self._known.get(node)
        return Liveness.ALIVE if known is not None and known.alive else Liveness.UNKNOWN

    def set_population(self, connected: int, known: int) -> None:
        """Note how many lasting connections there are, and how many nodes are known in all.

        To be called before losses, too: isolation is judged by the most connections of the
        last `isolation.WINDOW` seconds.
        """
        self._population = known
        self._isolation.connected(connected, self._now)

    def heard(self, node: NodeId, now: float) -> None:
        """Note a handshake with a node, or a message from it: it is alive.

        Who reported it without need loses credit.
        """
        self._now = now
        known = self._known.get(node)
        if known is not None and known.linked_at is not None and not known.claims:
            known.heard_at = now
            if node not in self._cases and node not in self._dead:
                return
        if node == self._own_id:
            return
        known = known or self._know(node)
        if known.linked_at is None:
            known.linked_at = now
        known.heard_at = now
        known.left = False
        self._refute(known.claims, now)
        known.claims = {}
        self._revive(node, known, now)
        if known.lost:
            known.lost = False
            self._isolation.back(node)
            if self.isolated:
                self._isolation.over()
                for each, case in self._cases.items():
                    self._start_over(each, case, now)

    def vouched(self, node: NodeId, issued_ms: int, now: float, wall_ms: int | None = None) -> None:
        """Note a publication signed by a node, of its Unix milliseconds `issued_ms`.

        It is alive, unless the publication is older than the latest one known, than what we
        saw ourselves, or than a report that stands (a quorum of them, if it is dead).
        `wall_ms` is the present in Unix milliseconds; without it, the one of the last call
        that had it counts, and if there was none, the publication is taken as new.
        """
        self._now = now
        if wall_ms is not None:
            self._wall_offset = wall_ms / 1000 - now
        if node == self._own_id:
            return
        known = self._know(node)
        if issued_ms <= known.issued_ms:
            return
        known.issued_ms = issued_ms
        if self._wall_offset is not None and (
            issued_ms / 1000 - self._wall_offset <= known.gone_at
        ):
            return
        known.left = False
        case, dead = self._cases.get(node), self._dead.get(node)
        if case is not None:
            refuted = {each: at for each, at in case.reports.items() if at.observed_ms < issued_ms}
            if len(refuted) < len(case.reports):
                self._refute(refuted, now)
                for reporter in refuted:
                    del case.reports[reporter]
                case.lost = False
                self._count(case, now)
                self._start_over(node, case, now)
                return
        elif dead is not None and not dead.own:
            standing = [each for each in dead.reports.values() if each.observed_ms >= issued_ms]
            if _independent(standing) >= QUORUM:
                return
        self._revive(node, known, now)

    def left(self, node: NodeId, now: float) -> None:
        """Note that a node said goodbye: it is unknown, and nobody probes it."""
        self._now = now
        known = self._know(node)
        known.alive = known.lost = False
        known.left = True
        known.linked_at = None
        known.gone_at = now
        known.claims = {}
        self._isolation.back(node)
        self._cases.pop(node, None)
        self._dead.pop(node, None)

    def lost(self, node: NodeId, evidence_is_reset: bool, now: float) -> None:  # noqa: FBT001
        """Note that our connection to a node ended without a goodbye: it is suspect.

        `evidence_is_reset`: by a reset or the end of the stream; else by silence.
        """
        self._now = now
        if node == self._own_id:
            return
        known = self._know(node)
        known.alive = False
        known.lost = True
        known.linked_at = None
        known.gone_at = now
        claims, known.claims = known.claims, {}
        if node in self._dead:
            return
        case = self._cases.get(node)
        if case is None:
            self._make_room_for_suspect()
            case = self._cases[node] = Case(now)
        case.start_over(now)
        case.lost = True
        case.silent = False
        case.reports |= claims
        self._count(case, now)
        case.dial_due = now
        if not evidence_is_reset:
            case.ask_due = now
            self._fell_silent(node, case, now)
        self._schedule(node, case)

    def dial_failed(self, node: NodeId, refused: bool, now: float) -> None:  # noqa: FBT001
        """Note that our dial of a node came to nothing; it matters if the node is suspect.

        `refused`: at once, by its host; else there was no answer, or no way to it.
        """
        self._now = now
        case = self._cases.get(node)
        if case is None:
            return
        if refused:
            case.failed_at = now
            self._declare(node, case, Evidence.REFUSED, now, own=True)
            return
        case.dial_due = math.inf
        case.dial_failed = True
        if case.lost:
            self._fell_silent(node, case, now)
            if not case.others_failed:
                case.ask_due = min(case.ask_due, now)
        case.note_failure(now)
        self._schedule(node, case)

    def others_reached(self, node: NodeId, now: float) -> None:
        """Note that a peer whom we asked reached a suspect: it is alive, if not for us."""
        self._now = now
        if node in self._cases:
            self._know(node).gone_at = -math.inf
            # That is one peer's word: it takes no reporter's credit.
            self._cases[node].reports.clear()
            self._revive(node, self._know(node), now)

    def others_failed(self, node: NodeId, now: float) -> None:
        """Note that nobody whom we asked reached a node."""
        self._now = now
        case = self._cases.get(node)
        if case is not None:
            case.ask_due = math.inf
            case.others_failed = True
            case.note_failure(now)
            self._schedule(node, case)

    def reported(
        self,
        accused: NodeId,
        reporter: NodeId,
        observed_ms: int,
        sequence: int,
        wall_ms: int,
        known_sequence: int,
        connected: bool,  # noqa: FBT001
        now: float,
    ) -> bool:
        """Note somebody's signed dead report; returns whether it is worth passing on.

        `observed_ms` and `sequence` (of the accused's record) are the report's, `wall_ms` is
        the present in Unix milliseconds, `known_sequence` that of the latest record we know,
        `connected` whether we are connected to the accused. A report of ourselves is for the
        shell to refute.
        """
        self._now = now
        self._wall_offset = wall_ms / 1000 - now
        age = (wall_ms - observed_ms) / 1000
        if accused in (self._own_id, reporter) or reporter == self._own_id:
            return False
        if not -REPORT_EARLY <= age <= REPORT_TTL or sequence < known_sequence:
            return False
        if self._credit.is_discredited(reporter, now):
            return False
        known = self._know(accused)
        if known.left or known.issued_ms > observed_ms:
            return False
        if not self._first_of_late(accused, reporter, now):
            return False
        # A report of the future could not be refuted by anything of the present.
        statement = Statement(self._network_of(reporter), min(observed_ms, wall_ms))
        observed_at = now - max(age, 0.0)
        heard_since = known.heard_at > observed_at
        if connected and now - known.heard_at <= HEARD_LATELY:
            # It might be dying just now: only what we hear after that refutes the report.
            if heard_since and known.linked_at is not None and known.linked_at <= observed_at:
                self._credit.refuted(reporter, now)
            elif not heard_since and len(known.claims) < MAX_REPORTS:
                known.claims[reporter] = statement
            return False
        if heard_since:
            return False
        return self._accuse(accused, reporter, statement, now)

    def slept(self, now: float) -> None:
        """Note that we were paused or very late: silence meanwhile says nothing of others.

        All suspicions start anew, and the counts of connections are forgotten.
        """
        self._now = now
        self._isolation.forget()
        for node, case in self._cases.items():
            self._start_over(node, case, now)

    def late(self, seconds: float, now: float) -> None:
        """Note that a timer of ours came late: verdicts wait longer (Lifeguard's LHM)."""
        self._now = now
        self._health = min(WORST_HEALTH, self._health + 1 + int(max(seconds, 0.0)))

    def on_time(self, now: float) -> None:
        """Note that a timer of ours came on time."""
        self._now = now
        self._health = max(0, self._health - 1)

    def next_due(self) -> float:
        """Return when there are actions to take, in monotonic seconds: infinity if never."""
        if self._news:
            return self._now
        while self._agenda:
            due, _, node = self._agenda[0]
            case = self._cases.get(node)
            if case is not None and case.due(self._patience) <= due:
                return due
            heapq.heappop(self._agenda)
            if case is not None:
                self._schedule(node, case)
        return math.inf

    def take_actions(self, now: float) -> list[Action]:
        """Return what is to be done now, in order; each is returned once."""
        self._now = now
        while self._agenda and self._agenda[0][0] <= now:
            node = heapq.heappop(self._agenda)[2]
            case = self._cases.get(node)
            if case is not None:
                self._look_at(node, case, now)
        news, self._news = self._news, []
        return news

    @property
    def _patience(self) -> float:
        return 1.0 + self._health

    def _know(self, node: NodeId) -> _Known:
        known = self._known.get(node)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                unlinked = (each for each, has in self._known.items() if has.linked_at is None)
                del self._known[next(unlinked, next(iter(self._known)))]
            known = self._known[node] = _Known()
        return known

    def _schedule(self, node: NodeId, case: Case) -> None:
        due = case.due(self._patience)
        if due == math.inf:
            return
        if len(self._agenda) > 4 * len(self._cases) + 64:
            # What was put off or settled goes, or false reports would fill the agenda.
            self._agenda = []
            for each, other in self._cases.items():
                if other is not case:
                    self._push(other.due(self._patience), each)
        self._push(due, node)

    def _push(self, due: float, node: NodeId) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (due, self._entries, node))

    def _look_at(self, node: NodeId, case: Case, now: float) -> None:
        if case.dial_due <= now:
            if case.lost or self._probes.spend(1, now):
                case.dial_due = now + OUTCOME_WITHIN
                self._news.append(Redial(node))
            else:
                spread = max(1.0, len(self._cases) / DIALS_PER_SECOND)
                case.dial_due = now + self._rng.uniform(0.05, spread)
        if case.ask_due <= now:
            case.ask_due = now + OUTCOME_WITHIN
            self._news.append(AskOthers(node))
        if case.verdict_due(self._patience) <= now:
            if not self.isolated:
                self._declare(node, case, Evidence.SILENT, now, own=True)
                return
            case.held = True
        if case.quorum_due(self._patience) <= now:
            self._count(case, now)
            if case.quorum_at is not None:
                self._declare(node, case, Evidence.SILENT, now, own=False)
                return
        self._schedule(node, case)

    def _accuse(self, accused: NodeId, reporter: NodeId, statement: Statement, now: float) -> bool:
        case, dead = self._cases.get(accused), self._dead.get(accused)
        reports = case.reports if case is not None else dead.reports if dead is not None else {}
        if reporter not in reports and len(reports) >= MAX_REPORTS:
            return False
        if dead is not None:
            reports[reporter] = statement
            return True
        if case is None:
            if len(self._cases) >= MAX_SUSPECTS:
                return False
            case = self._cases[accused] = Case(now)
            self._start_over(accused, case, now)
        case.reports[reporter] = statement
        self._count(case, now)
        self._schedule(accused, case)
        return True

    def _first_of_late(self, accused: NodeId, reporter: NodeId, now: float) -> bool:
        """Whether it is the reporter's first on the accused, and he keeps to the rate."""
        recent = self._recent
        while recent:
            oldest = next(iter(recent))
            if now - recent[oldest] < REPORT_AGAIN and len(recent) < MAX_RECENT_REPORTS:
                break
            del recent[oldest]
            self._recent_of[oldest[1]] -= 1
            if not self._recent_of[oldest[1]]:
                del self._recent_of[oldest[1]]
        # Reports that waited for a way to us may come at once: up to TTL's worth of them.
        most = REPORTS_PER_MINUTE * REPORT_TTL / 60
        if (accused, reporter) in recent or self._recent_of[reporter] >= most:
            return False
        recent[accused, reporter] = now
        self._recent_of[reporter] += 1
        return True

    def _start_over(self, node: NodeId, case: Case, now: float) -> None:
        case.start_over(now)
        if case.lost:
            case.dial_due = now
        else:
            # A window begins no earlier than the one before has ended: so the accused is
            # dialled once by each node and window, however many reports there are.
            known = self._know(node)
            window = max(PROBE_WINDOW_LEAST, self._population / DIALS_PER_SECOND)
            begin = max(now, known.probed_until)
            known.probed_until = begin + window
            case.dial_due = begin + self._rng.uniform(0, window)
        self._schedule(node, case)

    def _count(self, case: Case, now: float) -> None:
        believed = (
            each
            for reporter, each in case.reports.items()
            if not self._credit.is_discredited(reporter, now)
        )
        case.recount(_independent(believed), now)

    def _fell_silent(self, node: NodeId, case: Case, now: float) -> None:
        if not case.silent:
            case.silent = True
            self._isolation.lost(node, now)

    def _make_room_for_suspect(self) -> None:
        if len(self._cases) >= MAX_SUSPECTS:
            reported = (each for each, case in self._cases.items() if not case.lost)
            del self._cases[next(reported, next(iter(self._cases)))]

    def _revive(self, node: NodeId, known: _Known, now: float) -> None:
        known.alive = True
        case, dead = self._cases.pop(node, None), self._dead.pop(node, None)
        # What we saw ourselves is no lie of those who saw it, too.
        if case is not None and not case.lost:
            self._refute(case.reports, now)
        if dead is not None and not dead.own:
            self._refute(dead.reports, now)
        if case is not None or dead is not None:
            self._news.append(Revive(node))

    def _refute(self, reports: dict[NodeId, Statement], now: float) -> None:
        for reporter in reports:
            self._credit.refuted(reporter, now)

    def _declare(
        self, node: NodeId, case: Case, evidence: Evidence, now: float, *, own: bool
    ) -> None:
        del self._cases[node]
        if len(self._dead) >= MAX_DEAD:
            del self._dead[next(iter(self._dead))]
        self._dead[node] = _Dead(own, case.reports)
        known = self._know(node)
        known.alive = False
        known.linked_at = None
        self._news.append(Declare(node, evidence, tuple(case.reports)))
        if not own:
            return
        known.gone_at = now if case.failed_at is None else case.failed_at
        for reporter in case.reports:
            self._credit.confirmed(reporter)
        if case.independent < QUORUM and self._may_report(now):
            self._news.append(Report(node, evidence))

    def _may_report(self, now: float) -> bool:
        times = self._own_reports
        if len(times) == REPORTS_PER_MINUTE and now - times[0] < 60:
            return False
        times.append(now)
        return True


def _independent(statements: Iterable[Statement]) -> int:
    """Count the reports, of each public network one."""
    networks = [each.network for each in statements]
    return networks.count(None) + len(set(networks) - {None})
