"""What two replicas exchanged in vain is exchanged ever more seldom, until something changes."""

import attrs

from p2pd.core.stalemates import MAX_KEPT, MOST_PAUSES, Divergence, Stalemates
from p2pd.ids import Key, NodeId

PEER, OTHER = NodeId(bytes(32)), NodeId(bytes([1] * 32))
LACKING = Divergence(Key.of("k"), b"here", None, 7)


def test_the_pause_grows_up_to_a_bound() -> None:
    stalemates = Stalemates(10.0)
    now, pauses = 0.0, list[float]()
    assert not stalemates.holds(PEER, LACKING, now)
    for _ in range(8):
        stalemates.note(PEER, LACKING, now)
        began = now
        while stalemates.holds(PEER, LACKING, now):
            now += 10.0
        pauses.append(now - began)
    assert pauses == [10.0, 20.0, 40.0, 80.0, 80.0, 80.0, 80.0, 80.0]
    assert max(pauses) == 10.0 * MOST_PAUSES


def test_what_changed_anywhere_is_exchanged_at_once_and_begins_anew() -> None:
    stalemates = Stalemates(10.0)
    for _ in range(3):
        stalemates.note(PEER, LACKING, 0.0)
    assert stalemates.holds(PEER, LACKING, 39.0)
    assert not stalemates.holds(OTHER, LACKING, 0.0)
    for change in ({"key": Key.of("l")}, {"ours": b"new"}, {"theirs": b"x"}, {"sequence": 8}):
        assert not stalemates.holds(PEER, attrs.evolve(LACKING, **change), 0.0)
    stalemates.note(PEER, attrs.evolve(LACKING, ours=b"new"), 5.0)
    assert not stalemates.holds(PEER, LACKING, 5.0)
    assert stalemates.holds(PEER, attrs.evolve(LACKING, ours=b"new"), 14.0)
    assert not stalemates.holds(PEER, attrs.evolve(LACKING, ours=b"new"), 15.0)


def test_at_the_bound_what_was_noted_longest_ago_is_forgotten() -> None:
    stalemates = Stalemates(10.0)
    first, *others = (
        attrs.evolve(LACKING, key=Key(number.to_bytes(32))) for number in range(MAX_KEPT + 1)
    )
    for each in (first, *others):
        stalemates.note(PEER, each, 0.0)
    assert not stalemates.holds(PEER, first, 0.0)
    assert all(stalemates.holds(PEER, each, 0.0) for each in others)
