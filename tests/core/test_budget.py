"""The token bucket: its bound, its rate, and when there is something again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.budget import Budget, Budgets

SPENDINGS = st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 8)), max_size=50)


@given(SPENDINGS)
def test_never_more_than_the_bound_and_the_rate_allow(spendings: list[tuple[float, float]]) -> None:
    budget = Budget(10, per_second=2)
    now = spent = 0.0
    for pause, cost in spendings:
        now += pause
        if budget.spend(cost, now):
            spent += cost
        assert spent <= 10 + 2 * now + 8.001


def test_it_says_when_there_is_something_again() -> None:
    budget = Budget(10, per_second=2)
    assert budget.spend(14, 100.0)
    assert not budget.spend(1, 100.0)
    assert budget.refilled_at() == pytest.approx(102, abs=0.01)
    assert not budget.spend(1, 101.9)
    assert budget.spend(1, budget.refilled_at())


def test_while_something_is_left_there_is_something_at_once() -> None:
    budget = Budget(10, per_second=2)
    assert budget.spend(1, 100.0)
    assert budget.refilled_at() == pytest.approx(100, abs=0.01)


def test_what_is_given_back_is_there_again_up_to_the_bound() -> None:
    budget = Budget(3, per_second=0.001)
    assert [budget.spend(1, 0.0) for _ in range(4)] == [True, True, True, False]
    budget.give_back(2)
    assert [budget.spend(1, 0.0) for _ in range(3)] == [True, True, False]
    budget.give_back(10)
    assert [budget.spend(1, 0.0) for _ in range(4)] == [True, True, True, False]


def test_it_fills_to_its_bound_and_no_further() -> None:
    budget = Budget(3, per_second=2)
    assert [budget.spend(1, 1000.0) for _ in range(5)] == [True, True, True, False, False]


def test_beyond_the_bound_who_spent_longest_ago_has_a_new_one() -> None:
    budgets = Budgets[str](2, 1, per_second=0.001)
    assert [budgets.spend(who, 1, 0.0) for who in ("a", "b", "a")] == [True, True, False]
    assert budgets.spend("c", 1, 0.0)
    assert not budgets.spend("a", 1, 0.0)
    assert budgets.spend("b", 1, 0.0)


def test_what_is_charged_beyond_what_is_left_is_owed() -> None:
    budgets = Budgets[str](2, 3, per_second=1)
    assert budgets.left("a", 100.0) == 3
    budgets.charge("a", 5, 100.0)
    assert budgets.left("a", 101.0) == -1
    assert not budgets.spend("a", 1, 102.0)
    budgets.give_back("a", 1)
    assert budgets.left("a", 102.0) == 1
    budgets.give_back("b", 1)
    assert budgets.left("b", 102.0) == 3
