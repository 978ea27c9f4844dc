"""A table of bounded size, for what others can make us remember."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedTable(dict[K, V]):
    """A dictionary of at most `most` items; when full, the one set longest ago is evicted.

    Items stand in the order in which they were last set by `table[key] = value`; insert them in no
    other way.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._most:
            del self[next(iter(self))]
