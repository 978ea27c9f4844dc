"""A link of the tree is exchanged for a lazy one where many publications say so."""

from p2pd.core.shortcuts import MAX_COMPARED, MIN_SAMPLES, WINDOW, Shortcuts
from p2pd.ids import NodeId


def peer(number: int) -> NodeId:
    return NodeId(number.to_bytes(32))


def message_id(number: int) -> bytes:
    return number.to_bytes(16)


TREE, LAZY = peer(1), peer(2)


def exchanges(shortcuts: Shortcuts, count: int, *, lazy_hops: int, first: int = 0) -> list[bool]:
    """Let publications come over the tree after five hops, and be announced after others."""
    said = []
    for number in range(first, first + count):
        shortcuts.came(message_id(number), TREE, 5)
        said.append(shortcuts.announced(message_id(number), LAZY, lazy_hops) == TREE)
    return said


def test_a_shorter_way_is_taken_after_enough_publications() -> None:
    said = exchanges(Shortcuts(), MIN_SAMPLES, lazy_hops=2)
    assert said == [False] * (MIN_SAMPLES - 1) + [True]


def test_an_equal_one_is_taken_later_and_a_longer_one_never() -> None:
    assert exchanges(Shortcuts(), WINDOW, lazy_hops=4) == [False] * (WINDOW - 1) + [True]
    assert not any(exchanges(Shortcuts(), 10 * WINDOW, lazy_hops=5))


def test_some_longer_ways_in_between_do_not_make_it_begin_anew() -> None:
    shortcuts = Shortcuts()
    exchanges(shortcuts, 1, lazy_hops=5)
    assert exchanges(shortcuts, MIN_SAMPLES - 1, lazy_hops=2, first=1)[-1]


def test_what_is_announced_again_and_again_counts_once() -> None:
    shortcuts = Shortcuts()
    shortcuts.came(message_id(1), TREE, 5)
    for _ in range(2 * WINDOW):
        assert shortcuts.announced(message_id(1), LAZY, 1) is None


def test_what_came_before_the_tree_changed_says_nothing_of_it() -> None:
    shortcuts = Shortcuts()
    for number in range(WINDOW):
        shortcuts.came(message_id(number), TREE, 5)
    shortcuts.clear()
    for number in range(WINDOW):
        assert shortcuts.announced(message_id(number), LAZY, 1) is None


def test_of_one_publication_so_many_peers_are_compared() -> None:
    shortcuts = Shortcuts()
    for number in range(WINDOW):
        shortcuts.came(message_id(number), TREE, 5)
        for other in range(MAX_COMPARED):
            shortcuts.announced(message_id(number), peer(100 + other), 9)
        assert shortcuts.announced(message_id(number), LAZY, 1) is None
