"""What others report: evidence, not a verdict."""

import math
from typing import Any

import pytest

from p2pd.core.actions import Action, Declare, Evidence, Liveness, Redial, Report, Revive
from p2pd.core.membership import HEARD_LATELY, Membership
from p2pd.core.own_reports import GATHER, GATHER_MOST, TELL_AGAIN
from p2pd.core.reporters import (
    CREDIT_WINDOW,
    FALSE_REPORTS,
    REPORT_AGAIN,
    REPORT_EARLY,
    REPORT_TTL,
)
from p2pd.core.suspects import (
    DIALS_PER_SECOND,
    PROBE_WINDOW_LEAST,
)
from p2pd.core.suspicion import (
    ASK_AGAIN,
    LAST_DIAL,
    QUORUM,
    REFUTE_WAIT,
    SUSPICION_MOST,
    suspicion_time,
)
from tests.core.evidence import (
    ACCUSED,
    LIAR,
    OWN,
    accuse,
    membership,
    node,
    run,
    run_unanswered,
    wall,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"age": REPORT_TTL + 1},
        {"age": -REPORT_EARLY - 1},
        {"sequence": 4, "known_sequence": 5},
        {"accused": OWN},
        {"reporter": OWN},
        {"reporter": ACCUSED},
    ],
)
def test_a_report_that_proves_nothing_is_ignored(changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"accused": ACCUSED, "reporter": LIAR, "now": 1000.0} | changes
    machine = membership()
    assert not accuse(machine, **arguments)
    assert run(machine, 2000.0) == []


def test_a_report_counts_and_is_probed_within_the_window() -> None:
    moments = set()
    for seed in range(20):
        machine = membership(known=10, seed=seed)
        assert accuse(machine, ACCUSED, LIAR, 100.0)
        assert machine.liveness(ACCUSED) is Liveness.SUSPECT
        assert 100.0 <= machine.next_due() <= 100.0 + max(PROBE_WINDOW_LEAST, 10 / DIALS_PER_SECOND)
        moments.add(machine.next_due())
        assert run(machine, 101.0) == [Redial(ACCUSED)]
    assert len(moments) == 20


def test_a_refused_probe_confirms_a_report_at_once() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, 101.0, refused=True)
    assert declared(machine.take_actions(101.0)) == [Declare(ACCUSED, Evidence.REFUSED, (LIAR,))]


def test_an_unanswered_probe_confirms_a_report_after_a_moment() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, 101.0, refused=False)
    assert machine.take_actions(101.0) == []
    actions = run_unanswered(machine, 100.0 + SUSPICION_MOST)
    assert declared(actions) == [Declare(ACCUSED, Evidence.SILENT, (LIAR,))]


def test_of_those_who_find_out_because_they_were_told_about_so_many_tell_it_too() -> None:
    known = 200
    told = 0
    for seed in range(known):
        machine = membership(known=known, seed=seed)
        accuse(machine, ACCUSED, LIAR, 100.0)
        run(machine, 120.0)
        machine.dial_failed(ACCUSED, 120.0, refused=True)
        told += len(reports(run(machine, 120.0 + GATHER)))
    assert TELL_AGAIN / 3 <= told <= TELL_AGAIN * 3


def test_others_are_not_asked_beside_the_last_dial_of_whom_we_did_not_lose() -> None:
    """All who got the report would ask."""
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, 101.0, refused=False)
    assert run(machine, 110.0) == [Redial(ACCUSED, last=True)]


def test_strangers_make_nobody_report_before_the_verdict() -> None:
    """All who got their reports would."""
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0, stranger=True)
    # It could not be dialled at first.
    machine.others_failed(ACCUSED, 101.0, tried=False)
    machine.dial_failed(ACCUSED, 102.0, refused=False)
    assert run(machine, 120.0) == [Redial(ACCUSED, last=True)]


