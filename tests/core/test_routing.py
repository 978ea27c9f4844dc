"""The routing table: buckets that keep who answers, and let go only for somebody waiting."""

import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pd.core.routing import (
    MAX_FAILURES,
    MAX_IN_BUCKET,
    MAX_IN_TABLE,
    MOST_NEAR,
    RoutingTable,
)
from p2pd.ids import ID_BITS, NodeId, closest_first, distance, distance_bits
from p2pd.wire.messages import Signed

OWN = NodeId(bytes(32))
K = 3


def node(prefix: int, tail: int = 0) -> NodeId:
    """Make an ID in the bucket that the first byte decides."""
    return NodeId(bytes([prefix]) + bytes(30) + bytes([tail]))


def signed(mark: int = 0) -> Signed:
    return Signed(b"record %d" % mark, bytes(64))


def members(table: RoutingTable) -> list[NodeId]:
    return [contact.node_id for contact in table]


def surrounded() -> RoutingTable:
    """Make a table with K contacts so near that all buckets farther away are bounded by K."""
    table = RoutingTable(OWN, K)
    for tail in range(1, K + 1):
        table.heard_from(node(0, tail), signed())
    return table


def far(table: RoutingTable) -> list[NodeId]:
    return [each for each in members(table) if distance_bits(OWN, each) == ID_BITS]


# All in bucket 256, so that it overflows.
FAR = [node(0x80, tail) for tail in range(1, 12)]

few_ids = st.builds(node, st.sampled_from([0x80, 0x81, 0x40, 0x01, 0]), st.integers(0, 9))
any_ids = st.binary(min_size=32, max_size=32).map(NodeId)


