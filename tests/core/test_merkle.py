"""Two replicas find exactly what they hold differently, cheaply, and whatever the other says."""

import hashlib
import random
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, islice

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.core import merkle
from p2pd.core.merkle import (
    EMPTY,
    EVERYTHING,
    MAX_FOUND,
    MAX_LEAF,
    MAX_QUESTIONS,
    Comparison,
    Prefix,
    Tree,
    compare,
)
from p2pd.errors import BadMessage
from p2pd.ids import ID_BITS
from p2pd.wire import codec
from p2pd.wire.messages import (
    ENTRY_BYTES,
    FINGERPRINT_BYTES,
    MAX_LISTED,
    MAX_SUBTREES,
    STEP,
    Compare,
    Compared,
    Difference,
    Fetch,
    Fetched,
    Give,
    Given,
    Signed,
    Subtree,
)

Records = Mapping[bytes, Iterable[bytes]]
Answerer = Callable[[Compare], Compared]


def sha256(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8)).digest()


def flipped(key: bytes, *bits: int) -> bytes:
    for bit in bits:
        key = (int.from_bytes(key) ^ 1 << bit).to_bytes(len(key))
    return key


# Some as hashes are, some that have all but a few bits in common, as an attacker chooses them.
UNIVERSE = [
    *map(sha256, range(150)),
    *(flipped(sha256(0), bit) for bit in range(0, ID_BITS, 5)),
    *(flipped(sha256(1), *bits) for bits in combinations(range(9), 2)),
]
VERSIONS = [(sha256(1),), (sha256(2),), (sha256(1), sha256(2))]
keys = st.sampled_from(UNIVERSE)
versions = st.sampled_from(VERSIONS)


@st.composite
def records(draw: st.DrawFn) -> dict[bytes, tuple[bytes, ...]]:
    """Draw from no record to nearly all: lists that hypothesis draws one by one stay short."""
    rng = random.Random(draw(st.integers(0, 1000)))
    chosen = rng.sample(UNIVERSE, draw(st.integers(0, 200)))
    return {key: rng.choice(VERSIONS) for key in chosen}


seeds = st.integers(0, 1000)
prefixes = st.builds(
    lambda key, bits: Prefix(bits, int.from_bytes(key) >> ID_BITS - bits),
    keys,
    st.integers(0, ID_BITS),
)


@attrs.define
class Bill:
    """What a comparison cost."""

    questions: int = 0
    sent: int = 0
    received: int = 0


def carry_out(comparison: Comparison, answerer: Answerer) -> Bill:
    bill = Bill()
    while (question := comparison.next()) is not None:
        sent = codec.encode(question)
        received = codec.encode(answerer(codec.decode(Compare, sent)))
        comparison.answered(codec.decode(Compared, received))
        bill.questions += 1
        bill.sent += len(sent)
        bill.received += len(received)
    return bill


def compared(here: Tree, there: Tree, *below: Prefix, seed: int = 0) -> Comparison:
    comparison = Comparison(here, below or [EVERYTHING], random.Random(seed))
    carry_out(comparison, lambda question: compare(there, question))
    return comparison


def found(comparison: Comparison) -> list[list[bytes]]:
    parts = [comparison.only_here, comparison.only_there, comparison.different]
    return [sorted(part) for part in parts]


def differing(here: Records, there: Records, holds: Callable[[bytes], bool]) -> list[list[bytes]]:
    return [
        sorted(key for key in here if key not in there and holds(key)),
        sorted(key for key in there if key not in here and holds(key)),
        sorted(
            key for key in here if key in there and set(here[key]) != set(there[key]) and holds(key)
        ),
    ]


@given(records(), records(), seeds)
def test_a_comparison_finds_what_differs_and_nothing_else(
    here: Records, there: Records, seed: int
) -> None:
    comparison = compared(Tree(here), Tree(there), seed=seed)
    assert comparison.complete
    assert found(comparison) == differing(here, there, lambda _: True)


