"""Reports are bounded, and what they cost: in memory, in dials, in further reports."""

import random
from collections.abc import Callable

import pytest

from p2pd.core.actions import Declare, Liveness, Redial, Report
from p2pd.core.known_nodes import MAX_KNOWN
from p2pd.core.membership import Membership
from p2pd.core.own_reports import GATHER, MAX_TOLD_OF, OwnReports
from p2pd.core.reporters import (
    FALSE_REPORTS,
    MAX_RECENT,
    MAX_RECENT_OF_ONE,
    MAX_REPORTERS,
    REPORT_AGAIN,
    REPORT_TTL,
    REPORTS_PER_MINUTE,
    Reporters,
)
from p2pd.core.suspects import (
    DIALS_PER_SECOND,
    MAX_DEAD,
    MAX_SUSPECTS,
    PROBE_WINDOW_LEAST,
)
from p2pd.core.suspicion import MAX_REPORTS, QUORUM
from p2pd.ids import NodeId
from tests.core.evidence import ACCUSED, LIAR, accuse, membership, node, run, wall


def test_our_own_reports_are_bounded() -> None:
    machine = membership(connected=1000, known=1000)
    reports = declared = 0
    for number in range(300):
        machine.lost(node(number), 10.0 + number / 5, reset=True)
        machine.dial_failed(node(number), 10.0 + number / 5, refused=True)
        actions = run(machine, 10.0 + number / 5)
        reports += sum(isinstance(each, Report) for each in actions)
        declared += sum(isinstance(each, Declare) for each in actions)
    assert declared == 300
    assert reports == REPORTS_PER_MINUTE
    machine.lost(node(300), 71.0, reset=True)
    machine.dial_failed(node(300), 71.0, refused=True)
    assert any(isinstance(each, Report) for each in run(machine, 71.0 + GATHER))


def test_of_one_accused_only_so_many_reports_count() -> None:
    machine = membership(known=100_000)
    counted = [accuse(machine, ACCUSED, node(100 + number), 100.0) for number in range(50)]
    assert counted == [True] * MAX_REPORTS + [False] * (50 - MAX_REPORTS)
    assert any(isinstance(each, Declare) for each in run(machine, 103.0))
    assert not accuse(machine, ACCUSED, node(500), 104.0)
    # Those that count may be brought up to date.
    assert accuse(machine, ACCUSED, node(100), 101.0 + REPORT_AGAIN)


