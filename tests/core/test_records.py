"""Versions of a record: nothing is lost silently, and everybody comes to the same winner."""

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from p2pd.core.records import (
    MAX_CLOCK_AHEAD_MS,
    Version,
    clock_is_plausible,
    merge,
    next_clock,
    supersede,
    unexpired,
    version_of,
)
from p2pd.ids import Key
from p2pd.wire import codec
from p2pd.wire.messages import MAX_SIBLINGS, Record, Signed

KEY = Key.of("key")
NOW_MS = 1_700_000_000_000


def version(record: Record) -> Version:
    return version_of(Signed(codec.encode(record), bytes(64)), record)


def write(
    seen: Sequence[Version], value: bytes | None = b"value", now_ms: int = NOW_MS, writer: int = 0
) -> Version:
    record = supersede(
        list(seen), key=KEY, value=value, writer=bytes([writer] * 32), now_ms=now_ms, expires=0
    )
    return version(record)


def apart(count: int) -> list[Version]:
    """Return versions by writers who saw nothing."""
    return [write([], b"%d" % each, writer=each) for each in range(count)]


def in_a_row(count: int) -> list[Version]:
    """Return versions of which each saw the one before it."""
    row = [write([], b"0")]
    while len(row) < count:
        row.append(write(row[-1:], b"%d" % len(row)))
    return row


@st.composite
def histories(draw: st.DrawFn, most: int) -> list[Version]:
    """Draw versions whose writers saw any of the earlier ones, with clocks all over the place."""
    made: list[Version] = []
    for index in range(draw(st.integers(0, most))):
        seen = draw(st.lists(st.sampled_from(made), max_size=3, unique=True)) if made else []
        when = NOW_MS + draw(st.integers(-5, 5))
        made.append(write(merge(seen), b"%d" % index, when, writer=index))
    return made


def groups(draw: st.DataObject, versions: Sequence[Version]) -> list[list[Version]]:
    parts = [draw.draw(st.sets(st.sampled_from(versions))) if versions else set() for _ in "abc"]
    return [sorted(part, key=lambda each: each.name) for part in parts]


def union(*parts: Iterable[Version]) -> list[Version]:
    return [each for part in parts for each in part]


@given(histories(30), st.data())
def test_the_order_of_arrival_is_no_matter(made: list[Version], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(made))
    assert merge(shuffled) == merge(made)


@given(histories(30))
def test_merging_again_changes_nothing(made: list[Version]) -> None:
    once = merge(made)
    assert merge(once) == once
    assert merge([*once, *once]) == once


@given(histories(MAX_SIBLINGS + 1), st.data())
def test_grouping_is_no_matter_while_successors_name_all_before_them(
    made: list[Version], data: st.DataObject
) -> None:
    a, b, c = groups(data, made)
    together = merge(union(a, b, c))
    assert merge([*merge(union(a, b)), *merge(c)]) == together
    assert merge([*merge(a), *merge(union(b, c))]) == together


@given(st.integers(0, 2 * MAX_SIBLINGS), st.data())
def test_grouping_is_no_matter_for_any_number_of_siblings(count: int, data: st.DataObject) -> None:
    a, b, c = groups(data, apart(count))
    together = merge(union(a, b, c))
    assert merge([*merge(union(a, b)), *merge(c)]) == together
    assert len(together) == min(MAX_SIBLINGS, len({*a, *b, *c}))


@given(histories(40), st.data())
def test_the_winner_is_the_same_whatever_the_grouping(
    made: list[Version], data: st.DataObject
) -> None:
    a, b, c = groups(data, made)
    together = merge(union(a, b, c))[:1]
    assert merge([*merge(union(a, b)), *merge(c)])[:1] == together
    assert merge([*merge(a), *merge(union(b, c))])[:1] == together
    assert together == sorted(union(a, b, c), key=lambda each: each.rank, reverse=True)[:1]


