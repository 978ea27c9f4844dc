"""`python -m bench [NAME...] [--json]`: measure, compare, and say which promises are kept."""

import argparse
import compileall
import datetime as dt
import json
import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

import attrs
import trio
from tabulate import tabulate

import p2pctl
import p2pd
from bench import gossipsub
from bench.connections import new_connection, request_reply, under_way
from bench.disk import disk
from bench.everybody import everybody
from bench.figures import Effort, Figure
from bench.idle import idle
from bench.keys import keys
from bench.lan import lan
from bench.processes import start, status
from bench.settled import settled
from bench.survivors import survivors

BENCHMARKS: dict[str, Callable[[Effort], Awaitable[list[Figure]]]] = {
    "request-reply": request_reply,
    "under-way": under_way,
    "new-connection": new_connection,
    "status": status,
    "start": start,
    "lan": lan,
    "keys": keys,
    "survivors": survivors,
    "disk": disk,
    "idle": idle,
    "everybody": everybody,
    "settled": settled,
}
_PACKAGES = ("trio", "cryptography", "attrs", "cattrs", "msgpack")
FULL = Effort(rounds=15, idle_seconds=60.0, settle_seconds=45.0)
QUICK = Effort(rounds=1, idle_seconds=1.0, settle_seconds=0.0)


def main() -> int:
    """Run the benchmarks that are asked for; 1 where a promise is broken."""
    parser = _parser()
    options = parser.parse_args()
    known = ", ".join(BENCHMARKS)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {known}")
    if not options.inside:
        _enter_namespace()
    # As pip does for who installs it: the interpreter may be told to write no bytecode.
    for package in (p2pd, p2pctl):
        compileall.compile_dir(package.__path__[0], quiet=1)
    figures: list[Figure] = []
    about = _about()
    for name in options.names or BENCHMARKS:
        if sys.stderr.isatty():
            print(f"{name} ...", file=sys.stderr)
        figures += trio.run(BENCHMARKS[name], QUICK if options.quick else FULL)
    if options.json:
        found = [{**attrs.asdict(each), "kept": each.kept} for each in figures]
        print(json.dumps({"about": about, "figures": found}, indent=2))
    else:
        print("".join(f"{key + ':':<14}{value}\n" for key, value in about.items()))
        print(_table(figures))
    return any(each.kept is False for each in figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure p2pd beside a reference, in turn, in the same run. Everything "
        "happens in a network namespace with nothing but the loopback.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}; without a name, all of them",
    )
    parser.add_argument("--json", action="store_true", help="write JSON, not a table")
    parser.add_argument(
        "--quick", action="store_true", help="one round each: to try the benchmarks themselves"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _enter_namespace() -> None:
    """Start over where no packet of the daemons can leave this machine."""
    command = ["unshare", "--net", *([] if os.getuid() == 0 else ["--map-root-user"])]
    command += ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    command += [sys.executable, "-m", "bench", "--inside", *sys.argv[1:]]
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.exit("bench: `unshare` is missing: install util-linux (and iproute2, for `ip`)")


def _about() -> dict[str, str]:
    """Describe what the figures came from."""
    model = next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = (*_PACKAGES, *(["libp2p"] if gossipsub.is_installed() else []))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(" ", "minutes"),
        "commit": _commit(),
        "machine": f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "packages": versions,
    }


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _table(figures: list[Figure]) -> str:
    rows = [
        (
            figure.name,
            f"{figure.ours} {figure.unit}",
            f"{figure.reference} {figure.unit}" if figure.reference else "",
            figure.against,
            figure.ratio or "",
            figure.promise or "",
            {True: "yes", False: "NO", None: ""}[figure.kept],
        )
        for figure in figures
    ]
    headers = ("what", "p2pd", "reference", "which is", "ratio", "promised", "kept")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
