"""Iterative lookups over networks drawn at random: they find whom they should, and end."""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

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


def start(target: NodeId, *first: NodeId, **changes: Any) -> Lookup:
    """Begin a lookup in which every answer is expected within a second."""
    options: dict[str, Any] = {"own_id": OWN, "k": K, "alpha": ALPHA, "patience": lambda _: 1.0}
    return Lookup(target, known(*first), **options | changes)


def all_to_ask(lookup: Lookup, now: float) -> list[Candidate]:
    asked = []
    while (candidate := lookup.next(now)) is not None:
        asked.append(candidate)
    return asked


def drive(
    lookup: Lookup,
    rng: random.Random,
    answer: Callable[[Candidate], Known | None],
) -> list[Candidate]:
    """Run a lookup to its end, answers in any order, none of them late; returns whom it asked."""
    asked: list[Candidate] = []
    under_way: list[Candidate] = []
    while not lookup.finished:
        new = all_to_ask(lookup, 0)
        asked += new
        under_way += new
        assert 0 < len(under_way) <= K + ALPHA
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
def test_alpha_are_asked_at_once_at_first(seed: int, alpha: int) -> None:
    net = Net(seed, 40)
    target = node(net.rng)
    lookup = start(target, *net.ids[:20], alpha=alpha)
    first = [each.node_id for each in all_to_ask(lookup, 0)]
    assert first == closest(net.ids[:20], target, min(alpha, K))


def test_while_somebody_is_asked_it_is_not_finished() -> None:
    a, b = NodeId(b"\x11" * 32), NodeId(b"\x12" * 32)
    lookup = start(a, a, b)
    first, second = lookup.next(0), lookup.next(0)
    assert first is not None
    assert second is not None
    assert (first.node_id, second.node_id) == (a, b)
    assert lookup.next(0) is None
    assert not lookup.finished
    lookup.answered(first, [])
    assert not lookup.finished
    lookup.failed(second)
    assert lookup.finished
    assert lookup.closest() == [first]


def test_without_anybody_to_ask_it_is_finished_at_once() -> None:
    lookup = start(OWN)
    assert lookup.finished
    assert lookup.next(0) is None
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


def in_order(target: NodeId, count: int) -> list[NodeId]:
    """Make so many IDs, the closest to the target first."""
    return [NodeId(bytes([target[0] ^ each, *target[1:]])) for each in range(1, count + 1)]


def test_once_the_alpha_closest_have_answered_the_rest_of_the_k_are_asked_at_once() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, 10)
    lookup = start(target, *ids, k=8, alpha=2)
    first, second = all_to_ask(lookup, 0)
    lookup.answered(first, [])
    [third] = all_to_ask(lookup, 0)
    lookup.answered(second, [])
    rest = all_to_ask(lookup, 0)
    assert [each.node_id for each in [first, second, third, *rest]] == ids[:8]
    closer = NodeId(bytes(31) + b"\1")
    lookup.answered(third, known(closer))
    lookup.answered(rest[0], [])
    assert [each.node_id for each in all_to_ask(lookup, 0)] == []
    lookup.answered(rest[1], [])
    lookup.answered(rest[2], [])
    lookup.answered(rest[3], [])
    assert [each.node_id for each in all_to_ask(lookup, 0)] == [closer]


def test_who_is_late_is_replaced_but_still_counts() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, 5)
    lookup = start(target, *ids, k=3, alpha=1)
    [slow] = all_to_ask(lookup, 10)
    assert lookup.late_at == 11
    assert all_to_ask(lookup, 10.9) == []
    # One in its place, and one more: the next may be as slow.
    second, third = all_to_ask(lookup, 11)
    assert [slow.node_id, second.node_id, third.node_id] == ids[:3]
    closer = NodeId(bytes(31) + b"\1")
    lookup.answered(slow, known(closer))
    # The others are more already than `alpha` allows.
    assert all_to_ask(lookup, 11.5) == []
    lookup.answered(second, [])
    assert all_to_ask(lookup, 11.5) == []
    lookup.answered(third, [])
    assert [each.node_id for each in all_to_ask(lookup, 11.5)] == [closer]


def test_late_ones_hold_up_the_end_no_longer_once_k_others_have_answered() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, 4)
    lookup = start(target, *ids, k=2, alpha=2)
    late, prompt = all_to_ask(lookup, 0)
    lookup.answered(prompt, [])
    assert not lookup.finished
    [third] = all_to_ask(lookup, 1)
    assert third.node_id == ids[2]
    assert not lookup.finished
    lookup.answered(third, [])
    assert all_to_ask(lookup, 1.1) == []
    assert lookup.finished
    assert [each.node_id for each in lookup.closest()] == [ids[1], ids[2]]
    assert lookup.silent() == [late]


def test_where_fewer_than_k_have_answered_the_end_waits_for_late_ones() -> None:
    target = NodeId(bytes(32))
    late_too, late, prompt = (NodeId(bytes([each]) * 32) for each in (2, 3, 4))
    lookup = start(target, late_too, late, prompt)
    asked = all_to_ask(lookup, 0)
    lookup.answered(asked[2], [])
    assert all_to_ask(lookup, 5) == []
    assert not lookup.finished
    lookup.failed(asked[0])
    assert not lookup.finished
    lookup.answered(asked[1], [])
    assert lookup.finished
    assert lookup.silent() == [asked[0]]
    assert lookup.closest() == [asked[1], asked[2]]


