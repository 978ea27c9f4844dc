"""What the doctor finds: a code, how bad it is, a sentence that names the cause, a remedy.

Codes are stable and begin with the name of their check. A problem is something that keeps
nodes apart or data off the disk; a warning may be as it should be.
"""

import enum
from collections.abc import Iterable, Iterator

import attrs

from p2pd.core.observations import Observations


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen
class Finding:
    """One result of a check: a sentence that names the cause, and what to do about it."""

    code: str
    level: Level
    text: str
    remedy: str | None = None

    @property
    def check(self) -> str:
        """The check that this is a result of."""
        return self.code.partition(".")[0]


Findings = Iterator[Finding]


def ok(code: str, text: str) -> Finding:
    """All is well with what was checked."""
    return Finding(code, Level.OK, text)


def problem(code: str, text: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(code, Level.PROBLEM, text, remedy)


def warning(code: str, text: str, remedy: str | None = None) -> Finding:
    """Something may be as it should be, or could not be checked."""
    return Finding(code, Level.WARNING, text, remedy)


def worse_alone(seen: Observations) -> Level:
    """Return the level of what does no harm as long as some peer is connected."""
    return Level.WARNING if seen.connected else Level.PROBLEM


def listed(items: Iterable[str]) -> str:
    """Name a few of them, and say how many more there are."""
    ordered = sorted(items)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
