"""Lookups over a thousand tables: what dead entries cost, and that liars hide nobody."""

import pytest

from p2pd.simulation.lookups import LIES, Net, measure


@pytest.mark.parametrize("size", [100, 1000])
def test_a_fifth_of_dead_entries_costs_less_than_a_timeout(size: int) -> None:
    found = measure(Net(1, size, dead=0.2, latency=0.025), 200, alpha=3, paths=1)
    assert found["share"] == 1
    assert found["median_s"] < 1
    assert found["p99_s"] < 3


@pytest.mark.parametrize("lie", LIES)
def test_over_disjoint_paths_a_fifth_of_liars_hides_nobody(lie: str) -> None:
    found = measure(Net(2, 1000, liars=0.2, lies=[lie]), 75, alpha=3, paths=4)
    assert found["share"] >= 0.99


def test_more_liars_hide_fewer_nodes_the_more_paths_there_are() -> None:
    share = {
        paths: measure(Net(3, 1000, liars=0.4, lies=["each other"]), 120, alpha=3, paths=paths)[
            "share"
        ]
        for paths in (1, 8)
    }
    assert share[1] < 0.99 <= share[8]
