"""What another replica was seen to have, and since when."""

from p2pd.core.confirmations import MAX_BITS, MAX_CONFIRMED, Confirmations
from p2pd.core.merkle import EVERYTHING, Prefix


def test_what_was_confirmed_lately() -> None:
    seen = Confirmations(100.0)
    seen.note(Prefix(2, 0), 150.0)
    seen.note(Prefix(2, 1), 160.0)
    seen.note(Prefix(2, 3), 170.0)
    assert seen.since(100.0) == [EVERYTHING]
    assert seen.since(101.0) == [Prefix(1, 0), Prefix(2, 3)]
    assert seen.since(155.0) == [Prefix(2, 1), Prefix(2, 3)]
    seen.note(Prefix(2, 0), 180.0)
    assert seen.since(165.0) == [Prefix(2, 0), Prefix(2, 3)]
    assert seen.since(181.0) == []


def test_a_single_key_confirms_nothing() -> None:
    seen = Confirmations(0.0)
    seen.note(Prefix(MAX_BITS, 5), 2.0)
    seen.note(Prefix(MAX_BITS + 1, 1), 2.0)
    assert seen.since(1.0) == [Prefix(MAX_BITS, 5)]


def test_at_the_bound_what_was_confirmed_longest_ago_is_forgotten() -> None:
    seen = Confirmations(0.0)
    for path in range(MAX_CONFIRMED + 1):
        seen.note(Prefix(20, 2 * path), 1.0 + path)
    kept = seen.since(1.0)
    assert len(kept) == MAX_CONFIRMED
    assert Prefix(20, 0) not in kept
