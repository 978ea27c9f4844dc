"""Who may import whom: the table of layers, held against every import of the source.

The first rule whose pattern fits a module is the one that counts; a module without a rule
fails, so that nothing is added without a decision where it belongs.
"""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "p2pd").rglob("*.py"), *(ROOT / "p2pctl").rglob("*.py")])

GROUND = ("p2pd.errors", "p2pd.ids", "p2pd.address")
CONFIG = ("p2pd.rules", "p2pd.hosts", "p2pd.typos", "p2pd.config", "p2pd.config_file")
# What lets the outside in: clocks, chance, files, other tasks and processes.
IMPURE = (
    *("asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "secrets"),
    *("select", "selectors", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys"),
    *("tempfile", "threading", "time", "trio", "uuid", "importlib"),
)


@attrs.frozen
class Rule:
    """What the modules of a pattern may import: of the project, and from elsewhere.

    The standard library is open to all but for what `never` names.
    """

    modules: str
    project: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


RULES = (
    Rule("p2pd", ()),
    Rule("p2pd.errors", ("p2pd.ids",), never=IMPURE),
    Rule("p2pd.ids", (), never=(*IMPURE, "random")),
    Rule("p2pd.address", (), never=(*IMPURE, "random")),
    Rule(
        "p2pd.wire*",
        (*GROUND, "p2pd.wire.*"),
        ("attrs", "cattrs", "msgpack", "cryptography"),
        (*IMPURE, "random"),
    ),
    Rule(
        "p2pd.core*",
        (*GROUND, "p2pd.core.*", "p2pd.wire.messages", "p2pd.wire.reasons"),
        ("attrs",),
        IMPURE,
    ),
    Rule("p2pd.net*", (*GROUND, "p2pd.net.*"), ("attrs", "cryptography", "trio")),
    Rule("p2pd.store*", (*GROUND, "p2pd.store.*"), ("attrs", "trio")),
    Rule("p2pd.printable", (), never=IMPURE),
    Rule("p2pd.rules", (*GROUND, "p2pd.printable"), ("attrs",)),
    Rule("p2pd.typos", ()),
    Rule("p2pd.hosts", (*GROUND, "p2pd.rules")),
    Rule("p2pd.config", (*GROUND, *CONFIG), ("attrs",)),
    Rule("p2pd.config_file", (*GROUND, *CONFIG), ("attrs",)),
    Rule(
        "p2pd.node*",
        (
            "p2pd",
            *GROUND,
            *CONFIG,
            "p2pd.wire.*",
            "p2pd.core.*",
            "p2pd.net.base",
            "p2pd.store.base",
            "p2pd.node.*",
        ),
        ("attrs", "trio"),
    ),
    Rule("p2pd.control", ()),
    Rule("p2pd.control.api", ("p2pd.errors", "p2pd.control.results")),
    Rule("p2pd.control.results", ()),
    Rule("p2pd.control.client", ("p2pd.errors", "p2pd.control.api")),
    Rule(
        "p2pd.control.*",
        (
            "p2pd",
            *GROUND,
            *CONFIG,
            "p2pd.node.node",
            "p2pd.node.snapshot",
            "p2pd.node.events",
            "p2pd.control.*",
        ),
        ("attrs", "trio"),
    ),
    # Parts of the roof that need less than all.
    Rule("p2pd.paths", GROUND),
    Rule("p2pd.notify", GROUND),
    Rule("p2pd.heap", (), ("trio",)),
    Rule("p2pd.state", (*GROUND, "p2pd.wire.identity")),
    Rule(
        "p2pd.logs",
        (*GROUND, *CONFIG, "p2pd.printable", "p2pd.core.budget", "p2pd.node.events"),
        ("logging_journald",),
    ),
    Rule(
        "p2pd.simulation*",
        (
            *GROUND,
            *CONFIG,
            "p2pd.wire.*",
            "p2pd.core.*",
            "p2pd.net.base",
            "p2pd.net.sim",
            "p2pd.net.faults",
            "p2pd.net.medium",
            "p2pd.store.base",
            "p2pd.store.memory",
            "p2pd.node.*",
            "p2pd.simulation.*",
        ),
        ("attrs", "cattrs", "matplotlib", "tabulate", "trio"),
    ),
    Rule(
        "p2pd.preflight",
        (*GROUND, "p2pd.config", "p2pd.paths", "p2pd.state", "p2pd.control.endpoint"),
    ),
    Rule("p2pd.invocation", (*GROUND, *CONFIG, "p2pd.paths"), ("attrs",)),
    Rule(
        "p2pd.cli",
        (
            *("p2pd", *GROUND, *CONFIG, "p2pd.paths", "p2pd.invocation", "p2pd.preflight"),
            "p2pd.daemon",
        ),
        ("attrs", "argparse"),
    ),
    Rule("p2pd.daemon", ("p2pd", "p2pd.*"), ("attrs", "trio")),
    Rule("p2pd.__main__", ("p2pd.cli",)),
    # It reads the configuration as the daemon would.
    Rule(
        "p2pctl.local_checks",
        (
            *("p2pd.address", "p2pd.hosts", "p2pd.invocation", "p2pd.preflight"),
            *("p2pd.core.diagnosis", "p2pd.core.findings", "p2pd.core.observations"),
            *("p2pd.control.client", "p2pd.net.names", "p2pd.store.disk"),
        ),
        ("attrs",),
    ),
    Rule(
        "p2pctl.lab*",
        ("p2pd", "p2pd.errors", "p2pd.printable", "p2pd.control.client", "p2pctl.*"),
        ("attrs",),
    ),
    Rule(
        "p2pctl*",
        (
            *("p2pd", "p2pd.errors", "p2pd.printable", "p2pd.typos", "p2pctl.*"),
            *("p2pd.control.client", "p2pd.control.api", "p2pd.control.results"),
        ),
        ("shtab", "tabulate"),
    ),
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}


def imports_of(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Name what a module imports, anywhere in it; `from p2pd import x` is `p2pd.x` if that is one.

    `random` stands for the functions of the module; its class `random.Random` is passed over.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "random")
            if any(alias.name == "random" and alias.asname for alias in node.names):
                yield "random"
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            if base == "random":
                names = [name for name in names if name != "random.Random"]
            yield from (name if name in MODULES or base == "random" else base for name in names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "random" and node.attr != "Random":
                yield "random"
        elif isinstance(node, ast.Name) and node.id == "__import__":
            yield "importlib"


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """List the imports of a module that its rule forbids, or that it has no rule."""
    rule = next((each for each in RULES if fits(module, each.modules)), None)
    if rule is None:
        return [f"{module}: no rule in {Path(__file__).name} says what it may import"]
    never = (*rule.never, "random") if module.startswith("p2pd.core") else rule.never
    return [
        f"{module} imports {name}"
        for name in sorted(set(imports_of(module, source, is_package=is_package)))
        if not allowed(name, rule, never)
    ]


def fits(module: str, pattern: str) -> bool:
    if pattern.endswith("*") and not pattern.endswith(".*"):
        pattern = pattern[:-1]
        return module == pattern or module.startswith(pattern + ".")
    return fnmatchcase(module, pattern)


def allowed(name: str, rule: Rule, never: tuple[str, ...]) -> bool:
    top = name.partition(".")[0]
    if top in {"p2pd", "p2pctl"}:
        return any(fnmatchcase(name, pattern) for pattern in rule.project)
    if top in never:
        return False
    return top in sys.stdlib_module_names or top in rule.libraries


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    path = MODULES[module]
    assert breaches(module, path.read_text(), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "package", [name for name, path in MODULES.items() if path.name == "__init__.py"]
)
def test_a_package_reexports_nothing(package: str) -> None:
    assert list(imports_of(package, MODULES[package].read_text(), is_package=True)) == []


def test_only_the_daemon_picks_the_real_world() -> None:
    real = {"p2pd.net.real", "p2pd.store.sqlite"}
    pickers = {
        module
        for module, path in MODULES.items()
        if module not in real and real & set(imports_of(module, path.read_text()))
    }
    assert pickers == {"p2pd.daemon"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("p2pd.wire.codec", "import trio"),
        ("p2pd.wire.codec", "def f():\n    from time import monotonic"),
        ("p2pd.wire.codec", "from p2pd.core import lookup"),
        ("p2pd.wire.codec", "from ..core.lookup import Lookup"),
        ("p2pd.core.lookup", "import random\nrandom.shuffle([])"),
        ("p2pd.core.lookup", "from random import choice"),
        ("p2pd.core.lookup", "import random as r"),
        ("p2pd.core.lookup", "__import__('trio')"),
        ("p2pd.core.lookup", "from p2pd.wire import codec"),
        ("p2pd.core.lookup", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import trio"),
        ("p2pd.core.newcomer", "import os.path"),
        ("p2pd.core.newcomer", "import numpy"),
        ("p2pd.net.base", "from p2pd.wire.messages import Ping"),
        ("p2pd.store.base", "from p2pd.core.records import merge"),
        ("p2pd.node.node", "from p2pd.net import real"),
        ("p2pd.node.node", "from p2pd.store.sqlite import SqliteStore"),
        ("p2pd.node.node", "from p2pd.control import api"),
        ("p2pd.control.server", "from p2pd.core.registry import Status"),
        ("p2pd.control.server", "from p2pd.node.dht import Dht"),
        ("p2pd.control.client", "import attrs"),
        ("p2pd.control.api", "from p2pd.ids import NodeId"),
        ("p2pd.simulation.world", "import p2pd.net.real"),
        ("p2pd.ids", "import attrs"),
        ("p2pctl.cli", "from p2pd import ids"),
        ("p2pctl.lab.group", "import trio"),
        ("p2pctl.cli", "from p2pd.control.rpc import parse"),
        ("p2pd.brand_new", ""),
    ],
)
def test_the_check_catches_a_breach(module: str, source: str) -> None:
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("p2pd.core.lookup", "import random\ndef f(rng: random.Random): return rng.random()"),
        ("p2pd.core.lookup", "from random import Random"),
        ("p2pd.core.lookup", "from p2pd.wire import messages"),
        ("p2pd.node.node", "import random\nrandom.random()"),
        ("p2pctl.cli", "from p2pd import __version__"),
        ("p2pd.wire.codec", "from .messages import Ping"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert breaches(module, source) == []
