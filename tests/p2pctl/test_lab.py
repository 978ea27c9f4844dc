"""`p2pctl lab`: its tables and its JSON from given results, its options, its failures."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest

from p2pctl.cli import main
from p2pctl.lab import experiments
from p2pctl.lab.group import Lab, Settings, open_lab
from p2pctl.lab.namespace import NoNamespace
from p2pctl.lab.plan import TABLES
from p2pctl.lab.results import (
    Baseline,
    Churn,
    Comparison,
    Departure,
    Finding,
    Hosts,
    HostTimes,
    NodeTimes,
    Outcome,
    Registry,
    Report,
    Result,
    Sight,
    document,
)
from p2pctl.lab.tables import text
from p2pctl.render import Style
from p2pd.errors import P2PError

Captured = pytest.CaptureFixture[str]

ANSWERING = Finding(
    how="answering",
    passive=False,
    interval_seconds=60.0,
    ready_seconds=0.61,
    first_seconds=0.75,
    median_seconds=0.756,
    last_seconds=1.0,
    after_ready_seconds=0.39,
    beacons=7,
    sources={"multicast": 5, "exchange": 1},
)
PASSIVE = attrs.evolve(ANSWERING, how="passive", passive=True, interval_seconds=5.0)
BY_ADDRESS = attrs.evolve(ANSWERING, how="bootstrap", interval_seconds=None, beacons=0)
SIGHT = Sight(
    moment="node3 killed",
    after_seconds=0.01,
    seen_by="node1",
    peer="node3",
    status="disconnected",
    liveness="suspect",
    success_count=1,
    fail_count=2,
    last_error="refused\x1b[2J",
)
BLIND = Sight("node3 killed", None, "node3", "node1", None, None, None, None, None)
RESULTS: Mapping[str, Result] = {
    "baseline": Baseline(
        (NodeTimes("node1", "127.0.0.1:20001", 0.6, 0.756, 12.0, {"multicast": 2}),), 0.15, 7
    ),
    "bootstrap": Comparison((ANSWERING, BY_ADDRESS)),
    "registry": Registry((SIGHT, BLIND)),
    "churn": Churn((Departure("left", ("node2", "node3"), 0.02, 0.6, 0.71, 3, 1),)),
    "interval": Comparison((ANSWERING, PASSIVE)),
    "hosts": Hosts(
        (
            HostTimes("host1", "192.0.2.1:41000", 0.6, 0.7, 0.8, {"multicast": 1}, None),
            HostTimes("host2", "192.0.2.2:41000", 0.6, 0.7, 0.8, {"inbound": 1}, 1.25),
        ),
        0.19,
    ),
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each experiment have its result at once."""

    def experiment(name: str) -> Callable[[Lab], Result]:
        return lambda _: RESULTS[name]

    for name in TABLES:
        monkeypatch.setitem(experiments.EXPERIMENTS, name, experiment(name))


def shown(name: str) -> list[str]:
    return text(Outcome(name, 1.0, RESULTS[name]), Style(io.StringIO())).splitlines()


def cell(lines: list[str], header: str, row: int = 0) -> str:
    """What begins below a header."""
    return lines[2 + row][lines[1].index(header) :].split("  ")[0]


def test_every_table_has_an_experiment_and_a_result() -> None:
    assert [*experiments.EXPERIMENTS] == [*TABLES] == [*RESULTS]


@pytest.mark.parametrize("name", RESULTS)
def test_tables_are_aligned_and_printable(name: str) -> None:
    title, header, *rows = shown(name)
    assert title == f"Table {list(TABLES).index(name) + 1}: {TABLES[name].title}"
    assert header == header.upper()
    assert all(line.isprintable() for line in (title, header, *rows))


def test_what_the_tables_say() -> None:
    baseline = shown("baseline")
    assert cell(baseline, "READY") == "0.60 s"
    assert cell(baseline, "FIRST PEER") == "0.76 s"
    assert cell(baseline, "FROM") == "2 multicast"
    assert "0.15 s after the last node was ready; beacons until then: 7" in baseline[-1]
    by_address = shown("bootstrap")
    assert [cell(by_address, "INTERVAL", row) for row in (0, 1)] == ["60 s", "-"]
    assert cell(by_address, "MEDIAN") == "0.76 s"
    assert "passive" not in by_address[-1]
    registry = shown("registry")
    assert cell(registry, "LIVENESS") == "suspect"
    assert [cell(registry, "OK", row) for row in (0, 1)] == ["1", "-"]
    assert cell(registry, "LAST ERROR") == r"refused\x1b[2J"
    churn = shown("churn")
    assert cell(churn, "NODES") == "node2, node3"
    assert cell(churn, "DIALS") == "3 own, 1 by others"
    interval = shown("interval")
    assert cell(interval, "AFTER READY") == "0.39 s"
    assert [cell(interval, "INTERVAL", row) for row in (0, 1)] == ["60 s", "5 s"]
    assert "passive: beacons at the interval only" in interval[-1]
    assert [cell(shown("hosts"), "RTT", row) for row in (0, 1)] == ["-", "1.25 ms"]