def test_a_flood_of_reports_neither_crowds_out_our_own_losses_nor_makes_us_dial_more() -> None:
    machine = membership(known=100)
    machine.lost(node(2), 99.0, reset=True)
    counted = [
        accuse(machine, node(1000 + number), node(number // 100), 100.0)
        for number in range(MAX_SUSPECTS + 100)
    ]
    assert sum(counted) == MAX_SUSPECTS - 1
    suspects = sum(
        machine.liveness(node(1000 + number)) is Liveness.SUSPECT
        for number in range(MAX_SUSPECTS + 100)
    )
    assert suspects == MAX_SUSPECTS - 1
    machine.lost(node(1), 100.0, reset=True)
    assert machine.liveness(node(1)) is Liveness.SUSPECT
    assert machine.liveness(node(2)) is Liveness.SUSPECT
    assert machine.liveness(node(1000)) is Liveness.UNKNOWN
    assert Redial(node(1)) in machine.take_actions(100.0)
    dials = sum(isinstance(each, Redial) for each in run(machine, 110.0))
    assert DIALS_PER_SECOND * 5 <= dials <= DIALS_PER_SECOND * 11 + 1


def test_of_those_we_lost_so_many_are_suspects() -> None:
    machine = membership()
    for number in range(MAX_SUSPECTS + 1):
        machine.lost(node(number), 1.0, reset=True)
    assert machine.liveness(node(0)) is Liveness.UNKNOWN
    assert machine.liveness(node(1)) is Liveness.SUSPECT


def test_whom_we_lost_is_dialled_at_once_however_many_are_reported() -> None:
    machine = membership(known=20)
    for number in range(400):
        accuse(machine, node(1000 + number), node(2000 + number), 100.0)
    dials = [each for each in run(machine, 101.0) if isinstance(each, Redial)]
    assert len(dials) < 100
    machine.lost(ACCUSED, 101.0, reset=True)
    assert Redial(ACCUSED) in machine.take_actions(101.0)


def test_reports_before_a_verdict_are_bounded_too() -> None:
    machine = membership(connected=1000, known=1000)
    for number in range(2 * REPORTS_PER_MINUTE):
        machine.lost(node(number), 10.0, reset=False)
        machine.dial_failed(node(number), 10.0, refused=False)
        machine.others_failed(node(number), 10.0, tried=False)
    told = [each for each in machine.take_actions(10.0) if isinstance(each, Report)]
    assert len(told) == REPORTS_PER_MINUTE


def test_reports_and_words_by_turns_leave_nothing_behind() -> None:
    machine = membership(known=100_000)
    for index in range(2000):
        now = 100.0 + index / 10
        accuse(machine, ACCUSED, node(1000 + index), now)
        machine.vouched(ACCUSED, wall(now) + 1, now, wall(now) + 1)
        machine.take_actions(now)
    assert len(machine._suspects._agenda) < 100


def test_one_reporter_cannot_accuse_without_end() -> None:
    machine = membership(known=100)
    passed = sum(accuse(machine, node(1000 + number), LIAR, 100.0) for number in range(2000))
    assert passed == REPORTS_PER_MINUTE * REPORT_TTL / 60


def test_reports_that_came_lately_are_remembered_within_a_bound() -> None:
    reporters = Reporters()
    reports = [(node(n), node(100_000 + n // MAX_RECENT_OF_ONE)) for n in range(MAX_RECENT + 1)]
    assert all(reporters.admit(*each, 100.0) for each in reports)
    assert not reporters.admit(*reports[-1], 100.0)
    assert reporters.admit(*reports[0], 100.0)


def test_who_is_not_believed_gains_nothing_by_many_others_who_were_wrong() -> None:
    reporters = Reporters()
    for _ in range(FALSE_REPORTS):
        reporters.refuted(LIAR, 100.0)
    for number in range(2 * MAX_REPORTERS):
        reporters.refuted(node(1000 + number), 101.0)
    assert reporters.is_discredited(LIAR, 102.0)


def test_whom_we_are_connected_to_is_known_however_many_others_are_heard_of() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    for number in range(MAX_KNOWN):
        machine.vouched(node(1000 + number), wall(1.0), 1.0, wall(1.0))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_the_dead_are_forgotten_oldest_first() -> None:
    machine = membership()
    for number in range(MAX_DEAD + 1):
        machine.lost(node(number), 1.0, reset=True)
        machine.dial_failed(node(number), 1.0, refused=True)
    assert machine.liveness(node(0)) is Liveness.UNKNOWN
    assert machine.liveness(node(1)) is Liveness.DEAD


@pytest.mark.parametrize("stranger", [False, True])
@pytest.mark.parametrize("known", [6, 100])
def test_endless_reports_of_ever_new_reporters_cost_the_accused_one_dial_a_window(
    known: int,
    stranger: bool,
) -> None:
    machine = membership(known=known)
    window = max(PROBE_WINDOW_LEAST, known / DIALS_PER_SECOND)
    now, dials = 100.0, 0
    for reporter in range(1000, 5000):
        now += 0.01
        accuse(machine, ACCUSED, node(reporter), now, stranger=stranger)
        dials += sum(isinstance(each, Redial) for each in run(machine, now))
        if reporter % 50 == 0:
            machine.vouched(ACCUSED, wall(now) + 1, now, wall(now) + 1)
    assert 40.0 / window / 3 <= dials <= 40.0 / window + 2


def test_reports_and_words_by_turns_bring_no_second_dial_in_a_window() -> None:
    for seed in range(20):
        machine, dials = membership(known=100, seed=seed), 0
        for index in range(200):
            now = 100.0 + index / 10
            accuse(machine, ACCUSED, node(1000 + index), now)
            dials += sum(isinstance(each, Redial) for each in run(machine, now + 0.09))
            machine.vouched(ACCUSED, wall(now) + 1, now + 0.09, wall(now + 0.09))
        assert dials <= 200 / 10 / (100 / DIALS_PER_SECOND) + 1


def test_the_dead_is_probed_soon_after_endless_false_reports_of_it() -> None:
    machine = membership(known=100)
    for reporter in range(1000, 2000):
        now = 100.0 + reporter - 1000
        accuse(machine, ACCUSED, node(reporter), now)
        machine.vouched(ACCUSED, wall(now) + 1, now + 0.1, wall(now + 0.1))
        run(machine, now + 0.1)
    accuse(machine, ACCUSED, LIAR, 1200.0)
    assert run(machine, 1200.0 + 2 * 100 / DIALS_PER_SECOND) == [Redial(ACCUSED)]


def test_whose_deaths_were_told_of_is_remembered_within_a_bound() -> None:
    own = OwnReports(random.Random(0))
    for number in range(MAX_TOLD_OF + 100):
        for _ in range(QUORUM):
            own.note_report(node(number), 100.0)
    assert [own.quorum_reported(node(number), 100.0) for number in (0, 99)] == [False, False]
    assert all(own.quorum_reported(node(number), 100.0) for number in range(100, MAX_TOLD_OF + 100))


def test_reports_make_a_quorum_only_if_they_are_of_one_time() -> None:
    own = OwnReports(random.Random(0))
    own.note_report(ACCUSED, 10_000.0)
    for _ in range(QUORUM - 1):
        own.note_report(ACCUSED, 10_000.0 + REPORT_TTL + 1)
    assert not own.quorum_reported(ACCUSED, 10_000.0 + REPORT_TTL + 1)
    own.note_report(ACCUSED, 10_000.0 + REPORT_TTL + 2)
    assert own.quorum_reported(ACCUSED, 10_000.0 + REPORT_TTL + 2)
    assert not own.quorum_reported(ACCUSED, 10_000.0 + 2 * REPORT_TTL + 2)


@pytest.mark.parametrize("not_made", [Membership.dial_put_off, Membership.dial_impossible])
def test_a_dial_that_was_not_made_takes_nothing_from_others(
    not_made: Callable[[Membership, NodeId, float], None],
) -> None:
    """Else invented peers, of whom few may be dialled, would use up what real suspects need."""
    machine = membership(known=20)
    for number in range(400):
        accuse(machine, node(1000 + number), node(2000 + number), 100.0)
    put_off, now = 0, 100.0
    while now < 110.0:
        for action in run(machine, now):
            assert isinstance(action, Redial)
            not_made(machine, action.node, now)
            put_off += 1
        now += 0.05
    assert put_off > 1.2 * DIALS_PER_SECOND * 11


@pytest.mark.parametrize("last", [False, True])
def test_a_dial_that_cost_nothing_gives_nothing_when_it_is_put_off(last: bool) -> None:
    machine = membership(connected=1000, known=20)
    for number in range(2000, 2400):
        if last:
            accuse(machine, node(number), node(5000 + number // 200), 100.0)
            machine.dial_failed(node(number), 100.0, refused=False)
        else:
            machine.lost(node(number), 100.0, reset=True)
    free = [each.node for each in run(machine, 110.0) if isinstance(each, Redial)]
    assert len(free) == 400
    for number in range(400):
        accuse(machine, node(1000 + number), node(3000 + number), 110.0)
    dials, now = 0, 110.0
    while free:
        machine.dial_put_off(free.pop(), now)
        dials += sum(
            isinstance(each, Redial) and each.node < node(2000) for each in run(machine, now)
        )
        now += 0.005
    assert dials <= DIALS_PER_SECOND * 3 + 1


def test_many_that_could_not_be_dialled_are_not_dialled_again_all_at_once() -> None:
    machine = membership(connected=1000)
    for number in range(400):
        machine.lost(node(number), 100.0, reset=True)
    for action in run(machine, 100.0):
        assert isinstance(action, Redial)
        machine.dial_put_off(action.node, 100.0)
    again = [len(run(machine, 100.0 + second)) for second in range(1, 30)]
    assert sum(again) == 400
    assert max(again) < 2 * DIALS_PER_SECOND


def test_deaths_that_others_told_of_take_nothing_from_what_is_to_be_told() -> None:
    machine = membership(connected=1000, known=1000)
    for number in range(REPORTS_PER_MINUTE + 1):
        machine.lost(node(number), 100.0, reset=True)
        if number < REPORTS_PER_MINUTE:
            for reporter in range(QUORUM):
                accuse(machine, node(number), node(1000 + reporter), 100.0)
        machine.dial_failed(node(number), 100.0, refused=True)
    told = [each for each in run(machine, 103.0) if isinstance(each, Report)]
    assert [each.node for each in told] == [node(REPORTS_PER_MINUTE)]
