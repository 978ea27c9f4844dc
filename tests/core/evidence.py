"""Steps that the tests of the membership share."""

import math
import random
from collections.abc import Callable

from p2pd.core.actions import Action, AskOthers, Evidence, Redial
from p2pd.core.membership import Membership
from p2pd.ids import NodeId
from p2pd.wire.messages import DeadReport

OWN = NodeId(b"\xff" * 32)
WALL = 1_700_000_000_000


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def wall(now: float) -> int:
    return WALL + round(now * 1000)


ACCUSED, LIAR = node(1), node(99)


def membership(
    network_of: Callable[[NodeId], str | None] = lambda _: None,
    *,
    connected: int = 10,
    known: int = 10,
    seed: int = 0,
    last_heard: Callable[[], float] = lambda: math.inf,
) -> Membership:
    rng = random.Random(seed)
    machine = Membership(OWN, rng=rng, network_of=network_of, last_heard=last_heard)
    machine.set_population(connected, known, 0.0)
    return machine


def accuse(
    machine: Membership,
    accused: NodeId,
    reporter: NodeId,
    now: float,
    *,
    age: float = 0.0,
    sequence: int = 1,
    known_sequence: int = 1,
    heard_at: float | None = None,
    stranger: bool = False,
) -> bool:
    report = DeadReport(accused, "", sequence, wall(now - age), Evidence.SILENT.value)
    return machine.reported(
        report,
        reporter,
        known_sequence=known_sequence,
        heard_at=heard_at,
        wall_ms=wall(now),
        now=now,
        stranger=stranger,
    )


def run(machine: Membership, until: float) -> list[Action]:
    """Take all actions that come due up to some time, each at its time."""
    actions = []
    while machine.next_due() <= until:
        actions += machine.take_actions(machine.next_due())
    return actions + machine.take_actions(until)


def run_unanswered(machine: Membership, until: float) -> list[Action]:
    """As `run`, where nobody answers the last dial, nor those asked beside it.

    Returns the other actions.
    """
    actions: list[Action] = []
    while machine.next_due() <= until:
        now = machine.next_due()
        for action in machine.take_actions(now):
            if isinstance(action, Redial) and action.last:
                machine.dial_failed(action.node, now, refused=False)
            elif not isinstance(action, AskOthers) or not action.last:
                actions.append(action)
    return actions


def heard_of(machine: Membership, *numbers: int) -> None:
    for number in numbers:
        machine.heard(node(number), 0.0)


def fail_silently(machine: Membership, each: NodeId, now: float) -> None:
    """Lose a peer by silence and let all probes of it come to nothing."""
    machine.lost(each, now, reset=False)
    machine.dial_failed(each, now, refused=False)
    machine.others_failed(each, now)
