"""Who is alive by what we see ourselves, and when we are the ones who are not well."""

import pytest

from p2pd.core.actions import Action, AskOthers, Declare, Evidence, Liveness, Redial, Report, Revive
from p2pd.core.membership import WORST_HEALTH
from p2pd.core.own_reports import GATHER
from p2pd.core.suspects import (
    DIALS_PER_SECOND,
    OUTCOME_WITHIN,
    PROBE_WINDOW_LEAST,
)
from p2pd.core.suspicion import (
    ASK_AGAIN,
    GRACE,
    LAST_DIAL,
    MAX_REPORTS,
    MOST_UNCLEAR,
    QUORUM,
    REFUTE_WAIT,
    SUSPICION_MOST,
    suspicion_time,
)
from tests.core.evidence import (
    ACCUSED,
    LIAR,
    accuse,
    fail_silently,
    heard_of,
    membership,
    node,
    run,
    run_unanswered,
    wall,
)


def test_who_was_never_heard_of_is_unknown_and_who_was_heard_alive() -> None:
    machine = membership()
    machine.unlinked(ACCUSED, 0.0, 0.0)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    machine.heard(ACCUSED, 0.0)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    assert machine.take_actions(0.0) == []
    assert machine.next_due() == float("inf")


def test_the_verdicts_of_a_node_that_is_well_again_come_as_soon_as_those_of_others() -> None:
    due = []
    for ill in (False, True):
        machine = membership()
        machine.heard(ACCUSED, 0.0)
        if ill:
            machine.late(WORST_HEALTH)
        machine.lost(ACCUSED, 1.0, reset=False)
        machine.take_actions(1.0)
        machine.dial_failed(ACCUSED, 1.5, refused=False)
        machine.others_failed(ACCUSED, 1.5)
        for _ in range(WORST_HEALTH):
            machine.on_time()
        due.append(machine.next_due())
    assert due[0] == due[1]


def test_a_reset_is_followed_by_a_dial_and_a_refusal_by_the_verdict() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.lost(ACCUSED, 1.0, reset=True)
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert machine.next_due() <= 1.0
    assert machine.take_actions(1.0) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, 1.1, refused=True)
    assert machine.take_actions(1.1) == [Declare(ACCUSED, Evidence.REFUSED, ())]
    assert run(machine, 1.1 + GATHER) == [Report(ACCUSED, Evidence.REFUSED, 1.1)]
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert machine.next_due() == float("inf")


def test_a_dial_without_answer_has_others_asked_before_the_verdict() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.lost(ACCUSED, 1.0, reset=True)
    assert run(machine, 1.0) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, 2.0, refused=False)
    assert run(machine, 2.0 + SUSPICION_MOST) == [AskOthers(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.others_failed(ACCUSED, 9.0)
    assert run(machine, 9.0 + GRACE - 0.1) == []
    assert run_unanswered(machine, 9.0 + GRACE) == [Declare(ACCUSED, Evidence.SILENT, ())]
    told = run(machine, 9.0 + GRACE + GATHER)
    assert told == [Report(ACCUSED, Evidence.SILENT, 9.0 + GRACE)]


def test_one_more_failure_puts_no_verdict_off() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=True)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, 2.0, refused=False)
    machine.others_failed(ACCUSED, 20.0)
    machine.dial_failed(ACCUSED, 20.0 + GRACE / 2, refused=False)
    assert Declare(ACCUSED, Evidence.SILENT, ()) in run_unanswered(machine, 20.0 + GRACE)


def test_silence_has_it_dialled_and_others_asked_at_once_and_both_must_fail() -> None:
    for dial_fails, others_fail in ((True, False), (False, True)):
        machine = membership()
        machine.lost(ACCUSED, 1.0, reset=False)
        assert run(machine, 1.0) == [Redial(ACCUSED), AskOthers(ACCUSED)]
        if dial_fails:
            machine.dial_failed(ACCUSED, 2.0, refused=False)
        if others_fail:
            machine.others_failed(ACCUSED, 2.0)
        assert run(machine, 30.0) == []
        machine.dial_failed(ACCUSED, 31.0, refused=False)
        machine.others_failed(ACCUSED, 31.0)
        assert Declare(ACCUSED, Evidence.SILENT, ()) in run_unanswered(machine, 32.0)