def test_whom_enough_strangers_report_is_dialled_once_and_only_that_decides() -> None:
    known = 100
    machine = membership(known=known)
    for number in range(10, 9 + QUORUM):
        assert not accuse(machine, ACCUSED, node(number), 100.0, stranger=True)
    assert run(machine, 200.0) == []
    for number in range(20, 40):
        assert not accuse(machine, ACCUSED, node(number), 200.0, stranger=True)
    assert run(machine, 200.0 + known / DIALS_PER_SECOND) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, 210.0, refused=True)
    assert declared(run(machine, 210.0)) == [Declare(ACCUSED, Evidence.REFUSED, ())]


def test_strangers_make_nobody_dial_whom_we_hear_or_heard_later() -> None:
    machine = membership(known=100)
    machine.heard(node(2), 100.0)
    for number in range(10, 20):
        accuse(machine, node(1), node(number), 100.0, heard_at=99.0, stranger=True)
        accuse(machine, node(2), node(number), 101.0, age=2.0, stranger=True)
    assert run(machine, 200.0) == []


def test_whom_strangers_report_dead_who_is_dead_is_not_dialled_again() -> None:
    machine = membership()
    find_refused(machine, 1, 100.0)
    run(machine, 110.0)
    for number in range(10, 20):
        accuse(machine, ACCUSED, node(number), 110.0, stranger=True)
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert run(machine, 200.0) == []


def test_a_suspect_that_could_not_be_dialled_is_dialled_a_little_later() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_put_off(ACCUSED, 101.0)
    assert run(machine, 101.0 + ASK_AGAIN) == []
    assert run(machine, 102.0 + ASK_AGAIN) == [Redial(ACCUSED)]


def find_refused(machine: Membership, number: int, now: float) -> None:
    machine.lost(node(number), now, reset=True)
    machine.dial_failed(node(number), now, refused=True)


def reports(actions: list[Action]) -> list[Report]:
    return [each for each in actions if isinstance(each, Report)]


def declared(actions: list[Action]) -> list[Declare]:
    return [each for each in actions if isinstance(each, Declare)]


def test_what_a_witness_finds_out_is_told_soon() -> None:
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        find_refused(machine, 10, 100.0)
        told = reports(run(machine, 100.0 + GATHER))
        assert told == [Report(node(10), Evidence.REFUSED, 100.0)]


def test_what_is_told_waits_longer_where_more_may_be_dead() -> None:
    waits = []
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        for number in range(20, 30):
            machine.lost(node(number), 100.0, reset=True)
        machine.take_actions(100.0)
        find_refused(machine, 10, 100.0)
        machine.take_actions(100.0)
        waits.append(machine.next_due() - 100.0)
    assert GATHER < max(waits) <= GATHER_MOST


def test_another_suspicion_does_not_hold_up_what_is_to_be_told() -> None:
    machine = membership(known=100_000)
    find_refused(machine, 10, 100.0)
    accuse(machine, ACCUSED, LIAR, 100.0)
    machine.take_actions(100.0)
    assert 100.0 < machine.next_due() <= 100.0 + GATHER_MOST


def test_of_many_that_die_at_once_a_witness_tells_in_one_publication() -> None:
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        found = range(10, 20)
        for number in found:
            machine.lost(node(number), 100.0, reset=True)
        machine.take_actions(100.0)
        for number in found:
            machine.dial_failed(node(number), 100.0, refused=True)
        assert not reports(machine.take_actions(100.0))
        while not (told := reports(machine.take_actions(machine.next_due()))):
            pass
        assert [each.node for each in told] == [node(number) for number in found]
        assert machine.next_due() > 100.0 + GATHER_MOST


def test_what_enough_others_report_meanwhile_or_who_is_back_is_not_reported() -> None:
    machine = membership(known=1000)
    for number in (10, 11, 12, 13):
        machine.lost(node(number), 100.0, reset=True)
    for number in (10, 11, 12, 13):
        machine.dial_failed(node(number), 100.0, refused=True)
    for number in range(QUORUM):
        accuse(machine, node(11), node(100 + number), 100.0)
        if number < QUORUM - 1:
            accuse(machine, node(12), node(100 + number), 100.0)
    machine.heard(node(13), 100.0)
    told = reports(run(machine, 100.0 + GATHER_MOST))
    assert [each.node for each in told] == [node(10), node(12)]


