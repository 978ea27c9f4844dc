"""What is retained and what was seen: the bounds, the window, and how two nodes compare."""

import hashlib
from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.core import history
from p2pd.core.history import MAX_SKEW, SLOTS, Account, History, Item
from p2pd.ids import NodeId
from p2pd.wire.messages import MAX_IDS, Signed, Slot

RETENTION = 600.0
WALL_MS = 1_700_000_000_000
MINUTE_MS = 60_000


def item(number: int, issued: int = WALL_MS, size: int = 1, account: Account = None) -> Item:
    message_id = hashlib.sha256(number.to_bytes(8)).digest()[:16]
    return Item(message_id, Signed(bytes(size), bytes(64)), NodeId(bytes(32)), issued, 1, account)


def made(*items: Item, seen_ttl: float = 600.0) -> History:
    made = History(retention=RETENTION, seen_ttl=seen_ttl)
    for each in items:
        made.add(each, 0.0)
    return made


# Within an hour, of few enough numbers and dates that sets overlap and slots hold several.
dates = st.integers(0, 12).map(lambda steps: WALL_MS - steps * 5 * MINUTE_MS)
items = st.builds(item, st.integers(0, 30), dates, st.integers(1, 50))
item_lists = st.lists(items, max_size=40, unique_by=lambda each: each.message_id)


@pytest.mark.parametrize(
    ("issued", "stale"),
    [
        (WALL_MS, False),
        (WALL_MS - round(RETENTION * 1000), False),
        (WALL_MS - round(RETENTION * 1000) - 1, True),
        (WALL_MS + round(MAX_SKEW * 1000), False),
        (WALL_MS + round(MAX_SKEW * 1000) + 1, True),
    ],
)
def test_only_what_was_issued_within_the_window_is_taken(issued: int, stale: bool) -> None:
    assert made().is_stale(issued, WALL_MS) is stale


def test_what_was_added_is_known_once() -> None:
    kept = made()
    assert kept.add(item(1), 0.0)
    assert not kept.add(item(1), 0.0)
    assert kept.has_seen(item(1).message_id)
    assert kept.get(item(1).message_id) == item(1)
    assert kept.get(item(2).message_id) is None


def test_what_is_past_the_retention_goes_but_stays_seen_for_its_time() -> None:
    kept = made(item(1, WALL_MS), item(2, WALL_MS + 5 * MINUTE_MS), seen_ttl=900.0)
    kept.expire(800.0, WALL_MS + 11 * MINUTE_MS)
    assert kept.get(item(1).message_id) is None
    assert kept.has_seen(item(1).message_id)
    assert kept.get(item(2).message_id) is not None
    kept.expire(900.0, WALL_MS + 11 * MINUTE_MS)
    assert not kept.has_seen(item(1).message_id)


def test_what_is_retained_stays_seen_however_short_the_memory() -> None:
    kept = made(item(1), seen_ttl=1.0)
    kept.expire(500.0, WALL_MS + MINUTE_MS)
    assert kept.has_seen(item(1).message_id)
    assert not kept.add(item(1), 500.0)