@settings(max_examples=40)
@given(records(), st.dictionaries(keys, versions, max_size=10), st.sets(keys), seeds)
def test_a_few_differences_are_found_among_many(
    here: Records, changed: Records, lost: set[bytes], seed: int
) -> None:
    there = {key: each for key, each in {**here, **changed}.items() if key not in lost}
    assert found(compared(Tree(here), Tree(there), seed=seed)) == differing(
        here, there, lambda _: True
    )


@settings(max_examples=40)
@given(records(), records(), prefixes)
def test_only_what_is_below_the_prefixes_is_compared(
    here: Records, there: Records, prefix: Prefix
) -> None:
    comparison = compared(Tree(here), Tree(there), prefix)
    assert found(comparison) == differing(here, there, prefix.holds)


@settings(max_examples=60)
@given(records(), records(), records(), prefixes, seeds)
def test_a_tree_that_was_changed_is_the_same_as_a_new_one(
    first: Records, removed: Records, written: Records, prefix: Prefix, seed: int
) -> None:
    rng = random.Random(seed)
    steps: list[tuple[bytes, Iterable[bytes] | None]] = [
        *written.items(),
        *((key, None) for key in removed),
    ]
    rng.shuffle(steps)
    tree = Tree(first)
    kept = dict(first)
    for key, names in steps:
        if names is None:
            tree.remove(key)
            kept.pop(key, None)
        else:
            tree.put(key, names)
            kept[key] = names
        if rng.random() < 0.1:
            tree.fingerprint()
    shuffled = rng.sample(list(kept.items()), len(kept))
    new = Tree(dict(shuffled))
    assert len(tree) == len(new) == len(kept)
    assert tree.fingerprint() == new.fingerprint()
    assert tree.fingerprint(prefix) == new.fingerprint(prefix)
    assert [key for key, _ in tree.entries()] == sorted(kept)
    digests = dict(tree.entries())
    for key in [*first, *written, *removed]:
        assert tree.digest(key) == digests.get(key)
        assert (key in tree) == (key in kept)
    assert [key for key, _ in tree.entries(prefix)] == sorted(filter(prefix.holds, kept))
    below = Tree({key: names for key, names in kept.items() if prefix.holds(key)})
    assert tree.fingerprint(prefix) == below.fingerprint()


def test_fingerprints_depend_on_names_but_not_on_their_order() -> None:
    one, other = sha256(1), sha256(2)
    assert Tree({one: [one, other]}).fingerprint() == Tree({one: [other, one]}).fingerprint()
    assert Tree({one: [one, other]}).fingerprint() != Tree({one: [one]}).fingerprint()
    assert Tree({one: [one]}).fingerprint() != Tree({other: [one]}).fingerprint()
    assert Tree().fingerprint() == EMPTY


def test_records_that_cancel_out_in_an_exclusive_or_are_seen() -> None:
    # More vectors over GF(2) than they have bits: some of them sum up to nothing.
    chosen = [sha256(number) for number in range(8 * FINGERPRINT_BYTES + 1)]
    basis: dict[int, tuple[int, int]] = {}
    cancelling: list[bytes] = []
    for index, key in enumerate(chosen):
        digest = next(digest for _, digest in Tree({key: [key]}).entries())
        value, used = int.from_bytes(digest), 1 << index
        while value and (top := value.bit_length()) in basis:
            value, used = value ^ basis[top][0], used ^ basis[top][1]
        if not value:
            cancelling = [each for place, each in enumerate(chosen) if used >> place & 1]
            break
        basis[value.bit_length()] = value, used
    others = {sha256(number): [EMPTY] for number in range(1000, 1100)}
    tree = Tree({**others, **{key: [key] for key in cancelling}})
    assert cancelling
    assert found(compared(tree, Tree(others)))[0] == sorted(cancelling)


@pytest.fixture(scope="module")
def many() -> dict[bytes, list[bytes]]:
    return {sha256(number): [sha256(number)] for number in range(100_000)}


