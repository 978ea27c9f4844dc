"""What the daemon was asked to be; reads its configuration, at start and on reload."""

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from p2pd import paths
from p2pd.config import Config
from p2pd.config_file import read

MAX_FILE_BYTES = 1 << 20


@attrs.frozen
class Invocation:
    """What the daemon was asked to be. All paths are absolute; none is created yet.

    `config` is in effect: defaults, file, flags and `--set` merged, and a name chosen.
    `overrides` is what flags and `--set` said, by dotted path.
    """

    config: Config
    instance: str
    state_dir: Path
    control_path: Path
    config_file: Path | None
    overrides: Mapping[str, object]


def reread_config(invocation: Invocation) -> tuple[Config, list[str]]:
    """Read the configuration again, from the same file and under the same flags.

    `config_file.after_reload` says what of it a running node can adopt. Also returns all
    problems: with any, the running configuration stays in effect.
    """
    return read_config(invocation.config_file, invocation.overrides, invocation.instance)


def read_config(
    file: Path | None, overrides: Mapping[str, object], instance: str
) -> tuple[Config, list[str]]:
    """Read a file (None: the defaults) under these overrides.

    A node without a name is named after its host and instance. Also returns all problems, one
    line each: what has one is left at its default.
    """
    content, source, unread = b"", "the configuration", list[str]()
    if file is not None:
        source = f"the configuration {str(file)!a}"
        try:
            with file.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            unread = [f"can't read {source}: {reason}"]
        if len(content) > MAX_FILE_BYTES:
            content, unread = b"", [f"{str(file)!a} has over {MAX_FILE_BYTES} bytes, too many"]
    config, problems = read(content, overrides, source=source)
    named = config if config.node.name else _named_after_host(config, instance)
    return named, unread + problems


def _named_after_host(config: Config, instance: str) -> Config:
    """Choose a name: several nodes of a host are told apart by their instances."""
    name = os.uname().nodename
    if instance != paths.DEFAULT_INSTANCE:
        name = f"{name}-{instance}"
    try:
        node = attrs.evolve(config.node, name=name)
    except ValueError:  # too long or not printable, which the kernel allows
        node = attrs.evolve(config.node, name="p2pd")
    return attrs.evolve(config, node=node)
