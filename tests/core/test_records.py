"""Versions of a record: nothing is lost silently, and everybody comes to the same winner."""

import random
from collections.abc import Iterable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.core import records
from p2pd.core.records import (
    GRACE_MS,
    MAX_CLOCK_AHEAD_MS,
    READERS_MARGIN_MS,
    Author,
    Version,
    actor_of,
    clock_is_plausible,
    gone_at_ms,
    is_hidden,
    kept,
    living,
    merge,
    version_of,
)
from p2pd.ids import Key, NodeId
from p2pd.wire import codec
from p2pd.wire.messages import MAX_SEEN, MAX_SIBLINGS, Record, Seen, Signed

NOW_MS = 1_700_000_000_000


def author(number: int) -> Author:
    return Author(bytes([number] * 32), random.Random(number).randbytes)


def version(record: Record) -> Version:
    return version_of(Signed(codec.encode(record), bytes(64)), record)


def write(
    by: Author,
    seen: Sequence[Version] = (),
    value: bytes | None = b"value",
    *,
    now_ms: int = NOW_MS,
    expires: int = 0,
    name: str = "key",
    owned: bool = False,
) -> Version:
    return version(
        by.supersede(seen, name=name, owned=owned, value=value, now_ms=now_ms, expires=expires)
    )


def apart(count: int) -> list[Version]:
    """Return versions by writers who saw nothing."""
    return [write(author(each), value=b"%d" % each) for each in range(count)]


@st.composite
def histories(draw: st.DrawFn, most: int) -> list[Version]:
    """Draw versions whose writers saw any of the earlier ones, with clocks all over the place."""
    made: list[Version] = []
    writers = [author(number) for number in range(4)]
    for index in range(draw(st.integers(0, most))):
        seen = draw(st.lists(st.sampled_from(made), max_size=3, unique=True)) if made else []
        when = NOW_MS + draw(st.integers(-5, 5))
        by = draw(st.sampled_from(writers))
        made.append(write(by, merge(seen), b"%d" % index, now_ms=when))
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


@given(histories(40), st.data())
def test_grouping_is_no_matter(made: list[Version], data: st.DataObject) -> None:
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


@given(histories(40))
def test_a_version_is_covered_only_by_one_made_after_it(made: list[Version]) -> None:
    """What no later writer saw, and its own writer did not replace, stands."""
    standing = merge(made)
    for index, each in enumerate(made):
        later = made[index + 1 :]
        replaced = any(
            other.actor == each.actor or any(seen.actor == each.actor for seen in other.record.seen)
            for other in later
        )
        assert replaced or each in standing


@pytest.mark.parametrize("missed", [1, 10, 1000])
def test_a_replica_that_missed_any_number_of_writes_brings_nothing_back(missed: int) -> None:
    one, other = author(1), author(2)
    old = latest = write(one)
    for number in range(missed):
        latest = write((one, other)[number % 2], [latest], b"%d" % number)
    deleted = write(other, [latest], None)
    assert merge([deleted, old]) == [deleted]


def test_who_saw_it_replaces_it() -> None:
    first = write(author(1))
    second = write(author(2), [first], b"second")
    assert merge([first, second]) == merge([second, first]) == [second]


def test_who_did_not_see_it_stands_beside_it() -> None:
    one, other = apart(2)
    assert {*merge([one, other])} == {one, other}
    both = write(author(3), [one, other], b"both")
    assert merge([one, other, both]) == [both]


def test_an_author_replaces_its_own_version_although_it_could_not_read_it() -> None:
    by = author(1)
    seen = write(author(2))
    first = write(by, [seen])
    second = write(by)
    assert merge([seen, first, second]) == [second]


def test_a_writer_that_restarted_replaces_nothing_unseen() -> None:
    """Even with a clock set back: as another actor, it stands beside what it did not see."""
    key = bytes([1] * 32)
    before = write(Author(key, random.Random(1).randbytes))
    after = write(Author(key, random.Random(2).randbytes), now_ms=NOW_MS - 3_600_000)
    reader = write(author(9), [before])
    assert {*merge([before, after])} == {before, after}
    assert {*merge([after, reader])} == {after, reader}


def test_nobody_can_pose_as_another_actor() -> None:
    by, liar = author(1), author(2)
    mine = write(by)
    posing = write(liar).record
    forged = version(
        Record(
            name_digest=posing.name_digest,
            owned=False,
            value=b"x",
            writer=posing.writer,
            instance=mine.record.instance,
            clock=mine.record.clock + 1,
            seen=(),
            expires=0,
        )
    )
    assert {*merge([mine, forged])} == {mine, forged}
    assert mine.actor == actor_of(mine.record.writer, mine.record.instance)


