"""Until when an answer is expected follows what answers took."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.round_trips import FIRST_SECONDS, LEAST_SECONDS, MAX_PEERS, RECENT, RoundTrips
from p2pd.ids import NodeId

A, B = NodeId(b"\xaa" * 32), NodeId(b"\xbb" * 32)


def test_before_anything_was_measured_it_is_that_of_the_rfc() -> None:
    trips = RoundTrips()
    trips.took(A, 5.0, dialled=False)
    assert trips.expected(B, dialled=True) == FIRST_SECONDS


def test_the_first_sample_counts_as_in_the_rfc() -> None:
    trips = RoundTrips()
    trips.took(A, 0.2, dialled=False)
    assert trips.expected(A, dialled=False) == 0.2 + 4 * 0.1


def test_a_steady_peer_is_expected_soon_after_its_time() -> None:
    trips = RoundTrips()
    for _ in range(100):
        trips.took(A, 0.3, dialled=False)
        trips.took(B, 0.001, dialled=False)
    assert 0.3 <= trips.expected(A, dialled=False) < 0.31
    assert trips.expected(B, dialled=False) == LEAST_SECONDS


def test_of_an_unknown_peer_what_most_others_took_is_expected() -> None:
    trips = RoundTrips()
    for number in range(2 * RECENT):
        trips.took(A, 0.2, dialled=False)
        # One in eight is far away.
        trips.took(A, 1.6 if number % 8 == 0 else 0.1, dialled=True)
    assert 0.2 <= trips.expected(B, dialled=False) < 0.3
    assert trips.expected(A, dialled=True) == trips.expected(B, dialled=True)
    assert 1.6 <= trips.expected(B, dialled=True) < 2.4
    for _ in range(RECENT):
        trips.took(A, 0.1, dialled=True)
    assert trips.expected(B, dialled=True) < 0.2


@given(st.lists(st.floats(0, 60), min_size=1))
def test_it_never_is_less_than_the_least(samples: list[float]) -> None:
    trips = RoundTrips()
    for each in samples:
        trips.took(A, each, dialled=False)
        assert trips.expected(A, dialled=False) >= LEAST_SECONDS


def test_only_so_many_peers_are_remembered_and_the_one_measured_longest_ago_goes() -> None:
    trips, rng = RoundTrips(), random.Random(1)
    for _ in range(100):
        trips.took(A, 50.0, dialled=False)
        trips.took(B, 50.0, dialled=False)
    for _ in range(MAX_PEERS - 1):
        trips.took(B, 50.0, dialled=False)
        trips.took(NodeId(rng.randbytes(32)), 0.1, dialled=False)
    for _ in range(RECENT):
        trips.took(B, 1.0, dialled=False)
    assert trips.expected(A, dialled=False) == trips.expected(NodeId(bytes(32)), dialled=False)


def test_as_many_are_asked_to_spare_as_were_lost_of_late() -> None:
    trips = RoundTrips()
    assert trips.spare(20) == 0
    for _ in range(50):
        trips.came_back(16, 4)
    assert trips.spare(20) == 5
    trips.came_back(0, 0)
    assert trips.spare(20) == 5
    for _ in range(50):
        trips.came_back(0, 20)
    assert trips.spare(20) == 10
    for _ in range(50):
        trips.came_back(20, 0)
    assert trips.spare(20) == 0
