"""Iterative lookups over networks drawn at random: they find whom they should, and end."""

import random
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.core.lookup import MAX_CANDIDATES, Candidate, Lookup
from p2pd.core.routing import RoutingTable
from p2pd.ids import NodeId, distance
from p2pd.wire.messages import Signed

K = 4
ALPHA = 3
OWN = NodeId(b"\x01" * 32)
NOTHING_SAID = Signed(b"record", bytes(64))

Known = list[tuple[NodeId, Signed]]


def known(*ids: NodeId) -> Known:
    return [(each, NOTHING_SAID) for each in ids]


def node(rng: random.Random) -> NodeId:
    return NodeId(rng.randbytes(32))


def closest(ids: list[NodeId], target: NodeId, count: int = K) -> list[NodeId]:
    return sorted(ids, key=lambda each: distance(each, target))[:count]


class Net:
    """Nodes whose routing tables are as Kademlia makes them: all have met all."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = random.Random(seed)
        self.ids = [node(self.rng) for _ in range(size)]
        self.tables = {each: RoutingTable(each, K) for each in self.ids}
        for table in self.tables.values():
            for each in self.ids:
                table.heard_from(each, NOTHING_SAID)

    def answer(self, node_id: NodeId, target: NodeId) -> Known:
        return [(c.node_id, c.signed) for c in self.tables[node_id].closest(target, K)]


def start(target: NodeId, *first: NodeId, alpha: int = ALPHA) -> Lookup:
    return Lookup(target, known(*first), own_id=OWN, k=K, alpha=alpha)


def drive(
    lookup: Lookup,
    rng: random.Random,
    answer: Callable[[Candidate], Known | None],
    alpha: int = ALPHA,
) -> list[Candidate]:
    """Run a lookup to its end, answers in any order; returns whom it asked."""
    asked: list[Candidate] = []
    under_way: list[Candidate] = []
    while not lookup.finished:
        while (candidate := lookup.next()) is not None:
            asked.append(candidate)
            under_way.append(candidate)
        assert 0 < len(under_way) <= alpha
        candidate = under_way.pop(rng.randrange(len(under_way)))
        nodes = answer(candidate)
        if nodes is None:
            lookup.failed(candidate)
        else:
            lookup.answered(candidate, nodes)
    ids = [each.node_id for each in asked]
    assert len(ids) == len(set(ids))
    assert OWN not in ids
    return asked


seeds = st.integers(0, 1 << 32)


@given(seeds, st.integers(1, 80))
@settings(max_examples=40)
def test_it_finds_the_closest_of_all(seed: int, size: int) -> None:
    net = Net(seed, size)
    target = node(net.rng)
    lookup = start(target, net.rng.choice(net.ids))
    drive(lookup, net.rng, lambda candidate: net.answer(candidate.node_id, target))
    assert [each.node_id for each in lookup.closest()] == closest(net.ids, target)


@given(seeds, st.integers(10, 60), st.floats(0, 0.9))
@settings(max_examples=40)
def test_it_ends_with_those_that_answer_when_many_are_dead(
    seed: int, size: int, share: float
) -> None:
    net = Net(seed, size)
    target = node(net.rng)
    dead = set(net.rng.sample(net.ids, int(size * share)))
    lookup = start(target, *net.rng.sample(net.ids, K))
    asked = drive(
        lookup,
        net.rng,
        lambda candidate: (
            None if candidate.node_id in dead else net.answer(candidate.node_id, target)
        ),
    )
    alive = [each.node_id for each in asked if each.node_id not in dead]
    assert [each.node_id for each in lookup.closest()] == closest(alive, target)


@given(seeds, st.integers(1, 8))
@settings(max_examples=30)
def test_never_more_than_alpha_are_asked_at_once(seed: int, alpha: int) -> None:
    net = Net(seed, 40)
    target = node(net.rng)
    lookup = start(target, *net.ids[:20], alpha=alpha)
    first = []
    while (candidate := lookup.next()) is not None:
        first.append(candidate.node_id)
    assert first == closest(net.ids[:20], target, min(alpha, K))


def test_while_somebody_is_asked_it_is_not_finished() -> None:
    a, b = NodeId(b"\x11" * 32), NodeId(b"\x12" * 32)
    lookup = start(a, a, b)
    first, second = lookup.next(), lookup.next()
    assert first is not None
    assert second is not None
    assert (first.node_id, second.node_id) == (a, b)
    assert lookup.next() is None
    assert not lookup.finished
    lookup.answered(first, [])
    assert not lookup.finished
    lookup.failed(second)
    assert lookup.finished
    assert lookup.closest() == [first]


def test_without_anybody_to_ask_it_is_finished_at_once() -> None:
    lookup = start(OWN)
    assert lookup.finished
    assert lookup.next() is None
    assert lookup.closest() == []


def test_when_nobody_answers_it_ends_with_nothing() -> None:
    rng = random.Random(1)
    lookup = start(OWN, *[node(rng) for _ in range(30)])
    asked = drive(lookup, rng, lambda _: None)
    assert len(asked) == 30
    assert lookup.closest() == []


def test_a_failure_lets_the_next_closest_in() -> None:
    rng = random.Random(2)
    ids = [node(rng) for _ in range(K + 2)]
    target = node(rng)
    in_order = closest(ids, target, K + 2)
    lookup = start(target, *ids)
    drive(lookup, rng, lambda each: None if each.node_id == in_order[0] else [])
    assert [each.node_id for each in lookup.closest()] == in_order[1 : K + 1]


def test_only_k_nodes_of_an_answer_count() -> None:
    rng = random.Random(3)
    target = node(rng)
    named = [node(rng) for _ in range(3 * K)]
    teller = NodeId(bytes(x ^ 0xFF for x in target))
    lookup = start(target, teller)
    asked = drive(lookup, rng, lambda each: known(*named) if each.node_id == teller else [])
    assert {each.node_id for each in asked} == {teller, *named[:K]}


def test_depth_counts_the_answers_that_led_there() -> None:
    chain = [NodeId(bytes([first]) + bytes(31)) for first in (0x80, 0x40, 0x20, 0x10)]
    followers = dict(pairwise(chain))
    lookup = start(NodeId(bytes(32)), chain[0])
    asked = drive(
        lookup,
        random.Random(4),
        lambda each: known(followers[each.node_id]) if each.node_id in followers else [],
    )
    assert [(each.node_id, each.depth) for each in asked] == [
        (each, depth) for depth, each in enumerate(chain, 1)
    ]


def test_liars_without_end_are_cut_off() -> None:
    """Each answer names nodes that are closer still: the lookup ends all the same."""
    rng = random.Random(5)
    counter = iter(range((1 << 200) - 1, 0, -1))
    lookup = start(NodeId(bytes(32)), node(rng))
    asked = drive(
        lookup,
        rng,
        lambda _: known(*[NodeId(next(counter).to_bytes(32, "big")) for _ in range(K)]),
    )
    assert len(asked) <= MAX_CANDIDATES


def test_oneself_is_never_asked() -> None:
    lookup = start(OWN, OWN)
    assert lookup.finished
    other = NodeId(b"\x11" * 32)
    asked = drive(start(OWN, other), random.Random(6), lambda _: known(OWN, other))
    assert [each.node_id for each in asked] == [other]
