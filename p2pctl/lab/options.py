"""The options of `p2pctl lab`."""

from typing import Final

from p2pctl.arguments import argument, count_between, number
from p2pctl.lab.plan import (
    DEFAULT_INTERVAL,
    DEFAULT_NODES,
    DEFAULT_SHORT_INTERVAL,
    MAX_NODES,
    MIN_NODES,
    TABLES,
)

_DAY: Final = 86400

# What the daemon accepts.
_interval: Final = number(
    float, f"a number of seconds from 1 to {_DAY}", lambda value: 1 <= value <= _DAY
)

LAB_ARGUMENTS: Final = (
    argument(
        "tables",
        metavar="TABLE",
        nargs="*",
        choices=[*TABLES, "all"],
        default="all",
        help=f"{', '.join(TABLES)}, or all (the default)",
    ),
    argument(
        "--nodes",
        type=count_between(MIN_NODES, MAX_NODES),
        default=DEFAULT_NODES,
        metavar="N",
        help=f"how many daemons, {MIN_NODES} to {MAX_NODES} (default {DEFAULT_NODES})",
    ),
    argument(
        "--interval",
        type=_interval,
        default=DEFAULT_INTERVAL,
        metavar="SECONDS",
        help=f"their beacon interval (default {DEFAULT_INTERVAL:g})",
    ),
    argument(
        "--short-interval",
        type=_interval,
        default=DEFAULT_SHORT_INTERVAL,
        metavar="SECONDS",
        help=f"the one it is compared with (default {DEFAULT_SHORT_INTERVAL:g})",
    ),
    argument(
        "--passive",
        action="store_true",
        help="beacons at the interval only: no burst, no answers; takes minutes",
    ),
)
