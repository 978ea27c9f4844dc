"""Steps that the tests of the membership share."""

import random
from collections.abc import Callable

from p2pd.core.membership import (
    Action,
    Membership,
)
from p2pd.ids import NodeId

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
) -> Membership:
    machine = Membership(OWN, rng=random.Random(seed), network_of=network_of)
    machine.set_population(connected, known)
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
) -> bool:
    observed = wall(now - age)
    return machine.reported(
        accused, reporter, observed, sequence, wall(now), known_sequence, heard_at, now
    )


def run(machine: Membership, until: float) -> list[Action]:
    """Take all actions that come due up to some time, each at its time."""
    actions = []
    while machine.next_due() <= until:
        actions += machine.take_actions(machine.next_due())
    return actions + machine.take_actions(until)


def heard_of(machine: Membership, *numbers: int) -> None:
    for number in numbers:
        machine.heard(node(number), 0.0)


def fail_silently(machine: Membership, each: NodeId, now: float) -> None:
    """Lose a peer by silence and let all probes of it come to nothing."""
    machine.lost(each, False, now)
    machine.dial_failed(each, False, now)
    machine.others_failed(each, now)