def test_ten_differences_among_a_hundred_thousand_cost_little(
    many: dict[bytes, list[bytes]],
) -> None:
    here, there = Tree(many), Tree(many)
    chosen = random.Random(7).sample(sorted(many), 10)
    for key in chosen[:4]:
        here.remove(key)
    for key in chosen[4:7]:
        there.remove(key)
    for key in chosen[7:]:
        there.put(key, [EMPTY])
    comparison = Comparison(here, [EVERYTHING], random.Random(1))
    bill = carry_out(comparison, lambda question: compare(there, question))
    print(bill)
    assert found(comparison) == [sorted(chosen[4:7]), sorted(chosen[:4]), sorted(chosen[7:])]
    assert bill.questions <= 5
    assert bill.sent + bill.received < 12_000

    for key in chosen:
        here.put(key, many[key])
        there.put(key, many[key])
    bill = carry_out(
        Comparison(here, [EVERYTHING], random.Random(1)),
        lambda question: compare(there, question),
    )
    assert bill.questions == 1
    assert bill.sent + bill.received < 50


def test_two_replicas_that_differ_in_ten_of_a_hundred_thousand_agree_for_little(
    many: dict[bytes, list[bytes]],
) -> None:
    here, there = Tree(many), Tree(many)
    chosen = random.Random(8).sample(sorted(many), 10)
    for key in chosen[:5]:
        here.remove(key)
    for key in chosen[5:]:
        there.remove(key)
    bill = Bill()
    rng = random.Random(8)
    # Until a comparison has nothing left to do.
    while True:
        comparison = Comparison(here, [EVERYTHING], rng)
        asked = carry_out(comparison, lambda question: compare(there, question))
        bill.sent, bill.received = bill.sent + asked.sent, bill.received + asked.received
        if not comparison.only_here and not comparison.only_there:
            break
        versions = tuple(Signed(rng.randbytes(400), bytes(64)) for _ in range(5))
        bill.sent += len(codec.encode(Fetch(tuple(comparison.only_there))))
        bill.received += len(codec.encode(Fetched(5, versions)))
        bill.sent += len(codec.encode(Give(versions)))
        bill.received += len(codec.encode(Given(5)))
        for tree, keys in ((here, comparison.only_there), (there, comparison.only_here)):
            for key in keys:
                tree.put(key, many[key])
    print(bill)
    assert here.fingerprint() == there.fingerprint()
    assert bill.sent + bill.received < 20_000


def test_one_who_has_nothing_learns_of_all_in_messages_that_are_full(
    many: dict[bytes, list[bytes]],
) -> None:
    here, there = Tree(), Tree(many)
    rounds = 0
    questions = 0
    while len(here) < 3 * MAX_FOUND:
        comparison = Comparison(here, [EVERYTHING], random.Random(rounds))
        questions += carry_out(comparison, lambda question: compare(there, question)).questions
        assert len(comparison.only_there) == MAX_FOUND
        assert not comparison.complete
        for key in comparison.only_there:
            here.put(key, many[key])
        rounds += 1
    print(questions, rounds)
    assert questions <= 10 * rounds


@settings(max_examples=40)
@given(records(), records(), st.integers(1, 30), st.integers(1, 3), st.integers(1, 40))
def test_what_was_beyond_a_bound_is_found_by_later_comparisons(
    here: dict[bytes, tuple[bytes, ...]],
    there: dict[bytes, tuple[bytes, ...]],
    most_found: int,
    most_subtrees: int,
    most_pending: int,
) -> None:
    ours, theirs = Tree(here), Tree(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "MAX_FOUND", most_found)
        patch.setattr(merkle, "MAX_SUBTREES", most_subtrees)
        patch.setattr(merkle, "MAX_PENDING", most_pending)
        for seed in range(1000):
            comparison = compared(ours, theirs, seed=seed)
            assert sum(map(len, found(comparison))) <= most_found
            for key in comparison.only_here:
                theirs.put(key, here[key])
            for key in [*comparison.only_there, *comparison.different]:
                ours.put(key, there[key])
            if comparison.complete:
                break
            assert any(found(comparison))
    assert ours.fingerprint() == theirs.fingerprint()
    assert len(ours) == len({**here, **there})


