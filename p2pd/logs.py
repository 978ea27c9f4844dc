"""Where the log goes, and how it looks: the console, JSON lines, or the journal.

The standard library's logging, because structlog would cost a node 7 MiB of memory and
33 ms at start for the same three formats.
"""

import io
import json
import logging
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TextIO

from p2pd.config import LogConfig
from p2pd.core.budget import Budgets
from p2pd.errors import StartError
from p2pd.node.events import Event, FieldValue
from p2pd.printable import escaped

MAX_TEXT = 4096  # characters of one message or field
# Lines of one event, in a row and per second from then on; a quarter of an hour without any brings
# all of them back. Whoever connects and leaves without end would fill the disk. What goes on is
# told once in `SKIPPED_TOLD_AGAIN` seconds.
LINES_AT_ONCE = 1000
LINES_PER_SECOND = 1.0
SKIPPED_TOLD_AGAIN = 60.0
MAX_CODES = 256

_EVENT_WIDTH = 20  # columns; longer codes push their message to the right
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31"}
_NOT_IN_FIELD_NAMES = re.compile(r"[^A-Z0-9_]|^[_0-9]+")

_logger = logging.getLogger("p2pd")


def log_event(event: Event) -> None:
    """Write an event to the log. Never raises."""
    _logger.log(event.level, event.message, exc_info=event.error, extra={"event": event})


class EventLog:
    """Writes events to the log; `take` is a sink for `Events` and never raises.

    An event that comes too often is left out, and how many were is told. Those for debugging are
    bounded only by the log's level. `clock` tells monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines = Budgets[str](MAX_CODES, LINES_AT_ONCE, LINES_PER_SECOND)
        self._skipped = Counter[str]()
        self._told_at: dict[str, float] = {}

    def take(self, event: Event) -> None:
        """Write an event, or count it."""
        now, code = self._clock(), event.code
        if event.level <= logging.DEBUG or self._lines.spend(code, 1, now):
            log_event(event)
        else:
            self._skipped[code] += 1
        # Also with the first one after a flood that was over sooner.
        told_again_at = self._told_at.get(code, -math.inf) + SKIPPED_TOLD_AGAIN
        if self._skipped[code] and now >= told_again_at:
            self._told_at[code] = now
            self._tell("log.skipped", event, self._skipped.pop(code))

    def _tell(self, code: str, event: Event, count: int) -> None:
        text = (
            f"{event.code} comes too often: {count} left out of the log; from now on it has "
            f"{LINES_PER_SECOND:g} a second, and the number of the others once in "
            f"{SKIPPED_TOLD_AGAIN:g} s"
        )
        fields: dict[str, FieldValue] = {"skipped": event.code, "count": count}
        log_event(Event(code, text, event.time, logging.WARNING, fields=fields))


def set_level(level: str) -> None:
    """Log from this level on: `debug`, `info`, `warning` or `error`."""
    logging.getLogger().setLevel(level.upper())


@contextmanager
def logging_to(config: LogConfig, instance: str, stream: TextIO | None = None) -> Iterator[None]:
    """Within the `with`, all logging of this process goes where `config` says.

    `stream` is standard error unless given. Raises `StartError` when the journal was asked
    for and is not there.
    """
    handler = _handler(config.format, instance, sys.stderr if stream is None else stream)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    set_level(config.level)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def printable(text: str) -> str:
    """Make text from outside harmless: no control characters, no newlines, not too long."""
    return escaped(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "...")


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, event, and the sentence; fields stay for the other formats."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback indented below it."""
        time = datetime.fromtimestamp(_time(record), UTC).astimezone()
        level = record.levelname.lower()
        subject = f"{_code(record) or record.name:<{_EVENT_WIDTH}}"
        line = (
            f"{time.isoformat(' ', 'milliseconds')} {level:<8} "
            f"{printable(subject)} {printable(record.getMessage())}"
        )
        if self._colour and level in _COLOURS:
            line = f"\x1b[{_COLOURS[level]}m{line}\x1b[0m"
        return line + _traceback(record)


