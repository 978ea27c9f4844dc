"""What proves an identity in a world, and what does not."""

import random

from p2pd.simulation.signatures import WorldIdentity, WorldRecords
from p2pd.wire.identity import Identity, is_signed_by, open_publication
from p2pd.wire.messages import Publication

RNG = random.Random(7)
RECORDS = WorldRecords()
ALICE, BOB = (WorldIdentity(RNG.randbytes(32), RECORDS) for _ in range(2))
STRANGER = Identity(RNG.randbytes(32), nonce=0)


def test_a_proof_is_good_for_its_maker_and_its_bytes_alone() -> None:
    proof = ALICE.sign(b"transcript")
    assert RECORDS.is_signed_by(ALICE.public_key, proof, b"transcript")
    assert not RECORDS.is_signed_by(ALICE.public_key, proof, b"another")
    assert not RECORDS.is_signed_by(BOB.public_key, proof, b"transcript")
    assert not RECORDS.is_signed_by(ALICE.public_key, BOB.sign(b"transcript"), b"transcript")


def test_an_identity_from_elsewhere_is_checked_as_always() -> None:
    assert RECORDS.is_signed_by(STRANGER.public_key, STRANGER.sign(b"data"), b"data")
    assert not RECORDS.is_signed_by(STRANGER.public_key, ALICE.sign(b"data"), b"data")


def test_what_is_passed_on_has_a_true_signature() -> None:
    fact = Publication(ALICE.public_key, 1, 2, "t", b"data")
    signed = ALICE.vouch(fact)
    assert open_publication(signed) == fact
    assert is_signed_by(ALICE.public_key, signed.signature, b"p2pd publication 1\0" + signed.body)
