"""Returns memory that is not needed to the system.

malloc gives back only what is free at the end of its heap. Here messages, records and the like
are kept for hours among short-lived buffers: after half an hour, as much memory would be free
as in use.
"""

import ctypes
import linecache

import trio

TRIM_INTERVAL = 60.0


async def keep_trimmed() -> None:
    """Forget what was kept for tracebacks only, then return free pages every `TRIM_INTERVAL`.

    That takes about a millisecond. Ends at once if the C library has no malloc_trim(3), which only
    glibc has.
    """
    # attrs keeps the source of all methods that it makes there: 0.7 MiB.
    linecache.clearcache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await trio.sleep(TRIM_INTERVAL)
        trim(0)
