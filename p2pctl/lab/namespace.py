"""Networks that nobody else is on: Linux network namespaces.

They have no names: each ends by itself with the last process or descriptor that holds it.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from p2pd.errors import P2PError

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_COMMAND_SECONDS: Final = 10
_libc: Final = ctypes.CDLL(None, use_errno=True)


class NoNamespace(P2PError):
    """No network namespace, or none of this kind, can be made here; the message says why."""


class Namespace:
    """A network namespace in which only the loopback is up.

    Raises `NoNamespace` if this process may not make one, or iproute2 is missing.
    """

    def __init__(self) -> None:
        before = _network_of_this_thread()
        try:
            # Who is root only in a user namespace may make one, but not enter the old one again.
            _enter(before)
            _checked(_libc.unshare(_CLONE_NEWNET))
            self._descriptor = _network_of_this_thread()
            _enter(before)
        except OSError as error:
            raise NoNamespace(
                f"a network namespace needs root (sudo, or unshare -Urn): {error.strerror}"
            ) from None
        finally:
            os.close(before)
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the namespace end with its last process."""
        os.close(self._descriptor)

    @property
    def path(self) -> str:
        """What ip(8) accepts as the name of the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Within the `with`, sockets and processes of this thread are made in the namespace."""
        before = _network_of_this_thread()
        _enter(self._descriptor)
        try:
            yield
        finally:
            _enter(before)
            os.close(before)

    def ip(self, *arguments: str) -> None:
        """Run iproute2's `ip` in the namespace; raises `NoNamespace`."""
        try:
            with self.inside():
                subprocess.run(  # noqa: S603 - no shell, and no words from outside
                    ["ip", *arguments],  # noqa: S607 - /sbin or /usr/sbin
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=_COMMAND_SECONDS,
                )
        except FileNotFoundError:
            raise NoNamespace("ip is not installed: install iproute2") from None
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip() or f"exit {error.returncode}"
            raise NoNamespace(f"`ip {' '.join(arguments)}`: {said}") from None


def _network_of_this_thread() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _enter(descriptor: int) -> None:
    _checked(_libc.setns(descriptor, _CLONE_NEWNET))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