def test_who_answers_the_last_dial_was_never_dead() -> None:
    machine = membership()
    fail_silently(machine, ACCUSED, 1.0)
    assert run(machine, 20.0) == [AskOthers(ACCUSED, last=True), Redial(ACCUSED, last=True)]
    machine.heard(ACCUSED, 20.1)
    assert run(machine, 600.0) == [Revive(ACCUSED)]


def test_whom_others_reach_at_last_is_alive_though_our_last_dial_fails() -> None:
    machine = membership()
    fail_silently(machine, ACCUSED, 1.0)
    run(machine, 20.0)
    machine.others_reached(ACCUSED, 20.2)
    machine.dial_failed(ACCUSED, 21.0, refused=False)
    assert run(machine, 600.0) == [Revive(ACCUSED)]


def test_a_last_dial_that_could_not_be_made_is_made_a_little_later() -> None:
    machine = membership()
    fail_silently(machine, ACCUSED, 1.0)
    run(machine, 20.0)
    machine.others_failed(ACCUSED, 20.1)
    again = [AskOthers(ACCUSED, last=True), Redial(ACCUSED, last=True)]
    assert run(machine, 20.0 + ASK_AGAIN) == []
    assert run(machine, 20.1 + ASK_AGAIN) == again
    # As one whose cable was out: what those said who were asked then counts no more.
    machine.dial_unclear(ACCUSED, 22.0)
    assert run(machine, 22.0 + ASK_AGAIN) == again


def test_a_dial_while_nobody_else_answers_is_made_again_and_is_no_evidence() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    machine.others_failed(ACCUSED, 2.0)
    for number in range(100):
        run(machine, 2.0 + number)
        machine.dial_unclear(ACCUSED, 2.0 + number)
        assert machine.next_due() == 2.0 + number + ASK_AGAIN
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT


def test_others_who_give_no_answer_are_asked_again_a_few_times() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    machine.dial_failed(ACCUSED, 1.0, refused=False)
    run(machine, 1.0)
    for number in range(1, MOST_UNCLEAR):
        machine.others_unclear(ACCUSED, 5.0 * number)
        assert run(machine, 5.0 * number + ASK_AGAIN - 0.1) == []
        assert run(machine, 5.0 * number + ASK_AGAIN) == [AskOthers(ACCUSED)]
    machine.others_unclear(ACCUSED, 5.0 * MOST_UNCLEAR)
    asked_last = 5.0 * MOST_UNCLEAR
    assert run(machine, asked_last + REFUTE_WAIT) == [
        Report(ACCUSED, Evidence.SILENT, asked_last),
        AskOthers(ACCUSED, last=True),
        Redial(ACCUSED, last=True),
    ]


def test_others_are_asked_as_often_again_where_all_begins_anew() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    for _ in range(1, MOST_UNCLEAR):
        machine.others_unclear(ACCUSED, 1.0)
    machine.slept(10.0)
    machine.dial_failed(ACCUSED, 10.0, refused=False)
    assert AskOthers(ACCUSED) in run(machine, 10.0)
    machine.others_unclear(ACCUSED, 10.0)
    assert run(machine, 10.0 + ASK_AGAIN) == [AskOthers(ACCUSED)]


def test_others_are_asked_once_whatever_keeps_us_from_a_dial() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=True)
    assert machine.wants_others(ACCUSED)
    machine.others_failed(ACCUSED, 1.0)
    assert not machine.wants_others(ACCUSED)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, 2.0, refused=False)
    assert run(machine, 2.0) == []
    # Of a silent one, they are being asked already.
    machine.lost(node(2), 2.0, reset=False)
    assert not machine.wants_others(node(2))


