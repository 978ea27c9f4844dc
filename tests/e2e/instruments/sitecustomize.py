"""What tests do to a daemon from within: it has this directory on its path.

`$CLOCK_SHIFT_FILE` names a file with the seconds to add to its wall clock. `$TASK_COUNT_DIR` names
a directory where it writes, to a file named by its process ID, how many Trio tasks it has whenever
it gets SIGUSR1.
"""

import os
import signal
import time
from pathlib import Path
from types import FrameType

_real = time.time


def _shifted() -> float:
    return _real() + float(Path(os.environ["CLOCK_SHIFT_FILE"]).read_text())


def _write_task_count(_: int, __: FrameType | None) -> None:
    import trio  # noqa: PLC0415 - this module is imported by every interpreter on this path

    count = trio.lowlevel.current_statistics().tasks_living
    place = Path(os.environ["TASK_COUNT_DIR"])
    written = place / f"{os.getpid()}.new"
    written.write_text(str(count))
    written.rename(place / str(os.getpid()))


if "CLOCK_SHIFT_FILE" in os.environ:
    time.time = _shifted
if "TASK_COUNT_DIR" in os.environ:
    signal.signal(signal.SIGUSR1, _write_task_count)
