"""What can be found out if the daemon does not answer; nothing is changed for it."""

import errno
import os
import shlex
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from p2pd.address import Address
from p2pd.control.client import unit_of
from p2pd.core.diagnosis import disk, target
from p2pd.core.findings import Finding, Level, problem, warning
from p2pd.core.observations import DiskSeen, TargetSeen
from p2pd.hosts import parse_address
from p2pd.invocation import read_config
from p2pd.net.names import unresolved
from p2pd.preflight import host_problems
from p2pd.store.disk import try_disk

_DIAL_SECONDS: Final = 3.0
_MAX_TARGETS: Final = 16
# What a daemon leaves in its state directory.
_TRACES: Final = ("lock", "identity.json")


def look(
    error: str,
    *,
    denied: bool,
    absent: bool,
    instance: str | None,
    state_dir: str | None,
    config: str,
    config_must_be: bool,
) -> list[Finding]:
    """Say why the daemon does not answer, as far as can be seen without it.

    `error` is what came of asking it. `denied`: this user may not ask; `absent`: nobody was
    at the socket; else somebody was, and did not answer. `instance` is None if only a socket
    was named; where its state is, then only `state_dir` can say. With `config_must_be`, it is
    also a finding if there is no file `config`.
    """
    places = [Path(state_dir)] if state_dir is not None else _usual_places(instance)
    found = [each for each in places if _is_state(each)]
    if not found and state_dir is not None:
        found = places
    # Where one was run by hand before there was a service, there are two: the one in use counts.
    owners = {each: owner for each in found if (owner := _owner(each)) is not None}
    found = list(owners)[:1] or found
    log = f"why it stopped or hangs is in its log: `journalctl -u {unit_of(instance)}`"
    if denied:  # it may well run; the error says what to do
        control = Finding("control.denied", Level.PROBLEM, error)
    elif not owners:
        control = problem("control.unreachable", error, log)
    else:
        control = _silent(owners[found[0]], found[0], error, log, absent=absent)
    return [
        control,
        *([_disk(each) for each in found] or [_disk(None)]),
        *_targets(Path(config), must_be=config_must_be),
        warning(
            "network.untested",
            "not tested, as only p2pd can: interfaces, multicast, peers and clock",
        ),
    ]


def _usual_places(instance: str | None) -> list[Path]:
    """Where `p2pd` and its units keep state: see docs/operations.md."""
    if instance is None:
        return []
    system = [Path("/var/lib/p2pd", instance)]
    if instance == "default":
        system.append(Path("/var/lib/p2pd"))
    home = os.environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):
        home = f"{os.environ.get('HOME', '')}/.local/state"
    own = [Path(home, "p2pd", instance)]
    return system + own if os.geteuid() == 0 else own + system


def _is_state(directory: Path) -> bool:
    try:
        return any((directory / name).exists() for name in _TRACES)
    except PermissionError:
        return False


def _owner(directory: Path) -> int | None:
    """Return the process that has a state directory locked (proc(5), /proc/locks)."""
    with suppress(OSError, ValueError):
        lock = directory / "lock"
        found, written = lock.stat(), lock.read_text().strip()
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
        for line in Path("/proc/locks").read_text().splitlines():
            kind, _, _, pid, file = line.split()[1:6]
            where, _, inode = file.rpartition(":")
            # With some file systems, the device number there is not that of stat(2).
            same = inode == str(found.st_ino) and (where == device or pid == written)
            if kind == "FLOCK" and same:
                return int(pid)
    return None


def _silent(owner: int, directory: Path, error: str, log: str, *, absent: bool) -> Finding:
    """Say what keeps a process that has the state directory from answering."""
    has = f"process {owner} has the state directory {directory}"
    if _is_stopped(owner):
        text = f"{has}, and is stopped: by a signal (SIGSTOP, Ctrl-Z) or a debugger"
        return problem("control.silent", text, f"let it go on: `kill -CONT {owner}`")
    if not absent:
        text = f"{has}, and does not answer: {error}"
        return problem("control.silent", text, f"restart it. {log}")
    text = f"{has}, and is not at the control socket that was asked: it has another one, or none"
    remedy = f"name its socket with --socket PATH (`ss -lxp` lists them), or restart it. {log}"
    return problem("control.silent", text, remedy)


def _is_stopped(process: int) -> bool:
    """Whether a process was stopped (proc(5), /proc/PID/stat)."""
    with suppress(OSError, IndexError):
        # The name before it is in parentheses, and may contain some itself.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


def _disk(directory: Path | None) -> Finding:
    if directory is None:
        return warning(
            "disk.untested",
            "no state directory is where it is by default, or this user may not look there",
            "name it with --state-dir DIR, or use sudo",
        )
    found = try_disk(directory)
    if found.refusal == os.strerror(errno.EACCES) and os.geteuid() != 0:
        text = f"{directory} belongs to another user: whether it can be written to is not known"
        return warning("disk.untested", text, "use sudo")
    return disk(DiskSeen(found.directory, found.free, found.refusal, found.full))


def _targets(config: Path, *, must_be: bool) -> Iterable[Finding]:
    if not must_be and _is_absent(config):
        return
    check = f"`p2pd --config {shlex.quote(str(config))} --check` says when it is right"
    found, problems = read_config(config, {}, "default")
    problems += host_problems(found, Path(found.control.socket or "/"))
    for mistake in problems:
        if mistake.startswith("can't read"):
            remedy = f"name the right file with --config, or use sudo; {check}"
            yield problem("config.refused", mistake, remedy)
        elif os.strerror(errno.EACCES) in mistake and os.geteuid() != 0:
            yield warning("config.untested", mistake, "use sudo")
        else:
            yield problem("config.refused", mistake, f"mend it; {check}")
    discovery = found.discovery
    targets = [(text, True) for text in discovery.seeds]
    targets += [(text, False) for text in discovery.bootstrap]
    with ThreadPoolExecutor(_MAX_TARGETS) as pool:
        yield from pool.map(lambda each: _target(each[0], seed=each[1]), targets[:_MAX_TARGETS])


def _is_absent(file: Path) -> bool:
    try:
        return not file.exists()
    except PermissionError:
        return False


def _target(text: str, *, seed: bool) -> Finding:
    host, port = parse_address(text)
    seen = TargetSeen(text, seed)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return target(attrs.evolve(seen, unresolved=str(unresolved(host, error))), Level.PROBLEM)
    for family, kind, *_, address in found:
        try:
            with socket.socket(family, kind) as sock:
                sock.settimeout(_DIAL_SECONDS)
                sock.connect(address)
        except OSError as error:
            said = error.strerror or f"no answer within {_DIAL_SECONDS:g} s"
            seen = attrs.evolve(seen, failure=said)
        else:
            seen = attrs.evolve(seen, answered=str(Address(str(address[0]), port)))
            break
    return target(seen, Level.PROBLEM)
