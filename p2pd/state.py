"""The state directory: who owns it, and the identity kept in it."""

import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p2pd.errors import ConfigError, StartError
from p2pd.wire.identity import Identity, work

IDENTITY_FILE = "identity.json"
DATABASE_FILE = "p2pd.db"
_LOCK_FILE = "lock"
_MIN_NETWORK_KEY = 32
_MAX_NETWORK_KEY = 4096


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Own a state directory within the `with`; raises `StartError` if another p2pd does.

    The kernel drops the lock when the process ends, so a crash leaves nothing behind.
    """
    try:
        # A link that somebody else put there must not make this write to its target.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        lock = os.fdopen(os.open(directory / _LOCK_FILE, flags, 0o666), "a+b", buffering=0)
    except OSError as error:
        raise StartError(
            f"can't write to the state directory {directory}: {error.strerror}; "
            "make it writable, or choose another with --state-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = (lock.read(20) or b"").decode(errors="replace").strip()
            raise StartError(
                f"another p2pd (process {owner or 'unknown'}) uses the state "
                f"directory {directory}: stop it, or choose another with --state-dir DIR, or, "
                "without that flag, --instance NAME"
            ) from None
        # Only that message needs the process ID: on a full disk it may be missing.
        with suppress(OSError):
            lock.truncate(0)
            lock.write(b"%d\n" % os.getpid())
        yield


def load_identity(directory: Path, difficulty: int) -> Identity:
    """Return this node's identity; mint one at the first start.

    An old identity that proves less work than `difficulty` gets a new nonce; its node ID
    stays. Raises `StartError` for a file that can't be read or written: a new identity
    would make this another node, which is for the user to decide.
    """
    path = directory / IDENTITY_FILE
    try:
        stored = json.loads(path.read_bytes())
        identity = Identity(bytes.fromhex(stored["private_key"]), _nonce(stored["nonce"]))
    except FileNotFoundError:
        identity = Identity.mint(os.urandom(32), difficulty)
        _save(path, identity)
    except OSError as error:
        raise StartError(
            f"can't read the identity file {path}: {error.strerror}; "
            "it must belong to the user that runs p2pd"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StartError(
            f"the identity file {path} is damaged: put a backup back, or move the file away "
            "and start again as a new node"
        ) from None
    if work(identity.public_key, identity.nonce) < difficulty:
        identity = Identity.mint(identity.private_key, difficulty)
        _save(path, identity)
    return identity


def load_network_key(file: str) -> bytes:
    """Read the key of a private network; empty for none. Raises `ConfigError`."""
    if not file:
        return b""
    try:
        with Path(file).open("rb") as stream:
            key = stream.read(_MAX_NETWORK_KEY + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"node.network_key_file: can't read {file}: {error.strerror}; correct the path, or let "
            "the user that runs p2pd read it"
        ) from None
    if len(key) > _MAX_NETWORK_KEY:
        raise ConfigError(
            f"node.network_key_file: {file} holds more than {_MAX_NETWORK_KEY} bytes: is it a key?"
        )
    if len(key) < _MIN_NETWORK_KEY:
        raise ConfigError(
            f"node.network_key_file: {file} holds {len(key)} bytes, a key has at least "
            f"{_MIN_NETWORK_KEY}; "
            f"make one with: (umask 077; head -c 32 /dev/urandom | base64 > {file})"
        )
    return key


def is_readable_by_all(file: str) -> bool:
    """Whether any user of this host may read a file, as far as its own mode says."""
    return bool(_mode(Path(file)) & stat.S_IROTH)


def is_identity_exposed(state_dir: Path) -> bool:
    """Whether other users may read the private key, or put another one in its place."""
    directory, key = _mode(state_dir), _mode(state_dir / IDENTITY_FILE)
    others = stat.S_IRWXG | stat.S_IRWXO
    may_replace = directory & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(directory & others and (may_replace or key & others))


def _mode(path: Path) -> int:
    """Return the permissions of a file; none where they can't be told."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def _nonce(stored: object) -> int:
    """Return what `json` read if it is a nonce, or raise `ValueError`."""
    if type(stored) is not int or not 0 <= stored < 1 << 64:
        raise ValueError("no nonce")
    return stored


def _save(path: Path, identity: Identity) -> None:
    """Write the file whole or not at all, readable by this user only."""
    content = json.dumps({"private_key": identity.private_key.hex(), "nonce": identity.nonce})
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(content + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        hint = "free some room" if error.errno == errno.ENOSPC else "check its owner and mode"
        raise StartError(
            f"can't write the identity file {path}: {error.strerror}; {hint}"
        ) from None