def test_where_strangers_told_it_is_told_again_by_about_so_many_of_all() -> None:
    known = 200
    told = 0
    for seed in range(known):
        machine = membership(known=known, seed=seed)
        for number in range(QUORUM):
            accuse(machine, node(10), node(100 + number), 100.0, stranger=True)
        find_refused(machine, 10, 100.0)
        told += len(reports(run(machine, 100.0 + GATHER_MOST)))
    assert TELL_AGAIN / 3 <= told <= TELL_AGAIN * 3


def test_what_was_told_long_ago_keeps_nobody_silent() -> None:
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        for _ in range(100):
            accuse(machine, node(10), LIAR, 100.0, stranger=True)
        now = 100.1 + REPORT_TTL
        accuse(machine, node(10), LIAR, now, stranger=True)
        find_refused(machine, 10, now)
        assert len(reports(run(machine, now + GATHER))) == 1


def test_what_was_told_long_ago_keeps_nobody_silent_though_nothing_is_told_since() -> None:
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        machine.heard(node(10), 99.0)
        for _ in range(100):
            accuse(machine, node(10), LIAR, 100.0, heard_at=99.0, stranger=True)
        now = 100.1 + REPORT_TTL
        find_refused(machine, 10, now)
        assert len(reports(run(machine, now + GATHER))) == 1


@pytest.mark.parametrize(
    "void",
    [{"age": REPORT_TTL + 1}, {"age": -REPORT_EARLY - 1}, {"known_sequence": 2}, {"age": 60}],
)
def test_what_nobody_believes_keeps_nobody_silent(void: dict[str, Any]) -> None:
    """Nobody dials because of it, so nobody but the witnesses would know of the death."""
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        machine.vouched(node(10), wall(50.0), 100.0, wall(100.0))
        for number in range(QUORUM):
            assert not accuse(machine, node(10), node(100 + number), 100.0, **void)
        find_refused(machine, 10, 101.0)
        assert len(reports(run(machine, 101.0 + GATHER))) == 1


def test_what_was_told_before_it_was_back_keeps_nobody_silent() -> None:
    for seed in range(20):
        machine = membership(known=1000, seed=seed)
        for _ in range(100):
            accuse(machine, node(10), LIAR, 100.0, stranger=True)
        machine.vouched(node(10), wall(101.0), 101.0, wall(101.0))
        find_refused(machine, 10, 102.0)
        assert len(reports(run(machine, 102.0 + GATHER))) == 1


def test_no_lot_has_a_death_told_again_that_a_quorum_told_meanwhile() -> None:
    """Of so few nodes, each is drawn."""
    machine = membership(lambda each: "8.8.8.0/24" if each[-1] < 50 else None, known=5)
    for accused, reporters in ((1, (60, 61, 62)), (2, (10, 11, 12)), (3, (LIAR[-1], 61, 62))):
        find_refused(machine, accused, 100.0)
        for number in reporters:
            assert accuse(machine, node(accused), node(number), 100.0)
    discredit(machine, 99.0)
    told = reports(run(machine, 100.0 + GATHER_MOST))
    assert [each.node for each in told] == [node(2), node(3)]


