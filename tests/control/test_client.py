"""The client against scripted servers: what it does when things are not as they should be."""

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pd.control import client as client_module
from p2pd.control.client import Client, RemoteError, default_sockets
from p2pd.errors import (
    Busy,
    DaemonUnreachable,
    DialTimedOut,
    HandshakeRefused,
    InvalidRequest,
    NotFound,
    P2PError,
    RequestRefused,
    RequestTimedOut,
    TooFewReplicas,
)

Script = Callable[[socket.socket], None]
GREETING = {"protocol": 1, "version": "0.1.0"}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    """Run a script against the first connection; gives the path of the socket."""
    path = str(tmp_path / "p2pd.sock")
    listener = socket.socket(socket.AF_UNIX)
    threads = []

    def start(script: Script) -> str:
        listener.bind(path)
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                script(connection)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "p2pd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)
            with pytest.raises(DaemonUnreachable, match="does not accept"):
                Client([path], timeout=0.05)

            def accept() -> None:
                listener.accept()[0].close()

            threading.Timer(0.1, accept).start()
            Client([path], timeout=10).close()


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answering(*messages: dict[str, Any]) -> Script:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        for message in messages:
            connection.sendall(json.dumps(message).encode() + b"\n")
        until_closed(connection)

    return script


def error(code: str, message: str = "no") -> dict[str, Any]:
    body = {"code": -32000, "message": message, "data": {"code": code}}
    return {"jsonrpc": "2.0", "id": 1, "error": body, "p2pd": GREETING}


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        ("not_found", NotFound, 3),
        ("too_few_replicas", TooFewReplicas, 5),
        ("timeout", RequestTimedOut, 5),
        ("dial_timeout", DialTimedOut, 5),
        ("request_refused", RequestRefused, 1),
        ("handshake_refused", HandshakeRefused, 1),
        ("failed", P2PError, 1),
        ("invented_later", RemoteError, 1),
    ],
)
def test_the_daemons_error_is_raised_as_what_it_is(
    serve: Callable[[Script], str], code: str, kind: type[P2PError], exit_code: int
) -> None:
    path = serve(answering(error(code, "why")))
    with Client([path]) as client, pytest.raises(kind, match=r"^why$") as caught:
        client.call("status")
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    if isinstance(caught.value, RemoteError):
        assert caught.value.remote_code == code


def test_answers_to_others_and_notifications_are_passed_over(
    serve: Callable[[Script], str],
) -> None:
    path = serve(
        answering(
            {"id": 77, "result": "wrong", "p2pd": GREETING},
            {"method": "watch", "params": {"subscription": 1}},
            {"id": 1, "result": "right"},
        )
    )
    with Client([path]) as client:
        assert client.call("status") == "right"


def test_an_answer_may_come_in_pieces(serve: Callable[[Script], str]) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        whole = json.dumps({"id": 1, "result": "x" * 1000, "p2pd": GREETING}).encode() + b"\n"
        for start in range(0, len(whole), 7):
            connection.sendall(whole[start : start + 7])
        until_closed(connection)

    with Client([serve(script)]) as client:
        assert client.call("status") == "x" * 1000


def test_parameters_that_are_none_are_left_out(serve: Callable[[Script], str]) -> None:
    received = []

    def script(connection: socket.socket) -> None:
        received.append(json.loads(connection.recv(65536)))
        connection.sendall(json.dumps({"id": 1, "result": 1, "p2pd": GREETING}).encode() + b"\n")

    with Client([serve(script)]) as client:
        client.call("put", {"key": "k", "ttl": None})
    assert received[0]["params"] == {"key": "k"}


def test_no_answer_in_time_is_a_timeout(serve: Callable[[Script], str]) -> None:
    ticks: list[float] = []
    told = pytest.raises(RequestTimedOut, match=r"within 0\.3 s.*--timeout")
    with Client([serve(until_closed)]) as client, told:
        client.call("status", timeout=0.3, waiting=ticks.append)
    assert ticks == sorted(ticks)
    assert ticks


@pytest.mark.parametrize(("instance", "unit"), [("default", "p2pd"), ("lab", "p2pd@lab")])
def test_an_end_before_the_answer_is_told(
    serve: Callable[[Script], str], instance: str, unit: str
) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)

    path = serve(script)
    hint = f"`systemctl status {unit}`"
    with (
        Client([path], instance=instance) as client,
        pytest.raises(DaemonUnreachable, match=hint) as caught,
    ):
        client.call("status")
    assert path in str(caught.value)


def test_a_refusal_before_the_request_was_read_is_told(serve: Callable[[Script], str]) -> None:
    def script(connection: socket.socket) -> None:
        refusal = {**error("busy", "too many"), "id": None}
        connection.sendall(json.dumps(refusal).encode() + b"\n")
        until_closed(connection)

    with Client([serve(script)]) as client, pytest.raises(Busy, match="too many"):
        client.call("status")


def test_a_refusal_before_the_request_was_sent_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "p2pd.sock"))
        listener.listen()
        with Client([str(tmp_path / "p2pd.sock")]) as client:
            connection, _ = listener.accept()
            refusal = {**error("busy", "too many"), "id": None}
            connection.sendall(json.dumps(refusal).encode() + b"\n")
            connection.close()
            with pytest.raises(Busy, match="too many"):
                client.call("status")


