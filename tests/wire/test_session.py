"""Two sessions joined back to back: what one says, the other hears."""

import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import BadMessage, Busy
from p2pd.wire.framing import (
    COMPRESS_FROM,
    COMPRESSED,
    MAX_HANDSHAKE_PAYLOAD,
    REPLY,
    REQUEST,
    Frame,
    write_frame,
)
from p2pd.wire.messages import PROTOCOL_VERSION, Echo, Echoed, Goodbye, Message, Ping, Pong
from p2pd.wire.session import MAX_PENDING, Event, Received, Replied, Session
from tests.wire.strategies import messages

NOW = 1_700_000_000_000


def session(*, compress: bool = False) -> Session:
    made = Session(lambda: NOW)
    made.established(PROTOCOL_VERSION, compress=compress)
    return made


def hear(listener: Session, chunks: Iterable[bytes]) -> list[Event]:
    events = []
    for chunk in chunks:
        listener.feed(chunk)
        while (event := listener.next_event()) is not None:
            events.append(event)
    return events


def in_bytes(data: bytes) -> list[bytes]:
    return [bytes([each]) for each in data]


@given(
    st.lists(st.tuples(st.sampled_from(["notice", "request"]), messages), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_two_sessions_back_to_back(
    script: list[tuple[str, Message]], byte_by_byte: bool, compress: bool
) -> None:
    near, far = session(compress=compress), session(compress=compress)
    stream, expected = b"", []
    for kind, message in script:
        if kind == "notice":
            stream += near.notice(message)
            expected.append(Received(message, None))
        else:
            request_id, data = near.request(message)
            stream += data
            expected.append(Received(message, request_id))
    cut = in_bytes if byte_by_byte else lambda data: [data]
    heard = hear(far, cut(stream))
    assert heard == expected

    wanted = [each.request_id for each in expected if each.request_id is not None]
    replies = b"".join(far.reply(each, Echoed(b"%d" % each)) for each in reversed(wanted))
    assert hear(near, cut(replies)) == [
        Replied(Echoed(b"%d" % each), each) for each in reversed(wanted)
    ]
    assert near.late_replies == 0


def test_both_sides_may_ask_at_once() -> None:
    near, far = session(), session()
    near_id, near_asks = near.request(Echo(b"near"))
    far_id, far_asks = far.request(Echo(b"far"))
    assert hear(far, [near_asks]) == [Received(Echo(b"near"), near_id)]
    assert hear(near, [far_asks]) == [Received(Echo(b"far"), far_id)]
    assert hear(far, [near.reply(far_id, Echoed(b"far"))]) == [Replied(Echoed(b"far"), far_id)]
    assert hear(near, [far.reply(near_id, Echoed(b"near"))]) == [Replied(Echoed(b"near"), near_id)]


def test_request_ids_are_not_used_again() -> None:
    near = session()
    ids = []
    for _ in range(10):
        request_id, _ = near.request(Ping())
        ids.append(request_id)
        near.forget(request_id)
    assert len(set(ids)) == 10


def test_a_reply_after_the_time_is_dropped_and_counted() -> None:
    near, far = session(), session()
    request_id, _ = near.request(Ping())
    near.forget(request_id)
    late = far.reply(request_id, Pong()) + far.notice(Goodbye("x"))
    assert hear(near, [late]) == [Received(Goodbye("x"), None)]
    assert near.late_replies == 1


def test_a_second_reply_and_one_that_nobody_asked_for_are_dropped() -> None:
    near, far = session(), session()
    request_id, _ = near.request(Ping())
    twice = far.reply(request_id, Pong()) * 2 + far.reply(99, Pong())
    assert hear(near, [twice]) == [Replied(Pong(), request_id)]
    assert near.late_replies == 2


def test_requests_under_way_are_bounded() -> None:
    near, far = session(), session()
    ids = [near.request(Ping())[0] for _ in range(MAX_PENDING)]
    with pytest.raises(Busy):
        near.request(Ping())
    near.forget(ids[0])
    near.request(Ping())
    with pytest.raises(Busy):
        near.request(Ping())
    hear(near, [far.reply(ids[1], Pong())])
    near.request(Ping())


def test_forgetting_twice_is_no_harm() -> None:
    near = session()
    request_id, _ = near.request(Ping())
    near.forget(request_id)
    near.forget(request_id)


def test_a_frame_of_another_version_is_refused() -> None:
    far = session()
    frame = write_frame(Frame(PROTOCOL_VERSION + 1, 6, 0, 0, 0, NOW, b"\x90"))
    with pytest.raises(BadMessage, match="version"):
        hear(far, [frame])


def test_the_negotiated_version_is_spoken_and_asked_for() -> None:
    near, far = session(), session()
    near.established(7, compress=False)
    data = near.notice(Ping())
    assert data[0] == 7
    with pytest.raises(BadMessage, match="version"):
        hear(far, [data])
    far = session()
    far.established(7, compress=False)
    assert hear(far, [data]) == [Received(Ping(), None)]


def test_what_was_asked_along_with_the_handshake_is_taken_when_that_is_over() -> None:
    near, far = Session(lambda: NOW), session()
    request_id, data = near.request(Ping())
    far.established(7, compress=False)
    assert hear(far, [data]) == [Received(Ping(), request_id)]


def test_before_the_handshake_is_over_frames_are_small_and_plain() -> None:
    fresh = Session(lambda: NOW)
    talker = session()
    big = talker.notice(Echo(bytes(MAX_HANDSHAKE_PAYLOAD)))
    with pytest.raises(BadMessage, match="more than"):
        hear(fresh, [big])
    assert Session(lambda: NOW).notice(Echo(bytes(COMPRESS_FROM))) == talker.notice(
        Echo(bytes(COMPRESS_FROM))
    )


def test_a_big_frame_right_behind_the_handshake_is_taken() -> None:
    fresh, talker = Session(lambda: NOW), session()
    big = Echo(bytes(MAX_HANDSHAKE_PAYLOAD))
    fresh.feed(talker.notice(Goodbye("small")) + talker.notice(big))
    assert fresh.next_event() == Received(Goodbye("small"), None)
    fresh.established(PROTOCOL_VERSION, compress=False)
    assert fresh.next_event() == Received(big, None)


def test_long_messages_are_compressed_when_both_sides_offer_it() -> None:
    near, far = session(compress=True), session(compress=True)
    data = near.notice(Echo(bytes(100_000)))
    assert len(data) < 2000
    assert hear(far, [data]) == [Received(Echo(bytes(100_000)), None)]


@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_compressed_without_an_agreement_is_bad_message(is_open: bool) -> None:
    far = session() if is_open else Session(lambda: NOW)
    deflated = zlib.compress(b"\x90")
    frame = Frame(PROTOCOL_VERSION, 6, REQUEST | COMPRESSED, 0, 1, NOW, deflated)
    with pytest.raises(BadMessage, match="compressed"):
        hear(far, [write_frame(frame)])


def test_frames_carry_the_time_of_their_sending() -> None:
    times = iter([5, 6])
    near = Session(lambda: next(times))
    near.established(PROTOCOL_VERSION, compress=False)
    stamps = [int.from_bytes(near.notice(Ping())[12:20], "big") for _ in range(2)]
    assert stamps == [5, 6]


@pytest.mark.parametrize("tag", [0, 200])
def test_an_unknown_tag_is_bad_message(tag: int) -> None:
    with pytest.raises(BadMessage, match="tag"):
        hear(session(), [write_frame(Frame(PROTOCOL_VERSION, tag, 0, 0, 1, NOW, b"\x90"))])


def test_a_reply_to_nothing_is_not_inflated() -> None:
    near = session(compress=True)
    bomb = Frame(PROTOCOL_VERSION, 9, REPLY | COMPRESSED, 0, 1, NOW, b"no deflate stream")
    assert hear(near, [write_frame(bomb)]) == []
    assert near.late_replies == 1


@given(st.binary(max_size=120))
def test_any_bytes_give_events_or_bad_message(data: bytes) -> None:
    near = Session(lambda: NOW)
    prefix = near.notice(Ping())
    try:
        hear(session(), [prefix[:4] + data, data])
    except BadMessage:
        return