def test_no_report_is_added_to_a_quorum() -> None:
    machine = membership(known=1000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.dial_failed(ACCUSED, 101.0, refused=True)
    reporters = tuple(node(number) for number in range(10, 10 + QUORUM))
    assert machine.take_actions(101.0) == [Declare(ACCUSED, Evidence.REFUSED, reporters)]


def test_a_quorum_is_enough_without_a_probe_if_nobody_refutes_it() -> None:
    machine = membership(known=10_000)
    for number in range(10, 9 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 100.0)
    assert not any(isinstance(each, Declare) for each in run(machine, 120.0))
    assert accuse(machine, ACCUSED, node(20), 120.0)
    assert run(machine, 120.0 + REFUTE_WAIT - 0.01) == []
    [declared] = run(machine, 120.0 + REFUTE_WAIT)
    assert isinstance(declared, Declare)
    assert len(declared.reporters) == QUORUM


def test_a_refutation_in_time_saves_from_a_quorum() -> None:
    machine = membership(known=10_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.vouched(ACCUSED, wall(101.5), 101.6, wall(101.6))
    assert run(machine, 700.0) == [Revive(ACCUSED)]


def test_the_reporters_of_one_public_network_count_as_one() -> None:
    machine = membership(lambda each: "8.8.8.0/24" if each[-1] < 50 else None, known=100_000)
    for number in (10, 11, 12, 13, 60):
        accuse(machine, ACCUSED, node(number), 100.0)
    assert run(machine, 110.0) == []
    accuse(machine, ACCUSED, node(61), 110.0)
    assert any(isinstance(each, Declare) for each in run(machine, 113.0))


def test_the_same_reporter_counts_again_only_later() -> None:
    machine = membership(known=100_000)
    assert accuse(machine, ACCUSED, LIAR, 100.0)
    assert not accuse(machine, ACCUSED, LIAR, 100.0 + REPORT_AGAIN - 1)
    assert accuse(machine, ACCUSED, LIAR, 100.0 + REPORT_AGAIN)
    assert run(machine, 200.0) == []


def test_who_repeats_itself_makes_nobody_dial_who_is_back() -> None:
    machine = membership()
    assert accuse(machine, ACCUSED, LIAR, 100.0)
    machine.vouched(ACCUSED, wall(101.0), 101.0, wall(101.0))
    for _ in range(QUORUM):
        assert not accuse(machine, ACCUSED, LIAR, 102.0)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_report_older_than_the_word_of_the_accused_is_ignored() -> None:
    machine = membership()
    machine.vouched(ACCUSED, wall(50.0), 51.0, wall(51.0))
    assert not accuse(machine, ACCUSED, LIAR, 52.0, age=3.0)
    machine.heard(node(2), 60.0)
    assert not accuse(machine, node(2), LIAR, 62.0, age=3.0)
    assert run(machine, 600.0) == []


def test_a_report_later_than_the_word_of_the_accused_stands() -> None:
    machine = membership(known=100_000)
    accuse(machine, ACCUSED, node(10), 100.0, age=5.0)
    accuse(machine, ACCUSED, node(11), 100.0)
    machine.vouched(ACCUSED, wall(97.0), 101.0, wall(101.0))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.vouched(ACCUSED, wall(101.0), 101.2, wall(101.2))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_report_from_the_future_can_be_refuted_in_the_present() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 100.0, age=1 - REPORT_EARLY)
    machine.vouched(ACCUSED, wall(100.5), 100.6, wall(100.6))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_only_a_quorum_that_stands_keeps_the_dead_dead() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    run(machine, 103.0)
    machine.vouched(ACCUSED, wall(99.0), 103.1, wall(103.1))
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert accuse(machine, ACCUSED, node(20), 104.0)
    machine.vouched(ACCUSED, wall(103.5), 104.1, wall(104.1))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_of_a_quorum_that_keeps_the_dead_dead_a_network_counts_as_one_too() -> None:
    machine = membership(lambda each: "8.8.8.0/24" if each[-1] < 50 else None, known=100_000)
    for number in range(60, 60 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    run(machine, 103.0)
    for number in range(10, 10 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 104.0)
    machine.vouched(ACCUSED, wall(103.5), 104.1, wall(104.1))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_who_is_not_believed_any_more_keeps_nobody_dead() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    run(machine, 103.0)
    for reporter in (LIAR, *map(node, range(20, 19 + QUORUM))):
        assert accuse(machine, ACCUSED, reporter, 104.0)
    discredit(machine, 104.0)
    machine.vouched(ACCUSED, wall(103.5), 105.0, wall(105.0))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_report_of_a_peer_in_good_connection_counts_against_its_reporter() -> None:
    machine = membership()
    for number in range(1, 1 + FALSE_REPORTS):
        machine.heard(node(number), 90.0)
        assert accuse(machine, node(number), LIAR, 100.0, heard_at=99.0)
        machine.heard(node(number), 101.0)
    assert run(machine, 102.0) == []
    assert not accuse(machine, node(50), LIAR, 103.0)
    assert accuse(machine, node(50), node(98), 103.0)


def test_a_report_of_a_past_in_which_we_heard_its_accused_is_a_lie() -> None:
    machine = membership()
    for number in range(1, 1 + FALSE_REPORTS):
        machine.heard(node(number), 50.0)
        assert accuse(machine, node(number), LIAR, 100.0, age=5.0, heard_at=99.0)
        machine.heard(node(number), 101.0)
    assert not accuse(machine, node(50), LIAR, 103.0)


def test_a_report_of_a_time_before_the_connection_is_no_lie() -> None:
    machine = membership()
    for number in range(1, 1 + FALSE_REPORTS):
        machine.heard(node(number), 99.0)
        assert not accuse(machine, node(number), LIAR, 100.0, age=5.0, heard_at=99.0)
        machine.heard(node(number), 101.0)
    assert accuse(machine, node(50), LIAR, 103.0)


@pytest.mark.parametrize("age", [0.0, 0.8])
def test_a_report_that_comes_a_moment_before_the_loss_counts(age: float) -> None:
    machine = membership()
    machine.heard(ACCUSED, 80.0)
    # With a slow clock the reporter seems to be refuted by what came last.
    assert accuse(machine, ACCUSED, LIAR, 91.0, age=age, heard_at=90.5)
    machine.lost(ACCUSED, 91.1, reset=True)
    machine.dial_failed(ACCUSED, 91.2, refused=True)
    assert Declare(ACCUSED, Evidence.REFUSED, (LIAR,)) in machine.take_actions(91.2)


def test_a_quiet_connection_is_no_defence() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, HEARD_LATELY + 1, heard_at=0.0)


def test_a_connection_on_which_we_hear_lately_is_one_however_old_it_is() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    now = 10 * HEARD_LATELY
    assert accuse(machine, ACCUSED, LIAR, now, heard_at=now - 1)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    assert run(machine, now + 600.0) == []


def discredit(machine: Membership, now: float) -> None:
    for number in range(200, 200 + FALSE_REPORTS):
        assert accuse(machine, node(number), LIAR, now)
        machine.heard(node(number), now + 1)


def test_a_reporter_of_false_reports_is_not_believed_for_a_while() -> None:
    machine = membership()
    discredit(machine, 100.0)
    assert not accuse(machine, ACCUSED, LIAR, 102.0)
    assert accuse(machine, ACCUSED, LIAR, 101.0 + CREDIT_WINDOW)


def test_what_we_saw_ourselves_is_no_lie_of_who_reported_it_before() -> None:
    machine = membership()
    for index in range(FALSE_REPORTS):
        now = 100.0 + index
        machine.heard(node(200 + index), now)
        assert accuse(machine, node(200 + index), LIAR, now + 0.1, heard_at=now)
        machine.lost(node(200 + index), now + 0.2, reset=True)
        machine.heard(node(200 + index), now + 0.3)
    assert accuse(machine, ACCUSED, LIAR, 110.0)


def test_refuted_reports_far_apart_are_honest_mistakes() -> None:
    machine = membership()
    for index in range(6):
        now = 100.0 + index * CREDIT_WINDOW * 0.6
        assert accuse(machine, node(200 + index), LIAR, now)
        machine.heard(node(200 + index), now + 1)


def test_a_confirmed_report_takes_back_a_refuted_one() -> None:
    machine = membership()
    for number in range(200, 199 + FALSE_REPORTS):
        accuse(machine, node(number), LIAR, 100.0)
        machine.heard(node(number), 101.0)
    accuse(machine, ACCUSED, LIAR, 102.0)
    machine.dial_failed(ACCUSED, 103.0, refused=True)
    accuse(machine, node(201), LIAR, 104.0 + REPORT_AGAIN)
    machine.heard(node(201), 105.0 + REPORT_AGAIN)
    assert accuse(machine, node(2), LIAR, 106.0 + REPORT_AGAIN)


def test_the_standing_reports_of_a_discredited_reporter_do_not_count() -> None:
    machine = membership(known=100_000)
    for number in (LIAR, *map(node, range(10, 9 + QUORUM))):
        accuse(machine, ACCUSED, number, 100.0)
    discredit(machine, 100.0)
    assert not any(isinstance(each, Declare) for each in run(machine, 110.0))


@pytest.mark.parametrize("died", [False, True])
def test_who_saw_what_we_saw_loses_no_credit_by_the_return_of_the_dead(died: bool) -> None:
    machine = membership()
    for number in range(1, 2 + FALSE_REPORTS):
        machine.lost(node(number), 100.0, reset=True)
        if died:
            machine.dial_failed(node(number), 100.0, refused=True)
        assert accuse(machine, node(number), LIAR, 100.1)
        machine.heard(node(number), 101.0)
    assert accuse(machine, node(50), LIAR, 102.0)


def test_a_quorum_that_was_wrong_loses_its_credit() -> None:
    machine = membership(known=100_000)
    liars = [node(number) for number in range(10, 10 + QUORUM)]
    for number in range(200, 200 + FALSE_REPORTS):
        for liar in liars:
            accuse(machine, node(number), liar, 100.0)
    assert len(run(machine, 103.0)) == FALSE_REPORTS
    for number in range(200, 200 + FALSE_REPORTS):
        machine.vouched(node(number), wall(104.0), 104.0, wall(104.0))
    assert not any(accuse(machine, ACCUSED, liar, 105.0) for liar in liars)


def test_a_verdict_that_only_reports_gave_is_no_proof_of_them() -> None:
    machine = membership(known=100_000)
    liars = [node(number) for number in range(10, 10 + QUORUM)]
    for number in range(200, 200 + FALSE_REPORTS):
        now = 100.0 + 10 * (number - 200)
        for liar in liars:
            accuse(machine, node(number), liar, now)
        assert len(declared(run(machine, now + 3.0))) == 1
        machine.vouched(node(number), wall(now + 4.0), now + 4.0, wall(now + 4.0))
    assert not any(accuse(machine, ACCUSED, liar, 135.0) for liar in liars)


def test_who_is_dead_is_so_to_all_who_report_it_later_too() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    run(machine, 103.0)
    for number in range(20, 20 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 110.0)
        assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert len(machine.accusers(ACCUSED)) == 2 * QUORUM
    # It refutes the first ones only.
    machine.vouched(ACCUSED, wall(105.0), 110.0, wall(110.0))
    assert machine.liveness(ACCUSED) is Liveness.DEAD


def test_a_quorum_that_reported_whom_we_were_connected_to_counts_from_its_loss() -> None:
    machine = membership(known=100_000)
    machine.heard(ACCUSED, 90.0)
    for number in range(10, 10 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 100.0, heard_at=99.0)
    machine.lost(ACCUSED, 101.0, reset=True)
    assert len(declared(run(machine, 101.0 + REFUTE_WAIT))) == 1


def test_a_word_takes_those_from_a_quorum_who_saw_less_than_it() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 102.0, age=2.0 if number == 10 else 1.0)
    # One of the same moment refutes nothing.
    machine.vouched(ACCUSED, wall(101.0), 102.0, wall(102.0))
    assert len(machine.accusers(ACCUSED)) == QUORUM - 1
    assert declared(run(machine, 200.0)) == []


