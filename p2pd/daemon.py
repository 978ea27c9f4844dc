"""The daemon: a node on the real network and the real disk, under signals and systemd.

::

    signals                      first SIGTERM / SIGINT: leave; second: at once; SIGHUP: reload
    `- store
       `- node                   says goodbye when the body ends
          |- control socket
          `- watchdog
"""

import errno
import faulthandler
import gc
import logging
import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import trio

from p2pd import __version__, logs, paths, state
from p2pd.config_file import after_reload
from p2pd.control.server import serve_control
from p2pd.errors import P2PError, StartError
from p2pd.heap import keep_trimmed
from p2pd.invocation import Invocation, reread_config
from p2pd.net.certificate import make_tls_contexts
from p2pd.net.real import RealNetwork
from p2pd.node.alarms import Alarms
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.node import Node, open_node
from p2pd.notify import Manager, watchdog_interval
from p2pd.preflight import host_problems
from p2pd.store.sqlite import SqliteStore, open_sqlite_store

_TERMINAL = "/dev/tty"  # that of this process; see tty(4)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between two requests for more time; each asks for twice as many.
_ASK_AGAIN = 10
# What a node without a connection has open, and some to spare: with fewer, a start fails wherever
# they happen to run out.
_LEAST_DESCRIPTORS = 32


def run(invocation: Invocation) -> int:
    """Run a node until it is told to stop.

    Returns 0 after a graceful stop, 1 after a forced one or a bug. Raises `StartError`,
    `ConfigError` or another `P2PError` if the node can't run as it is told to.
    """
    # The watchdog kills with SIGABRT: the journal then shows where the node hung.
    if sys.stderr is not None:  # it may be closed
        faulthandler.enable()
    # The files are private even in an existing state directory that is not.
    os.umask(0o077)
    _check_descriptors()
    with logs.logging_to(invocation.config.log, invocation.instance):
        paths.make_state_directory(invocation.state_dir)
        paths.make_socket_directory(invocation.control_path, os.getuid())
        with state.locked(invocation.state_dir):
            daemon = Daemon(invocation)
            try:
                trio.run(daemon.run)
            except BaseExceptionGroup as group:
                reason = _reason(group)
                if reason is not None:
                    raise reason from None
                logging.getLogger(__name__).critical("a bug stops p2pd", exc_info=group)
                return 1
            return daemon.exit_code


