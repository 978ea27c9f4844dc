"""Has a fuzzer, guided by coverage, look for what breaks a harness: `python -m tests.fuzz NAME`."""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["p2pd"]):
    from tests.fuzz.harnesses import HARNESSES

CORPUS = Path(__file__).with_name("corpus")
_MOST_BYTES = 8192


def main() -> None:
    """Fuzz for some time; an input that breaks the harness is added to its corpus."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=HARNESSES)
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    arguments = parser.parse_args()
    corpus = CORPUS / arguments.name
    with tempfile.TemporaryDirectory() as found:
        flags = [
            f"-max_total_time={arguments.seconds}",
            f"-max_len={_MOST_BYTES}",
            f"-artifact_prefix={corpus}/",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *flags, found, str(corpus)], HARNESSES[arguments.name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
