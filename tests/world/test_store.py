"""What was acknowledged outlives those who keep it: killed halves, and nodes that come and go."""

import attrs
import pytest

from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.plan import Row, Step
from p2pd.simulation.scenarios import NAMED, run_scenario


def run(name: str, seed: int, nodes: int, keys: int, *steps: Step) -> list[Row]:
    print(f"python -m p2pd.simulation {name} --nodes {nodes} --seed {seed}")
    named = NAMED[name]
    scenario = attrs.evolve(named, nodes=nodes, keys=keys, step=steps or named.step)
    return run_in_virtual_time(
        run_scenario, scenario, seed, print, seed=seed, tick=scenario.tick
    ).rows


def halve(nodes: int, keys: int, seed: int) -> None:
    rows = run("store-halves", seed, nodes, keys)
    assert rows[0].store["acknowledged"] == keys
    assert all(row.store["first try"] == 1 and row.store["lost"] == 0 for row in rows)
    assert rows[1].living == nodes // 2


@pytest.mark.parametrize(("nodes", "keys"), [(20, 50), (60, 30)])
def test_every_key_outlives_half_of_the_nodes(nodes: int, keys: int) -> None:
    halve(nodes, keys, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "seeds"), [(20, 50), (100, 50), (1000, 1)])
def test_a_thousand_keys_outlive_half_of_the_nodes(nodes: int, seeds: int) -> None:
    for seed in range(seeds):
        halve(nodes, 1000, seed)


def test_what_was_acknowledged_stays_while_everybody_is_replaced() -> None:
    steps = (
        Step("store", at_least=1),
        Step("turnover", seconds=240, session=120, absence=5, per_second=2),
        Step("store"),
    )
    rows = run("store-churn", 0, 30, 30, *steps)
    assert rows[1].store["first try"] > 0.9
    assert rows[1].traffic["Value"] > 0
    assert rows[-1].store["lost"] == 0
