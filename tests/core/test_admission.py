"""Who is heard when there is too much: many invented origins starve nobody who is known."""

import itertools
import random

import pytest

from p2pd.address import Address
from p2pd.core import admission
from p2pd.core.admission import Admission, Grant
from p2pd.core.entries import Backoff, Source
from p2pd.core.history import Item
from p2pd.core.registry import Registry
from p2pd.ids import NodeId
from p2pd.wire.messages import Publication, Signed

LIAR, HONEST, KNOWN, HEARD_OF = (NodeId(bytes([number]) * 32) for number in range(1, 5))
MINUTE_MS = 60_000
# Seconds, a moment after all that the gate knows was heard of.
WALL = 1.0


def stranger(number: int) -> NodeId:
    return NodeId(b"\xff" * 24 + number.to_bytes(8))


class Gate:
    """An admission whose registry knows `KNOWN`, and has heard of `HEARD_OF` from `HONEST`."""

    def __init__(self) -> None:
        self.registry = Registry(NodeId(bytes(32)), Backoff(1.0, 2.0), random.Random(1))
        self.admission = Admission(self.registry)
        self.prove(KNOWN)
        self.hear_of(HEARD_OF, HONEST)

    def prove(self, node_id: NodeId) -> None:
        entry = self.registry.heard(node_id, Address("10.0.0.1", 1), Source.MULTICAST, 0.0)
        assert entry is not None
        entry.success_count = 1

    def hear_of(self, node_id: NodeId, teller: NodeId, first_seen: float = 0.0) -> None:
        address = Address("10.0.0.2", 1)
        entry = self.registry.heard(node_id, address, Source.EXCHANGE, first_seen)
        if entry is not None:
            entry.told_by = teller

    def grant(
        self,
        peer: NodeId,
        origin: NodeId,
        now: float = 0.0,
        *,
        topic: str = "t",
        size: int = 100,
        asked: bool = False,
    ) -> Grant:
        publication = Publication(bytes(32), 0, 0, topic, b"")
        item = Item(bytes(16), Signed(bytes(size), bytes(64)), origin, 0, 1)
        return self.admission.grant(peer, item, publication, now, WALL + now, asked=asked)

    def brings(
        self, peer: NodeId, origin: NodeId, now: float = 0.0, *, topic: str = "t", size: int = 100
    ) -> bool:
        return self.grant(peer, origin, now, topic=topic, size=size) is not Grant.DROP

    def exhaust(self, peer: NodeId, now: float = 0.0, *, topic: str = "t") -> int:
        """Let a peer bring messages of invented origins until one is refused; counts them."""
        count = 0
        while self.brings(peer, stranger(count), now, topic=topic):
            count += 1
        return count


def test_invented_origins_take_what_is_shared_and_nothing_that_belongs_to_others() -> None:
    gate = Gate()
    assert gate.exhaust(LIAR) == admission.PEER_AT_ONCE + admission.MOST_AT_ONCE
    # Behind the liar itself, too.
    for origin in (KNOWN, HEARD_OF):
        assert all(gate.brings(LIAR, origin) for _ in range(admission.HEARD_OF_AT_ONCE))
    assert gate.exhaust(HONEST) == admission.PEER_AT_ONCE


def test_from_then_on_so_many_a_second() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    per_second = admission.PEER_PER_SECOND + admission.MOST_PER_SECOND
    came = sum(gate.exhaust(LIAR, now=second / 10) for second in range(1, 101))
    assert 9.9 * per_second <= came <= 10.1 * per_second + 2


def test_one_known_origin_brings_only_so_much() -> None:
    gate = Gate()
    for at_once in (admission.PEER_AT_ONCE, admission.MOST_AT_ONCE):
        assert at_once > 0
    gate.exhaust(LIAR)
    assert sum(gate.brings(LIAR, KNOWN) for _ in range(5000)) == admission.KNOWN_AT_ONCE