def test_what_lack_of_room_pushed_out_stays_seen_from_then_on() -> None:
    kept = made(item(1, WALL_MS - 1), seen_ttl=100.0)
    kept.expire(150.0, WALL_MS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_ITEMS", 1)
        kept.add(item(2), 150.0)
    kept.expire(240.0, WALL_MS)
    assert kept.get(item(1).message_id) is None
    assert kept.has_seen(item(1).message_id)


def test_nodes_that_expire_at_different_moments_still_agree() -> None:
    step = round(RETENTION * 1000 / SLOTS)
    each = [item(number, WALL_MS + number * step // 3) for number in range(9)]
    for late in range(0, 3 * step, step // 5):
        early, other = made(*each), made(*each)
        early.expire(0.0, WALL_MS + round(RETENTION * 1000) + late)
        assert set(early.slots()) <= set(other.slots())


@given(item_lists, st.integers(1, 12), st.integers(1, 300))
def test_the_newest_are_kept_within_the_bounds(
    added: list[Item], most_items: int, most_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_ITEMS", most_items)
        patch.setattr(history, "MAX_BYTES", most_bytes)
        kept = made(*added)
    left = [each for each in added if kept.get(each.message_id) is not None]
    gone = [each for each in added if kept.get(each.message_id) is None]
    assert len(left) == len(kept) <= most_items
    assert sum(len(each.signed.body) for each in left) == kept.size <= most_bytes
    assert all(kept.has_seen(each.message_id) for each in added)
    assert kept.slots() == made(*left).slots()
    if gone and len(left) < most_items:
        # Only a lack of bytes may have pushed out anything.
        assert sum(len(each.signed.body) for each in added) > most_bytes
    if all(len(each.signed.body) == 1 for each in added) and most_bytes >= most_items:
        newest = sorted(added, key=lambda each: (each.issued, each.message_id))[-most_items:]
        assert {each.message_id for each in left} == {each.message_id for each in newest}


@given(st.integers(1, 5), st.integers(1, 20))
def test_the_ids_seen_are_bounded(most: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_SEEN", most)
        patch.setattr(history, "MAX_ITEMS", 1)
        # Each is older than the one before, so that the first one is the one retained.
        kept = made(*(item(number, WALL_MS - number) for number in range(count)))
    seen = [number for number in range(count) if kept.has_seen(item(number).message_id)]
    assert seen == sorted({0, *range(max(0, count - most), count)})


@given(item_lists, st.integers(0, 80))
def test_what_expired_is_gone_and_what_is_fresh_is_there(added: list[Item], minutes: int) -> None:
    kept = made(*added)
    wall_ms = WALL_MS - 60 * MINUTE_MS + minutes * MINUTE_MS
    kept.expire(0.0, wall_ms)
    slack = round(RETENTION * 1000 / SLOTS)
    for each in added:
        age = wall_ms - each.issued
        if age <= RETENTION * 1000:
            assert kept.get(each.message_id) == each
        elif age > RETENTION * 1000 + slack:
            assert kept.get(each.message_id) is None


@given(item_lists, item_lists)
def test_slots_agree_if_and_only_if_the_ids_do(one: list[Item], other: list[Item]) -> None:
    # Of one ID there is one publication, so one time.
    issued = {each.message_id: each.issued for each in one + other}
    first = made(*(each for each in one if issued[each.message_id] == each.issued))
    second = made(*(each for each in other if issued[each.message_id] == each.issued))
    ids = [
        {each.message_id for each in one + other if kept.get(each.message_id)}
        for kept in (first, second)
    ]
    wide = len(first.slots()) >= MAX_IDS or len(second.slots()) >= MAX_IDS
    if not wide:
        assert (first.slots() == second.slots()) == (ids[0] == ids[1])
        assert ids[0] - ids[1] <= set(first.differing(second.slots()).newest(99)) <= ids[0]
    assert len(first.differing(first.slots())) == 0


@given(item_lists)
def test_slots_do_not_depend_on_the_order_of_arrival(added: list[Item]) -> None:
    assert made(*added).slots() == made(*reversed(added)).slots()
    numbers = [slot.number for slot in made(*added).slots()]
    assert numbers == sorted(set(numbers))


def test_a_slice_is_a_sixtieth_of_the_retention_rounded_up() -> None:
    """Nodes that round in different ways would never agree on a slice."""
    kept = History(retention=0.061 * SLOTS - 0.001, seen_ttl=1.0)
    kept.add(item(1), 0.0)
    assert [each.number for each in kept.slots()] == [WALL_MS // 61]


def test_a_digest_without_room_for_old_slots_says_nothing_of_them() -> None:
    step = round(RETENTION * 1000 / SLOTS)
    every = made(*(item(number, WALL_MS + number * step) for number in range(MAX_IDS + 6)))
    slots = every.slots()
    assert len(slots) == MAX_IDS
    assert slots[-1].number - slots[0].number == MAX_IDS - 1
    assert len(every.differing(slots)) == 0
    assert len(every.differing(slots[1:])) == 7
    assert len(every.differing((Slot(slots[0].number, bytes(16)), *slots[1:]))) == 1
    changed = (*slots[:-1], Slot(slots[-1].number, bytes(16)))
    assert every.differing(changed).newest(2) == [item(MAX_IDS + 5).message_id]


@pytest.mark.parametrize("bound", ["MAX_ITEMS", "MAX_BYTES"])
def test_who_floods_pushes_out_only_its_own(bound: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, bound, 100)
        patch.setattr(history, "MAX_SEEN", 200)
        quiet = [item(number, WALL_MS - 1000, account="quiet") for number in range(20)]
        kept = made(*quiet)
        for number in range(1000, 3000):
            kept.add(item(number, WALL_MS + number, account=None), 0.0)
    assert all(kept.get(each.message_id) for each in quiet)
    assert kept.get(item(2999).message_id) is not None
    assert len(kept) == 100
    # What is no longer retained stays seen as long as it may be replayed.
    kept.expire(1.0, WALL_MS + round(RETENTION * 1000))
    assert all(kept.has_seen(each.message_id) for each in quiet)


@pytest.mark.parametrize(
    ("bound", "most", "loser"), [("MAX_ITEMS", 25, "many"), ("MAX_BYTES", 319, "large")]
)
def test_who_has_most_of_what_there_is_too_much_of_loses_some(
    bound: str, most: int, loser: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, bound, most)
        many = [item(number, account="many") for number in range(20)]
        large = [item(100 + number, size=50, account="large") for number in range(6)]
        kept = made(*many, *large)
    lost = {"many": many, "large": large}[loser]
    assert sum(kept.get(each.message_id) is None for each in lost) == 1
    assert len(kept) == 25


def test_who_had_most_long_ago_loses_nothing_for_it() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_ITEMS", 20)
        kept = made(*(item(number, account="before") for number in range(20)))
        later = WALL_MS + 2 * round(RETENTION * 1000)
        kept.expire(1.0, later)
        fresh = item(100, later, account="before")
        kept.add(fresh, 1.0)
        for number in range(200, 220):
            kept.add(item(number, later, account="now"), 1.0)
    assert kept.get(fresh.message_id) == fresh


def test_what_was_pushed_out_counts_once_among_what_was_seen() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_ITEMS", 5)
        patch.setattr(history, "MAX_SEEN", 20)
        kept = made(*(item(number, account="before") for number in range(20)), seen_ttl=10.0)
        later = WALL_MS + 2 * round(RETENTION * 1000)
        kept.expire(10.0, later)
        for number in range(100, 130):
            kept.add(item(number, later, account=number), 10.0)
    assert sum(kept.has_seen(item(number).message_id) for number in range(100, 130)) == 20


def test_of_what_differs_the_newest_of_each_account_come_first() -> None:
    flood = [item(number, WALL_MS + number) for number in range(100)]
    others = [item(200 + number, WALL_MS, account=number // 2) for number in range(10)]
    ids = made(*flood, *others).differing(()).newest(200)
    assert {each.message_id for each in others} < set(ids[:13])
    assert ids[0] == flood[-1].message_id
    assert len(ids) == 110


@given(item_lists, items, st.integers(1, 12), st.integers(0, 5))
def test_what_differs_is_gone_through_from_a_place_to_the_oldest_and_on_from_the_newest(
    added: list[Item], start: Item, count: int, told: int
) -> None:
    places = sorted((each.issued, each.message_id) for each in added)
    place = start.issued, start.message_id
    before = [each for each in places if each < place]
    around = [*reversed(before), *reversed(places[len(before) :])]
    but = {each.message_id for each in added[:told]}
    expected = [each for each in around if each[1] not in but]
    assert made(*added).differing(()).before(place, count, but=but) == expected[:count]


@given(
    st.lists(items, max_size=40, unique_by=lambda each: each.message_id),
    st.lists(st.integers(0, 5), min_size=40, max_size=40),
    st.integers(1, 50),
)
def test_the_newest_of_each_account_come_first_however_few_are_asked_for(
    added: list[Item], accounts: list[int], count: int
) -> None:
    each_has = [attrs.evolve(one, account=who) for one, who in zip(added, accounts, strict=False)]
    each_has.sort(key=lambda each: (each.issued, each.message_id), reverse=True)
    ranks = Counter[Account]()
    ranked: list[tuple[int, int, bytes]] = []
    for number, one in enumerate(each_has):
        ranked.append((ranks[one.account], number, one.message_id))
        ranks[one.account] += 1
    expected = [message_id for *_, message_id in sorted(ranked)]
    assert made(*each_has).differing(()).newest(count) == expected[:count]