@settings(max_examples=40)
@given(records(), records(), st.lists(st.tuples(keys, versions), max_size=30))
def test_trees_may_change_while_they_are_compared(
    here: Records, there: Records, written: list[tuple[bytes, tuple[bytes, ...]]]
) -> None:
    ours, theirs = Tree(here), Tree(there)
    writes = iter(written)

    def answer(question: Compare) -> Compared:
        told = compare(theirs, question)
        for tree in (ours, theirs):
            for key, names in [each for _, each in zip(range(3), writes, strict=False)]:
                tree.put(key, names)
                theirs.remove(key[::-1])
        return told

    comparison = Comparison(ours, [EVERYTHING], random.Random(0))
    carry_out(comparison, answer)
    untouched = set(here) & set(there) - {key for key, _ in written}
    same = {key for key in untouched if set(here[key]) == set(there[key])}
    assert not same.intersection(comparison.only_here, comparison.only_there, comparison.different)


def always_deeper(rng: random.Random) -> Answerer:
    def answer(question: Compare) -> Compared:
        return Compared(
            tuple(
                Difference(index, rng.randbytes(FINGERPRINT_BYTES << STEP), b"")
                if each.bits + STEP <= ID_BITS
                else Difference(index, b"", b"")
                for index, each in enumerate(question.subtrees)
            )
        )

    return answer


