import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pctl import render
from p2pd.control.results import PeerJson, VersionJson, WhyResultJson


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5))
def test_json_text_is_printable_and_means_the_same(document: object) -> None:
    text = render.json_text(document)
    assert text.isprintable()
    assert json.loads(text) == document


def test_json_text_leaves_letters_readable() -> None:
    assert render.json_text(["ü\x9b\x7f"]) == r'["ü\u009b\u007f"]'


@given(st.lists(st.text("01", min_size=10, max_size=10), unique=True))
def test_shortened_ids_stay_distinct(ids: list[str]) -> None:
    short = render.short_ids(ids)
    assert len(set(short.values())) == len(ids)
    assert all(full.startswith(text) for full, text in short.items())
    assert len({len(text) for text in short.values()}) <= 1


def test_ids_are_no_longer_than_needed() -> None:
    assert render.short_ids(["a" * 64, "b" * 64, None]) == {"a" * 64: "a" * 8, "b" * 64: "b" * 8}
    close = ["a" * 20 + "x" * 44, "a" * 20 + "y" * 44]
    assert [len(text) for text in render.short_ids(close).values()] == [21, 21]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3700, "1 h 1 min"),
        (3601, "1 h"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 42, "4.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, "-"),
        ("2024-01-01T00:00:00Z", "1 min 5 s ago"),
        ("2024-01-01T00:01:05+00:00", "now"),
        ("2024-01-01T00:09:00Z", "now"),
        ("2024-01-01", "2024-01-01"),
        ("\x1b", r"\x1b"),
    ],
)
def test_relative_times(time: str | None, text: str) -> None:
    assert render.ago(time, datetime(2024, 1, 1, 0, 1, 5, tzinfo=UTC)) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it() -> None:
    assert render.Style(Terminal(), {}).paint("x", "dead") == "\x1b[31mx\x1b[0m"
    assert render.Style(Terminal(), {}).paint("x", "alive") == "x"
    for stream, environment in (
        (io.StringIO(), {}),
        (Terminal(), {"NO_COLOR": "1"}),
        (Terminal(), {"TERM": "dumb"}),
    ):
        assert render.Style(stream, environment).paint("x", "dead") == "x"
    assert render.Style(Terminal(), {"NO_COLOR": ""}).paint("x", "dead") != "x"


def peer_of(name: str, last_error: str) -> PeerJson:
    return {
        "node_id": name.encode().hex().ljust(64, "0"),
        "name": name,
        "address": "192.0.2.1:41000",
        "status": "disconnected",
        "liveness": "suspect",
        "direction": None,
        "rtt_ms": None,
        "last_seen": None,
        "first_seen": "2024-01-01T00:00:00Z",
        "source": "bootstrap",
        "success_count": 1,
        "fail_count": 3,
        "last_error": last_error,
    }


def test_a_table_of_peers_fits_into_a_terminal() -> None:
    result = [
        peer_of(name, last_error="can't dial 192.0.2.1:41000: " + "no answer within 5 s, " * 3)
        for name in ("kitchen", "cellar")
    ]
    now = datetime(2024, 1, 1, tzinfo=UTC)
    whole = render.peers(result, render.Style(io.StringIO()), now)
    for columns in (200, 140, 110, 80):
        style = render.Style(Terminal(), {"COLUMNS": str(columns), "NO_COLOR": "1"})
        lines = render.peers(result, style, now).splitlines()
        assert max(map(len, lines)) <= columns
        assert lines[0].split()[:4] == ["NODE", "NAME", "ADDRESS", "STATUS"]
        assert "can't dial" in lines[1]
    assert "no answer within 5 s, no answer" in whole
    narrow = render.Style(Terminal(), {"COLUMNS": "80", "NO_COLOR": "1"})
    assert "SOURCE" not in render.peers(result, narrow, now)


def test_the_steps_of_why_stay_in_their_column_on_a_terminal() -> None:
    words = " ".join(["word"] * 30)
    result: WhyResultJson = {
        "node_id": "ab" * 32,
        "name": "bob",
        "status": "disconnected",
        "liveness": "dead",
        "summary": words,
        "steps": [
            {"time": "2026-01-01T00:00:00Z", "code": "peer.dead", "text": words},
            {"time": None, "code": "peer.last_error", "text": "short"},
        ],
    }
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    style = render.Style(Terminal(), {"COLUMNS": "72", "NO_COLOR": "1"})
    lines = render.why(result, style, now).splitlines()
    assert max(map(len, lines)) <= 72
    steps = lines[[line.startswith(" ") for line in lines].index(True) :]
    column = len("  1 min ago  peer.last_error  ")
    assert {line[column] for line in steps} == {"w", "s"}
    assert [head for line in steps if (head := line[:column].strip())] == [
        "1 min ago  peer.dead",
        "-  peer.last_error",
    ]
    in_a_pipe = render.why(result, render.Style(io.StringIO()), now).splitlines()
    assert [line.endswith(words) for line in in_a_pipe] == [True, True, False]


def test_a_value_can_not_drive_the_terminal_but_keeps_its_lines() -> None:
    shown = render.value_text(b"one\ttwo\n\x1b]0;title\x07\xff\n")
    assert shown == "one\ttwo\n\\x1b]0;title\\x07\\xff\n"


def test_a_table_of_versions_fits_into_a_terminal_and_is_whole_in_a_pipe() -> None:
    value = b"a sentence of more characters than are left in the line"
    one: VersionJson = {"version": "5" * 64, "writer": "a" * 64}
    other: VersionJson = {"version": "6" * 64, "writer": "a" * 64}
    shown = [(one, value), (other, b"short")]
    style = render.Style(Terminal(), {"COLUMNS": "80", "NO_COLOR": "1"})
    lines = render.versions(shown, style).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].endswith("short")
    assert value.decode() in render.versions(shown, render.Style(io.StringIO()))
