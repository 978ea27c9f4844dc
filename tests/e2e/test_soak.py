"""Twenty daemons that are killed, paused, restarted and written to for as long as one likes.

`P2PD_SOAK_SECONDS` says how long (180), `P2PD_SOAK_SEED` which of the possible worlds (a random
one, printed).
"""

import os
import random
import signal
import time
from pathlib import Path

import attrs
import pytest

from p2pd.control.client import Client
from p2pd.errors import DaemonUnreachable, P2PError
from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, instrumented_path, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SIZE = 20
# Of these, so many are only ever paused: what one process takes in the long run shows in them.
STEADFAST = 4
SECONDS = float(os.environ.get("P2PD_SOAK_SECONDS", "180"))
# Away at the same time, killed, paused or restarted; a record has three replicas.
AWAY = 2
AWAY_FOR = (2.0, 12.0)
TICK = 0.2
CALL_TIMEOUT = 20.0
SETTLED_WITHIN = 120.0
# What is measured first comes after all have met all, and have been written to for a while.
WARMED_UP = 0.4
# Seconds for which messages are kept: in an hour's soak, as many must go as come. With the default
# of two hours what is kept would grow all the time.
RETENTION = 600
# What leaks grows with each connection and put.
MIB_MORE, FILES_MORE, TASKS_MORE = 8.0, 12, 24


@attrs.frozen
class Use:
    """What a process takes."""

    mib: float
    files: int
    threads: int
    tasks: int


@attrs.define
class Away:
    """A daemon that is not there, until when, and how it comes back."""

    daemon: Daemon
    until: float
    paused: bool


class Soak:
    """The daemons, who is away, and what was acknowledged."""

    def __init__(self, daemons: list[Daemon], task_counts: Path, seed: int) -> None:
        print(f"P2PD_SOAK_SEED={seed} P2PD_SOAK_SECONDS={SECONDS:g}")
        self.daemons = daemons
        self.acknowledged: dict[str, str] = {}
        self.counts = dict.fromkeys(("put", "refused", "publish", "kill", "pause", "restart"), 0)
        self._task_counts = task_counts
        self._rng = random.Random(seed)
        self._away: list[Away] = []

    def run(self, seconds: float) -> None:
        """Do something every tick; at the end all are back."""
        end = time.monotonic() + seconds
        next_blow = 0.0
        while (now := time.monotonic()) < end:
            self._bring_back(now)
            if now >= next_blow and len(self._away) < AWAY:
                self._strike(now)
                next_blow = now + self._rng.uniform(1.0, 4.0)
            self._put()
            if self._rng.random() < 0.2:
                self._publish()
            time.sleep(TICK)
        self._bring_back(float("inf"))

    def settle(self) -> None:
        """Wait until each holds all others alive."""
        names = {each.name for each in self.daemons}

        def late() -> list[str]:
            return [each.name for each in self.daemons if self._misses_any(each, names)]

        until("each holds all others alive", lambda: not late(), SETTLED_WITHIN)

    def check_records(self) -> None:
        """Read each acknowledged record from a daemon chosen at random."""
        for key, value in self.acknowledged.items():
            with Client([str(self._rng.choice(self.daemons).socket)], CALL_TIMEOUT) as client:
                found = client.call("get", {"key": key}, CALL_TIMEOUT)
            assert found["value"] == value, key

    def measure(self) -> dict[str, Use]:
        """What the steadfast take."""
        return {each.name: self._use(each) for each in self.daemons[:STEADFAST]}

    def _use(self, daemon: Daemon) -> Use:
        count = self._task_counts / str(daemon.pid)
        count.unlink(missing_ok=True)
        daemon.signal(signal.SIGUSR1)
        until("it counts its tasks", count.exists)
        process = Path(f"/proc/{daemon.pid}")
        return Use(
            mib=round(daemon.resident_mib(), 1),
            files=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
            tasks=int(count.read_text()),
        )

    def _misses_any(self, daemon: Daemon, names: set[str]) -> bool:
        alive = {each["name"] for each in daemon.call("peers") if each["liveness"] == "alive"}
        return not names <= {daemon.name, *alive}

    def _there(self) -> Daemon:
        away = {each.daemon.name for each in self._away}
        return self._rng.choice([each for each in self.daemons if each.name not in away])

    def _strike(self, now: float) -> None:
        victim = self._there()
        steadfast = victim in self.daemons[:STEADFAST]
        blow = "pause" if steadfast else self._rng.choice(("kill", "pause", "restart"))
        self.counts[blow] += 1
        if blow == "kill":
            victim.kill()
        elif blow == "pause":
            victim.signal(signal.SIGSTOP)
        else:
            assert victim.stop() == 0
        back_at = now + self._rng.uniform(*AWAY_FOR)
        self._away.append(Away(victim, back_at, paused=blow == "pause"))

    def _bring_back(self, now: float) -> None:
        for each in [each for each in self._away if each.until <= now]:
            self._away.remove(each)
            if each.paused:
                each.daemon.signal(signal.SIGCONT)
            else:
                each.daemon.start()

    def _put(self) -> None:
        key, value = f"key {self.counts['put']}", f"{self._rng.random()}"
        self.counts["put"] += 1
        try:
            with Client([str(self._there().socket)], CALL_TIMEOUT) as client:
                client.call("put", {"key": key, "value": value}, CALL_TIMEOUT)
        except DaemonUnreachable:
            raise
        except P2PError:
            self.counts["refused"] += 1
        else:
            self.acknowledged[key] = value

    def _publish(self) -> None:
        self.counts["publish"] += 1
        self._there().call("publish", topic="soak", data="x" * self._rng.randrange(2000))


def test_soak(
    make_daemon: MakeDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TASK_COUNT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", instrumented_path())
    seed = int(os.environ.get("P2PD_SOAK_SEED", random.randrange(10**6)))
    with capsys.disabled():
        soak = Soak(
            [
                make_daemon(f"n{number}", "--set", f"gossip.retention={RETENTION}")
                for number in range(SIZE)
            ],
            tmp_path,
            seed,
        )
    for each in soak.daemons:
        each.start()
    soak.settle()
    soak.run(SECONDS * WARMED_UP)
    soak.settle()
    before = soak.measure()
    soak.run(SECONDS * (1 - WARMED_UP))
    soak.settle()
    after = soak.measure()
    with capsys.disabled():
        print(soak.counts, *(f"{name}: {before[name]} {after[name]}" for name in after), sep="\n")
    soak.check_records()
    for name, use in after.items():
        assert use.mib <= before[name].mib + MIB_MORE
        assert use.files <= before[name].files + FILES_MORE
        assert use.threads <= before[name].threads + 2
        assert use.tasks <= before[name].tasks + TASKS_MORE
    # Or nothing was tried.
    assert min(soak.counts[each] for each in ("kill", "pause", "restart", "publish")) > 0
    assert len(soak.acknowledged) > soak.counts["put"] / 2
    for each in soak.daemons:
        assert each.events("bug") == []
        assert "Traceback" not in each.log_file.read_text()
        assert each.events("store.quarantined") == []
