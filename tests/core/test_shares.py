"""Who has most."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.shares import Shares


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 5)), min_size=1))
def test_the_greatest_has_at_least_the_average(changes: list[tuple[int, int]]) -> None:
    shares: Shares[int] = Shares()
    held: Counter[int] = Counter()
    for owner, amount in changes:
        change = max(amount, -held[owner])
        shares.change(owner, change)
        held[owner] += change
        assert shares.total == held.total()
        if +held:
            assert held[shares.greatest()] * len(+held) >= held.total()


def test_who_grows_most_is_the_greatest() -> None:
    shares: Shares[str | None] = Shares()
    shares.change("a", 3)
    for number in range(1, 10):
        shares.change(None, 1)
        assert shares.greatest() == ("a" if number <= 3 else None)
    shares.change("a", -3)
    shares.change(None, -9)
    shares.change("b", 1)
    assert shares.greatest() == "b"


def test_none_is_an_owner_like_any_other() -> None:
    for owner in (None, "flood"):
        shares: Shares[str | None] = Shares()
        for small in "abcdefghij":
            shares.change(small, 2)
        shares.change(owner, 100)
        shares.change("a", 60)
        assert shares.greatest() == owner
