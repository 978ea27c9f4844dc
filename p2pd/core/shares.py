"""Who has most of something that all share: when it is full, that owner yields."""

import enum
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class _Nobody(enum.Enum):
    """Who has most before anybody has anything: None would not do, as it may be an owner."""

    NOBODY = enum.auto()


class Shares(Generic[Owner]):
    """How much each owner has; nobody has less than nothing."""

    def __init__(self) -> None:
        self.total = 0
        self._held: Counter[Owner] = Counter()
        self._greatest: Owner | _Nobody = _Nobody.NOBODY

    def change(self, owner: Owner, amount: int) -> None:
        """Give an owner so much more, or take it away if `amount` is negative."""
        self.total += amount
        held = self._held[owner] = self._held[owner] + amount
        if held == 0:
            # A key that was left at zero would never go.
            del self._held[owner]
        if isinstance(self._greatest, _Nobody) or held > self._held[self._greatest]:
            self._greatest = owner

    def greatest(self) -> Owner:
        """Return an owner that has more than most: the greatest of those that grew recently.

        It has at least the average. There must be at least one owner.
        """
        # Looking through all of them for each thing that comes would cost too much.
        if (
            isinstance(self._greatest, _Nobody)
            or self._held[self._greatest] * len(self._held) < self.total
        ):
            self._greatest = max(self._held, key=self._held.__getitem__)
        return self._greatest