def test_whom_nobody_asked_knows_is_reported_before_the_verdict_and_can_refute_it() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, 3.0, refused=False)
    machine.others_failed(ACCUSED, 3.5, tried=False)
    assert run(machine, 3.5) == [Report(ACCUSED, Evidence.SILENT, 3.5)]
    machine.vouched(ACCUSED, wall(3.6), 3.7, wall(3.7))
    assert run(machine, 600.0) == [Revive(ACCUSED)]


def test_whom_another_one_reported_is_not_reported_before_the_verdict_too() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    accuse(machine, ACCUSED, LIAR, 1.0)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, 3.0, refused=False)
    machine.others_failed(ACCUSED, 3.5, tried=False)
    assert run(machine, 3.5) == []


def test_a_report_before_the_verdict_is_not_repeated_with_it() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    run(machine, 1.0)
    machine.others_failed(ACCUSED, 3.0, tried=False)
    machine.dial_failed(ACCUSED, 6.5, refused=False)
    machine.others_failed(ACCUSED, 6.6, tried=False)
    assert run(machine, 6.5 + REFUTE_WAIT - 0.1) == [Report(ACCUSED, Evidence.SILENT, 6.5)]
    assert run_unanswered(machine, 600.0) == [Declare(ACCUSED, Evidence.SILENT, ())]


