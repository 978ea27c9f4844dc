"""Who compares with whom, and when: every other replica, soon where something changed."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.core.merkle import EVERYTHING, Prefix
from p2pd.core.tending import (
    AGAIN_AFTER,
    DISPLACED,
    MOST_FAILURES,
    RETRY,
    SMALL,
    SOON,
    TENDERS,
    Tending,
    Visit,
)
from p2pd.ids import distance

INTERVAL = 600.0


def sha256(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8)).digest()


def ordered(node: bytes, nodes: list[bytes]) -> list[bytes]:
    return sorted((each for each in nodes if each != node), key=lambda each: distance(each, node))


def tending(own_id: bytes, replication: int = 20) -> Tending:
    rng = random.Random(1)
    return Tending(own_id, replication=replication, interval=INTERVAL, rng=rng)


def made_until(machine: Tending, until: float) -> list[tuple[float, Visit]]:
    """Make all visits that fall due, each at its time, and return them."""
    made: list[tuple[float, Visit]] = []
    while (now := machine.next_due()) <= until:
        while (visit := machine.take(now)) is not None:
            made.append((now, visit))
            machine.made(visit, now, learned=False, gave=False)
    return made


def holds(visit: Visit, key: bytes) -> bool:
    return any(each.holds(key) for each in visit.prefixes)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 25), st.integers(0, 10_000))
def test_each_key_has_its_tenders_who_visit_all_its_replicas(
    count: int, replication: int, number: int
) -> None:
    # No two have more than five bits in common, so that no prefix is left uncut.
    nodes = [bytes([each << 2]) + sha256(each)[1:] for each in range(count)]
    key = sha256(1000 + number)
    closest = ordered(key, nodes)
    replicas = closest[:replication]
    for node in nodes:
        machine = tending(node, replication)
        machine.survey(ordered(node, nodes), 0.0, all_known=False)
        visits = [visit for _, visit in made_until(machine, 100.0)]
        ranks = [visit.rank for visit in visits if holds(visit, key)]
        visited = sorted(visit.peer for visit in visits if holds(visit, key))
        if node in replicas[:TENDERS]:
            assert visited == sorted(each for each in replicas if each != node)
            assert set(ranks) <= {closest.index(node)}
        else:
            assert visited == []


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 63), st.integers(5, 20), st.integers(0, 10_000))
def test_nobody_tends_keys_far_away_where_none_of_those_nearby_is_closer(
    count: int, near: int, number: int
) -> None:
    nodes = [bytes([each << 2]) + sha256(each)[1:] for each in range(count)]
    key = sha256(1000 + number)
    tenders = ordered(key, nodes)[:TENDERS]
    for node in nodes:
        machine, others = tending(node, 3), ordered(node, nodes)
        machine.survey(others[:near], 0.0, all_known=False, beyond=others[near:])
        assert any(each.holds(key) for each in machine.prefixes) is (node in tenders)


def test_the_second_closest_waits_for_the_first() -> None:
    nodes = [sha256(each) for each in range(10)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 50.0, all_known=False)
    made = made_until(machine, 100.0)
    assert {visit.rank for _, visit in made} == {0, 1}
    for at, visit in made:
        earliest, latest = SOON[visit.rank]
        assert 50.0 + earliest <= at <= 50.0 + latest


def test_what_is_known_is_compared_in_turn() -> None:
    nodes = [sha256(each) for each in range(SMALL)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=True)
    assert made_until(machine, 0.7 * INTERVAL) == []
    visits = [visit for _, visit in made_until(machine, 2.3 * INTERVAL)]
    assert len({id(visit) for visit in visits}) == len(machine)


def test_in_a_large_network_the_turn_comes_more_seldom() -> None:
    nodes = [sha256(each) for each in range(2000)]
    shares = []
    for own_id in nodes[:20]:
        machine = tending(own_id)
        machine.survey(ordered(own_id, nodes)[:28], 0.0, all_known=True)
        made = made_until(machine, 10 * INTERVAL)
        shares.append(len(made) / 10)
        peers = [visit.peer for _, visit in made]
        assert max(map(peers.count, peers)) <= 2
    # All together make as many visits as 32 nodes with 20 replicas each would.
    assert sum(shares) / len(shares) * 2000 < 3 * SMALL * TENDERS * 20


def test_only_what_is_new_is_due_after_a_change() -> None:
    nodes = [sha256(each) for each in range(60)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0], 5)
    machine.survey(near, 0.0, all_known=False)
    assert len(made_until(machine, 100.0)) == len(machine)
    machine.survey(near, 100.0, all_known=False)
    assert made_until(machine, 101.0) == []
    # The farthest of the replicas dies, and the next one becomes one.
    machine.survey([each for each in near if each != near[3]], 101.0, all_known=False)
    visits = [visit for _, visit in made_until(machine, 200.0)]
    assert visits
    assert near[2] not in {visit.peer for visit in visits if visit.rank == 0}


def test_after_a_death_whoever_was_never_visited_is_visited_soon_once() -> None:
    """The writer knew more nodes than this one, and gave the records to nearer ones."""
    nodes = [sha256(each) for each in range(60)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0], 5)
    machine.survey(near, 0.0, all_known=True)
    machine.survey(near, 1.0, all_known=False)
    assert made_until(machine, 100.0) == []
    for died in (near[3], near[10]):
        near = [each for each in near if each != died]
        machine.survey(near, 101.0, all_known=False)
    assert len(made_until(machine, 200.0)) == len(machine)
    near = [each for each in near if each != near[30]]
    machine.survey(near, 200.0, all_known=False)
    assert len(made_until(machine, 300.0)) < len(machine) / 2


def test_nodes_that_come_nearer_make_nobody_visit_the_others() -> None:
    nodes = [sha256(each) for each in range(60)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0])
    machine.survey([*near[:10], *near[11:29]], 0.0, all_known=True)
    machine.survey(near[:28], 1.0, all_known=False)
    visited = {visit.peer for _, visit in made_until(machine, 100.0)}
    assert near[10] in visited
    assert len(visited) < len({visit.peer for visit in machine._visits.values()}) / 2


def test_in_a_small_network_each_death_counts() -> None:
    nodes = [sha256(each) for each in range(12)]
    near = ordered(nodes[0], nodes)
    for died in near:
        machine = tending(nodes[0], 5)
        machine.survey(near, 0.0, all_known=True)
        machine.survey([each for each in near if each != died], 1.0, all_known=False)
        assert len(made_until(machine, 100.0)) == len(machine)


def test_the_death_of_the_closest_makes_the_second_tend_its_keys() -> None:
    nodes = [sha256(each) for each in range(60)]
    own_id = nodes[0]
    near = ordered(own_id, nodes)
    machine = tending(own_id, 5)
    machine.survey(near, 0.0, all_known=True)
    dead = near[0]
    machine.survey(near[1:], 1.0, all_known=False)
    visits = [visit for _, visit in made_until(machine, 100.0) if visit.rank == 0]
    replicas = ordered(dead, [each for each in nodes if each != dead])[:5]
    assert own_id in replicas
    if replicas[0] == own_id:
        assert {visit.peer for visit in visits if holds(visit, dead)} == set(replicas[1:])


def test_whom_newcomers_displace_brings_them_what_they_have_to_tend() -> None:
    nodes = [sha256(each) for each in range(30)]
    own_id = nodes[0]
    alone = tending(own_id, 5)
    alone.survey([], 0.0, all_known=False)
    assert alone.prefixes == [EVERYTHING]
    alone.survey(ordered(own_id, nodes), 1.0, all_known=False)
    brought = [visit for _, visit in made_until(alone, 100.0) if visit.rank == DISPLACED]
    for number in range(200):
        key = sha256(1000 + number)
        tenders = ordered(key, nodes)[:TENDERS]
        if own_id not in tenders:
            assert {visit.peer for visit in brought if holds(visit, key)} == set(tenders)
    assert [visit for _, visit in made_until(alone, 3 * INTERVAL) if visit.rank == DISPLACED] == []


def test_what_was_learned_makes_all_due_again() -> None:
    nodes = [sha256(each) for each in range(10)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=False)
    made_until(machine, 100.0)
    for learned, gave in ((True, False), (False, True)):
        machine.again(100.0, nodes[1])
        visit = machine.take(200.0)
        assert visit is not None
        assert visit.peer == nodes[1]
        machine.made(visit, 200.0, learned=learned, gave=gave)
        assert len(made_until(machine, 320.0)) >= len(machine)


@pytest.mark.parametrize("count", [2, 10, 30])
def test_who_brings_something_new_each_time_makes_nobody_visit_all_without_end(
    count: int,
) -> None:
    nodes = [sha256(each) for each in range(count)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=False)
    made: Counter[Visit] = Counter()
    while (now := machine.next_due()) < 3600.0:
        while (visit := machine.take(now)) is not None:
            made[visit] += 1
            machine.made(visit, now, learned=True, gave=True)
    # Some are made once more in their turn.
    rounds = 3600 / AGAIN_AFTER
    assert rounds <= min(made.values())
    assert max(made.values()) <= rounds + 3


def test_a_visit_is_not_made_twice_at_once_and_a_failed_one_is_repeated() -> None:
    nodes = [sha256(each) for each in range(2)]
    machine = tending(nodes[0])
    machine.survey([nodes[1]], 0.0, all_known=False)
    taken = [machine.take(100.0) for _ in range(3)]
    # It is the first and the second tender, but one peer.
    assert [visit is not None for visit in taken] == [True, False, False]
    assert machine.next_due() > 100.0
    pauses = []
    now = 100.0
    visit = taken[0]
    for _ in range(24):
        assert visit is not None
        machine.failed(visit, now)
        due = visit.due
        pauses.append(due - now)
        now = due
        visit = machine.take(now)
    assert pauses[0] < 20.0
    assert pauses[0] < pauses[3] < pauses[5] <= 1.25 * INTERVAL
    assert max(pauses) <= 1.25 * INTERVAL


def test_a_newcomer_that_can_not_be_reached_is_given_up() -> None:
    nodes = [sha256(each) for each in range(30)]
    machine = tending(nodes[0], 5)
    machine.survey([], 0.0, all_known=False)
    machine.survey(ordered(nodes[0], nodes), 1.0, all_known=False)
    tries: Counter[bytes] = Counter()
    while (now := machine.next_due()) < 3 * INTERVAL:
        while (visit := machine.take(now)) is not None:
            if visit.rank == DISPLACED:
                tries[visit.peer] += 1
                machine.failed(visit, now)
            else:
                machine.made(visit, now, learned=False, gave=False)
    assert set(tries.values()) == {MOST_FAILURES + 1}


def test_nobody_else_is_nothing_to_do() -> None:
    machine = tending(sha256(0))
    machine.survey([], 0.0, all_known=False)
    assert made_until(machine, 10 * INTERVAL) == []
    assert machine.prefixes == [Prefix()]


def test_every_node_of_a_small_network_visits_all_in_each_round() -> None:
    """However near its nearest neighbours happen to be."""
    nodes = [sha256(each) for each in range(SMALL)]
    for own_id in nodes:
        machine = tending(own_id)
        machine.survey(ordered(own_id, nodes), 0.0, all_known=True)
        # Two rounds may begin within this time, and all visits are made that one of them plans.
        visits = [visit for _, visit in made_until(machine, 2.3 * INTERVAL)]
        assert {id(visit) for visit in visits} == {id(each) for each in machine._visits.values()}
        assert machine.turn() == INTERVAL


def test_what_was_expected_to_be_lacking_makes_nobody_visit_the_others() -> None:
    nodes = [sha256(each) for each in range(10)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=False)
    made: Counter[Visit] = Counter()
    while (now := machine.next_due()) <= 200.0:
        while (visit := machine.take(now)) is not None:
            made[visit] += 1
            machine.made(visit, now, learned=False, gave=True)
    assert set(made.values()) == {1}
    # Now they have everything: if one lacks something again, others may, too.
    machine.again(200.0, nodes[1])
    visit = machine.take(300.0)
    assert visit is not None
    machine.made(visit, 300.0, learned=False, gave=True)
    assert {visit.peer for _, visit in made_until(machine, 400.0)} == {*nodes[1:]}


def test_what_became_a_peers_during_a_visit_is_expected_to_be_lacking_at_the_next_one() -> None:
    nodes = [sha256(each) for each in range(30)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0], 5)
    machine.survey(near, 0.0, all_known=True)
    machine.again(0.0, near[2])
    visit = machine.take(100.0)
    assert visit is not None
    before = visit.prefixes
    # Others die, and more keys are the peer's.
    machine.survey(near[2:], 100.0, all_known=False)
    assert visit.prefixes != before
    machine.made(visit, 100.0, learned=False, gave=False)
    assert_made_once(machine, gives=visit)


def test_what_was_not_brought_as_a_visit_failed_is_expected_to_be_lacking_still() -> None:
    nodes = [sha256(each) for each in range(10)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=False)
    visit = machine.take(4.0)
    assert visit is not None
    machine.failed(visit, 4.0)
    assert_made_once(machine, gives=visit)


def assert_made_once(machine: Tending, *, gives: Visit) -> None:
    """Make all visits that are due soon: what one of them gives makes none due again."""
    made: Counter[Visit] = Counter()
    while (now := machine.next_due()) <= 250.0:
        while (visit := machine.take(now)) is not None:
            made[visit] += 1
            machine.made(visit, now, learned=False, gave=visit is gives)
    assert made[gives] == 1
    assert set(made.values()) == {1}


def test_what_was_brought_to_those_who_displace_makes_nobody_visit_the_others() -> None:
    nodes = [sha256(each) for each in range(30)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0], 5)
    machine.survey(near[1:], 0.0, all_known=True)
    machine.survey(near, 1.0, all_known=False)
    made: Counter[Visit] = Counter()
    while (now := machine.next_due()) <= 100.0:
        while (visit := machine.take(now)) is not None:
            made[visit] += 1
            machine.made(visit, now, learned=False, gave=visit.rank == DISPLACED)
    brought = {visit.peer for visit in made if visit.rank == DISPLACED}
    # Who was there before has had them from this node already.
    assert brought == {near[0]}
    assert set(made.values()) == {1}


def test_who_displaced_this_node_is_brought_its_records_though_others_come_meanwhile() -> None:
    nodes = [sha256(each) for each in range(30)]
    near = ordered(nodes[0], nodes)

    def brought(*surveys: list[bytes]) -> set[bytes]:
        machine = tending(nodes[0], 5)
        machine.survey([], 0.0, all_known=False)
        for second, known in enumerate(surveys, start=1):
            machine.survey(known, float(second), all_known=False)
        made = made_until(machine, 100.0)
        return {visit.peer for _, visit in made if visit.rank == DISPLACED}

    first = brought(near[5:])
    assert first
    assert first <= brought(near[5:], near)


def test_one_death_after_another_puts_no_visit_off() -> None:
    nodes = [sha256(each) for each in range(60)]
    near = ordered(nodes[0], nodes)
    machine = tending(nodes[0], 5)
    machine.survey(near, 0.0, all_known=True)
    for second in range(1, 11):
        machine.survey(near[: len(near) - second], float(second), all_known=False)
    assert machine.next_due() <= 1.0 + SOON[0][1]


def test_failures_count_only_in_a_row() -> None:
    nodes = [sha256(each) for each in range(2)]
    machine = tending(nodes[0])
    machine.survey([nodes[1]], 0.0, all_known=False)
    visit = machine.take(100.0)
    assert visit is not None
    visit.failures = 10
    machine.made(visit, 100.0, learned=False, gave=False)
    machine.failed(visit, 100.0)
    assert visit.due < 100.0 + 2 * RETRY


def test_who_comes_back_while_a_visit_fails_is_visited_soon() -> None:
    nodes = [sha256(each) for each in range(2)]
    machine = tending(nodes[0])
    machine.survey([nodes[1]], 0.0, all_known=False)
    visit = machine.take(100.0)
    assert visit is not None
    visit.failures = 10
    machine.again(100.0, nodes[1])
    machine.failed(visit, 101.0)
    assert visit.due <= 100.0 + SOON[visit.rank][1]


def test_of_those_that_are_due_the_one_due_longest_comes_first() -> None:
    nodes = [sha256(each) for each in range(10)]
    machine = tending(nodes[0])
    machine.survey(ordered(nodes[0], nodes), 0.0, all_known=True)
    for peer, at in ((nodes[2], 50.0), (nodes[1], 0.0), (nodes[3], 50.0)):
        machine.again(at, peer)
    visit = machine.take(200.0)
    assert visit is not None
    assert visit.peer == nodes[1]
