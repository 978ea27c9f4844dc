"""Turns answers into text for people, and documents into JSON that is safe to show.

Much of what is shown comes from peers, who may be hostile: every text passes `escaped`, so
that nobody's name can move the cursor or rewrite a line. Times are relative. Node IDs have 12
digits in a sentence, 8 in a table (more if else two of it looked alike), and all in `status`.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from p2pctl.terminal import columns
from p2pd.printable import escaped

if TYPE_CHECKING:
    from datetime import datetime

    from p2pd.control import results

_COLOURS: Final[Mapping[str, str]] = {
    "ok": "32",
    "problem": "31",
    "connected": "32",
    "attempted": "33",
    "disconnected": "2",
    "suspect": "33",
    "dead": "31",
    "warning": "33",
    "error": "31",
    "critical": "31",
    "heading": "1",
}

MIN_ID_DIGITS: Final = 8
_SENTENCE_ID_DIGITS: Final = 12
_BAR: Final = "|/-\\"
_PREVIEW_BYTES: Final = 60
_ABSENT: Final = "-"
_LEVEL_WIDTH: Final = len("problem") + 2
_CHECK_WIDTH: Final = len("bootstrap") + 2
_GAP: Final = 2
# The last column of a table is cut down to this width before other columns are left out.
_LEAST_OF_LAST: Final = 20
# What `peers` leaves out first if a terminal is too narrow.
_LEAST_OF_PEERS: Final = ("SOURCE", "DIRECTION", "SEEN", "RTT")


class Style:
    """How to write to `stream`: in colour on a terminal, unless NO_COLOR or TERM say no.

    `width` is how many characters a line of the terminal holds, None if `stream` is not one.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self.terminal = stream.isatty()
        self.width = columns(stream, environment) if self.terminal else None
        self.colour = (
            self.terminal
            and not environment.get("NO_COLOR")
            and environment.get("TERM", "") != "dumb"
        )

    def paint(self, text: str, meaning: str) -> str:
        """Colour `text` by what it means (`connected`, `warning`, ...), if that has a colour."""
        code = _COLOURS.get(meaning)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code is not None else text


class Progress:
    """A line on standard error while something takes more than a second; terminals only."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = False
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, elapsed: float) -> None:
        """Show that `elapsed` seconds have passed."""
        if self._terminal and elapsed >= 1:
            bar = _BAR[int(elapsed * 10) % len(_BAR)]
            sys.stderr.write(f"\r\x1b[K{bar} {self._what}: {elapsed:.0f} s")
            sys.stderr.flush()
            self._shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def value_text(value: bytes) -> str:
    """Return a record's bytes as lines of text; what could drive a terminal is escaped."""
    lines = value.decode(errors="backslashreplace").split("\n")
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in lines)


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return a document as JSON, with everything not printable escaped, also C1 controls."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
    )


def short_ids(ids: Iterable[str | None]) -> dict[str, str]:
    """Shorten node IDs, all to one length at which those given stay distinct."""
    distinct = {each for each in ids if each is not None}
    longest = max((len(each) for each in distinct), default=0)
    length = MIN_ID_DIGITS
    while length < longest and len({each[:length] for each in distinct}) < len(distinct):
        length += 1
    return {each: escaped(each[:length]) for each in distinct}


def short_id(node_id: str) -> str:
    """Shorten a node ID as the daemon's own sentences do."""
    return escaped(node_id[:_SENTENCE_ID_DIGITS])


def duration(seconds: float) -> str:
    """Format a time span in its two largest units: `3 d 4 h`, `42 s`."""
    whole = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, whole = divmod(whole, size)
        parts.append((count, name))
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count) or "0 s"


def size(count: int) -> str:
    """Format a number of bytes in the largest fitting unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def ago(time: str | None, now: "datetime") -> str:
    """Say how long before `now` an RFC 3339 time is."""
    if time is None:
        return _ABSENT
    from datetime import datetime  # noqa: PLC0415 - start-up time

    try:
        seconds = (now - datetime.fromisoformat(time)).total_seconds()
    except (ValueError, TypeError):
        return escaped(time)
    return f"{duration(seconds)} ago" if seconds >= 1 else "now"


def milliseconds(value: float | None) -> str:
    """Format a round-trip time."""
    return _ABSENT if value is None else f"{value:.2f} ms"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns."""
    from tabulate import tabulate  # noqa: PLC0415 - start-up time

    text = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


