"""The control socket as a file: made without being open to others for a moment, and removed.

Its directory is for the caller to make.
"""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2pd.errors import ConfigError, StartError

BACKLOG: Final = 64

_OTHER_SOCKET = "choose another with --control PATH, or, without that flag, --instance NAME"


@contextmanager
def listening_socket(path: Path, mode: int, group: str | None) -> Iterator[socket.socket]:
    """Listen at `path`, with `mode` and, unless None, the group named `group`.

    A socket file that nobody listens on any more is replaced. On exit the file is removed,
    unless somebody has put another in its place. Raises `ConfigError` for an unknown group,
    `StartError` for everything that the system refuses.
    """
    group_id = None if group is None else group_number(group)
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        ours = _bind(sock, path)
        try:
            if group_id is not None:
                _give_to_group(path, group_id, str(group))
            path.chmod(mode)
            sock.listen(BACKLOG)
            yield sock
        finally:
            if _identity(path) == ours:
                path.unlink()


def group_number(group: str) -> int:
    """Look up a group of this host; raises `ConfigError` if there is none of that name."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"control.group: there is no group {group!r}; make it with "
            f"`groupadd --system {group}` or name another"
        ) from None


def _remove_stale(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}; {_OTHER_SOCKET}") from error
    if not is_socket:
        raise StartError(f"{path} exists and is not a socket; remove it, or {_OTHER_SOCKET}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live daemon with a full backlog must not make this one wait.
        probe.settimeout(0)
        outcome = probe.connect_ex(os.fspath(path))
    if outcome == errno.ECONNREFUSED:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(
                f"{path}: can't remove the stale socket: {error.strerror}; {_OTHER_SOCKET}"
            ) from error
    elif outcome in {0, errno.EAGAIN, errno.EINPROGRESS}:
        raise StartError(f"{path}: another daemon is listening there; {_OTHER_SOCKET}")
    elif outcome != errno.ENOENT:
        raise StartError(f"{path}: {os.strerror(outcome)}; {_OTHER_SOCKET}")


def _bind(sock: socket.socket, path: Path) -> tuple[int, int] | None:
    """Bind `sock`; returns what tells its file from a later one at the same path."""
    # Linux makes the file with the mode of the unbound socket: nobody can open it before
    # it has the mode and group that were asked for.
    os.fchmod(sock.fileno(), 0)
    try:
        sock.bind(os.fspath(path))
    except OSError as error:
        raise StartError(
            f"{path}: can't make the control socket: {error.strerror}; {_OTHER_SOCKET}"
        ) from error
    return _identity(path)


def _give_to_group(path: Path, group_id: int, group: str) -> None:
    try:
        os.chown(path, -1, group_id)
    except OSError as error:
        raise StartError(
            f"{path}: can't give the control socket to the group {group!r}: {error.strerror}; "
            "run as root or as a member of it, or leave control.group unset"
        ) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
