"""The command line of `p2pctl`: the table of commands, the options, the exit code.

Only the parser of the named command is built, so that the client starts at once.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from p2pctl import commands, render
from p2pctl.arguments import (
    Argument,
    Parser,
    UsageError,
    add,
    argument,
    key,
    messages,
    path,
    pause,
    peer,
    pings,
    seconds,
    target,
    topic,
    version,
)
from p2pctl.commands import Run
from p2pctl.doctor import DEFAULT_CONFIG, examine
from p2pctl.lab.options import LAB_ARGUMENTS
from p2pd import __version__
from p2pd.control.api import CONSISTENCIES, DEFAULT_CONSISTENCY, PEER_STATUSES
from p2pd.control.client import DEFAULT_TIMEOUT, RemoteError
from p2pd.errors import P2PError
from p2pd.printable import escaped
from p2pd.typos import nearest

INTERRUPTED: Final = 130

# What a shell reports for a program that SIGPIPE ended, such as git in `git log | head`.
BROKEN_PIPE: Final = 141


class Command(NamedTuple):
    """One command: its help, its arguments, what it does; `run` may return an exit code.

    `asks`: whether it has anything to do with a running daemon.
    """

    help: str
    example: str
    arguments: tuple[Argument, ...]
    run: Callable[[Run], int | None]
    asks: bool = True


def _completion(run: Run) -> None:
    import shtab  # noqa: PLC0415 - start-up time

    print(shtab.complete(full_parser(), run.options.shell))


_TOPIC = argument("topic", metavar="TOPIC", type=topic, help="what the message is about")
_TOPICS = argument(
    "topics", metavar="TOPIC", type=topic, nargs="+", help="messages on which topics"
)
_KEY = argument("key", metavar="KEY", help="the record's key")
_OWNED = argument(
    "--owned", action="store_true", help="the key of this name that only this node can write"
)
_PEER = argument(
    "peer",
    metavar="PEER",
    type=peer,
    help="a node ID, a unique prefix of one (4 digits at least), or a name",
)

COMMANDS: Final[Mapping[str, Command]] = {
    "status": Command("this node, at a glance", "p2pctl status --json", (), commands.status),
    "peers": Command(
        "every known peer",
        "p2pctl peers --status connected",
        (
            argument("--status", choices=PEER_STATUSES, help="only peers with this status"),
            argument("--watch", action="store_true", help="go on: each peer that changes"),
        ),
        commands.peers,
    ),
    "connect": Command(
        "dial a node now",
        "p2pctl connect 192.168.1.20:41000",
        (argument("address", metavar="HOST:PORT", help="where it listens; or [IPV6]:PORT"),),
        commands.connect,
    ),
    "disconnect": Command(
        "close the connection to a peer",
        "p2pctl disconnect kitchen",
        (_PEER,),
        commands.disconnect,
    ),
    "ping": Command(
        "round-trip times to a peer",
        "p2pctl ping kitchen -c 10",
        (
            _PEER,
            argument(
                "-c",
                "--count",
                type=pings,
                default=1,
                metavar="COUNT",
                help="how many, one after the other (default 1)",
            ),
            argument(
                "-i",
                "--interval",
                type=pause,
                default=1.0,
                metavar="SECONDS",
                help="from one to the next (default 1); 0: at once",
            ),
        ),
        commands.ping,
    ),
    "echo": Command(
        "send a text to a peer and get it back",
        "p2pctl echo kitchen 'hello there'",
        (_PEER, argument("text", metavar="TEXT", help="what to send")),
        commands.echo,
    ),
    "put": Command(
        "write a record",
        "p2pctl put greeting hello    or    p2pctl put photo - < photo.jpg",
        (
            # One stored under no name, by another program, can still be read and deleted.
            argument("key", metavar="KEY", type=key, help="the record's key"),
            argument("value", metavar="VALUE", help="the value; - reads it from standard input"),
            argument(
                "--ttl", type=seconds, metavar="SECONDS", help="let the record expire after this"
            ),
            argument(
                "--if-version",
                type=version,
                metavar="VERSION",
                help="write only if this version is stored; `none`: only if there is none",
            ),
            _OWNED,
        ),
        commands.put,
    ),
    "get": Command(
        "read a record's value",
        "p2pctl get photo > photo.jpg",
        (
            _KEY,
            argument("--all", action="store_true", help="every concurrent version, as a table"),
            argument(
                "--consistency",
                choices=CONSISTENCIES,
                help=f"how many replicas must answer (default {DEFAULT_CONSISTENCY})",
            ),
            argument(
                "--owner",
                metavar="NODE",
                type=peer,
                help="the key that only this node can write: its ID, a prefix or name of it",
            ),
        ),
        commands.get,
    ),
    "delete": Command("delete a record", "p2pctl delete greeting", (_KEY, _OWNED), commands.delete),
    "lookup": Command(
        "the DHT's route to a key or a node, hop by hop",
        "p2pctl lookup greeting",
        (
            argument(
                "target",
                metavar="KEY|NODE",
                type=target,
                help="a node ID, or the prefix or name of a known node; else a key",
            ),
        ),
        commands.lookup,
    ),
    "why": Command(
        "why a peer has the standing that it has, step by step",
        "p2pctl why kitchen",
        (_PEER,),
        commands.why,
    ),
    "doctor": Command(
        "what is wrong with this node and its surroundings, and what to do about it",
        "p2pctl doctor    or    p2pctl doctor --state-dir /srv/p2pd",
        (
            argument(
                "--state-dir",
                metavar="DIR",
                type=path,
                help="the daemon's state directory, to be looked at where the daemon does not "
                "answer (default: where it is by default)",
            ),
            argument(
                "--config",
                metavar="FILE",
                type=path,
                help="the daemon's configuration, to be read where the daemon does not answer "
                f"(default {DEFAULT_CONFIG}, if it is there)",
            ),
        ),
        examine,
    ),
    "publish": Command(
        "send a message to everybody who subscribes to its topic",
        "p2pctl publish news 'the coffee is ready'    or    date | p2pctl publish news -",
        (
            _TOPIC,
            argument(
                "message", metavar="MESSAGE", help="the message; - reads it from standard input"
            ),
        ),
        commands.publish,
    ),
    "subscribe": Command(
        "the messages on some topics as they arrive",
        "p2pctl subscribe news weather    or    p2pctl --json subscribe news --count 1",
        (
            _TOPICS,
            argument("--count", type=messages, metavar="N", help="end after N messages"),
        ),
        commands.subscribe,
    ),
    "watch": Command("the node's events as they happen", "p2pctl watch", (), commands.watch),
    "lab": Command(
        "experiments with daemons of its own, and what they measure, in six tables",
        "p2pctl lab    or    p2pctl lab baseline churn --nodes 3",
        LAB_ARGUMENTS,
        commands.lab,
        asks=False,
    ),
    "stop": Command("ask the daemon to leave gracefully", "p2pctl stop", (), commands.stop),
    "completion": Command(
        "a script that completes p2pctl's commands in a shell",
        'eval "$(p2pctl completion bash)"',
        (argument("shell", choices=("bash", "zsh", "fish"), help="the shell"),),
        _completion,
        asks=False,
    ),
}

_JSON: Final = argument("--json", action="store_true", help="write JSON, errors too")
GLOBALS: Final = (
    argument(
        "--socket",
        metavar="PATH",
        type=path,
        help="the daemon's control socket (default $P2PCTL_SOCKET)",
    ),
    argument(
        "--instance",
        metavar="NAME",
        help="by its instance (`default` without $P2PCTL_SOCKET): the user's, then the system's",
    ),
    _JSON,
    argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help=f"how long a request may take (default {DEFAULT_TIMEOUT:g})",
    ),
)

_TAKING_A_VALUE: Final = ("--socket", "--instance", "--timeout")


def _main_parser() -> Parser:
    listing = "\n".join(f"  {name:<12}{command.help}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="p2pctl",
        usage="p2pctl [--socket PATH | --instance NAME] [--json]\n"
        "              [--timeout SECONDS] COMMAND ...",
        description="Drive a running p2pd.",
        epilog=f"commands:\n{listing}\n\n`p2pctl COMMAND --help` says more about each.",
    )
    add(parser, GLOBALS)
    parser.add_argument("--version", action="version", version=f"p2pctl {__version__}")
    parser.set_defaults(timeout=DEFAULT_TIMEOUT)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    add(parser, command.arguments)
    add(parser, GLOBALS if command.asks else (_JSON,), default=argparse.SUPPRESS)


def _command_parser(name: str, command: Command) -> Parser:
    parser = Parser(
        prog=f"p2pctl {name}", description=command.help, epilog=f"example: {command.example}"
    )
    _fill(parser, command)
    return parser


def full_parser() -> argparse.ArgumentParser:
    """Build one parser of all commands, for completion scripts to be made from."""
    parser = _main_parser()
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        _fill(subparsers.add_parser(name, help=command.help), command)
    return parser


def parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Read the command line; raises `UsageError`, and `SystemExit` after `--help`."""
    start = 0
    while start < len(argv) and argv[start].startswith("-"):
        start += 2 if argv[start] in _TAKING_A_VALUE else 1
    options = _main_parser().read(argv[:start])
    if start >= len(argv):
        raise UsageError(f"which command? {', '.join(COMMANDS)}; see `p2pctl --help`")
    name = argv[start]
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(_unknown_command(name))
    _command_parser(name, command).read(argv[start + 1 :], options)
    if options.socket is not None and options.instance is not None:
        raise UsageError("--socket and --instance name the daemon twice: give one of them")
    return command, options


def _unknown_command(name: str) -> str:
    near = nearest(name, COMMANDS)
    meant = f"did you mean `p2pctl {near}`? " if near else ""
    return f"no command {name!r}; {meant}`p2pctl --help` lists all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p2pctl`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            command, options = parse(argv)
            run = Run(options)
            with contextlib.closing(run):
                code = command.run(run)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except P2PError as error:
        _report(error, as_json=_wants_json(argv))
        return error.exit_code
    except SystemExit as done:
        return int(done.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        _discard_output()
        _report(P2PError(f"can't write the output: {error.strerror}"), as_json=_wants_json(argv))
        return P2PError.exit_code
    return code or 0


def _wants_json(argv: Sequence[str]) -> bool:
    return "--json" in (argv[: argv.index("--")] if "--" in argv else argv)


def _report(error: P2PError, *, as_json: bool) -> None:
    code = error.remote_code if isinstance(error, RemoteError) else error.code
    if as_json:
        text = render.json_text({"error": {"code": code, "message": str(error)}})
    else:
        text = f"p2pctl: {escaped(str(error))}"
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _discard_output() -> None:
    """Discard what is still buffered; otherwise Python would complain about it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
