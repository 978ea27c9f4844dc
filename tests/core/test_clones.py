"""Two processes of one identity are told apart from one that restarts."""

from p2pd.core.clones import MAX_INSTANCES, Clones
from tests.core.evidence import node


def test_one_that_restarts_again_and_again_is_no_clone() -> None:
    clones = Clones()
    for number in range(100):
        assert not clones.was_replaced(node(1), b"%d" % number)
        clones.replaced(node(1), b"%d" % number)


def test_one_that_comes_back_is() -> None:
    clones = Clones()
    clones.replaced(node(1), b"first")
    assert clones.was_replaced(node(1), b"first")
    assert not clones.was_replaced(node(2), b"first")
    for number in range(MAX_INSTANCES):
        clones.replaced(node(1), b"%d" % number)
    assert not clones.was_replaced(node(1), b"first")


def test_that_two_run_is_news_once() -> None:
    clones = Clones()
    clones.replaced(node(1), b"first")
    assert clones.is_news(node(1))
    assert not clones.is_news(node(1))
    assert clones.was_replaced(node(1), b"first")
    assert clones.is_news(node(2))
