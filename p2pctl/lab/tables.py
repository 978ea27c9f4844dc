"""The lab's results as tables for people."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from p2pctl import render
from p2pctl.lab.plan import TABLES
from p2pctl.lab.results import (
    Baseline,
    Churn,
    Comparison,
    Hosts,
    NodeTimes,
    Outcome,
    Registry,
)
from p2pctl.render import Style
from p2pd.printable import escaped

_ABSENT: Final = "-"


class _Table(NamedTuple):
    """What is in a table, and the note below it."""

    headers: Sequence[str]
    rows: Iterable[Sequence[str]]
    note: str


def text(outcome: Outcome, style: Style) -> str:
    """Show a table under its number and title; or why there is none."""
    number = list(TABLES).index(outcome.table) + 1
    lines = [style.paint(f"Table {number}: {TABLES[outcome.table].title}", "heading")]
    if outcome.failure is not None:
        lines.append(f"  {style.paint('failed', 'error')}: {escaped(outcome.failure)}")
    elif outcome.left_out is not None:
        lines.append(f"  left out: {escaped(outcome.left_out)}")
    elif outcome.result is not None:
        shown = _SHOWN[type(outcome.result)](outcome.result, style)
        lines += [render.table(shown.headers, shown.rows), shown.note]
    return "\n".join(lines)


def _baseline(result: Baseline, _: Style) -> _Table:
    rows = [_times(each) for each in result.nodes]
    note = (
        f"The last connection came {_seconds(result.after_ready_seconds)} after the last node was "
        f"ready; beacons until then: {result.beacons}."
    )
    return _Table(("NODE", "ADDRESS", "READY", "FIRST PEER", "ALL PEERS", "FROM"), rows, note)


def _comparison(result: Comparison, _: Style) -> _Table:
    rows = [
        (
            each.how,
            _ABSENT if each.interval_seconds is None else f"{each.interval_seconds:g} s",
            _seconds(each.ready_seconds),
            _seconds(each.first_seconds),
            _seconds(each.median_seconds),
            _seconds(each.last_seconds),
            _seconds(each.after_ready_seconds),
            str(each.beacons),
            _counts(each.sources),
        )
        for each in result.ways
    ]
    headers = (
        "HOW", "INTERVAL", "READY", "FIRST PAIR", "MEDIAN", "ALL PAIRS", "AFTER READY", "BEACONS",
        "FROM",
    )  # fmt: skip
    note = "AFTER READY: from the last node's being ready to the last connection."
    if len({each.passive for each in result.ways}) > 1:
        note += (
            "\nanswering: a burst at the start, and answers; passive: beacons at the interval only."
        )
    return _Table(headers, rows, note)


def _registry(result: Registry, style: Style) -> _Table:
    rows = [
        (
            each.moment,
            _seconds(each.after_seconds),
            each.seen_by,
            each.peer,
            _painted(each.status, style),
            _painted(each.liveness, style),
            _ABSENT if each.success_count is None else str(each.success_count),
            _ABSENT if each.fail_count is None else str(each.fail_count),
            escaped(each.last_error or _ABSENT),
        )
        for each in result.sights
    ]
    headers = (
        "MOMENT", "AFTER", "SEEN BY", "PEER", "STATUS", "LIVENESS", "OK", "FAIL", "LAST ERROR",
    )  # fmt: skip
    note = (
        "AFTER: from the signal, or from the start of the process; OK, FAIL: connections, failed "
        "dials."
    )
    return _Table(headers, rows, note)


def _churn(result: Churn, _: Style) -> _Table:
    rows = [
        (
            each.what,
            ", ".join(each.nodes),
            _seconds(each.noticed_seconds),
            _seconds(each.ready_seconds),
            _seconds(each.back_seconds),
            f"{each.dialled} own, {each.was_dialled} by others",
        )
        for each in result.departures
    ]
    headers = ("WHAT", "NODES", "NOTICED", "READY", "ALL CONNECTED", "DIALS")
    return _Table(
        headers, rows, "NOTICED: by all others, from the signal; the rest from the start."
    )


def _hosts(result: Hosts, _: Style) -> _Table:
    rows = [(*_times(each), render.milliseconds(each.rtt_ms)) for each in result.hosts]
    headers = ("NODE", "ADDRESS", "READY", "FIRST PEER", "ALL PEERS", "FROM", "RTT")
    note = (
        f"The last connection came {_seconds(result.after_ready_seconds)} after the last node was "
        f"ready. RTT: a ping from {result.hosts[0].node}."
    )
    return _Table(headers, rows, note)


_SHOWN: Final[Mapping[type, Callable[[Any, Style], _Table]]] = {
    Baseline: _baseline,
    Comparison: _comparison,
    Registry: _registry,
    Churn: _churn,
    Hosts: _hosts,
}


def _times(node: NodeTimes) -> tuple[str, ...]:
    return (
        node.node,
        node.address,
        _seconds(node.ready_seconds),
        _seconds(node.first_peer_seconds),
        _seconds(node.all_peers_seconds),
        _counts(node.sources),
    )


def _counts(sources: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {escaped(name)}" for name, number in sources.items())


def _seconds(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f} s"


def _painted(word: str | None, style: Style) -> str:
    return _ABSENT if word is None else style.paint(escaped(word), word)