def test_a_word_of_one_who_floods_is_heard() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    gate.exhaust(LIAR, topic="$alive")
    while gate.brings(LIAR, KNOWN):
        pass
    words = sum(gate.brings(LIAR, KNOWN, topic="$alive") for _ in range(100))
    assert words == admission.SYSTEM_AT_ONCE
    assert not gate.brings(LIAR, stranger(1), topic="$alive")


def test_words_beyond_their_own_budget_are_paid_like_all_else() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    gate.exhaust(LIAR, topic="$alive")
    words = sum(gate.brings(LIAR, KNOWN, topic="$alive") for _ in range(2000))
    assert words == admission.SYSTEM_AT_ONCE + admission.KNOWN_AT_ONCE


def test_who_was_connected_since_it_was_told_of_costs_the_teller_nothing() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    gate.prove(HEARD_OF)
    while gate.brings(LIAR, HEARD_OF):
        pass
    for number in range(100):
        gate.hear_of(stranger(number), HONEST)
    brought = [gate.brings(LIAR, stranger(each % 100)) for each in range(admission.TOLD_AT_ONCE)]
    assert all(brought)


def test_all_that_one_peer_tells_of_share_a_budget() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    invented = [stranger(number) for number in range(200)]
    for each in invented:
        gate.hear_of(each, LIAR)
    taken = sum(gate.brings(LIAR, each) for each in invented for _ in range(10))
    assert taken == admission.TOLD_AT_ONCE
    assert gate.brings(LIAR, HEARD_OF)


def test_half_of_a_thousand_strangers_report_the_other_half_dead_over_one_link() -> None:
    gate = Gate()
    reports = [stranger(number % 500) for number in range(2000)]
    assert all(gate.brings(HONEST, each, topic="$dead") for each in reports)
    # Meanwhile, and ever after, users go on.
    assert all(gate.brings(HONEST, stranger(999), now=number / 20) for number in range(12_000))


@pytest.mark.parametrize("origin", [KNOWN, HEARD_OF, stranger(1)])
def test_as_much_as_one_may_publish_comes_by_anybody_over_one_link(origin: NodeId) -> None:
    gate = Gate()
    per_second = admission.MOST_OF_ORIGIN / admission.ORIGIN_SECONDS
    taken = [gate.brings(HONEST, origin, now=number / per_second) for number in range(12_000)]
    assert all(taken)


def test_five_strangers_publish_as_much_as_they_may_over_one_link() -> None:
    gate = Gate()
    per_second = 5 * admission.MOST_OF_ORIGIN / admission.ORIGIN_SECONDS
    taken = [
        gate.brings(HONEST, stranger(number % 5), now=number / per_second)
        for number in range(60_000)
    ]
    assert all(taken)


def test_long_messages_count_more_often() -> None:
    gate = Gate()
    size = 9 * admission.BYTES_COUNT
    taken = 0
    while gate.brings(LIAR, stranger(taken), size=size):
        taken += 1
    whole = (admission.PEER_AT_ONCE + admission.MOST_AT_ONCE) / 10
    assert whole <= taken <= whole + 2


def test_accounts() -> None:
    gate = Gate()
    account_of = gate.admission.account_of
    gate.prove(HONEST)
    gate.hear_of(stranger(1), HONEST)
    later = admission.ACQUAINTED_AFTER
    assert account_of(KNOWN, WALL) == KNOWN
    assert account_of(HEARD_OF, WALL) == account_of(stranger(1), WALL) != account_of(HONEST, WALL)
    assert account_of(HEARD_OF, later) == HEARD_OF
    assert account_of(stranger(2), later) is None


@pytest.mark.parametrize("topics", [("t", "$alive"), ("$dead", "t")])
def test_what_an_origin_issued_is_counted_by_the_minute_and_apart_from_its_words(
    topics: tuple[str, str],
) -> None:
    gate = Gate()
    for minute, topic in itertools.product(range(3), topics):
        within = 0
        for number in range(admission.MOST_OF_ORIGIN + 5):
            if gate.admission.within_bounds(KNOWN, minute * MINUTE_MS + number, topic):
                gate.admission.count(KNOWN, minute * MINUTE_MS + number, topic)
                within += 1
        assert within == admission.MOST_OF_ORIGIN


