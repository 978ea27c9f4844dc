"""Frames: the same ones come out however the stream is cut, and nothing hostile costs much."""

import random
import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import BadMessage
from p2pd.wire.framing import (
    COMPRESS_FROM,
    COMPRESSED,
    HEADER_BYTES,
    MAX_PAYLOAD,
    REPLY,
    REQUEST,
    Frame,
    FrameReader,
    write_frame,
)
from p2pd.wire.messages import MAX_SIBLINGS, MAX_SIGNED_BODY

LIMIT = 16384

bytes_of = st.integers(0, 255)
u64 = st.integers(0, (1 << 64) - 1)
payloads = st.binary(max_size=60) | st.builds(
    lambda unit, times: unit * times, st.binary(min_size=1, max_size=9), st.integers(0, 1800)
)
frames = st.builds(
    Frame, bytes_of, bytes_of, st.sampled_from([0, REQUEST, REPLY]), bytes_of, u64, u64, payloads
)


def read(chunks: list[bytes], max_payload: int = LIMIT) -> list[Frame]:
    reader = FrameReader(max_payload)
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found


def header(length: int, flags: int = 0) -> bytes:
    return struct.pack(">BBBBQQI", 1, 6, flags, 0, 0, 0, length)


def plain(frame: Frame) -> Frame:
    return frame._replace(flags=frame.flags & ~COMPRESSED)


def test_the_header_is_laid_out_as_documented() -> None:
    raw = write_frame(Frame(1, 2, REPLY, 3, 4, 5, b"ab"))
    assert raw.hex() == "01020203" + "0000000000000004" + "0000000000000005" + "00000002" + "6162"
    assert len(raw) == HEADER_BYTES + 2


@given(st.lists(frames, max_size=5), st.booleans(), st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(
    sent: list[Frame], compress: bool, data: st.DataObject
) -> None:
    stream = b"".join(write_frame(frame, compress=compress) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert [plain(each) for each in read(chunks)] == sent
    assert [plain(each) for each in read([stream])] == sent


@given(st.lists(frames, min_size=1, max_size=3), st.booleans())
def test_byte_by_byte(sent: list[Frame], compress: bool) -> None:
    stream = b"".join(write_frame(frame, compress=compress) for frame in sent)
    assert [plain(each) for each in read([bytes([each]) for each in stream])] == sent


@given(st.binary(max_size=300))
def test_any_bytes_give_frames_or_bad_message(data: bytes) -> None:
    try:
        found = read([data], max_payload=64)
    except BadMessage:
        return
    assert all(len(frame.payload) <= 64 for frame in found)


@pytest.mark.parametrize("length", [LIMIT + 1, (1 << 32) - 1])
def test_too_long_a_frame_is_refused_by_its_header(length: int) -> None:
    reader = FrameReader(LIMIT)
    reader.feed(header(length))
    with pytest.raises(BadMessage, match=f"{length} bytes, more than {LIMIT}"):
        reader.next()


def test_the_longest_frame_passes() -> None:
    longest = Frame(1, 6, 0, 0, 0, 0, bytes(LIMIT))
    assert read([write_frame(longest)]) == [longest]
    assert [plain(each) for each in read([write_frame(longest, compress=True)])] == [longest]


def test_the_largest_message_fits() -> None:
    assert MAX_PAYLOAD >= MAX_SIBLINGS * (MAX_SIGNED_BODY + 64 + 16)


def test_the_bound_may_be_raised_between_frames() -> None:
    reader = FrameReader(10)
    reader.feed(write_frame(Frame(1, 6, 0, 0, 0, 0, bytes(10))) + header(11) + bytes(11))
    assert reader.next() is not None
    reader.max_payload = 11
    assert reader.next() == Frame(1, 6, 0, 0, 0, 0, bytes(11))


@pytest.mark.parametrize("flags", [0x08, 0x80, 0xFF, REQUEST | 0x10])
def test_unknown_flags_are_refused(flags: int) -> None:
    with pytest.raises(BadMessage, match="flags"):
        read([header(0, flags)])


@pytest.mark.parametrize(
    "bomb",
    [
        zlib.compress(bytes(LIMIT + 1)),
        zlib.compress(bytes(5_000_000)),
        zlib.compress(zlib.compress(bytes(LIMIT))) + b"x",
        zlib.compress(b"a") * 2,
        zlib.compress(b"abc")[:-1],
        zlib.compress(b"abc")[:-4] + b"\0\0\0\0",
        zlib.compress(b"abc")[2:],
        b"\x1f\x8b\x08\0\0\0\0\0",
        b"not deflate",
        b"",
    ],
    ids=range(10),
)
def test_a_bad_deflate_stream_is_refused(bomb: bytes) -> None:
    with pytest.raises(BadMessage, match="deflate"):
        read([header(len(bomb), COMPRESSED) + bomb])


def test_only_what_gets_shorter_travels_compressed() -> None:
    short = Frame(1, 6, 0, 0, 0, 0, bytes(COMPRESS_FROM - 1))
    long = Frame(1, 6, 0, 0, 0, 0, bytes(COMPRESS_FROM))
    noise = Frame(1, 6, 0, 0, 0, 0, random.Random(1).randbytes(COMPRESS_FROM))
    assert len(write_frame(short, compress=True)) == HEADER_BYTES + COMPRESS_FROM - 1
    assert len(write_frame(long, compress=True)) < 100
    assert len(write_frame(long)) == HEADER_BYTES + COMPRESS_FROM
    assert write_frame(noise, compress=True) == write_frame(noise)
    (back,) = read([write_frame(long, compress=True)])
    assert back == long._replace(flags=COMPRESSED)


def test_what_is_read_is_not_kept() -> None:
    reader = FrameReader(LIMIT)
    frame = write_frame(Frame(1, 6, 0, 0, 0, 0, bytes(LIMIT)))
    for _ in range(50):
        reader.feed(frame[:100])
        assert reader.next() is None
        reader.feed(frame[100:])
        assert reader.next() is not None
        assert reader.next() is None
    assert len(reader._buffer) <= len(frame)


def test_what_does_not_shrink_at_its_beginning_is_not_deflated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    compress = zlib.compress

    def count(data: bytes, level: int) -> bytes:
        sizes.append(len(data))
        return compress(data, level)

    monkeypatch.setattr(zlib, "compress", count)
    payload = random.Random(1).randbytes(1 << 20)
    frame = Frame(1, 1, 0, 0, 0, 0, payload)
    assert len(write_frame(frame, compress=True)) == HEADER_BYTES + len(payload)
    assert sizes == [COMPRESS_FROM]
    assert len(write_frame(frame._replace(payload=bytes(1 << 20)), compress=True)) < 1 << 14
