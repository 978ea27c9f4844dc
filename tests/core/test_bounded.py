"""A bounded table keeps what was set last."""

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.bounded import BoundedTable


@given(st.lists(st.tuples(st.integers(0, 9), st.integers())), st.integers(1, 5))
def test_it_holds_what_was_set_last_in_that_order(items: list[tuple[int, int]], most: int) -> None:
    table: BoundedTable[int, int] = BoundedTable(most)
    for key, value in items:
        table[key] = value
    latest = dict(reversed(dict.fromkeys(key for key, _ in reversed(items)).items()))
    values = dict(items)
    assert list(table.items()) == [(key, values[key]) for key in latest][-most:]
