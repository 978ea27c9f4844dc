"""Two connections between two nodes: both ends keep the same one, whatever they see first."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.duplicates import Link, new_one_stays
from p2pd.ids import NodeId

ids = st.binary(min_size=32, max_size=32).map(NodeId)
# Two nodes, and connections between them as (who dialled, the dialler's count).
pairs = st.tuples(ids, ids).filter(lambda pair: pair[0] != pair[1])
dials = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 9)), min_size=2, max_size=4, unique=True
)


def kept(links: list[Link], own: NodeId, peer: NodeId) -> Link:
    """Let an end decide between its connections as they appear to it, one after the other."""
    old, *later = links
    for new in later:
        old = new if new_one_stays(new, old, own, peer) else old
    return old


@given(pairs, dials)
def test_both_ends_keep_the_same_one_in_every_order(
    pair: tuple[NodeId, NodeId], dialled: list[tuple[int, int]]
) -> None:
    ends = []
    for own, peer in (pair, pair[::-1]):
        links = [Link(pair[who], number, bytes(16)) for who, number in dialled]
        survivors = {
            (link.dialler, link.dial_number)
            for order in permutations(links)
            for link in [kept(list(order), own, peer)]
        }
        assert len(survivors) == 1
        ends.append(survivors)
    assert ends[0] == ends[1]


@given(pairs, st.integers(0, 9), st.integers(0, 9))
def test_of_two_dials_by_one_node_the_later_stays(
    pair: tuple[NodeId, NodeId], first: int, second: int
) -> None:
    for dialler in pair:
        stays = new_one_stays(
            Link(dialler, second, b"i" * 16), Link(dialler, first, b"i" * 16), *pair
        )
        assert stays is (second > first)


@given(pairs)
def test_where_each_dialled_the_other_the_smaller_id_decides(pair: tuple[NodeId, NodeId]) -> None:
    smaller, greater = sorted(pair)
    for own, peer in (pair, pair[::-1]):
        its, others = Link(smaller, 0, b"i" * 16), Link(greater, 9, b"i" * 16)
        assert new_one_stays(its, others, own, peer)
        assert not new_one_stays(others, its, own, peer)


@given(pairs, st.sampled_from([0, 1]), st.sampled_from([0, 1]), st.integers(0, 9))
def test_a_peer_that_restarted_gets_in_whatever_the_old_connection_was(
    pair: tuple[NodeId, NodeId], new_by: int, old_by: int, number: int
) -> None:
    new, old = Link(pair[new_by], 0, b"n" * 16), Link(pair[old_by], number, b"o" * 16)
    assert new_one_stays(new, old, *pair)
