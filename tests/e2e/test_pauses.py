"""Daemons that say nothing for a while, or never again: who is held dead for it.

A paused process (SIGSTOP) keeps its connections, and its kernel goes on taking new ones:
nothing but its silence speaks against it. Slow, with twenty daemons: `make pauses`.
"""

import random
import signal
import statistics
import time
from collections.abc import Callable
from datetime import datetime

import attrs
import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until
from tests.e2e.hosts import Ground

pytestmark = pytest.mark.e2e

SIZE = 20
DEATHS = 10
# The promises of the product, in seconds: pauses of one in ten, again and again, for so long.
SOAK, PAUSE = 300.0, 8.0
ALIVE_WITHIN = 5.0
DEAD_WITHIN = 20.0
# Seconds in which a process that goes on again may not have had its turn yet, on a busy machine:
# nobody can have heard of it.
WAKING = 0.1
# No promise: redials wait longer and longer.
BACK_WITHIN = 60.0
# Who was paused for long doubts itself for a while, and takes its time with verdicts.
RECOVERY = 20.0
# Nobody believes a reporter that names the same node sooner again.
REPORTS_AGAIN = 60.0
CUTS = 3
# What twenty daemons take to start and to know each other on a busy machine.
_SETTLED_WITHIN = 60.0
_TICK = 0.05
# All that is noticed, and judged, within the few seconds of a pause.
QUICK = (
    *("--set", "liveness.ping_interval=0.5"),
    *("--set", "liveness.ping_timeout=0.3"),
    *("--set", "liveness.evict_after=2"),
)


Show = Callable[[str, list[float]], None]


@attrs.frozen
class Pause:
    """Of a node, by name; times are Unix seconds, as in the logs."""

    name: str
    began: float
    ended: float


@attrs.define
class Return:
    """A node that goes on after a pause, until all `pending` have been seen to hold it alive.

    `taken` is how long that took, of each one from when both were back.
    """

    pause: Pause
    pending: dict[str, None]
    taken: float = 0.0


class Soak:
    """Pauses daemons at random, and looks how the others see those that are back.

    `taken` are the seconds from each return until the last one, of those not paused, held the
    node alive; `broken` says who did not in time.
    """

    def __init__(self, daemons: list[Daemon], seed: int) -> None:
        print(f"seed {seed}")
        self.taken: list[float] = []
        self.broken: list[str] = []
        self.pauses: list[Pause] = []
        self._daemons = {each.name: each for each in daemons}
        self._rng = random.Random(seed)
        self._began: dict[str, float] = {}
        self._back_at = dict.fromkeys(self._daemons, 0.0)
        self._returns: dict[str, Return] = {}
        # Who never heard of a node but by hearsay has nothing to take back.
        self._strangers = {
            (observer, name)
            for observer, daemon in self._daemons.items()
            for name, seen in views(daemon).items()
            if seen == "unknown"
        }

    def run(self, seconds: float, at_once: int) -> None:
        """Keep so many paused for a while, their pauses staggered; then wait for all."""
        begin = time.time()
        free_at = [begin] + [begin + self._rng.uniform(0, PAUSE) for _ in range(1, at_once)]
        while (now := time.time()) < begin + seconds or self._began or self._returns:
            for name in [each for each, began in self._began.items() if now - began >= PAUSE]:
                self._resume(name)
            for slot, at in enumerate(free_at):
                if at <= now < begin + seconds - PAUSE:
                    self._stop_one()
                    free_at[slot] = time.time() + PAUSE
            self._look()
            time.sleep(_TICK)

    def _stop_one(self) -> None:
        # Two pauses without a break would be one of twice the length.
        rested = time.time() - ALIVE_WITHIN
        name = self._rng.choice(
            [
                each
                for each, back_at in self._back_at.items()
                if back_at < rested and each not in self._began and each not in self._returns
            ]
        )
        self._daemons[name].signal(signal.SIGSTOP)
        self._began[name] = time.time()

    def _resume(self, name: str) -> None:
        self._daemons[name].signal(signal.SIGCONT)
        self._back_at[name] = time.time()
        pause = Pause(name, self._began.pop(name), self._back_at[name])
        self.pauses.append(pause)
        self._returns[name] = Return(pause, dict.fromkeys(self._daemons))
        del self._returns[name].pending[name]

    def _look(self) -> None:
        asked = {who: None for each in self._returns.values() for who in each.pending}
        for observer in asked:
            if observer in self._began:
                continue
            asked_at, seen = time.time(), views(self._daemons[observer])
            for each in self._returns.values():
                if observer in each.pending:
                    self._take(each, observer, asked_at, seen[each.pause.name])
        for each in list(self._returns.values()):
            if not each.pending:
                self.taken.append(each.taken)
                del self._returns[each.pause.name]

    def _take(self, back: Return, observer: str, asked_at: float, seen: str) -> None:
        name = back.pause.name
        since = max(back.pause.ended, self._back_at[observer])
        if seen == "alive" or (seen == "unknown" and (observer, name) in self._strangers):
            back.taken = max(back.taken, time.time() - since)
        elif asked_at - since > ALIVE_WITHIN:
            self.broken.append(f"{name}, back for {asked_at - since:.1f} s: {seen} for {observer}")
        else:
            return
        del back.pending[observer]

    def check(self) -> None:
        """Fail where a promise was broken."""
        assert self.broken == []
        assert false_verdicts(list(self._daemons.values()), self.pauses) == []


