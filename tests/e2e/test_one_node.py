"""A node alone is a network: every command, its JSON, its exit codes."""

import json
import select
import signal
from typing import IO, Any

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, following, p2pctl, until

pytestmark = pytest.mark.e2e

# As INTERFACE.md promises them to scripts, but for gossip, which there is none of yet.
STATUS = (
    "node_id name instance version protocol network pid started_at uptime_seconds listen "
    "addresses roles peers store gossip"
)
PEER = (
    "node_id name address direction status liveness source success_count fail_count first_seen "
    "last_seen rtt_ms last_error"
)


@pytest.fixture
def node(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon("a").start()


def read(daemon: Daemon, *argv: str) -> Any:
    done = daemon.ctl("--json", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def something_happens(node: Daemon, shown_at: IO[str]) -> bool:
    """Make the node emit an event; whether it is shown soon."""
    node.signal(signal.SIGHUP)
    return bool(select.select([shown_at], [], [], 0.1)[0])


def test_put_and_get(node: Daemon) -> None:
    assert node.ctl("put", "a", "1").returncode == 0
    done = node.ctl("get", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1", "")


def test_the_environment_names_the_socket(node: Daemon) -> None:
    shown = node.ctl("status")
    assert shown.returncode == 0
    assert f"{node.port}" in shown.stdout
    by_variable = p2pctl("status", "--json", environment={"P2PCTL_SOCKET": str(node.socket)})
    assert json.loads(by_variable.stdout)["instance"] == "a"


def test_the_json_of_the_node_itself(node: Daemon) -> None:
    status = read(node, "status")
    assert status.keys() == set(STATUS.split())
    assert (status["pid"], status["name"], status["instance"]) == (node.pid, "a", "a")
    assert status["listen"] == [f"0.0.0.0:{node.port}", f"[::]:{node.port}"]
    assert status["peers"] == {"connected": 0, "attempted": 0, "disconnected": 0}
    assert read(node, "peers") == []
    assert read(node, "lookup", "nothing").keys() == {
        *("target", "reached", "found", "hops", "elapsed_ms"),
    }


def test_the_json_of_a_record(node: Daemon) -> None:
    put = read(node, "put", "key", "v\u00e4lue")
    assert put.keys() == {"key", "version", "replicas"}
    assert put["replicas"] == {"stored": 1, "wanted": 1, "quorum": 1}
    got = read(node, "get", "key")
    me = read(node, "status")["node_id"]
    assert got == {
        "key": "key",
        "value": "v\u00e4lue",
        "version": put["version"],
        "writer": me,
        "siblings": 0,
    }
    assert read(node, "status")["store"]["records"] == 1
    assert read(node, "delete", "key").keys() == put.keys()
    gone = node.ctl("get", "key", "--json")
    assert gone.returncode == 3
    assert json.loads(gone.stderr)["error"]["code"] == "not_found"


def test_bytes_go_through_unchanged(node: Daemon) -> None:
    assert node.ctl("put", "text", "-", stdin="two\nlines\n").returncode == 0
    assert node.ctl("get", "text").stdout == "two\nlines\n"
    node.call("put", key="bytes", value_base64="/wD+")
    assert read(node, "get", "bytes")["value_base64"] == "/wD+"


def test_a_version_guards_a_write(node: Daemon) -> None:
    first = read(node, "put", "key", "1")["version"]
    second = read(node, "put", "key", "2", "--if-version", first)["version"]
    late = node.ctl("put", "key", "3", "--if-version", first, "--json")
    assert late.returncode == 1
    assert json.loads(late.stderr)["error"]["code"] == "version_conflict"
    assert read(node, "get", "key")["version"] == second


def test_a_record_expires(node: Daemon) -> None:
    assert node.ctl("put", "soon", "1", "--ttl", "0.3").returncode == 0
    until("the record is gone", lambda: node.ctl("get", "soon").returncode == 3)


def test_watch_shows_events_as_they_happen(node: Daemon, make_daemon: MakeDaemon) -> None:
    with following(node, "watch", "--json") as watch:
        assert watch.stdout is not None
        shown = watch.stdout
        until("watch has subscribed", lambda: something_happens(node, shown))
        with following(node, "peers", "--watch", "--json") as peers:
            assert peers.stdout is not None
            make_daemon("b").start()
            event = json.loads(watch.stdout.readline())
            peer = json.loads(peers.stdout.readline())
            peers.send_signal(signal.SIGINT)
            assert peers.wait(10) == 130
        assert {"time", "level", "code", "message", "peer", "fields"} == event.keys()
        assert peer.keys() == set(PEER.split())
        assert peer["name"] in {"b", None}
        node.stop()
        assert watch.wait(10) == 4


def test_the_json_of_two_nodes(node: Daemon, make_daemon: MakeDaemon) -> None:
    other = make_daemon("b").start()
    until("both are connected", lambda: node.connected() and other.connected())
    [peer] = read(node, "peers")
    assert peer.keys() == set(PEER.split())
    assert (peer["name"], peer["status"], peer["liveness"]) == ("b", "connected", "alive")
    assert peer["direction"] in {"inbound", "outbound"}
    assert peer["source"] in {"multicast", "inbound"}
    other_id = peer["node_id"]
    ping = read(node, "ping", "b", "-c", "3", "-i", "0.1")
    assert (ping["peer"], len(ping["rtt_ms"])) == (other_id, 3)
    echo = read(node, "echo", other_id[:8], "h\u00e9llo")
    assert echo.keys() == {"peer", "text", "rtt_ms"}
    assert echo["text"] == "h\u00e9llo"
    lookup = read(node, "lookup", "b")
    assert (lookup["target"], lookup["reached"]) == (other_id, True)
    assert lookup["found"][0].keys() == {"node_id", "address", "distance_bits"}
    assert lookup["found"][0]["distance_bits"] == 0
    assert lookup["hops"][0].keys() == {"node_id", "depth", "rtt_ms", "outcome"}
    assert read(node, "put", "key", "v")["replicas"] == {"stored": 2, "wanted": 2, "quorum": 2}
    assert read(node, "disconnect", "b") == {"peer": other_id}
    until("b is gone", lambda: not node.connected())
    assert read(node, "connect", other.address) == {"peer": other_id, "address": other.address}
    assert node.connected() == {"b"}


def test_stop_leaves_nothing_to_talk_to(node: Daemon) -> None:
    assert read(node, "stop") == {"stopping": True}
    assert node.wait() == 0
    done = node.ctl("status", "--json")
    assert done.returncode == 4
    message = json.loads(done.stderr)["error"]["message"]
    assert str(node.socket) in message
    assert "systemctl start p2pd" in message


def test_a_request_that_takes_too_long_is_exit_5(node: Daemon) -> None:
    node.signal(signal.SIGSTOP)
    done = node.ctl("--timeout", "0.2", "status", "--json")
    node.signal(signal.SIGCONT)
    assert done.returncode == 5
    assert json.loads(done.stderr)["error"]["code"] == "timeout"
