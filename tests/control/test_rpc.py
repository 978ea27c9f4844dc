import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.control import api, rpc

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def lines_of(chunks: list[bytes], limit: int) -> list[bytes | None]:
    buffer = rpc.LineBuffer(limit)
    lines = [line for chunk in chunks for line in buffer.feed(chunk)]
    last = buffer.end()
    return lines if last is None else [*lines, last]


@given(st.lists(st.binary(max_size=12) | st.just(b"\n") | st.just(b"ab\n")), st.integers(1, 16))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks: list[bytes], limit: int) -> None:
    expected: list[bytes | None] = []
    for line in b"".join(chunks).split(b"\n"):
        if len(line) > limit:
            expected.append(None)
        elif line.strip():
            expected.append(line)
    assert lines_of(chunks, limit) == expected


def request(method: str = "status", **members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **members}).encode()


def refusal(line: bytes) -> rpc.RpcError:
    with pytest.raises(rpc.RpcError) as caught:
        rpc.parse_request(line)
    return caught.value


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda method, params, request_id: request(method, params=params, id=request_id),
        st.sampled_from([*api.METHODS]) | st.text(),
        JSON | st.dictionaries(st.sampled_from(["key", "value", "ttl", "peer", "count"]), JSON),
        JSON,
    )
)
def test_any_bytes_give_a_request_or_a_standard_error(line: bytes) -> None:
    standard = {api.PARSE_ERROR, api.INVALID_REQUEST, api.METHOD_NOT_FOUND, api.INVALID_PARAMS}
    outcome: rpc.Request | rpc.RpcError
    try:
        outcome = rpc.parse_request(line)
    except rpc.RpcError as error:
        outcome = error
    if isinstance(outcome, rpc.RpcError):
        assert outcome.number in standard
        rpc.encode(rpc.error_message(outcome)).decode()
    else:
        assert rpc.check_params(api.METHODS[outcome.method].params, outcome.params) is None


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"nope",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        request()[:-1] + b',"x":NaN}',
        request()[:-1] + b',"x":-Infinity}',
        request()[:-1] + b',"x":1e999}',
        b"1" * 5000,
        request().decode().encode("utf-16"),
    ],
)
def test_what_is_no_json_is_a_parse_error(line: bytes) -> None:
    assert refusal(line).number == api.PARSE_ERROR


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"[" + request() + b"]",
        b"1",
        b"null",
        b"{}",
        request(jsonrpc="1.0"),
        request(id=True),
        request(id=[1]),
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":7}',
    ],
)
def test_what_is_no_request_is_an_invalid_request(line: bytes) -> None:
    assert refusal(line).number == api.INVALID_REQUEST


def test_an_unknown_method_is_named_in_its_error() -> None:
    error = refusal(request("statsu"))
    assert (error.number, error.id) == (api.METHOD_NOT_FOUND, 1)
    assert "statsu" in str(error)


@pytest.mark.parametrize(
    ("method", "params", "about"),
    [
        ("status", [], "by name"),
        ("status", {"x": 1}, "'x'"),
        ("echo", {"peer": "a"}, "`text` is missing"),
        ("echo", {"peer": "a", "text": None}, "`text` must be a string"),
        ("ping", {"peer": "a", "count": True}, "`count` must be an integer"),
        ("ping", {"peer": "a", "count": 2.0}, "`count` must be an integer"),
        ("ping", {"peer": "a", "count": 0}, "at least 1"),
        ("ping", {"peer": "a", "count": api.MAX_PINGS + 1}, "at most"),
        ("put", {"key": "k", "ttl": False}, "`ttl` must be a number"),
        ("put", {"key": "k", "ttl": 0}, "more than 0"),
        ("put", {"key": "k", "ttl": 10**400}, "at most"),
        ("get", {"key": "k", "all": 1}, "`all` must be a boolean"),
        ("get", {"key": "k", "consistency": "some"}, "one, quorum, all"),
        ("get", {"key": "\ud800"}, "is not valid Unicode text"),
    ],
)
def test_wrong_parameters_are_refused_by_name(method: str, params: object, about: str) -> None:
    error = refusal(request(method, params=params))
    assert (error.number, error.id) == (api.INVALID_PARAMS, 1)
    assert about in str(error)


def test_a_request_without_an_id_wants_no_answer() -> None:
    assert not rpc.parse_request(b'{"jsonrpc":"2.0","method":"status"}').wants_answer
    assert rpc.parse_request(request(id=None)).wants_answer


def test_a_lone_surrogate_in_an_id_comes_back_as_it_came() -> None:
    parsed = rpc.parse_request(request(id="\ud800"))
    line = rpc.encode(rpc.result_message(parsed.id, 1))
    assert json.loads(line.decode())["id"] == "\ud800"
