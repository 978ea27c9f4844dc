"""Records for replicas that a write did not wait for: each gets them afterwards, once.

Without this, one replica in a hundred would lack what was written while all were busy, until
repair comes by.
"""

import trio

from p2pd.core.bounded import BoundedTable
from p2pd.core.records import Version
from p2pd.errors import Busy, P2PError, RequestRefused
from p2pd.ids import NodeId
from p2pd.node.fair_channel import FairChannel
from p2pd.node.requester import Requester
from p2pd.wire.messages import Store, Stored

# Bytes of bodies that wait; when full, the node with the most waiting loses its newest.
MAX_LATE_BYTES = 16 << 20
AT_ONCE = 4
# A node that did not answer a late write either gets none for this long; repair takes over.
LEFT_FOR = 60.0
_MAX_LEFT = 1024


class LateWrites:
    """A queue of records for others; `run` must be running. `timeout` in seconds, for each."""

    def __init__(self, requester: Requester, timeout: float) -> None:
        self._requester = requester
        self._timeout = timeout
        self._waiting: FairChannel[NodeId, tuple[NodeId, Store]] = FairChannel(MAX_LATE_BYTES)
        self._left_until = BoundedTable[NodeId, float](_MAX_LEFT)

    def add(self, node: NodeId, version: Version) -> None:
        """Let a node have a record when there is time; when full, it is left to repair."""
        store = Store(version.signed)
        self._waiting.put(node, (node, store), len(version.signed.body))

    async def run(self) -> None:
        """Give what waits, to some nodes at once, until cancelled."""
        limit = trio.Semaphore(AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                node, store = await self._waiting.receive()
                await limit.acquire()
                nursery.start_soon(self._give, node, store, limit)

    async def _give(self, node: NodeId, store: Store, limit: trio.Semaphore) -> None:
        try:
            if trio.current_time() >= self._left_until.get(node, 0):
                await self._requester.request(node, store, Stored, self._timeout)
        except (Busy, RequestRefused):
            # Our own limit says nothing about the node; nor does that it won't have this record.
            return
        except P2PError:
            self._left_until[node] = trio.current_time() + LEFT_FOR
        finally:
            limit.release()
