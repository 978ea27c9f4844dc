"""What was acknowledged outlives those who keep it: killed halves, and nodes that come and go."""

from typing import Any

import attrs
import pytest

from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.plan import Row, Step
from p2pd.simulation.scenarios import NAMED, run_scenario


def run(name: str, seed: int, *steps: Step, **changes: Any) -> list[Row]:
    print(f"seed {seed}, as: python -m p2pd.simulation {name} --seed {seed}; but {changes} {steps}")
    scenario = attrs.evolve(NAMED[name], **changes)
    if steps:
        scenario = attrs.evolve(scenario, step=steps)
    return run_in_virtual_time(
        run_scenario, scenario, seed, print, seed=seed, tick=scenario.tick
    ).rows


def halve(nodes: int, seed: int, **changes: Any) -> None:
    rows = run("store-halves", seed, nodes=nodes, **changes)
    assert rows[0].store["acknowledged"] == NAMED["store-halves"].keys or changes
    assert rows[1].living == nodes // 2
    assert all(row.store["first try"] == 1 and row.store["lost"] == 0 for row in rows)
    assert [row.store["full"] for row in rows[2::2]] == [1] * (len(rows) // 2)


@pytest.mark.parametrize(("nodes", "replication", "keys"), [(20, 20, 50), (40, 10, 30)])
def test_every_key_outlives_half_of_the_nodes(nodes: int, replication: int, keys: int) -> None:
    halve(nodes, seed=0, replication=replication, keys=keys, repair_interval=60, settle=30)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "seeds"), [(20, 50), (60, 50), (100, 50), (1000, 1)])
def test_a_thousand_keys_outlive_half_of_the_nodes(nodes: int, seeds: int) -> None:
    for seed in range(seeds):
        halve(nodes, seed)


def test_what_was_acknowledged_stays_while_everybody_is_replaced() -> None:
    rows = run(
        "store-churn",
        0,
        Step("store", at_least=1),
        Step("turnover", seconds=60, session=30, absence=5, per_second=2),
        Step("store"),
        nodes=12,
        keys=20,
        settle=30,
        repair_interval=10,
        replication=5,
    )
    assert rows[1].store["first try"] > 0.9
    assert rows[1].store["repair"] > 0
    assert rows[2].store["lost"] == 0


@pytest.mark.slow
def test_six_hours_of_nodes_that_come_and_go() -> None:
    rows = run("store-churn", 0)
    assert rows[1].store["first try"] >= 0.999
    assert rows[2].store["lost"] == 0
