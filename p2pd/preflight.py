"""What the configuration names on this host: looked for before a node starts, and on reload."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from p2pd import paths
from p2pd.config import Config
from p2pd.control.endpoint import group_number
from p2pd.errors import ConfigError


def host_problems(config: Config, control_path: Path) -> list[str]:
    """Look for what the configuration names on this host.

    Returns everything that would keep a node from running, one line each.
    """
    problems: list[str] = []
    checks: list[Callable[[], object]] = [partial(paths.check_socket_path, control_path)]
    if config.node.network_key_file:
        from p2pd.state import load_network_key  # noqa: PLC0415 - start-up time

        checks.append(partial(load_network_key, config.node.network_key_file))
    if config.control.group:
        checks.append(partial(group_number, config.control.group))
    for each in checks:
        try:
            each()
        except ConfigError as error:
            problems += error.problems
    return problems
