"""What each command does: ask the daemon, write the answer."""

import binascii
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from p2pctl import render
from p2pctl.lab.plan import TABLES
from p2pctl.terminal import has_reader
from p2pd.control.api import MAX_LINE_BYTES, decode_data, decode_value
from p2pd.control.client import Client, default_sockets
from p2pd.errors import ConnectionLost, DialFailed, InvalidRequest, P2PError, RequestTimedOut
from p2pd.printable import escaped

if TYPE_CHECKING:
    from datetime import datetime

# As base64 in one line, with room for the rest of the request.
MAX_VALUE_BYTES: Final = MAX_LINE_BYTES * 3 // 4 - 64 * 1024

# Lines of `peers --watch` that are not repeated.
_MAX_REMEMBERED: Final = 4096


class Run:
    """One run of `p2pctl`: its options, its output and its connection to the daemon."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.style = render.Style(sys.stdout)
        self._client: Client | None = None

    def connected(self, progress: render.Progress | None = None) -> Client:
        """Return the connection, made when it is first asked for."""
        if self._client is None:
            self._client = Client(
                self._sockets(), self.options.timeout, instance=self.instance, waiting=progress
            )
        return self._client

    def call(self, method: str, **params: Any) -> Any:
        """Call a method, showing progress if it takes long."""
        with render.Progress(method) as progress:
            client = self.connected(progress)
            return client.call(method, params, self.options.timeout, progress)

    def subscribe(self, method: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield what a subscription delivers; what was missed is reported on standard error.

        Raises `BrokenPipeError` within a second or so of the reader's leaving, as it may be long
        until the next write would.
        """
        with render.Progress(method) as progress:
            notices = self.connected(progress).subscribe(
                method, params, self.options.timeout, progress, _end_without_reader
            )
        for notice in notices:
            if "missed" in notice:
                count = notice["missed"]
                message = f"{count} missed: the output was read too slowly"
                self.warn("missed", message, count=count)
            else:
                yield notice

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()

    def show(self, answer: Any, text: Callable[[Any], str]) -> None:
        """Write an answer: as it is if JSON is asked for, else as `text` puts it."""
        if self.options.json:
            self.write_json(answer)
        else:
            print(text(answer))

    def write_json(self, document: Any) -> None:
        """Write the answer as one JSON document."""
        print(render.json_text(document, indent=2 if self.style.terminal else None))

    def write_line(self, document: Any, text: str) -> None:
        """Write one item of a stream, at once: its JSON on one line, or its text."""
        print(render.json_text(document) if self.options.json else text, flush=True)

    @property
    def instance(self) -> str | None:
        """The instance that is meant; None if a socket is named instead."""
        if self.options.socket is not None:
            return None
        if self.options.instance is not None:
            return str(self.options.instance)
        return None if os.environ.get("P2PCTL_SOCKET") else "default"

    def _sockets(self) -> list[str]:
        instance = self.instance
        if instance is not None:
            return default_sockets(instance)
        return [self.options.socket or os.environ["P2PCTL_SOCKET"]]

    def warn(self, code: str, message: str, **more: Any) -> None:
        """Warn, on standard error, of what is not a failure; `more` is for programs."""
        if self.options.json:
            document = {"warning": {"code": code, "message": message, **more}}
            print(render.json_text(document), file=sys.stderr)
        else:
            print(f"p2pctl: {message}", file=sys.stderr)


def status(run: Run) -> None:
    """Show the node at a glance."""
    run.show(run.call("status"), render.status)


def peers(run: Run) -> None:
    """Show the registry, once or as it changes."""
    if run.options.watch:
        shown: dict[str, str] = {}
        for notice in run.subscribe("peers.watch", status=run.options.status):
            peer = notice["peer"]
            who, line = peer["node_id"] or peer["address"], render.peer_line(peer, run.style)
            # JSON shows more of a peer, which may have changed.
            if run.options.json or shown.get(who) != line:
                if len(shown) == _MAX_REMEMBERED:
                    shown.clear()
                shown[who] = line
                run.write_line(peer, f"{_now().astimezone():%H:%M:%S}  {line}")
        return
    alone = "no peers yet; `p2pctl doctor` says why"
    nobody = alone if run.options.status is None else f"no {run.options.status} peers"
    run.show(
        run.call("peers", status=run.options.status),
        lambda found: render.peers(found, run.style, _now()) if found else nobody,
    )


def connect(run: Run) -> None:
    """Dial now."""
    run.show(
        run.call("connect", address=run.options.address),
        lambda made: f"connected to {render.short_id(made['peer'])} at {escaped(made['address'])}",
    )


def disconnect(run: Run) -> None:
    """Close the connection to a peer."""
    run.show(
        run.call("disconnect", peer=run.options.peer),
        lambda ended: f"disconnected from {render.short_id(ended['peer'])}",
    )


def ping(run: Run) -> None:
    """Measure round trips, each shown as it comes; a lost one is null in the JSON.

    One begins `--interval` after the one before, or at once if that took longer. After Ctrl-C, too,
    those so far are summed up.

    Raises `RequestTimedOut` when all of them were lost.
    """
    times: list[float | None] = []
    peer, lost = "", None
    due = time.monotonic()
    try:
        for _ in range(run.options.count):
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + run.options.interval
            try:
                result = run.call("ping", peer=run.options.peer)
            except (RequestTimedOut, ConnectionLost, DialFailed) as error:
                # A peer that can't be reached is an error at once; after an answer it counts as
                # lost.
                if not isinstance(error, RequestTimedOut) and not peer:
                    raise
                lost = error
                times.append(None)
                line = "lost"
            else:
                peer = result["peer"]
                times += result["rtt_ms"]
                line = f"{render.short_id(peer)}: {render.milliseconds(times[-1])}"
            if not run.options.json:
                print(line, flush=True)
    except KeyboardInterrupt:
        if run.style.terminal:
            # It shows `^C` there.
            print()
        _sum_up_pings(run, peer, times)
        raise
    _sum_up_pings(run, peer, times)
    if lost is not None and not peer:
        raise lost


