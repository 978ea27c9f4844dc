"""What `argparse` lacks for `p2pctl`: errors that are raised, types with good messages.

Nothing here knows the commands.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, TypeVar

from p2pctl.terminal import columns
from p2pd.control.api import MAX_PINGS, MAX_TOPIC_BYTES, MAX_TTL_SECONDS
from p2pd.errors import InvalidRequest
from p2pd.typos import nearest

N = TypeVar("N", int, float)

_MAX_MESSAGES: Final = 10**9
_MAX_SHOWN: Final = 80


class UsageError(InvalidRequest):
    """The command line is wrong; never leaves this program."""

    code: ClassVar[str] = "usage"


class Argument(NamedTuple):
    """What `add_argument` takes."""

    flags: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*flags: str, **options: Any) -> Argument:
    """Declare an argument as `add_argument` takes it."""
    return Argument(flags, options)


def number(
    convert: Callable[[str], N], wanted: str, fits: Callable[[N], bool]
) -> Callable[[str], N]:
    """Make a reader of a number; its `ArgumentTypeError` says what is `wanted`."""

    def read(text: str) -> N:
        with contextlib.suppress(ValueError):
            value = convert(text)
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"expected {wanted}, not {text!r}")

    return read


def text(wanted: str, fits: Callable[[str], object] = bool) -> Callable[[str], str]:
    """Make a reader of a text that `fits`, or at least is not empty; see `number`."""

    def read(given: str) -> str:
        if fits(given):
            return given
        raise argparse.ArgumentTypeError(f"expected {wanted}, not {given[:_MAX_SHOWN]!r}")

    return read


def count_between(least: int, most: int) -> Callable[[str], int]:
    """Make a reader of a count; see `number`."""
    wanted = f"a whole number from {least} to {most}"
    return number(int, wanted, lambda value: least <= value <= most)


def version(text: str) -> str:
    """Read a record's version; `none`, that of a record that is not there, becomes empty."""
    if text == "none":
        return ""
    # Part of one is no version, and would be told to be outdated each time that it is read again.
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"expected a version, 64 digits, or `none`, not {text!r}")
    return text


seconds: Final = number(
    float,
    "a number of seconds above 0 and up to 1e9",
    lambda value: 0 < value <= MAX_TTL_SECONDS,
)
pause: Final = number(
    float, "a number of seconds from 0 to 1e9", lambda value: 0 <= value <= MAX_TTL_SECONDS
)
pings: Final = count_between(1, MAX_PINGS)
messages: Final = count_between(1, _MAX_MESSAGES)
path: Final = text("a path")
peer: Final = text("a peer")
key: Final = text("a key")
target: Final = text("a key or a node")
topic: Final = text(
    f"1 to {MAX_TOPIC_BYTES} bytes of printable text",
    # What was no UTF-8 is not printable, and can't be encoded.
    lambda given: given.isprintable() and 1 <= len(given.encode()) <= MAX_TOPIC_BYTES,
)


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of ending the program."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)

    def read(
        self, argv: Sequence[str], options: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Read a command line into `options`; a `UsageError` says what may be meant."""
        try:
            found, unknown = self.parse_known_args(argv, options)
        except UsageError as error:
            # An unknown flag is passed over, so that something else seems to be missing, or its
            # value to be one of the command's own.
            if "are required" in str(error) or "invalid choice" in str(error):
                words = argv[: argv.index("--")] if "--" in argv else argv
                for word in filter(self._is_unknown_flag, words):
                    self._reject(word)
            raise
        if unknown:
            self._reject(unknown[0])
        return found

    def _is_unknown_flag(self, word: str) -> bool:
        if not word.startswith("-") or word == "-" or word[1].isdigit() or " " in word:
            return False
        flag = word.partition("=")[0] if word.startswith("--") else word[:2]
        return flag not in self._option_string_actions

    def _reject(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}")
        flag = word.partition("=")[0]
        near = nearest(flag, self._option_string_actions)
        if near is not None:
            raise UsageError(f"unknown flag {flag!r}; did you mean {near}?")
        self.error(f"unknown flag {flag!r} (a text that begins with - goes after --)")

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def _formatter(prog: str) -> argparse.HelpFormatter:
    # Left to itself argparse imports shutil to find the width, for each argument added.
    width = columns(sys.stdout) if sys.stdout is not None else 80
    return _Formatter(prog, width=max(width - 2, 40))


class _Formatter(argparse.HelpFormatter):
    """Breaks description and epilog line by line; a list's text stays in its column."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap  # noqa: PLC0415 - start-up time

        lines = []
        for line in text.splitlines():
            column = re.match("  [a-z]+ +|", line)
            hanging = indent + " " * (column.end() if column else 0)
            broken = textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=hanging)
            lines += broken or [""]
        return "\n".join(lines)


def add(parser: argparse.ArgumentParser, arguments: Sequence[Argument], **more: Any) -> None:
    """Give `parser` the arguments, each with `more` options."""
    for each in arguments:
        parser.add_argument(*each.flags, **each.options, **more)
