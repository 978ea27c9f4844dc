"""Worlds of evidence: nobody honest is evicted by liars, or without a reason."""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pd.core.actions import Declare, Evidence, Liveness, Redial, Report
from p2pd.core.membership import Membership
from p2pd.core.suspects import (
    DIALS_PER_SECOND,
)
from p2pd.core.suspicion import MAX_REPORTS, QUORUM
from p2pd.ids import NodeId
from tests.core.evidence import (
    accuse,
    membership,
    node,
    wall,
)


@pytest.mark.parametrize("seed", range(3))
def test_liars_neither_evict_the_honest_nor_make_them_dialled_without_end(seed: int) -> None:
    rng = random.Random(seed)
    honest, liars = [node(1 + n) for n in range(32)], [node(101 + n) for n in range(8)]
    machines = {
        each: Membership(each, rng=random.Random(rng.random()), network_of=lambda _: None)
        for each in honest
    }
    for machine in machines.values():
        machine.set_population(8, 40, 0.0)
    queue: list[tuple[float, int, Callable[[float], None]]] = []
    count = 0

    def at(due: float, act: Callable[[float], None]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(queue, (due, count, act))

    dials: dict[NodeId, list[float]] = defaultdict(list)
    seen: Counter[str] = Counter()

    def step(me: NodeId, now: float) -> None:
        for action in machines[me].take_actions(now):
            seen[type(action).__name__] += 1
            assert not isinstance(action, Declare | Report), (seed, me, action)
            if isinstance(action, Redial):
                dials[action.node].append(now)
                at(now + 0.05, partial(hear, me, action.node))

    def hear(me: NodeId, about: NodeId, now: float) -> None:
        machines[me].heard(about, now)

    def vouch(me: NodeId, about: NodeId, issued: float, now: float) -> None:
        machines[me].vouched(about, wall(issued), now, wall(now))

    def lie(liar: NodeId, accused: NodeId, now: float) -> None:
        age = rng.choice([0.0, 0.0, 5.0, -50.0])
        for me in honest:
            if me != accused and accuse(machines[me], accused, liar, now, age=age):
                refuted = now + rng.uniform(0.1, 0.5)
                delay = rng.uniform(0.0, 0.4)
                at(refuted + delay, partial(vouch, me, accused, refuted))

    for round_begin in range(100, 1000, 20):
        for liar in liars:
            for accused in honest:
                moment = round_begin + rng.choice([0.0, rng.uniform(0, 20)])
                at(moment, partial(lie, liar, accused))
    while queue:
        now = queue[0][0]
        due, who = min((machine.next_due(), each) for each, machine in machines.items())
        if due <= now:
            step(who, due)
        else:
            heapq.heappop(queue)[2](now)
    assert seen["Redial"] > 0
    assert seen["Revive"] > 0
    assert all(
        machine.liveness(each) is not Liveness.DEAD
        for machine in machines.values()
        for each in honest
    )
    for times in dials.values():
        for begin in range(100, 1000, 4):
            in_span = sum(begin <= each < begin + 4 for each in times)
            assert in_span <= DIALS_PER_SECOND * (4 + 2), seed


NODES = st.integers(1, 6).map(node)
REPORTERS = st.integers(20, 26).map(node)


class Judgement(RuleBasedStateMachine):
    """Any evidence in any order: who is declared had it from us or from a quorum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.failed: set[NodeId] = set()
        self.reporters: dict[NodeId, set[NodeId]] = defaultdict(set)

    @initialize(seed=st.integers(0, 99), connected=st.integers(0, 8), known=st.integers(1, 2000))
    def begin(self, seed: int, connected: int, known: int) -> None:
        self.machine = membership(connected=connected, known=known, seed=seed)

    def clear(self, about: NodeId) -> None:
        self.failed.discard(about)
        self.reporters[about].clear()

    @rule(about=NODES)
    def heard(self, about: NodeId) -> None:
        self.take()
        self.machine.heard(about, self.now)
        self.clear(about)
        assert self.machine.liveness(about) is Liveness.ALIVE

    @rule(about=NODES)
    def left(self, about: NodeId) -> None:
        self.take()
        self.machine.left(about, self.now)
        self.clear(about)
        assert self.machine.liveness(about) is Liveness.UNKNOWN

    @rule(about=NODES, reset=st.booleans())
    def lost(self, about: NodeId, reset: bool) -> None:
        was_dead = self.machine.liveness(about) is Liveness.DEAD
        self.machine.lost(about, self.now, reset=reset)
        assert self.machine.liveness(about) is (Liveness.DEAD if was_dead else Liveness.SUSPECT)

    @rule(about=NODES, refused=st.booleans())
    def dial_failed(self, about: NodeId, refused: bool) -> None:
        if self.machine.liveness(about) is Liveness.SUSPECT:
            self.failed.add(about)
        self.machine.dial_failed(about, self.now, refused=refused)

    @rule(about=NODES)
    def dial_unclear(self, about: NodeId) -> None:
        self.machine.dial_unclear(about, self.now)

    @rule(about=NODES)
    def others_unclear(self, about: NodeId) -> None:
        self.machine.others_unclear(about, self.now)

    @rule(about=NODES, reached=st.booleans())
    def others_asked(self, about: NodeId, reached: bool) -> None:
        self.take()
        if not reached:
            self.machine.others_failed(about, self.now)
        else:
            if self.machine.liveness(about) is Liveness.SUSPECT:
                self.clear(about)
            self.machine.others_reached(about, self.now)

    @rule(
        about=NODES, reporter=REPORTERS, age=st.floats(-70, 310), quiet=st.none() | st.floats(0, 30)
    )
    def reported(self, about: NodeId, reporter: NodeId, age: float, quiet: float | None) -> None:
        heard_at = None if quiet is None else self.now - quiet
        accuse(self.machine, about, reporter, self.now, age=age, heard_at=heard_at)
        self.reporters[about].add(reporter)

    @rule(about=NODES, age=st.floats(0, 30))
    def vouched(self, about: NodeId, age: float) -> None:
        self.take()
        self.machine.vouched(about, wall(self.now - age), self.now, wall(self.now))
        if self.machine.liveness(about) is Liveness.ALIVE:
            self.clear(about)

    @rule(connected=st.integers(0, 8))
    def population(self, connected: int) -> None:
        self.machine.set_population(connected, 10, self.now)

    @rule(late=st.booleans())
    def health(self, late: bool) -> None:
        if late:
            self.machine.late(1.0)
        else:
            self.machine.on_time()

    @rule()
    def slept(self) -> None:
        self.machine.slept(self.now)

    @rule(seconds=st.floats(0.01, 30))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.machine.next_due() <= end:
            self.now = max(self.now, self.machine.next_due())
            self.take()
        self.now = end

    def take(self) -> None:
        for action in self.machine.take_actions(self.now):
            if isinstance(action, Declare):
                quorum = len(self.reporters[action.node]) >= QUORUM
                assert action.node in self.failed or quorum
                assert len(action.reporters) == len(set(action.reporters)) <= MAX_REPORTS
            if isinstance(action, Report):
                assert action.node in self.failed
                assert not (self.machine.isolated and action.evidence is Evidence.SILENT)

    @invariant()
    def suspects_are_not_forgotten(self) -> None:
        suspect = any(
            self.machine.liveness(node(number)) is Liveness.SUSPECT for number in range(1, 7)
        )
        if suspect and not self.machine.isolated:
            assert self.machine.next_due() < float("inf")


TestJudgement = Judgement.TestCase
