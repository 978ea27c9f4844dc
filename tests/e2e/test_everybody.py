"""What all must know: messages to everybody, who died, who came back; and why."""

import json
import select
import signal
from typing import IO

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, following, until

pytestmark = pytest.mark.e2e

SIZE = 6


@pytest.fixture
def daemons(make_daemon: MakeDaemon) -> list[Daemon]:
    made = [make_daemon(f"n{number}") for number in range(SIZE)]
    for each in made:
        each.launch()
    for each in made:
        each.wait_ready()
    names = {each.name for each in made}
    until("all are connected", lambda: all(d.connected() == names - {d.name} for d in made))
    return made


def seen_as(daemon: Daemon, name: str) -> str:
    return str(daemon.peer(name).get("liveness"))


def test_a_message_reaches_every_subscriber_once(daemons: list[Daemon]) -> None:
    first, second, third = daemons[:3]
    with (
        following(first, "subscribe", "news", "--json") as own,
        following(second, "subscribe", "news", "other", "--json") as far,
    ):
        streams = [each.stdout for each in (own, far) if each.stdout is not None]
        # What is published before they have subscribed is for nobody.
        until("both have subscribed", lambda: all(greeted(third, each) for each in streams))
        sent = third.ctl("publish", "news", "-", "--json", stdin="line one")
        message_id = json.loads(sent.stdout)["message_id"]
        third.ctl("publish", "unheard", "not for them")
        third.ctl("publish", "news", "last")
        for stream in streams:
            told = [json.loads(stream.readline())]
            while told[-1]["data"] != "last":
                told.append(json.loads(stream.readline()))
            told = [each for each in told if each["data"] != "are you there?"]
            assert [each["data"] for each in told] == ["line one", "last"]
            assert told[0]["message_id"] == message_id
            assert told[0]["origin_name"] == third.name
            assert told[0]["hops"] >= 1
    assert (
        first.call("status")["gossip"]["delivered"] == third.call("status")["gossip"]["published"]
    )


def greeted(sender: Daemon, stream: IO[str]) -> bool:
    """Publish, and say whether something came to a subscriber."""
    sender.ctl("publish", "news", "are you there?")
    return bool(select.select([stream], [], [], 0.1)[0])


def test_the_dead_are_dead_for_all_and_alive_when_they_are_back(daemons: list[Daemon]) -> None:
    victims, survivors = daemons[:2], daemons[2:]
    for victim in victims:
        victim.kill()
    until(
        "all survivors hold both dead",
        lambda: all(
            seen_as(each, victim.name) == "dead" for each in survivors for victim in victims
        ),
    )
    assert all(
        seen_as(each, other.name) == "alive"
        for each in survivors
        for other in survivors
        if each is not other
    )
    why = survivors[0].ctl("why", victims[0].name)
    assert why.returncode == 0
    assert "is dead" in why.stdout
    assert "peer.dead" in why.stdout
    victims[0].start()
    until(
        "it is alive for all",
        lambda: all(seen_as(each, victims[0].name) == "alive" for each in survivors),
    )


def test_who_leaves_is_not_dead(daemons: list[Daemon]) -> None:
    leaving, others = daemons[0], daemons[1:]
    leaving.stop()
    until(
        "it has left all",
        lambda: all(each.peer(leaving.name)["status"] == "disconnected" for each in others),
    )
    assert {seen_as(each, leaving.name) for each in others} == {"unknown"}


def test_a_stopped_process_is_alive_again_when_it_goes_on(daemons: list[Daemon]) -> None:
    stopped, others = daemons[0], daemons[1:]
    stopped.signal(signal.SIGSTOP)
    until(
        "somebody misses it",
        lambda: any(seen_as(each, stopped.name) != "alive" for each in others),
        within=30,
    )
    stopped.signal(signal.SIGCONT)
    until(
        "it is alive for all", lambda: {seen_as(each, stopped.name) for each in others} == {"alive"}
    )
    assert stopped.events("peer.dead") == []
