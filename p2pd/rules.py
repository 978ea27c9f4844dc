"""What a value in the configuration may be: small rules that say what they allow."""

import json
from collections.abc import Callable
from typing import Any

import attrs

from p2pd.printable import escaped

MAX_ENTRIES = 256  # of a list
MAX_SHOWN = 60  # characters of a wrong text


def show(value: object) -> str:
    """Name a wrong value in an error message: one short line, whatever it holds."""
    if isinstance(value, str):
        quoted = json.dumps(value[: MAX_SHOWN + 1], ensure_ascii=False)[1:-1]
        shown = escaped(quoted)
        return f'"{shown}"' if len(shown) <= MAX_SHOWN else f'"{shown[:MAX_SHOWN]}..."'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "an integer beyond 64 bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, dict) else "a date or time"


@attrs.frozen
class Rule:
    """What a key may hold, in words and as a test, and the form in which it is kept."""

    allowed: str
    fits: Callable[[Any], bool]
    keep: Callable[[Any], Any] = lambda value: value

    def __call__(self, value: object) -> Any:
        """Return `value` in the form kept; raises `ValueError`, which says what is allowed."""
        if not self.fits(value):
            raise ValueError(f"expected {self.allowed}, not {show(value)}")
        return self.keep(value)


def integer(low: int, high: int) -> Rule:
    """Integers; `true` is not one."""
    return Rule(
        f"an integer from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Rule:
    """Integers and floats, kept as float; not infinity or NaN."""
    return Rule(
        f"a number from {low} to {high}",
        lambda value: type(value) in {int, float} and low <= value <= high,
        float,
    )


def text(allowed: str, fits: Callable[[str], object]) -> Rule:
    """Printable text that also `fits`."""
    return Rule(
        allowed,
        lambda value: isinstance(value, str) and value.isprintable() and bool(fits(value)),
    )


def one_of(*words: str) -> Rule:
    """One of a few words."""
    return text("one of " + ", ".join(f'"{word}"' for word in words), words.__contains__)


def list_of(item: Rule, *, at_least: int = 0) -> Rule:
    """A list, kept as a tuple without repetitions."""
    return Rule(
        f"a list of {at_least} to {MAX_ENTRIES} entries, each {item.allowed}",
        lambda value: isinstance(value, list | tuple) and at_least <= len(value) <= MAX_ENTRIES,
        lambda value: tuple(dict.fromkeys(item(each) for each in value)),
    )