def test_json_holds_what_the_tables_are_made_of() -> None:
    outcomes = [Outcome(name, 1.5, RESULTS[name]) for name in RESULTS]
    outcomes[3] = Outcome("churn", 2.0, failure="it broke")
    outcomes[5] = Outcome("hosts", 0.1, left_out="no namespaces")
    report = Report("0.1.0", 3, 60.0, 5.0, False, "namespace", tuple(outcomes))
    assert report.failed == ["churn"]
    whole = json.loads(json.dumps(document(report)))
    assert {name: whole[name] for name in whole if name != "tables"} == {
        "version": "0.1.0",
        "nodes": 3,
        "interval_seconds": 60.0,
        "short_interval_seconds": 5.0,
        "passive": False,
        "network": "namespace",
    }
    tables = whole["tables"]
    assert [*tables] == [*TABLES]
    assert tables["churn"] == {"seconds": 2.0, "failure": "it broke"}
    assert tables["hosts"] == {"seconds": 0.1, "left_out": "no namespaces"}
    assert tables["interval"]["ways"][1] == attrs.asdict(PASSIVE)
    assert tables["registry"]["sights"][1]["status"] is None
    assert tables["baseline"]["nodes"][0]["sources"] == {"multicast": 2}


@pytest.mark.usefixtures("given")
def test_all_tables_in_their_order_or_those_that_are_named(capsys: Captured) -> None:
    def titles(*argv: str) -> list[str]:
        assert main(["lab", *argv]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return [line for line in captured.out.splitlines() if line.startswith("Table")]

    assert [line.partition(": ")[2] for line in titles()] == [
        each.title for each in TABLES.values()
    ]
    assert titles("all") == titles()
    assert titles("hosts", "churn") == [
        "Table 4: re-discovery after churn",
        "Table 6: several hosts",
    ]
    assert main(["--json", "lab", "churn"]) == 0
    assert [*json.loads(capsys.readouterr().out)["tables"]] == ["churn"]


@pytest.mark.usefixtures("given")
def test_how_long_passive_nodes_may_take_is_said_beforehand(capsys: Captured) -> None:
    assert main(["lab", "churn", "hosts", "--passive"]) == 0
    assert "about 3 min" in capsys.readouterr().err
    assert main(["lab", "hosts", "--passive", "--interval", "90", "--json"]) == 0
    assert json.loads(capsys.readouterr().err)["warning"] == {
        "code": "slow",
        "message": "passive nodes wait for beacons, here for about 1 min 30 s; "
        "Ctrl-C ends it and leaves nothing behind",
        "seconds": 90.0,
    }


@pytest.mark.usefixtures("given")
def test_a_failure_is_told_and_the_others_go_on(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Lab) -> Result:
        raise P2PError("after 20 s still waiting for this: all connected")

    def leave_out(_: Lab) -> Result:
        raise NoNamespace("a network namespace needs root")

    monkeypatch.setitem(experiments.EXPERIMENTS, "baseline", fail)
    monkeypatch.setitem(experiments.EXPERIMENTS, "hosts", leave_out)
    assert main(["lab", "baseline", "churn", "hosts"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "p2pctl: no result for baseline: its table says why\n"
    assert "failed: after 20 s still waiting" in captured.out
    assert "left out: a network namespace needs root" in captured.out
    assert "3 own, 1 by others" in captured.out
    assert main(["lab", "hosts"]) == 0


@pytest.mark.parametrize(
    "argv",
    [["--nodes", "1"], ["--nodes", "21"], ["--interval", "0.5"], ["--interval", "nan"], ["picnic"]],
)
def test_wrong_options_are_refused(argv: list[str], capsys: Captured) -> None:
    assert main(["lab", *argv]) == 2
    assert "p2pctl lab --help" in capsys.readouterr().err


def test_a_lab_removes_its_directory_also_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[Path] = []

    def break_off() -> None:
        with open_lab(Settings(2, 60.0, 5.0, passive=False), lambda *_: None):
            seen.extend(tmp_path.iterdir())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert len(seen) == 1
    assert [*tmp_path.iterdir()] == []
