"""The command line of the daemon: flags and file become an `Invocation`.

Nothing here starts a node or loads Trio: `--version`, `--help` and most of `--check` stay quick.
"""

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from p2pd import __version__, paths
from p2pd.config import Config
from p2pd.config_file import effective
from p2pd.errors import ConfigError, P2PError
from p2pd.invocation import Invocation, read_config
from p2pd.preflight import host_problems
from p2pd.rules import show
from p2pd.typos import nearest

_FLAGS = {
    "node.name": "--name",
    "listen.addresses": "--listen",
    "discovery.bootstrap": "--bootstrap",
    "control.socket": "--control",
    "log.level": "--log-level",
    "log.format": "--log-format",
}


def main(argv: Sequence[str]) -> int:
    """Run `p2pd` with these flags; returns the exit code.

    0 after a graceful stop, 1 after a forced one or if the node can't run, 2 if flags or
    configuration are wrong, 130 if Ctrl-C comes before the node runs. What keeps the node from
    running is on standard error.
    """
    try:
        flags = _parse_flags(argv)
        if flags.version:
            _write(f"p2pd {__version__}\n")
            return 0
        invocation = _invocation(flags)
        if flags.check:
            _write(_report(invocation, flags))
            return 0
        from p2pd import daemon  # noqa: PLC0415 - loads Trio and all the rest

        return daemon.run(invocation)
    except ConfigError as error:
        for problem in error.problems:
            print(f"p2pd: {problem}", file=sys.stderr)  # noqa: T201 - the answer to the user
        return error.exit_code
    except P2PError as error:
        print(f"p2pd: {error}", file=sys.stderr)  # noqa: T201 - the answer to the user
        return 1
    except KeyboardInterrupt:
        return 130


def _write(text: str) -> None:
    """Write the answer; raises `P2PError`."""
    if sys.stdout is None:  # it was closed
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would complain at exit about what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise P2PError(f"can't write the output: {error.strerror}") from None