def test_what_is_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_SLICES", 10)
    gate = Gate()
    for number in range(50):
        gate.admission.count(stranger(number), 0, "t")
    assert len(gate.admission._issued) == 10


def test_invented_origins_give_nobody_a_new_budget() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    while gate.brings(LIAR, KNOWN):
        pass
    for number in range(3 * admission.MAX_BUDGETS):
        gate.brings(LIAR, stranger(number))
    assert not gate.brings(LIAR, KNOWN)


def test_who_was_heard_of_before_does_not_share_with_whom_the_same_peer_invents() -> None:
    gate = Gate()
    gate.hear_of(stranger(1), LIAR)
    gate.exhaust(LIAR)
    for number in range(100, 300):
        gate.hear_of(stranger(number), LIAR)
        while gate.brings(LIAR, stranger(number)):
            pass
    assert not gate.brings(LIAR, stranger(1))
    later = admission.ACQUAINTED_AFTER
    gate.exhaust(LIAR, now=later)
    for number in range(300, 500):
        while gate.brings(LIAR, stranger(number), later):
            pass
    taken = sum(gate.brings(LIAR, stranger(1), later) for _ in range(100))
    assert taken >= admission.ACQUAINTED_AT_ONCE


def test_while_there_is_too_much_only_what_its_origin_pays_is_passed_on() -> None:
    gate = Gate()
    later = admission.ACQUAINTED_AFTER
    assert gate.grant(HONEST, stranger(0), later) is Grant.SPREAD
    gate.exhaust(LIAR, later)
    gate.hear_of(stranger(1), HONEST, first_seen=later)
    for origin in (stranger(0), stranger(1)):
        assert gate.grant(HONEST, origin, later) is Grant.KEEP
    for origin in (KNOWN, HEARD_OF):
        assert gate.grant(HONEST, origin, later) is Grant.SPREAD
    calm = later + admission.SCARCE_FOR
    assert gate.grant(HONEST, stranger(0), calm - 0.1) is Grant.KEEP
    assert gate.grant(HONEST, stranger(0), calm) is Grant.SPREAD


def test_what_was_asked_for_spends_nothing_of_what_a_neighbour_may_bring_by_itself() -> None:
    gate = Gate()
    asked = 0
    while gate.grant(HONEST, stranger(asked), asked=True) is not Grant.DROP:
        asked += 1
    assert asked == admission.MOST_AT_ONCE
    assert gate.exhaust(HONEST) == admission.PEER_AT_ONCE


def test_who_is_made_to_speak_again_and_again_loses_no_messages_by_that() -> None:
    gate = Gate()
    later = admission.ACQUAINTED_AFTER
    gate.exhaust(LIAR, later)
    while gate.brings(LIAR, HEARD_OF, later, topic="$alive"):
        pass
    taken = sum(gate.brings(LIAR, HEARD_OF, later) for _ in range(100))
    assert taken == admission.ACQUAINTED_AT_ONCE + admission.HEARD_OF_AT_ONCE


def test_words_of_whom_nobody_knows_leave_a_neighbour_what_users_publish() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    assert gate.exhaust(HONEST, topic="$alive") == admission.PEER_AT_ONCE
    assert gate.exhaust(HONEST) == admission.PEER_AT_ONCE


def test_one_origin_that_floods_behind_an_honest_neighbour_leaves_room_for_others_there() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    taken = sum(gate.brings(HONEST, stranger(99_999)) for _ in range(1000))
    assert taken == admission.HEARD_OF_AT_ONCE
    assert gate.exhaust(HONEST) == admission.PEER_AT_ONCE - taken


def test_words_that_a_stranger_is_made_to_speak_leave_it_its_messages() -> None:
    gate = Gate()
    gate.exhaust(LIAR)
    gate.exhaust(LIAR, topic="$alive")
    spoken = sum(gate.brings(HONEST, stranger(99_999), topic="$alive") for _ in range(1000))
    taken = sum(gate.brings(HONEST, stranger(99_999)) for _ in range(1000))
    assert spoken == taken == admission.HEARD_OF_AT_ONCE
