"""A fair queue that can be waited for: work of peers on its way to the service that does it."""

from collections.abc import Hashable
from typing import TypeVar

import trio

from p2pd.core.fair_queue import FairQueue

Owner = TypeVar("Owner", bound=Hashable)
Item = TypeVar("Item")


class FairChannel(FairQueue[Owner, Item]):
    """See `FairQueue`; one task at a time may wait in `receive`."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._filled = trio.Event()

    def put(self, owner: Owner, item: Item, size: int = 1) -> list[Item]:
        """See `FairQueue`."""
        pushed_out = super().put(owner, item, size)
        self._filled.set()
        return pushed_out

    async def receive(self) -> Item:
        """Wait for an item; remove and return it."""
        while (item := self.take()) is None:
            self._filled = trio.Event()
            await self._filled.wait()
        return item
