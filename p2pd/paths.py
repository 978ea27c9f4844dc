"""Where a node keeps its state and its control socket.

Under systemd, the directories made for the unit; else, for root, the system's; else the
user's, by the XDG Base Directory Specification 0.8. `p2pctl` looks for the socket in the
same places.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from p2pd.errors import ConfigError, StartError

DEFAULT_INSTANCE = "default"
MAX_SOCKET_PATH = 107  # bytes: sun_path of unix(7) less its terminating zero
FALLBACK_PARENT = Path("/tmp")  # noqa: S108 - make_socket_directory checks what it finds there

_INSTANCE = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")
# The service's state directory holds those of the instances beside its own files.
_TAKEN = re.compile(r"lock|identity\.json.*|p2pd\.db.*")


def check_instance(name: str) -> str:
    """Return the name of an instance if it may be part of a path, or raise `ValueError`."""
    if not _INSTANCE.fullmatch(name):
        raise ValueError(
            f"expected 1 to 64 of A-Z a-z 0-9 _ . -, with no dot in front, not {name[:80]!a}"
        )
    if _TAKEN.fullmatch(name):
        raise ValueError(f"{name} is a file in the state directory; choose another name")
    return name


def state_directory(instance: str, environ: Mapping[str, str], uid: int) -> Path:
    """Choose the state directory of an instance; makes nothing.

    A systemd unit owns its state directory, so the instance is not part of the path there.
    Raises `ConfigError` when the user has no home directory.
    """
    if (given := _first(environ, "STATE_DIRECTORY")) is not None:
        return given
    if uid == 0:
        return Path("/var/lib/p2pd", instance)
    base = _absolute(environ, "XDG_STATE_HOME")
    if base is None:
        home = _absolute(environ, "HOME")
        if home is None:
            raise ConfigError("no home directory to keep state in: set HOME, or use --state-dir")
        base = home / ".local/state"
    return base / "p2pd" / instance


def control_socket(instance: str, environ: Mapping[str, str], uid: int) -> Path:
    """Choose the path of an instance's control socket; makes nothing."""
    name = f"{instance}.sock"
    if (given := _first(environ, "RUNTIME_DIRECTORY")) is not None:
        return given / name
    if uid == 0:
        return Path("/run/p2pd", name)
    if (runtime := _absolute(environ, "XDG_RUNTIME_DIR")) is not None:
        return runtime / "p2pd" / name
    return _shared_fallback(uid) / name


def check_socket_path(path: Path) -> Path:
    """Return a path that is short enough for a Unix socket, or raise `ConfigError`."""
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise ConfigError(
            f"control.socket: the path has {size} bytes, and a socket's may have "
            f"{MAX_SOCKET_PATH}; choose a shorter one with --control"
        )
    return path


def make_state_directory(path: Path) -> None:
    """Make the state directory, for this user alone, if it is missing.

    Raises `StartError`.
    """
    _make(path, 0o700, "state directory", "--state-dir")


def make_socket_directory(socket: Path, uid: int) -> None:
    """Make the directory of the control socket if it is missing.

    One in a place where others may write, such as /tmp, must be this user's and closed to
    all others: what somebody else put there is refused. Raises `StartError`.
    """
    directory = socket.parent
    shared = directory == _shared_fallback(uid)
    mode = 0o755 if uid == 0 and not shared else 0o700
    _make(directory, mode, "directory of the control socket", "--control")
    if not shared:
        return
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise StartError(
            f"{directory} is not a directory of this user's alone: remove it, set "
            "XDG_RUNTIME_DIR, or choose another socket with --control"
        )


def _make(path: Path, mode: int, what: str, flag: str) -> None:
    try:
        is_new = not path.exists()
        path.mkdir(mode, parents=True, exist_ok=True)
        if is_new:
            # Whatever the umask.
            path.chmod(mode)
    except OSError as error:
        is_file = isinstance(error, FileExistsError)
        reason = "it exists, and is no directory" if is_file else error.strerror
        raise StartError(
            f"can't make the {what} {path}: {reason}; choose another with {flag}"
        ) from error


def _first(environ: Mapping[str, str], name: str) -> Path | None:
    """First of the colon-separated paths that systemd hands over (systemd.exec(5))."""
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def _absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """Path in a variable; one that is not absolute counts as unset, as XDG requires."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else None


def _shared_fallback(uid: int) -> Path:
    return FALLBACK_PARENT / f"p2pd-{uid}"
