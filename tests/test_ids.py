"""Identifiers and the distance between them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.ids import (
    ID_BITS,
    ID_BYTES,
    Id,
    Key,
    NodeId,
    closest_first,
    distance,
    distance_bits,
)

ids = st.binary(min_size=ID_BYTES, max_size=ID_BYTES).map(Id)


@given(st.binary(max_size=80).filter(lambda raw: len(raw) != ID_BYTES))
def test_an_id_has_32_bytes(raw: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NodeId(raw)


@given(ids)
def test_hex_there_and_back(each: Id) -> None:
    assert Id.from_hex(str(each)) == each
    assert Id.from_hex(str(each).upper()) == each


@pytest.mark.parametrize(
    "text",
    ["", "ab", "g" * 64, "a" * 63, "a" * 65, " ".join(["ab"] * 32), "a" * 64 + "\n", "é" * 64],
)
def test_hex_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Id.from_hex(text)


def test_a_node_id_is_the_hash_of_the_public_key() -> None:
    key = bytes(range(32))
    assert NodeId.of(key) == hashlib.sha256(key).digest()


def test_an_owner_has_keys_of_his_own() -> None:
    owners = [None, NodeId(bytes(32)), NodeId(bytes(31) + b"\1")]
    assert len({Key.of(name, owner) for name in ("", "a", "ab") for owner in owners}) == 9
    digest = hashlib.sha256(b"ab").digest()
    assert Key.of("ab") == Key.of_digest(digest) == hashlib.sha256(digest).digest()
    assert Key.of("ab", owners[1]) == hashlib.sha256(bytes(32) + digest).digest()


@given(ids, ids, ids)
def test_distance_is_a_metric(a: Id, b: Id, c: Id) -> None:
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(st.lists(ids, max_size=5), ids)
def test_the_closest_comes_first(some: list[Id], target: Id) -> None:
    distances = [distance(each, target) for each in closest_first(some, target)]
    assert distances == sorted(distance(each, target) for each in some)


@given(ids, st.integers(0, ID_BITS - 1))
def test_distance_bits_tells_the_first_bit_that_differs(a: Id, bit: int) -> None:
    b = (int.from_bytes(a, "big") ^ (1 << bit)).to_bytes(ID_BYTES, "big")
    assert distance_bits(a, b) == bit + 1
    assert distance_bits(a, a) == 0
