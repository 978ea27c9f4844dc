"""What takes bytes of strangers, users or files: any bytes give a value or the one error for it.

Each harness takes an input and raises where a promise is broken. `python -m tests.fuzz` has a
fuzzer look for such inputs; `test_corpus.py` replays the corpus.
"""

from collections.abc import Callable, Iterator

import attrs

from p2pd.config_file import effective, load
from p2pd.control import api
from p2pd.control.rpc import LineBuffer, Request, RpcError, parse_request
from p2pd.core.merkle import Tree, compare
from p2pd.core.records import Version, kept, merge, version_of
from p2pd.errors import BadMessage, ConfigError, HandshakeRefused
from p2pd.wire import codec
from p2pd.wire.beacon import read_beacon, write_beacon
from p2pd.wire.framing import MAX_HANDSHAKE_PAYLOAD, Frame, FrameReader, write_frame
from p2pd.wire.handshake import Handshake, Terms
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    MAX_SIBLINGS,
    Compare,
    Hello,
    PeerRecord,
    Proof,
    Record,
    Signed,
)

Harness = Callable[[bytes], None]

_OURS, _THEIRS = Identity.mint(bytes(32), 0), Identity.mint(b"\1" * 32, 0)
CERTIFICATE = bytes(32)
NOW_MS = 1_700_000_000_000
# How long a line may be here: a fuzzer's inputs are short.
_LINE = 200


def fuzz_codec(data: bytes) -> None:
    """A tag and a payload are a message, which is the same once it was encoded; or `BadMessage`."""
    try:
        message = codec.decode_message(data[0] if data else 0, data[1:])
    except BadMessage:
        return
    assert codec.decode_message(*codec.encode_message(message)) == message
    if isinstance(message, Compare):
        _compare(message)


def _compare(question: Compare) -> None:
    tree = Tree()
    for number in range(64):
        tree.put(bytes([number * 4]) * 32, [bytes([number]) * 32])
    try:
        compare(tree, question)
    except BadMessage:
        return


def fuzz_frames(data: bytes) -> None:
    """A stream is the same frames wherever it is cut, each the same once it was written."""
    pieces = data[0] + 1 if data else 1
    stream = data[1:]
    whole = _frames([stream])
    cut = [stream[at : at + pieces] for at in range(0, len(stream), pieces)]
    assert _frames(cut) == whole
    for frame in whole:
        if frame is not None:
            assert _frames([write_frame(frame)]) == [frame]


def _frames(pieces: list[bytes]) -> list[Frame | None]:
    """Return the frames of a stream; None at its end stands for what is none."""
    reader = FrameReader(MAX_HANDSHAKE_PAYLOAD)
    found: list[Frame | None] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (frame := reader.next()) is not None:
                found.append(frame._replace(flags=frame.flags & 3))
        except BadMessage:
            return [*found, None]
    return found


def fuzz_handshake(data: bytes) -> None:
    """Nobody is let in who has not proven to hold a key, whatever hello and proof say."""
    first, _, second = data.partition(b"\0proof\0")
    try:
        hello = codec.decode(Hello, first)
    except BadMessage:
        return
    # A fuzzer can't sign. What lies behind the signature of the peer record is reached by one.
    for record in (hello.record, signed_peer_record()):
        server = Handshake(
            Terms(_OURS, bytes(16), "p2pd"),
            _OURS.vouch(_peer_record(_OURS)),
            bytes(32),
            CERTIFICATE,
            is_client=False,
        )
        try:
            server.receive_hello(attrs.evolve(hello, record=record))
            server.receive_proof(codec.decode(Proof, second))
        except (BadMessage, HandshakeRefused):
            continue
        raise AssertionError("a forged proof was believed")


def signed_peer_record() -> Signed:
    """Return a sound peer record, of a key that no input holds."""
    return _THEIRS.vouch(_peer_record(_THEIRS))


def _peer_record(identity: Identity) -> PeerRecord:
    return PeerRecord(identity.public_key, identity.nonce, 1, "fuzz", (), (), NOW_MS)


def fuzz_beacons(data: bytes) -> None:
    """A datagram is a beacon, which is the same once it was written; or `BadMessage`."""
    try:
        beacon = read_beacon(data)
    except BadMessage:
        return
    assert read_beacon(write_beacon(beacon)) == beacon


def fuzz_records(data: bytes) -> None:
    """Replicas that merge the same records of one key hold the same, in whatever order."""
    versions = list(_versions(data))
    merged = merge(kept(versions, NOW_MS))
    assert merge(merged) == merged
    assert len(merged) <= MAX_SIBLINGS
    for other in (versions[::-1], sorted(versions, key=lambda each: each.name)):
        assert merge(kept(other, NOW_MS))[:1] == merged[:1]
    left = merge(versions[: len(versions) // 2])
    assert merge([*left, *versions])[:1] == merge(versions)[:1]


def _versions(data: bytes) -> Iterator[Version]:
    """Return the records of an input as versions of one key."""
    for part in data.split(b"\0next\0"):
        try:
            record = codec.decode(Record, part)
        except BadMessage:
            continue
        record = attrs.evolve(record, name_digest=bytes(32), owned=False)
        yield version_of(Signed(codec.encode(record), bytes(64)), record)


def fuzz_control_lines(data: bytes) -> None:
    """Lines are the same wherever they are cut; each is a request for a method there is."""
    pieces = data[0] + 1 if data else 1
    stream = data[1:]
    cut = [stream[at : at + pieces] for at in range(0, len(stream), pieces)]
    lines = _lines([stream])
    assert _lines(cut) == lines
    for line in lines:
        try:
            request = parse_request(line)
        except RpcError:
            continue
        assert isinstance(request, Request)
        assert request.method in api.METHODS


def _lines(pieces: list[bytes]) -> list[bytes]:
    buffer = LineBuffer(_LINE)
    found = [line for piece in pieces for line in buffer.feed(piece)]
    return [line or b"" for line in [*found, buffer.end()]]


def fuzz_configuration(data: bytes) -> None:
    """A file is a configuration, which is the same once it was written; or `ConfigError`."""
    try:
        config = load(data)
    except ConfigError:
        return
    assert load(effective(config)) == config


HARNESSES: dict[str, Harness] = {
    "codec": fuzz_codec,
    "frames": fuzz_frames,
    "handshake": fuzz_handshake,
    "beacons": fuzz_beacons,
    "records": fuzz_records,
    "control_lines": fuzz_control_lines,
    "configuration": fuzz_configuration,
}
