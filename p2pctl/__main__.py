"""`python -m p2pctl` and the `p2pctl` script."""

import io
import os
import sys


def main() -> int:
    """Run `p2pctl`; returns the exit code, also if Ctrl-C comes before it is loaded."""
    try:
        _repair_output()
        from p2pctl.cli import main as run  # noqa: PLC0415 - inside, so that Ctrl-C is quiet

        return run()
    except KeyboardInterrupt:
        return 130


def _repair_output() -> None:
    if sys.stdout is None:
        # Python's way to say that the descriptor was closed: `p2pctl status >&-`.
        sys.stdout = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # A locale that can't write a peer's name must not end in a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
