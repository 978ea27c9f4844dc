"""Keys and values on real daemons: half of them killed, a newcomer, and keys with an owner."""

import json

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until

pytestmark = pytest.mark.e2e

SIZE = 6
KILLED = 3
# One more than are killed: of each key, at least one replica is left.
REPLICATION = KILLED + 1
KEYS = [f"key {number}" for number in range(30)]


def launch(make_daemon: MakeDaemon, name: str) -> Daemon:
    return make_daemon(name, "--set", f"dht.replication={REPLICATION}")


@pytest.fixture
def daemons(make_daemon: MakeDaemon) -> list[Daemon]:
    made = [launch(make_daemon, f"n{number}").start() for number in range(SIZE)]
    names = {each.name for each in made}
    until("all are connected", lambda: all(d.connected() == names - {d.name} for d in made))
    return made


def records(daemon: Daemon) -> int:
    return int(daemon.call("status")["store"]["records"])


def test_what_was_acknowledged_outlives_half_of_the_daemons(
    daemons: list[Daemon], make_daemon: MakeDaemon
) -> None:
    first, *_ = daemons
    for key in KEYS:
        replicas = first.call("put", key=key, value=f"of {key}")["replicas"]
        assert replicas["stored"] == replicas["wanted"] == REPLICATION
    victims, survivors = daemons[:KILLED], daemons[KILLED:]
    for each in victims:
        each.kill()
    for number, key in enumerate(KEYS):
        found = survivors[number % len(survivors)].call("get", key=key)
        assert (found["value"], found["siblings"]) == (f"of {key}", 0)
    everything = [len(KEYS)] * len(survivors)
    until("all survivors have all", lambda: [*map(records, survivors)] == everything)
    newcomer = launch(make_daemon, "late").start()
    until("the newcomer has all", lambda: records(newcomer) == len(KEYS))


def test_a_key_with_an_owner(daemons: list[Daemon]) -> None:
    owner, reader = daemons[0], daemons[-1]
    owner.ctl("put", "motto", "mine", "--owned")
    reader.ctl("put", "motto", "everybody's")
    assert reader.ctl("get", "motto", "--owner", owner.name).stdout == "mine"
    assert owner.ctl("get", "motto").stdout == "everybody's"
    owner.ctl("delete", "motto", "--owned")
    gone = reader.ctl("get", "motto", "--owner", owner.name, "--json")
    assert gone.returncode == 3
    assert json.loads(gone.stderr)["error"]["code"] == "not_found"
    assert owner.ctl("get", "motto").stdout == "everybody's"
