"""Whom to ask for what is announced and does not come, and what one peer alone can fill."""

import math

from p2pd.core.missing import GRAFT_AGAIN, MAX_ANNOUNCERS, MAX_MISSING, MAX_MISSING_OF_ONE, Missing
from p2pd.ids import NodeId


def peer(number: int) -> NodeId:
    return NodeId(number.to_bytes(32))


def message_id(number: int) -> bytes:
    return number.to_bytes(16)


def all_asks(missing: Missing) -> list[NodeId]:
    asked = []
    while (due := missing.next_due()) < math.inf:
        asked += list(missing.to_ask(due))
    return asked


def test_one_peer_fills_only_its_share() -> None:
    missing = Missing()
    for number in range(MAX_MISSING):
        missing.announced(message_id(number), peer(1), 1, 0.0)
    assert len(missing) == MAX_MISSING_OF_ONE
    assert message_id(MAX_MISSING_OF_ONE) not in missing
    missing.announced(message_id(MAX_MISSING_OF_ONE), peer(2), 1, 0.0)
    assert message_id(MAX_MISSING_OF_ONE) in missing


def test_all_together_fill_no_more_than_the_table() -> None:
    missing = Missing()
    for number in range(MAX_MISSING + 10):
        missing.announced(message_id(number), peer(number % 100), 1, 0.0)
    assert len(missing) == MAX_MISSING
    assert message_id(MAX_MISSING) not in missing


def test_a_share_is_free_again_when_ids_come_or_are_given_up_but_not_by_a_new_link() -> None:
    missing = Missing()
    for number in range(MAX_MISSING_OF_ONE):
        missing.announced(message_id(number), peer(1), 1, 0.0)
    missing.link_down(peer(1), 0.0, eager=False)
    missing.announced(message_id(9000), peer(1), 1, 0.0)
    assert message_id(9000) not in missing
    assert missing.arrived(message_id(0)) is not None
    missing.announced(message_id(9000), peer(1), 1, 0.0)
    assert message_id(9000) in missing
    all_asks(missing)
    assert len(missing) == len(missing._first_of) == 0
    for number in range(MAX_MISSING):
        missing.announced(message_id(number), peer(1), 1, 9.0)
    assert len(missing) == MAX_MISSING_OF_ONE


def test_who_announces_again_and_again_is_asked_once_and_takes_one_place() -> None:
    missing = Missing()
    for _ in range(MAX_ANNOUNCERS):
        missing.announced(message_id(1), peer(1), 1, 0.0)
    now = missing.next_due()
    assert missing.to_ask(now) == {peer(1): [message_id(1)]}
    # A digest that lists it is no word that it could not be sent.
    missing.announced(message_id(1), peer(1), None, now)
    missing.announced(message_id(1), peer(2), 1, now)
    assert missing.to_ask(now + GRAFT_AGAIN) == {peer(2): [message_id(1)]}
    assert all_asks(missing) == []
    assert message_id(1) not in missing


def test_who_announces_it_once_more_after_it_was_asked_is_asked_again_after_all_others() -> None:
    missing = Missing()
    missing.announced(message_id(1), peer(1), 1, 0.0)
    now = missing.next_due()
    assert missing.to_ask(now) == {peer(1): [message_id(1)]}
    for number in (1, 1, 2, 3):
        missing.announced(message_id(1), peer(number), 1, now)
    assert all_asks(missing) == [peer(2), peer(3), peer(1)]
    assert message_id(1) not in missing


def test_who_is_asked_again_takes_no_place_of_another() -> None:
    missing = Missing()
    missing.announced(message_id(1), peer(1), 1, 0.0)
    asked = list(missing.to_ask(missing.next_due()))
    for number in range(1, MAX_ANNOUNCERS + 3):
        missing.announced(message_id(1), peer(number), 1, 1.0)
    asked += all_asks(missing)
    assert asked == [peer(1), *map(peer, range(2, MAX_ANNOUNCERS + 1)), peer(1)]


def test_whose_link_is_lost_while_it_is_asked_again_is_not_waited_for() -> None:
    missing = Missing()
    for number in (1, 2):
        missing.announced(message_id(1), peer(number), 1, 0.0)
    assert list(missing.to_ask(missing.next_due())) == [peer(1)]
    for number in (1, 3):
        missing.announced(message_id(1), peer(number), 1, 0.0)
    for number in (2, 3):
        assert list(missing.to_ask(missing.next_due())) == [peer(number)]
    asked_at = missing.next_due()
    assert list(missing.to_ask(asked_at)) == [peer(1)]
    missing.announced(message_id(1), peer(2), 1, asked_at)
    missing.link_down(peer(1), asked_at, eager=False)
    assert list(missing.to_ask(asked_at)) == [peer(2)]


def test_so_many_announcers_are_asked() -> None:
    missing = Missing()
    for number in range(MAX_ANNOUNCERS + 3):
        missing.announced(message_id(1), peer(number), 1, 0.0)
    assert all_asks(missing) == [peer(number) for number in range(MAX_ANNOUNCERS)]
    # Those count, too, who were asked when others announce it.
    for number in range(5):
        missing.announced(message_id(2), peer(number), 1, 9.0)
    asked = list(missing.to_ask(missing.next_due()))
    for number in range(5, 5 * MAX_ANNOUNCERS):
        missing.announced(message_id(2), peer(number), 1, 10.0)
    assert len(asked + all_asks(missing)) == MAX_ANNOUNCERS


def test_who_announces_again_and_again_what_it_never_sends_takes_no_place_of_another() -> None:
    missing = Missing()
    liars = [peer(number) for number in range(MAX_ANNOUNCERS)]
    honest = peer(99)
    now, asked = 0.0, set[NodeId]()
    for _ in range(3 * MAX_ANNOUNCERS):
        for liar in liars:
            missing.announced(message_id(1), liar, 1, now)
        missing.announced(message_id(1), honest, None, now)
        now = missing.next_due()
        asked |= missing.to_ask(now).keys()
    assert asked == {*liars, honest}


def test_whose_link_is_lost_just_after_it_was_asked_is_not_waited_for() -> None:
    missing = Missing()
    missing.announced(message_id(1), peer(1), 1, 0.0)
    missing.announced(message_id(1), peer(2), 1, 0.0)
    asked_at = missing.next_due()
    assert list(missing.to_ask(asked_at)) == [peer(1)]
    missing.link_down(peer(3), asked_at, eager=False)
    assert missing.next_due() == asked_at + GRAFT_AGAIN
    missing.link_down(peer(1), asked_at, eager=False)
    assert list(missing.to_ask(asked_at)) == [peer(2)]


def test_who_was_asked_and_is_gone_takes_no_place_of_another() -> None:
    missing = Missing()
    stays, comes_later = peer(0), peer(99)
    for number in range(MAX_ANNOUNCERS):
        missing.announced(message_id(1), peer(number), 1, 0.0)
    gone: set[NodeId] = set()
    while len(gone) < MAX_ANNOUNCERS - 1:
        now = missing.next_due()
        [asked] = missing.to_ask(now)
        # One of them says again and again that it has it.
        missing.announced(message_id(1), stays, 1, now)
        if asked != stays:
            missing.link_down(asked, now, eager=False)
            gone.add(asked)
    missing.announced(message_id(1), comes_later, 1, missing.next_due())
    assert comes_later in [*missing.to_ask(missing.next_due()), *missing.to_ask(missing.next_due())]
