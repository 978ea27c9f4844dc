"""A table that holds so many items and no more: for what others can make us remember."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedTable(dict[K, V]):
    """A dictionary; at the bound of `most` items the one that was set longest ago goes.

    Items stand in the order in which they were last set, as `table[key] = value`: use nothing
    else to put them in.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._most:
            del self[next(iter(self))]
