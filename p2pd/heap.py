"""The heap of the C library: what lies free in it goes back to the system.

malloc gives back only what is free at the end of its heap. Here messages, records and their like
are kept for hours among buffers that live for a moment: after half an hour as much would lie free
as is in use.
"""

import ctypes

import trio

TRIM_INTERVAL = 300.0


async def keep_trimmed() -> None:
    """Give free pages back every `TRIM_INTERVAL` seconds, which takes about a millisecond.

    Ends at once where the C library has no malloc_trim(3), which is glibc's own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await trio.sleep(TRIM_INTERVAL)
        trim(0)
