"""The cache of opened peer records: the same answers, the signature checked once."""

import attrs
import pytest

from p2pd.address import Address
from p2pd.errors import BadMessage
from p2pd.wire.identity import Identity, work
from p2pd.wire.messages import PeerRecord, Signed
from p2pd.wire.records import RecordCache

ALICE = Identity.mint(b"a" * 32, 4)


def vouched(sequence: int) -> Signed:
    return ALICE.vouch(PeerRecord(ALICE.public_key, ALICE.nonce, sequence, "", (), (), 7))


def test_an_opened_record_tells_who_and_what_it_cost() -> None:
    opened = RecordCache().open(vouched(3))
    assert opened.node_id == ALICE.node_id
    assert opened.record.sequence == 3
    assert opened.signed == vouched(3)
    assert opened.work == work(ALICE.public_key, ALICE.nonce) >= 4


def test_equal_records_come_back_as_one_object() -> None:
    cache = RecordCache()
    assert cache.open(vouched(3)) is cache.open(vouched(3))
    assert cache.open(vouched(3)) is not cache.open(vouched(4))


def test_a_body_that_is_known_does_not_vouch_for_another_signature() -> None:
    cache = RecordCache()
    good = vouched(3)
    cache.open(good)
    for _ in range(2):
        with pytest.raises(BadMessage, match="signature"):
            cache.open(attrs.evolve(good, signature=bytes(64)))


@pytest.mark.parametrize("usable", ["192.0.2.1:1", "169.254.0.1:1", "[2001:db8::1]:1", "[::1]:1"])
def test_addresses_that_nobody_can_dial_are_passed_over(usable: str) -> None:
    useless = (
        "[fe80::1]:1",
        "[febf::1]:1",
        "[fe80::1%2]:1",
        "[fd00::1%2]:1",
        "[::]:1",
        "[ff02::1]:1",
    )
    texts = (*useless, usable, "0.0.0.0:1", "224.0.0.1:1", "a:1")
    record = PeerRecord(ALICE.public_key, ALICE.nonce, 1, "", texts, (), 7)
    assert RecordCache().open(ALICE.vouch(record)).addresses == (Address.parse(usable),)


def test_at_the_bound_the_oldest_goes() -> None:
    cache = RecordCache(most=2)
    first, second = cache.open(vouched(1)), cache.open(vouched(2))
    cache.open(vouched(3))
    assert cache.open(vouched(2)) is second
    assert cache.open(vouched(1)) is not first
