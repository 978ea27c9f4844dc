"""Whoever is cut off says so of nobody else; whoever only seems to be does so for a while."""

import itertools

import pytest

from p2pd.core.actions import AskOthers, Declare, Evidence, Liveness, Redial, Report
from p2pd.core.isolation import CUT_OFF, LONGEST, WINDOW
from p2pd.ids import NodeId
from tests.core.evidence import (
    LIAR,
    accuse,
    fail_silently,
    heard_of,
    membership,
    node,
    run,
    run_unanswered,
)


def test_an_isolation_is_over_where_others_are_still_heard() -> None:
    machine = membership(connected=4)
    heard_of(machine, 1, 2, 3, 4)
    for number in (1, 2, 3):
        assert not machine.isolated
        fail_silently(machine, node(number), 10.0)
    assert machine.isolated
    run(machine, 10.0 + LONGEST)
    machine.in_touch(10.0 + LONGEST - 1, 10.0 + LONGEST - 0.1)
    assert machine.isolated
    machine.in_touch(10.0 + LONGEST - 1, 10.0 + LONGEST)
    assert not machine.isolated
    # What was held back takes one more dial, as any verdict on silence.
    lost = [node(number) for number in (1, 2, 3)]
    dials = [each for each in run(machine, 10.0 + LONGEST) if isinstance(each, Redial)]
    assert dials == [Redial(each, last=True) for each in lost]
    for each in lost:
        machine.dial_failed(each, 10.0 + LONGEST, refused=False)
    assert not machine.isolated
    assert [
        each.node for each in machine.take_actions(10.0 + LONGEST) if isinstance(each, Declare)
    ] == lost


@pytest.mark.parametrize("heard_at", [float("-inf"), 9.0])
def test_who_hears_nobody_stays_isolated(heard_at: float) -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        fail_silently(machine, node(number), 10.0)
    for now in range(11, 600):
        machine.in_touch(heard_at, float(now))
        # To dial them, or to ask others, would be in vain.
        assert run(machine, float(now)) == []
    assert machine.isolated


def test_a_link_that_is_back_for_a_moment_ends_no_isolation() -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        fail_silently(machine, node(number), 10.0)
    for now in range(15, 60):
        machine.in_touch(14.9 - CUT_OFF, float(now))
        assert not [each for each in run(machine, float(now)) if isinstance(each, Declare | Report)]
    assert machine.isolated


def test_the_next_isolation_lasts_as_long_again() -> None:
    machine = membership(connected=4)
    for begin in (10.0, 100.0):
        for number in (1, 2, 3):
            machine.heard(node(number), begin - 1)
            fail_silently(machine, node(number), begin)
        machine.in_touch(begin + LONGEST - 1, begin + LONGEST - 0.1)
        assert machine.isolated
        machine.in_touch(begin + LONGEST, begin + LONGEST)
        assert not machine.isolated


def test_more_losses_do_not_make_an_isolation_longer() -> None:
    machine = membership(connected=6)
    for number in range(1, 6):
        machine.lost(node(number), 10.0, reset=False)
    assert machine.isolated
    machine.lost(node(6), 10.0 + LONGEST - 1, reset=False)
    machine.in_touch(10.0 + LONGEST, 10.0 + LONGEST)
    assert not machine.isolated


def test_being_in_touch_means_nothing_without_an_isolation() -> None:
    machine = membership(connected=4)
    fail_silently(machine, node(1), 10.0)
    machine.in_touch(10.1, 10.1)
    assert machine.liveness(node(1)) is Liveness.SUSPECT
    assert Declare(node(1), Evidence.SILENT, ()) in run_unanswered(machine, 30.0)


def test_being_in_touch_does_not_hide_the_losses_that_begin_an_isolation() -> None:
    machine = membership(connected=4)
    for number in (1, 2, 3):
        assert not machine.isolated
        fail_silently(machine, node(number), 10.0)
        machine.in_touch(10.0, 10.0)
    assert machine.isolated


