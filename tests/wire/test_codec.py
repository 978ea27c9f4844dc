"""The one strict door for bytes: exactly the messages come in, nothing else comes out."""

import tracemalloc
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import BadMessage
from p2pd.ids import Key
from p2pd.wire import codec
from p2pd.wire.messages import (
    MAX_RECORDS,
    MAX_SIBLINGS,
    MAX_VALUE_BYTES,
    TAGS,
    DeadReports,
    Echo,
    Failed,
    FindNode,
    GetPeers,
    Message,
    PeerRecord,
    Ping,
    Publication,
    Record,
    Signed,
    Value,
)
from tests.wire.strategies import messages, of

SIGNED = Signed(b"x", bytes(64))
RECORD = Record(bytes(32), False, b"value", bytes(32), bytes(8), 7, (), 0)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(st.characters(codec="utf-8"), max_size=70)
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def pack(plain_value: Any) -> bytes:
    packed = msgpack.packb(plain_value)
    assert isinstance(packed, bytes)
    return packed


@given(messages)
@settings(max_examples=400)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    tag, payload = codec.encode_message(message)
    assert TAGS[tag] is type(message)
    back = codec.decode_message(tag, payload)
    assert back == message
    assert codec.encode_message(back) == (tag, payload)
    assert codec.encode(message) == payload
    assert codec.decode(type(message), payload) == message


@pytest.mark.parametrize("cls", [PeerRecord, Record, Signed])
def test_signed_facts_come_back_as_they_went(cls: type) -> None:
    @given(of(cls))
    def there_and_back(fact: Any) -> None:
        assert codec.decode(cls, codec.encode(fact)) == fact

    there_and_back()


@given(st.sampled_from(sorted(TAGS)), st.binary(max_size=200))
@settings(max_examples=400)
def test_any_bytes_give_a_message_or_bad_message(tag: int, payload: bytes) -> None:
    try:
        message = codec.decode_message(tag, payload)
    except BadMessage:
        return
    assert codec.decode_message(*codec.encode_message(message)) == message


@given(st.sampled_from(sorted(TAGS)), plain)
@settings(max_examples=400)
def test_any_msgpack_gives_a_message_or_bad_message(tag: int, value: Any) -> None:
    try:
        message = codec.decode_message(tag, pack(value))
    except BadMessage:
        return
    assert type(message) is TAGS[tag]


@given(messages, st.data())
@settings(max_examples=300)
def test_one_field_replaced_gives_a_message_or_bad_message(
    message: Message, data: st.DataObject
) -> None:
    tag, payload = codec.encode_message(message)
    fields = msgpack.unpackb(payload)
    if fields:
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(plain)
    try:
        changed = codec.decode_message(tag, pack(fields))
    except BadMessage:
        return
    for field, kind in get_type_hints(type(changed)).items():
        if kind in {int, str, bytes}:
            assert type(getattr(changed, field)) is kind


@given(messages, st.data())
def test_one_byte_changed_gives_a_message_or_bad_message(
    message: Message, data: st.DataObject
) -> None:
    tag, payload = codec.encode_message(message)
    broken = bytearray(payload)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        codec.decode_message(tag, bytes(broken))
    except BadMessage:
        return


@given(messages, st.binary(min_size=1, max_size=8))
def test_too_little_or_too_much_is_refused(message: Message, more: bytes) -> None:
    tag, payload = codec.encode_message(message)
    with pytest.raises(BadMessage):
        codec.decode_message(tag, payload + more)
    for length in range(min(len(payload), 40)):
        with pytest.raises(BadMessage):
            codec.decode_message(tag, payload[:length])


@pytest.mark.parametrize("tag", [0, max(TAGS) + 1, 255])
def test_an_unknown_tag_is_refused(tag: int) -> None:
    with pytest.raises(BadMessage, match=str(tag)):
        codec.decode_message(tag, pack([]))


@pytest.mark.parametrize(
    "wrong",
    [
        *("7", 7.0, True, None, -1, MAX_RECORDS + 1, 0, float("nan"), [7], {}, b"7"),
        msgpack.ExtType(5, b""),
        msgpack.Timestamp(0),
    ],
    ids=repr,
)
def test_a_number_is_an_int_within_its_bounds(wrong: Any) -> None:
    with pytest.raises(BadMessage):
        codec.decode(GetPeers, pack([wrong]))


@pytest.mark.parametrize("limit", [1, MAX_RECORDS])
def test_both_ends_of_a_range_are_inside(limit: int) -> None:
    assert codec.decode(GetPeers, pack([limit])) == GetPeers(limit)


@pytest.mark.parametrize("wrong", ["a" * 32, bytes(31), bytes(33), [0] * 32, None, 32, True])
def test_an_id_is_32_bytes(wrong: Any) -> None:
    with pytest.raises(BadMessage):
        codec.decode(FindNode, pack([wrong]))
    assert codec.decode(FindNode, pack([bytes(32)])) == FindNode(bytes(32))


def test_text_is_bounded_in_bytes_not_in_characters() -> None:
    assert codec.decode(Failed, pack(["é" * 32, ""])) == Failed("é" * 32, "")
    with pytest.raises(BadMessage, match="length 66"):
        codec.decode(Failed, pack(["é" * 33, ""]))


def test_text_must_be_utf8() -> None:
    for bad in (b"\xff", b"\xed\xa0\x80", b"\xc3"):
        raw = b"\x92\xa0" + bytes([0xA0 | len(bad)]) + bad
        with pytest.raises(BadMessage):
            codec.decode(Failed, raw)


