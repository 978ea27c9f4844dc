"""What a connected node costs while nothing happens: CPU, memory, and disk writes."""

import tempfile
import time
from pathlib import Path

import attrs
import trio

from bench.daemons import CONNECTIONS, Daemon, daemons
from bench.figures import Effort, Figure, Promise, Spread

_MIB = 1 << 20


@attrs.frozen
class _Usage:
    """What a daemon has used up to now."""

    cpu_seconds: float
    written_bytes: int
    newest_change: float


async def idle(effort: Effort) -> list[Figure]:
    """Watch each of eleven connected nodes for a while; figures are for all of them."""
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(Path(parent), CONNECTIONS + 1, CONNECTIONS) as running,
    ):
        # What the start left to be saved (the registry, each half minute) is saved by then.
        await trio.sleep(effort.settle_seconds)
        before = [_usage(each) for each in running]
        await trio.sleep(effort.idle_seconds)
        after = [_usage(each) for each in running]
        resident = [_resident_mib(each.pid) for each in running]
    spent = list(zip(before, after, strict=True))
    per_minute = 60 / effort.idle_seconds
    cpu = [(end.cpu_seconds - start.cpu_seconds) * per_minute for start, end in spent]
    written = [end.written_bytes - start.written_bytes for start, end in spent]
    changed = [end.newest_change != start.newest_change for start, end in spent]
    with_peers = f"idle with {CONNECTIONS} peers"
    return [
        Figure(f"{with_peers}: CPU a minute", "s", Spread.of(cpu), promise=Promise(0.1)),
        Figure(f"{with_peers}: resident memory", "MiB", Spread.of(resident), promise=Promise(45)),
        Figure(f"{with_peers}: written to disk", "bytes", Spread.of(written), promise=Promise(0)),
        Figure(
            f"{with_peers}: state directory changed",
            "nodes",
            Spread.of([sum(changed)]),
            promise=Promise(0),
        ),
    ]


def _usage(daemon: Daemon) -> _Usage:
    io = dict(line.split(": ") for line in Path(f"/proc/{daemon.pid}/io").read_text().splitlines())
    files = [daemon.state, *daemon.state.iterdir()]
    return _Usage(
        cpu_seconds=cpu_seconds(daemon.pid),
        written_bytes=int(io["write_bytes"]),
        newest_change=max(each.stat().st_mtime for each in files),
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, by the clock that clock_getcpuclockid(3) makes on Linux."""
    return time.clock_gettime((~pid << 3) | 2)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / _MIB
