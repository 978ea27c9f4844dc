"""`p2pctl lab` itself: the experiments one after the other, with progress, and what is written."""

import sys
import time
from collections.abc import Sequence
from typing import Final

from p2pctl.lab.experiments import EXPERIMENTS
from p2pctl.lab.group import Lab, Settings, open_lab
from p2pctl.lab.namespace import NoNamespace
from p2pctl.lab.plan import TABLES
from p2pctl.lab.results import Outcome, Report
from p2pctl.lab.tables import text
from p2pctl.render import Style
from p2pctl.terminal import columns
from p2pd import __version__
from p2pd.errors import P2PError

_REDRAW_SECONDS: Final = 0.1


def run_lab(settings: Settings, tables: Sequence[str], style: Style | None) -> Report:
    """Run the experiments that `tables` names.

    Each table is printed as soon as it is ready, in `style`; None prints nothing.
    """
    progress = Progress(len(tables))
    outcomes: list[Outcome] = []
    try:
        with open_lab(settings, progress) as lab:
            for name in tables:
                progress.begin(TABLES[name].title)
                outcomes.append(_outcome(name, lab))
                progress.clear()
                if style is not None:
                    gap = "\n" if len(outcomes) > 1 else ""
                    print(gap + text(outcomes[-1], style), flush=True)
            network = "loopback" if lab.loopback.namespace is None else "namespace"
    finally:
        progress.clear()
    return Report(
        version=__version__,
        nodes=settings.nodes,
        interval_seconds=settings.interval,
        short_interval_seconds=settings.short_interval,
        passive=settings.passive,
        network=network,
        tables=tuple(outcomes),
    )


def longest_wait(settings: Settings, tables: Sequence[str]) -> float:
    """Return how many seconds passive nodes may wait for beacons, all tables together."""
    waits = sum(TABLES[name].beacon_waits for name in tables)
    return settings.interval * waits if settings.passive else 0.0


def _outcome(name: str, lab: Lab) -> Outcome:
    started = time.monotonic()
    result, left_out, failure = None, None, None
    try:
        result = EXPERIMENTS[name](lab)
    except NoNamespace as error:
        left_out = str(error)
    except (P2PError, OSError) as error:
        failure = str(error)
    return Outcome(name, round(time.monotonic() - started, 3), result, left_out, failure)


class Progress:
    """A line on standard error that says what is waited for; on terminals only."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._number = 0
        self._title = ""
        self._shown = False
        self._drawn_at = 0.0
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def begin(self, title: str) -> None:
        """Say that the next experiment begins."""
        self._number += 1
        self._title = title
        self._draw("")

    def __call__(self, what: str, elapsed: float, most: float) -> None:
        """Say what is waited for, for how long so far, and for how long at most."""
        if time.monotonic() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw(f": {elapsed:.0f} of at most {most:.0f} s, until {what}")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def _draw(self, rest: str) -> None:
        if self._terminal:
            line = f"[{self._number}/{self._count}] {self._title}{rest}"
            width = columns(sys.stderr)
            sys.stderr.write(f"\r\x1b[K{line[: width - 1]}")
            sys.stderr.flush()
            self._shown = True
            self._drawn_at = time.monotonic()
