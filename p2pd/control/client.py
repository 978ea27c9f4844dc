"""The control socket from the client's side: synchronous, standard library only.

Nothing here may cost start-up time: `p2pctl` imports this and little more.
"""

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, Self

from p2pd.control.api import PROTOCOL_VERSION
from p2pd.errors import (
    DaemonUnreachable,
    HandshakeRefused,
    InvalidRequest,
    P2PError,
    RequestTimedOut,
)

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds that a request may take when its caller names no other time."""

_READ_BYTES: Final = 256 * 1024

# An answer may hold several values of the largest size, each as base64 or escaped.
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024

_TICK_SECONDS: Final = 0.1
_LONGEST_WAIT: Final = 1.0
_QUEUE_SECONDS: Final = 0.02
_MOST_NAMED: Final = 8

Waiting = Callable[[float], None]
"""Told about ten times a second how many seconds a request has been under way."""


class RemoteError(P2PError):
    """The daemon answered with an error that this client has no class for.

    `remote_code` is the stable name that the daemon gave.
    """

    def __init__(self, remote_code: str, message: str) -> None:
        super().__init__(message)
        self.remote_code = remote_code


def default_sockets(
    instance: str, environment: Mapping[str, str] = os.environ, *, uid: int | None = None
) -> list[str]:
    """Where the control socket of `instance` may be, the likeliest first.

    The user's own: `$XDG_RUNTIME_DIR/p2pd/INSTANCE.sock`, or without that variable
    `/tmp/p2pd-UID/INSTANCE.sock`, which counts only while the directory is this user's
    and nobody else can write to it. Then the system's, `/run/p2pd/INSTANCE.sock`; for root
    (`uid` 0) that one comes first. Raises `InvalidRequest` for an impossible instance.
    """
    if not _is_instance_name(instance):
        raise InvalidRequest(
            f"--instance: {instance[:80]!r} is not a valid instance name: 1 to 64 of "
            "A-Z a-z 0-9 _ . -, with no dot in front"
        )
    uid = os.getuid() if uid is None else uid
    system = f"/run/p2pd/{instance}.sock"
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        user = [f"{runtime}/p2pd/{instance}.sock"]
    else:
        fallback = f"/tmp/p2pd-{uid}"  # noqa: S108 - counts only if safe, see _is_private
        user = [f"{fallback}/{instance}.sock"] if _is_private(fallback, uid) else []
    return [system, *user] if uid == 0 else [*user, system]


def _is_instance_name(text: str) -> bool:
    plain = text.replace("_", "a").replace("-", "a").replace(".", "a")
    return plain.isascii() and plain.isalnum() and len(text) <= 64 and text[0] != "."


def _is_private(directory: str, uid: int) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not others_write


class Client:
    """A connection to the daemon; use it in a `with`.

    The first of `sockets` that answers is taken. Raises `DaemonUnreachable` if none does,
    which says how to start `instance`, the owner of the sockets.
    """

    def __init__(
        self,
        sockets: Sequence[str],
        timeout: float = DEFAULT_TIMEOUT,
        *,
        instance: str | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._socket, self.path = _connect(sockets, timeout, instance, waiting)
        self._instance = instance
        self._received = bytearray()
        self._searched = 0
        self._count = 0
        self._greeted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests under way on it are cancelled."""
        self._socket.close()

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        waiting: Waiting | None = None,
    ) -> Any:
        """Send a request and wait for its result.

        Raises the error that the daemon answered with, `RequestTimedOut` after `timeout`
        seconds, `DaemonUnreachable` when the connection ends. Params that are None are
        left out.
        """
        request_id, deadline = self._send(method, params, timeout)
        while True:
            message = self._receive(method, timeout, deadline, waiting)
            if message.get("id") == request_id and "method" not in message:
                return self._result(message)
            if message.get("id") is None and "error" in message:
                _raise_remote(message["error"])

    def subscribe(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        waiting: Waiting | None = None,
        idle: Waiting | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Subscribe, then yield the parameters of each notification as it comes.

        Only the answer to the subscription itself must come within `timeout` seconds; `waiting`
        is told of that wait. `idle` is called about once a second while nothing comes, and may
        raise to end it. Raises as `call` does, also `DaemonUnreachable` when the daemon ends.
        """
        number = self.call(method, params, timeout, waiting)["subscription"]
        return self._notifications(method, number, idle)

    def _notifications(
        self, method: str, number: int, idle: Waiting | None
    ) -> Iterator[dict[str, Any]]:
        while True:
            message = self._receive(method, None, None, idle)
            if "error" in message:
                _raise_remote(message["error"])
            params = message.get("params")
            if (
                message.get("method") == method
                and isinstance(params, dict)
                and params.get("subscription") == number
            ):
                yield params

    def _send(
        self, method: str, params: Mapping[str, Any] | None, timeout: float
    ) -> tuple[int, float]:
        self._count += 1
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request = {"jsonrpc": "2.0", "id": self._count, "method": method, "params": given}
        line = json.dumps(request, ensure_ascii=False, allow_nan=False)
        deadline = time.monotonic() + timeout
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(line.encode(errors="backslashreplace") + b"\n")
        except TimeoutError:
            raise _timed_out(method, timeout) from None
        except OSError:
            # What the daemon sent before it closed the connection can still be read.
            pass
        return self._count, deadline

    def _receive(
        self,
        method: str,
        timeout: float | None,
        deadline: float | None,
        waiting: Waiting | None,
    ) -> dict[str, Any]:
        """Wait for the next message; without a deadline, for ever."""
        # Never for ever: a Ctrl-C just before a wait begins goes unseen until it ends.
        longest = _LONGEST_WAIT if waiting is None or deadline is None else _TICK_SECONDS
        started = time.monotonic()
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            if self._searched > _MAX_ANSWER_BYTES:
                raise self._lost("the answer is too long")
            remaining = longest
            if deadline is not None and timeout is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _timed_out(method, timeout)
                remaining = min(remaining, left)
            self._socket.settimeout(remaining)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                if waiting is not None:
                    waiting(time.monotonic() - started)
                continue
            except OSError as error:
                raise self._lost(str(error.strerror)) from error
            if not data:
                raise self._lost("the daemon has stopped or crashed")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        return self._parse(line)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        greeting = message.get("p2pd") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not (self._greeted or isinstance(greeting, dict)):
            raise DaemonUnreachable(
                f"{self.path}: what answers there is not p2pd; choose its socket with --socket"
            )
        if isinstance(greeting, dict) and not self._greeted:
            self._greeted = True
            if greeting.get("protocol") != PROTOCOL_VERSION:
                raise P2PError(
                    f"p2pd {greeting.get('version')} speaks version {greeting.get('protocol')} "
                    f"of the control protocol, this client {PROTOCOL_VERSION}: "
                    "update the older of the two"
                )
        return message

    def _result(self, message: dict[str, Any]) -> Any:
        if "error" in message:
            _raise_remote(message["error"])
        return message.get("result")

    def _lost(self, reason: str) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"{self.path}: the connection to p2pd ended: {reason}; "
            f"see `systemctl status {unit_of(self._instance)}`"
        )


def _timed_out(method: str, timeout: float) -> RequestTimedOut:
    # The doctor, of whom this is told as well, then looks by itself.
    more = "" if method == "doctor" else "; `p2pctl doctor` says whether p2pd hangs"
    return RequestTimedOut(
        f"{method}: no answer within {timeout:g} s; allow more time with --timeout SECONDS{more}"
    )


def _raise_remote(error: Mapping[str, Any]) -> NoReturn:
    """Raise the error class that has the code in `error`, with the daemon's message."""
    data = error.get("data")
    code = str(data.get("code", "")) if isinstance(data, dict) else ""
    message = str(error.get("message", "the daemon refused without a reason"))
    for kind in _error_kinds(P2PError):
        if kind.code == code and kind is not RemoteError:
            raise kind("remote", message) if kind is HandshakeRefused else kind(message)
    raise RemoteError(code or "failed", message)


def _error_kinds(kind: type[P2PError]) -> Iterator[type[P2PError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _error_kinds(each)


def _connect(
    sockets: Sequence[str], timeout: float, instance: str | None, waiting: Waiting | None
) -> tuple[socket.socket, str]:
    refused, denied = "", False
    for path in sockets:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            _connect_in_time(sock, path, timeout, waiting)
        except PermissionError:
            denied = denied or not refused
            refused = refused or _permission_advice(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except ConnectionRefusedError:
            if not _is_socket(path):
                refused = refused or f"{path} is not a socket; name p2pd's with --socket PATH"
        except TimeoutError:
            sock.close()
            raise DaemonUnreachable(
                f"{path}: p2pd does not accept within {timeout:g} s; "
                f"see `systemctl status {unit_of(instance)}`"
            ) from None
        except OSError as error:
            refused = refused or f"{path}: {error}; choose another socket with --socket PATH"
        else:
            return sock, path
        sock.close()
    if refused:
        raise DaemonUnreachable(refused, denied=denied)
    origin = " ($P2PCTL_SOCKET)" if [os.environ.get("P2PCTL_SOCKET")] == [*sockets] else ""
    raise DaemonUnreachable(
        f"no p2pd answers at {' or '.join(sockets)}{origin}: is it running? "
        f"Start it with {_how_to_start(instance)}, or name its socket with --socket PATH"
        f"{_others_here(sockets, instance)}",
        absent=True,
    )


def _others_here(sockets: Sequence[str], instance: str | None) -> str:
    """Name the instances that run beside the one that does not: one of them may be meant."""
    if instance is None:
        return ""
    names: set[str] = set()
    for directory in {os.path.dirname(path) for path in sockets}:  # noqa: PTH120 - see above
        with contextlib.suppress(OSError):
            names |= {
                name.removesuffix(".sock")
                for name in os.listdir(directory)  # noqa: PTH208 - pathlib is slow to import
                if name.endswith(".sock") and _is_listened_to(f"{directory}/{name}")
            }
    shown = sorted(filter(_is_instance_name, names))[:_MOST_NAMED]
    flags = ", ".join(f"--instance {name}" for name in shown)
    return f". Others run here: {flags}" if shown else ""


def _is_listened_to(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0)
        try:
            sock.connect(path)
        except (BlockingIOError, PermissionError):
            pass  # its queue is full; this user may not connect
        except OSError:
            return False
    return True


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - pathlib is slow to import
    except OSError:
        return True  # gone by now, so its kind was not the problem


def _how_to_start(instance: str | None) -> str:
    flag = "" if instance in {None, "default"} else f" --instance {instance}"
    return f"`systemctl start {unit_of(instance)}` or `p2pd{flag}`"


def unit_of(instance: str | None) -> str:
    """Name the systemd unit of an instance; None is the default one, too."""
    return "p2pd" if instance in {None, "default"} else f"p2pd@{instance}"


def _connect_in_time(
    sock: socket.socket, path: str, timeout: float, waiting: Waiting | None
) -> None:
    started = time.monotonic()
    while True:
        try:
            sock.connect(path)
        # A Unix socket with a timeout does not wait for room in the listener's queue.
        except BlockingIOError:
            elapsed = time.monotonic() - started
            if elapsed >= timeout:
                raise TimeoutError from None
            if waiting is not None:
                waiting(elapsed)
            time.sleep(_QUEUE_SECONDS)
        else:
            return


def _permission_advice(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib is slow to import
    except OSError:
        return f"{path}: permission denied; ask the socket's owner, or use sudo"
    # Nobody should join root's group for this.
    if found.st_gid == 0 or not found.st_mode & stat.S_IWGRP:
        return (
            f"{path}: permission denied; use sudo, or start p2pd with a group that may ask "
            "(control.group, control.mode)"
        )
    group = _group_name(found.st_gid)
    return (
        f"{path}: permission denied; its group is {group}: join it with "
        f"`sudo usermod -aG {group} $USER` and log in again, or use sudo"
    )


def _group_name(group_id: int) -> str:
    import grp  # noqa: PLC0415 - needed for this message only

    try:
        return grp.getgrgid(group_id).gr_name
    except KeyError:
        return str(group_id)
