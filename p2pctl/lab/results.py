"""What the experiments measured: what `--json` writes, and what the tables show.

Times are in seconds. Those of discovery count from the start of the process (of the later one,
if there are two) to the connection; `ready_seconds` of that is the process's own start.
`after_ready_seconds` is what remains: from the last node being ready to the last connection.
"""

from collections.abc import Mapping

import attrs


@attrs.frozen
class NodeTimes:
    """How long one node took to be ready, and connected to the first and to the last of all.

    `sources`: how, by its registry, it heard of the others, with the number of each.
    """

    node: str
    address: str
    ready_seconds: float
    first_peer_seconds: float
    all_peers_seconds: float
    sources: Mapping[str, int]


@attrs.frozen
class Baseline:
    """Nodes that start together; `beacons` sent by all until all were connected."""

    nodes: tuple[NodeTimes, ...]
    after_ready_seconds: float
    beacons: int


@attrs.frozen
class Finding:
    """One way of finding each other: over all pairs, the first, the median and the last.

    `ready_seconds` is that of the slowest node.
    """

    how: str
    passive: bool
    interval_seconds: float | None
    ready_seconds: float
    first_seconds: float
    median_seconds: float
    last_seconds: float
    after_ready_seconds: float
    beacons: int
    sources: Mapping[str, int]


@attrs.frozen
class Comparison:
    """Several ways of finding each other, one after the other."""

    ways: tuple[Finding, ...]


@attrs.frozen
class Sight:
    """A node's registry entry of another, `after_seconds` after `moment` began.

    `status` and what follows are None if it has no entry.
    """

    moment: str
    after_seconds: float | None
    seen_by: str
    peer: str
    status: str | None
    liveness: str | None
    success_count: int | None
    fail_count: int | None
    last_error: str | None


@attrs.frozen
class Registry:
    """The registries of two nodes, one of which stops and is killed."""

    sights: tuple[Sight, ...]


@attrs.frozen
class Departure:
    """Nodes that went and came back: when all others noticed, and had them again.

    `noticed_seconds` count from the signal, `back_seconds` from the start of the process.
    Of their connections to the others, they dialled `dialled`, the others `was_dialled`.
    """

    what: str
    nodes: tuple[str, ...]
    noticed_seconds: float
    ready_seconds: float
    back_seconds: float
    dialled: int
    was_dialled: int


@attrs.frozen
class Churn:
    """Departures of several kinds, one after the other, in one network."""

    departures: tuple[Departure, ...]


@attrs.frozen
class HostTimes(NodeTimes):
    """A node on a host of its own, and its round trip to the first one (which has none)."""

    rtt_ms: float | None


@attrs.frozen
class Hosts:
    """Hosts on one LAN, each with one node."""

    hosts: tuple[HostTimes, ...]
    after_ready_seconds: float


Result = Baseline | Comparison | Registry | Churn | Hosts


@attrs.frozen
class Outcome:
    """What became of a table: a result, or why it was left out, or what went wrong."""

    table: str
    seconds: float
    result: Result | None = None
    left_out: str | None = None
    failure: str | None = None


@attrs.frozen
class Report:
    """A whole run. `network` is `namespace`, or `loopback` for this machine's own."""

    version: str
    nodes: int
    interval_seconds: float
    short_interval_seconds: float
    passive: bool
    network: str
    tables: tuple[Outcome, ...]

    @property
    def failed(self) -> list[str]:
        """The experiments that went wrong."""
        return [each.table for each in self.tables if each.failure is not None]


def document(report: Report) -> dict[str, object]:
    """Return a report as JSON, the tables by name."""
    whole = attrs.asdict(report, filter=lambda field, _: field.name != "tables")
    whole["tables"] = {each.table: _outcome_document(each) for each in report.tables}
    return whole


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    """Return what there is of result, reason or failure, and how long it took."""
    told: dict[str, object] = {"seconds": outcome.seconds}
    if outcome.result is not None:
        told |= attrs.asdict(outcome.result)
    if outcome.left_out is not None:
        told["left_out"] = outcome.left_out
    if outcome.failure is not None:
        told["failure"] = outcome.failure
    return told
