"""One node in five does its worst, all at once: nobody honest is evicted, all get all."""

import math
from collections import Counter
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import attrs
import pytest
import trio

from p2pd.core import admission, history, missing, offers
from p2pd.net.faults import constant_latency
from p2pd.node.events import Event
from p2pd.node.gossip import ANTI_ENTROPY_INTERVAL
from p2pd.node.snapshot import Delivery
from p2pd.simulation.checks import check_always
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.saboteur import Sabotage, sabotage
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire import records

LINK = 0.02
# A round is up to a quarter later than its interval.
THREE_ROUNDS = 3 * 1.25 * ANTI_ENTROPY_INTERVAL
TOPIC = "honest"


@attrs.define
class Seen:
    """What the honest nodes saw: messages of each other, and who was declared dead by whom."""

    heard: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    last: dict[str, float] = attrs.field(factory=dict)
    declared: list[tuple[str, str]] = attrs.field(factory=list)
    evicted: list[tuple[str, str]] = attrs.field(factory=list)
    # They listen at once, and until the world ends.
    listening: ExitStack = attrs.field(factory=ExitStack)


def watch(world: World, honest: list[SimNode]) -> Seen:
    seen = Seen()
    names = {node.node_id: node.name for node in honest}

    def hear(node: SimNode, message: Delivery) -> None:
        seen.heard[node.name, message.message_id] += 1
        seen.last[message.message_id] = trio.current_time()

    def note(node: SimNode, event: Event) -> None:
        if event.peer not in names:
            return
        if event.code == "peer.dead":
            seen.declared.append((node.name, names[event.peer]))
        elif event.code == "peer.disconnected" and "silent" in str(event.fields["reason"]):
            seen.evicted.append((node.name, names[event.peer]))

    for node in honest:
        seen.listening.enter_context(node.node.deliveries(frozenset({TOPIC}), partial(hear, node)))
        seen.listening.enter_context(node.node.events.sent_to(partial(note, node)))
    return seen


def check_bounded(nodes: list[SimNode]) -> None:
    for node in nodes:
        service = node.services.gossip
        assert len(service._history) <= history.MAX_ITEMS
        assert service._history.size <= history.MAX_BYTES
        assert len(service._history._seen) <= history.MAX_SEEN
        assert len(service._machine._missing) <= missing.MAX_MISSING
        assert len(service._machine._offers._wanted) <= offers.MAX_WANTED
        assert len(service._admission._issued) <= admission.MAX_SLICES


async def endure(world: World, size: int, *, seconds: float, what: Sabotage) -> None:
    """Let one node in five do its worst for so long, while the others publish, one a second."""
    first = await world.start("n0", lan=None)
    await world.start_many(size - 1, per_second=20, bootstrap=[first], lan=None)
    await trio.sleep(60)
    nodes = world.living()
    liars = world.rng.sample(nodes, size // 5)
    honest = [each for each in nodes if each not in liars]
    seen = watch(world, honest)
    saboteurs = [sabotage(world, each, what) for each in liars]
    at: dict[str, float] = {}
    for number in range(round(seconds)):
        origin = world.rng.choice(honest)
        at[await origin.node.publish(TOPIC, b"%d" % number)] = trio.current_time()
        await trio.sleep(1)
        check_always(world)
    # The liars don't rest meanwhile.
    await trio.sleep(THREE_ROUNDS)
    check_always(world)
    check_bounded(honest)
    show(honest, seen, at, sum(each.sent for each in saboteurs))
    assert not seen.declared
    assert not seen.evicted
    assert {seen.heard[node.name, each] for node in honest for each in at} == {1}
    assert all(seen.last[each] - begin <= THREE_ROUNDS for each, begin in at.items())
    assert min(known_of(node, honest) for node in honest) > (len(honest) - 1) // 2


def known_of(node: SimNode, honest: list[SimNode], *, proven: bool = False) -> int:
    """Count the other honest nodes in a node's registry, or those that it was connected to."""
    entries = [node.services.registry.get(each.node_id) for each in honest if each is not node]
    return sum(each is not None and (each.proven or not proven) for each in entries)


def show(honest: list[SimNode], seen: Seen, at: dict[str, float], sent: int) -> None:
    counts = Counter(seen.heard[node.name, each] for node in honest for each in at)
    times = sorted(seen.last.get(each, math.inf) - begin for each, begin in at.items())
    dropped = sum((node.services.gossip.dropped for node in honest), Counter[str]())
    payloads = [node.services.gossip.payloads for node in honest]
    known = [known_of(node, honest) for node in honest]
    proven = [known_of(node, honest, proven=True) for node in honest]
    print(
        f"{len(honest)} honest; sent by the liars {sent}, payloads that came to a node "
        f"{min(payloads)}-{max(payloads)}, dropped {dict(dropped)}\n"
        f"published {len(at)}, deliveries by how often {dict(counts)}, to the last after "
        f"{times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s (most)\n"
        f"declared dead {seen.declared[:8]}, evicted {seen.evicted[:8]}; "
        f"of the other honest known {min(known)}-{max(known)}, proven {min(proven)}-{max(proven)}"
    )


# All rates and bounds at a tenth, as is the flood: that costs a tenth of the time.
BOUNDS = (
    "KNOWN_AT_ONCE",
    "KNOWN_PER_SECOND",
    "HEARD_OF_AT_ONCE",
    "HEARD_OF_PER_SECOND",
    "TOLD_AT_ONCE",
    "TOLD_PER_SECOND",
    "PEER_AT_ONCE",
    "PEER_PER_SECOND",
    "MOST_AT_ONCE",
    "MOST_PER_SECOND",
)
HISTORY_BOUNDS = ("MAX_ITEMS", "MAX_BYTES", "MAX_SEEN")


def run(size: int, seed: int, *, seconds: float, what: Sabotage, scale: float) -> None:
    print(f"seed {seed}")

    async def in_world() -> None:
        async with open_world(seed, constant_latency(LINK), tick=0.01) as world:
            await endure(world, size, seconds=seconds, what=what)

    with ExitStack() as patched:
        patched.enter_context(patch.object(records, "MAX_PUBLICATIONS", 1 << 14))
        for module, names in ((admission, BOUNDS), (history, HISTORY_BOUNDS)):
            for name in names:
                bound = getattr(module, name) * scale
                patched.enter_context(patch.object(module, name, bound))
        run_in_virtual_time(in_world, seed=seed, tick=0.01)


def test_four_of_twenty_do_their_worst() -> None:
    run(20, 0, seconds=12, what=Sabotage(own=5, invented=50), scale=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_four_of_twenty_do_their_worst_for_longer(seed: int) -> None:
    run(20, seed, seconds=120, what=Sabotage(own=5, invented=50), scale=0.1)


@pytest.mark.slow
def test_a_flood_at_the_true_bounds() -> None:
    run(20, 0, seconds=30, what=Sabotage(), scale=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ten_of_fifty_do_their_worst(seed: int) -> None:
    run(50, seed, seconds=40, what=Sabotage(own=5, invented=50), scale=0.1)
