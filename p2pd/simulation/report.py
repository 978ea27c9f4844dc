"""What a run of scenarios looks like: a table for people, JSON for programs, a plot."""

import importlib.util
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import attrs
from tabulate import tabulate

from p2pd.errors import ConfigError
from p2pd.simulation.plan import Outcome, Row

_KINDS = ("put", "get", "lookup", "gossip")
_HEADERS = (
    "seed", "nodes", "step", "virtual s", "real s", "MiB", "living", "connections",
    "put", "get", "lookup", "lookup ms", "hops",
    "gossip", "copies", "last ms", "most ms", "diameter",
)  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """Lay out all rows of all outcomes for a terminal."""
    rows = [
        (
            outcome.seed,
            outcome.nodes,
            row.step,
            row.virtual_seconds,
            row.real_seconds,
            row.mebibytes,
            row.living,
            row.connections,
            _percent(row.put),
            _percent(row.get),
            _percent(row.lookup),
            row.lookup.get("median_ms", "-"),
            row.lookup.get("mean_hops", "-"),
            _percent(row.gossip),
            row.gossip.get("copies", "-"),
            row.gossip.get("median_ms", "-"),
            row.gossip.get("most_ms", "-"),
            row.gossip.get("diameter", "-"),
        )
        for outcome in outcomes
        for row in outcome.rows
    ]
    return "\n\n".join([tabulate(rows, headers=_HEADERS, tablefmt="plain"), *_details(outcomes)])


def _details(outcomes: Sequence[Outcome]) -> list[str]:
    """Lay out what only some steps measure, a table for each kind of step."""
    by_kind: dict[str, list[dict[str, object]]] = {}
    for outcome in outcomes:
        for row in outcome.rows:
            for kind, measured in (("", row.store), ("bytes/s/node of ", row.traffic)):
                if measured:
                    shown = {"seed": outcome.seed, "nodes": outcome.nodes, "step": row.step}
                    name = kind + row.step.rpartition(" ")[0]
                    by_kind.setdefault(name, []).append({**shown, **measured})
    return [
        f"{name}:\n" + tabulate(rows, headers="keys", tablefmt="plain")
        for name, rows in by_kind.items()
    ]


def summary(outcomes: Sequence[Outcome]) -> str:
    """Lay out, over all seeds, the mean share that succeeded at each step, and the least."""
    by_step: dict[tuple[int, str], list[Row]] = {}
    for outcome in outcomes:
        for row in outcome.rows:
            by_step.setdefault((outcome.nodes, row.step), []).append(row)
    rows = [
        (nodes, step, len(found), *(_mean_and_least(found, kind) for kind in _KINDS))
        for (nodes, step), found in by_step.items()
    ]
    return tabulate(rows, headers=("nodes", "step", "seeds", *_KINDS), tablefmt="plain")


def document(outcomes: Sequence[Outcome]) -> str:
    """Write all outcomes as one JSON document."""
    return json.dumps([attrs.asdict(outcome) for outcome in outcomes], indent=2)


def check_can_plot() -> None:
    """Raise `ConfigError` if matplotlib is not installed: before a long run, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: .venv/bin/pip install -e '.[simulation]'")


def plot(outcomes: Sequence[Outcome], file: Path) -> None:
    """Draw lookup hops against the number of nodes, and survivors against the killed.

    The file's suffix says the format (svg, png, pdf). Needs what `check_can_plot` looks for.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only plotting needs it

    figure = Figure(figsize=(10, 4), layout="constrained")
    hops, shares = figure.subplots(1, 2)
    by_size: dict[int, list[float]] = {}
    for outcome in outcomes:
        found = [row.lookup["mean_hops"] for row in outcome.rows[:1] if "mean_hops" in row.lookup]
        by_size.setdefault(outcome.nodes, []).extend(found)
    sizes = sorted(size for size, values in by_size.items() if values)
    hops.plot(sizes, [statistics.fmean(by_size[size]) for size in sizes], marker="o")
    hops.set(xscale="log", xlabel="nodes", ylabel="hops to the closest node", title="Lookups")
    for kind in ("get", "lookup"):
        points = [
            (1 - row.living / outcome.nodes, getattr(row, kind)["share"])
            for outcome in outcomes
            for row in outcome.rows
            if getattr(row, kind)
        ]
        shares.scatter(*zip(*points, strict=True), label=kind, alpha=0.6)
    shares.set(xlabel="share of nodes gone", ylabel="share that succeeds", title="Survival")
    shares.legend()
    figure.savefig(file)


def _mean_and_least(rows: Sequence[Row], kind: str) -> str:
    shares = [getattr(row, kind)["share"] for row in rows if getattr(row, kind).get("asked")]
    return f"{statistics.fmean(shares):.2%} ({min(shares):.0%})" if shares else "-"


def _percent(summary: dict[str, float]) -> str:
    return f"{summary['share']:.1%}" if summary.get("asked") else "-"
