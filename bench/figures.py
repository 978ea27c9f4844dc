"""What a benchmark finds: medians with their extremes, ratios, and whether a promise is kept."""

import statistics
from collections.abc import Awaitable, Callable, Iterable

import attrs


@attrs.frozen
class Effort:
    """How long to measure: rounds of each comparison, and seconds of idling."""

    rounds: int
    idle_seconds: float
    settle_seconds: float


@attrs.frozen
class Spread:
    """The median of some values, with the least and the greatest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarize at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g})"


@attrs.frozen
class Promise:
    """A bound: on the median of a ratio, or, where there is no ratio, on the worst value.

    `of_median`: without a ratio, too, on the median.
    """

    limit: float
    at_least: bool = False
    of_median: bool = False

    def __str__(self) -> str:
        bound = f"{'>=' if self.at_least else '<='} {self.limit:g}"
        return f"median {bound}" if self.of_median else bound


@attrs.frozen
class Figure:
    """One line of the result. `ratio` is ours to the reference, round by round."""

    name: str
    unit: str
    ours: Spread
    against: str = ""
    reference: Spread | None = None
    ratio: Spread | None = None
    promise: Promise | None = None

    @property
    def kept(self) -> bool | None:
        """Whether the promise holds; None where nothing is promised."""
        if self.promise is None:
            return None
        spread = self.ratio or self.ours
        if self.ratio or self.promise.of_median:
            judged = spread.median
        else:
            judged = spread.least if self.promise.at_least else spread.most
        if self.promise.at_least:
            return judged >= self.promise.limit
        return judged <= self.promise.limit


Measure = Callable[[], Awaitable[float]]


async def compare(rounds: int, ours: Measure, reference: Measure) -> tuple[Spread, Spread, Spread]:
    """Measure both in turn, A B A B; returns ours, the reference, and their ratio.

    A first round is thrown away. The order within a round alternates, so that neither
    always runs in the other's wake.
    """
    pairs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        if number % 2:
            mine = await ours()
            theirs = await reference()
        else:
            theirs = await reference()
            mine = await ours()
        if number:
            pairs.append((mine, theirs))
    return (
        Spread.of(mine for mine, _ in pairs),
        Spread.of(theirs for _, theirs in pairs),
        Spread.of(mine / theirs for mine, theirs in pairs),
    )
