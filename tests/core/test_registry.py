"""The registry: nobody can flush it, nobody good is forgotten, and dials are well chosen."""

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.address import Address
from p2pd.core.entries import Backoff, Entry, Source, Status
from p2pd.core.hearsay import MAX_PER_NETWORK, MAX_PER_SOURCE
from p2pd.core.registry import (
    MAX_ADDRESSES,
    MAX_ENTRIES,
    MAX_UNIDENTIFIED,
    MAX_UNPROVEN,
    Registry,
)
from p2pd.ids import NodeId
from p2pd.wire.messages import PeerRecord, Signed

OWN_KEY = b"\xff" * 32
OWN = NodeId.of(OWN_KEY)
HOME = Address("192.168.1.2", 41000)
WALL = 1_700_000_000.0


def registry(seed: int = 0) -> Registry:
    return Registry(OWN, Backoff(1.0, 300.0), random.Random(seed))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def node(number: int) -> NodeId:
    return NodeId.of(key(number))


def lan(number: int) -> Address:
    return Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 41000)


def far(number: int) -> Address:
    """Return an address in a public network of its own."""
    return Address(f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.9", 41000)


def crowded(number: int, network: int = 0) -> Address:
    """Return an address in one public network that all share."""
    return Address(f"8.8.{network}.{number % 250 + 1}", 1000 + number)


def facts(public_key: bytes, sequence: int = 1, name: str = "") -> tuple[Signed, PeerRecord]:
    record = PeerRecord(public_key, 0, sequence, name, (), (), 0)
    return Signed(public_key + b"%d" % sequence, bytes(64)), record


def learn(
    table: Registry,
    number: int,
    addresses: Iterable[Address],
    *,
    told_by: int | None = None,
    sequence: int = 1,
    name: str = "",
) -> Entry | None:
    return table.learn(
        *facts(key(number), sequence, name),
        addresses,
        Source.EXCHANGE,
        WALL + number,
        told_by=None if told_by is None else node(told_by),
    )


def connect(
    table: Registry,
    number: int,
    remote: Address = HOME,
    *,
    dialled: bool = True,
    wall: float = WALL,
) -> Entry:
    source = Source.MULTICAST if dialled else Source.INBOUND
    return table.connected(*facts(key(number)), source, wall, remote=remote, dialled=dialled)


def meet(table: Registry, number: int, remote: Address, wall: float = WALL) -> Entry:
    connect(table, number, remote, dialled=False, wall=wall)
    return table.disconnected(node(number), "gone", wall, 0.0)


def ids(entries: Iterable[Entry]) -> list[NodeId | None]:
    return [entry.node_id for entry in entries]


def statuses(table: Registry) -> dict[Status, int]:
    return {status: count for status, count in table.counts().items() if count}


def test_a_peer_goes_from_hearsay_to_connected_to_disconnected() -> None:
    table = registry()
    heard = table.heard(node(1), HOME, Source.MULTICAST, WALL)
    assert heard is not None
    assert (heard.status, heard.proven, heard.last_seen) == (Status.ATTEMPTED, False, None)
    assert statuses(table) == {Status.ATTEMPTED: 1}
    entry = connect(table, 1, wall=WALL + 5)
    assert entry is heard
    assert (entry.status, entry.success_count, entry.last_seen) == (Status.CONNECTED, 1, WALL + 5)
    assert (entry.source, entry.first_seen) == (Source.MULTICAST, WALL)
    table.disconnected(node(1), "reset", WALL + 9, now=50.0)
    assert (entry.status, entry.last_error, entry.last_seen) == (
        Status.DISCONNECTED,
        "reset",
        WALL + 9,
    )
    assert statuses(table) == {Status.DISCONNECTED: 1}


def test_oneself_is_nobody() -> None:
    table = registry()
    assert table.heard(OWN, HOME, Source.MULTICAST, WALL) is None
    assert table.learn(*facts(OWN_KEY), [HOME], Source.EXCHANGE, WALL) is None
    table.refused(OWN, "clash", WALL)
    # The disk may be another node's.
    table.restore(Entry(OWN, Source.INBOUND, WALL, success_count=1))
    assert len(table) == 0
    assert list(table) == []


def test_the_newest_record_counts_and_an_older_one_changes_nothing() -> None:
    table = registry()
    learn(table, 1, [lan(1)], sequence=5, name="five")
    entry = learn(table, 1, [lan(2)], sequence=4, name="four")
    assert entry is not None
    assert (entry.name, entry.sequence, entry.addresses) == ("five", 5, [lan(1)])
    learn(table, 1, [lan(3), lan(4)], sequence=6, name="six")
    assert (entry.name, entry.sequence) == ("six", 6)
    assert entry.addresses == [lan(3), lan(4), lan(1)]
    learn(table, 1, [], sequence=7)
    assert entry.name is None


def test_what_a_peer_says_itself_counts_even_after_its_clock_was_set_back() -> None:
    table = registry()
    learn(table, 1, [lan(1)], sequence=99)
    assert connect(table, 1).sequence == 1


@given(st.lists(st.integers(0, 40), max_size=60))
def test_addresses_are_bounded_distinct_and_the_latest_first(heard: list[int]) -> None:
    table = registry()
    for number in heard:
        entry = table.heard(node(1), lan(number), Source.MULTICAST, WALL)
        assert entry is not None
        assert entry.addresses[0] == lan(number)
        assert len(entry.addresses) == len(set(entry.addresses)) <= MAX_ADDRESSES
    many = learn(table, 1, map(lan, range(100, 200)))
    assert many is not None
    assert many.addresses == [lan(100 + each) for each in range(MAX_ADDRESSES)]


def test_one_teller_fills_only_its_share_and_then_loses_its_own() -> None:
    table = registry()
    others = [learn(table, 10_000 + each, [far(each)], told_by=1) for each in range(20)]
    for number in range(MAX_PER_SOURCE * 2):
        assert learn(table, number, [far(100 + number)], told_by=2) is not None
    assert len(table) == 20 + MAX_PER_SOURCE
    assert all(entry in list(table) for entry in others)
    assert {entry.told_by for entry in table} == {node(1), node(2)}
    # What it told before it began to invent stays, unless it was dialled in vain.
    assert table.get(node(0)) is not None
    assert table.get(node(MAX_PER_SOURCE)) is None
    first = table.get(node(0))
    assert first is not None
    table.failed(first, "nobody there", 0.0)
    learn(table, 5000, [far(5000)], told_by=2)
    assert table.get(node(0)) is None
    assert table.get(node(1)) is not None
    assert table.get(node(MAX_PER_SOURCE * 2 - 1)) is not None


def test_one_public_network_fills_only_its_share_whoever_tells() -> None:
    table = registry()
    taken = [
        learn(table, number, [crowded(number)], told_by=10_000 + number % 9)
        for number in range(MAX_PER_NETWORK * 2)
    ]
    assert sum(entry is not None for entry in taken) == MAX_PER_NETWORK == len(table)
    assert learn(table, 9_999, [crowded(1, network=1)]) is not None
    assert learn(table, 9_998, [lan(1)]) is not None


def test_a_network_has_room_again_when_its_peers_are_proven() -> None:
    table = registry()
    for number in range(MAX_PER_NETWORK):
        learn(table, number, [crowded(number)])
    assert learn(table, 999, [crowded(999)]) is None
    connect(table, 0, crowded(0))
    assert learn(table, 999, [crowded(999)]) is not None
    assert learn(table, 998, [crowded(998)]) is None


def test_a_network_has_room_again_when_its_peers_were_dialled_in_vain() -> None:
    table = registry()
    first = learn(table, 0, [crowded(0)])
    for number in range(1, MAX_PER_NETWORK):
        learn(table, number, [crowded(number)])
    assert learn(table, 999, [crowded(999)]) is None
    assert first is not None
    table.failed(first, "nobody is there", 0.0)
    assert learn(table, 999, [crowded(999)]) is not None
    assert first not in list(table)
    assert learn(table, 998, [crowded(998)]) is None


def test_nobody_gets_round_the_share_of_a_network_by_naming_it_later() -> None:
    table = registry()
    for number in range(MAX_PER_NETWORK + 20):
        learn(table, number, [lan(number)])
        learn(table, number, [crowded(number)], sequence=2)
    inside = [e for e in table if any(a.host.startswith("8.8.0.") for a in e.addresses)]
    assert len(inside) == MAX_PER_NETWORK
    assert len(table) == MAX_PER_NETWORK + 20
    for number in range(MAX_PER_NETWORK):
        learn(table, number, [far(number)], sequence=3)
    assert learn(table, 5_000, [crowded(1)]) is not None


def test_nobody_gets_out_of_the_share_of_a_network_by_naming_one_of_a_lan() -> None:
    table = registry()
    for number in range(MAX_PER_NETWORK):
        learn(table, number, [lan(number), crowded(number)])
    assert learn(table, 999, [lan(999), crowded(999)]) is None
    learn(table, 0, [lan(0)], sequence=2)
    assert learn(table, 999, [crowded(999)]) is None


def test_whoever_is_in_a_full_network_may_move_within_it() -> None:
    table = registry()
    for number in range(MAX_PER_NETWORK):
        learn(table, number, [crowded(number)])
    moved = learn(table, 0, [crowded(500)], sequence=2)
    assert moved is not None
    assert (moved.sequence, moved.addresses[0]) == (2, crowded(500))


def test_a_full_network_of_hearsay_takes_in_the_news_of_whoever_was_proven() -> None:
    table = registry()
    for number in range(MAX_PER_NETWORK):
        learn(table, number, [crowded(number)])
    meet(table, 999, far(999))
    moved = learn(table, 999, [crowded(999)], sequence=2)
    assert moved is not None
    assert (moved.sequence, moved.addresses[0]) == (2, crowded(999))


def test_where_a_peer_answered_once_is_not_forgotten_as_it_answers_elsewhere_again() -> None:
    table = registry()
    entry = connect(table, 0, lan(1))
    for _ in range(MAX_ADDRESSES):
        connect(table, 0, lan(2))
    assert set(entry.answered) == {lan(1), lan(2)}


def test_an_address_under_another_interface_index_takes_the_place_of_the_one_before() -> None:
    table = registry()
    entry = connect(table, 0, lan(1))
    for index in range(2, 2 * MAX_ADDRESSES):
        connect(table, 0, Address(f"fe80::7%{index}", 41000))
    connect(table, 0, Address("fe80::8%2", 41000))
    connect(table, 0, Address("fe80::7%2", 41001))
    there = {lan(1), Address(f"fe80::7%{index}", 41000), Address("fe80::8%2", 41000)}
    assert set(entry.answered) == {*there, Address("fe80::7%2", 41001)}
    assert set(entry.addresses) == set(entry.answered)


def test_hearsay_is_bounded_and_never_displaces_who_was_proven() -> None:
    table = registry()
    proven = [meet(table, 50_000 + each, far(each)) for each in range(MAX_ENTRIES - MAX_UNPROVEN)]
    for number in range(MAX_UNPROVEN + 300):
        learn(table, number, [far(10_000 + number)], told_by=number // 100 + 90_000)
    assert len(table) == MAX_ENTRIES
    assert all(table.get(node(50_000 + each)) is entry for each, entry in enumerate(proven))
    more = [meet(table, 60_000 + each, far(20_000 + each)) for each in range(300)]
    assert len(table) == MAX_ENTRIES
    assert all(entry in set(table) for entry in [*proven, *more])


@pytest.fixture(scope="module")
def full() -> Sequence[Entry]:
    """Return as many proven entries as there is room for, oldest first."""
    table = registry()
    for number in range(MAX_ENTRIES):
        meet(table, number, far(number), wall=WALL + number)
    return list(table)


def filled(full: Sequence[Entry]) -> Registry:
    table = registry()
    for entry in full:
        table.restore(entry)
    return table


def test_a_table_of_the_proven_takes_no_hearsay(full: Sequence[Entry]) -> None:
    table = filled(full)
    assert learn(table, 99_999, [far(60_000)]) is None
    assert len(table) == MAX_ENTRIES


def test_a_proven_newcomer_takes_the_place_of_the_longest_gone(full: Sequence[Entry]) -> None:
    table = filled(full)
    connect(table, 99_999, far(60_000))
    assert len(table) == MAX_ENTRIES
    assert table.get(node(0)) is None
    assert table.get(node(99_999)) is not None


def test_newcomers_of_one_network_displace_one_another(full: Sequence[Entry]) -> None:
    table = filled(full)
    for number in range(MAX_PER_NETWORK * 3):
        meet(table, 70_000 + number, crowded(number), wall=WALL + 90_000)
    assert len(table) == MAX_ENTRIES
    lost = [number for number in range(MAX_ENTRIES) if table.get(node(number)) is None]
    assert lost == list(range(MAX_PER_NETWORK))


def test_where_they_come_from_counts_not_what_they_claimed(full: Sequence[Entry]) -> None:
    table = filled(full[:-1])
    for number in range(MAX_PER_NETWORK * 3):
        table.refused(node(70_000 + number), "full", WALL)
        meet(table, 70_000 + number, crowded(number), wall=WALL + 90_000)
    lost = [number for number in range(MAX_ENTRIES - 1) if table.get(node(number)) is None]
    assert len(lost) <= MAX_PER_NETWORK + 1


def test_networks_are_known_again_after_a_restart() -> None:
    table = registry()
    for number in range(MAX_ENTRIES):
        addresses = [crowded(number) if number < MAX_PER_NETWORK else far(number)]
        table.restore(
            Entry(
                node(number),
                Source.INBOUND,
                WALL + number,
                addresses=addresses,
                status=Status.DISCONNECTED,
                success_count=1,
                last_seen=WALL - number,
            )
        )
    for number in range(20):
        connect(table, 99_000 + number, crowded(number))
    assert all(table.get(node(number)) for number in range(MAX_PER_NETWORK, MAX_ENTRIES))


def test_restoring_is_bounded(full: Sequence[Entry]) -> None:
    table = filled(full)
    table.restore(Entry(node(99_999), Source.INBOUND, WALL))
    table.restore(Entry(None, Source.BOOTSTRAP, WALL))
    assert len(table) == len(list(table)) == MAX_ENTRIES


def test_when_all_are_connected_one_more_still_finds_a_place() -> None:
    table = registry()
    for number in range(MAX_ENTRIES + 2):
        connect(table, number, far(number))
    assert all(table.get(node(number)) for number in range(MAX_ENTRIES + 2))


def test_nothing_is_kept_of_hearsay_that_went() -> None:
    table = registry()
    for number in range(MAX_UNPROVEN * 2):
        learn(table, number, [far(number)], told_by=100_000 + number)
    assert len(table) == MAX_UNPROVEN
    assert len(table._hearsay._from_origin) <= MAX_UNPROVEN
    assert len(table._hearsay._in_network) <= MAX_UNPROVEN


@given(st.integers(1, 60), st.integers(0, 1000))
def test_backoff_doubles_within_its_bounds_and_is_cut_at_random(failures: int, seed: int) -> None:
    delay = Backoff(2.0, 100.0).delay(failures, random.Random(seed))
    longest = min(100.0, 2.0 * 2 ** (failures - 1))
    assert longest / 2 <= delay <= longest


def test_backoff_is_not_the_same_for_all() -> None:
    rng = random.Random(1)
    assert len({Backoff(2.0, 100.0).delay(3, rng) for _ in range(20)}) == 20


def test_who_fails_waits_longer_and_longer_and_success_forgives() -> None:
    table = registry()
    entry = table.heard(node(1), HOME, Source.MULTICAST, WALL)
    assert entry is not None
    waits = []
    for _ in range(12):
        table.failed(entry, "refused", now=1000.0)
        waits.append(entry.retry_at - 1000.0)
    for count, wait in enumerate(waits):
        assert min(300.0, 2.0**count) / 2 <= wait <= min(300.0, 2.0**count)
    assert (entry.fail_count, entry.failures_in_row, entry.last_error) == (12, 12, "refused")
    connect(table, 1)
    assert (entry.failures_in_row, entry.retry_at, entry.last_error) == (0, 0.0, None)
    assert entry.fail_count == 12


def test_the_first_redial_is_soon_unless_a_user_asked_for_the_end() -> None:
    table = registry()
    entry = connect(table, 1)
    table.disconnected(node(1), "reset", WALL, now=1000.0)
    assert 1000.5 <= entry.retry_at <= 1001.0
    connect(table, 1)
    table.disconnected(node(1), "on request", WALL, now=1000.0, on_request=True)
    assert entry.retry_at == 1300.0


def test_backoffs_can_be_cut_short() -> None:
    table = registry()
    entries = [table.heard(node(each), lan(each), Source.MULTICAST, WALL) for each in (1, 2)]
    for entry in entries:
        assert entry is not None
        for _ in range(9):
            table.failed(entry, "refused", now=0.0)
    assert table.candidates(1.0) == []
    first, second = entries
    assert first is not None
    table.retry_by(first, 0.0)
    assert table.candidates(1.0) == [first]
    table.retry_all()
    assert set(table.candidates(1.0)) == {first, second}
    assert second is not None
    table.failed(second, "refused", now=0.0)
    assert second.retry_at <= 2.0
    # But no backoff is made longer, and who never failed has not failed once.
    never = connect(table, 3)
    never.retry_at = 5.0
    table.retry_by(never, 9.0)
    assert (never.retry_at, never.failures_in_row) == (5.0, 0)


def test_who_was_parted_by_a_user_is_not_redialled_sooner() -> None:
    table = registry()
    entry = connect(table, 1)
    table.disconnected(node(1), "on request", WALL, now=1000.0, on_request=True)
    table.retry_all()
    table.disconnected(node(1), "reset", WALL, now=1000.0)
    assert entry.retry_at == 1300.0


def test_who_left_is_not_missed_until_it_is_back() -> None:
    table = registry()
    entry = connect(table, 1)
    table.disconnected(node(1), "it leaves", WALL, now=0.0, left=True)
    assert entry.left
    connect(table, 1)
    assert not entry.left
    table.disconnected(node(1), "reset", WALL, now=0.0)
    assert not entry.left


def test_candidates_come_in_their_order_of_promise() -> None:
    table = registry()
    hearsay = learn(table, 1, [lan(1)])
    beacon = table.heard(node(2), lan(2), Source.MULTICAST, WALL)
    good = meet(table, 3, lan(3))
    good.addresses.append(lan(3))
    configured = table.configured(lan(4), Source.BOOTSTRAP, WALL)
    by_hand = table.heard(node(5), lan(5), Source.MANUAL, WALL)
    hopeless = table.heard(node(6), lan(6), Source.MANUAL, WALL)
    assert hopeless is not None
    for _ in range(8):
        table.failed(hopeless, "refused", now=-1000.0)
    dead = meet(table, 11, lan(11))
    dead.addresses.append(lan(11))
    table.died(node(11))
    connect(table, 7)
    dialling = table.heard(node(8), lan(8), Source.MULTICAST, WALL)
    assert dialling is not None
    dialling.dialling = True
    waiting = table.heard(node(9), lan(9), Source.MULTICAST, WALL)
    assert waiting is not None
    waiting.retry_at = 100.1
    learn(table, 10, [])
    order = table.candidates(now=100.0)
    assert set(order[:2]) == {configured, by_hand}
    assert order[2:5] == [good, beacon, hearsay]
    assert set(order[5:]) == {hopeless, dead}


def test_equals_are_dialled_in_random_order() -> None:
    table = registry()
    for number in range(30):
        table.heard(node(number), lan(number), Source.MULTICAST, WALL)
    orders = {tuple(ids(table.candidates(0.0))) for _ in range(5)}
    assert len(orders) == 5
    one, other = registry(7), registry(7)
    for each in (one, other):
        for number in range(30):
            each.heard(node(number), lan(number), Source.MULTICAST, WALL)
    assert ids(one.candidates(0.0)) == ids(other.candidates(0.0))


def test_the_next_retry_is_the_earliest_to_come() -> None:
    table = registry()
    assert table.next_retry(0.0) is None
    for number, retry_at in ((1, 5.0), (2, 9.0), (3, 7.0)):
        entry = table.heard(node(number), lan(number), Source.MULTICAST, WALL)
        assert entry is not None
        entry.retry_at = retry_at
    connected = connect(table, 4)
    connected.retry_at = 6.0
    assert table.next_retry(5.0) == 7.0
    assert table.next_retry(9.0) is None


def test_a_configured_address_becomes_the_node_that_answers_there() -> None:
    table = registry()
    entry = table.configured(lan(1), Source.BOOTSTRAP, WALL)
    assert entry is not None
    assert ids([entry]) == [None]
    assert (len(table), len(list(table))) == (0, 1)
    assert connect(table, 1, lan(1)) is entry
    assert ids([entry]) == [node(1)]
    assert entry.source is Source.BOOTSTRAP
    assert list(table) == [entry]
    assert table.get(node(1)) is entry
    assert table.configured(lan(1), Source.BOOTSTRAP, WALL) is entry


def test_a_configured_address_of_a_known_peer_merges_into_its_entry() -> None:
    table = registry()
    known = learn(table, 1, [lan(9)])
    table.configured(lan(1), Source.BOOTSTRAP, WALL)
    assert connect(table, 1, lan(1)) is known
    assert list(table) == [known]
    assert known is not None
    assert known.addresses == [lan(1), lan(9)]


def test_an_inbound_connection_says_nothing_of_where_its_peer_listens() -> None:
    table = registry()
    waiting = table.configured(lan(1), Source.BOOTSTRAP, WALL)
    entry = connect(table, 1, lan(1), dialled=False)
    assert entry is not waiting
    assert entry.addresses == []
    assert waiting in list(table)


def test_configured_addresses_are_bounded_and_can_be_withdrawn() -> None:
    table = registry()
    for number in range(MAX_UNIDENTIFIED[Source.BOOTSTRAP]):
        assert table.configured(lan(number), Source.BOOTSTRAP, WALL) is not None
    assert table.configured(lan(5), Source.BOOTSTRAP, WALL) is not None
    assert table.configured(lan(999), Source.BOOTSTRAP, WALL) is None
    table.forget_unidentified(Source.BOOTSTRAP, keep=[lan(3), lan(777)])
    assert [entry.addresses for entry in table] == [[lan(3)]]
    table.configured(lan(8), Source.MANUAL, WALL)
    table.forget_unidentified(Source.BOOTSTRAP, keep=[])
    assert [entry.addresses for entry in table] == [[lan(8)]]


def test_the_address_of_a_beacon_that_nobody_answers_for_makes_room() -> None:
    table = registry()
    for number in range(MAX_UNIDENTIFIED[Source.MULTICAST]):
        forged = table.configured(lan(number), Source.MULTICAST, WALL)
        assert forged is not None
        for _ in range(8):
            table.failed(forged, "refused", now=0.0)
    assert table.configured(lan(500), Source.MULTICAST, WALL) is not None
    assert len(list(table)) == 1


def test_whoever_was_connected_last_is_first_only_at_the_start() -> None:
    for dialled in (True, False):
        table = registry()
        for number in range(1, 6):
            meet(table, number, lan(number), wall=WALL + number).addresses.append(lan(number))
        table.choose_anchors()
        last = node(5)
        assert set(ids(table.candidates(1000.0))[:2]) == {node(4), last}
        entry = table.get(last)
        assert entry is not None
        assert entry.anchor
        if dialled:
            meet(table, 5, lan(5))
        else:
            table.failed(entry, "refused", now=0.0)
        assert not entry.anchor


def test_no_source_takes_the_room_of_configured_addresses() -> None:
    table = registry()
    for number in range(MAX_UNIDENTIFIED[Source.MULTICAST]):
        assert table.configured(lan(number), Source.MULTICAST, WALL) is not None
    assert table.configured(lan(500), Source.MULTICAST, WALL) is None
    assert table.configured(lan(501), Source.BOOTSTRAP, WALL) is not None


def test_beacons_with_false_addresses_push_out_no_true_one() -> None:
    table = registry()
    entry = connect(table, 1, lan(1), dialled=True)
    for number in range(100, 130):
        table.heard(node(1), lan(number), Source.MULTICAST, WALL)
    assert len(entry.addresses) == MAX_ADDRESSES
    # Who was there once is asked there first; whoever says that it moved, is tried next.
    assert entry.addresses[:2] == [lan(1), lan(129)]
    # Where another node was found since, it is not asked again.
    entry.addresses.remove(lan(1))
    table.heard(node(1), lan(130), Source.MULTICAST, WALL)
    assert lan(1) not in entry.addresses


def test_a_beacon_comes_before_nothing_that_a_peer_has_signed_since_it_answered() -> None:
    table = registry()
    entry = connect(table, 1, lan(1), dialled=True)
    learn(table, 1, [lan(2)], sequence=2)
    table.heard(node(1), lan(3), Source.MULTICAST, WALL)
    assert entry.addresses == [lan(2), lan(3), lan(1)]
    # Where it was once it may be again.
    table.heard(node(1), lan(1), Source.MULTICAST, WALL)
    assert entry.addresses == [lan(1), lan(2), lan(3)]


def test_a_refused_stranger_is_noted_but_spoils_no_connected_peer() -> None:
    table = registry()
    table.refused(node(1), "bad record", WALL)
    entry = table.get(node(1))
    assert entry is not None
    assert (entry.last_error, entry.status, entry.source) == (
        "bad record",
        Status.ATTEMPTED,
        Source.INBOUND,
    )
    connect(table, 1)
    table.refused(node(1), "an impostor", WALL)
    assert entry.last_error is None


def test_refused_strangers_are_bounded() -> None:
    table = registry()
    for number in range(MAX_PER_SOURCE * 2):
        table.refused(node(number), "bad record", WALL)
    assert len(table) == MAX_PER_SOURCE


def test_who_is_passed_on_was_proven_and_the_connected_come_first() -> None:
    table = registry()
    learn(table, 1, [lan(1)])
    for number in range(10, 20):
        meet(table, number, lan(number))
    for number in range(20, 30):
        connect(table, number, lan(number))
    connected = {facts(key(number))[0] for number in range(20, 30)}
    gone = {facts(key(number))[0] for number in range(10, 20)}
    picked = table.sample(15, exclude=node(99))
    assert set(picked[:10]) == connected
    assert set(picked[10:]) < gone
    assert facts(key(25))[0] not in table.sample(100, exclude=node(25))
    assert len(table.sample(100, exclude=node(25))) == 19
    assert table.sample(0, exclude=node(25)) == []
    assert table.sample(5, node(99)) != table.sample(5, node(99))


def test_who_left_is_passed_on_again_once_it_was_started_again() -> None:
    table = registry()
    connect(table, 1, lan(1))
    assert len(table.sample(1, exclude=None)) == 1
    table.disconnected(node(1), "it left", WALL, 0.0)
    table.left(node(1))
    assert table.sample(1, exclude=None) == []
    learn(table, 1, [lan(1)], sequence=5)
    assert len(table.sample(1, exclude=None)) == 1


def test_who_was_held_dead_and_left_is_as_good_as_others_once_it_was_started_again() -> None:
    """It was out of our reach, but not of others', who told us of its goodbye."""
    table = registry()
    connect(table, 1, lan(1))
    table.disconnected(node(1), "reset", WALL, 0.0)
    table.died(node(1))
    table.left(node(1))
    assert table.sample(1, exclude=None) == []
    learn(table, 1, [lan(1)], sequence=5)
    assert len(table.sample(1, exclude=None)) == 1


def test_changes_are_taken_once_and_hearsay_is_none_of_them() -> None:
    table = registry()
    learn(table, 1, [lan(1)])
    entry = connect(table, 2)
    other = connect(table, 3)
    known = sorted([(node(2), entry), (node(3), other)], key=lambda pair: pair[0])
    assert table.take_changes() == (known, [])
    assert table.take_changes() == ([], [])
    table.disconnected(node(2), "reset", WALL, 0.0)
    assert table.take_changes() == ([(node(2), entry)], [])
    table.failed(entry, "refused", 0.0)
    assert table.take_changes() == ([(node(2), entry)], [])


def test_hearsay_that_is_displaced_costs_the_disk_nothing() -> None:
    table = registry()
    for number in range(3 * MAX_PER_SOURCE):
        table.heard(node(number), lan(number), Source.MULTICAST, WALL)
        learn(table, number, [lan(number)])
    assert len(table) == MAX_PER_SOURCE
    assert table.take_changes() == ([], [])


def test_a_failed_dial_of_hearsay_costs_the_disk_nothing() -> None:
    table = registry()
    learn(table, 1, [lan(1)])
    entry = table.get(node(1))
    assert entry is not None
    table.failed(entry, "refused", 0.0)
    assert table.take_changes() == ([], [])


def test_who_is_displaced_is_deleted_from_disk(full: Sequence[Entry]) -> None:
    table = filled(full)
    entry = connect(table, 99_999, far(60_000))
    assert table.take_changes() == ([(node(99_999), entry)], [node(0)])


@pytest.mark.parametrize("heard_after", [1, 2])
def test_who_is_displaced_is_deleted_from_disk_though_it_is_heard_of_again(
    full: Sequence[Entry], heard_after: int
) -> None:
    table = filled(full[MAX_PER_NETWORK:-1])
    for number in range(MAX_PER_NETWORK):
        meet(table, number, crowded(number))
    learn(table, 80_000, [far(60_000)])
    table.take_changes()
    connect(table, 99_999, crowded(99_999))
    assert table.get(node(0)) is None
    for number in range(heard_after):
        assert learn(table, 80_000 * number, [far(60_000 + number)]) is not None
    assert table.take_changes()[1] == [node(0)]


def test_who_becomes_a_seed_before_it_was_connected_is_counted_for_who_told_of_it() -> None:
    """The first hearsay of a peer decides whose share it takes, whatever it is for us later."""
    table = registry()
    entry = learn(table, 1, [lan(1)], told_by=9)
    assert entry is not None
    entry.source = Source.SEED
    assert connect(table, 1, lan(1)).proven
