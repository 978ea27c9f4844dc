"""Half of the nodes killed while a message goes out, others mute, connections that break."""

import random
from functools import partial

import pytest
import trio

from p2pd.simulation import measure
from p2pd.simulation.adversary import make_mute
from p2pd.simulation.world import World
from tests.world.test_gossip import THREE_ROUNDS, Ears, join, run

MANY_SEEDS = [(size, seed) for size in (3, 10, 20, 100) for seed in range(100)]


def all_at_once(size: int, seed: int) -> None:
    """One in five forwards nothing, some connections break, and half of all are killed."""

    async def main(world: World) -> None:
        nodes = await join(world, size)
        await measure.publish(world, 5, wait=1)
        rng = random.Random(seed)
        mute = rng.sample(nodes, round(size / 5))
        for each in mute:
            make_mute(each)
        honest = [each for each in nodes if each not in mute]
        ears = Ears(world)
        world.meanwhile(partial(world.break_connections, per_second=size / 20, seconds=120))
        await trio.sleep(rng.uniform(1, 5))
        origin = rng.choice(honest)
        message_id = await origin.node.publish("t", b"last words")
        victims = rng.sample([each for each in nodes if each is not origin], size // 2)
        for each in victims:
            each.scope.cancel()
        for each in victims:
            await each.ended.wait()
        living = [each for each in honest if each.running is not None]
        took = await world.until(lambda: ears.all_have(living, message_id), within=THREE_ROUNDS)
        print(f"all have it after {took:.2f} s")
        await trio.sleep(5)
        assert ears.exactly_once()

    run(main, seed)


@pytest.mark.parametrize(("size", "seed"), [(3, 0), (10, 0), (20, 0)])
def test_every_live_node_has_it_within_three_rounds(size: int, seed: int) -> None:
    all_at_once(size, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "seed"), [*MANY_SEEDS, (1000, 0)])
def test_in_a_hundred_seeds(size: int, seed: int) -> None:
    all_at_once(size, seed)