def test_a_word_costs_only_those_their_credit_who_were_wrong() -> None:
    machine, late = membership(known=100_000), node(98)
    for number in range(200, 200 + FALSE_REPORTS):
        accuse(machine, node(number), LIAR, 102.0, age=2.0)
        accuse(machine, node(number), late, 102.0)
        machine.vouched(node(number), wall(101.0), 102.0, wall(102.0))
    assert not accuse(machine, ACCUSED, LIAR, 103.0)
    assert accuse(machine, ACCUSED, late, 103.0)


def test_a_word_costs_nobody_credit_who_saw_the_dead_die_after_it() -> None:
    machine = membership(known=100_000)
    for number in range(200, 200 + FALSE_REPORTS):
        for reporter in range(10, 10 + QUORUM):
            accuse(machine, node(number), node(reporter), 100.0)
        assert len(declared(run(machine, 103.0))) == 1
        assert accuse(machine, node(number), LIAR, 104.0)
        machine.vouched(node(number), wall(103.5), 104.1, wall(104.1))
    assert not accuse(machine, ACCUSED, node(10), 105.0)
    assert accuse(machine, ACCUSED, LIAR, 105.0)


@pytest.mark.parametrize("word_at", [99.0, 101.0])
def test_a_word_costs_nobody_credit_for_whom_we_lost(word_at: float) -> None:
    """It is later than a report, but not than our loss or than another report."""
    machine = membership(known=100_000)
    for number in range(200, 200 + FALSE_REPORTS):
        machine.heard(node(number), 90.0)
        machine.lost(node(number), 100.0, reset=False)
        if word_at < 100.0:
            machine.others_reached(node(number), 101.0)
        accuse(machine, node(number), LIAR, 102.0, age=102.0 - word_at + 0.5)
        accuse(machine, node(number), node(98), 102.0)
        machine.vouched(node(number), wall(word_at), 102.1, wall(102.1))
        assert list(machine.accusers(node(number))) == [node(98)]
    assert accuse(machine, ACCUSED, LIAR, 103.0)


