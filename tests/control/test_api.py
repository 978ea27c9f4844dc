from typing import get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.control import api, results
from p2pd.control.methods import HANDLERS, describe_method
from p2pd.control.subscriptions import FEEDS
from p2pd.errors import DaemonUnreachable, InvalidRequest, P2PError
from p2pd.node import snapshot
from p2pd.wire.messages import Length, Publication


@pytest.mark.parametrize(
    ("result", "promised"),
    [
        (snapshot.NodeSnapshot, results.StatusResult),
        (snapshot.PeerCounts, results.PeerCountsJson),
        (snapshot.StoreUse, results.StoreUseJson),
        (snapshot.GossipUse, results.GossipUseJson),
        (snapshot.PeerSnapshot, results.PeerJson),
        (snapshot.FoundNode, results.FoundNodeJson),
        (snapshot.LookupHop, results.LookupHopJson),
        (snapshot.LookupResult, results.LookupResultJson),
        (snapshot.WhyResult, results.WhyResultJson),
        (snapshot.WhyStep, results.WhyStepJson),
        (snapshot.FindingResult, results.FindingJson),
    ],
)
def test_snapshots_have_the_fields_that_the_interface_promises(
    result: type[attrs.AttrsInstance], promised: type
) -> None:
    assert {field.name for field in attrs.fields(result)} == set(promised.__annotations__)


def test_every_promised_method_is_answered_by_exactly_one_table() -> None:
    own = {"unsubscribe", "stop"}
    assert sorted([*HANDLERS, *FEEDS, *own]) == sorted(api.METHODS)
    assert {name for name, method in api.METHODS.items() if method.subscription} == set(FEEDS)


def test_every_method_and_parameter_is_described() -> None:
    for name, method in api.METHODS.items():
        described = describe_method(method)
        assert described["doc"], name
        assert all(param["doc"] for param in described["params"].values()), name


def test_a_parameter_is_described_by_the_bounds_that_it_has() -> None:
    described = describe_method(api.METHODS["get"])["params"]
    assert described["consistency"]["choices"] == api.METHODS["get"].params["consistency"].choices
    assert described["key"].keys() == {"type", "doc", "required"}
    assert api.METHODS["ping"].params["count"].maximum is not None
    assert {"minimum", "maximum"} <= describe_method(api.METHODS["ping"])["params"]["count"].keys()


def test_every_error_has_a_number_of_its_own() -> None:
    def codes(kind: type[P2PError]) -> set[str]:
        # A client's own errors never travel.
        if not kind.__module__.startswith("p2pd.errors") or kind is DaemonUnreachable:
            return set()
        return {kind.code}.union(*map(codes, kind.__subclasses__()))

    assert codes(P2PError) == set(api.ERROR_NUMBERS)
    assert len(set(api.ERROR_NUMBERS.values())) == len(api.ERROR_NUMBERS)


@given(st.binary() | st.text().map(str.encode))
def test_a_value_survives_its_travel(value: bytes) -> None:
    travelling = api.encode_value(value)
    assert len(travelling) == 1
    assert api.decode_value(travelling) == value


@given(st.binary() | st.text().map(str.encode))
def test_the_content_of_a_message_survives_its_travel(data: bytes) -> None:
    travelling = api.encode_data(data)
    assert len(travelling) == 1
    assert api.decode_data(travelling) == data


def test_text_travels_as_text() -> None:
    assert api.encode_value("grün".encode()) == {"value": "grün"}
    assert api.encode_value(b"\xff") == {"value_base64": "/w=="}
    assert api.encode_data("grün".encode()) == {"data": "grün"}
    assert api.encode_data(b"\xff") == {"data_base64": "/w=="}


def test_a_topic_has_the_room_that_the_wire_has() -> None:
    assert get_type_hints(Publication, include_extras=True)["topic"].__metadata__ == (
        Length(0, api.MAX_TOPIC_BYTES),
    )


@pytest.mark.parametrize(
    "members",
    [{}, {"value": "a", "value_base64": "YQ=="}, {"value_base64": "Y"}, {"value_base64": "Y Q=="},
     {"value_base64": "ü"}],
)  # fmt: skip
def test_anything_but_one_wellformed_value_is_refused(members: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="`value"):
        api.decode_value(members)
    with pytest.raises(InvalidRequest, match="`data"):
        api.decode_data({name.replace("value", "data"): each for name, each in members.items()})