def _sum_up_pings(run: Run, peer: str, times: list[float | None]) -> None:
    answered = [each for each in times if each is not None]
    if run.options.json:
        if answered:
            run.write_json({"peer": peer, "rtt_ms": times})
    elif times and run.options.count > 1:
        line = f"{len(answered)} of {len(times)} answered"
        if answered:
            mean = sum(answered) / len(answered)
            line += f"; min/avg/max {min(answered):.2f}/{mean:.2f}/{max(answered):.2f} ms"
        print(line)


def echo(run: Run) -> None:
    """Send a text to a peer and back."""
    run.show(
        run.call("echo", peer=run.options.peer, text=run.options.text),
        lambda back: f"{escaped(back['text'])}  ({render.milliseconds(back['rtt_ms'])})",
    )


def put(run: Run) -> None:
    """Write a record: the argument's bytes, or those of standard input."""
    result = run.call(
        "put",
        key=run.options.key,
        value_base64=_base64(_read_bytes(run.options.value)),
        ttl=run.options.ttl,
        if_version=run.options.if_version,
        owned=run.options.owned,
    )
    run.show(result, lambda stored: render.put(stored, "stored"))


def get(run: Run) -> None:
    """Write a record's bytes as they are; with `--all` a table of its versions.

    On a terminal, what could drive it is escaped: another member wrote the value.
    """
    result = run.call(
        "get",
        key=run.options.key,
        consistency=run.options.consistency,
        owner=run.options.owner,
        all=run.options.all,
    )
    if run.options.json:
        run.write_json(result)
    elif run.options.all:
        shown = ((each, decode_value(each)) for each in result["versions"])
        print(render.versions(shown, run.style))
    else:
        value = decode_value(result)
        if run.style.terminal:
            print(render.value_text(value))
        else:
            sys.stdout.buffer.write(value)
        if more := result["siblings"]:
            sys.stdout.flush()
            others = "1 other version stands" if more == 1 else f"{more} other versions stand"
            run.warn(
                "siblings",
                f"{others} beside this one, of writers who did not see it: --all shows all; "
                "the next put replaces them",
            )


def delete(run: Run) -> None:
    """Delete a record."""
    run.show(
        run.call("delete", key=run.options.key, owned=run.options.owned),
        lambda stored: render.put(stored, "deleted"),
    )


def lookup(run: Run) -> None:
    """Show the DHT's route to a key or a node."""
    run.show(run.call("lookup", target=run.options.target), render.lookup)


def why(run: Run) -> None:
    """Show why a peer has the standing that it has."""
    run.show(
        run.call("why", peer=run.options.peer),
        lambda account: render.why(account, run.style, _now()),
    )


def publish(run: Run) -> None:
    """Send a message: the argument's bytes, or those of standard input."""
    data = _read_bytes(run.options.message)
    run.show(
        run.call("publish", topic=run.options.topic, data_base64=_base64(data)),
        lambda published: escaped(published["message_id"]),
    )


def subscribe(run: Run) -> None:
    """Show messages as they arrive, until as many have come as were asked for."""
    notices = run.subscribe("subscribe", topics=run.options.topics)
    for notice in islice(notices, run.options.count):
        message = notice["message"]
        run.write_line(message, render.message_line(message, decode_data(message)))


def watch(run: Run) -> None:
    """Show the node's events as they happen, until interrupted."""
    for notice in run.subscribe("watch"):
        run.write_line(notice["event"], render.event_line(notice["event"], run.style))


def lab(run: Run) -> None:
    """Run the lab's experiments, each table as soon as it is ready, or JSON at the end."""
    from p2pctl.lab.command import longest_wait, run_lab  # noqa: PLC0415 - start-up time
    from p2pctl.lab.group import Settings  # noqa: PLC0415 - start-up time
    from p2pctl.lab.results import document  # noqa: PLC0415 - start-up time

    options = run.options
    tables = [name for name in TABLES if name in options.tables or "all" in options.tables]
    settings = Settings(options.nodes, options.interval, options.short_interval, options.passive)
    wait = longest_wait(settings, tables)
    if wait:
        told = f"passive nodes wait for beacons, here for about {render.duration(wait)}"
        run.warn("slow", f"{told}; Ctrl-C ends it and leaves nothing behind", seconds=wait)
    report = run_lab(settings, tables, None if options.json else run.style)
    if options.json:
        run.write_json(document(report))
    if report.failed:
        raise P2PError(f"no result for {', '.join(report.failed)}: its table says why")


def stop(run: Run) -> None:
    """Ask the daemon to leave gracefully."""
    run.show(run.call("stop"), lambda _: "p2pd is leaving")


def _now() -> "datetime":
    from datetime import UTC, datetime  # noqa: PLC0415 - start-up time

    return datetime.now(UTC)


def _end_without_reader(_: float) -> None:
    if not has_reader(sys.stdout):
        raise BrokenPipeError


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _read_bytes(argument: str) -> bytes:
    if argument != "-":
        return os.fsencode(argument)
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed, and - reads from it")
    data = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    if len(data) > MAX_VALUE_BYTES:
        raise InvalidRequest(
            f"standard input holds more than {MAX_VALUE_BYTES} bytes, and no node takes as much "
            "at once: see store.max_value_bytes and gossip.max_message_bytes"
        )
    return data
