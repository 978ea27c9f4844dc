"""The control server on real Unix sockets, against a node with scripted answers."""

import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.control import api, server
from p2pd.control.server import serve_control
from p2pd.control.subscriptions import MAX_PENDING, MAX_PENDING_BYTES
from p2pd.errors import NotFound, StartError, TooFewReplicas
from p2pd.node.events import Event
from p2pd.node.snapshot import FindingResult, PeerSnapshot, StoredVersion
from tests.control.fake_node import ALICE, BOB, FakeNode, message


class Wire:
    """A client that sees every byte."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._pending = b""

    async def send(self, method: str, request_id: Any = 1, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        await self.send_line(json.dumps(message).encode())

    async def send_line(self, line: bytes) -> None:
        await self.stream.send_all(line + b"\n")

    async def receive(self) -> Any:
        """Give the next message, None at the end of the stream."""
        with trio.fail_after(10):
            while b"\n" not in self._pending:
                data = await self.stream.receive_some()
                if not data:
                    assert not self._pending
                    return None
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    async def call(self, method: str, **params: Any) -> Any:
        await self.send(method, **params)
        return await self.receive()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def path(node: FakeNode, tmp_path: Path, nursery: trio.Nursery) -> Path:
    path = tmp_path / "p2pd.sock"

    await nursery.start(partial(serve_control, node, path, mode=0o600, group=None))
    return path


@pytest.fixture
async def wire(path: Path) -> AsyncIterator[Wire]:
    async with await trio.open_unix_socket(path) as stream:
        yield Wire(stream)


async def connect(path: Path) -> Wire:
    return Wire(await trio.open_unix_socket(path))


async def test_status_and_only_the_first_answer_greets(wire: Wire, node: FakeNode) -> None:
    first, second = await wire.call("status"), await wire.call("status")
    assert first.pop("p2pd") == {"protocol": api.PROTOCOL_VERSION, "version": "0.1.0"}
    assert first == second == {"jsonrpc": "2.0", "id": 1, "result": first["result"]}
    assert first["result"]["node_id"] == str(node.node_id)
    assert first["result"]["peers"] == {"connected": 1, "attempted": 0, "disconnected": 1}


async def test_an_error_greets_too_when_it_comes_first(wire: Wire) -> None:
    assert (await wire.call("statsu"))["p2pd"]["protocol"] == api.PROTOCOL_VERSION


async def test_a_half_closed_client_still_gets_its_answer(wire: Wire, node: FakeNode) -> None:
    answer_now = trio.Event()
    node.before = answer_now.wait
    await wire.stream.send_all(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"peer":"bob"}}')
    await wire.stream.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    answer_now.set()
    assert (await wire.receive())["result"]["rtt_ms"] == [0.25]
    assert await wire.receive() is None


@pytest.mark.skipif(shutil.which("nc") is None, reason="needs nc")
async def test_the_one_liner_of_the_interface_works(path: Path, node: FakeNode) -> None:
    with trio.fail_after(10):
        done = await trio.run_process(
            ["nc", "-N", "-U", path],
            stdin=b'{"jsonrpc":"2.0","id":1,"method":"status"}\n',
            capture_stdout=True,
        )
    assert json.loads(done.stdout)["result"]["node_id"] == str(node.node_id)


async def test_each_method_answers_with_the_promised_fields(wire: Wire, node: FakeNode) -> None:
    async def result(method: str, **params: Any) -> Any:
        return (await wire.call(method, **params))["result"]

    assert set(await result("rpc.methods")) == set(api.METHODS)
    assert [each["name"] for each in await result("peers")] == ["alice", "bob"]
    assert [each["name"] for each in await result("peers", status="connected")] == ["alice"]
    address = "192.0.2.1:41000"
    assert await result("connect", address=address) == {"peer": str(ALICE), "address": address}
    assert await result("disconnect", peer="bob") == {"peer": str(BOB)}
    assert node.calls[-1] == ("disconnect", BOB)
    assert await result("ping", peer="bob", count=3) == {
        "peer": str(BOB),
        "rtt_ms": [0.25, 0.25, 0.25],
    }
    assert await result("echo", peer="bob", text="grün") == {
        "peer": str(BOB),
        "text": "grün",
        "rtt_ms": 0.5,
    }
    replicas = {"stored": 2, "wanted": 3, "quorum": 2}
    stored = {"key": "k", "version": "v1", "replicas": replicas}
    assert await result("put", key="k", value="grün", ttl=60, if_version="v0") == stored
    assert node.calls[-1:] == [("put", "k", False, 60, "v0")]
    version = {"value": "grün", "version": "v1", "writer": str(ALICE)}
    assert await result("get", key="k") == {"key": "k", **version, "siblings": 0}
    assert node.calls[-1:] == [("get", "k", "quorum", None)]
    other = {"value_base64": "/w==", "version": "v9", "writer": str(BOB)}
    node.siblings = (StoredVersion(value=b"\xff", version="v9", writer=str(BOB)),)
    assert await result("get", key="k", all=True, consistency="all") == {
        "key": "k",
        **version,
        "siblings": 1,
        "versions": [version, other],
    }
    assert node.calls[-1:] == [("get", "k", "all", None)]
    assert (await result("delete", key="k"))["version"] == "v2"
    assert node.calls[-1:] == [("delete", "k", False)]
    await result("put", key="k", value="mine", owned=True)
    await result("get", key="k", owner="alice")
    await result("delete", key="k", owned=True)
    assert node.calls[-3:] == [
        ("put", "k", True, None, None),
        ("get", "k", "quorum", "alice"),
        ("delete", "k", True),
    ]
    assert await result("lookup", target="k") == {
        "target": "k",
        "reached": None,
        "found": [{"node_id": str(ALICE), "address": "192.0.2.1:41000", "distance_bits": 250}],
        "hops": [{"node_id": str(BOB), "depth": 1, "rtt_ms": None, "outcome": "timeout"}],
        "elapsed_ms": 1.5,
    }
    assert (await result("status"))["gossip"] == {
        "published": 3,
        "delivered": 5,
        "duplicates": 1,
        "dropped": 0,
    }
    assert await result("publish", topic="news", data="grün") == {"message_id": f"{1:032x}"}
    assert await result("why", peer="bob") == {
        "node_id": str(BOB),
        "name": "bob",
        "status": "disconnected",
        "liveness": "dead",
        "summary": "bob is dead: three others could not reach it either",
        "steps": [
            {
                "time": "2023-11-14T22:13:20.000Z",
                "code": "probe.silent",
                "text": "3 probes without an answer",
            },
            {"time": None, "code": "peer.dead", "text": "nobody reaches it"},
        ],
    }
    assert node.calls[-1:] == [("why", BOB)]
    assert await result("doctor") == {
        "ok": True,
        "findings": [
            {
                "check": "disk",
                "code": "disk.ok",
                "level": "ok",
                "text": "/var/lib/p2pd is writable",
                "remedy": None,
            }
        ],
    }
    node.findings.append(FindingResult("disk", "disk.full", "problem", "full", "free some room"))
    assert not (await result("doctor"))["ok"]


async def test_any_bytes_arrive_whole(wire: Wire, node: FakeNode) -> None:
    value = bytes(range(256)) * 4096
    await wire.call("put", key="k", **api.encode_value(value))
    assert node.records["k"] == value
    assert api.decode_value((await wire.call("get", key="k"))["result"]) == value


@pytest.mark.parametrize(
    ("error", "number"), [(NotFound("no such key"), -32001), (TooFewReplicas("1 of 2"), -32004)]
)
async def test_an_error_of_the_node_is_the_answer(
    wire: Wire, node: FakeNode, error: NotFound | TooFewReplicas, number: int
) -> None:
    async def fail() -> None:
        raise error

    node.before = fail
    assert (await wire.call("get", key="k"))["error"] == {
        "code": number,
        "message": str(error),
        "data": {"code": error.code},
    }


async def test_a_bug_ends_one_request_and_is_told_with_its_traceback(
    wire: Wire, node: FakeNode
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("oops")

    node.before = fail
    told: list[Event] = []
    with node.events.sent_to(told.append):
        answer = await wire.call("get", key="k")
    assert answer["error"]["code"] == api.INTERNAL_ERROR
    assert answer["id"] == 1
    assert [event.code for event in told] == ["bug"]
    assert isinstance(told[0].error, ZeroDivisionError)
    assert told[0].error.__traceback__ is not None
    assert "result" in await wire.call("status")


async def test_several_requests_are_under_way_at_once(wire: Wire, node: FakeNode) -> None:
    answer_now = trio.Event()
    node.before = answer_now.wait
    await wire.send("lookup", 1, target="k")
    await wire.send("status", 2)
    assert (await wire.receive())["id"] == 2
    answer_now.set()
    assert (await wire.receive())["id"] == 1


async def test_a_notification_is_done_and_not_answered(wire: Wire, node: FakeNode) -> None:
    await wire.send_line(
        b'{"jsonrpc":"2.0","method":"put","params":{"key":"k","value":"v"}}\n\n \n'
        b'{"jsonrpc":"2.0","method":"get","params":{"key":"missing"}}'
    )
    await trio.testing.wait_all_tasks_blocked()
    assert (await wire.call("status"))["id"] == 1
    assert node.records == {"k": b"v"}


async def test_at_the_bound_of_requests_reading_stops(wire: Wire, node: FakeNode) -> None:
    waiting = 0
    answer_now = trio.Event()

    async def wait() -> None:
        nonlocal waiting
        waiting += 1
        await answer_now.wait()

    node.before = wait
    for number in range(server.MAX_REQUESTS + 5):
        await wire.send("ping", number, peer="bob")
    await trio.testing.wait_all_tasks_blocked()
    assert waiting == server.MAX_REQUESTS
    answer_now.set()
    ids = {(await wire.receive())["id"] for _ in range(server.MAX_REQUESTS + 5)}
    assert ids == set(range(server.MAX_REQUESTS + 5))


async def test_many_writes_of_some_clients_keep_no_other_one_waiting(
    path: Path, wire: Wire, node: FakeNode
) -> None:
    begun = 0
    places = trio.Semaphore(0)

    async def wait() -> None:
        nonlocal begun
        begun += 1
        await places.acquire()

    node.before = wait
    floods = [await connect(path) for _ in range(3)]
    for flood in floods:
        for number in range(server.MAX_REQUESTS):
            await flood.send("put", number, key="flood", value="v")
        await trio.testing.wait_all_tasks_blocked()
    assert begun == server.MAX_WRITES < 3 * server.MAX_REQUESTS
    await wire.send("put", key="mine", value="v")
    await trio.testing.wait_all_tasks_blocked()
    # After one more of the flood it is its turn, and all that began before it end before it.
    for _ in range(server.MAX_WRITES + 2):
        places.release()
        await trio.testing.wait_all_tasks_blocked()
    assert (await wire.receive())["result"]["key"] == "mine"
    for flood in floods:
        await flood.stream.aclose()


@pytest.mark.parametrize("requests", [1, server.MAX_REQUESTS + 5])
async def test_a_client_that_goes_cancels_its_own_requests_only(
    path: Path, wire: Wire, node: FakeNode, requests: int
) -> None:
    answer_now, all_gone = trio.Event(), trio.Event()
    started = cancelled = 0

    async def wait() -> None:
        nonlocal started, cancelled
        started += 1
        try:
            await answer_now.wait()
        except trio.Cancelled:
            cancelled += 1
            if cancelled == min(requests, server.MAX_REQUESTS):
                all_gone.set()
            raise

    node.before = wait
    await wire.send("ping", peer="bob")
    async with (await connect(path)).stream as leaving:
        for _ in range(requests):
            await Wire(leaving).send("ping", peer="alice")
        await trio.testing.wait_all_tasks_blocked()
        assert started == 1 + min(requests, server.MAX_REQUESTS)
    with trio.fail_after(10):
        await all_gone.wait()
    answer_now.set()
    assert (await wire.receive())["result"]["peer"] == str(BOB)


async def test_a_client_that_does_not_read_holds_up_nobody(
    path: Path, wire: Wire, node: FakeNode
) -> None:
    node.records["k"] = b"x" * 1_000_000
    greedy = await connect(path)
    async with greedy.stream:
        for number in range(4):
            await greedy.send("get", number, key="k")
        await trio.testing.wait_all_tasks_blocked()
        assert "result" in await wire.call("status")
        assert sorted([(await greedy.receive())["id"] for _ in range(4)]) == [0, 1, 2, 3]


async def test_too_long_a_line_is_an_error_and_the_next_one_is_answered(wire: Wire) -> None:
    await wire.send_line(b"x" * (api.MAX_LINE_BYTES + 1))
    await wire.send("status", 2)
    assert (await wire.receive())["error"]["code"] == api.INVALID_REQUEST
    assert (await wire.receive())["id"] == 2


async def test_deep_nesting_is_an_error_and_the_daemon_goes_on(wire: Wire) -> None:
    await wire.send_line(b"[" * 1_000_000)
    assert (await wire.receive())["error"]["code"] == api.PARSE_ERROR
    assert "result" in await wire.call("status")


# A fixture would serve all examples but end with the first.
@settings(max_examples=60, deadline=None)
@given(
    st.binary()
    | st.lists(
        st.binary(max_size=30)
        | st.sampled_from(
            [
                b"\n",
                b'{"jsonrpc":"2.0","id":5,"method":"status"}\n',
                b'{"jsonrpc":"2.0","id":6,"method":"get","params":{"key":"x"}}\n',
                b'{"jsonrpc":"2.0","id":7,"method":"get","params":{"key":"\\ud800"}}\n',
                b"[{}]\n",
            ]
        )
    ).map(b"".join)
)
async def test_after_any_bytes_status_is_answered(data: bytes) -> None:
    documented = {api.PARSE_ERROR, api.INVALID_REQUEST, api.METHOD_NOT_FOUND}
    documented.update(api.ERROR_NUMBERS.values())
    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            path = Path(directory, "p2pd.sock")
            await nursery.start(partial(serve_control, FakeNode(), path, mode=0o600, group=None))
            wire = await connect(path)
            async with wire.stream:
                await wire.stream.send_all(data + b"\n")
                await wire.send("status", "the end")
                while (message := await wire.receive())["id"] != "the end":
                    assert ("result" in message) != ("error" in message)
                    if "error" in message:
                        assert message["error"]["code"] in documented
                assert "result" in message
            nursery.cancel_scope.cancel()


async def test_watch_delivers_events_after_its_answer(wire: Wire, node: FakeNode) -> None:
    answer = await wire.call("watch")
    assert answer["result"] == {"subscription": 1}
    node.events.emit("peer.discovered", "heard again", level=10)
    node.events.emit("store.full", "the store is full", level=30, peer=ALICE, bytes=7, ratio=1e999)
    assert await wire.receive() == {
        "jsonrpc": "2.0",
        "method": "watch",
        "params": {
            "subscription": 1,
            "event": {
                "time": "2023-11-14T22:13:20.000Z",
                "level": "warning",
                "code": "store.full",
                "message": "the store is full",
                "peer": str(ALICE),
                "fields": {"bytes": 7, "ratio": None},
            },
        },
    }


async def test_a_half_closed_client_still_gets_events(wire: Wire, node: FakeNode) -> None:
    await wire.call("watch")
    await wire.stream.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    node.events.emit("one", "happened")
    assert (await wire.receive())["params"]["event"]["code"] == "one"


async def test_a_slow_subscriber_is_told_how_many_it_missed(wire: Wire, node: FakeNode) -> None:
    await wire.call("watch")
    await trio.testing.wait_all_tasks_blocked()
    for number in range(MAX_PENDING + 6):
        node.events.emit("tick", "ticked", number=number)
    received = [await wire.receive() for _ in range(MAX_PENDING)]
    assert [each["params"]["event"]["fields"]["number"] for each in received] == [
        *range(MAX_PENDING)
    ]
    assert (await wire.receive())["params"] == {"subscription": 1, "missed": 6}
    node.events.emit("tick", "ticked", number=2000)
    assert (await wire.receive())["params"]["event"]["fields"] == {"number": 2000}


async def test_subscribe_delivers_messages_on_its_topics(wire: Wire, node: FakeNode) -> None:
    answer = await wire.call("subscribe", topics=["news", "weather"])
    assert answer["result"] == {"subscription": 1}
    await wire.call("publish", topic="other", data="not for us")
    node.deliver(message("weather", b"\xff", origin_name=None, number=7))
    node.deliver(message("news", "grün".encode()))
    expected = {
        "topic": "weather",
        "message_id": f"{7:032x}",
        "origin": str(ALICE),
        "origin_name": None,
        "sequence": 7,
        "published_at": "2023-11-14T22:13:20.250Z",
        "hops": 2,
        "data_base64": "/w==",
    }
    assert await wire.receive() == {
        "jsonrpc": "2.0",
        "method": "subscribe",
        "params": {"subscription": 1, "message": expected},
    }
    assert (await wire.receive())["params"]["message"]["data"] == "grün"


async def test_without_topics_every_message_is_delivered(wire: Wire, node: FakeNode) -> None:
    await wire.call("subscribe")
    node.deliver(message("any"))
    assert (await wire.receive())["params"]["message"]["topic"] == "any"


async def test_a_slow_subscriber_is_told_how_many_messages_it_missed(
    wire: Wire, node: FakeNode
) -> None:
    await wire.call("subscribe")
    await trio.testing.wait_all_tasks_blocked()
    for number in range(MAX_PENDING + 6):
        node.deliver(message(number=number))
    received = [await wire.receive() for _ in range(MAX_PENDING)]
    assert [each["params"]["message"]["sequence"] for each in received] == [*range(MAX_PENDING)]
    assert (await wire.receive())["params"] == {"subscription": 1, "missed": 6}


async def test_what_waits_for_a_subscriber_is_bounded_in_bytes(wire: Wire, node: FakeNode) -> None:
    await wire.call("subscribe")
    await trio.testing.wait_all_tasks_blocked()
    half = b"x" * (MAX_PENDING_BYTES // 2)
    for number, data in enumerate([half, half[1:], half, b"", b"x"]):
        node.deliver(message(data=data, number=number))
    received = [(await wire.receive())["params"] for _ in range(3)]
    assert [each["message"]["sequence"] for each in received[:2]] == [0, 1]
    assert received[2]["missed"] == 3
    node.deliver(message(data=half + half, number=9))
    assert (await wire.receive())["params"]["message"]["sequence"] == 9


async def test_a_subscriber_to_topics_that_goes_is_forgotten(path: Path, node: FakeNode) -> None:
    wire = await connect(path)
    async with wire.stream:
        await wire.call("subscribe", topics=["news"])
        assert node.audience
        await wire.call("unsubscribe", subscription=1)
        await trio.testing.wait_all_tasks_blocked()
        assert not node.audience
        await wire.call("subscribe", topics=["news"])
    with trio.fail_after(10):
        while node.audience:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("topics", "problem"),
    [
        ("news", "must be an array of strings"),
        (["news", 1], "must be an array of strings"),
        ([], "is an array whose length must be at least 1"),
        (["t"] * (api.MAX_TOPICS + 1), "is an array whose length must be at most 64"),
        (["news", ""], "has an item that must not be empty"),
        (["ü" * 32 + "x"], "has an item that must have at most 64 bytes"),
        (["\udcff"], "has an item that is not valid Unicode text (UTF-8 on a command line)"),
    ],
)
async def test_impossible_topics_are_refused(wire: Wire, topics: Any, problem: str) -> None:
    error = (await wire.call("subscribe", topics=topics))["error"]
    assert error["code"] == api.INVALID_PARAMS
    assert error["message"] == f"subscribe: parameter `topics` {problem}"
    assert "result" in await wire.call("subscribe", topics=["ü" * 32] * api.MAX_TOPICS)


async def test_the_network_has_topics_of_its_own(wire: Wire) -> None:
    error = (await wire.call("publish", topic="$dead", data=""))["error"]
    assert error["data"] == {"code": "invalid_request"}
    error = (await wire.call("publish", topic="", data=""))["error"]
    assert "must not be empty" in error["message"]
    error = (await wire.call("lookup", target=""))["error"]
    assert error["message"] == "lookup: parameter `target` must not be empty"
    error = (await wire.call("publish", topic="news"))["error"]
    assert error["message"] == "give exactly one of `data` and `data_base64`"


async def test_unsubscribe_ends_what_it_names(wire: Wire, node: FakeNode) -> None:
    await wire.call("watch")
    await wire.call("watch")
    assert (await wire.call("unsubscribe", subscription=1))["result"] == {"unsubscribed": True}
    assert (await wire.call("unsubscribe", subscription=9))["result"] == {"unsubscribed": False}
    await trio.testing.wait_all_tasks_blocked()
    node.events.emit("one", "happened")
    assert (await wire.receive())["params"]["subscription"] == 2
    assert "result" in await wire.call("status")


async def test_subscriptions_are_bounded(wire: Wire) -> None:
    for _ in range(server.MAX_SUBSCRIPTIONS):
        assert "result" in await wire.call("watch")
    assert (await wire.call("watch"))["error"]["data"] == {"code": "busy"}
    await wire.call("unsubscribe", subscription=1)
    await trio.testing.wait_all_tasks_blocked()
    assert "result" in await wire.call("watch")
    assert (await wire.call("unsubscribe", subscription=1))["result"] == {"unsubscribed": False}


async def test_a_subscriber_that_goes_is_forgotten(path: Path, node: FakeNode) -> None:
    wire = await connect(path)
    async with wire.stream:
        await wire.call("watch")
    with trio.fail_after(10):
        while node.events._sinks:
            await trio.lowlevel.checkpoint()


async def names_and_statuses(wire: Wire, count: int) -> list[tuple[str, str]]:
    received = [(await wire.receive())["params"]["peer"] for _ in range(count)]
    return [(each["name"], each["status"]) for each in received]


async def test_watching_peers_gives_all_then_each_change(wire: Wire, node: FakeNode) -> None:
    await wire.call("peers.watch")
    everybody = [("alice", "connected"), ("bob", "disconnected")]
    assert await names_and_statuses(wire, 2) == everybody
    node.events.emit("store.full", "no matter of peers", peer=ALICE)
    node.becomes(1, "connected")
    assert await names_and_statuses(wire, 1) == [("bob", "connected")]


async def test_an_address_without_a_node_is_watched_too(wire: Wire, node: FakeNode) -> None:
    node.registry = []
    await wire.call("peers.watch")
    stranger = PeerSnapshot(
        node_id=None, name=None, address="192.0.2.7:1", direction=None, status="attempted",
        liveness="unknown", source="bootstrap", success_count=0, fail_count=1, first_seen=None,
        last_seen=None, rtt_ms=None, last_error="refused",
    )  # fmt: skip
    node.registry = [stranger]
    node.events.emit("peer.attempted", "dialled", address="192.0.2.7:1")
    assert (await wire.receive())["params"]["peer"]["last_error"] == "refused"


async def test_watching_a_status_shows_who_leaves_it_once(wire: Wire, node: FakeNode) -> None:
    await wire.call("peers.watch", status="connected")
    assert await names_and_statuses(wire, 1) == [("alice", "connected")]
    for status in ("disconnected", "attempted", "connected"):
        node.becomes(0, status)
        await trio.testing.wait_all_tasks_blocked()
    left_and_back = [("alice", "disconnected"), ("alice", "connected")]
    assert await names_and_statuses(wire, 2) == left_and_back


async def test_stop_answers_and_then_stops_the_node(wire: Wire, node: FakeNode) -> None:
    assert (await wire.call("stop"))["result"] == {"stopping": True}
    with trio.fail_after(10):
        await node.stopped.wait()


async def test_at_the_bound_of_clients_the_oldest_idle_one_makes_room(
    path: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    watching, idle = await connect(path), await connect(path)
    await watching.call("watch")
    await idle.call("status")
    newcomer = await connect(path)
    await newcomer.call("watch")
    assert await idle.receive() is None
    refused = await connect(path)
    assert (await refused.receive())["error"]["data"] == {"code": "busy"}
    assert await refused.receive() is None
    assert "result" in await watching.call("status")
    for each in (watching, idle, newcomer, refused):
        await each.stream.aclose()


async def test_two_who_come_at_once_take_the_places_of_two_idle_clients(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    idle = [await connect(path), await connect(path)]
    for each in idle:
        await each.call("status")
    newcomers = [await connect(path), await connect(path)]
    for each in newcomers:
        assert "result" in await each.call("watch")
    for each in idle:
        assert await each.receive() is None
    for each in (*idle, *newcomers):
        await each.stream.aclose()


async def test_the_socket_file_is_there_while_it_serves(node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_control, node, path, mode=0o640, group=None))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        with pytest.raises(StartError):
            await serve_control(node, path, mode=0o600, group=None)
        nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        await trio.open_unix_socket(path)