def status(result: "results.StatusResult") -> str:
    """Show `status`."""
    peers, store, gossip = result["peers"], result["store"], result["gossip"]
    counts = ", ".join(f"{count} {name}" for name, count in peers.items())
    if peers["connected"] == 0:
        counts += "; `p2pctl doctor` says why"
    noun = "record" if store["records"] == 1 else "records"
    messages = ", ".join(
        f"{count} duplicate" if (name, count) == ("duplicates", 1) else f"{count} {name}"
        for name, count in gossip.items()
    )
    lines = [
        ("node", result["node_id"]),
        ("name", result["name"]),
        ("instance", result["instance"]),
        ("version", f"{result['version']} (protocol {result['protocol']})"),
        ("network", result["network"]),
        ("uptime", f"{duration(result['uptime_seconds'])} (pid {result['pid']})"),
        ("listen", ", ".join(result["listen"])),
        ("addresses", ", ".join(result["addresses"])),
        ("roles", ", ".join(result["roles"])),
        ("peers", counts),
        ("store", f"{store['records']} {noun}, {size(store['bytes'])}"),
        ("gossip", messages),
    ]
    return "\n".join(f"{name:<11}{escaped(value) or _ABSENT}" for name, value in lines)


def peers(result: "list[results.PeerJson]", style: Style, now: "datetime") -> str:
    """Show `peers`: the connected ones first, then by name."""
    order = {"connected": 0, "attempted": 1, "disconnected": 2}
    ids = short_ids(peer["node_id"] for peer in result)
    rows: Sequence[Sequence[str]] = [
        (
            _ABSENT if peer["node_id"] is None else ids[peer["node_id"]],
            escaped(peer["name"] or _ABSENT),
            escaped(peer["address"] or _ABSENT),
            escaped(peer["status"]),
            escaped(peer["liveness"]),
            escaped(peer["direction"] or _ABSENT),
            milliseconds(peer["rtt_ms"]),
            ago(peer["last_seen"], now),
            escaped(peer["source"]),
            escaped(peer["last_error"] or _ABSENT),
        )
        for peer in sorted(
            result, key=lambda each: (order.get(each["status"], 3), each["name"] or "")
        )
    ]
    headers: Sequence[str] = (
        "NODE", "NAME", "ADDRESS", "STATUS", "LIVENESS", "DIRECTION", "RTT", "SEEN", "SOURCE",
        "LAST ERROR",
    )  # fmt: skip
    if style.width is not None:
        headers, rows = _fitted(headers, rows, style.width, _LEAST_OF_PEERS)
    painted = [headers.index("STATUS"), headers.index("LIVENESS")]
    return table(
        headers,
        [
            [style.paint(each, each) if at in painted else each for at, each in enumerate(row)]
            for row in rows
        ],
    )