def test_bytes_are_no_text_and_text_no_bytes() -> None:
    for fields in ([b"reason", "text"], ["reason", b"text"]):
        with pytest.raises(BadMessage):
            codec.decode(Failed, pack(fields))
    with pytest.raises(BadMessage):
        codec.decode(Echo, pack(["text"]))


@pytest.mark.parametrize(
    "fields", [[], ["a"], ["a", "b", "c"], {"code": "a", "message": "b"}, "ab"]
)
def test_fields_are_a_list_of_just_so_many(fields: Any) -> None:
    with pytest.raises(BadMessage):
        codec.decode(Failed, pack(fields))


def test_what_has_no_fields_is_an_empty_list_and_not_an_empty_map() -> None:
    assert codec.decode(Ping, pack([])) == Ping()
    wrongs: list[Any] = [{}, None, [None], "", b"", 0, False]
    for wrong in wrongs:
        with pytest.raises(BadMessage):
            codec.decode(Ping, pack(wrong))


def test_an_absent_value_is_none_and_nothing_else() -> None:
    fields: list[Any] = [bytes(32), False, None, bytes(32), bytes(8), 7, [], 0]
    assert codec.decode(Record, pack(fields)).value is None
    wrongs: list[Any] = [0, False, "", [], {}]
    for wrong in wrongs:
        fields[2] = wrong
        with pytest.raises(BadMessage):
            codec.decode(Record, pack(fields))


def test_lists_are_bounded() -> None:
    most = Value((SIGNED,) * MAX_SIBLINGS, (SIGNED,) * MAX_RECORDS)
    assert codec.decode(Value, codec.encode(most)) == most
    for over in (
        attrs.evolve(most, versions=(SIGNED,) * (MAX_SIBLINGS + 1)),
        attrs.evolve(most, records=(SIGNED,) * (MAX_RECORDS + 1)),
    ):
        with pytest.raises(BadMessage):
            codec.decode(Value, codec.encode(over))


def test_the_largest_value_passes_and_one_byte_more_does_not() -> None:
    largest = Echo(bytes(MAX_VALUE_BYTES))
    assert codec.decode(Echo, codec.encode(largest)) == largest
    with pytest.raises(BadMessage):
        codec.decode(Echo, codec.encode(Echo(bytes(MAX_VALUE_BYTES + 1))))


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xdc\x00\x41" * 1000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xc7\x00\xff",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x91" * 100_000,
        b"\x81" * 100_000,
        b"\xc1",
        b"",
    ],
    ids=lambda raw: raw[:6].hex(),
)
@pytest.mark.parametrize("tag", sorted(TAGS))
def test_hostile_headers_cost_nothing(tag: int, hostile: bytes) -> None:
    with pytest.raises(BadMessage):
        codec.decode_message(tag, hostile)
    with pytest.raises(BadMessage):
        codec.decode_message(tag, b"\x91" + hostile)


def most_lists(annotation: Any) -> int:
    """Count the lists of the longest value of a type, as it travels."""
    if get_origin(annotation) is Annotated:
        inner, bound = get_args(annotation)
        if get_origin(inner) is tuple:
            return 1 + int(bound[1]) * most_lists(get_args(inner)[0])
        return most_lists(inner)
    if get_origin(annotation) in {Union, UnionType}:
        return max(map(most_lists, get_args(annotation)))
    if attrs.has(annotation):
        return 1 + sum(map(most_lists, get_type_hints(annotation, include_extras=True).values()))
    return 0


@pytest.mark.parametrize("kind", [*TAGS.values(), PeerRecord, Record, Publication, DeadReports])
def test_no_message_has_more_lists_than_are_unpacked(kind: type) -> None:
    assert most_lists(kind) <= codec._MAX_ARRAYS


@pytest.mark.parametrize("depth", [0, 1, 8, 400])
def test_lists_in_lists_are_counted(depth: int) -> None:
    leaves = (b"\x91" * depth + b"\x90") * 64
    few = b"\xdc\x00\x40" + leaves
    with pytest.raises(BadMessage, match=r"lists|not msgpack"):
        codec.decode(Record, b"\xdc\x00\x40" + few * 64)


def test_announced_lists_are_not_allocated() -> None:
    # Each list may be as long as the payload has bytes, were it for msgpack alone.
    nested = b"\xdd\x00\x03\x00\x00" * 20 + bytes(1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            codec.decode(Ping, nested)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_subclasses_of_bytes_travel_as_bytes() -> None:
    key = Key.of("name")
    back = codec.decode(FindNode, codec.encode(FindNode(key)))
    assert back.target == key
    assert type(back.target) is bytes
    record = attrs.evolve(RECORD, name_digest=key)
    assert codec.decode(Record, codec.encode(record)) == record


def test_an_error_names_the_message_and_the_part_of_it() -> None:
    with pytest.raises(BadMessage, match=r"^Value: Signed: length 1 is not between 64 and 64$"):
        codec.decode(Value, pack([[], [[b"x", b"y"]]]))


@given(st.text(), st.integers(0, 40))
def test_a_clipped_text_fits_in_bytes_and_is_a_beginning(text: str, most: int) -> None:
    clipped = codec.clip(text, most)
    assert len(clipped.encode()) <= most
    assert text.startswith(clipped)
    assert clipped == text or len(clipped.encode()) > most - 4


def test_a_path_that_is_no_utf_8_can_be_told() -> None:
    assert codec.clip("/home/\udcff/x", 100) == "/home/?/x"