class JsonFormatter(logging.Formatter):
    """For programs: one object a line; an event's own fields stand beside the common ones."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: ASCII only, so that nothing in it can end it or steer a terminal."""
        time = datetime.fromtimestamp(_time(record), UTC)
        line: dict[str, FieldValue] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": _code(record),
            "message": record.getMessage()[:MAX_TEXT],
            "instance": self._instance,
            "logger": record.name,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_fields(record) | line)


class JournalHandler(logging.Handler):
    """To the journal, with the event's fields as fields of the entry (`EVENT=`, `PEER=`)."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        from logging_journald import JournaldTransport  # noqa: PLC0415 - 14 ms, for the journal only

        self._instance = instance
        # Unconnected, as in libsystemd: when journald restarts, it makes a new socket.
        self._transport = JournaldTransport(connected=False)
        self.is_there = self._transport.socket_path.is_socket()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; if that fails, its line goes to standard error."""
        try:
            self._transport.send(self._entry(record).items())
        except Exception:  # noqa: BLE001 - logging must not bring down what it reports on
            self.handleError(record)

    def close(self) -> None:
        """Close the journal's socket."""
        self._transport.socket.close()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write the line to standard error instead."""
        _last_resort(record, sys.stderr)

    def _entry(self, record: logging.LogRecord) -> dict[str, str]:
        own = {
            _NOT_IN_FIELD_NAMES.sub("", name.upper())[:64]: printable(str(value))
            for name, value in _fields(record).items()
            if value is not None
        }
        common = {
            "MESSAGE": printable(record.getMessage()) + _traceback(record),
            "PRIORITY": str(_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": "p2pd",
            "P2PD_INSTANCE": self._instance,
            "LOGGER": record.name,
        }
        code = _code(record)
        return own | common | ({"EVENT": printable(code)} if code else {})


class _StreamHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        _last_resort(record, self.stream)


def _handler(wanted: str, instance: str, stream: TextIO | None) -> logging.Handler:
    if wanted == "journal" or (wanted == "auto" and _is_journal(stream, os.environ)):
        journal = JournalHandler(instance)
        if journal.is_there:
            return journal
        journal.close()
        if wanted == "journal":
            raise StartError("no journal to log to here; choose --log-format console or json")
    if stream is None:  # the process was started with standard error closed
        return logging.NullHandler()
    handler = _StreamHandler(stream)
    if wanted == "json":
        handler.setFormatter(JsonFormatter(instance))
    else:
        handler.setFormatter(ConsoleFormatter(colour=_wants_colour(stream, os.environ)))
    return handler


def _is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the one that systemd connected to the journal (systemd.exec(5))."""
    if stream is None:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, io.UnsupportedOperation):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _event(record: logging.LogRecord) -> Event | None:
    event = getattr(record, "event", None)
    return event if isinstance(event, Event) else None


def _code(record: logging.LogRecord) -> str | None:
    event = _event(record)
    return None if event is None else event.code


def _time(record: logging.LogRecord) -> float:
    event = _event(record)
    return record.created if event is None else event.time


def _fields(record: logging.LogRecord) -> dict[str, FieldValue]:
    event = _event(record)
    if event is None:
        return {}
    fields = {name: _finite(value) for name, value in event.fields.items()}
    return fields if event.peer is None else {**fields, "peer": str(event.peer)}


def _finite(value: FieldValue) -> FieldValue:
    """Turn NaN and infinities, which JSON lacks, into text, and cut long text."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _priority(level: int) -> int:
    """Syslog's number (RFC 5424, table 2) for a level of `logging`."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for least, priority in steps if level >= least), 7)


def _traceback(record: logging.LogRecord) -> str:
    """Lines below the message, each marked so that none can pass for an entry of its own."""
    if not record.exc_info:
        return ""
    text = logging.Formatter().formatException(record.exc_info)
    return "".join(f"\n    | {printable(line)}" for line in text.split("\n"))


def _last_resort(record: logging.LogRecord, stream: TextIO) -> None:
    with suppress(AttributeError, OSError, ValueError):
        stream.write(f"p2pd: could not log this properly: {printable(str(record.msg))}\n")