def test_a_dial_from_before_a_word_says_nothing_of_what_is_reported_after_it() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, 101.0, refused=False)
    accuse(machine, ACCUSED, node(98), 101.3)
    machine.vouched(ACCUSED, wall(101.2), 101.3, wall(101.3))
    assert run(machine, 150.0) == [Redial(ACCUSED)]


def test_the_word_of_one_asked_peer_takes_no_credit() -> None:
    machine = membership(known=100_000)
    for number in range(200, 200 + FALSE_REPORTS):
        accuse(machine, node(number), LIAR, 100.0)
        machine.others_reached(node(number), 101.0)
    assert accuse(machine, ACCUSED, LIAR, 102.0)


def test_a_report_later_than_our_loss_and_a_word_between_them_leave_a_reported_suspect() -> None:
    machine = membership(known=100_000)
    machine.lost(ACCUSED, 100.0, reset=True)
    run(machine, 100.0)
    accuse(machine, ACCUSED, LIAR, 102.0)
    machine.vouched(ACCUSED, wall(101.0), 102.1, wall(102.1))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert run(machine, 110.0) == []
    machine.dial_failed(ACCUSED, 110.0, refused=False)
    assert Declare(ACCUSED, Evidence.SILENT, (LIAR,)) in run_unanswered(machine, 120.0)


