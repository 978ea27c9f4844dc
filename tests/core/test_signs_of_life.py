"""A node that is reported dead says that it lives: in time where it matters, and not too often."""

import math

import pytest

from p2pd.core.reporters import REPORT_EARLY, REPORT_TTL
from p2pd.core.signs_of_life import (
    ANSWERED_AT_ONCE,
    ANSWERED_PER_SECOND,
    ANSWERS_FOR,
    COUNTED_AGAIN,
    LEAST_INTERVAL,
    SignsOfLife,
)
from p2pd.core.suspicion import QUORUM, REFUTE_WAIT
from tests.core.evidence import node, wall


def accused(
    signs: SignsOfLife, reporter: int, now: float, *, age: float = 0.0, stranger: bool = False
) -> None:
    signs.accused(node(reporter), wall(now - age), wall_ms=wall(now), stranger=stranger, now=now)


def say(signs: SignsOfLife, now: float) -> int:
    assert signs.due <= now
    issued = signs.date(wall(now))
    signs.said(wall(now), now)
    return issued


def drained(now: float) -> SignsOfLife:
    """Have all answered that may be at once, and somewhat more asked for."""
    signs = SignsOfLife()
    for number in range(2 * ANSWERED_AT_ONCE):
        # Older than anything that others count.
        accused(signs, 100 + number, now - 1 + number / 100, age=2 * REPORT_TTL)
    say(signs, now)
    return signs


def test_a_report_is_answered_at_once_and_with_a_later_date() -> None:
    signs = SignsOfLife()
    assert signs.due == math.inf
    accused(signs, 1, 100.0, age=-20.0)
    assert signs.due <= 100.0
    assert say(signs, 100.0) > wall(120.0)
    assert signs.due == math.inf
    # Or the next one would be dated ahead as well, even if the clock was set back since.
    assert signs.date(wall(101.0)) == wall(101.0)


def test_the_answer_to_a_report_of_the_past_is_of_now() -> None:
    signs = SignsOfLife()
    accused(signs, 1, 100.0, age=20.0)
    assert say(signs, 100.0) == wall(100.0)


def test_one_answers_the_latest_of_several_reports() -> None:
    signs = SignsOfLife()
    accused(signs, 1, 100.0, age=-20.0)
    accused(signs, 2, 100.0)
    assert say(signs, 100.0) > wall(120.0)


def test_no_date_is_so_late_that_nobody_would_believe_it() -> None:
    signs = SignsOfLife()
    accused(signs, 1, 100.0, age=-10 * REPORT_EARLY)
    assert signs.date(wall(100.0)) <= wall(100.0 + REPORT_EARLY) + 1


def test_one_that_finds_no_room_is_due_again_and_dated_as_before() -> None:
    signs = SignsOfLife()
    accused(signs, 1, 100.0, age=-20.0)
    signs.put_off(100.0)
    assert signs.due == 100.0 + LEAST_INTERVAL
    assert signs.date(wall(101.0)) > wall(120.0)


def test_two_do_not_follow_each_other_at_once_but_in_time() -> None:
    signs = SignsOfLife()
    signs.want(100.0)
    assert say(signs, 100.0) == wall(100.0)
    signs.want(100.1)
    assert signs.due == 100.0 + LEAST_INTERVAL < 100.0 + REFUTE_WAIT


def test_what_is_dated_before_the_last_one_is_answered_already() -> None:
    signs = SignsOfLife()
    accused(signs, 1, 100.0)
    say(signs, 100.0)
    accused(signs, 2, 101.0, age=5.0)
    assert signs.due == math.inf
    # It may be all that is left of a verdict behind a partition.
    accused(signs, 2, 100.0 + ANSWERS_FOR, age=ANSWERS_FOR + 1)
    assert signs.due <= 100.0 + ANSWERS_FOR


def test_one_that_is_dated_ahead_answers_no_report_of_what_was_seen_after_it() -> None:
    """A liar with its clock ahead kept a node silent, and then three had it held dead."""
    signs = SignsOfLife()
    accused(signs, 1, 100.0, age=-REPORT_EARLY)
    say(signs, 100.0)
    accused(signs, 2, 101.0, age=2.0)
    assert signs.due == math.inf
    accused(signs, 3, 105.0, age=1.0)
    assert signs.due <= 105.0


def test_many_reports_are_answered_seldom_but_answered() -> None:
    signs = drained(100.0)
    accused(signs, 1, 101.0)
    assert signs.due > 101.0 + LEAST_INTERVAL
    assert signs.due <= 100.0 + ANSWERED_AT_ONCE + 1 / ANSWERED_PER_SECOND
    answers, now = 0, signs.due
    while now < 1100.0:
        accused(signs, 1, now, stranger=True)
        if signs.due <= now:
            say(signs, now)
            answers += 1
        now += 0.5
    assert 1000.0 * ANSWERED_PER_SECOND / 2 < answers < 1000.0 * ANSWERED_PER_SECOND * 3


@pytest.mark.parametrize("age", [0.0, 10.0])
def test_a_quorum_is_answered_at_once_whatever_came_before(age: float) -> None:
    """Three liars used up by old reports what a node answers, and then had it held dead."""
    signs, now = drained(100.0), 102.0 + age
    for number in range(QUORUM):
        assert signs.due > now
        accused(signs, number, now, age=age)
    assert signs.due <= now


def test_what_others_do_not_count_makes_no_quorum() -> None:
    now = 100.0
    signs = drained(now)
    for number in range(2 * QUORUM):
        accused(signs, number, now + 2.0, stranger=True)
        accused(signs, number, now + 2.0, age=2 * REPORT_TTL)
        accused(signs, 7, now + 2.0)
    assert signs.due > now + 3.0


def test_the_same_few_make_a_quorum_only_now_and_then() -> None:
    signs = drained(100.0)
    answers, now = [], 102.0
    while now < 202.0:
        for number in range(QUORUM):
            accused(signs, number, now)
        if signs.due <= now:
            say(signs, now)
            answers.append(now)
        now += 0.5
    assert len(answers) <= 2 * (100.0 / COUNTED_AGAIN + 100.0 * ANSWERED_PER_SECOND)
    assert len(answers) >= 100.0 / COUNTED_AGAIN - 1
