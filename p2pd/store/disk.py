"""Does a disk take what is written to it?"""

import errno
import os
import tempfile
from pathlib import Path

from p2pd.store.base import Disk

# More than what a full disk may still have left in blocks that already belong to files.
_PROBE_BYTES = 1 << 16
_FULL = {errno.ENOSPC, errno.EDQUOT}


def try_disk(directory: Path) -> Disk:
    """Write a little to a directory, in a file that has no name, and report what came of it."""
    refusal, full = None, False
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        refusal, full = os.strerror(error.errno or 0), error.errno in _FULL
    try:
        found = os.statvfs(directory)
        free = found.f_bavail * found.f_frsize
    except OSError as error:
        refusal, free = refusal or os.strerror(error.errno or 0), 0
    return Disk(str(directory), free, refusal, full)
