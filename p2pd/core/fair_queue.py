"""A bounded queue that no owner fills alone: each has its turn, and the largest yields."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Item = TypeVar("Item")


class FairQueue(Generic[Owner, Item]):
    """Items of several owners, taken from each in turn, each owner's in order.

    Items have sizes. `most` bounds their sum; when full, the owner with most waiting loses its
    newest item, even if that is the one being added.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._sizes: dict[Owner, int] = {}
        self._items: dict[Owner, deque[tuple[Item, int]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def put(self, owner: Owner, item: Item, size: int = 1) -> list[Item]:
        """Add an item; returns those that no longer fit, perhaps the item itself."""
        self._items.setdefault(owner, deque()).append((item, size))
        self._count(owner, size)
        pushed_out: list[Item] = []
        while self._size > self._most:
            greatest = max(self._sizes, key=self._sizes.__getitem__)
            pushed_out.append(self._remove(greatest, newest=True))
        return pushed_out

    def take(self) -> Item | None:
        """Remove and return the oldest item of the owner whose turn it is; None if empty."""
        for owner in self._items:
            item = self._remove(owner, newest=False)
            if owner in self._items:
                self._items[owner] = self._items.pop(owner)
            return item
        return None

    def _remove(self, owner: Owner, *, newest: bool) -> Item:
        items = self._items[owner]
        item, size = items.pop() if newest else items.popleft()
        self._count(owner, -size)
        if not items:
            del self._items[owner], self._sizes[owner]
        return item

    def _count(self, owner: Owner, size: int) -> None:
        self._size += size
        self._sizes[owner] = self._sizes.get(owner, 0) + size
