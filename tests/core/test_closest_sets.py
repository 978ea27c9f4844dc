"""The closest sets of all keys under a prefix are those of each key under it."""

import hashlib
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.core import closest_sets as module
from p2pd.core.closest_sets import (
    closest_sets,
    foreign_prefixes,
    merged,
    outside,
    population,
    shared,
    without,
)
from p2pd.core.confirmations import MAX_BITS, MAX_CONFIRMED
from p2pd.core.merkle import EVERYTHING, Prefix
from p2pd.ids import ID_BITS, distance


def sha256(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8)).digest()


def closest(key: bytes, nodes: Iterable[bytes], count: int) -> list[bytes]:
    return sorted(nodes, key=lambda node: distance(node, key))[:count]


@settings(max_examples=60)
@given(
    st.sets(st.integers(0, 63), min_size=1, max_size=60),
    st.lists(st.integers(1, 25), min_size=1, max_size=3, unique=True).map(sorted),
    st.lists(st.integers(0, 10_000).map(sha256), min_size=1, max_size=20),
)
def test_each_key_has_the_closest_set_of_its_prefix(
    made: set[int], counts: list[int], sample: list[bytes]
) -> None:
    # No two have more than five bits in common, so that the bound does not matter.
    nodes = [bytes([first << 2]) + sha256(first)[1:] for first in sorted(made)]
    own_id = nodes[len(nodes) // 2]
    sets = closest_sets(own_id, nodes, tuple(counts), within=counts[0])
    assert sets == closest_sets(own_id, nodes[::-1], tuple(counts), within=counts[0])
    for key in [*sample, *nodes]:
        holding = [each for each in sets if each.prefix.holds(key)]
        assert len(holding) == (own_id in closest(key, nodes, counts[0]))
        for each in holding:
            for count in counts:
                assert sorted(each.nodes[:count]) == sorted(closest(key, nodes, count))
            if 1 in counts:
                assert (each.rank == 0) == (own_id == closest(key, nodes, 1)[0])
        others = foreign_prefixes(own_id, nodes, counts[0], but_for=lambda _: False)
        assert sum(each.holds(key) for each in others) == (not holding)


def test_in_a_small_network_everything_is_everybodys() -> None:
    nodes = [sha256(number) for number in range(20)]
    only = closest_sets(nodes[3], nodes, (20,), within=20)
    assert [each.prefix for each in only] == [EVERYTHING]
    assert sorted(only[0].nodes) == sorted(nodes)


def test_the_whole_is_cut_into_few_prefixes() -> None:
    nodes = [sha256(number) for number in range(1000)]
    for own_id in nodes[:20]:
        assert len(closest_sets(own_id, nodes, (1, 2, 20), within=2)) <= 130
        assert len(closest_sets(own_id, nodes, (20, 21), within=20)) <= 256


def test_no_further_than_wanted() -> None:
    nodes = [sha256(number) for number in range(100)]
    key = int.from_bytes(nodes[0])

    def leads_elsewhere(prefix: Prefix) -> bool:
        return key >> ID_BITS - prefix.bits != prefix.path

    sets = closest_sets(nodes[0], nodes, (5, 6), within=5, but_for=leads_elsewhere)
    assert [each.prefix.holds(nodes[0]) for each in sets] == [True]
    assert sorted(sets[0].nodes) == sorted(closest(nodes[0], nodes, 6))


def test_nodes_chosen_close_together_cost_no_more_than_the_bound() -> None:
    nodes = [sha256(number) for number in range(200)]
    own = int.from_bytes(nodes[0])
    comb = [(own ^ 1 << ID_BITS - 1 - bit).to_bytes(32) for bit in range(6, 60)]
    sets = closest_sets(nodes[0], nodes + comb, (20, 21), within=20)
    assert len(sets) <= module.MAX_VISITS * 2
    for number in range(1000):
        key = sha256(number)
        if nodes[0] in closest(key, nodes + comb, 20):
            holding = [each for each in sets if each.prefix.holds(key)]
            assert len(holding) == 1
            assert set(closest(key, nodes + comb, 21)).issubset(holding[0].nodes)


prefixes = st.integers(0, 4).flatmap(
    lambda bits: st.builds(Prefix, st.just(bits), st.integers(0, (1 << bits) - 1))
)
SHORT = [Prefix(4, path) for path in range(16)]


def holds(some: Iterable[Prefix], short: Prefix) -> bool:
    key = (short.path << ID_BITS - short.bits).to_bytes(32)
    return any(each.holds(key) for each in some)


@given(st.lists(prefixes))
def test_merged_prefixes_hold_the_same_keys_and_are_as_few_as_can_be(some: list[Prefix]) -> None:
    fewest = merged(some)
    assert [holds(fewest, each) for each in SHORT] == [holds(some, each) for each in SHORT]
    assert merged(fewest[::-1]) == fewest
    for each in fewest:
        assert not holds([other for other in fewest if other != each], each)
        assert Prefix(each.bits, each.path ^ 1) not in fewest or each.bits == 0


@given(st.lists(prefixes), st.lists(prefixes))
def test_what_is_new_of_some_prefixes(some: list[Prefix], known: list[Prefix]) -> None:
    new = without(some, merged(known))
    for each in some:
        below = [short for short in SHORT if holds([each], short)]
        assert (each not in new) == all(holds(known, short) for short in below)


@given(st.lists(prefixes), st.lists(prefixes))
def test_what_two_lists_of_prefixes_both_hold(some: list[Prefix], others: list[Prefix]) -> None:
    both = shared(merged(some), merged(others))
    for each in SHORT:
        assert holds(both, each) == (holds(some, each) and holds(others, each))


@given(st.lists(prefixes))
def test_what_is_outside_of_some_prefixes(some: list[Prefix]) -> None:
    empty = Prefix(2, 1)
    others = outside(some, but_for=lambda prefix: prefix == empty)
    for each in SHORT:
        if each.path >> 2 != empty.path:
            assert holds(others, each) != holds(some, each)
        elif holds(others, each):
            # It was not looked at more closely.
            assert not holds(some, each)
    assert outside([], but_for=lambda _: False) == [EVERYTHING]


def test_what_is_outside_of_many_single_keys_costs_no_more_than_the_bound() -> None:
    bits = MAX_BITS
    ids = (int.from_bytes(sha256(number)) for number in range(MAX_CONFIRMED))
    known = [Prefix(bits, each >> ID_BITS - bits) for each in ids]
    looked_at = 0

    def count(_: Prefix) -> bool:
        nonlocal looked_at
        looked_at += 1
        return False

    others = outside(known, but_for=count)
    assert looked_at <= 3 * module.MAX_OUTSIDE
    for number in range(5000, 5100):
        assert any(each.holds(sha256(number)) for each in others)


def test_how_many_nodes_there_are_is_seen_by_how_near_the_nearest_are() -> None:
    assert population(sha256(0), []) == 1
    for count in (30, 300, 3000):
        nodes = [sha256(number) for number in range(count)]
        guesses = sorted(
            population(own, closest(own, [each for each in nodes if each != own], 20))
            for own in nodes[:30]
        )
        assert count / 2 < guesses[15] < 2 * count
