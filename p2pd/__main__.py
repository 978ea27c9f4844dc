"""`python -m p2pd`, and the `p2pd` command."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the daemon with the flags of this process; exits the interpreter."""
    try:
        from p2pd import cli  # noqa: PLC0415 - inside, so that Ctrl-C is quiet

        code = cli.main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
