"""What the tests with real daemons share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.daemons import Daemon, Namespace, reason_to_skip

# Below the range of ports that the kernel gives to outgoing connections: those may hold any of it.
FIRST_PORT = 21001


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
        daemon.kill()
        if daemon.log_file.exists():
            print(f"--- {daemon.name}\n{daemon.log_file.read_text()}")
