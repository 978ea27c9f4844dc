"""Who the replicas of a key are, and whether enough of them have answered."""

import math

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.quorums import Needed, Turnout, turnout
from p2pd.ids import NodeId, closest_first

KEY = bytes(32)
NODES = [NodeId(bytes([number]) + bytes(31)) for number in range(1, 41)]


def of(answered: int, pending: int, silent: int, missing: int, replication: int = 5) -> Turnout:
    """The closest have answered, the next ones are pending, the farthest are silent."""
    there, rest = NODES[:answered], NODES[answered:]
    return turnout(
        KEY,
        replication,
        answered=there,
        pending=rest[:pending],
        silent=rest[pending : pending + silent],
        missing=missing,
    )


def test_a_majority_of_those_that_should_have_answered_is_needed() -> None:
    majority = Needed(0)
    assert [majority.of(wanted) for wanted in (1, 2, 3, 4, 5, 20)] == [1, 2, 2, 3, 3, 11]
    assert of(3, 2, 0, 0).suffices(majority)
    assert not of(2, 3, 0, 0).suffices(majority)
    # Two of four others are silent: cut off with one, we are no majority.
    assert not of(2, 0, 3, 3).suffices(majority)
    assert of(2, 0, 3, 3).wanted == 5
    assert of(2, 0, 0, 0).suffices(majority)


def test_all_means_also_those_who_are_silent() -> None:
    everybody = Needed(math.inf)
    assert of(5, 0, 0, 0).suffices(everybody)
    assert not of(4, 1, 0, 0).suffices(everybody)
    assert not of(4, 0, 1, 1).suffices(everybody)
    assert of(4, 0, 0, 0).suffices(everybody)


def test_a_number_that_is_given_counts_as_it_is() -> None:
    assert of(1, 4, 0, 0).suffices(Needed(1))
    assert not of(2, 0, 0, 0).suffices(Needed(3))


def test_absence_takes_more_than_half_of_those_that_may_have_it() -> None:
    assert not of(3, 0, 2, 2).mostly_silent
    assert of(2, 0, 3, 3).mostly_silent
    # Farther ones took the place of silent ones that are closer.
    far, near = NODES[10:15], NODES[:5]
    taken = turnout(KEY, 5, answered=far, pending=(), silent=near[:3], missing=0)
    assert (taken.nodes, taken.answered) == (far, 5)
    assert taken.mostly_silent
    assert not turnout(KEY, 5, answered=far, pending=(), silent=near[:2], missing=0).mostly_silent


def test_nodes_that_were_never_found_may_have_it_too() -> None:
    assert of(2, 0, 0, 3).mostly_silent
    assert of(2, 0, 0, 3).silent == 3
    assert not of(3, 0, 0, 2).mostly_silent
    # Nobody else is there.
    assert not of(2, 0, 0, 0).mostly_silent


def test_silent_nodes_farther_than_the_replicas_conceal_nothing() -> None:
    assert not of(5, 0, 10, 10).mostly_silent
    assert of(5, 0, 10, 10).silent == 10


@given(
    kinds=st.lists(st.sampled_from("aps"), max_size=len(NODES)),
    missing=st.integers(0, 30),
    replication=st.integers(1, 20),
)
def test_replicas_are_the_closest_that_are_not_silent(
    kinds: list[str], missing: int, replication: int
) -> None:
    answered, pending, silent = (
        [node for node, each in zip(NODES, kinds, strict=False) if each == kind] for kind in "aps"
    )
    found = turnout(
        KEY, replication, answered=answered, pending=pending, silent=silent, missing=missing
    )
    assert found.nodes == closest_first([*answered, *pending], KEY)[:replication]
    assert found.answered == len(set(found.nodes) & set(answered))
    assert len(found.nodes) <= found.wanted <= replication
    assert found.silent >= found.wanted - len(found.nodes)
    # Whoever heard nothing must not say that there is nothing.
    assert found.mostly_silent or found.answered
