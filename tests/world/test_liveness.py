"""Who is held dead in small worlds: all who are, and nobody else, whatever liars say."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import trio

from p2pd.net.faults import Cut, constant_latency
from p2pd.node.events import Event
from p2pd.simulation.adversary import accuse_everybody
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.world import SimNode, World, open_world

# Until a node's word that it is back has reached all: a verdict by what others reported while
# it was paused may still fall.
NEWS = 1.0


def run(main: Callable[[World], Awaitable[None]], seed: int) -> None:
    print(f"seed {seed}")

    async def in_world() -> None:
        async with open_world(seed, constant_latency(0.01), tick=0.01) as world:
            await main(world)

    run_in_virtual_time(in_world, seed=seed)


async def join(world: World, size: int, **settings: Any) -> list[SimNode]:
    first = await world.start("n0", lan=None, **settings)
    await world.start_many(size - 1, per_second=20, bootstrap=[first], lan=None, **settings)
    await trio.sleep(60)
    return world.living()


def held_dead(nodes: list[SimNode], whom: list[SimNode]) -> Counter[str]:
    """Count, by name, how many of `nodes` hold each of `whom` dead."""
    return Counter(
        other.name
        for node in nodes
        for other in whom
        if node is not other and node.services.liveness.of(other.node_id) == "dead"
    )


def none_dead(by: list[SimNode], whom: SimNode) -> bool:
    return not held_dead(by, [whom])


class Verdicts:
    """Who was ever declared dead, by whom."""

    def __init__(self, world: World, nodes: list[SimNode]) -> None:
        self.names = {node.node_id: node.name for node in nodes}
        self.declared: list[tuple[str, str]] = []
        for node in nodes:
            world.meanwhile(self._watch, node)

    async def _watch(self, node: SimNode) -> None:
        def take(event: Event) -> None:
            if event.code == "peer.dead" and event.peer is not None:
                self.declared.append((node.name, self.names.get(event.peer, "?")))

        with node.node.events.sent_to(take):
            await trio.sleep_forever()


@pytest.mark.parametrize(("size", "share", "seed"), [(20, 0.05, 0), (20, 0.5, 1), (20, 0.5, 2)])
def test_the_killed_are_dead_for_all_within_three_seconds(
    size: int, share: float, seed: int
) -> None:
    async def main(world: World) -> None:
        await join(world, size)
        victims = await world.kill(share)
        living = world.living()
        everywhere = Counter({each.name: len(living) for each in victims})
        took = await world.until(lambda: held_dead(living, victims) == everywhere, within=3)
        print(f"all know after {took:.2f} s")
        await trio.sleep(30)
        assert not held_dead(living, living)

    run(main, seed)


@pytest.mark.parametrize("seed", range(2))
def test_liars_evict_nobody(seed: int) -> None:
    """One node in five reports everybody dead, again and again."""

    async def main(world: World) -> None:
        nodes = await join(world, 20)
        liars = world.rng.sample(nodes, 4)
        honest = [each for each in nodes if each not in liars]
        verdicts = Verdicts(world, honest)
        for liar in liars:
            world.meanwhile(accuse_liar, world, liar)
        await trio.sleep(100)
        names = {each.name for each in honest}
        assert not [each for each in verdicts.declared if each[1] in names]
        await world.until(lambda: not held_dead(honest, honest), within=5)
        for node in honest:
            entries = {each.node_id: each for each in node.services.registry}
            known = [entries[other.node_id] for other in honest if other.node_id in entries]
            assert len(known) >= len(honest) - 2
            assert not [each for each in known if each.dead]

    run(main, seed)


@pytest.mark.parametrize("seed", range(2))
def test_who_is_paused_is_alive_again_soon_and_nobody_else_was_ever_dead(seed: int) -> None:
    async def main(world: World) -> None:
        nodes = await join(world, 20)
        verdicts = Verdicts(world, nodes)
        for _ in range(6):
            paused = world.rng.choice(nodes)
            await world.pause(paused, seconds=8)
            back = [node for node in nodes if node is not paused]
            await trio.sleep(NEWS)
            await world.until(partial(none_dead, back, paused), within=5 - NEWS)
            assert {name for _, name in verdicts.declared} <= {paused.name}
            verdicts.declared.clear()
            await trio.sleep(20)

    run(main, seed)


@pytest.mark.parametrize("seed", range(1, 4))
def test_after_two_partitions_within_a_minute_nobody_stays_dead(seed: int) -> None:
    async def main(world: World) -> None:
        first = await world.start("n0", lan=None, connections__target=4)
        await world.start_many(15, per_second=5, bootstrap=[first], lan=None, connections__target=4)
        await trio.sleep(90)
        nodes = world.living()
        few = frozenset(each.network.host for each in nodes[:4])
        cut = Cut(few, frozenset(each.network.host for each in nodes[4:]))
        for apart, together in ((60, 6), (34, 5)):
            world.network.medium.cut(cut)
            await trio.sleep(apart)
            world.network.medium.heal(cut)
            await trio.sleep(together)
        assert not held_dead(nodes, nodes)

    run(main, seed)


@pytest.mark.parametrize(("share", "seed"), [(0.1, 3), (0.1, 16), (0.4, 2), (0.4, 3)])
def test_after_a_partition_longer_than_reports_are_passed_on_nobody_stays_dead(
    share: float, seed: int
) -> None:
    async def main(world: World) -> None:
        nodes = await join(world, 20, gossip__retention=60.0)
        # A slice of time, and a round of anti-entropy, longer than that.
        await world.partition(share, seconds=200)
        assert held_dead(nodes, nodes)
        await world.until(lambda: not held_dead(nodes, nodes), within=60)

    run(main, seed)


@pytest.mark.parametrize(("size", "minutes", "seed"), [(20, 3, 0), (20, 3, 1)])
def test_one_in_ten_paused_at_any_time_and_links_that_stall_and_break(
    size: int, minutes: float, seed: int
) -> None:
    _pause_one_in_ten(size, minutes, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_in_ten_paused_at_any_time_for_half_an_hour(seed: int) -> None:
    _pause_one_in_ten(200, 30, seed)


def _pause_one_in_ten(size: int, minutes: float, seed: int) -> None:
    """Who is not paused is dead for nobody, and who was is alive again soon.

    A pause of a world lets a node's timers go on: it is rather a cable that is out. The
    verdicts of such a node count as those of any other.
    """

    async def main(world: World) -> None:
        nodes = await join(world, size)
        until = trio.current_time() + 60 * minutes
        paused: set[SimNode] = set()
        back_at = dict.fromkeys((each.name for each in nodes), 0.0)
        wrong: list[tuple[str, str]] = []

        def judge(node: SimNode, event: Event) -> None:
            whom = next((each for each in nodes if each.node_id == event.peer), None)
            if event.code != "peer.dead" or whom is None or whom in paused:
                return
            if trio.current_time() > back_at[whom.name] + NEWS:
                wrong.append((node.name, whom.name))

        async def pause_again_and_again() -> None:
            await trio.sleep(world.rng.uniform(0, 8))
            while trio.current_time() < until:
                whom = world.rng.choice([each for each in nodes if each not in paused])
                paused.add(whom)
                await world.pause(whom, seconds=8)
                paused.remove(whom)
                back_at[whom.name] = trio.current_time()
                world.meanwhile(see_it_alive, whom)

        async def see_it_alive(whom: SimNode) -> None:
            def is_settled() -> bool:
                others = [each for each in nodes if each not in paused and each is not whom]
                return whom in paused or none_dead(others, whom)

            await world.until(is_settled, within=5)

        with ExitStack() as listening:
            for node in nodes:
                listening.enter_context(node.node.events.sent_to(partial(judge, node)))
            for _ in range(size // 10):
                world.meanwhile(pause_again_and_again)
            async with trio.open_nursery() as nursery:
                rate, seconds = size / 100, 60 * minutes
                nursery.start_soon(
                    lambda: world.break_connections(per_second=rate, seconds=seconds)
                )
                nursery.start_soon(
                    lambda: world.stall_connections(per_second=rate, each=8, seconds=seconds)
                )
            await trio.sleep(20)
        assert wrong == []
        assert not held_dead(nodes, nodes)

    run(main, seed)


async def accuse_liar(world: World, liar: SimNode) -> None:
    await accuse_everybody(world, liar, every=10)