def test_an_author_of_very_many_keys_goes_on_as_a_new_actor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_REMEMBERED", 3)
    by = author(1)
    made = [write(by, name=f"k{number}") for number in range(4)]
    assert made[0].actor == made[2].actor != made[3].actor
    unseen = write(by, name="k0")
    assert {*merge([made[0], unseen])} == {made[0], unseen}
    assert merge([made[0], write(by, [made[0]], name="k0")])[0].actor == made[3].actor


def test_an_author_that_remembers_as_much_as_it_can_still_replaces_its_own_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_REMEMBERED", 2)
    by = author(1)
    first, _ = write(by, name="k0"), write(by, name="k1")
    unseen = write(by, name="k0")
    assert merge([first, unseen]) == [unseen]


def test_an_author_whose_clock_was_far_ahead_goes_on_as_a_new_actor() -> None:
    by = author(1)
    ahead = write(by, now_ms=NOW_MS + 2 * MAX_CLOCK_AHEAD_MS)
    later = write(by)
    assert clock_is_plausible(later.record, NOW_MS)
    assert later.actor != ahead.actor


def test_at_its_bound_a_vector_keeps_what_was_there_and_who_wrote_last() -> None:
    latest = write(author(0))
    for number in range(1, MAX_SEEN + 3):
        latest = write(author(number), [latest])
    assert len(latest.record.seen) == MAX_SEEN
    first, recent = write(author(0)), write(author(MAX_SEEN))
    assert merge([latest, recent]) == [latest]
    # The bound, as it is documented: the actor that wrote longest ago is forgotten.
    assert merge([latest, first]) == [latest, first]
    crowd = apart(MAX_SIBLINGS)
    late = write(author(99), [*crowd, latest], now_ms=NOW_MS + 10)
    assert merge([*crowd, latest, late]) == [late]


def test_at_its_bound_a_vector_names_the_writers_own_latest_version() -> None:
    """Else what it wrote earlier might come back beside what it writes now, or deletes."""
    mine, other = author(100), author(101)
    earlier = write(mine)
    crowd = [write(author(each), now_ms=NOW_MS + 10) for each in range(MAX_SEEN)]
    flood = write(other, [earlier, *crowd], now_ms=NOW_MS + 10)
    assert earlier.actor not in {each.actor for each in flood.record.seen}
    deletion = write(mine, [flood], None, now_ms=NOW_MS + 20)
    assert merge([earlier, flood, deletion]) == [deletion]


def test_what_is_written_is_a_record_that_travels() -> None:
    by = author(5)
    row = [write(by)]
    for number in range(20):
        row.append(write(by, row[-1:], b"%d" % number))
    for each in [*row, write(by, apart(MAX_SIBLINGS)), write(by, [], None)]:
        assert codec.decode(Record, each.signed.body) == each.record
        assert each.key == Key.of("key")


def test_who_loses_its_place_to_what_no_reader_takes_is_hidden() -> None:
    ahead_ms = NOW_MS + MAX_CLOCK_AHEAD_MS - 60_000
    ahead = [write(author(each), now_ms=ahead_ms) for each in range(MAX_SIBLINGS)]
    late = write(author(100))
    assert is_hidden(late, merge([*ahead, late]), NOW_MS)
    assert not is_hidden(late, merge([*ahead[1:], late]), NOW_MS)
    # By then readers take what hides it, and see that it was overwritten.
    assert not is_hidden(late, ahead, NOW_MS + READERS_MARGIN_MS)
    assert not is_hidden(late, [*ahead, write(author(101), [late])], NOW_MS)


def test_an_owned_key_is_one_for_each_owner() -> None:
    one, other = author(1), author(2)
    mine = write(one, owned=True)
    assert mine.key == Key.of("key", NodeId.of(mine.record.writer))
    assert len({mine.key, write(other, owned=True).key, write(one).key}) == 3


def test_what_is_written_under_an_owned_key_replaces_nothing_under_the_shared_one() -> None:
    by = author(1)
    write(by)
    assert write(by, owned=True).record.seen == ()


@given(histories(12), st.integers(NOW_MS - 10, NOW_MS + 10))
def test_a_new_clock_is_above_all_seen_and_not_behind_the_wall(
    seen: list[Version], now_ms: int
) -> None:
    by = author(9)
    first, second = (write(by, seen, now_ms=now_ms).record.clock for _ in range(2))
    assert all(first > each.record.clock for each in seen)
    assert first >> 16 >= now_ms
    assert second > first