def test_who_hears_nobody_gives_no_verdict_by_reports() -> None:
    heard_at = 100.0
    machine = membership(known=100_000, last_heard=lambda: heard_at)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    assert run(machine, 160.0) == []
    heard_at = math.inf
    assert run(machine, 160.0 + REFUTE_WAIT) == []
    [declared] = run(machine, 161.0 + REFUTE_WAIT)
    assert isinstance(declared, Declare)


def test_further_reports_do_not_put_off_the_verdict_of_a_quorum() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + 2 * QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0 + (number - 10) / 10)
    quorum_at = 100.0 + (QUORUM - 1) / 10
    assert len(declared(run(machine, quorum_at + REFUTE_WAIT))) == 1


def test_a_moment_without_contact_costs_a_verdict_no_more_than_itself() -> None:
    heard_at = 100.0
    machine = membership(known=100_000, last_heard=lambda: heard_at)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    assert run(machine, 100.0 + REFUTE_WAIT + 0.5) == []
    heard_at = math.inf
    [declared] = run(machine, 100.0 + REFUTE_WAIT + 1.0)
    assert isinstance(declared, Declare)


def test_a_moment_without_contact_costs_no_more_where_waits_are_longer() -> None:
    heard_at = 102.0
    machine = membership(known=100_000, last_heard=lambda: heard_at)
    machine.late(0.5)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    assert run(machine, 100.0 + 2 * REFUTE_WAIT) == []
    heard_at = math.inf
    assert len(declared(run(machine, 100.5 + 2 * REFUTE_WAIT))) == 1


