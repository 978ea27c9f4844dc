"""A daemon for the client to talk to: the real control server in a thread, a fake node."""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import pytest
import trio

from p2pd.control.server import serve_control
from tests.control.fake_node import FakeNode

T = TypeVar("T")


class Daemon:
    """The fake node and the path of its socket; `run` acts in the node's own thread."""

    def __init__(self, node: FakeNode, path: Path, token: trio.lowlevel.TrioToken) -> None:
        self.node = node
        self.path = path
        self._token = token

    def run(self, act: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(act, trio_token=self._token)

    async def subscriber(self) -> None:
        """Wait until somebody is subscribed to the node's events or messages."""
        with trio.fail_after(10):
            while not (self.node.events._sinks or self.node.audience):
                await trio.lowlevel.checkpoint()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    node, path = FakeNode(), tmp_path / "p2pd.sock"
    ready: SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_control, node, path, mode=0o600, group=None))
            ready.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    token, scope = ready.get(timeout=10)
    monkeypatch.setenv("P2PCTL_SOCKET", str(path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield Daemon(node, path, token)
    token.run_sync_soon(scope.cancel)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the client away from any daemon that really runs here."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path / "run"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("P2PCTL_SOCKET", raising=False)
    # It would flush for the client what the client must flush itself.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
