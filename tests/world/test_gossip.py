"""Messages to everybody in small worlds: half of them killed, breaks, and some who are mute."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial

import pytest
import trio

from p2pd.net.faults import constant_latency
from p2pd.node.gossip import ANTI_ENTROPY_INTERVAL
from p2pd.node.snapshot import Delivery
from p2pd.simulation import measure
from p2pd.simulation.adversary import make_mute
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.world import SimNode, World, open_world

LINK = 0.05
# A round is up to a quarter later than its interval.
THREE_ROUNDS = 3 * 1.25 * ANTI_ENTROPY_INTERVAL


def run(main: Callable[[World], Awaitable[None]], seed: int) -> None:
    print(f"seed {seed}")

    async def in_world() -> None:
        async with open_world(seed, constant_latency(LINK), tick=0.01) as world:
            await main(world)

    run_in_virtual_time(in_world, seed=seed)


async def join(world: World, size: int) -> list[SimNode]:
    first = await world.start("n0", lan=None)
    await world.start_many(size - 1, per_second=20, bootstrap=[first], lan=None)
    await trio.sleep(60)
    return world.living()


class Ears:
    """What each node was told, by name and message ID, and how often."""

    def __init__(self, world: World) -> None:
        self.heard: dict[tuple[str, str], int] = {}
        # They listen at once, and until the world ends.
        self._open = ExitStack()
        for node in world.living():
            hear = partial(self._hear, node.name)
            self._open.enter_context(node.node.deliveries(frozenset(), hear))

    def _hear(self, name: str, message: Delivery) -> None:
        key = name, message.message_id
        self.heard[key] = self.heard.get(key, 0) + 1

    def all_have(self, nodes: list[SimNode], *message_ids: str) -> bool:
        return all((node.name, each) in self.heard for node in nodes for each in message_ids)

    def exactly_once(self) -> bool:
        return set(self.heard.values()) == {1}


@pytest.mark.parametrize(("size", "seed"), [(3, 0), (10, 1), (20, 2), (30, 3)])
def test_a_settled_tree_costs_one_payload_a_delivery(size: int, seed: int) -> None:
    async def main(world: World) -> None:
        await join(world, size)
        # Surplus connections are given up first.
        await trio.sleep(300)
        spread = await measure.publish(world, 10, warm_up=20)
        assert (spread.delivered, spread.twice) == (spread.expected, 0)
        assert spread.copies <= 1.15

    run(main, seed)


@pytest.mark.parametrize(("size", "seed"), [(3, 0), (3, 1), (10, 2), (10, 3), (20, 4), (20, 5)])
def test_half_killed_at_the_moment_of_publishing(size: int, seed: int) -> None:
    async def main(world: World) -> None:
        nodes = await join(world, size)
        ears = Ears(world)
        await measure.publish(world, 5, wait=1)
        origin = world.rng.choice(nodes)
        message_id = await origin.node.publish("t", b"last words")
        for victim in world.rng.sample([each for each in nodes if each is not origin], size // 2):
            await world.crash(victim)
        await world.until(lambda: ears.all_have(world.living(), message_id), within=THREE_ROUNDS)
        assert ears.exactly_once()

    run(main, seed)


@pytest.mark.parametrize(("size", "seed"), [(10, 0), (20, 1)])
def test_one_in_five_mute_and_connections_that_break(size: int, seed: int) -> None:
    async def main(world: World) -> None:
        nodes = await join(world, size)
        mute = world.rng.sample(nodes, size // 5)
        for each in mute:
            make_mute(each)
        honest = [each for each in nodes if each not in mute]
        ears = Ears(world)
        broken_before = broken(honest)
        world.meanwhile(_break, world)
        for _ in range(10):
            message_id = await world.rng.choice(honest).node.publish("t", b"pass it on")
            await world.until(partial(ears.all_have, honest, message_id), within=THREE_ROUNDS)
            await trio.sleep(5)
        assert ears.exactly_once()
        assert broken(honest) > broken_before

    run(main, seed)


@pytest.mark.parametrize(("size", "seed"), [(10, 0), (15, 2)])
def test_after_a_partition_everybody_has_everything(size: int, seed: int) -> None:
    async def main(world: World) -> None:
        await join(world, size)
        await _separate(world, partial(world.partition, 0.4), minutes=10)

    run(main, seed)


def test_after_an_hour_of_nobody_with_anybody_everybody_has_everything() -> None:
    """All of it, as an hour is within the retention."""

    async def main(world: World) -> None:
        await join(world, 12)
        await _separate(world, world.isolate, minutes=60)

    run(main, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [50, 100])
@pytest.mark.parametrize("minutes", [10, 60])
@pytest.mark.parametrize("seed", range(3))
def test_after_a_separation_a_larger_world_is_whole_again(
    size: int, minutes: int, seed: int
) -> None:
    async def main(world: World) -> None:
        await join(world, size)
        separate = world.isolate if minutes == 60 else partial(world.partition, 0.4)
        await _separate(world, separate, minutes=minutes)

    run(main, seed)


async def _separate(world: World, separate: Callable[..., Awaitable[None]], minutes: int) -> None:
    """Separate the nodes, all publishing meanwhile, and see that all is well afterwards."""
    nodes = world.living()
    ears = Ears(world)
    published: list[str] = []
    before = held_alive(nodes)

    async def publish() -> None:
        for number in range(60):
            origin = nodes[number % len(nodes)]
            published.append(await origin.node.publish("t", b"%d" % number))
            await trio.sleep(minutes)

    world.meanwhile(publish)
    await separate(seconds=60 * minutes)
    assert len(published) == 60
    assert not ears.all_have(nodes, *published)
    whole = await world.until(lambda: before <= held_alive(nodes), within=30)
    told = await world.until(lambda: ears.all_have(nodes, *published), within=60)
    print(f"whole after {whole:.1f} s, everybody has everything {told:.1f} s later")
    assert ears.exactly_once()
    await trio.sleep(60)
    for node in nodes:
        for other in nodes:
            assert node.services.liveness.of(other.node_id) not in {"dead", "suspect"}


def held_alive(nodes: list[SimNode]) -> set[tuple[str, str]]:
    """Say who is held alive by whom; in a small world that is everybody by everybody."""
    return {
        (node.name, other.name)
        for node in nodes
        for other in nodes
        if node.services.liveness.of(other.node_id) == "alive"
    }


def broken(nodes: list[SimNode]) -> int:
    """Count the connections that nodes saw break; a release, or a goodbye, is none."""
    return sum(
        event.code == "peer.disconnected" and "broke" in str(event.fields["reason"])
        for node in nodes
        for event in node.events
    )


async def _break(world: World) -> None:
    await world.break_connections(per_second=0.5, seconds=120)