def always_more_keys(rng: random.Random) -> Answerer:
    def answer(question: Compare) -> Compared:
        told = []
        for index, each in enumerate(question.subtrees):
            free = max(0, ID_BITS - 8 * len(each.path))
            made = {each.path + rng.randbytes(free // 8) for _ in range(MAX_LISTED)}
            fitting = [
                key for key in sorted(made) if not each.bits % 8 or key.startswith(each.path)
            ]
            told.append(Difference(index, b"", b"".join(key + EMPTY for key in fitting)))
        return Compared(tuple(told))

    return answer


def has_nothing(_: random.Random) -> Answerer:
    return lambda question: Compared(
        tuple(Difference(index, b"", b"") for index, _ in enumerate(question.subtrees))
    )


def says_nothing(_: random.Random) -> Answerer:
    return lambda _: Compared(())


@pytest.mark.parametrize("liar", [always_deeper, always_more_keys, has_nothing, says_nothing])
@pytest.mark.parametrize("own", [0, 5_000])
def test_a_liar_costs_no_more_than_the_bounds(
    liar: Callable[[random.Random], Answerer], own: int, many: dict[bytes, list[bytes]]
) -> None:
    tree = Tree(dict(islice(many.items(), own)))
    below = EVERYTHING.longer(7)
    comparison = Comparison(tree, below, random.Random(3))
    bill = carry_out(comparison, liar(random.Random(5)))
    assert bill.questions <= MAX_QUESTIONS
    assert sum(map(len, found(comparison))) <= MAX_FOUND
    assert comparison.complete is (liar is says_nothing or (own == 0 and liar is has_nothing))


def test_a_liar_can_not_fill_the_memory() -> None:
    comparison = Comparison(Tree(), EVERYTHING.longer(6), random.Random(3))
    answerer = always_deeper(random.Random(5))
    tracemalloc.start()
    try:
        while (question := comparison.next()) is not None:
            comparison.answered(answerer(question))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(peak)
    assert peak < 2_000_000


def test_what_can_not_be_repaired_does_not_hide_the_rest() -> None:
    here, there = Tree(), Tree({sha256(number): [EMPTY] for number in range(300)})
    seen: set[bytes] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "MAX_FOUND", 30)
        for seed in range(100):
            seen.update(compared(here, there, seed=seed).only_there)
    assert len(seen) == 300


ANY_KEY = sha256(5)
CHILDREN = bytes(FINGERPRINT_BYTES << STEP)


@pytest.mark.parametrize(
    "differences",
    [
        [Difference(1, b"", b"")],
        [Difference(0, b"", b""), Difference(0, b"", b"")],
        [Difference(0, CHILDREN[:-1], b"")],
        [Difference(0, CHILDREN, ANY_KEY + EMPTY)],
        [Difference(0, b"", ANY_KEY)],
        [Difference(0, b"", (ANY_KEY + EMPTY) * 2)],
        [Difference(0, b"", flipped(ANY_KEY, ID_BITS - 1) + EMPTY)],
    ],
)
def test_an_answer_to_another_question_is_refused(differences: list[Difference]) -> None:
    top = Prefix(1, ANY_KEY[0] >> 7)
    comparison = Comparison(Tree({ANY_KEY: [ANY_KEY]}), [top], random.Random(0))
    with pytest.raises(BadMessage):
        carry_out(comparison, lambda _: Compared(tuple(differences)))


def test_a_comparison_whose_last_question_has_no_answer_is_not_complete() -> None:
    comparison = Comparison(Tree(), [EVERYTHING], random.Random(0))
    assert comparison.next() is not None
    assert not comparison.complete
    comparison.answered(Compared(()))
    assert comparison.complete


def test_there_are_no_children_of_a_key() -> None:
    below = Prefix(ID_BITS, int.from_bytes(ANY_KEY))
    comparison = Comparison(Tree(), [below], random.Random(0))
    with pytest.raises(BadMessage):
        carry_out(comparison, lambda _: Compared((Difference(0, CHILDREN, b""),)))


answers = st.builds(
    Difference,
    st.integers(0, 20),
    st.just(b"")
    | st.binary(max_size=20)
    | seeds.map(lambda seed: random.Random(seed).randbytes(256)),
    st.lists(keys, max_size=3).map(lambda made: b"".join(key + EMPTY for key in made))
    | st.binary(max_size=100),
)


@settings(max_examples=40)
@given(records(), st.lists(st.lists(answers, max_size=4), max_size=8))
def test_any_answers_end_in_a_result_or_a_refusal(
    here: Records, told: list[list[Difference]]
) -> None:
    comparison = Comparison(Tree(here), [EVERYTHING], random.Random(0))
    for each in told:
        if comparison.next() is None:
            break
        try:
            comparison.answered(Compared(tuple(each)))
        except BadMessage:
            break


@settings(max_examples=40)
@given(
    records(), st.binary(max_size=32), st.integers(0, ID_BITS), st.binary(min_size=16, max_size=16)
)
def test_any_question_is_answered_within_the_bounds_or_refused(
    here: Records, path: bytes, bits: int, fingerprint: bytes
) -> None:
    tree = Tree(here)
    try:
        answer = compare(tree, Compare((Subtree(path, bits, fingerprint),) * 2))
    except BadMessage:
        whole = int.from_bytes(path.ljust(32, b"\0"))
        assert len(path) != -(-bits // 8) or whole & (1 << ID_BITS - bits) - 1
        return
    assert codec.decode(Compared, codec.encode(answer)) == answer


@pytest.mark.parametrize(
    ("path", "bits"), [(b"", 1), (b"\0", 0), (b"\1", 0), (b"\x41", 7), (b"\0\0", 8), (b"\x10", 3)]
)
def test_a_path_that_does_not_fit_its_bits_is_refused(path: bytes, bits: int) -> None:
    with pytest.raises(BadMessage):
        compare(Tree(), Compare((Subtree(path, bits, EMPTY),)))


def test_the_greatest_answer_is_a_legal_message(many: dict[bytes, list[bytes]]) -> None:
    tops = [Subtree(bytes([top]), 8, EMPTY) for top in range(MAX_SUBTREES)]
    few = Tree(dict(islice(many.items(), MAX_LISTED * 256)))
    encoded = codec.encode(compare(few, Compare(tuple(tops))))
    answer = codec.decode(Compared, encoded)
    listed = [len(each.entries) // ENTRY_BYTES for each in answer.differences]
    print(len(encoded), max(listed))
    assert MAX_LEAF < max(listed) <= MAX_LISTED
    assert any(each.children for each in answer.differences)
