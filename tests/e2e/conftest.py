"""What the tests with real daemons share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.daemons import FIRST_PORT, Daemon, Namespace, reason_to_skip
from tests.e2e.hosts import Ground, reason_to_skip_hosts


class MakeDaemon(Protocol):
    """Makes a daemon in the test's namespace; it ends with the test."""

    def __call__(
        self, name: str, *flags: str, port: int | None = None, state_dir: Path | None = None
    ) -> Daemon: ...


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network with nothing but a loopback."""
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def make_daemon(namespace: Namespace, tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes daemons; their logs are shown where the test fails."""
    made: list[Daemon] = []

    def make(
        name: str, *flags: str, port: int | None = None, state_dir: Path | None = None
    ) -> Daemon:
        number = FIRST_PORT + len(made) if port is None else port
        daemon = Daemon(namespace, tmp_path, name, number, *flags, state_dir=state_dir)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """Nothing yet: LANs, hosts and routers are made on it."""
    reason = reason_to_skip_hosts()
    if reason is not None:
        pytest.skip(reason)
    made = Ground(tmp_path)
    yield made
    made.close()
