"""Which tables there are; kept apart, so that the command line need not load the experiments."""

from collections.abc import Mapping
from typing import Final, NamedTuple

MIN_NODES: Final = 2
MAX_NODES: Final = 20
"""All run on this machine, each connected to each."""

DEFAULT_NODES: Final = 5
DEFAULT_INTERVAL: Final = 60.0
DEFAULT_SHORT_INTERVAL: Final = 5.0


class Table(NamedTuple):
    """A table's title, and how often it waits for a beacon of the long interval if passive."""

    title: str
    beacon_waits: int


TABLES: Final[Mapping[str, Table]] = {
    "baseline": Table("baseline discovery", 1),
    "bootstrap": Table("bootstrap against discovery", 1),
    "registry": Table("the registry through stop, kill and restart", 1),
    "churn": Table("re-discovery after churn", 2),
    "interval": Table("one beacon interval against another", 1),
    "hosts": Table("several hosts", 1),
}