def _fitted(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, least: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Cut the last column of a table, and leave out the `least`, until it fits into `width`."""
    # tabulate leaves this gap after a column, and another one after its header.
    widths = [
        max(len(header) + _GAP, *map(len, cells)) + _GAP
        for header, *cells in zip(headers, *rows, strict=True)
    ]
    kept, last = list(range(len(headers) - 1)), len(headers) - 1
    wanted = min(widths[last] - _GAP, _LEAST_OF_LAST)
    for each in least:
        if sum(widths[at] for at in kept) + wanted <= width:
            break
        kept.remove(headers.index(each))
    room = max(width - sum(widths[at] for at in kept), len(headers[last]))
    return [headers[at] for at in (*kept, last)], [
        [*(row[at] for at in kept), _cut(row[last], room)] for row in rows
    ]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def peer_line(peer: "results.PeerJson", style: Style) -> str:
    """Show one changed peer of `peers --watch`."""
    node = (peer["node_id"] or _ABSENT)[:MIN_ID_DIGITS]
    shown = style.paint(f"{escaped(peer['status']):<12}", peer["status"])
    alive = style.paint(f"{escaped(peer['liveness']):<8}", peer["liveness"])
    name = escaped(peer["name"] or _ABSENT)
    address = escaped(peer["address"] or _ABSENT)
    line = f"{escaped(node):<8}  {shown}  {alive}  {address:<24}  {name:<16}"
    return f"{line}  {escaped(peer['last_error'] or '')}".rstrip()


def event_line(event: "results.EventJson", style: Style) -> str:
    """Show one event of `watch`, with its local time."""
    code = style.paint(f"{escaped(event['code']):<24}", event["level"])
    return f"{_clock(event['time'])}  {code}  {escaped(event['message'])}"


def message_line(message: "results.MessageJson", data: bytes) -> str:
    """Show one message of `subscribe`, with the local time at which it was published.

    `data` holds its bytes, shown whole except for one newline at the end.
    """
    origin = escaped(message["origin_name"] or short_id(message["origin"]))
    text = escaped(data.removesuffix(b"\n").decode(errors="backslashreplace"))
    time, topic = _clock(message["published_at"]), escaped(message["topic"])
    return f"{time}  {topic:<16}  {origin:<16}  {text}"


def why(result: "results.WhyResultJson", style: Style, now: "datetime") -> str:
    """Show `why`: the sentence, then each step with its relative time and its code."""
    steps = [(ago(step["time"], now), escaped(step["code"]), step) for step in result["steps"]]
    time_width = max((len(time) for time, _, _ in steps), default=0)
    code_width = max((len(code) for _, code, _ in steps), default=0)
    lines = [style.paint(_wrapped(escaped(result["summary"]), "", style), result["liveness"])]
    for time, code, step in steps:
        head = f"  {time:>{time_width}}  {code:<{code_width}}  "
        lines.append(head + _wrapped(escaped(step["text"]), " " * len(head), style))
    return "\n".join(lines)


def findings(found: "Sequence[results.FindingJson]", style: Style) -> str:
    """Show `doctor`: a line for each finding, its remedy below it, and a summary."""
    indent = " " * (_LEVEL_WIDTH + _CHECK_WIDTH)
    lines = []
    for each in found:
        level = style.paint(f"{escaped(each['level']):<{_LEVEL_WIDTH}}", each["level"])
        head = f"{level}{escaped(each['check']):<{_CHECK_WIDTH}}"
        lines.append(head + _wrapped(escaped(each["text"]), indent, style))
        if each["remedy"] is not None:
            remedy = _wrapped(f"-> {escaped(each['remedy'])}", indent + "   ", style)
            lines.append(indent + remedy)
    counts = [
        f"{count} {level}{'' if count == 1 else 's'}"
        for level in ("problem", "warning")
        if (count := sum(each["level"] == level for each in found))
    ]
    return "\n".join((*lines, "", ", ".join(counts) or "all is well"))


def _wrapped(text: str, indent: str, style: Style) -> str:
    """Break a line at the edge of a terminal; `indent` is where the next ones begin."""
    if style.width is None:
        return text
    import textwrap  # noqa: PLC0415 - start-up time

    width = max(style.width, len(indent) + 30)
    lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def put(result: "results.PutResultJson", done: str) -> str:
    """Show `put` and `delete`; `done` is what was done."""
    replicas = result["replicas"]
    return (
        f"{done} {escaped(result['key'])} on {replicas['stored']} of {replicas['wanted']} replicas "
        f"(quorum {replicas['quorum']}), version {escaped(result['version'])}"
    )


def versions(entries: "Iterable[tuple[results.VersionJson, bytes]]", style: Style) -> str:
    """Show `get --all`: each version with its bytes, the winner first."""
    listed = list(entries)
    writers = short_ids(entry["writer"] for entry, _ in listed)
    headers: Sequence[str] = ("VERSION", "WRITER", "SIZE", "VALUE")
    rows: Sequence[Sequence[str]] = [
        (escaped(entry["version"]), writers[entry["writer"]], size(len(value)), _preview(value))
        for entry, value in listed
    ]
    if style.width is not None:
        headers, rows = _fitted(headers, rows, style.width, ("SIZE", "WRITER"))
    return table(headers, rows)


def lookup(result: "results.LookupResultJson") -> str:
    """Show `lookup`: the route, then where it ended."""
    every = [hop["node_id"] for hop in result["hops"]]
    every += [node["node_id"] for node in result["found"]]
    ids = short_ids(every)
    hops = [
        (
            str(hop["depth"]),
            ids[hop["node_id"]],
            milliseconds(hop["rtt_ms"]),
            escaped(hop["outcome"]),
        )
        for hop in result["hops"]
    ]
    found = [
        (ids[node["node_id"]], escaped(node["address"]), str(node["distance_bits"]))
        for node in result["found"]
    ]
    queries = "1 query" if len(hops) == 1 else f"{len(hops)} queries"
    # A daemon of an earlier release does not say.
    reached = {
        True: ": it answers",
        False: ": no answer from it, and these are the closest that answer",
        None: "",
    }[result.get("reached")]
    asked = f"{queries} in {milliseconds(result['elapsed_ms'])}"
    lines = [f"target {escaped(result['target'])}, {asked}{reached}"]
    if hops:
        lines += ["", table(("DEPTH", "NODE", "RTT", "OUTCOME"), hops)]
    lines += ["", table(("CLOSEST", "ADDRESS", "DISTANCE BITS"), found)]
    return "\n".join(lines)


def _clock(time: str) -> str:
    """Return the local time of day of an RFC 3339 time."""
    from datetime import datetime  # noqa: PLC0415 - start-up time

    try:
        return f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError):
        return escaped(time)


def _preview(value: bytes) -> str:
    text = escaped(value[:_PREVIEW_BYTES].decode(errors="backslashreplace"))
    return text if len(value) <= _PREVIEW_BYTES else f"{text}..."