def views(daemon: Daemon) -> dict[str, str]:
    """Return how a daemon sees each peer, by name."""
    return {each["name"]: each["liveness"] for each in daemon.call("peers")}


def false_verdicts(daemons: list[Daemon], pauses: list[Pause]) -> list[str]:
    """Return what the logs say of deaths of nodes that were not paused at the time."""
    names = {each.call("status")["node_id"]: each.name for each in daemons}
    found = []
    for daemon in daemons:
        for entry in daemon.events("peer.dead"):
            at, name = datetime.fromisoformat(entry["time"]).timestamp(), names[entry["peer"]]
            of_it = [each for each in pauses if each.name == name]
            if not any(each.began <= at <= each.ended + WAKING for each in of_it):
                found.append(f"{daemon.name} at {entry['time']}: {entry['message']}")
    return found


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Show a figure, also of a test that passes: whoever runs these wants to see it."""

    def shown(what: str, seconds: list[float]) -> None:
        middle, worst = statistics.median(seconds), max(seconds)
        with capsys.disabled():
            print(f"\n{what}: median {middle:.2f} s, worst {worst:.2f} s of {len(seconds)}")

    return shown


def start_all(daemons: list[Daemon]) -> list[Daemon]:
    """Start daemons; return once each knows all others."""
    # One by one: twenty that start at once are slow to answer where cores are few.
    for each in daemons:
        each.start()
    names = {each.name for each in daemons}

    def all_know_all() -> bool:
        seen = [views(each) for each in daemons]
        return all(
            {each.name, *them} == names and set(them.values()) <= {"alive", "unknown"}
            for each, them in zip(daemons, seen, strict=True)
        )

    until("each knows all others", all_know_all, _SETTLED_WITHIN)
    return daemons


def all_hold(observers: list[Daemon], name: str, liveness: str, within: float) -> float:
    """Wait until all hold a node for that; return the seconds that it took."""
    began = time.monotonic()
    pending = list(observers)

    def settled() -> bool:
        pending[:] = [each for each in pending if each.peer(name).get("liveness") != liveness]
        return not pending

    # Who is late is to be seen, and not only that somebody is.
    try:
        until(f"{name} is {liveness} for all", settled, within)
    except AssertionError as error:
        late = {each.name: each.peer(name).get("liveness") for each in pending}
        raise AssertionError(f"{error}: {late}") from error
    return time.monotonic() - began


def test_a_few_seconds_of_silence_are_no_death(make_daemon: MakeDaemon) -> None:
    """In the small: daemons that notice soon, so that each pause ends in death and return."""
    daemons = start_all([make_daemon(f"n{number}", *QUICK) for number in range(7)])
    soak = Soak(daemons, seed=1)
    soak.run(PAUSE + 2, at_once=2)
    soak.check()
    # Or nothing was tried.
    assert any(each.events("peer.dead") for each in daemons)


@pytest.mark.slow
def test_pauses_again_and_again(make_daemon: MakeDaemon, show: Show) -> None:
    daemons = start_all([make_daemon(f"n{number}") for number in range(SIZE)])
    soak = Soak(daemons, seed=random.randrange(10**6))
    soak.run(SOAK, at_once=SIZE // 10)
    show("paused for 8 s again and again: alive for all", soak.taken)
    soak.check()


@pytest.mark.slow
def test_stopped_for_good(make_daemon: MakeDaemon, show: Show) -> None:
    """One after another, each back before the next one: all are there but one."""
    daemons = start_all([make_daemon(f"n{number}") for number in range(SIZE)])
    pauses: list[Pause] = []
    dead_after, alive_after = [], []
    for victim in daemons[:DEATHS]:
        others = [each for each in daemons if each is not victim]
        began = time.time()
        victim.signal(signal.SIGSTOP)
        dead_after.append(all_hold(others, victim.name, "dead", DEAD_WITHIN))
        pauses.append(Pause(victim.name, began, time.time()))
        victim.signal(signal.SIGCONT)
        alive_after.append(all_hold(others, victim.name, "alive", ALIVE_WITHIN))
        time.sleep(RECOVERY)
    show("stopped for good: dead for all", dead_after)
    show("and alive when it goes on after all", alive_after)
    assert false_verdicts(daemons, pauses) == []


@pytest.mark.slow
def test_packets_are_dropped(ground: Ground, show: Show) -> None:
    """Of one host, all, in both directions; the node there holds nobody dead either."""
    lan = ground.lan()
    near, host = ground.host(lan), ground.host(lan)
    others = [near.make_daemon(name=f"n{number}") for number in range(SIZE - 1)]
    far = host.make_daemon()
    daemons = start_all([*others, far])
    pauses: list[Pause] = []
    dead_after, alive_after = [], []
    for _ in range(CUTS):
        began = time.time()
        host.drop_all()
        dead_after.append(all_hold(others, far.name, "dead", DEAD_WITHIN))
        pauses.append(Pause(far.name, began, time.time()))
        host.open_firewall()
        alive_after.append(all_hold(others, far.name, "alive", BACK_WITHIN))
        time.sleep(REPORTS_AGAIN)
    show("packets dropped: dead for all", dead_after)
    show("and alive when they come through again", alive_after)
    assert false_verdicts(daemons, pauses) == []
