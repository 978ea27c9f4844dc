"""When another replica was last seen to have the same as this node, by prefix."""

from p2pd.core.bounded import BoundedTable
from p2pd.core.closest_sets import merged
from p2pd.core.merkle import Prefix

# When full, what was confirmed longest ago is forgotten: that only costs a needless lookup.
MAX_CONFIRMED = 2048
# A prefix of more bits holds hardly more than one key, even where a million nodes have to be told
# apart: whoever confirms such ones confirms little, and to find what is outside of them takes long.
MAX_BITS = 24


class Confirmations:
    """What comparisons showed to be the same elsewhere; times are monotonic.

    At the start, `now`, everything counts as confirmed.
    """

    def __init__(self, now: float) -> None:
        self._begun = now
        self._seen_at = BoundedTable[Prefix, float](MAX_CONFIRMED)

    def note(self, prefix: Prefix, now: float) -> None:
        """Note that everything under a prefix is the same elsewhere."""
        if prefix.bits <= MAX_BITS:
            self._seen_at[prefix] = now

    def since(self, then: float) -> list[Prefix]:
        """Return all that was confirmed since `then`."""
        if self._begun >= then:
            return [Prefix()]
        return merged(prefix for prefix, at in self._seen_at.items() if at >= then)
