"""What other peers offer: bounded for each, so that one leaves room for the others."""

from p2pd.core.offers import (
    BROKEN_FOR,
    MAX_WANTED,
    MAX_WANTED_OF_ONE,
    RETRY,
    SLOW_FOR,
    Offers,
)
from p2pd.ids import NodeId


def peer(number: int) -> NodeId:
    return NodeId(number.to_bytes(32))


def message_id(number: int) -> bytes:
    return number.to_bytes(16)


def offer(offers: Offers, who: int, begin: int, count: int, now: float = 0.0) -> None:
    for number in range(begin, begin + count):
        offers.offer(message_id(number), peer(who), now, alone=False)


def asked(offers: Offers, now: float) -> dict[NodeId, int]:
    return {who: len(ids) for who, ids in offers.to_ask(now).items()}


def test_one_peer_takes_only_its_share_in_one_batch_or_many() -> None:
    offers = Offers()
    offer(offers, 1, 0, 2 * MAX_WANTED)
    assert len(offers) == MAX_WANTED_OF_ONE
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
    total = 0
    for who in range(20):
        offer(offers, who, who * MAX_WANTED, MAX_WANTED_OF_ONE)
        total += sum(asked(offers, 0.0).values())
    assert total == MAX_WANTED
    offer(offers, 99, 99 * MAX_WANTED, 1)
    assert asked(offers, 0.0) == {}
    for who in range(20):
        offer(offers, who, who * MAX_WANTED, MAX_WANTED_OF_ONE)
    assert len(offers) == MAX_WANTED


def test_the_first_to_offer_is_asked_unless_it_has_come_or_the_link_is_lost() -> None:
    offers = Offers()
    for who in (1, 2):
        offer(offers, who, 0, 3)
    offers.arrived(message_id(0))
    assert asked(offers, 0.0) == {peer(1): 2}
    offers.brought(peer(3), 10.0)
    offer(offers, 3, 0, 3, now=10.0)
    offers.link_down(peer(3))
    offer(offers, 2, 1, 1, now=10.0)
    assert asked(offers, 10.0) == {peer(2): 1}
    assert not offers._brought


def test_nobody_else_is_asked_while_one_is_unless_its_link_is_lost() -> None:
    offers = Offers()
    offer(offers, 1, 0, 1)
    assert asked(offers, 0.0) == {peer(1): 1}
    offer(offers, 2, 0, 1, now=1.0)
    assert asked(offers, 1.0) == {}
    offers.link_down(peer(1))
    assert not offers.is_wanted(message_id(0), peer(1))
    offer(offers, 2, 0, 1, now=1.0)
    assert asked(offers, 1.0) == {peer(2): 1}


def test_what_was_offered_over_a_lost_link_takes_no_share_of_the_next() -> None:
    offers = Offers()
    offer(offers, 1, 0, MAX_WANTED_OF_ONE)
    offers.link_down(peer(1))
    assert len(offers) == 0
    offer(offers, 1, 0, MAX_WANTED_OF_ONE)
    assert asked(offers, 0.0) == {peer(1): MAX_WANTED_OF_ONE}


def test_who_breaks_a_promise_is_passed_over_for_a_while() -> None:
    offers = Offers()
    offer(offers, 1, 0, 2)
    assert asked(offers, 0.0) == {peer(1): 2}
    offers.arrived(message_id(1))
    # The liar is always first.
    offer(offers, 1, 0, 1, now=RETRY)
    offer(offers, 2, 0, 1, now=RETRY)
    assert asked(offers, RETRY) == {peer(2): 1}
    offer(offers, 1, 1, 1, now=RETRY)
    assert asked(offers, RETRY) == {peer(1): 1}
    offers = Offers()
    offer(offers, 1, 0, 1)
    offers.to_ask(0.0)
    offer(offers, 1, 0, 1, now=RETRY + BROKEN_FOR - 0.1)
    assert asked(offers, RETRY + BROKEN_FOR - 0.1) == {}
    offer(offers, 1, 0, 1, now=RETRY + BROKEN_FOR)
    assert offers.to_ask(RETRY + BROKEN_FOR) == {peer(1): [message_id(0)]}


def test_who_brings_some_is_passed_over_for_a_shorter_while() -> None:
    offers = Offers()
    offer(offers, 1, 0, 2)
    offers.to_ask(0.0)
    offers.arrived(message_id(1))
    offers.brought(peer(1), 1.0)
    offer(offers, 1, 0, 1, now=RETRY + SLOW_FOR - 0.1)
    assert asked(offers, RETRY + SLOW_FOR - 0.1) == {}
    offer(offers, 1, 0, 1, now=RETRY + SLOW_FOR)
    assert asked(offers, RETRY + SLOW_FOR) == {peer(1): 1}
    # That was before it was asked again.
    later = 2 * (RETRY + SLOW_FOR)
    offer(offers, 1, 0, 1, now=later)
    assert asked(offers, later) == {}


def test_the_only_neighbour_is_asked_again() -> None:
    offers = Offers()
    offers.offer(message_id(1), peer(1), 0.0, alone=True)
    offers.to_ask(0.0)
    offers.offer(message_id(1), peer(1), RETRY, alone=True)
    assert asked(offers, RETRY) == {peer(1): 1}


def test_what_came_otherwise_takes_none_of_the_places_of_who_offered_it() -> None:
    offers = Offers()
    offer(offers, 1, 0, 1)
    offers.arrived(message_id(0))
    offer(offers, 1, 1, MAX_WANTED_OF_ONE)
    assert len(offers) == MAX_WANTED_OF_ONE
