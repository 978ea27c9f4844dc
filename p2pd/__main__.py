"""`python -m p2pd`, and the `p2pd` command."""

import sys

from p2pd import cli


def main() -> None:
    """Run the daemon with the flags of this process; exits the interpreter."""
    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