class Table(RuleBasedStateMachine):
    """Any sequence of signs of life and failures, against what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(OWN, K)
        self.heard: dict[NodeId, Signed] = {}
        self.silent: defaultdict[NodeId, int] = defaultdict(int)
        self.clock = 0

    @rule(node_id=few_ids)
    def hear(self, node_id: NodeId) -> None:
        self.clock += 1
        before = set(members(self.table))
        record = signed(self.clock)
        self.heard[node_id] = record
        self.silent[node_id] = 0
        self.table.heard_from(node_id, record)
        self.gone_only_after_failures(before)

    @rule(node_id=few_ids)
    def fail(self, node_id: NodeId) -> None:
        before = members(self.table)
        self.silent[node_id] += 1
        self.table.failed(node_id)
        self.gone_only_after_failures(set(before))
        assert len(self.table) == len(before)

    def gone_only_after_failures(self, before: set[NodeId]) -> None:
        now = set(members(self.table))
        gone = before - now
        assert all(self.silent[each] >= MAX_FAILURES for each in gone)
        buckets = [distance_bits(OWN, each) for each in now - before]
        for each in gone:
            assert distance_bits(OWN, each) in buckets

    @invariant()
    def buckets_are_bounded(self) -> None:
        sizes: defaultdict[int, int] = defaultdict(int)
        for each in members(self.table):
            sizes[distance_bits(OWN, each)] += 1
        assert all(size <= MOST_NEAR * K for size in sizes.values())
        assert len(self.table) == len(set(members(self.table)))
        assert OWN not in members(self.table)

    @invariant()
    def each_has_its_latest_record(self) -> None:
        assert all(contact.signed == self.heard[contact.node_id] for contact in self.table)

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        heard: defaultdict[int, set[NodeId]] = defaultdict(set)
        for each in self.heard:
            if each != OWN:
                heard[distance_bits(OWN, each)].add(each)
        for bits, known in heard.items():
            inside = [each for each in members(self.table) if distance_bits(OWN, each) == bits]
            assert len(inside) >= min(len(known), K)


TestTable = Table.TestCase


@given(st.sets(any_ids, max_size=60), any_ids, st.integers(0, 25))
def test_the_closest_are_the_closest(known: set[NodeId], target: NodeId, count: int) -> None:
    table = RoutingTable(OWN, 20)
    for each in sorted(known):
        table.heard_from(each, signed())
    expected = sorted(members(table), key=lambda each: distance(each, target))[:count]
    assert [each.node_id for each in table.closest(target, count)] == expected


@given(st.integers(0, 2**32), st.sampled_from([30, 100, 300]), any_ids)
@settings(max_examples=30)
def test_the_two_closest_to_a_key_know_all_its_replicas(seed: int, count: int, key: NodeId) -> None:
    rng = random.Random(seed)
    nodes = [NodeId(rng.randbytes(32)) for _ in range(count)]
    replicas = closest_first(nodes, key)[:20]
    for tender in replicas[:2]:
        table = RoutingTable(tender, 20)
        for each in rng.sample(nodes, count):
            table.heard_from(each, signed())
        known = [tender, *members(table)]
        assert closest_first(known, key)[:20] == replicas


def test_of_those_nearby_more_than_k_are_kept_but_not_all() -> None:
    crowd = [node(0x80, tail) for tail in range(MOST_NEAR * K + 1)]
    table = RoutingTable(OWN, K)
    for tail in range(1, K):
        table.heard_from(node(0, tail), signed())
    for each in crowd:
        table.heard_from(each, signed())
    assert far(table) == crowd[:-1]
    # With one more that is nearer it is a bucket like all others.
    table = surrounded()
    for each in crowd:
        table.heard_from(each, signed())
    assert far(table) == crowd[:K]
    # One that is nearer is gone: whoever waits is taken when it is heard from.
    for _ in range(MAX_FAILURES):
        table.failed(node(0, 1))
    table.heard_from(crowd[-1], signed())
    assert far(table) == [*crowd[:K], crowd[-1]]


def test_who_fails_nearby_makes_room_before_there_is_more() -> None:
    table = RoutingTable(OWN, K)
    for each in FAR[:K]:
        table.heard_from(each, signed())
    for _ in range(MAX_FAILURES):
        table.failed(FAR[0])
    table.heard_from(FAR[K], signed())
    assert far(table) == FAR[1 : K + 1]


def test_who_is_first_stays_while_it_answers() -> None:
    table = surrounded()
    for each in FAR:
        table.heard_from(each, signed())
    assert far(table) == FAR[:K]


def test_a_failing_contact_stays_while_nobody_waits() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed())
    for _ in range(20):
        for each in FAR[:K]:
            table.failed(each)
    assert far(table) == FAR[:K]


def test_a_newcomer_takes_the_place_of_one_that_was_failing() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed())
    for _ in range(MAX_FAILURES):
        table.failed(FAR[1])
    table.heard_from(FAR[K], signed())
    assert sorted(far(table)) == sorted({*FAR[: K + 1]} - {FAR[1]})


def test_the_one_heard_from_last_moves_up() -> None:
    table = surrounded()
    for each in FAR[: K + 3]:
        table.heard_from(each, signed())
    table.heard_from(FAR[K], signed())
    for _ in range(MAX_FAILURES):
        assert FAR[0] in far(table)
        table.failed(FAR[0])
    assert sorted(far(table)) == sorted({*FAR[:K], FAR[K]} - {FAR[0]})


def test_a_sign_of_life_forgives_failures() -> None:
    table = surrounded()
    for each in FAR[: K + 1]:
        table.heard_from(each, signed())
    for _ in range(5):
        for _ in range(MAX_FAILURES - 1):
            table.failed(FAR[0])
        table.heard_from(FAR[0], signed())
    assert FAR[0] in far(table)


def test_who_fails_while_waiting_waits_no_more() -> None:
    table = surrounded()
    for each in FAR[: K + 1]:
        table.heard_from(each, signed())
    table.failed(FAR[K])
    for _ in range(MAX_FAILURES):
        table.failed(FAR[0])
    assert far(table) == FAR[:K]


def test_only_so_many_wait_and_the_longest_unheard_goes() -> None:
    table = surrounded()
    for each in FAR[: 2 * K + 1]:
        table.heard_from(each, signed())
    for contact in [*FAR[:K], *FAR[K + 1 : 2 * K + 1]]:
        for _ in range(MAX_FAILURES):
            table.failed(contact)
    assert sorted(far(table)) == FAR[K + 1 : 2 * K + 1]


def test_strangers_that_fail_are_no_matter() -> None:
    table = RoutingTable(OWN, K)
    table.failed(FAR[0])
    table.heard_from(OWN, signed())
    table.failed(OWN)
    assert len(table) == 0


def test_a_range_in_which_nothing_was_looked_up_is_refreshed() -> None:
    table = RoutingTable(OWN, K, now=100)
    table.heard_from(node(0x80), signed())
    table.heard_from(node(0x01), signed())
    rng = random.Random(1)
    assert not table.to_refresh(100, rng)
    table.looked_up(node(0x81), 200)
    [target] = table.to_refresh(150, rng)
    assert distance_bits(OWN, target) == distance_bits(OWN, node(0x01))
    assert len(table.to_refresh(300, rng)) == 2


def test_the_radius_is_that_of_so_many_neighbours() -> None:
    table = RoutingTable(OWN, K)
    assert table.radius(1) == 2**256
    for each in (0x01, 0x02, 0x04, 0x80):
        table.heard_from(node(each), signed())
    assert table.radius(3) == distance(OWN, node(0x04))
    assert table.radius(5) == 2**256


def test_the_closest_but_for_some() -> None:
    table = RoutingTable(OWN, K)
    for each in (0x01, 0x02, 0x04):
        table.heard_from(node(each), signed())
    found = table.closest(OWN, 2, but_for=lambda each: each == node(0x02))
    assert [each.node_id for each in found] == [node(0x01), node(0x04)]


def test_one_network_has_few_places_in_a_bucket() -> None:
    table = RoutingTable(OWN, 10)
    for each in FAR[:5]:
        table.heard_from(each, signed(), network="192.0.2.0/24")
    assert members(table) == FAR[:MAX_IN_BUCKET]
    table.heard_from(FAR[6], signed(), network="198.51.100.0/24")
    table.heard_from(FAR[7], signed())
    assert members(table) == [*FAR[:MAX_IN_BUCKET], FAR[6], FAR[7]]


def test_one_network_has_few_places_in_the_table() -> None:
    table = RoutingTable(OWN, K)
    for number in range(30):
        table.heard_from(NodeId((1 << (255 - number)).to_bytes(32)), signed(), network="n")
    assert len(table) == MAX_IN_TABLE


def test_one_network_has_few_places_also_for_those_that_move_there() -> None:
    table = RoutingTable(OWN, K)
    nodes = [NodeId((1 << (255 - number)).to_bytes(32)) for number in range(MAX_IN_TABLE + 5)]
    for number, each in enumerate(nodes):
        table.heard_from(each, signed(), network=f"n{number}")
    for each in nodes:
        table.heard_from(each, signed(), network="n")
    assert len(table) == MAX_IN_TABLE


def test_who_waits_takes_the_place_of_who_moved_to_a_network_that_has_enough() -> None:
    table = surrounded()
    moves, waits = node(0x80, 1), node(0x80, 9)
    table.heard_from(moves, signed())
    for tail in range(2, K + 1):
        table.heard_from(node(0x80, tail), signed(), network="198.51.100.0/24")
    table.heard_from(waits, signed())
    table.heard_from(moves, signed(), network="198.51.100.0/24")
    assert moves not in members(table)
    assert waits in members(table)


def test_who_waits_takes_no_place_that_its_network_must_not_have() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed())
    table.heard_from(FAR[K + 1], signed())
    table.heard_from(FAR[K], signed(), network="n")
    for number in range(2, 30):
        table.heard_from(NodeId((1 << (255 - number)).to_bytes(32)), signed(), network="n")
    for _ in range(MAX_FAILURES):
        table.failed(FAR[0])
    assert FAR[K] not in far(table)
    assert FAR[K + 1] in far(table)


def test_who_never_was_dialled_yields_to_who_was_and_leaves_when_it_fails() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed(), dialable=False)
    table.heard_from(FAR[K], signed())
    assert far(table) == [*FAR[1:K], FAR[K]]
    table.heard_from(FAR[1], signed(), dialable=True)
    for _ in range(MAX_FAILURES):
        table.failed(FAR[1])
        table.failed(FAR[2])
    assert far(table) == [FAR[K], FAR[1]]


def test_the_one_heard_least_recently_is_probed_if_another_waits() -> None:
    table = surrounded()
    for now, each in enumerate(FAR[:K], 1):
        table.heard_from(each, signed(), now)
    table.heard_from(node(0x40), signed(), 1)
    table.heard_from(node(0x20), signed(), 1, dialable=False)
    assert [each.node_id for each in table.to_probe(5)] == [node(0x20)]
    table.heard_from(FAR[K], signed(), 9)
    assert [each.node_id for each in table.to_probe(5)] == [FAR[0], node(0x20)]
    table.heard_from(FAR[0], signed(), 9)
    table.heard_from(node(0x20), signed(), 9)
    assert [each.node_id for each in table.to_probe(5)] == [FAR[1]]
    assert table.to_probe(1) == []


def test_who_was_dialled_once_stays_so_when_it_is_the_one_that_dials() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed())
    table.heard_from(FAR[0], signed(), dialable=False)
    table.heard_from(FAR[K], signed())
    assert FAR[0] in far(table)


def test_who_never_was_dialled_stays_while_it_is_connected() -> None:
    table = surrounded()
    for each in FAR[:2]:
        table.heard_from(each, signed(), dialable=False)
    for _ in range(MAX_FAILURES):
        table.failed(FAR[0], connected=True)
        table.failed(FAR[1])
    assert far(table) == [FAR[0]]


def test_one_network_has_few_places_among_those_that_wait() -> None:
    table = surrounded()
    for each in FAR[:K]:
        table.heard_from(each, signed())
    waiting = FAR[K : 2 * K]
    assert len(waiting) > MAX_IN_BUCKET
    for each in waiting:
        table.heard_from(each, signed(), network="n")
    for each in FAR[:K]:
        for _ in range(MAX_FAILURES):
            table.failed(each)
    assert [each for each in far(table) if each in waiting] == waiting[:MAX_IN_BUCKET][::-1]