def parse(argv: Sequence[str]) -> Invocation:
    """Read flags and configuration file, and look for what they name on this host.

    Raises `ConfigError` with everything that is wrong.
    """
    return _invocation(_parse_flags(argv))


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags; their values are checked together with the configuration."""
    parser = _Parser(
        prog="p2pd",
        description="A peer-to-peer node, in the foreground.",
        epilog="Flags win over the file, --set wins over both.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="configuration (TOML); without it, the defaults")
    add(
        "--instance",
        metavar="NAME",
        default=paths.DEFAULT_INSTANCE,
        help="name of this node on this machine: its own state and socket (%(default)s)",
    )
    add("--name", help="what people call this node (the host name)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen", metavar="ADDR:PORT", action="append", help="accept connections here; repeatable"
    )
    where.add_argument(
        "--port", help="accept connections on all addresses at this port; 0: any free one"
    )
    add(
        "--bootstrap", metavar="HOST:PORT", action="append", help="a node to dial first; repeatable"
    )
    add("--state-dir", metavar="DIR", help="where identity, registry and records are kept")
    add("--control", metavar="PATH", help="the control socket")
    add(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="set any key of the configuration; VALUE as in TOML, or a bare word; repeatable",
    )
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    add("--log-format", metavar="FORMAT", help="auto, console, json or journal")
    add("--check", action="store_true", help="print the configuration in effect, and exit")
    add("--version", action="store_true", help="print the version, and exit")
    return parser


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    for each in argv:
        # argparse drops a value of `--` and hands over an empty list in its place.
        if each.startswith("--") and each.endswith("=--"):
            raise ConfigError(f"{each[:-3]}: expected a value, not '--'")
    flags, rest = build_parser().parse_known_args(argv)
    unknown = [each.partition("=")[0] for each in rest if each.startswith("-")]
    if unknown:
        known = ["--help", *("--" + name.replace("_", "-") for name in vars(flags))]
        raise ConfigError(*(_unknown_flag(each, known) for each in unknown))
    if rest:
        raise ConfigError(f"unexpected argument {show(rest[0])}; see p2pd --help")
    return flags


def _unknown_flag(flag: str, known: Sequence[str]) -> str:
    near = nearest(flag, known)
    return f"unknown flag {show(flag)}; " + (f"did you mean {near}?" if near else "see p2pd --help")


def _invocation(flags: argparse.Namespace) -> Invocation:
    problems: list[str] = []
    instance = paths.DEFAULT_INSTANCE
    with _collected_in(problems):
        instance = _checked_instance(flags.instance)
    # An empty path would mean the working directory, or the default.
    given = {"config": flags.config, "state-dir": flags.state_dir, "control": flags.control}
    problems += [f"--{name}: expected a path, not ''" for name, path in given.items() if path == ""]
    by_flag = _values_of_flags(flags, problems)
    by_set: dict[str, object] = {}
    for assignment in flags.set:
        with _collected_in(problems):
            path, value = _parse_assignment(assignment)
            by_set[path] = value
    overrides = by_flag | by_set
    config_file = _absolute("--config", flags.config) if flags.config else None
    config, found = read_config(config_file, overrides, instance)
    control_path = _control_path(config, instance)
    found += host_problems(config, control_path)
    named_by_flag = by_flag.keys() - by_set.keys()
    problems += (_by_its_flag(problem, named_by_flag) for problem in found)
    state_dir = Path()
    with _collected_in(problems):
        state_dir = _state_directory(flags, instance)
    if problems:
        raise ConfigError(*problems)
    return Invocation(config, instance, state_dir, control_path, config_file, overrides)


def _control_path(config: Config, instance: str) -> Path:
    if config.control.socket:
        return Path(config.control.socket)
    return paths.control_socket(instance, os.environ, os.getuid())


def _state_directory(flags: argparse.Namespace, instance: str) -> Path:
    if flags.state_dir is not None:
        return _absolute("--state-dir", flags.state_dir)
    return paths.state_directory(instance, os.environ, os.getuid())


@contextmanager
def _collected_in(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _checked_instance(name: str) -> str:
    try:
        return paths.check_instance(name)
    except ValueError as error:
        raise ConfigError(f"--instance: {error}") from None


def _values_of_flags(flags: argparse.Namespace, problems: list[str]) -> dict[str, object]:
    values = {
        "node.name": flags.name,
        "listen.addresses": flags.listen,
        "discovery.bootstrap": flags.bootstrap,
        "control.socket": flags.control and str(_absolute("--control", flags.control)),
        "log.level": flags.log_level,
        "log.format": flags.log_format,
    }
    if flags.port is not None:
        if not re.fullmatch("[0-9]{1,5}", flags.port) or int(flags.port) > 65535:
            problems.append(f"--port: expected a port from 0 to 65535, not {show(flags.port)}")
        else:
            port = int(flags.port)
            values["listen.addresses"] = [f"0.0.0.0:{port}", f"[::]:{port}"]
    return {path: value for path, value in values.items() if value is not None}


def _absolute(flag: str, path: str) -> Path:
    try:
        return Path(path).absolute()
    except OSError:
        text = f"{flag}: the current directory is gone; give a path that begins with /"
        raise ConfigError(text) from None


def _by_its_flag(problem: str, given: Collection[str]) -> str:
    """Name a value by the flag that it came from, instead of by its key."""
    path, _, rest = problem.partition(": ")
    return f"{_FLAGS[path]}: {rest}" if path in given else problem


def _parse_assignment(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    path, value = path.strip(), value.strip()
    if not equals or not path:
        raise ConfigError(f"--set: expected SECTION.KEY=VALUE, not {show(text)}")
    try:
        table = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        table = {}
    if table.keys() == {"value"}:
        return path, table["value"]
    if value[:1] in set("\"'[{"):
        raise ConfigError(f"--set: expected a TOML value or a bare word, not {show(value)}")
    return path, value


def _report(invocation: Invocation, flags: argparse.Namespace) -> str:
    # A service gets other paths from systemd: see docs/operations.md.
    by_hand = "" if "STATE_DIRECTORY" in os.environ else " (as run by hand, not as a service)"
    of_state = by_hand if flags.state_dir is None else ""
    of_socket = "" if invocation.config.control.socket else by_hand
    file = "none" if invocation.config_file is None else f"{str(invocation.config_file)!a}"
    return (
        f"# instance: {invocation.instance}\n"
        f"# configuration file: {file}\n"
        f"# state directory: {str(invocation.state_dir)!a}{of_state}\n"
        f"# control socket: {str(invocation.control_path)!a}{of_socket}\n\n"
        f"{effective(invocation.config)}"
    )
