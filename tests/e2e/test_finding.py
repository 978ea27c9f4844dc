"""Nodes on one host find each other, lose each other, and find each other again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until
from tests.e2e.hosts import Ground

pytestmark = pytest.mark.e2e

NO_MULTICAST = ("--set", "discovery.multicast.enabled=false")
# The promises of the product, in seconds.
FOUND_WITHIN = 1.0
LOSS_SHOWN_WITHIN = 1.0
BACK_WITHIN = 2.0


def know_each_other(daemons: list[Daemon]) -> Callable[[], bool]:
    names = {daemon.name for daemon in daemons}
    return lambda: all(daemon.connected() == names - {daemon.name} for daemon in daemons)


def start_all(daemons: list[Daemon]) -> None:
    for daemon in daemons:
        daemon.launch()
    for daemon in daemons:
        daemon.wait_ready()


def test_three_find_each_other_where_loopback_is_all(make_daemon: MakeDaemon) -> None:
    daemons = [make_daemon(name) for name in "abc"]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons), FOUND_WITHIN)


def test_a_latecomer_finds_those_who_are_there(make_daemon: MakeDaemon) -> None:
    daemons = [make_daemon(name) for name in "abc"]
    for daemon in daemons:
        daemon.start()
    until("each lists the two others", know_each_other(daemons), FOUND_WITHIN)


def test_three_find_each_other_on_a_lan(ground: Ground) -> None:
    lan = ground.lan()
    daemons = [ground.host(lan).make_daemon() for _ in range(3)]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons), FOUND_WITHIN)


def test_three_find_each_other_by_bootstrap(make_daemon: MakeDaemon) -> None:
    first = make_daemon("a", *NO_MULTICAST)
    others = [make_daemon(name, *NO_MULTICAST, "--bootstrap", first.address) for name in "bc"]
    daemons = [first, *others]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons), FOUND_WITHIN)
    assert first.events("peer.discovered") == []
    assert {each["source"] for each in others[0].call("peers")} <= {
        *("bootstrap", "exchange", "inbound")
    }


def test_a_killed_node_is_missed_and_comes_back(make_daemon: MakeDaemon) -> None:
    daemons = [make_daemon(name) for name in "abc"]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons))
    victim, *others = daemons
    [before] = [each for each in others[0].call("peers") if each["name"] == "a"]

    victim.kill()
    until(
        "the others show it disconnected",
        lambda: all(each.peer("a")["status"] == "disconnected" for each in others),
        LOSS_SHOWN_WITHIN,
    )
    assert all(each.peer("a")["last_error"] for each in others)

    victim.start()
    until("all are connected again", know_each_other(daemons), BACK_WITHIN)
    after = others[0].peer("a")
    assert after["success_count"] == before["success_count"] + 1
    assert after["node_id"] == before["node_id"]
    assert after["first_seen"] == before["first_seen"]
    assert after["last_error"] is None


def test_a_key_outlives_the_nodes_that_store_it(make_daemon: MakeDaemon) -> None:
    daemons = [make_daemon(name) for name in "abc"]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons))
    assert daemons[0].ctl("put", "key", "value").returncode == 0
    assert daemons[1].ctl("get", "key").stdout == "value"
    for daemon in daemons:
        daemon.kill()
        daemon.start()
    until("each lists the two others", know_each_other(daemons))
    for daemon in daemons:
        assert daemon.ctl("get", "key", "--consistency", "all").stdout == "value"


def test_both_dial_at_once_and_one_connection_stays(make_daemon: MakeDaemon) -> None:
    # The diallers stay still: only the two `connect`s make connections.
    alone = (*NO_MULTICAST, "--set", "connections.target=0")
    one, two = (make_daemon(name, *alone).start() for name in "ab")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(100):
            dials = [
                pool.submit(one.call, "connect", address=two.address),
                pool.submit(two.call, "connect", address=one.address),
            ]
            assert [dial.result()["peer"] for dial in dials] == [
                two.call("status")["node_id"],
                one.call("status")["node_id"],
            ]
            until("one TCP connection is left", lambda: open_connections(one, two) == 1)
            assert one.connected() == {"b"}
            assert two.connected() == {"a"}
            assert one.call("ping", peer="b")["rtt_ms"]
            assert one.peer("b")["direction"] != two.peer("a")["direction"]
            one.call("disconnect", peer="b")
            until("both are alone", lambda: not one.connected() and not two.connected())
            until("no TCP connection is left", lambda: open_connections(one, two) == 0)


def open_connections(one: Daemon, two: Daemon) -> int:
    """How many TCP connections are established between the two."""
    table = f"/proc/{one.pid}/net/tcp"
    ports = {f"{one.port:04X}", f"{two.port:04X}"}
    found = 0
    with open(table) as lines:  # noqa: PTH123 - a line of /proc
        for line in list(lines)[1:]:
            _, local, _, state, *_ = line.split()
            # An accepted socket has the listener's port as its own.
            found += state == "01" and local.partition(":")[2] in ports
    return found
