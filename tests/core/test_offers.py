"""What other peers offer: bounded for each, so that one leaves room for the others."""

from p2pd.core.offers import MAX_WANTED, MAX_WANTED_OF_ONE, RETRY, Offers
from p2pd.ids import NodeId


def peer(number: int) -> NodeId:
    return NodeId(number.to_bytes(32))


def message_id(number: int) -> bytes:
    return number.to_bytes(16)


def offer(offers: Offers, who: int, begin: int, count: int) -> None:
    for number in range(begin, begin + count):
        offers.offer(message_id(number), peer(who))


def asked(offers: Offers, now: float) -> dict[NodeId, int]:
    return {who: len(ids) for who, ids in offers.to_ask(now).items()}


def test_one_peer_takes_only_its_share_in_one_batch_or_many() -> None:
    offers = Offers()
    offer(offers, 1, 0, 2 * MAX_WANTED)
    offer(offers, 2, 2 * MAX_WANTED, 10)
    assert asked(offers, 0.0) == {peer(1): MAX_WANTED_OF_ONE, peer(2): 10}
    offer(offers, 1, 3 * MAX_WANTED, 10)
    offer(offers, 2, 4 * MAX_WANTED, 10)
    assert asked(offers, RETRY - 0.1) == {peer(2): 10}


def test_a_share_is_free_again_after_a_while_or_with_a_new_link() -> None:
    offers = Offers()
    offer(offers, 1, 0, MAX_WANTED)
    offers.to_ask(0.0)
    offer(offers, 1, MAX_WANTED, MAX_WANTED)
    assert asked(offers, RETRY) == {peer(1): MAX_WANTED_OF_ONE}
    offers.link_down(peer(1))
    offer(offers, 1, 0, MAX_WANTED)
    assert asked(offers, RETRY) == {peer(1): MAX_WANTED_OF_ONE}


def test_all_together_want_no_more_than_the_bound() -> None:
    offers = Offers()
    for who in range(20):
        offer(offers, who, who * MAX_WANTED, MAX_WANTED_OF_ONE)
        offers.to_ask(0.0)
    offer(offers, 99, 99 * MAX_WANTED, 1)
    assert asked(offers, 0.0) == {}
