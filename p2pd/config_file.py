"""The configuration as TOML: strict when read, complete when written."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import attrs

from p2pd.config import Config, keys, value_at
from p2pd.errors import ConfigError
from p2pd.rules import show
from p2pd.typos import nearest

_BARE_PATH = re.compile(r"[A-Za-z0-9_.-]{1,80}")

# Pairs of keys of which the first may not exceed the second.
ORDERED = (
    ("connections.backoff_min", "connections.backoff_max"),
    ("liveness.ping_timeout", "liveness.ping_interval"),
    ("dht.alpha", "dht.k"),
    ("dht.replication", "dht.k"),
    ("dht.write_quorum", "dht.replication"),
    ("dht.read_quorum", "dht.replication"),
    ("store.max_value_bytes", "store.max_bytes"),
)


def load(
    toml: str | bytes = "",
    overrides: Mapping[str, object] | None = None,
    *,
    source: str = "the configuration",
) -> Config:
    """Read a configuration from TOML, as `read` does; raises `ConfigError` with all problems."""
    config, problems = read(toml, overrides, source=source)
    if problems:
        raise ConfigError(*problems)
    return config


def read(
    toml: str | bytes, overrides: Mapping[str, object] | None = None, *, source: str
) -> tuple[Config, list[str]]:
    """Read a configuration from TOML; `overrides`, by dotted path, win over it.

    Also returns all problems, one line each: what has one is left at its default. A text that is
    not TOML is called `source`.
    """
    lines: list[str] = []
    problems: dict[str, str] = {}
    tree: dict[str, Any] = {}
    try:
        tree = _parse(toml)
    except ValueError as error:
        lines.append(f"{source} is not valid TOML: {error}")
    known = keys()
    for path, value in (overrides or {}).items():
        if path in known:
            _graft(tree, path, value)
        else:
            problems[_shown_path(path)] = _unknown(path)
    config: Config = _structure(Config, tree, "", problems)
    problems |= _contradictions(config, problems)
    return config, lines + [f"{path}: {problem}" for path, problem in problems.items()]


def effective(config: Config) -> str:
    """Render a configuration as TOML with every key; `load` reads it back unchanged."""
    lines: list[str] = []
    section = ""
    for path in keys():
        parent, _, name = path.rpartition(".")
        if parent != section:
            section = parent
            lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        lines.append(f"{name} = {to_toml(value_at(config, path))}")
    return "\n".join(lines) + "\n"


def to_toml(value: object) -> str:
    """Write one value of the configuration as TOML does."""
    if isinstance(value, tuple):
        return "[" + ", ".join(to_toml(each) for each in value) + "]"
    # The strings in a configuration are printable, and JSON writes those as TOML does.
    return json.dumps(value, ensure_ascii=False)


def after_reload(running: Config, fresh: Config) -> tuple[Config, tuple[str, ...]]:
    """Return what is in effect after SIGHUP: `running` with the changes that a reload can make.

    Also returns the paths of the changed keys that need a restart.
    """
    tree: dict[str, Any] = {}
    pending = []
    for path, about in keys().items():
        now, wanted = value_at(running, path), value_at(fresh, path)
        _graft(tree, path, wanted if about["reload"] else now)
        if now != wanted and not about["reload"]:
            pending.append(path)
    config: Config = _structure(Config, tree, "", {})
    return config, tuple(pending)


def _parse(toml: str | bytes) -> dict[str, Any]:
    """Read TOML; raises `ValueError` that says in printable text what is wrong with it."""
    try:
        return tomllib.loads(toml.decode("utf-8-sig") if isinstance(toml, bytes) else toml)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        reason = "".join(each if each.isprintable() else "?" for each in str(error))
        raise ValueError(reason) from None
    except ValueError:  # `int` takes some thousands of digits
        raise ValueError("an integer has too many digits") from None


def _graft(tree: dict[str, Any], path: str, value: object) -> None:
    """Put a known key into the tables of a TOML document."""
    *sections, name = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            return  # what is in the section's place is reported by itself
    tree[name] = value


def _structure(
    section: type[Any], table: dict[str, Any], prefix: str, problems: dict[str, str]
) -> Any:
    """Build a section from its table; mistakes go to `problems` under their paths."""
    fields = {field.name: field for field in attrs.fields(section)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        path = _shown_path(prefix + name) if "." not in name else prefix + show(name)
        field = fields.get(name)
        if field is None:
            problems[path] = _unknown(path)
        elif "rule" in field.metadata:
            try:
                values[name] = field.metadata["rule"](value)
            except ValueError as error:
                problems[path] = str(error)
        elif isinstance(value, dict):
            values[name] = _structure(field.type, value, f"{path}.", problems)
        else:
            problems[path] = f"expected a section, [{path}], not {show(value)}"
    return section(**values)


def _contradictions(config: Config, problems: Mapping[str, str]) -> dict[str, str]:
    """Find keys that contradict each other, among those that are valid by themselves."""
    found = {}
    for lesser, greater in ORDERED:
        if lesser not in problems and greater not in problems:
            low, high = value_at(config, lesser), value_at(config, greater)
            if low > high:
                found[lesser] = f"expected at most {greater}, which is {high}, not {low}"
    return found


def _shown_path(path: str) -> str:
    return path if _BARE_PATH.fullmatch(path) else show(path)


def _unknown(path: str) -> str:
    """Say that there is no such key, and which one may have been meant."""
    known = list(keys())
    sections = list(dict.fromkeys(each.rpartition(".")[0] for each in known))
    if path in sections:
        key = next(each for each in known if each.rpartition(".")[0] == path)
        return f"this is a section, not a key: set one of its keys, such as {key}"
    section, _, name = path.rpartition(".")
    if section in sections:
        here = [each for each in known + sections if each.rpartition(".")[0] == section]
        near = nearest(path.lower(), here)
        if near is None:
            # The same name elsewhere means something else.
            return (
                f"unknown key; {section} has {', '.join(each[len(section) + 1 :] for each in here)}"
            )
        return f"unknown key; did you mean {near}?"
    names = {each.rpartition(".")[2]: each for each in reversed(known)}
    near = None
    if "." not in path:
        inner = {each.rpartition(".")[2]: each for each in reversed(sections)}
        near = nearest(path, sections) or inner.get(nearest(path, inner) or "")
    near = near or nearest(path, known) or names.get(nearest(name.lower(), names) or "")
    return f"unknown key; did you mean {near}?" if near else "unknown key"
