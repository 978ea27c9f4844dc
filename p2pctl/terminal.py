"""What can be asked about standard output: how wide the terminal is, whether anybody reads."""

import contextlib
import os
import select
from collections.abc import Mapping
from typing import Final, TextIO

_USUAL_COLUMNS: Final = 80


def columns(stream: TextIO, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many characters a line holds: `COLUMNS`, else what the terminal says."""
    with contextlib.suppress(ValueError):
        return max(1, int(environment.get("COLUMNS", "")))
    with contextlib.suppress(OSError, ValueError):
        # A terminal whose size was never set (a serial line, `script`) says 0.
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    return _USUAL_COLUMNS


def has_reader(stream: TextIO) -> bool:
    """Whether somebody may still read what is written; False for a pipe whose reader left."""
    with contextlib.suppress(OSError, ValueError):
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        return not asked.poll(0)  # without an event asked for, only errors are told
    return True