def test_what_is_dated_ahead_under_one_key_dates_nothing_under_others() -> None:
    by = author(1)
    ahead = write(author(2), now_ms=NOW_MS + MAX_CLOCK_AHEAD_MS // 2)
    assert write(by, [ahead]).record.clock > ahead.record.clock
    assert write(by, name="other").record.clock >> 16 == NOW_MS


def test_a_clock_that_was_set_back_still_writes_winners() -> None:
    before = write(author(1), value=b"before")
    after = write(author(2), [before], b"after", now_ms=NOW_MS - 3_600_000)
    assert after.rank > before.rank


def test_a_clock_is_plausible_up_to_a_day_ahead() -> None:
    edge = write(author(1), now_ms=NOW_MS + MAX_CLOCK_AHEAD_MS).record
    beyond = write(author(2), now_ms=NOW_MS + MAX_CLOCK_AHEAD_MS + 1).record
    assert clock_is_plausible(edge, NOW_MS)
    assert not clock_is_plausible(beyond, NOW_MS)
    assert clock_is_plausible(write(author(3), now_ms=0).record, NOW_MS)


def test_what_is_past_its_time_or_deleted_is_not_living() -> None:
    now_there = [write(author(1)), write(author(2), expires=NOW_MS + 1)]
    gone = [
        write(author(3), expires=NOW_MS),
        write(author(4), now_there, None),
        # By a clock that is ahead of ours.
        write(author(5), now_there, None, now_ms=NOW_MS + 60_000),
    ]
    assert living([*gone, *now_there], NOW_MS) == now_there


def test_what_replaced_something_is_kept_long_after_its_end() -> None:
    """Else a replica that missed it could bring back what it replaced."""
    fresh = write(author(1), expires=NOW_MS)
    replacing = write(author(2), [fresh], expires=NOW_MS)
    deleting = write(author(3), [replacing], None)
    assert gone_at_ms(fresh.record) == NOW_MS
    assert gone_at_ms(replacing.record) == gone_at_ms(deleting.record) == NOW_MS + GRACE_MS
    assert gone_at_ms(write(author(4)).record) is None
    everything = [fresh, replacing, deleting]
    assert kept(everything, NOW_MS) == [replacing, deleting]
    assert kept(everything, NOW_MS + GRACE_MS) == []


def test_a_version_is_named_after_what_was_signed() -> None:
    one, other = apart(2)
    assert one.name != other.name
    assert version(one.record).name == one.name
    resigned = version_of(Signed(one.signed.body, b"\1" * 64), one.record)
    assert resigned.name == one.name


def test_who_is_shown_less_than_it_wrote_over_is_told_so() -> None:
    mine, others, key = author(1), author(2), Key.of("key")
    first = write(others)
    second = write(others, [first])
    assert not mine.has_seen_more(key, [first], NOW_MS)
    # Whether that ever reached anybody or not.
    third = write(mine, [second])
    assert mine.has_seen_more(key, [first], NOW_MS)
    assert mine.has_seen_more(key, [], NOW_MS)
    assert not mine.has_seen_more(key, [second], NOW_MS)
    assert not mine.has_seen_more(key, [third], NOW_MS)
    assert not mine.has_seen_more(key, [], NOW_MS + 2 * GRACE_MS)


def test_nothing_is_missed_in_what_has_seen_the_own_last_write() -> None:
    mine, key = author(100), Key.of("key")
    latest = write(mine, [write(author(0))])
    # Nobody honest covers a version without what that has covered.
    covers = attrs.evolve(write(author(1)).record, seen=(Seen(latest.actor, latest.record.clock),))
    assert not mine.has_seen_more(key, [version(covers)], NOW_MS)
    assert mine.has_seen_more(key, [write(author(1))], NOW_MS)


def test_whom_a_full_vector_has_no_room_for_is_not_missed() -> None:
    mine, key = author(100), Key.of("key")
    others = [write(author(number)) for number in range(MAX_SEEN)]
    first = write(mine, others)
    assert not mine.has_seen_more(key, [first], NOW_MS)
    latest = first
    for number in range(MAX_SEEN, MAX_SEEN + 5):
        latest = write(author(number), [latest])
    # Those who wrote longest ago had to go.
    assert not mine.has_seen_more(key, [latest], NOW_MS)
    assert mine.has_seen_more(key, [others[0]], NOW_MS)