def test_it_is_judged_by_the_most_connections_of_a_window() -> None:
    machine = membership(connected=2)
    machine.set_population(8, 10, 1.0)
    for number in (1, 2):
        machine.lost(node(number), 2.0, reset=False)
    assert not machine.isolated


def test_connections_of_long_ago_hide_no_isolation() -> None:
    machine = membership(connected=30)
    for now, count in enumerate((20, 10, 4)):
        machine.set_population(count, 30, float(now))
    for number in (1, 2, 3):
        machine.lost(node(number), 3.0 + WINDOW, reset=False)
    assert machine.isolated


def test_what_was_lost_before_a_sleep_begins_no_isolation_after_it() -> None:
    machine = membership(connected=4)
    for number in (1, 2):
        machine.lost(node(number), 10.0, reset=False)
    machine.slept(12.0)
    machine.set_population(4, 10, 12.0)
    machine.lost(node(3), 12.0, reset=False)
    assert not machine.isolated


def test_a_last_dial_that_fails_in_an_isolation_is_made_again_after_it() -> None:
    machine = membership(connected=4)
    heard_of(machine, 1, 2, 3, 4)
    fail_silently(machine, node(1), 10.0)
    assert Redial(node(1), last=True) in run(machine, 20.0)
    for number in (2, 3):
        fail_silently(machine, node(number), 20.0)
    assert machine.isolated
    machine.dial_failed(node(1), 20.5, refused=False)
    assert machine.liveness(node(1)) is Liveness.SUSPECT
    machine.in_touch(20.0 + LONGEST, 20.0 + LONGEST)
    assert Declare(node(1), Evidence.SILENT, ()) in run_unanswered(machine, 30.0 + LONGEST)


def test_only_who_was_lost_in_it_ends_an_isolation() -> None:
    machine = membership(connected=4)
    machine.lost(node(9), 5.0, reset=False)
    machine.heard(node(9), 6.0)
    machine.lost(node(7), 5.0, reset=False)
    machine.left(node(7), 6.0)
    for number in (1, 2, 3):
        machine.lost(node(number), 10.0, reset=False)
    for number in (7, 8):
        machine.heard(node(number), 11.0)
    machine.unlinked(node(9), 0.0, 11.0)
    machine.heard(node(9), 11.0)
    assert machine.isolated
    machine.heard(node(1), 12.0)
    assert not machine.isolated


def test_a_dial_without_answer_counts_where_others_gave_none_either() -> None:
    for lost in (False, True):
        machine = membership(connected=4)
        for number in (1, 2, 3):
            if lost:
                machine.lost(node(number), 10.0, reset=True)
            else:
                # That it was lost before does not matter any more.
                machine.lost(node(number), 0.0, reset=True)
                machine.heard(node(number), 0.0)
                machine.unlinked(node(number), 0.0, 1.0)
                accuse(machine, node(number), LIAR, 10.0)
            machine.dial_unclear(node(number), 11.0)
        assert machine.isolated is lost


def test_who_pretends_to_be_lost_again_and_again_holds_off_no_verdict() -> None:
    machine = membership(connected=6)
    numbers = itertools.count(1000)
    shams: list[NodeId] = []
    dead: set[NodeId] = set()
    dials: list[tuple[float, NodeId]] = []
    machine.lost(node(1), 9.5, reset=False)
    for now in (tick / 10 for tick in range(100, 1000)):
        if now % 2 == 0:
            shams = [node(next(numbers)) for _ in range(5)]
            for each in shams:
                fail_silently(machine, each, now)
        if now % 2 == 1:
            machine.heard(shams[0], now)
        machine.in_touch(now, now)
        while dials and dials[0][0] <= now:
            machine.dial_failed(dials.pop(0)[1], now, refused=False)
        for action in machine.take_actions(now):
            if isinstance(action, Redial):
                dials.append((now + 1, action.node))
            elif isinstance(action, AskOthers) and not action.last:
                machine.others_failed(action.node, now)
            elif isinstance(action, Declare):
                dead.add(action.node)
    assert node(1) in dead