def test_a_silent_verdict_yields_to_a_word_from_after_its_last_dial_began() -> None:
    machine = membership()
    fail_silently(machine, ACCUSED, 1.0)
    run(machine, 20.0)
    began = 4.0
    machine.dial_failed(ACCUSED, 20.0, refused=False)
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    machine.vouched(ACCUSED, wall(began - 0.1), 20.1, wall(20.1))
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    machine.vouched(ACCUSED, wall(began + 0.1), 20.2, wall(20.2))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_whom_others_reach_is_alive() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=False)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, 2.0, refused=False)
    machine.others_reached(ACCUSED, 2.5)
    assert run(machine, 600.0) == [Revive(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    machine.others_failed(ACCUSED, 601.0)
    assert run(machine, 700.0) == []


def test_an_outcome_that_nobody_tells_is_asked_for_again() -> None:
    machine = membership()
    machine.lost(ACCUSED, 0.0, reset=False)
    run(machine, 0.0)
    assert run(machine, OUTCOME_WITHIN) == [Redial(ACCUSED), AskOthers(ACCUSED)]


def test_who_was_lost_and_has_no_address_is_judged_like_one_that_does_not_answer() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.lost(ACCUSED, 1.0, reset=True)
    assert run(machine, 1.0) == [Redial(ACCUSED)]
    machine.dial_impossible(ACCUSED, 1.0)
    assert run(machine, 1.0) == [AskOthers(ACCUSED)]
    machine.others_failed(ACCUSED, 2.0)
    due = machine.next_due()
    assert run(machine, due) == [AskOthers(ACCUSED, last=True), Redial(ACCUSED, last=True)]
    machine.dial_impossible(ACCUSED, due)
    assert run(machine, due) == [Declare(ACCUSED, Evidence.SILENT, ())]


def test_who_was_only_reported_and_has_no_address_is_given_up_in_time() -> None:
    machine = membership(known=20)
    accuse(machine, ACCUSED, LIAR, 0.0)
    dials, now = 0, 0.0
    while now < OUTCOME_WITHIN + 10:
        actions = run(machine, now)
        assert actions in ([], [Redial(ACCUSED)])
        if actions:
            dials += 1
            machine.dial_impossible(ACCUSED, now)
        now += 0.5
    assert dials == 2
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert machine.next_due() == float("inf")


def test_a_quorum_decides_of_who_has_no_address_though_it_is_late() -> None:
    machine = membership(known=20)
    accuse(machine, ACCUSED, LIAR, 0.0)
    now = 0.0
    done: list[Action] = []
    dials = 0
    while not done and now < 2 * OUTCOME_WITHIN:
        if now == OUTCOME_WITHIN - 1:
            for number in range(QUORUM - 1):
                accuse(machine, ACCUSED, node(100 + number), now)
        for action in run(machine, now):
            if isinstance(action, Redial):
                dials += 1
                machine.dial_impossible(ACCUSED, now)
            else:
                done.append(action)
        now += 0.5
    [verdict] = done
    assert isinstance(verdict, Declare)
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert dials == 3


def test_a_quorum_decides_of_who_has_no_address() -> None:
    machine = membership(known=20)
    for number in range(QUORUM):
        accuse(machine, ACCUSED, node(100 + number), 0.0)
    window = PROBE_WINDOW_LEAST + 20 / DIALS_PER_SECOND
    assert run(machine, window) == [Redial(ACCUSED)]
    machine.dial_impossible(ACCUSED, window)
    reporters = tuple(node(100 + number) for number in range(QUORUM))
    assert run(machine, REFUTE_WAIT) == [Declare(ACCUSED, Evidence.SILENT, reporters)]


def test_who_said_goodbye_is_unknown_and_left_in_peace() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.left(ACCUSED, 1.0)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert not accuse(machine, ACCUSED, node(2), 2.0)
    machine.vouched(ACCUSED, wall(0.9), 2.0, wall(2.0))
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert run(machine, 600.0) == []
    machine.lost(ACCUSED, 601.0, reset=True)
    machine.left(ACCUSED, 602.0)
    assert run(machine, 1000.0) == []
    machine.lost(ACCUSED, 1001.0, reset=True)
    machine.dial_failed(ACCUSED, 1001.0, refused=True)
    machine.left(ACCUSED, 1002.0)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN


def test_a_goodbye_that_comes_late_does_not_hide_a_later_word() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.unlinked(ACCUSED, 0.0, 0.5)
    machine.left(ACCUSED, 20.0, wall(5.0))
    machine.vouched(ACCUSED, wall(4.999), 20.0, wall(20.0))
    assert machine.has_left(ACCUSED)
    machine.vouched(ACCUSED, wall(10.0), 20.0, wall(20.0))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    # With its clock set back meanwhile.
    machine.left(ACCUSED, 20.5, wall(9.0))
    machine.vouched(ACCUSED, wall(9.5), 20.6, wall(20.6))
    assert machine.has_left(ACCUSED)
    machine.heard(ACCUSED, 20.7)
    machine.unlinked(ACCUSED, 20.7, 20.8)
    assert accuse(machine, ACCUSED, node(2), 21.0)


def test_who_left_has_left_until_something_is_heard_of_it() -> None:
    machine = membership()
    assert not machine.has_left(ACCUSED)
    machine.heard(ACCUSED, 0.0)
    assert not machine.has_left(ACCUSED)
    machine.left(ACCUSED, 1.0)
    assert machine.has_left(ACCUSED)
    machine.lost(ACCUSED, 2.0, reset=True, linked=False)
    assert not machine.has_left(ACCUSED)
    machine.left(ACCUSED, 3.0)
    machine.heard(ACCUSED, 4.0)
    assert not machine.has_left(ACCUSED)
    machine.unlinked(ACCUSED, 0.0, 4.5)
    assert accuse(machine, ACCUSED, LIAR, 5.0)


@pytest.mark.parametrize("lost", [True, False])
def test_a_suspect_of_which_nothing_is_known_any_more_is_given_up(lost: bool) -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.unlinked(ACCUSED, 0.0, 0.5)
    if lost:
        machine.lost(ACCUSED, 1.0, reset=True)
    else:
        accuse(machine, ACCUSED, LIAR, 1.0)
    machine.forget(ACCUSED)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert not machine.has_left(ACCUSED)
    assert run(machine, 600.0) == []


def test_the_dead_stay_dead_where_another_probe_of_them_fails() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=True)
    machine.dial_failed(ACCUSED, 1.0, refused=True)
    run(machine, 2.0)
    machine.lost(ACCUSED, 3.0, reset=False, linked=False)
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert run(machine, 600.0) == []


@pytest.mark.parametrize("refused", [True, False])
def test_what_came_of_probes_of_somebody_not_suspect_changes_nothing(refused: bool) -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    for each in (ACCUSED, node(2)):
        machine.dial_failed(each, 1.0, refused=refused)
        machine.dial_unclear(each, 1.0)
        machine.dial_put_off(each, 1.0)
        machine.others_failed(each, 1.0)
        machine.others_unclear(each, 1.0)
        machine.others_reached(each, 1.0)
    assert run(machine, 100.0) == []
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    assert machine.liveness(node(2)) is Liveness.UNKNOWN


def test_the_word_of_the_dead_revives_them() -> None:
    machine = membership()
    machine.lost(ACCUSED, 1.0, reset=True)
    machine.dial_failed(ACCUSED, 1.0, refused=True)
    run(machine, 2.0)
    machine.heard(ACCUSED, 3.0)
    assert machine.take_actions(3.0) == [Revive(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_publication_revives_only_if_it_is_newer_than_what_we_saw() -> None:
    machine = membership()
    machine.vouched(ACCUSED, wall(1.0), 1.0, wall(1.0))
    machine.lost(ACCUSED, 10.0, reset=True)
    machine.vouched(ACCUSED, wall(9.9), 10.1, wall(10.1))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.dial_failed(ACCUSED, 10.2, refused=True)
    machine.vouched(ACCUSED, wall(9.95), 10.3, wall(10.3))
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    machine.vouched(ACCUSED, wall(11.0), 11.1, wall(11.1))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    machine.lost(ACCUSED, 12.0, reset=True)
    machine.vouched(ACCUSED, wall(11.0), 12.1, wall(12.1))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT


def test_an_older_word_that_comes_late_takes_nothing_from_a_newer_one() -> None:
    machine = membership()
    for issued in (20.0, 10.0):
        machine.vouched(ACCUSED, wall(issued), 21.0, wall(21.0))
    assert not accuse(machine, ACCUSED, LIAR, 22.0, age=7.0)


def test_a_word_refutes_what_was_observed_before_it_though_it_was_told_later() -> None:
    machine = membership(known=100_000)
    machine.heard(ACCUSED, 0.0)
    machine.unlinked(ACCUSED, 0.0, 1.0)
    assert accuse(machine, ACCUSED, LIAR, 20.0, age=10.0)
    machine.vouched(ACCUSED, wall(15.0), 20.1, wall(20.1))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_word_that_is_dated_ahead_hides_no_later_report() -> None:
    machine = membership()
    machine.vouched(ACCUSED, wall(39.0), 10.0, wall(10.0))
    assert accuse(machine, ACCUSED, LIAR, 12.0)


@pytest.mark.parametrize("tried", [True, False])
def test_when_most_fall_silent_nobody_is_declared(tried: bool) -> None:
    machine = membership(connected=8)
    heard_of(machine, *range(1, 9))
    for number in range(1, 7):
        machine.lost(node(number), 10.0, reset=False)
    for number in range(1, 7):
        machine.dial_failed(node(number), 10.0, refused=False)
        machine.others_failed(node(number), 10.0, tried=tried)
    assert machine.isolated
    assert not [each for each in run(machine, 600.0) if isinstance(each, Declare | Report)]
    assert all(machine.liveness(node(number)) is Liveness.SUSPECT for number in range(1, 7))


def test_the_count_may_fall_before_or_after_the_losses_are_told() -> None:
    for told_first in (True, False):
        machine = membership(connected=8)
        for lost in range(1, 7):
            assert not machine.isolated
            if told_first:
                machine.set_population(8 - lost, 10, 10.0 + lost)
            machine.lost(node(lost), 10.0 + lost, reset=False)
            machine.set_population(8 - lost, 10, 10.0 + lost)
        assert machine.isolated


def test_half_or_one_alone_or_slowly_is_no_isolation() -> None:
    for connected, losses, pause in ((8, 5, 0.1), (1, 1, 0.0), (6, 5, 8.0)):
        machine = membership(connected=connected)
        for lost in range(losses):
            fail_silently(machine, node(1 + lost), 10.0 + lost * pause)
        assert not machine.isolated
        declared = [each for each in run_unanswered(machine, 600.0) if isinstance(each, Declare)]
        assert len(declared) == losses


def test_a_probe_that_nothing_asked_for_says_nothing_of_our_own_link() -> None:
    """Of those that we are not connected to, any number may be dead."""
    for linked in (False, True):
        machine = membership(connected=4)
        for number in (1, 2, 3, 4):
            machine.lost(node(number), 10.0, reset=False, linked=linked)
            machine.dial_failed(node(number), 10.0, refused=False)
        assert machine.isolated is linked


def test_who_came_back_or_left_is_no_loss() -> None:
    machine = membership(connected=6)
    for number in (1, 2):
        machine.lost(node(number), 10.0, reset=False)
    machine.heard(node(1), 11.0)
    machine.left(node(2), 11.0)
    for number in (3, 4, 5, 6):
        machine.lost(node(number), 12.0, reset=False)
    assert not machine.isolated
    machine.lost(node(1), 12.0, reset=False)
    assert machine.isolated


def test_isolation_ends_with_the_first_to_come_back_and_the_rest_is_judged_anew() -> None:
    machine = membership(connected=4)
    heard_of(machine, 1, 2, 3, 4)
    for number in (1, 2, 3):
        fail_silently(machine, node(number), 10.0)
    run(machine, 60.0)
    machine.heard(node(4), 60.0)
    assert machine.isolated
    machine.heard(node(3), 61.0)
    assert not machine.isolated
    assert run(machine, 61.0) == [Revive(node(3)), Redial(node(1)), Redial(node(2))]
    for number in (1, 2):
        machine.dial_failed(node(number), 62.0, refused=False)
    assert not machine.isolated
    assert run(machine, 62.0) == [AskOthers(node(1)), AskOthers(node(2))]
    machine.others_failed(node(1), 63.0)
    machine.heard(node(2), 63.0)
    assert Declare(node(1), Evidence.SILENT, ()) in run_unanswered(machine, 70.0)
    assert machine.liveness(node(2)) is Liveness.ALIVE


def test_the_losses_of_an_isolation_do_not_begin_the_next_one() -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        machine.lost(node(number), 10.0, reset=False)
    machine.heard(node(1), 11.0)
    # Nor do further dials of those that have not come back yet.
    for number in (2, 3):
        machine.dial_failed(node(number), 11.5, refused=False)
    for number in (4, 1):
        assert not machine.isolated
        machine.lost(node(number), 12.0, reset=False)
    assert not machine.isolated
    machine.lost(node(2), 12.0, reset=False)
    assert machine.isolated


def test_half_killed_at_once_is_declared_where_dials_are_refused() -> None:
    machine = membership(connected=10)
    heard_of(machine, *range(1, 11))
    for number in range(1, 6):
        machine.lost(node(number), 10.0, reset=True)
    assert run(machine, 10.0) == [Redial(node(number)) for number in range(1, 6)]
    for number in range(1, 6):
        machine.dial_failed(node(number), 10.1, refused=True)
    assert not machine.isolated
    declared = [each.node for each in run(machine, 10.1) if isinstance(each, Declare)]
    assert declared == [node(number) for number in range(1, 6)]


def test_a_refusal_kills_in_isolation_too() -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        machine.lost(node(number), 10.0, reset=False)
    assert machine.isolated
    machine.dial_failed(node(1), 11.0, refused=True)
    assert machine.liveness(node(1)) is Liveness.DEAD


def test_after_a_sleep_all_verdicts_wait_anew() -> None:
    machine = membership(known=100_000)
    fail_silently(machine, node(1), 10.0)
    for number in range(10, 10 + QUORUM):
        accuse(machine, node(2), node(number), 10.0)
    machine.slept(1000.0)
    assert machine.take_actions(1000.0) == [Redial(node(1))]
    machine.dial_failed(node(1), 1001.0, refused=False)
    machine.others_failed(node(1), 1001.0)
    machine.vouched(node(2), wall(1001.0), 1001.5, wall(1001.5))
    assert run(machine, 1000.0 + REFUTE_WAIT - 0.1) == [Revive(node(2))]
    # Nothing is known of the connections: two silent ones are believed to be our own fault.
    fail_silently(machine, node(3), 1002.0)
    assert machine.isolated


def test_a_last_dial_that_a_sleep_interrupts_is_not_the_last_one() -> None:
    machine = membership()
    fail_silently(machine, ACCUSED, 10.0)
    assert Redial(ACCUSED, last=True) in run(machine, 20.0)
    machine.slept(20.1)
    assert run(machine, 40.0) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, 40.0, refused=False)
    assert run(machine, 41.0) == [AskOthers(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT


def test_poor_health_makes_all_waits_longer_until_it_is_better() -> None:
    def waited(lates: int, on_times: int) -> float:
        machine = membership(known=100_000)
        for _ in range(lates):
            machine.late(0.5)
        for _ in range(on_times):
            machine.on_time()
        for number in range(10, 10 + QUORUM):
            accuse(machine, ACCUSED, node(number), 100.0)
        return machine.next_due() - 100.0

    assert waited(0, 5) == pytest.approx(REFUTE_WAIT)
    assert waited(2, 0) == pytest.approx(3 * REFUTE_WAIT)
    assert waited(2, 1) == pytest.approx(2 * REFUTE_WAIT)
    assert waited(100, 0) == pytest.approx((1 + WORST_HEALTH) * REFUTE_WAIT)
    machine = membership()
    # One point, and one for each whole second.
    machine.late(2.5)
    fail_silently(machine, ACCUSED, 100.0)
    assert machine.next_due() == pytest.approx(100.0 + 4 * (suspicion_time(1) - LAST_DIAL))
    machine.lost(ACCUSED, 200.0, reset=False)
    machine.dial_failed(ACCUSED, 200.0, refused=False)
    run(machine, 230.0)
    machine.others_failed(ACCUSED, 230.0)
    assert machine.next_due() == pytest.approx(230.0 + 4 * GRACE)


def test_health_that_worsens_puts_off_a_verdict_under_way() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.late(0.5)
    assert run(machine, 100.0 + 1.9 * REFUTE_WAIT) == []
    assert len(run(machine, 100.0 + 2 * REFUTE_WAIT)) == 1


def test_independent_reports_shorten_our_own_suspicion() -> None:
    def waited(reports: int) -> float:
        machine = membership(known=100_000)
        for number in range(10, 10 + reports):
            accuse(machine, ACCUSED, node(number), 100.0)
        machine.dial_failed(ACCUSED, 100.0, refused=False)
        return machine.next_due() - 100.0

    assert 1.0 == waited(MAX_REPORTS) == waited(3) < waited(2) < waited(1) < SUSPICION_MOST
    machine = membership()
    fail_silently(machine, ACCUSED, 100.0)
    # That others failed to reach it is one confirmation, as log 2 / log 4 is a half.
    assert machine.next_due() == pytest.approx(103.0)


def test_an_honest_report_of_a_restart_costs_no_credit_though_an_earlier_link_had_ended() -> None:
    machine, reporter, other = membership(), node(7), node(8)
    for start in (0.0, 100.0, 200.0):
        machine.heard(ACCUSED, start)
        machine.unlinked(ACCUSED, 0.0, start + 1)
        # It died, was seen dead, and is back before the report comes.
        machine.heard(ACCUSED, start + 26)
        accuse(machine, ACCUSED, reporter, start + 27, age=7, heard_at=start + 26)
        machine.heard(ACCUSED, start + 28)
        machine.unlinked(ACCUSED, 0.0, start + 29)
    machine.heard(other, 300.0)
    assert accuse(machine, other, reporter, 310.0)
