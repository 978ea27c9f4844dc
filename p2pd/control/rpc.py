"""JSON-RPC 2.0 without I/O: bytes to lines, lines to requests, answers to bytes.

Whatever the bytes are, the outcome is a line, a `Request` or an `RpcError` with one of the
standard numbers; nothing else is raised. Stricter than the `json` module: no NaN or
infinities, no invalid UTF-8, no lone surrogates in parameters, no booleans for numbers.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from p2pd.control import api
from p2pd.errors import P2PError

JsonId = str | int | float | None


class RpcError(Exception):
    """A request that gets an error as its answer.

    `number` is the JSON-RPC error number, `code` the stable name; `id` is that of the
    request, None if it could not be read.
    """

    def __init__(self, number: int, code: str, message: str, *, request_id: JsonId = None) -> None:
        super().__init__(message)
        self.number = number
        self.code = code
        self.id = request_id


class Request(NamedTuple):
    """A well-formed request; without `wants_answer` it is a notification."""

    id: JsonId
    method: str
    params: api.Params
    wants_answer: bool


class LineBuffer:
    """Cuts a stream of bytes into lines of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Take bytes; yield each complete line, or None for one that got too long.

        Empty lines are left out. The iterator must be used up before the next call.
        """
        *complete, rest = data.split(b"\n")
        for part in complete:
            if not self._append(part):
                yield None
            elif self._pending.strip():
                yield bytes(self._pending)
            self._pending.clear()
            self._skipping = False
        if not self._append(rest):
            yield None

    def end(self) -> bytes | None:
        """Return the last line if the stream ended without a newline after it."""
        line = bytes(self._pending)
        self._pending.clear()
        return line if line.strip() else None

    def _append(self, part: bytes) -> bool:
        """Add to the pending line; False at the moment when it gets too long."""
        if self._skipping:
            return True
        if len(self._pending) + len(part) > self._limit:
            self._pending.clear()
            self._skipping = True
            return False
        self._pending += part
        return True


def too_long() -> RpcError:
    """Make the answer to a line over the limit."""
    message = f"the line is longer than {api.MAX_LINE_BYTES} bytes"
    return RpcError(api.INVALID_REQUEST, "invalid_request", message)


def parse_request(line: bytes) -> Request:
    """Read one line; raises `RpcError`. The method and its parameters are checked, too."""
    message = _parse_json(line)
    if isinstance(message, list):
        raise RpcError(
            api.INVALID_REQUEST,
            "invalid_request",
            "batches are not supported: send one object a line",
        )
    if not isinstance(message, dict):
        raise RpcError(api.INVALID_REQUEST, "invalid_request", "a request is a JSON object")
    request_id = message.get("id")
    if not (request_id is None or _is_type(request_id, "string") or _is_type(request_id, "number")):
        raise RpcError(
            api.INVALID_REQUEST, "invalid_request", "`id` must be a string, a number or null"
        )

    def refuse(number: int, code: str, text: str) -> NoReturn:
        raise RpcError(number, code, text, request_id=request_id)

    if message.get("jsonrpc") != "2.0":
        refuse(api.INVALID_REQUEST, "invalid_request", '`jsonrpc` must be "2.0"')
    method = message.get("method")
    if not isinstance(method, str):
        refuse(api.INVALID_REQUEST, "invalid_request", "`method` must be a string")
    if method not in api.METHODS:
        refuse(
            api.METHOD_NOT_FOUND,
            "unknown_method",
            f"no method {method[:100]!r}: `rpc.methods` lists them",
        )
    params = message.get("params", {})
    if not isinstance(params, dict):
        refuse(api.INVALID_PARAMS, "invalid_request", f"{method}: parameters go by name")
    problem = check_params(api.METHODS[method].params, params)
    if problem is not None:
        refuse(api.INVALID_PARAMS, "invalid_request", f"{method}: {problem}")
    return Request(request_id, method, params, "id" in message)


def check_params(allowed: Mapping[str, api.Param], given: Mapping[str, Any]) -> str | None:
    """Check parameters against their declaration; returns the first mistake, or None."""
    for name in given:
        if name not in allowed:
            known = ", ".join(f"`{each}`" for each in allowed) or "none"
            return f"unknown parameter {name[:100]!r}; it takes {known}"
    for name, param in allowed.items():
        if name not in given:
            if param.required:
                return f"parameter `{name}` is missing"
            continue
        problem = _check_value(param, given[name])
        if problem is not None:
            return f"parameter `{name}` {problem}"
    return None


def _check_value(param: api.Param, value: Any) -> str | None:
    if not _is_type(value, param.type):
        return f"must be {_ARTICLES[param.type]} {param.type}"
    if isinstance(value, str):
        return _check_text(param, value)
    if not isinstance(value, list):
        return _check_range(param, value)
    if (problem := _check_range(param, len(value))) is not None:
        return f"is an array whose length {problem}"
    for each in value:
        if (problem := _check_text(param, each)) is not None:
            return f"has an item that {problem}"
    return None


def _check_text(param: api.Param, value: str) -> str | None:
    if param.choices and value not in param.choices:
        return f"must be one of {', '.join(param.choices)}"
    if not _is_encodable(value):
        return "is not valid Unicode text (UTF-8 on a command line)"
    size = len(value.encode())
    if param.min_bytes is not None and size < param.min_bytes:
        if param.min_bytes == 1:
            return "must not be empty"
        return f"must have at least {param.min_bytes} bytes"
    if param.max_bytes is not None and size > param.max_bytes:
        return f"must have at most {param.max_bytes} bytes"
    return None


def _check_range(param: api.Param, value: float) -> str | None:
    if param.minimum is not None and value < param.minimum:
        return f"must be at least {param.minimum:g}"
    if param.above is not None and value <= param.above:
        return f"must be more than {param.above:g}"
    if param.maximum is not None and value > param.maximum:
        return f"must be at most {param.maximum:g}"
    return None


_ARTICLES: Final[Mapping[api.ParamType, str]] = {
    "string": "a",
    "number": "a",
    "integer": "an",
    "boolean": "a",
    "array of strings": "an",
}


def _is_type(value: Any, wanted: api.ParamType) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array of strings":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_json(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant, parse_float=_parse_finite)
    except RecursionError:
        message = "nested too deeply"
    except ValueError as error:
        message = f"not JSON: {error}"
    raise RpcError(api.PARSE_ERROR, "parse_error", message)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


def rpc_error_of(error: P2PError, request_id: JsonId) -> RpcError:
    """Turn an error of p2pd into the answer that carries its code."""
    number = api.ERROR_NUMBERS.get(error.code, api.FAILED)
    return RpcError(number, error.code, str(error), request_id=request_id)


def result_message(request_id: JsonId, result: Any) -> dict[str, Any]:
    """Build the answer to a request that succeeded."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_message(error: RpcError) -> dict[str, Any]:
    """Build the answer to a request that failed."""
    body = {"code": error.number, "message": str(error), "data": {"code": error.code}}
    return {"jsonrpc": "2.0", "id": error.id, "error": body}


def notification(method: str, params: Any) -> dict[str, Any]:
    """Build a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def encode(message: dict[str, Any]) -> bytes:
    """Encode a message as a line.

    A lone surrogate (a request's `id` may hold one) is sent as its JSON escape.
    """
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace") + b"\n"