def test_who_is_gone_is_not_silent() -> None:
    target = NodeId(bytes(32))
    lookup = start(target, *in_order(target, 3))
    gone, failing, living = all_to_ask(lookup, 0)
    lookup.failed(gone, gone=True)
    lookup.failed(failing)
    lookup.answered(living, [])
    assert lookup.finished
    assert lookup.silent() == [failing]
    assert lookup.closest() == [living]


def test_only_failures_among_the_k_closest_are_silent() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, K + 2)
    lookup = start(target, *ids)
    failing = {ids[1], ids[K + 1]}
    drive(lookup, random.Random(1), lambda each: None if each.node_id in failing else [])
    assert [each.node_id for each in lookup.silent()] == [ids[1]]


def test_all_being_silent_ever_more_are_asked_at_once_up_to_a_bound() -> None:
    target = NodeId(bytes(32))
    lookup = start(target, *in_order(target, 200), k=20)
    asked = [len(all_to_ask(lookup, now)) for now in range(50)]
    assert asked[:3] == [3, 6, 12]
    assert sum(asked) == 20 + 20 + ALPHA
    assert not lookup.finished


def test_each_failure_makes_room_for_one_more_at_once_up_to_a_bound() -> None:
    """Or whoever names many that do not exist would be waited for, one of them after another."""
    target = NodeId(bytes(32))
    lookup = start(target, *in_order(target, 200), k=10)
    under_way, most = all_to_ask(lookup, 0), [ALPHA]
    for _ in range(30):
        lookup.failed(under_way.pop(0))
        under_way += all_to_ask(lookup, 0)
        most.append(len(under_way))
    assert most[:4] == [ALPHA, ALPHA + 1, ALPHA + 2, ALPHA + 3]
    assert max(most) == 10


def test_whoever_is_near_is_asked_at_once_and_some_to_spare() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, 12)
    far = NodeId(b"\xff" * 32)
    lookup = start(target, far, k=8, alpha=1, near=10 << 248, spare=3)
    [first] = all_to_ask(lookup, 0)
    lookup.answered(first, known(*ids[1:9]))
    assert [each.node_id for each in all_to_ask(lookup, 0)] == ids[1:9]
    lookup = start(target, *ids, k=4, alpha=1, near=6 << 248, spare=4)
    asked = all_to_ask(lookup, 0)
    # Not more than are near, and no more than k and the spare ones.
    assert [each.node_id for each in asked] == ids[:6]
    for each in asked[:4]:
        lookup.answered(each, [])
    assert lookup.finished


@given(seeds, st.integers(1, 8), st.floats(0, 0.9))
@settings(max_examples=40)
def test_paths_share_no_node_and_find_the_closest(seed: int, paths: int, share: float) -> None:
    net = Net(seed, 60)
    target = node(net.rng)
    dead = set(net.rng.sample(net.ids, int(60 * share)))
    lookup = start(target, *closest(net.ids, target, 30)[-10:], paths=paths)
    told: dict[NodeId, set[int]] = defaultdict(set)

    def answer(candidate: Candidate) -> Known | None:
        if candidate.depth > 1:
            assert candidate.path in told[candidate.node_id]
        if candidate.node_id in dead:
            return None
        named = net.answer(candidate.node_id, target)
        for each, _ in named:
            told[each].add(candidate.path)
        return named

    under_way: list[Candidate] = []
    asked: list[NodeId] = []
    while not lookup.finished:
        under_way += (new := all_to_ask(lookup, 0))
        asked += [each.node_id for each in new]
        candidate = under_way.pop(net.rng.randrange(len(under_way)))
        nodes = answer(candidate)
        if nodes is None:
            lookup.failed(candidate)
        else:
            lookup.answered(candidate, nodes)
    assert len(asked) == len(set(asked))
    answered = [each for each in asked if each not in dead]
    assert [each.node_id for each in lookup.closest()] == closest(answered, target)
    if not dead:
        assert [each.node_id for each in lookup.closest()] == closest(net.ids, target)


def test_each_path_may_ask_somebody() -> None:
    target = NodeId(bytes(32))
    ids = in_order(target, 12)
    lookup = start(target, *ids, paths=4)
    asked = all_to_ask(lookup, 0)
    assert [(each.path, each.node_id) for each in asked] == list(enumerate(ids[:4]))


def test_whose_question_is_held_up_is_not_late() -> None:
    target = NodeId(bytes(32))
    lookup = start(target, *in_order(target, 5), k=3, alpha=1)
    [first] = all_to_ask(lookup, 10)
    lookup.held_up(first)
    assert lookup.late_at == math.inf
    assert all_to_ask(lookup, 20) == []
    lookup.sent(first, 20)
    assert (first.sent_at, lookup.late_at) == (20, 21)
    assert all_to_ask(lookup, 20.9) == []
    assert all_to_ask(lookup, 21)
