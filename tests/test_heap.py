"""What lies free in the heap of the C library goes back to the system."""

import ctypes
import linecache
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pd.heap import TRIM_INTERVAL, keep_trimmed


def resident_kib() -> int:
    [line] = [
        each for each in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in each
    ]
    return int(line.split()[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
async def test_holes_among_what_is_kept_go_back(autojump_clock: MockClock) -> None:
    # Too large for the interpreter's own pools, too small for pages of their own.
    blocks = [bytes(8000) for _ in range(4000)]
    kept = blocks[::50]
    blocks.clear()
    before = resident_kib()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_trimmed)
        await trio.sleep(TRIM_INTERVAL + 1)
        assert resident_kib() < before - 20_000
        nursery.cancel_scope.cancel()
    assert kept


async def test_sources_of_generated_methods_are_not_kept(autojump_clock: MockClock) -> None:
    linecache.cache["<generated>"] = (1, None, ["x\n"], "<generated>")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_trimmed)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert "<generated>" not in linecache.cache