class Daemon:
    """One run of the daemon."""

    def __init__(self, invocation: Invocation) -> None:
        self.exit_code = 0
        # It forks, so it comes before there are threads.
        self._tls = make_tls_contexts()
        self._invocation = invocation
        self._config = invocation.config
        self._events = Events(time.time)
        self._alarms = Alarms()
        self._node: Node | None = None
        self._manager = Manager()
        self._manager_hears = True
        # A process started by nohup(1), or in the background, is meant to outlive its terminal.
        ignores = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._follows_terminal = not ignores and _is_in_foreground()
        self._starting = trio.CancelScope()
        self._everything = trio.CancelScope()

    async def run(self) -> None:
        """Run everything, from the first line of the log to the last."""
        with closing(self._manager), self._events.sent_to(logs.EventLog().take):
            with self._everything:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._handle_signals)
                    nursery.start_soon(self._ask_for_time)
                    nursery.start_soon(self._alarms.run)
                    async with self._open_store() as store:
                        await self._run_node(store)
                    nursery.cancel_scope.cancel()
            self._events.emit("node.stopped", "stopped")

    async def _run_node(self, store: SqliteStore) -> None:
        invocation, config = self._invocation, self._config
        directory = invocation.state_dir
        # The proof of work may take minutes, in which signals are heard and systemd asked for time.
        identity = await trio.to_thread.run_sync(
            state.load_identity, directory, config.identity.difficulty, abandon_on_cancel=True
        )
        env = Env(
            network=RealNetwork(self._tls),
            store=store,
            alarms=self._alarms,
            identity=identity,
            rng=random.Random(os.urandom(32)),  # noqa: S311 - for choices; secrets come from `entropy`
            entropy=os.urandom,
            wall_clock=time.time,
            network_key=state.load_network_key(config.node.network_key_file),
        )
        async with (
            open_node(config, env, self._events, instance=invocation.instance) as node,
            trio.open_nursery() as nursery,
        ):
            self._node = node
            self._look_at_modes(config.node.network_key_file)
            await nursery.start(self._serve_control, node)
            nursery.start_soon(self._feed_watchdog)
            nursery.start_soon(keep_trimmed)
            self._say_ready(node)
            await node.stopping.wait()
            self._tell_manager("STOPPING=1")
            self._events.emit("node.stopping", "leaving: telling the peers and saving the registry")
            nursery.cancel_scope.cancel()

    def _look_at_modes(self, key_file: str) -> None:
        directory = self._invocation.state_dir
        if state.is_identity_exposed(directory):
            text = (
                f"other users of this host can take or replace the private key in {directory}, "
                f"and pass for this node: chmod -R go= {directory}"
            )
            self._events.emit("node.identity_exposed", text, level=logging.WARNING)
        if key_file and state.is_readable_by_all(key_file):
            text = (
                f"every user of this host can read {key_file}, and enter the network with it: "
                f"chmod o= {key_file}"
            )
            self._events.emit("node.key_exposed", text, level=logging.WARNING)

    async def _serve_control(
        self, node: Node, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        control = self._config.control
        await serve_control(
            node,
            self._invocation.control_path,
            mode=int(control.mode, 8),
            group=control.group or None,
            task_status=task_status,
        )

    def _say_ready(self, node: Node) -> None:
        shown = node.snapshot()
        where = ", ".join(shown.listen)
        self._events.emit(
            "node.started",
            f"p2pd {__version__}: node {shown.name} ({shown.node_id[:12]}) of network "
            f"{shown.network!r} listens on {where}; control socket "
            f"{self._invocation.control_path}",
            node_id=shown.node_id,
        )
        # The objects that exist now will stay: collections need not look at them.
        gc.collect()
        gc.freeze()
        self._starting.cancel()
        self._tell_manager("READY=1", f"STATUS=Listening on {where}")

    async def _ask_for_time(self) -> None:
        """Keep the manager waiting while the database is read, however long that takes."""
        with self._starting:
            while True:
                self._tell_manager(
                    f"EXTEND_TIMEOUT_USEC={2 * _ASK_AGAIN * 1_000_000}",
                    "STATUS=Starting: reading and checking the database",
                )
                await trio.sleep(_ASK_AGAIN)

    async def _feed_watchdog(self) -> None:
        interval = watchdog_interval()
        if interval is None:
            return
        while True:
            self._tell_manager("WATCHDOG=1")
            await trio.sleep(interval)

    def _tell_manager(self, *lines: str) -> None:
        # As sd_notify(3) advises: a variable left over from another service must not stop the node.
        try:
            self._manager.tell(*lines)
        except OSError as error:
            if self._manager_hears:
                self._events.emit(
                    "manager.unreachable",
                    f"can't notify the service manager: {error.strerror or error}; "
                    "unset NOTIFY_SOCKET if p2pd does not run as a service",
                    level=logging.WARNING,
                )
            self._manager_hears = False
        else:
            self._manager_hears = True

    @asynccontextmanager
    async def _open_store(self) -> AsyncIterator[SqliteStore]:
        path = self._invocation.state_dir / state.DATABASE_FILE
        async with open_sqlite_store(path, self._config.store.max_bytes) as store:
            if store.quarantined is not None:
                self._events.emit(
                    "store.quarantined",
                    f"the database {path} was damaged: it lies at {store.quarantined} now, and "
                    "this node begins an empty one; other replicas still have its records",
                    level=logging.ERROR,
                    path=str(store.quarantined),
                )
            yield store

    async def _handle_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        # `p2pctl stop` is no signal: the first one after it must not cut the farewell short.
        told_before = False
        with trio.open_signal_receiver(*_SIGNALS) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGHUP and not (self._follows_terminal and _has_hung_up()):
                    self._reload()
                elif self._node is None or told_before:
                    self.exit_code = 0 if self._node is None else 1
                    self._everything.cancel()
                else:
                    told_before = True
                    self._node.stop()

    def _reload(self) -> None:
        if self._node is None:
            return
        self._tell_manager("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        fresh, problems = reread_config(self._invocation)
        path = Path(fresh.control.socket or self._invocation.control_path)
        problems += host_problems(fresh, path)
        if problems:
            self._events.emit(
                "config.refused",
                f"the configuration is not reloaded: {'; '.join(problems)}",
                level=logging.ERROR,
            )
        else:
            self._config, waiting = after_reload(self._config, fresh)
            self._node.reload(self._config)
            logs.set_level(self._config.log.level)
            later = f"; after a restart: {', '.join(waiting)}" if waiting else ""
            self._events.emit(
                "config.reloaded",
                f"the configuration is reloaded{later}",
                level=logging.WARNING if waiting else logging.INFO,
            )
        self._tell_manager("READY=1")


def _check_descriptors() -> None:
    """Raise `StartError` if this process may not open as many files as a node needs."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _LEAST_DESCRIPTORS:
        raise StartError(
            f"this process may have {most} file descriptors, and a node needs "
            f"{_LEAST_DESCRIPTORS} and one for each connection: raise the limit "
            "(`ulimit -n 1024`; in a unit, LimitNOFILE=)"
        )


def _is_in_foreground() -> bool:
    """Whether this process was started in the foreground of a terminal."""
    try:
        terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _has_hung_up() -> bool:
    """Whether the terminal of this process was closed."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _reason(group: BaseExceptionGroup[BaseException]) -> P2PError | None:
    """Return the error that a user can do something about; None if there is a bug."""
    expected, bugs = group.split(P2PError)
    leaf: BaseException | None = expected
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if bugs is None and isinstance(leaf, P2PError) else None
