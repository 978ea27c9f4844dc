"""`python -m p2pd.simulation`: run a scenario, by name or from a TOML file."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from p2pd.errors import ConfigError
from p2pd.simulation import report
from p2pd.simulation.checks import Unsound
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.plan import Outcome, Scenario
from p2pd.simulation.scenarios import NAMED, load_scenario, run_scenario
from p2pd.simulation.world import World

# See mallopt(3) and "Memory Allocation Tunables" of the GNU C Library; others ignore them.
_LARGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main(argv: Sequence[str]) -> int:
    """Run what the flags ask for; returns 0, 1 if a world was unsound, 2 for bad usage."""
    options = _parser().parse_args(argv)
    # What a world leaves behind is large: it is collected once, before the next one.
    gc.disable()
    try:
        scenario = load_scenario(options.scenario)
        if options.plot is not None:
            report.check_can_plot()
        outcomes = [
            _run(attrs.evolve(scenario, nodes=nodes), seed, options)
            for nodes in options.nodes or (scenario.nodes,)
            for seed in range(options.seed, options.seed + options.seeds)
        ]
        if options.plot is not None:
            report.plot(outcomes, options.plot)
    except ConfigError as error:
        for problem in error.problems:
            _say(problem)
        return error.exit_code
    except Unsound as error:
        _say(str(error))
        return 1
    shown = report.document(outcomes) if options.json else report.table(outcomes)
    if len(outcomes) > 1 and not options.json:
        shown += "\n\n" + report.summary(outcomes)
    sys.stdout.write(shown + "\n")
    # Nor does the interpreter look through the last one as it exits.
    gc.freeze()
    return 0


def _run(scenario: Scenario, seed: int, options: argparse.Namespace) -> Outcome:
    worlds: list[World] = []
    gc.collect()

    def progress(text: str) -> None:
        if sys.stderr.isatty() or options.verbose:
            _say(f"seed {seed}: {text}")

    try:
        return run_in_virtual_time(
            run_scenario,
            scenario,
            seed,
            progress,
            worlds.append,
            seed=seed,
            tick=scenario.tick,
        )
    except BaseException as error:
        if worlds and not isinstance(error, KeyboardInterrupt):
            _keep_trace(worlds[0], scenario, options, seed)
        if isinstance(error, BaseExceptionGroup):
            unsound, rest = error.split(Unsound)
            if unsound is not None and rest is None:
                raise _first(unsound) from None
        raise


def _keep_trace(world: World, scenario: Scenario, options: argparse.Namespace, seed: int) -> None:
    options.trace.write_text("\n".join(world.trace.lines()) + "\n")
    nodes = f" --nodes {scenario.nodes}" if options.nodes else ""
    _say(f"failed with seed {seed}; the last sendings are in {options.trace}; to replay it:")
    _say(f"python -m p2pd.simulation {options.scenario}{nodes} --seed {seed}")


def _first(group: BaseExceptionGroup[Unsound]) -> Unsound:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _say(text: str) -> None:
    sys.stderr.write(f"simulation: {text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m p2pd.simulation",
        description="Many p2pd nodes in one process, on an in-memory network in virtual time.",
    )
    parser.add_argument(
        "scenario",
        nargs="?",
        default="small",
        help=f"a name ({', '.join(NAMED)}) or a TOML file; default small",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        nargs="+",
        help="instead of the scenario's; one run each",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, in a row")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--verbose", action="store_true", help="progress also into a pipe")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what was measured")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        default=Path("simulation-trace.txt"),
        help="where a failing run keeps who sent what to whom (default %(default)s)",
    )
    return parser


def _use_large_pages() -> None:
    """Start again with memory in large pages, where the C library is glibc and Linux has them.

    A thousand nodes fill so much memory that looking up its pages took a tenth of the time.
    """
    # A user who has set one of these knows better.
    if not _LARGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **_LARGE_PAGES})  # noqa: S606 - itself


if __name__ == "__main__":
    _use_large_pages()
    sys.exit(main(sys.argv[1:]))
