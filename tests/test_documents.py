"""What the documents name must exist: events, exit codes, tests, files, headings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin, get_type_hints, is_typeddict

import pytest

from p2pctl.arguments import UsageError
from p2pd.control import results
from p2pd.errors import P2PError

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def emitted() -> set[str]:
    """The codes of all events, from the calls of `emit` (and of `_tell`) in the source."""
    calls = (
        node
        for path in (ROOT / "p2pd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"emit", "_tell"}
    )
    # The code may be one of two (`a if x else b`), and may come behind the peer.
    return {
        each.value
        for call in calls
        for argument in call.args[:2]
        for each in ast.walk(argument)
        if isinstance(each, ast.Constant)
        and isinstance(each.value, str)
        and re.fullmatch(r"bug|[a-z_]+\.[a-z_]+", each.value)
    }


def diagnosed() -> set[str]:
    """The codes of all findings of the doctor, from the literals in its source."""
    files = [
        *(ROOT / "p2pd" / "core").glob("*diagnosis.py"),
        *map((ROOT / "p2pctl").joinpath, ("doctor.py", "local_checks.py")),
    ]
    code = re.compile(
        r"(control|config|disk|interface|multicast|identity|network|inbound|path|clock|peers)\.(?!json)[a-z_]+"
    )
    literals = {
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    # Of seeds and bootstrap addresses the first half is a variable.
    halves = {each for each in literals if each in {".unresolved", ".unreachable", ".untested"}}
    targets = {f"{check}{half}" for check in ("seed", "bootstrap") for half in halves}
    return {each for each in literals if code.fullmatch(each)} | targets


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_event_is_explained() -> None:
    table = OPERATIONS.partition("| event | level |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_.]+)`", table, re.MULTILINE)) == emitted()


def test_every_finding_is_explained() -> None:
    table = OPERATIONS.partition("| code | what it means |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = {each for row in rows for each in re.findall(r"`([a-z_.]+)`", row)}
    assert explained == {each for each in diagnosed() if not each.endswith(".ok")}


def test_every_exit_code_is_explained() -> None:
    table = OPERATIONS.partition("| `p2pctl` | |")[2].partition("\n\n")[0]
    shown = {int(each) for each in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    kinds = [P2PError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert shown >= {0, *(kind.exit_code for kind in kinds)}


def fields(kind: type, prefix: str = "") -> Iterator[str]:
    """The names of what an answer holds, those within others after their dot."""
    for name, hint in get_type_hints(kind).items():
        listed = get_origin(hint) is list
        inner = get_args(hint)[0] if listed else hint
        if is_typeddict(inner):
            yield from fields(inner, f"{prefix}{name}{'[]' if listed else ''}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("status", results.StatusResult),
        ("peers", results.PeerJson),
        ("connect", results.ConnectResult),
        ("disconnect", results.DisconnectResult),
        ("ping", results.PingResult),
        ("echo", results.EchoResult),
        ("put", results.PutResultJson),
        ("get", results.GetResultJson),
        ("lookup", results.LookupResultJson),
        ("publish", results.PublishResult),
        ("subscribe", results.MessageJson),
        ("why", results.WhyResultJson),
        ("doctor", results.DoctorResultJson),
        ("watch", results.EventJson),
        ("stop", results.StopResult),
    ],
)
def test_every_field_of_the_json_is_explained(command: str, kind: type) -> None:
    table = OPERATIONS.partition("| command | fields |")[2].partition("\n\n")[0]
    [row] = [line for line in table.splitlines() if line.startswith(f"| `{command}` |")]
    named = re.findall(r"`([a-z0-9_.\[\]]+)`", re.sub(r"\([^)]*\)", "", row))
    assert {each for each in named if each not in {command, "answered", "null"}} == {*fields(kind)}


def test_every_error_code_is_explained() -> None:
    table = OPERATIONS.partition("| code | exit | what it means |")[2].partition("\n\n")[0]
    explained = {
        code: int(exit_code)
        for codes, exit_code in re.findall(r"^\| (`[^|]+`) \| (\d) \|", table, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert issubclass(UsageError, P2PError)
    kinds: list[type[P2PError]] = [P2PError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert explained == {kind.code: kind.exit_code for kind in kinds}


def test_every_step_of_why_is_explained() -> None:
    source = "".join((ROOT / "p2pd/node" / each).read_text() for each in ("why.py", "liveness.py"))
    codes = re.findall(r'WhyStep\(\s*[^"]*?"([a-z_.]+)"', source)
    assert len(codes) > 5
    assert all(f"`{each}`" in OPERATIONS for each in codes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page.name}: no file {file}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files} | {
        name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    for name in re.findall(r"\btest_\w+", page.read_text()):
        prefix = name.endswith("_")  # as in `test_any_bytes_...`
        assert any(each.startswith(name) if prefix else each == name for each in known), name
