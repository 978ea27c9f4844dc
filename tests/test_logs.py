import io
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logging_journald import JournaldTransport

from p2pd.config import LogConfig
from p2pd.errors import StartError
from p2pd.ids import NodeId
from p2pd.logs import (
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    SKIPPED_TOLD_AGAIN,
    EventLog,
    log_event,
    logging_to,
    printable,
)
from p2pd.node.events import Event, Events, FieldValue

NOON = 1_700_000_000.25
PEER = NodeId(bytes(32))
HOSTILE = "\x1b[2J\r\n2025-01-01 error forged\x00\u202e\ud800"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(message: str = "hello", level: int = logging.INFO, **fields: FieldValue) -> Event:
    return Event("peer.connected", message, NOON, level, PEER, fields)


def logged(*events: Event, form: str = "console", stream: io.StringIO | None = None) -> str:
    stream = io.StringIO() if stream is None else stream
    with logging_to(LogConfig(format=form, level="debug"), "lab", stream):
        for each in events:
            log_event(each)
    return stream.getvalue()


def bug(message: str) -> Event:
    return Event("peer.bug", "a bug", NOON, logging.ERROR, error=RuntimeError(message))


class TestConsole:
    def test_a_line_has_time_level_event_and_message(self) -> None:
        line = logged(event("Ada connected"))
        assert re.fullmatch(
            r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.250[+-]\d\d:\d\d info     "
            r"peer.connected       Ada connected\n",
            line,
        )

    def test_columns_line_up(self) -> None:
        lines = logged(event("x"), event("x", logging.WARNING)).splitlines()
        assert lines[0].index("x") == lines[1].index("x")

    def test_a_message_is_no_format_string(self) -> None:
        assert logged(event("100 %s %d")).endswith("100 %s %d\n")

    def test_colour_on_a_terminal_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        warning = event(level=logging.WARNING)
        assert "\x1b[33m" in logged(warning, stream=Terminal())
        assert "\x1b" not in logged(event(), stream=Terminal())
        assert "\x1b" not in logged(warning)

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_no_colour_where_it_is_unwanted(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert "\x1b" not in logged(event(level=logging.WARNING), stream=Terminal())

    def test_text_from_outside_stays_in_its_line(self) -> None:
        text = logged(event(HOSTILE))
        assert text.count("\n") == 1
        assert text.rstrip("\n").isprintable()
        assert r"\x1b[2J\r\n2025" in text

    def test_no_line_of_a_traceback_passes_for_an_entry(self) -> None:
        first, *rest = logged(bug(HOSTILE)).splitlines()
        assert first.endswith("a bug")
        assert any("RuntimeError" in line for line in rest)
        assert all(line.startswith("    | ") and line.isprintable() for line in rest)

    def test_other_loggers_are_heard_too(self) -> None:
        stream = io.StringIO()
        with logging_to(LogConfig(), "lab", stream):
            logging.getLogger("some.library").warning("%d\n things", 2)
        assert r"some.library         2\n things" in stream.getvalue()


class TestLevel:
    def test_what_is_below_it_is_left_out(self) -> None:
        stream = io.StringIO()
        with logging_to(LogConfig(level="warning"), "lab", stream):
            log_event(event("quiet"))
            log_event(event("loud", logging.WARNING))
        assert "loud" in stream.getvalue()
        assert "quiet" not in stream.getvalue()

    def test_afterwards_all_is_as_before(self) -> None:
        root = logging.getLogger()
        before = (root.level, list(root.handlers))
        logged(event())
        assert (root.level, root.handlers) == before


class TestJson:
    def test_an_object_a_line(self) -> None:
        first, second = logged(
            event(address="[::1]:7", rtt=float("nan")), bug("x"), form="json"
        ).splitlines()
        assert json.loads(first) == {
            "time": "2023-11-14T22:13:20.250Z",
            "level": "info",
            "event": "peer.connected",
            "message": "hello",
            "instance": "lab",
            "logger": "p2pd",
            "peer": str(PEER),
            "address": "[::1]:7",
            "rtt": "nan",
        }  # fmt: skip
        assert "RuntimeError: x" in json.loads(second)["traceback"]

    def test_text_from_outside_comes_back_as_it_was(self) -> None:
        line = logged(event(HOSTILE, name=HOSTILE), form="json")
        assert line.isascii()
        assert line.rstrip("\n").isprintable()
        assert json.loads(line)["message"] == HOSTILE
        assert json.loads(line)["name"] == HOSTILE

    def test_a_field_cannot_take_the_place_of_a_common_one(self) -> None:
        assert json.loads(logged(event(time="never"), form="json"))["time"].startswith("2023-")


class TestJournal:
    @pytest.fixture
    def journal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
        path = tmp_path / "journal"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(path))
            sock.settimeout(5)
            monkeypatch.setattr(JournaldTransport, "SOCKET_PATH", path)
            yield sock

    @staticmethod
    def entry(journal: socket.socket) -> dict[str, str]:
        """Read one entry of the journal's native protocol."""
        stream = io.BytesIO(journal.recv(1 << 16))
        found = {}
        while line := stream.readline():
            name, equals, value = line.rstrip(b"\n").partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", stream.read(8))
                value = stream.read(size)
                stream.read(1)
            found[name.decode()] = value.decode()
        return found

    def test_fields_of_an_entry(self, journal: socket.socket) -> None:
        logged(event("Ada connected", address="[::1]:7", ok=True, gone=None), form="journal")
        assert self.entry(journal) == {
            "MESSAGE": "Ada connected",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "p2pd",
            "P2PD_INSTANCE": "lab",
            "LOGGER": "p2pd",
            "EVENT": "peer.connected",
            "PEER": str(PEER),
            "ADDRESS": "[::1]:7",
            "OK": "True",
        }

    @pytest.mark.parametrize(
        ("level", "priority"),
        [("CRITICAL", "2"), ("ERROR", "3"), ("WARNING", "4"), ("INFO", "6"), ("DEBUG", "7")],
    )
    def test_priorities(self, journal: socket.socket, level: str, priority: str) -> None:
        logged(event(level=logging.getLevelNamesMapping()[level]), form="journal")
        assert self.entry(journal)["PRIORITY"] == priority

    def test_text_from_outside_cannot_add_fields(self, journal: socket.socket) -> None:
        hostile = "x\nPRIORITY=0\n" + HOSTILE
        logged(event(hostile, name=hostile, priority=hostile), form="journal")
        entry = self.entry(journal)
        assert entry["PRIORITY"] == "6"
        assert entry["MESSAGE"] == entry["NAME"] == printable(hostile)

    def test_field_names_are_the_journals(self, journal: socket.socket) -> None:
        logged(Event("a", "b", NOON, fields={"_pid-1=\n": 2}), form="journal")
        assert self.entry(journal)["PID1"] == "2"

    def test_a_traceback_belongs_to_the_message(self, journal: socket.socket) -> None:
        logged(bug(HOSTILE), form="journal")
        first, *rest = self.entry(journal)["MESSAGE"].split("\n")
        assert first == "a bug"
        assert all(line.startswith("    | ") and line.isprintable() for line in rest)

    def test_auto_takes_it_where_standard_error_leads_there(
        self, journal: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (tmp_path / "stderr").open("w+") as stream:
            found = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
            with logging_to(LogConfig(), "lab", stream):
                log_event(event("to the journal"))
            assert self.entry(journal)["MESSAGE"] == "to the journal"
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
            with logging_to(LogConfig(), "lab", stream):
                log_event(event("to the stream"))
            stream.seek(0)
            assert re.fullmatch(".* to the stream\n", stream.read())

    def test_when_it_goes_away_the_message_is_not_lost(
        self, journal: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with logging_to(LogConfig(format="journal"), "lab"):
            journal.close()
            (tmp_path / "journal").unlink()
            log_event(event("still\nheard"))
        assert "still\\nheard" in capsys.readouterr().err

    def test_without_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(JournaldTransport, "SOCKET_PATH", tmp_path / "nothing")
        with pytest.raises(StartError, match="choose --log-format console"):
            logged(event(), form="journal")
        with (tmp_path / "stderr").open("w+") as stream:
            found = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
            with logging_to(LogConfig(), "lab", stream):
                log_event(event("after all"))
            stream.seek(0)
            assert "after all" in stream.read()


class TestNothingRaises:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    @pytest.mark.parametrize("form", ["console", "json"])
    def test_when_the_stream_is_broken(self, form: str) -> None:
        stream = self.Broken()
        with logging_to(LogConfig(format=form), "lab", stream):
            log_event(event())
        assert stream.getvalue() == ""

    def test_when_there_is_no_standard_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stderr", None)
        with logging_to(LogConfig(), "lab"):
            log_event(event())
            assert isinstance(logging.getLogger().handlers[-1], logging.NullHandler)

    def test_when_an_event_cannot_be_written(self) -> None:
        text = logged(Event("a", "impossible", float("inf")), event("next"))
        assert "impossible" in text
        assert text.splitlines()[-1].endswith("next")

    @given(
        st.text(),
        st.dictionaries(st.text(), st.text() | st.integers() | st.floats() | st.none()),
        st.sampled_from(["console", "json"]),
    )
    def test_for_any_event(self, message: str, fields: dict[str, FieldValue], form: str) -> None:
        text = logged(Event(message, message, NOON, fields=fields), form=form)
        assert text.count("\n") == 1
        assert "could not log" not in text
        if form == "json":
            assert json.loads(text)["message"] == message


@given(st.text())
def test_printable(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_long_text_is_cut() -> None:
    assert len(logged(event("x" * 10_000_000))) < 5000
    assert len(logged(event("x" * 10_000_000, name="y" * 10_000_000), form="json")) < 9000


def test_it_is_a_sink_for_events() -> None:
    events = Events(lambda: NOON)
    stream = io.StringIO()
    with logging_to(LogConfig(), "lab", stream), events.sent_to(log_event):
        events.emit("node.started", "up", port=1)
    assert "node.started         up" in stream.getvalue()


class TestFlood:
    """A clock that stands still until a test moves it; all lines by the code of their event."""

    @pytest.fixture(autouse=True)
    def _start(self) -> None:
        self.now = 100.0
        self.log = EventLog(lambda: self.now)

    def lines(self, *events: Event, level: str = "info") -> list[str]:
        stream = io.StringIO()
        with logging_to(LogConfig(format="json", level=level), "lab", stream):
            for each in events:
                self.log.take(each)
        return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]

    def test_who_comes_and_goes_without_end_does_not_fill_the_disk(self) -> None:
        lines = self.lines(*[event()] * (3 * LINES_AT_ONCE))
        assert lines == ["peer.connected"] * LINES_AT_ONCE + ["log.skipped"]

    def test_another_event_is_logged_all_the_same(self) -> None:
        self.lines(*[event()] * (2 * LINES_AT_ONCE))
        assert self.lines(bug("oh"), event()) == ["peer.bug"]

    def test_while_it_goes_on_some_are_logged_and_how_many_are_not(self) -> None:
        self.lines(*[event()] * (LINES_AT_ONCE + 1))
        lines: list[str] = []
        for _ in range(round(10 * SKIPPED_TOLD_AGAIN)):
            self.now += 1.0
            lines += self.lines(*[event()] * 50)
        assert lines.count("peer.connected") <= 10 * SKIPPED_TOLD_AGAIN * LINES_PER_SECOND
        assert lines.count("peer.connected") >= 9 * SKIPPED_TOLD_AGAIN * LINES_PER_SECOND
        assert lines.count("log.skipped") == 10

    def test_every_one_that_was_left_out_is_counted(self) -> None:
        stream = io.StringIO()
        with logging_to(LogConfig(format="json"), "lab", stream):
            for _ in range(LINES_AT_ONCE + 500):
                self.log.take(event())
            self.now += SKIPPED_TOLD_AGAIN
            # All is calm again.
            self.log.take(event())
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        counts = [each["count"] for each in told if each["event"] == "log.skipped"]
        assert counts == [1, 499]
        assert {each["skipped"] for each in told if "skipped" in each} == {"peer.connected"}

    def test_those_for_debugging_are_all_logged_and_take_no_room(self) -> None:
        flood = [event(level=logging.DEBUG)] * (2 * LINES_AT_ONCE)
        assert self.lines(*flood, event(), level="debug") == ["peer.connected"] * (
            2 * LINES_AT_ONCE + 1
        )
