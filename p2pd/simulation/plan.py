"""What a scenario is made of, and what a run of one has measured so far."""

import resource
import statistics
import time
from typing import Any

import attrs
import trio

from p2pd.net.medium import TICK
from p2pd.simulation.world import World

LATENCIES = ("lan", "wan", "50ms")
# What may happen, and what may be measured.
KINDS = (
    *("measure", "publish", "store", "halves", "turnover", "history"),
    *("wait", "kill", "partition", "breaks", "stalls", "churn", "skew"),
    *("weather", "firewalls", "liars"),
)


def _one_of(*allowed: str) -> Any:
    return attrs.validators.in_(allowed)


def _known(_: object, __: object, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"no kind of step {kind!r}; there are: {', '.join(KINDS)}")


@attrs.frozen
class Step:
    """One thing that happens; `seconds` is how long it takes, then the next begins.

    `share` is of nodes (kill, partition, firewalls, liars) or datagrams (weather),
    `per_second` a rate (breaks, stalls, reads of a turnover), `each` the seconds of one
    stall, `session` and `absence` mean seconds (churn, turnover), `most` seconds (skew).
    `at_least` is the share of the acknowledged keys that a store step must read at the
    first try, `full` asks it for all replicas of each; `calm`: see `clients.live_through`.
    """

    kind: str = attrs.field(validator=_known)
    seconds: float = 0.0
    share: float = 0.0
    per_second: float = 1.0
    each: float = 5.0
    session: float = 60.0
    absence: float = 10.0
    most: float = 300.0
    at_least: float = 0.0
    one_way: bool = False
    full: bool = False
    calm: bool = False
    quiet: bool = False


@attrs.frozen
class Scenario:
    """A world and what befalls it.

    `replication` and `repair_interval` (0: the default) are those of its nodes' `dht`.
    """

    nodes: int = 20
    join_per_second: float = 10.0
    settle: float = 30.0
    keys: int = 20
    replication: int = 20
    repair_interval: float = 0.0
    latency: str = attrs.field(default="lan", validator=_one_of(*LATENCIES))
    tick: float = TICK
    multicast: bool = False
    step: tuple[Step, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What each of its nodes is configured with, as `World.start` takes it."""
        settings: dict[str, Any] = {
            "lan": "lan" if self.multicast else None,
            "dht__replication": self.replication,
        }
        if self.repair_interval:
            settings["dht__repair_interval"] = self.repair_interval
        return settings


@attrs.frozen
class Row:
    """What was measured at one step: virtual and real seconds since the start, MiB in use.

    `store` is what became of acknowledged records, `traffic` bytes per second and node by
    kind of message.
    """

    step: str
    virtual_seconds: float
    real_seconds: float
    mebibytes: int
    living: int
    connections: float
    put: dict[str, float] = attrs.field(factory=dict)
    get: dict[str, float] = attrs.field(factory=dict)
    lookup: dict[str, float] = attrs.field(factory=dict)
    gossip: dict[str, float] = attrs.field(factory=dict)
    store: dict[str, float] = attrs.field(factory=dict)
    traffic: dict[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Outcome:
    """One run of a scenario: its seed, the digest of its trace, and its rows."""

    seed: int
    nodes: int
    digest: str
    sendings: int
    rows: list[Row]


@attrs.define
class Run:
    """A run under way: its world, what was measured, and which keys were acknowledged."""

    world: World
    scenario: Scenario
    started: float = attrs.field(factory=time.monotonic)
    rows: list[Row] = attrs.field(factory=list)
    acknowledged: list[str] = attrs.field(factory=list)

    @property
    def names(self) -> list[str]:
        """The keys of the scenario."""
        return [f"key {each}" for each in range(self.scenario.keys)]

    def number(self, kind: str) -> int:
        """Return how many steps of a kind were measured before."""
        return sum(row.step.rpartition(" ")[0] == kind for row in self.rows)

    def add_row(self, kind: str, **measured: dict[str, float]) -> None:
        """Add what a step of a kind has measured, by the names of `Row`."""
        living = self.world.living()
        connections = [len(each.services.roster.connections) for each in living]
        self.rows.append(
            Row(
                step=f"{kind} {self.number(kind) + 1}",
                virtual_seconds=round(trio.current_time(), 1),
                real_seconds=round(time.monotonic() - self.started, 1),
                mebibytes=mebibytes(),
                living=len(living),
                connections=round(statistics.fmean(connections), 1),
                **measured,
            )
        )


def mebibytes() -> int:
    """Return the most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