def test_a_version_further_back_than_names_reach_comes_back_but_never_wins() -> None:
    """The limit of naming: with more versions in between, a replica's old one is a sibling."""
    row = in_a_row(MAX_SIBLINGS + 2)
    assert merge([row[-1], row[1]]) == [row[-1]]
    assert merge([row[-1], row[0]]) == [row[-1], row[0]]


def test_what_was_dropped_at_the_bound_does_not_supersede_any_more() -> None:
    """The limit of the bound: a dropped version's predecessor may come back, but never wins."""
    old = write([], b"old", NOW_MS - 2)
    dropped = write([old], b"dropped", NOW_MS - 1)
    crowd = apart(MAX_SIBLINGS)
    later = write(crowd, b"later")
    assert merge([dropped, *crowd]) == merge(crowd)
    assert merge([*merge([dropped, *crowd]), later, old]) == [later, old]
    assert merge([dropped, *crowd, later, old]) == [later, dropped]


def test_who_saw_it_replaces_it() -> None:
    first = write([])
    second = write([first], b"second")
    assert merge([first, second]) == [second]
    assert merge([second, first]) == [second]


def test_who_did_not_see_it_stands_beside_it() -> None:
    one, other = apart(2)
    assert {*merge([one, other])} == {one, other}
    both = write([one, other], b"both")
    assert merge([one, other, both]) == [both]


def test_a_replica_that_missed_some_writes_brings_nothing_back() -> None:
    value, changed = in_a_row(2)
    deleted = write([changed], None)
    assert merge([deleted, value]) == [deleted]


def test_the_versions_seen_are_named_before_those_that_they_named() -> None:
    crowd = apart(MAX_SIBLINGS)
    children = [write([each], b"child", writer=index) for index, each in enumerate(crowd)]
    grandchild = write(children, b"grandchild")
    assert {*grandchild.record.supersedes} == {each.name for each in children}
    row = in_a_row(4)
    assert list(row[3].record.supersedes) == [row[2].name, row[1].name, row[0].name]


def test_what_is_written_is_a_record_that_travels() -> None:
    for each in [*in_a_row(20), write(apart(MAX_SIBLINGS)), write([], None)]:
        assert codec.decode(Record, each.signed.body) == each.record
        assert each.record.key == KEY


@given(histories(12), st.integers(NOW_MS - 10, NOW_MS + 10))
def test_a_new_clock_is_above_all_seen_and_not_behind_the_wall(
    seen: list[Version], now_ms: int
) -> None:
    clock = next_clock(seen, now_ms)
    assert all(clock > each.record.clock for each in seen)
    assert clock >> 16 >= now_ms


def test_a_clock_that_was_set_back_still_writes_winners() -> None:
    before = write([], b"before", NOW_MS)
    after = write([before], b"after", NOW_MS - 3_600_000)
    assert after.rank > before.rank
    assert next_clock([], NOW_MS) == NOW_MS << 16


def test_a_clock_is_plausible_up_to_a_day_ahead() -> None:
    edge = write([], now_ms=NOW_MS + MAX_CLOCK_AHEAD_MS).record
    beyond = write([], now_ms=NOW_MS + MAX_CLOCK_AHEAD_MS + 1).record
    assert clock_is_plausible(edge, NOW_MS)
    assert not clock_is_plausible(beyond, NOW_MS)
    assert clock_is_plausible(write([], now_ms=0).record, NOW_MS)


def test_what_is_past_its_time_is_left_out() -> None:
    def expiring(at: int) -> Version:
        return version(Record(KEY, b"v", bytes(32), 1, (), at))

    kept = [expiring(0), expiring(NOW_MS + 1)]
    assert unexpired([expiring(1), expiring(NOW_MS), *kept], NOW_MS) == kept


def test_a_version_is_named_after_what_was_signed() -> None:
    one, other = apart(2)
    assert one.name != other.name
    assert version(one.record).name == one.name
    resigned = version_of(Signed(one.signed.body, b"\1" * 64), one.record)
    assert resigned.name == one.name
