"""Small worlds, with and without faults; and the world's own eyes, tried on planted bugs."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from p2pd.core.lookup import Lookup, State
from p2pd.core.registry import Registry
from p2pd.errors import P2PError
from p2pd.node import roster
from p2pd.simulation import measure, steps
from p2pd.simulation.checks import Unsound, check_always, check_quiet, copies
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.plan import Outcome, Scenario, Step
from p2pd.simulation.scenarios import NAMED, run_scenario
from p2pd.simulation.world import SimNode, open_world


def run(main: Callable[[int], Awaitable[None]], seed: int) -> None:
    print(f"seed {seed}")
    run_in_virtual_time(main, seed, seed=seed)


def run_named(name: str, seed: int) -> Outcome:
    print(f"python -m p2pd.simulation {name} --seed {seed}")
    return run_in_virtual_time(run_scenario, NAMED[name], seed, print, seed=seed)


@pytest.mark.parametrize("seed", range(2))
def test_a_small_world_without_faults(seed: int) -> None:
    (row,) = run_named("small", seed).rows
    assert row.put["share"] == row.get["share"] == row.lookup["share"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_small_world_with_faults(seed: int) -> None:
    (row,) = run_named("faulty", seed).rows
    assert row.living == 20
    assert row.put["share"] == row.get["share"] == row.lookup["share"] == 1


def test_the_world_of_the_manual_runs() -> None:
    manual = Path(__file__).parents[2] / "docs" / "simulation.md"
    _, _, rest = manual.read_text().partition("```python\n")
    exec(compile(rest.partition("```")[0], manual.name, "exec"), {})


@pytest.mark.parametrize("kinds", [("publish", "measure"), ("measure", "publish")])
def test_the_first_of_each_kind_of_measure_is_a_first(
    kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured before: keys are put, and the tree is warmed up."""
    scenario = Scenario(nodes=5, keys=5, step=tuple(map(Step, (*kinds, *kinds))))
    monkeypatch.setattr(steps, "PUBLISHED", 2)
    rows = run_in_virtual_time(run_scenario, scenario, 1, print, seed=1).rows
    assert [row.step for row in rows] == [f"{kind} {each}" for each in (1, 2) for kind in kinds]
    by_step = {row.step: row for row in rows}
    assert [by_step[f"measure {each}"].put.get("asked") for each in (1, 2)] == [5, 0]
    assert [by_step[f"measure {each}"].get["share"] for each in (1, 2)] == [1, 1]
    ended = [0.0, *(row.virtual_seconds for row in rows)]
    took = {row.step: row.virtual_seconds - began for row, began in zip(rows, ended, strict=False)}
    # A message to everybody is given some seconds.
    assert took["publish 1"] - took["publish 2"] > 2 * steps.WARM_UP


def test_a_kind_of_step_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind of step 'meassure'; there are: measure"):
        Step("meassure")


@pytest.mark.parametrize("seed", range(3))
def test_records_lie_on_the_nodes_closest_to_their_key(seed: int) -> None:
    async def main(seed: int) -> None:
        async with open_world(seed) as world:
            first = await world.start("n0", lan=None, dht__k=8, dht__replication=8)
            await world.start_many(
                29, per_second=5, bootstrap=[first], lan=None, dht__k=8, dht__replication=8
            )
            await trio.sleep(30)
            for number in range(20):
                await world.rng.choice(world.living()).node.put(f"key {number}", b"value")
                assert await copies(world, f"key {number}") == (8, 8)

    run(main, seed)


async def hunt(seed: int) -> None:
    """Live through joins, simultaneous dials, a restart and lookups; raise on any breach."""
    async with open_world(seed) as world:
        nodes = [
            await world.start(f"n{number}", dht__k=4, dht__replication=4) for number in range(12)
        ]
        await trio.sleep(5)
        one, other = world.rng.sample(nodes, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_connect, one, other)
            nursery.start_soon(_connect, other, one)
        victim = world.rng.choice(nodes)
        await world.crash(victim)
        await trio.sleep(1)
        await world.start(victim.name)
        await trio.sleep(30)
        check_always(world)
        check_quiet(world)
        tally = await measure.look_up(world, [f"point {number}" for number in range(20)])
        if tally.share < 1:
            raise Unsound(f"seed {seed}: {tally.share:.0%} of the lookups found the closest node")


async def _connect(one: SimNode, other: SimNode) -> None:
    try:
        await one.node.connect(str(other.address))
    except P2PError:
        return


def found_within(seeds: int) -> int | None:
    """Return the first seed whose world shows a breach, or None."""
    for seed in range(seeds):
        try:
            run(hunt, seed)
        except BaseExceptionGroup as group:
            if group.split(Unsound)[1] is not None:
                raise
            return seed
    return None


@pytest.mark.parametrize("seed", range(2))
def test_a_call_is_broken_off_with_the_node_that_it_asks(seed: int) -> None:
    async def main(seed: int) -> None:
        async with open_world(seed) as world:
            nodes = await world.start_many(30, per_second=30)
            await trio.sleep(60)
            broken_off: list[str] = []

            async def call(name: str) -> None:
                with nodes[0].while_it_runs():
                    await nodes[0].node.get(name)
                broken_off.append(name)

            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c"):
                    nursery.start_soon(call, name)
                await trio.sleep(0.001)
                await world.crash(nodes[0])
            assert len(broken_off) == 3

    run(main, seed)


def test_the_hunt_finds_nothing_in_sound_code() -> None:
    assert found_within(5) is None


def test_a_lookup_that_stops_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(lookup: Lookup) -> bool:
        states = [each.state for each in lookup._candidates.values()]
        return not states or State.ANSWERED in states

    monkeypatch.setattr(Lookup, "finished", property(hasty))
    assert found_within(100) is not None


def test_a_duplicate_connection_that_is_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_the_later(*_: object) -> bool:
        return True

    monkeypatch.setattr(roster, "new_one_stays", keep_the_later)
    monkeypatch.setattr(roster.Roster, "_retire", lambda *_, **__: None)
    assert found_within(100) is not None


def test_a_registry_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Registry.disconnected

    def forgetful(registry: Registry, node_id: object, *args: object, **options: object) -> object:
        entry = sound(registry, node_id, *args, **options)  # type: ignore[arg-type] # handed on
        del registry._entries[node_id]  # type: ignore[arg-type] # as above
        return entry

    monkeypatch.setattr(Registry, "disconnected", forgetful)
    assert found_within(100) is not None
