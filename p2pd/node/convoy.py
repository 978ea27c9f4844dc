"""Writes that are under way together leave together, so that replicas commit them together."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

# A write waits for others at most this many times as long as its own preparation took.
PATIENCE = 4.0


class Convoy:
    """Writes in preparation, and writes that wait for them; a single one waits for nobody.

    What leaves together reaches each replica in one piece, and its disk in one commit: a commit
    costs a replica more than everything else it does for a record.
    """

    def __init__(self) -> None:
        self._preparing = 0
        self._departure = trio.Event()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Within the `with`, writes that are ready wait for this one."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            if not self._preparing:
                self._depart()

    async def gather(self, preparation: float) -> None:
        """Wait until no write is in preparation, or the first that waits has waited long enough.

        `preparation` is how many seconds it took to prepare this one.
        """
        departure = self._departure
        if self._preparing:
            with trio.move_on_after(PATIENCE * preparation):
                await departure.wait()
            if not departure.is_set():
                self._depart()

    def _depart(self) -> None:
        self._departure.set()
        self._departure = trio.Event()