@pytest.mark.parametrize("heard_then", [math.inf, 106.0])
def test_a_refutation_that_comes_soon_after_a_time_without_contact_is_in_time(
    heard_then: float,
) -> None:
    heard_at = 100.0
    machine = membership(known=100_000, last_heard=lambda: heard_at)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    run(machine, 107.5)
    heard_at = heard_then
    run(machine, 108.0)
    heard_at = math.inf
    assert run(machine, 109.0) == []
    machine.vouched(ACCUSED, wall(102.0), 109.0, wall(109.0))
    assert run(machine, 700.0) == [Revive(ACCUSED)]


def test_a_word_refutes_what_was_reported_while_there_was_a_connection() -> None:
    machine = membership(known=100_000)
    machine.heard(ACCUSED, 90.0)
    for number in range(10, 10 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 100.0, heard_at=99.0)
    machine.vouched(ACCUSED, wall(101.0), 101.5, wall(101.5))
    machine.lost(ACCUSED, 102.0, reset=True)
    assert machine.accusers(ACCUSED) == {}
    assert not any(isinstance(each, Declare) for each in run(machine, 700.0))


def test_a_word_from_before_our_loss_refutes_reports_but_not_the_loss() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.lost(ACCUSED, 101.0, reset=False)
    run(machine, 101.0)
    machine.vouched(ACCUSED, wall(100.5), 101.5, wall(101.5))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert machine.accusers(ACCUSED) == {}
    assert run(machine, 102.0) == []
    machine.dial_failed(ACCUSED, 102.0, refused=False)
    machine.others_failed(ACCUSED, 102.0)
    # They do not make the suspicion any shorter, either.
    assert machine.next_due() == pytest.approx(101.0 + suspicion_time(1) - LAST_DIAL)
    assert Declare(ACCUSED, Evidence.SILENT, ()) in run_unanswered(machine, 160.0)


def test_a_verdict_by_reports_that_a_word_refutes_is_left_to_our_own_probes() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.lost(ACCUSED, 101.0, reset=True)
    assert any(isinstance(each, Declare) for each in run(machine, 110.0))
    assert accuse(machine, ACCUSED, LIAR, 110.0)
    machine.vouched(ACCUSED, wall(100.5), 110.5, wall(110.5))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert list(machine.accusers(ACCUSED)) == [LIAR]
    assert run(machine, 110.5) == [Redial(ACCUSED)]
    machine.heard(ACCUSED, 110.6)
    assert run(machine, 110.6) == [Revive(ACCUSED)]


def test_a_word_from_before_a_loss_that_is_over_refutes_reports() -> None:
    """We can't reach it, but others do: its word is older than our loss, and than nothing else."""
    machine = membership(known=100_000)
    machine.heard(ACCUSED, 85.0)
    machine.lost(ACCUSED, 100.0, reset=False)
    machine.others_reached(ACCUSED, 101.0)
    for number in range(10, 10 + QUORUM):
        assert accuse(machine, ACCUSED, node(number), 101.5, age=2.5)
    machine.vouched(ACCUSED, wall(99.5), 102.0, wall(102.0))
    assert machine.accusers(ACCUSED) == {}
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert run(machine, 10_000.0)[-1] == Redial(ACCUSED)
    machine.dial_failed(ACCUSED, 10_000.0, refused=False)
    assert declared(run_unanswered(machine, 10_010.0)) == [Declare(ACCUSED, Evidence.SILENT, ())]


def test_deaths_of_long_ago_can_be_told_again() -> None:
    machine = membership()
    machine.lost(node(2), 100.0, reset=True)
    machine.dial_failed(node(2), 100.0, refused=True)
    for reporter in range(10, 10 + QUORUM):
        accuse(machine, node(3), node(reporter), 100.0)
    run(machine, 110.0)
    assert {machine.liveness(node(each)) for each in (2, 3)} == {Liveness.DEAD}
    assert machine.verdicts_before(100.0) == []
    [found] = machine.verdicts_before(100.1)
    assert (found.node, found.at) == (node(2), 100.0)
    assert [each.node for each in machine.verdicts_before(110.0)] == [node(2), node(3)]
    machine.heard(node(2), 120.0)
    assert [each.node for each in machine.verdicts_before(110.0)] == [node(3)]
