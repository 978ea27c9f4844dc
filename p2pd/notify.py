"""Talks to the service manager: readiness, status and the watchdog (sd_notify(3)).

Without a service manager (no `$NOTIFY_SOCKET`) nothing happens, so callers need not check.
"""

import os
import socket
from typing import Final

SEND_TIMEOUT: Final = 5.0
"""Seconds to wait for a service manager that does not read; well below any sensible WatchdogSec."""


class Manager:
    """The service manager, where `$NOTIFY_SOCKET` names one; close it after use.

    The socket to it is open from the start: a process that runs out of file descriptors is still
    heard, and not taken for one that hangs.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace is written with "@" in place of its leading NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.settimeout(SEND_TIMEOUT)

    def close(self) -> None:
        """Close the socket to it."""
        if self._socket is not None:
            self._socket.close()

    def tell(self, *lines: str) -> None:
        """Tell it `lines`, such as `READY=1`, `STATUS=...`, in one datagram.

        It blocks only while the manager's queue is full. Raises ValueError for a line break
        inside a line (it would smuggle in another assignment), OSError if the manager can't
        be reached.
        """
        for line in lines:
            if "\n" in line:
                raise ValueError(f"a notification of one line holds a line break: {line!r}")
        if self._socket is not None:
            self._socket.sendto("\n".join(lines).encode(), self._address)


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`, half of what the manager allows, or None for no watchdog.

    None also when the watchdog is meant for another process (`$WATCHDOG_PID`), or when the
    variables are not the positive numbers that sd_watchdog_enabled(3) promises.
    """
    period = _positive(os.environ.get("WATCHDOG_USEC", ""))
    if period is None:
        return None
    if "WATCHDOG_PID" in os.environ and _positive(os.environ["WATCHDOG_PID"]) != os.getpid():
        return None
    return period / 1e6 / 2


def _positive(text: str) -> int | None:
    """The positive decimal number in `text`, or None."""
    if not (text.isascii() and text.isdecimal()):
        return None
    return int(text) or None
