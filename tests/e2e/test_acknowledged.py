"""`kill -9` amid puts: what was acknowledged is there afterwards, and nothing else is."""

import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from p2pd.control.client import Client
from p2pd.errors import DaemonUnreachable, NotFound, P2PError
from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import DEADLINE, Daemon, until

pytestmark = pytest.mark.e2e

WRITERS = 4
# A kill comes after so many more were acknowledged: from the very first to amid a checkpoint.
MOST_PUTS = 200
SOME_PUTS = 30


@attrs.define(eq=False)
class Ledger:
    """What was put under each key, in order, and how many of those are safe.

    No two writers share a key.
    """

    put: dict[str, list[str]] = attrs.field(factory=dict)
    safe: dict[str, int] = attrs.field(factory=dict)
    acknowledged: int = 0
    refused: int = 0
    cut_off: int = 0

    def write(self, client: Client, key: str) -> None:
        """Put the next value of a key."""
        values = self.put.setdefault(key, [])
        values.append(f"{key}: {len(values)} ".ljust(random.Random(key).randrange(20, 2000), "x"))
        put = len(values)
        try:
            client.call("put", {"key": key, "value": values[-1]}, DEADLINE)
        except DaemonUnreachable:
            self.cut_off += 1
            raise
        except P2PError:
            self.refused += 1
        else:
            self.safe[key] = put
            self.acknowledged += 1

    def holds(self, client: Client, key: str) -> bool:
        """Whether a key is there; it must be what was acknowledged last or put since."""
        try:
            found = client.call("get", {"key": key}, DEADLINE)["value"]
        except NotFound:
            assert key not in self.safe, f"lost: {key}"
            return False
        assert found in self.put[key][max(self.safe.get(key, 0) - 1, 0) :], f"old: {key}"
        return True


@contextmanager
def writing(daemon: Daemon, ledger: Ledger, label: str) -> Iterator[None]:
    """Within the `with`, put new keys and the same ones again, until the daemon is gone."""
    enough = threading.Event()

    def write(name: str) -> None:
        with Client([str(daemon.socket)], DEADLINE) as client:
            number = 0
            while not enough.is_set():
                ledger.write(client, f"{label} {name} {number}")
                ledger.write(client, f"again {name} {number % 3}")
                number += 1

    def write_until_cut_off(name: str) -> None:
        with suppress(DaemonUnreachable):
            write(name)

    threads = [
        threading.Thread(target=write_until_cut_off, args=[f"w{number}"])
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def wait_for_puts(ledger: Ledger, count: int) -> None:
    """Wait until so many more are acknowledged."""
    enough = ledger.acknowledged + count
    until(f"{count} more puts", lambda: ledger.acknowledged >= enough, 4 * DEADLINE)


def check_database(daemon: Daemon, place: Path) -> None:
    """Let SQLite check a copy of what the daemon left."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(daemon.state_dir, place)
    db = sqlite3.connect(place / "p2pd.db")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def check_all(daemon: Daemon, ledger: Ledger, label: str = "") -> int:
    """Read what was put under such a label; returns how many keys there are."""
    with Client([str(daemon.socket)], DEADLINE) as client:
        return sum([ledger.holds(client, key) for key in ledger.put if key.startswith(label)])


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_what_was_acknowledged_outlives_a_kill(
    make_daemon: MakeDaemon, tmp_path: Path, rounds: int
) -> None:
    rng = random.Random(rounds)
    ledger = Ledger()
    node = make_daemon("a").start()
    records = 0
    for number in range(rounds):
        label = f"round {number}"
        with writing(node, ledger, label):
            wait_for_puts(ledger, rng.randrange(1, MOST_PUTS))
            node.kill()
        assert ledger.cut_off == WRITERS * (number + 1)
        check_database(node, tmp_path / "copy")
        node.start()
        assert node.events("store.quarantined") == []
        records += check_all(node, ledger, label)
        # What is not named in the ledger is not there.
        assert node.call("status")["store"]["records"] == records + check_all(node, ledger, "again")
    assert ledger.refused == 0
    check_all(node, ledger)
    print(f"{ledger.acknowledged} puts acknowledged, {ledger.cut_off} cut off, {rounds} kills")


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_each_of_three_is_killed_while_another_is_written_to(
    make_daemon: MakeDaemon, tmp_path: Path, rounds: int
) -> None:
    rng = random.Random(rounds)
    ledger = Ledger()
    nodes = [make_daemon(name) for name in "abc"]
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait_ready()

    def all_know_each_other() -> bool:
        return all(len(node.connected()) == 2 for node in nodes)

    until("each lists the two others", all_know_each_other)
    for number in range(rounds):
        for victim, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            with writing(other, ledger, f"round {number} without {victim.name}"):
                wait_for_puts(ledger, rng.randrange(1, SOME_PUTS))
                victim.kill()
                wait_for_puts(ledger, SOME_PUTS)
                check_database(victim, tmp_path / "copy")
                victim.start()
                wait_for_puts(ledger, SOME_PUTS)
            until("each lists the two others", all_know_each_other)
    for node in nodes:
        assert check_all(node, ledger) >= len(ledger.safe)
        assert node.events("store.quarantined") == node.events("bug") == []
    print(f"{ledger.acknowledged} puts acknowledged, {ledger.refused} refused")
