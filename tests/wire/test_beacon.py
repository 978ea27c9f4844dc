"""Beacons: hints from the LAN, in JSON; any datagram is one or is refused."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import BadMessage
from p2pd.ids import NodeId
from p2pd.wire.beacon import MAX_BEACON, Beacon, network_tag, read_beacon, write_beacon

beacons = st.builds(
    Beacon,
    node_id=st.binary(min_size=32, max_size=32).map(NodeId),
    port=st.integers(1, 65535),
    network=st.binary(min_size=8, max_size=8).map(bytes.hex),
    instance=st.binary(min_size=16, max_size=16).map(bytes.hex),
    leaving=st.booleans(),
    query=st.booleans(),
)
GOOD = Beacon(NodeId(b"\xaa" * 32), 41000, network_tag("home"), "ab" * 16)


def changed(**fields: Any) -> bytes:
    known = json.loads(write_beacon(GOOD))
    known.update(fields)
    return json.dumps({name: value for name, value in known.items() if value != "ABSENT"}).encode()


@given(beacons)
def test_there_and_back(beacon: Beacon) -> None:
    assert read_beacon(write_beacon(beacon)) == beacon


def test_it_looks_as_promised() -> None:
    assert json.loads(write_beacon(GOOD)) == {
        "type": "p2p_discovery",
        "port": 41000,
        "id": "aa" * 32,
        "network": network_tag("home"),
        "instance": "ab" * 16,
        "leaving": False,
    }


@given(beacons)
def test_one_fits_a_datagram(beacon: Beacon) -> None:
    assert len(write_beacon(beacon)) <= MAX_BEACON


def test_fields_of_later_versions_are_passed_over() -> None:
    assert read_beacon(changed(colour="blue")) == GOOD


def test_a_query_says_so_and_no_other_beacon_does() -> None:
    assert json.loads(write_beacon(attrs.evolve(GOOD, query=True)))["query"] is True
    assert read_beacon(changed(query="ABSENT")) == GOOD


def test_leaving_may_be_absent() -> None:
    assert read_beacon(changed(leaving="ABSENT")) == GOOD


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(st.binary(max_size=MAX_BEACON + 50))
def test_any_bytes_give_a_beacon_or_bad_message(datagram: bytes) -> None:
    with pytest.raises(BadMessage):
        read_beacon(datagram)


@given(
    st.dictionaries(
        st.sampled_from(["type", "port", "id", "network", "instance", "leaving", "query"]),
        json_values | st.just("ABSENT"),
    )
)
def test_any_fields_give_a_beacon_or_bad_message(fields: dict[str, Any]) -> None:
    try:
        beacon = read_beacon(changed(**fields))
    except BadMessage:
        return
    assert read_beacon(write_beacon(beacon)) == beacon


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "other"},
        {"type": ["p2p_discovery"]},
        *({"port": port} for port in (0, 65536, -1, "41000", True, 1.0, None, "ABSENT")),
        *({"leaving": leaving} for leaving in (0, 1, "false", None)),
        *({"query": query} for query in (0, 1, "true", None)),
        *(
            {"id": text}
            for text in ("aa" * 31, "aa" * 33, "zz" * 32, "aa " * 21 + "a", 7, "ABSENT")
        ),
        *({"network": text} for text in ("", "ab" * 7, "ab ab ab ab ab a", "ABSENT")),
        *({"instance": text} for text in ("ab" * 15, "ab" * 17, "ab  " * 8, "é" * 32, "ABSENT")),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        read_beacon(changed(**fields))


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"null",
        b"[]",
        b'"p2p_discovery"',
        b"[" * MAX_BEACON,
        b'{"a":' * 100,
        b'{"type":"p2p_discovery","port":' + b"9" * 400 + b"}",
        b"\xff\xfe{",
        write_beacon(GOOD) + b" " * MAX_BEACON,
        write_beacon(GOOD)[:-1],
    ],
    ids=range(10),
)
def test_a_hostile_datagram_is_refused(datagram: bytes) -> None:
    with pytest.raises(BadMessage):
        read_beacon(datagram)


def test_nesting_that_exhausts_the_stack_is_refused() -> None:
    def read_deep_down(levels: int) -> Beacon:
        return read_deep_down(levels - 1) if levels else read_beacon(b"[" * MAX_BEACON)

    with pytest.raises(BadMessage):
        read_deep_down(600)


def test_the_network_is_not_named() -> None:
    assert network_tag("secret project") != network_tag("secret projecu")
    assert (
        "secret"
        not in write_beacon(
            Beacon(GOOD.node_id, 1, network_tag("secret project"), GOOD.instance)
        ).decode()
    )
