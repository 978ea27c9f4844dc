"""The fair queue: turns, order, and who yields at the bound."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.fair_queue import FairQueue

PUTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=60)


def drained(queue: FairQueue[str, str]) -> list[str]:
    taken: list[str] = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


def test_each_has_its_turn_however_much_another_one_wants() -> None:
    queue: FairQueue[str, str] = FairQueue(100)
    for number in range(50):
        assert queue.put("greedy", f"g{number}") == []
    queue.put("modest", "m0")
    queue.put("modest", "m1")
    assert drained(queue)[:5] == ["g0", "m0", "g1", "m1", "g2"]


def test_at_the_bound_the_newest_of_the_greediest_goes() -> None:
    queue: FairQueue[str, str] = FairQueue(3)
    for number in range(3):
        queue.put("greedy", f"g{number}")
    assert queue.put("greedy", "g3") == ["g3"]
    assert queue.put("modest", "m0") == ["g2"]
    assert drained(queue) == ["g0", "m0", "g1"]


def test_size_is_what_counts() -> None:
    queue: FairQueue[str, str] = FairQueue(10)
    for number in range(4):
        queue.put("many small", f"s{number}")
    assert queue.put("one big", "b", 7) == ["b"]
    assert queue.put("one fitting", "f", 6) == []
    assert len(queue) == 5


@given(PUTS)
def test_nothing_is_lost_and_the_bound_holds(puts: list[tuple[str, int]]) -> None:
    queue: FairQueue[str, tuple[str, int, int]] = FairQueue(20)
    pushed_out: list[tuple[str, int, int]] = []
    for number, (owner, size) in enumerate(puts):
        pushed_out += queue.put(owner, (owner, number, size), size)
    taken: list[tuple[str, int, int]] = []
    while (item := queue.take()) is not None:
        taken.append(item)
    assert sum(size for _, _, size in taken) <= 20
    assert len(queue) == 0
    everything = {(owner, number, size) for number, (owner, size) in enumerate(puts)}
    assert Counter(taken + pushed_out) == Counter(everything)
    for owner in "abc":
        own = [number for name, number, _ in taken if name == owner]
        assert own == sorted(own)