@pytest.mark.parametrize("line", [b"HTTP/1.1 400 Bad Request\n", b"[1]\n", b'{"id":1}\n'])
def test_something_other_than_p2pd_is_told(serve: Callable[[Script], str], line: bytes) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(line)
        until_closed(connection)

    with Client([serve(script)]) as client, pytest.raises(DaemonUnreachable, match="not p2pd"):
        client.call("status")


def test_another_protocol_version_is_told(serve: Callable[[Script], str]) -> None:
    greeting = {"protocol": 2, "version": "9.0"}
    path = serve(answering({"id": 1, "result": 1, "p2pd": greeting}))
    with Client([path]) as client, pytest.raises(P2PError, match=r"9\.0 speaks version 2"):
        client.call("status")


def test_a_subscription_gives_its_own_notifications(serve: Callable[[Script], str]) -> None:
    path = serve(
        answering(
            {"id": 1, "result": {"subscription": 4}, "p2pd": GREETING},
            {"method": "watch", "params": {"subscription": 9, "event": 0}},
            {"method": "watch", "params": {"subscription": 4, "event": 1}},
            {"method": "watch", "params": {"subscription": 4, "missed": 2}},
            error("busy"),
        )
    )
    with Client([path]) as client:
        notices = client.subscribe("watch")
        assert next(notices)["event"] == 1
        assert next(notices)["missed"] == 2
        with pytest.raises(Busy):
            next(notices)


def test_no_daemon_names_every_socket_tried_and_what_to_do(tmp_path: Path) -> None:
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(paths[1])
    with pytest.raises(DaemonUnreachable) as caught:
        Client(paths)
    assert all(path in str(caught.value) for path in paths)
    assert "systemctl start p2pd" in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_instance_that_does_not_answer_is_the_one_to_start(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        Client([str(tmp_path / "b.sock")], instance="b")
    assert "`systemctl start p2pd@b` or `p2pd --instance b`" in str(caught.value)


def test_what_is_no_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        Client([str(tmp_path)])
    assert str(caught.value) == f"{tmp_path} is not a socket; name p2pd's with --socket PATH"


def test_the_next_socket_is_tried(serve: Callable[[Script], str], tmp_path: Path) -> None:
    path = serve(answering({"id": 1, "result": "here", "p2pd": GREETING}))
    with Client([str(tmp_path / "missing"), path]) as client:
        assert client.path == path
        assert client.call("status") == "here"


def test_a_path_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="--socket"):
        Client([str(tmp_path / ("x" * 200))])


@pytest.mark.parametrize(
    ("group", "mode", "advice"),
    [
        (1234, 0o660, "sudo usermod -aG group-1234 $USER"),
        (1234, 0o600, "control.group"),
        # Nobody is to join that one.
        (0, 0o660, "control.group"),
    ],
)
def test_permission_denied_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, mode: int, advice: str
) -> None:
    class Refusing(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    path = tmp_path / "p2pd.sock"
    path.touch()
    found = os.stat_result((stat.S_IFSOCK | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))
    monkeypatch.setattr(socket, "socket", Refusing)
    monkeypatch.setattr(client_module, "_group_name", lambda gid: f"group-{gid}")
    monkeypatch.setattr(os, "stat", lambda _: found)
    with pytest.raises(DaemonUnreachable) as caught:
        Client([str(path)])
    assert advice in str(caught.value)
    assert ("usermod" in str(caught.value)) is ("usermod" in advice)
    assert caught.value.denied


def test_the_users_socket_comes_before_the_systems() -> None:
    environment = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    mine, system = "/run/user/1000/p2pd/x.sock", "/run/p2pd/x.sock"
    assert default_sockets("x", environment, uid=1000) == [mine, system]
    assert default_sockets("x", environment, uid=0) == [system, mine]


@pytest.mark.parametrize("runtime", [None, "", "relative"])
def test_the_fallback_directory_counts_only_when_it_is_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str | None
) -> None:
    environment = {} if runtime is None else {"XDG_RUNTIME_DIR": runtime}
    asked = []
    plain = os.lstat

    def lstat(path: str) -> os.stat_result:
        asked.append(path)
        return plain(tmp_path / "fallback")

    monkeypatch.setattr(os, "lstat", lstat)
    uid = os.getuid()
    fallback, system = f"/tmp/p2pd-{uid}/x.sock", "/run/p2pd/x.sock"

    def found() -> bool:
        sockets = default_sockets("x", environment, uid=uid)
        assert system in sockets
        return fallback in sockets

    assert not found()
    (tmp_path / "fallback").mkdir(mode=0o700)
    assert found()
    (tmp_path / "fallback").chmod(0o770)
    assert not found()
    (tmp_path / "fallback").chmod(0o702)
    assert not found()
    (tmp_path / "fallback").rmdir()
    (tmp_path / "fallback").touch(mode=0o600)
    assert not found()
    (tmp_path / "fallback").unlink()
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "fallback").symlink_to(tmp_path / "real")
    assert not found()
    assert set(asked) == {f"/tmp/p2pd-{uid}"}


def test_another_users_fallback_directory_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = os.lstat(tmp_path)
    monkeypatch.setattr(os, "lstat", lambda path: found)
    other = os.getuid() + 1
    assert default_sockets("x", {}, uid=other) == ["/run/p2pd/x.sock"]


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", ".x", "a b", "ü", "a\0", "x" * 65])
def test_an_impossible_instance_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="--instance"):
        default_sockets(name, {}, uid=1000)
