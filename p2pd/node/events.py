"""What happens to a node, told once: to the log, to `p2pctl watch`, to tests.

Events are state changes (a peer connected, an interface went away), never retries.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from p2pd.ids import NodeId

# Seconds. That there are no file descriptors left shows at each attempt, but is reported only this
# often; after it, the next attempt is put off by the pause.
EXHAUSTED_TOLD_AGAIN = 600.0
EXHAUSTED_PAUSE = 0.1

FieldValue = str | int | float | bool | None


@attrs.frozen
class Event:
    """One thing that happened.

    `code` is stable and dotted (`peer.connected`); `time` is Unix seconds; `level` is one
    of the `logging` levels; `message` is the whole sentence for people; `error`, where a
    bug was caught at a peer's boundary, carries its traceback to the log.
    """

    code: str
    message: str
    time: float
    level: int = logging.INFO
    peer: NodeId | None = None
    fields: dict[str, FieldValue] = attrs.field(factory=dict)
    error: BaseException | None = None


Sink = Callable[[Event], None]


class Events:
    """Hands each event to every sink, at once and in order. Sinks must not block or raise."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._sinks: list[Sink] = []
        self._short_since = -math.inf

    @contextmanager
    def sent_to(self, sink: Sink) -> Iterator[None]:
        """Within the `with`, `sink` gets every event."""
        self._sinks.append(sink)
        try:
            yield
        finally:
            self._sinks.remove(sink)

    def emit(
        self,
        code: str,
        message: str,
        *,
        level: int = logging.INFO,
        peer: NodeId | None = None,
        error: BaseException | None = None,
        **fields: FieldValue,
    ) -> None:
        """Tell all sinks that something happened; see `Event` for the arguments."""
        event = Event(code, message, self._wall_clock(), level, peer, fields, error)
        for sink in tuple(self._sinks):
            sink(event)

    def emit_bug(
        self,
        what: str,
        error: Exception,
        peer: NodeId | None = None,
        **fields: FieldValue,
    ) -> None:
        """Report a bug in `what`, something that was done for a peer or a user."""
        text = f"a bug in {what}: {error!r}"
        self.emit("bug", text, level=logging.ERROR, peer=peer, error=error, **fields)

    def emit_exhausted(self, problem: str) -> None:
        """Tell that file descriptors or memory are used up; every ten minutes at most."""
        now = trio.current_time()
        if now - self._short_since >= EXHAUSTED_TOLD_AGAIN:
            self._short_since = now
            self.emit(
                "node.exhausted",
                f"{problem}; what is connected goes on, others wait: allow p2pd more file "
                "descriptors (LimitNOFILE=, ulimit -n), or lower connections.max_inbound",
                level=logging.ERROR,
            )
