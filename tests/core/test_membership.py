"""Who is alive: nobody is evicted by one report, by liars, or by our own isolation."""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pd.core.membership import (
    HEARD_LATELY,
    REPORT_EARLY,
    WORST_HEALTH,
    Action,
    AskOthers,
    Declare,
    Evidence,
    Liveness,
    Membership,
    Redial,
    Report,
    Revive,
)
from p2pd.core.reporters import (
    CREDIT_WINDOW,
    FALSE_REPORTS,
    REPORT_AGAIN,
    REPORT_TTL,
    REPORTS_PER_MINUTE,
)
from p2pd.core.suspects import (
    DIALS_PER_SECOND,
    MAX_DEAD,
    MAX_SUSPECTS,
    OUTCOME_WITHIN,
    PROBE_WINDOW_LEAST,
)
from p2pd.core.suspicion import MAX_REPORTS, QUORUM, REFUTE_WAIT, SUSPICION_MOST
from p2pd.ids import NodeId

OWN = NodeId(b"\xff" * 32)
WALL = 1_700_000_000_000


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def wall(now: float) -> int:
    return WALL + round(now * 1000)


ACCUSED, LIAR = node(1), node(99)


def membership(
    network_of: Callable[[NodeId], str | None] = lambda _: None,
    *,
    connected: int = 10,
    known: int = 10,
    seed: int = 0,
) -> Membership:
    machine = Membership(OWN, rng=random.Random(seed), network_of=network_of)
    machine.set_population(connected, known)
    return machine


def accuse(
    machine: Membership,
    accused: NodeId,
    reporter: NodeId,
    now: float,
    *,
    age: float = 0.0,
    sequence: int = 1,
    known_sequence: int = 1,
    connected: bool = False,
) -> bool:
    observed = wall(now - age)
    return machine.reported(
        accused, reporter, observed, sequence, wall(now), known_sequence, connected, now
    )


def run(machine: Membership, until: float) -> list[Action]:
    """Take all actions that come due up to some time, each at its time."""
    actions = []
    while machine.next_due() <= until:
        actions += machine.take_actions(machine.next_due())
    return actions + machine.take_actions(until)


def heard_of(machine: Membership, *numbers: int) -> None:
    for number in numbers:
        machine.heard(node(number), 0.0)


def fail_silently(machine: Membership, each: NodeId, now: float) -> None:
    """Lose a peer by silence and let all probes of it come to nothing."""
    machine.lost(each, False, now)
    machine.dial_failed(each, False, now)
    machine.others_failed(each, now)


# --- what we see ourselves


def test_who_was_never_heard_of_is_unknown_and_who_was_heard_alive() -> None:
    machine = membership()
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    machine.heard(ACCUSED, 0.0)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    assert machine.take_actions(0.0) == []
    assert machine.next_due() == float("inf")


def test_a_reset_is_followed_by_a_dial_and_a_refusal_by_the_verdict() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.lost(ACCUSED, True, 1.0)
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert machine.next_due() <= 1.0
    assert machine.take_actions(1.0) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, True, 1.1)
    assert machine.take_actions(1.1) == [
        Declare(ACCUSED, Evidence.REFUSED, ()),
        Report(ACCUSED, Evidence.REFUSED),
    ]
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert machine.next_due() == float("inf")


