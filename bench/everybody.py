"""What all must know, with twenty daemons: a message to everybody, and half of them killed."""

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from bench.daemons import Daemon, daemons
from bench.figures import Effort, Figure, Promise, Spread

SIZE = 20
# So many connections each, as `connections.target` says by default.
CONNECTIONS = 6
MESSAGES_PER_ROUND = 10
_TOPIC = "bench"
_WARM_UP = 20
_DEADLINE = 60.0


async def everybody(effort: Effort) -> list[Figure]:
    """Measure from publishing to the last of twenty, and from a kill to the last who knows."""
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(Path(parent), SIZE, CONNECTIONS, target=CONNECTIONS) as running,
    ):
        spread = _publish(running, effort.rounds * MESSAGES_PER_ROUND)
    figures = [
        Figure(f"message to all of {SIZE}", "ms", Spread.of(spread), promise=None),
    ]
    rounds = max(effort.rounds * 2 // 3, 1)
    for name, count in (("one", 1), ("half", SIZE // 2)):
        found = [_kill(count) for _ in range(rounds)]
        title = f"{name} of {SIZE} killed: all survivors list all dead"
        figures.append(Figure(title, "s", Spread.of(found), promise=Promise(3)))
    return figures


def _publish(running: list[Daemon], count: int) -> list[float]:
    """Publish from each in turn; returns the milliseconds until the last one had each."""
    found: list[float] = []
    with ExitStack() as stack:
        streams = [stack.enter_context(_subscribed(each)) for each in running]
        for number in range(_WARM_UP + count):
            origin = running[number % len(running)]
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(origin.socket)
                params = {"topic": _TOPIC, "data": str(number)}
                call = {"jsonrpc": "2.0", "id": 1, "method": "publish", "params": params}
                began = time.perf_counter()
                sock.sendall(json.dumps(call).encode() + b"\n")
                for stream in streams:
                    notice = json.loads(stream.readline())
                    if notice["params"].get("message", {}).get("data") != str(number):
                        raise RuntimeError(f"not message {number}: {notice}")
                found.append((time.perf_counter() - began) * 1000)
    return found[_WARM_UP:]


@contextmanager
def _subscribed(daemon: Daemon) -> Iterator[IO[bytes]]:
    """Within the `with`, read what comes on the topic, line by line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_DEADLINE)
        sock.connect(daemon.socket)
        call = {"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": {"topics": [_TOPIC]}}
        sock.sendall(json.dumps(call).encode() + b"\n")
        stream = sock.makefile("rb")
        answer = json.loads(stream.readline())
        if "result" not in answer:
            raise RuntimeError(f"subscribe: {answer}")
        yield stream


def _kill(count: int) -> float:
    """Kill so many of a fresh network; returns the seconds until all others hold them dead.

    Raises `RuntimeError` where somebody else is held dead, too.
    """
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(Path(parent), SIZE, CONNECTIONS, target=CONNECTIONS) as running,
    ):
        survivors, victims = running[count:], running[:count]
        dead = {each.status()["node_id"] for each in victims}
        _wait(survivors, dead, "alive", "unknown")
        began = time.perf_counter()
        for each in victims:
            os.kill(each.pid, signal.SIGKILL)
        _wait(survivors, dead, "dead")
        took = time.perf_counter() - began
        for survivor in survivors:
            if set(_seen(survivor, "dead")) - dead:
                raise RuntimeError(f"{survivor.name} holds somebody dead who is not")
    return took


def _wait(survivors: list[Daemon], nodes: set[str], *liveness: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    for survivor in survivors:
        while not nodes <= set(_seen(survivor, *liveness)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{survivor.name} does not hold all of them {liveness[0]}")
            time.sleep(0.02)


def _seen(daemon: Daemon, *liveness: str) -> list[str]:
    peers: list[dict[str, Any]] = daemon.call("peers")
    return [each["node_id"] for each in peers if each["liveness"] in liveness]
