"""A token bucket: a burst, then a rate per second."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from p2pd.core.bounded import BoundedTable

K = TypeVar("K", bound=Hashable)


class Budget:
    """Holds `most` at first and at most, and gains `per_second`; times are monotonic."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left = most
        self._at = 0.0

    def spend(self, cost: float, now: float) -> bool:
        """Take `cost` if anything is left; False if nothing is.

        The last cost may overdraw it, so that none is too great for ever.
        """
        if self.left(now) <= 0:
            return False
        self._left -= cost
        return True

    def left(self, now: float) -> float:
        """Return what is left; less than nothing where it is overdrawn."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        return self._left

    def charge(self, cost: float, now: float) -> None:
        """Take `cost` whether or not anything is left."""
        self._left = self.left(now) - cost

    def give_back(self, cost: float) -> None:
        """Put back what was spent on something that then was not done."""
        self._left += cost

    def refilled_at(self) -> float:
        """Return from when on something is left, as of the last `spend`."""
        # A little later, or by rounding there might be nothing yet.
        return self._at + max(0.0, -self._left) / self._per_second + 0.001


class Budgets(Generic[K]):
    """An equal `Budget` for each of `bound`; beyond that, the least recent spender starts anew."""

    def __init__(self, bound: int, most: float, per_second: float) -> None:
        self._of = BoundedTable[K, Budget](bound)
        self._most = most
        self._per_second = per_second

    def spend(self, who: K, cost: float, now: float) -> bool:
        """Take `cost` of what is left to one of them; see `Budget.spend`."""
        return self._renewed(who).spend(cost, now)

    def charge(self, who: K, cost: float, now: float) -> None:
        """Take `cost` from one of them, whether or not anything is left."""
        self._renewed(who).charge(cost, now)

    def give_back(self, who: K, cost: float) -> None:
        """Put back what one of them spent on something that then was not done."""
        budget = self._of.get(who)
        if budget is not None:
            budget.give_back(cost)

    def left(self, who: K, now: float) -> float:
        """Return what is left to one of them; less than nothing where it is overdrawn."""
        budget = self._of.get(who)
        return self._most if budget is None else budget.left(now)

    def _renewed(self, who: K) -> Budget:
        budget = self._of.get(who) or Budget(self._most, self._per_second)
        self._of[who] = budget
        return budget