def test_a_dial_without_answer_has_others_asked_before_the_verdict() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.lost(ACCUSED, True, 1.0)
    assert run(machine, 1.0) == [Redial(ACCUSED)]
    machine.dial_failed(ACCUSED, False, 2.0)
    assert run(machine, 2.0 + SUSPICION_MOST) == [AskOthers(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.others_failed(ACCUSED, 9.0)
    assert run(machine, 9.5) == []
    assert run(machine, 10.0) == [
        Declare(ACCUSED, Evidence.SILENT, ()),
        Report(ACCUSED, Evidence.SILENT),
    ]


def test_silence_has_it_dialled_and_others_asked_at_once_and_both_must_fail() -> None:
    for dial_fails, others_fail in ((True, False), (False, True)):
        machine = membership()
        machine.lost(ACCUSED, False, 1.0)
        assert run(machine, 1.0) == [Redial(ACCUSED), AskOthers(ACCUSED)]
        if dial_fails:
            machine.dial_failed(ACCUSED, False, 2.0)
        if others_fail:
            machine.others_failed(ACCUSED, 2.0)
        assert run(machine, 30.0) == []
        machine.dial_failed(ACCUSED, False, 31.0)
        machine.others_failed(ACCUSED, 31.0)
        assert Declare(ACCUSED, Evidence.SILENT, ()) in run(machine, 32.0)


def test_whom_others_reach_is_alive() -> None:
    machine = membership()
    machine.lost(ACCUSED, False, 1.0)
    run(machine, 1.0)
    machine.dial_failed(ACCUSED, False, 2.0)
    machine.others_reached(ACCUSED, 2.5)
    assert run(machine, 600.0) == [Revive(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    machine.others_failed(ACCUSED, 601.0)
    assert run(machine, 700.0) == []


def test_an_outcome_that_nobody_tells_is_asked_for_again() -> None:
    machine = membership()
    machine.lost(ACCUSED, False, 0.0)
    run(machine, 0.0)
    assert run(machine, OUTCOME_WITHIN) == [Redial(ACCUSED), AskOthers(ACCUSED)]


def test_who_said_goodbye_is_unknown_and_left_in_peace() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.left(ACCUSED, 1.0)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert not accuse(machine, ACCUSED, node(2), 2.0)
    machine.vouched(ACCUSED, wall(0.9), 2.0, wall(2.0))
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
    assert run(machine, 600.0) == []
    machine.lost(ACCUSED, True, 601.0)
    machine.left(ACCUSED, 602.0)
    assert run(machine, 1000.0) == []


@pytest.mark.parametrize("refused", [True, False])
def test_a_failed_dial_of_somebody_not_suspect_changes_nothing(refused: bool) -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.dial_failed(ACCUSED, refused, 1.0)
    machine.dial_failed(node(2), refused, 1.0)
    assert run(machine, 100.0) == []
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    assert machine.liveness(node(2)) is Liveness.UNKNOWN


def test_the_word_of_the_dead_revives_them() -> None:
    machine = membership()
    machine.lost(ACCUSED, True, 1.0)
    machine.dial_failed(ACCUSED, True, 1.0)
    run(machine, 2.0)
    machine.heard(ACCUSED, 3.0)
    assert machine.take_actions(3.0) == [Revive(ACCUSED)]
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_a_publication_revives_only_if_it_is_newer_than_what_we_saw() -> None:
    machine = membership()
    machine.vouched(ACCUSED, wall(1.0), 1.0, wall(1.0))
    machine.lost(ACCUSED, True, 10.0)
    machine.vouched(ACCUSED, wall(9.9), 10.1, wall(10.1))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.dial_failed(ACCUSED, True, 10.2)
    machine.vouched(ACCUSED, wall(9.95), 10.3, wall(10.3))
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    machine.vouched(ACCUSED, wall(11.0), 11.1, wall(11.1))
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    machine.lost(ACCUSED, True, 12.0)
    machine.vouched(ACCUSED, wall(11.0), 12.1, wall(12.1))
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT


# --- what others report


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
def test_a_report_that_proves_nothing_is_ignored(changes: dict[str, float | NodeId]) -> None:
    arguments = {"accused": ACCUSED, "reporter": LIAR, "now": 1000.0} | changes
    machine = membership()
    assert not accuse(machine, **arguments)  # type: ignore[arg-type]
    assert run(machine, 2000.0) == []


def test_a_report_is_passed_on_and_probed_within_the_window() -> None:
    moments = set()
    for seed in range(20):
        machine = membership(known=10, seed=seed)
        assert accuse(machine, ACCUSED, LIAR, 100.0)
        assert machine.liveness(ACCUSED) is Liveness.SUSPECT
        assert 100.0 <= machine.next_due() <= 100.0 + max(PROBE_WINDOW_LEAST, 10 / DIALS_PER_SECOND)
        moments.add(machine.next_due())
        assert run(machine, 101.0) == [Redial(ACCUSED)]
    assert len(moments) == 20


def test_a_refused_probe_confirms_a_report_at_once_and_is_reported() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, True, 101.0)
    assert machine.take_actions(101.0) == [
        Declare(ACCUSED, Evidence.REFUSED, (LIAR,)),
        Report(ACCUSED, Evidence.REFUSED),
    ]


def test_an_unanswered_probe_confirms_a_report_after_a_moment() -> None:
    machine = membership()
    accuse(machine, ACCUSED, LIAR, 100.0)
    run(machine, 101.0)
    machine.dial_failed(ACCUSED, False, 101.0)
    assert machine.take_actions(101.0) == []
    assert run(machine, 100.0 + SUSPICION_MOST) == [
        Declare(ACCUSED, Evidence.SILENT, (LIAR,)),
        Report(ACCUSED, Evidence.SILENT),
    ]


def test_no_report_is_added_to_a_quorum() -> None:
    machine = membership(known=1000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.dial_failed(ACCUSED, True, 101.0)
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


def test_a_report_of_a_peer_in_good_connection_counts_against_its_reporter() -> None:
    machine = membership()
    for number in range(1, 1 + FALSE_REPORTS):
        machine.heard(node(number), 90.0)
        machine.heard(node(number), 99.0)
        assert not accuse(machine, node(number), LIAR, 100.0, connected=True)
        machine.heard(node(number), 101.0)
    assert run(machine, 102.0) == []
    assert not accuse(machine, node(50), LIAR, 103.0)
    assert accuse(machine, node(50), node(98), 103.0)


def test_a_report_that_comes_a_moment_before_the_loss_counts() -> None:
    machine = membership()
    machine.heard(ACCUSED, 90.0)
    assert not accuse(machine, ACCUSED, LIAR, 91.0, connected=True)
    machine.lost(ACCUSED, True, 91.1)
    machine.dial_failed(ACCUSED, True, 91.2)
    assert Declare(ACCUSED, Evidence.REFUSED, (LIAR,)) in machine.take_actions(91.2)


def test_a_quiet_connection_is_no_defence() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, HEARD_LATELY + 1, connected=True)


def discredit(machine: Membership, now: float) -> None:
    for number in range(200, 200 + FALSE_REPORTS):
        assert accuse(machine, node(number), LIAR, now)
        machine.heard(node(number), now + 1)


def test_a_reporter_of_false_reports_is_not_believed_for_a_while() -> None:
    machine = membership()
    discredit(machine, 100.0)
    assert not accuse(machine, ACCUSED, LIAR, 102.0)
    assert accuse(machine, ACCUSED, LIAR, 101.0 + CREDIT_WINDOW)


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
    machine.dial_failed(ACCUSED, True, 103.0)
    accuse(machine, node(201), LIAR, 104.0 + REPORT_AGAIN)
    machine.heard(node(201), 105.0 + REPORT_AGAIN)
    assert accuse(machine, node(2), LIAR, 106.0 + REPORT_AGAIN)


def test_the_standing_reports_of_a_discredited_reporter_do_not_count() -> None:
    machine = membership(known=100_000)
    for number in (LIAR, *map(node, range(10, 9 + QUORUM))):
        accuse(machine, ACCUSED, number, 100.0)
    discredit(machine, 100.0)
    assert not any(isinstance(each, Declare) for each in run(machine, 110.0))


def test_who_saw_what_we_saw_loses_no_credit_by_the_return_of_the_dead() -> None:
    machine = membership()
    for number in range(1, 2 + FALSE_REPORTS):
        machine.lost(node(number), True, 100.0)
        assert accuse(machine, node(number), LIAR, 100.1)
        machine.heard(node(number), 101.0)
    assert accuse(machine, node(50), LIAR, 102.0)


# --- ourselves


def test_when_half_falls_silent_nobody_is_declared() -> None:
    machine = membership(connected=6)
    heard_of(machine, 1, 2, 3, 4, 5, 6)
    for number in (1, 2, 3):
        fail_silently(machine, node(number), 10.0)
    assert machine.isolated
    assert not [each for each in run(machine, 600.0) if isinstance(each, Declare | Report)]
    assert all(machine.liveness(node(number)) is Liveness.SUSPECT for number in (1, 2, 3))


def test_the_count_may_fall_before_or_after_the_losses_are_told() -> None:
    for told_first in (True, False):
        machine = membership(connected=8)
        for lost in range(1, 5):
            assert not machine.isolated
            if told_first:
                machine.set_population(8 - lost, 10)
            machine.lost(node(lost), False, 10.0 + lost)
            machine.set_population(8 - lost, 10)
        assert machine.isolated


def test_fewer_than_half_or_one_alone_or_slowly_is_no_isolation() -> None:
    for connected, losses, pause in ((7, 3, 0.1), (1, 1, 0.0), (6, 5, 8.0)):
        machine = membership(connected=connected)
        for lost in range(losses):
            fail_silently(machine, node(1 + lost), 10.0 + lost * pause)
        assert not machine.isolated
        declared = [each for each in run(machine, 600.0) if isinstance(each, Declare)]
        assert len(declared) == losses


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
        machine.dial_failed(node(number), False, 62.0)
    assert not machine.isolated
    assert run(machine, 62.0) == [AskOthers(node(1)), AskOthers(node(2))]
    machine.others_failed(node(1), 63.0)
    machine.heard(node(2), 63.0)
    assert Declare(node(1), Evidence.SILENT, ()) in run(machine, 70.0)
    assert machine.liveness(node(2)) is Liveness.ALIVE


def test_half_killed_at_once_is_declared_where_dials_are_refused() -> None:
    machine = membership(connected=10)
    heard_of(machine, *range(1, 11))
    for number in range(1, 6):
        machine.lost(node(number), True, 10.0)
    assert run(machine, 10.0) == [Redial(node(number)) for number in range(1, 6)]
    for number in range(1, 6):
        machine.dial_failed(node(number), True, 10.1)
    assert not machine.isolated
    declared = [each.node for each in run(machine, 10.1) if isinstance(each, Declare)]
    assert declared == [node(number) for number in range(1, 6)]


def test_a_refusal_kills_in_isolation_too() -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        machine.lost(node(number), False, 10.0)
    assert machine.isolated
    machine.dial_failed(node(1), True, 11.0)
    assert machine.liveness(node(1)) is Liveness.DEAD


def test_after_a_sleep_all_verdicts_wait_anew() -> None:
    machine = membership(known=100_000)
    fail_silently(machine, node(1), 10.0)
    for number in range(10, 10 + QUORUM):
        accuse(machine, node(2), node(number), 10.0)
    machine.slept(1000.0)
    assert machine.take_actions(1000.0) == [Redial(node(1))]
    machine.dial_failed(node(1), False, 1001.0)
    machine.others_failed(node(1), 1001.0)
    machine.vouched(node(2), wall(1001.0), 1001.5, wall(1001.5))
    assert run(machine, 1000.0 + REFUTE_WAIT - 0.1) == [Revive(node(2))]
    # Nothing is known of the connections: two silent ones are believed to be our own fault.
    fail_silently(machine, node(3), 1002.0)
    assert machine.isolated


def test_poor_health_makes_all_waits_longer_until_it_is_better() -> None:
    def waited(lates: int, on_times: int) -> float:
        machine = membership(known=100_000)
        for _ in range(lates):
            machine.late(0.5, 1.0)
        for _ in range(on_times):
            machine.on_time(2.0)
        for number in range(10, 10 + QUORUM):
            accuse(machine, ACCUSED, node(number), 100.0)
        return machine.next_due() - 100.0

    assert waited(0, 5) == pytest.approx(REFUTE_WAIT)
    assert waited(2, 0) == pytest.approx(3 * REFUTE_WAIT)
    assert waited(2, 1) == pytest.approx(2 * REFUTE_WAIT)
    assert waited(100, 0) == pytest.approx((1 + WORST_HEALTH) * REFUTE_WAIT)


def test_health_that_worsens_puts_off_a_verdict_under_way() -> None:
    machine = membership(known=100_000)
    for number in range(10, 10 + QUORUM):
        accuse(machine, ACCUSED, node(number), 100.0)
    machine.late(0.5, 101.0)
    assert run(machine, 100.0 + 1.9 * REFUTE_WAIT) == []
    assert len(run(machine, 100.0 + 2 * REFUTE_WAIT)) == 1


def test_independent_reports_shorten_our_own_suspicion() -> None:
    def waited(reports: int) -> float:
        machine = membership(known=100_000)
        for number in range(10, 10 + reports):
            accuse(machine, ACCUSED, node(number), 100.0)
        machine.dial_failed(ACCUSED, False, 100.0)
        return machine.next_due() - 100.0

    assert 2.0 == waited(3) < waited(2) < waited(1) < SUSPICION_MOST


# --- bounds


def test_our_own_reports_are_bounded() -> None:
    machine = membership(connected=1000, known=1000)
    reports = declared = 0
    for number in range(300):
        machine.lost(node(number), True, 10.0 + number / 5)
        machine.dial_failed(node(number), True, 10.0 + number / 5)
        actions = machine.take_actions(10.0 + number / 5)
        reports += sum(isinstance(each, Report) for each in actions)
        declared += sum(isinstance(each, Declare) for each in actions)
    assert declared == 300
    assert reports == REPORTS_PER_MINUTE
    machine.lost(node(300), True, 71.0)
    machine.dial_failed(node(300), True, 71.0)
    assert any(isinstance(each, Report) for each in machine.take_actions(71.0))


def test_of_one_accused_only_so_many_reports_are_passed_on() -> None:
    machine = membership(known=100_000)
    passed = [accuse(machine, ACCUSED, node(100 + number), 100.0) for number in range(50)]
    assert passed == [True] * MAX_REPORTS + [False] * (50 - MAX_REPORTS)
    assert any(isinstance(each, Declare) for each in run(machine, 103.0))
    assert not accuse(machine, ACCUSED, node(500), 104.0)


def test_a_flood_of_reports_neither_crowds_out_our_own_losses_nor_makes_us_dial_more() -> None:
    machine = membership(known=100)
    for number in range(MAX_SUSPECTS + 100):
        accuse(machine, node(1000 + number), node(number // 100), 100.0)
    suspects = sum(
        machine.liveness(node(1000 + number)) is Liveness.SUSPECT
        for number in range(MAX_SUSPECTS + 100)
    )
    assert suspects == MAX_SUSPECTS
    machine.lost(node(1), True, 100.0)
    assert machine.liveness(node(1)) is Liveness.SUSPECT
    assert Redial(node(1)) in machine.take_actions(100.0)
    dials = sum(isinstance(each, Redial) for each in run(machine, 110.0))
    assert DIALS_PER_SECOND * 5 <= dials <= DIALS_PER_SECOND * 11 + 1


def test_one_reporter_cannot_accuse_without_end() -> None:
    machine = membership(known=100)
    passed = sum(accuse(machine, node(1000 + number), LIAR, 100.0) for number in range(2000))
    assert passed == REPORTS_PER_MINUTE * REPORT_TTL / 60


def test_the_dead_are_forgotten_oldest_first() -> None:
    machine = membership()
    for number in range(MAX_DEAD + 1):
        machine.lost(node(number), True, 1.0)
        machine.dial_failed(node(number), True, 1.0)
    assert machine.liveness(node(0)) is Liveness.UNKNOWN
    assert machine.liveness(node(1)) is Liveness.DEAD


@pytest.mark.parametrize("known", [6, 100])
def test_endless_reports_of_ever_new_reporters_cost_the_accused_one_dial_a_window(
    known: int,
) -> None:
    machine = membership(known=known)
    window = max(PROBE_WINDOW_LEAST, known / DIALS_PER_SECOND)
    now, dials = 100.0, 0
    for reporter in range(1000, 5000):
        now += 0.01
        accuse(machine, ACCUSED, node(reporter), now)
        dials += sum(isinstance(each, Redial) for each in run(machine, now))
        if reporter % 50 == 0:
            machine.vouched(ACCUSED, wall(now) + 1, now, wall(now) + 1)
    assert 40.0 / window / 3 <= dials <= 40.0 / window + 2


def test_the_dead_is_probed_soon_after_endless_false_reports_of_it() -> None:
    machine = membership(known=100)
    for reporter in range(1000, 2000):
        now = 100.0 + reporter - 1000
        accuse(machine, ACCUSED, node(reporter), now)
        machine.vouched(ACCUSED, wall(now) + 1, now + 0.1, wall(now + 0.1))
        run(machine, now + 0.1)
    accuse(machine, ACCUSED, LIAR, 1200.0)
    assert run(machine, 1200.0 + 2 * 100 / DIALS_PER_SECOND) == [Redial(ACCUSED)]


# --- worlds


@pytest.mark.parametrize("seed", range(3))
def test_liars_neither_evict_the_honest_nor_make_them_dialled_without_end(seed: int) -> None:
    rng = random.Random(seed)
    honest, liars = [node(1 + n) for n in range(32)], [node(101 + n) for n in range(8)]
    machines = {
        each: Membership(each, rng=random.Random(rng.random()), network_of=lambda _: None)
        for each in honest
    }
    for machine in machines.values():
        machine.set_population(8, 40)
    queue: list[tuple[float, int, Callable[[float], None]]] = []
    count = 0

    def at(due: float, act: Callable[[float], None]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(queue, (due, count, act))

    dials: dict[NodeId, list[float]] = defaultdict(list)
    seen: Counter[str] = Counter()

    def step(me: NodeId, now: float) -> None:
        for action in machines[me].take_actions(now):
            seen[type(action).__name__] += 1
            assert not isinstance(action, Declare | Report), (seed, me, action)
            if isinstance(action, Redial):
                dials[action.node].append(now)
                at(now + 0.05, lambda then, about=action.node: hear(me, about, then))  # type: ignore[misc]

    def hear(me: NodeId, about: NodeId, now: float) -> None:
        machines[me].heard(about, now)

    def vouch(me: NodeId, about: NodeId, issued: float, now: float) -> None:
        machines[me].vouched(about, wall(issued), now, wall(now))

    def lie(liar: NodeId, accused: NodeId, now: float) -> None:
        age = rng.choice([0.0, 0.0, 5.0, -50.0])
        for me in honest:
            if me != accused and accuse(machines[me], accused, liar, now, age=age):
                refuted = now + rng.uniform(0.1, 0.5)
                delay = rng.uniform(0.0, 0.4)
                at(
                    refuted + delay,
                    lambda then, me=me, refuted=refuted: vouch(me, accused, refuted, then),  # type: ignore[misc]
                )

    for round_begin in range(100, 1000, 20):
        for liar in liars:
            for accused in honest:
                moment = round_begin + rng.choice([0.0, rng.uniform(0, 20)])
                at(moment, lambda then, liar=liar, accused=accused: lie(liar, accused, then))  # type: ignore[misc]
    while queue:
        now = queue[0][0]
        due, who = min((machine.next_due(), each) for each, machine in machines.items())
        if due <= now:
            step(who, due)
        else:
            heapq.heappop(queue)[2](now)
    assert seen["Redial"] > 0
    assert seen["Revive"] > 0
    assert all(
        machine.liveness(each) is not Liveness.DEAD
        for machine in machines.values()
        for each in honest
    )
    for times in dials.values():
        for begin in range(100, 1000, 4):
            in_span = sum(begin <= each < begin + 4 for each in times)
            assert in_span <= DIALS_PER_SECOND * (4 + 2), seed


NODES = st.integers(1, 6).map(node)
REPORTERS = st.integers(20, 26).map(node)


class Judgement(RuleBasedStateMachine):
    """Any evidence in any order: who is declared had it from us or from a quorum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.failed: set[NodeId] = set()
        self.reporters: dict[NodeId, set[NodeId]] = defaultdict(set)

    @initialize(seed=st.integers(0, 99), connected=st.integers(0, 8), known=st.integers(1, 2000))
    def begin(self, seed: int, connected: int, known: int) -> None:
        self.machine = membership(connected=connected, known=known, seed=seed)

    def clear(self, about: NodeId) -> None:
        self.failed.discard(about)
        self.reporters[about].clear()

    @rule(about=NODES)
    def heard(self, about: NodeId) -> None:
        self.take()
        self.machine.heard(about, self.now)
        self.clear(about)
        assert self.machine.liveness(about) is Liveness.ALIVE

    @rule(about=NODES)
    def left(self, about: NodeId) -> None:
        self.take()
        self.machine.left(about, self.now)
        self.clear(about)
        assert self.machine.liveness(about) is Liveness.UNKNOWN

    @rule(about=NODES, reset=st.booleans())
    def lost(self, about: NodeId, reset: bool) -> None:
        was_dead = self.machine.liveness(about) is Liveness.DEAD
        self.machine.lost(about, reset, self.now)
        assert self.machine.liveness(about) is (Liveness.DEAD if was_dead else Liveness.SUSPECT)

    @rule(about=NODES, refused=st.booleans())
    def dial_failed(self, about: NodeId, refused: bool) -> None:
        if self.machine.liveness(about) is Liveness.SUSPECT:
            self.failed.add(about)
        self.machine.dial_failed(about, refused, self.now)

    @rule(about=NODES, reached=st.booleans())
    def others_asked(self, about: NodeId, reached: bool) -> None:
        self.take()
        if not reached:
            self.machine.others_failed(about, self.now)
        else:
            if self.machine.liveness(about) is Liveness.SUSPECT:
                self.clear(about)
            self.machine.others_reached(about, self.now)

    @rule(about=NODES, reporter=REPORTERS, age=st.floats(-70, 310), connected=st.booleans())
    def reported(self, about: NodeId, reporter: NodeId, age: float, connected: bool) -> None:
        accuse(self.machine, about, reporter, self.now, age=age, connected=connected)
        self.reporters[about].add(reporter)

    @rule(about=NODES, age=st.floats(0, 30))
    def vouched(self, about: NodeId, age: float) -> None:
        self.take()
        self.machine.vouched(about, wall(self.now - age), self.now, wall(self.now))
        if self.machine.liveness(about) is Liveness.ALIVE:
            self.clear(about)

    @rule(connected=st.integers(0, 8))
    def population(self, connected: int) -> None:
        self.machine.set_population(connected, 10)

    @rule(late=st.booleans())
    def health(self, late: bool) -> None:
        if late:
            self.machine.late(1.0, self.now)
        else:
            self.machine.on_time(self.now)

    @rule()
    def slept(self) -> None:
        self.machine.slept(self.now)

    @rule(seconds=st.floats(0.01, 30))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.machine.next_due() <= end:
            self.now = max(self.now, self.machine.next_due())
            self.take()
        self.now = end

    def take(self) -> None:
        for action in self.machine.take_actions(self.now):
            if isinstance(action, Declare):
                quorum = len(self.reporters[action.node]) >= QUORUM
                assert action.node in self.failed or quorum
                assert len(action.reporters) == len(set(action.reporters)) <= MAX_REPORTS
            if isinstance(action, Report):
                assert action.node in self.failed
                assert not (self.machine.isolated and action.evidence is Evidence.SILENT)

    @invariant()
    def suspects_are_not_forgotten(self) -> None:
        suspect = any(
            self.machine.liveness(node(number)) is Liveness.SUSPECT for number in range(1, 7)
        )
        if suspect and not self.machine.isolated:
            assert self.machine.next_due() < float("inf")


TestJudgement = Judgement.TestCase
