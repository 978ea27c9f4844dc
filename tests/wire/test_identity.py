"""Identities: what they cost, and what their signatures are good for."""

import hashlib

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import BadMessage
from p2pd.ids import NodeId
from p2pd.wire import codec
from p2pd.wire.identity import Identity, is_signed_by, open_peer_record, open_record, work
from p2pd.wire.messages import PeerRecord, Record, Signed

ALICE = Identity.mint(b"a" * 32, 0)
BOB = Identity.mint(b"b" * 32, 0)


def peer_record(identity: Identity) -> PeerRecord:
    return PeerRecord(identity.public_key, identity.nonce, 1, "name", ("1.2.3.4:5",), (), 7)


def record(identity: Identity) -> Record:
    return Record(
        name_digest=bytes(32),
        owned=False,
        value=b"value",
        writer=identity.public_key,
        instance=bytes(8),
        clock=7,
        seen=(),
        expires=0,
    )


@given(st.binary(min_size=32, max_size=32), st.integers(0, (1 << 64) - 1))
def test_work_counts_leading_zero_bits(public_key: bytes, nonce: int) -> None:
    digest = hashlib.sha256(public_key + nonce.to_bytes(8, "big")).digest()
    bits = "".join(f"{byte:08b}" for byte in digest)
    assert work(public_key, nonce) == len(bits) - len(bits.lstrip("0"))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 8))
@settings(max_examples=20)
def test_an_identity_proves_the_work_it_was_minted_with(seed: bytes, difficulty: int) -> None:
    minted = Identity.mint(seed, difficulty)
    assert work(minted.public_key, minted.nonce) >= difficulty
    assert minted.node_id == NodeId.of(minted.public_key)


def test_minting_anew_keeps_the_node_id() -> None:
    harder = Identity.mint(ALICE.private_key, 8)
    assert harder.node_id == ALICE.node_id
    assert harder.nonce != ALICE.nonce
    assert Identity(harder.private_key, harder.nonce).node_id == ALICE.node_id


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_private_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Identity(bytes(length), 0)


def test_what_is_vouched_for_opens() -> None:
    assert open_peer_record(ALICE.vouch(peer_record(ALICE))) == peer_record(ALICE)
    assert open_record(ALICE.vouch(record(ALICE))) == record(ALICE)


def test_nobody_vouches_for_somebody_else() -> None:
    with pytest.raises(BadMessage, match="signature"):
        open_peer_record(BOB.vouch(peer_record(ALICE)))
    with pytest.raises(BadMessage, match="signature"):
        open_record(BOB.vouch(record(ALICE)))


@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_one_bit_changed_spoils_it(position: int, flip: int, in_body: bool) -> None:
    signed = ALICE.vouch(record(ALICE))
    part = bytearray(signed.body if in_body else signed.signature)
    part[position % len(part)] ^= flip
    spoiled = attrs.evolve(signed, **{"body" if in_body else "signature": bytes(part)})
    with pytest.raises(BadMessage):
        open_record(spoiled)


def test_a_signature_is_for_one_kind_of_fact() -> None:
    # The body of one kind, signed under the label of the other.
    for fact, label, opener in (
        (peer_record(ALICE), b"p2pd record 1\0", open_peer_record),
        (record(ALICE), b"p2pd peer record 1\0", open_record),
    ):
        body = codec.encode(fact)
        with pytest.raises(BadMessage, match="signature"):
            opener(Signed(body, ALICE.sign(label + body)))
        with pytest.raises(BadMessage, match="signature"):
            opener(Signed(body, ALICE.sign(body)))


def test_a_fact_of_the_other_kind_is_refused() -> None:
    with pytest.raises(BadMessage):
        open_record(ALICE.vouch(peer_record(ALICE)))
    with pytest.raises(BadMessage):
        open_peer_record(ALICE.vouch(record(ALICE)))


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=64, max_size=64))
def test_any_bytes_are_refused(body: bytes, signature: bytes) -> None:
    for opener in (open_record, open_peer_record):
        with pytest.raises(BadMessage):
            opener(Signed(body, signature))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_any_key_and_signature_give_an_answer(public_key: bytes, signature: bytes) -> None:
    assert not is_signed_by(public_key, signature, b"data")
