"""All that a node knows of the world outside; a simulation gives it another one."""

import random
from collections.abc import Callable

import attrs

from p2pd.net.base import Network
from p2pd.node.alarms import Alarms
from p2pd.node.background import Background
from p2pd.store.base import Store
from p2pd.wire.identity import Identity
from p2pd.wire.records import RecordCache


@attrs.frozen
class Env:
    """The world of one node. Monotonic time is always `trio.current_time()`.

    `alarms` must be running, and `background` while the node does. `rng` makes the protocol's
    choices, `entropy(n)` gives n secret bytes, `wall_clock` Unix seconds. `network_key` is empty
    on an open network. `alarms` and `records` may be shared by nodes of one process.
    """

    network: Network
    store: Store
    alarms: Alarms
    identity: Identity
    rng: random.Random
    entropy: Callable[[int], bytes]
    wall_clock: Callable[[], float]
    network_key: bytes = b""
    background: Background = attrs.field(factory=Background)
    records: RecordCache = attrs.field(factory=RecordCache)

    def wall_ms(self) -> int:
        """Return Unix milliseconds."""
        return int(self.wall_clock() * 1000)
