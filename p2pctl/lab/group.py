"""What the experiments work with: the lab's settings and place, and groups of daemons in it."""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import attrs

from p2pctl.lab.daemons import Daemon
from p2pctl.lab.networks import Ear, Loopback, Network
from p2pd.errors import P2PError

# On top of the wait for a beacon: for starts, dials and verdicts, also on a busy machine.
_PATIENCE_SECONDS: Final = 20.0
_PATIENCE_PER_NODE: Final = 4.0
_LOOK_SECONDS: Final = 0.01
# A beacon comes up to 10 % after its interval.
_LATE: Final = 1.1
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_DEFERRED: Final = (signal.SIGINT, *_ENDING)

Waiting = Callable[[str, float, float], None]
"""Told what is waited for, the seconds so far, and the most that it may take."""


@attrs.frozen
class Settings:
    """What the user chose; intervals in seconds."""

    nodes: int
    interval: float
    short_interval: float
    passive: bool


class Lab:
    """A directory and a loopback; all daemons end with it. Get one from `open_lab`."""

    def __init__(
        self, settings: Settings, directory: Path, loopback: Loopback, waiting: Waiting
    ) -> None:
        self.settings = settings
        self.loopback = loopback
        self._directory = directory
        self._waiting = waiting
        self._groups = 0
        self._daemons: list[Daemon] = []

    @contextmanager
    def group(
        self,
        *,
        passive: bool | None = None,
        interval: float | None = None,
        multicast: bool = True,
    ) -> Iterator["Group"]:
        """Begin a network of its own, without daemons yet. Its daemons end with the `with`.

        `passive` and `interval` are the lab's unless they are given.
        """
        settings = self.settings
        passive = settings.passive if passive is None else passive
        interval = settings.interval if interval is None else interval
        self._groups += 1
        common = [
            *("--set", f'node.network="lab-{self._groups}"'),
            *("--set", f"discovery.multicast.enabled={str(multicast).lower()}"),
            *("--set", f"discovery.multicast.passive={str(passive).lower()}"),
            *("--set", f"discovery.multicast.interval={interval}"),
            # Everybody with everybody, and no proof of work to wait for.
            *("--set", f"connections.target={2 * settings.nodes}"),
            *("--set", f"connections.max_per_ip={4 * settings.nodes}"),
            *("--set", "identity.difficulty=8"),
        ]
        directory = self._directory / str(self._groups)
        directory.mkdir()
        for_beacon = _LATE * interval if passive and multicast else 0.0
        patience = for_beacon + _PATIENCE_SECONDS + _PATIENCE_PER_NODE * settings.nodes
        with self.loopback.ear() as ear:
            group = Group(self, ear, directory, common, patience)
            try:
                yield group
            finally:
                self.end(group.daemons)

    def add(self, daemon: Daemon) -> None:
        """Take over the ending of a daemon."""
        self._daemons.append(daemon)

    def end(self, daemons: Sequence[Daemon]) -> None:
        """End some daemons at once."""
        for each in daemons:
            each.send(signal.SIGKILL)
        for each in daemons:
            each.reap()
            self._daemons.remove(each)

    def close(self) -> None:
        """End all daemons, and remove what they wrote."""
        self.end(list(self._daemons))
        self.loopback.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def wait(self, what: str, probe: Callable[[], bool], patience: float) -> None:
        """Wait until `probe` holds; raises `P2PError` after `patience` seconds."""
        started = time.monotonic()
        while not probe():
            elapsed = time.monotonic() - started
            if elapsed > patience:
                advice = "on a busy machine, try fewer --nodes"
                raise P2PError(f"not within {patience:.0f} s: {what}; {advice}")
            self._waiting(what, elapsed, patience)
            time.sleep(_LOOK_SECONDS)


@contextmanager
def open_lab(settings: Settings, waiting: Waiting) -> Iterator[Lab]:
    """Make a lab, and leave nothing behind at its end.

    SIGTERM and SIGHUP end it as Ctrl-C does, but with `SystemExit`. `waiting` is called
    many times a second while something is waited for.
    """
    # What nohup(1) ignores stays ignored.
    heeded = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, _leave) for number in heeded}
    lab = None
    try:
        loopback = Loopback()
        directory = _make_directory()
        lab = Lab(settings, directory, loopback, waiting)
        yield lab
    finally:
        # An impatient second signal must not cut this short.
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED)
        try:
            if lab is not None:
                lab.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFERRED)


def _make_directory() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="p2pd-lab-"))
    except OSError as error:
        raise P2PError(
            f"can't make a directory for the lab: {error}; name another place with TMPDIR"
        ) from None


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


class Group:
    """Daemons of one network; get one from `Lab.group`."""

    def __init__(
        self, lab: Lab, ear: Ear, directory: Path, common: list[str], patience: float
    ) -> None:
        self.daemons: list[Daemon] = []
        self._lab = lab
        self._ear = ear
        self._directory = directory
        self._common = common
        self._patience = patience

    def add(self, name: str, *flags: str, network: Network | None = None) -> Daemon:
        """Make a daemon, on the lab's loopback unless `network` is given; it is not started."""
        on = self._lab.loopback if network is None else network
        daemon = Daemon(on, self._directory, name, *self._common, *flags)
        self.daemons.append(daemon)
        self._lab.add(daemon)
        return daemon

    def remove(self, daemon: Daemon) -> None:
        """End a daemon for good."""
        self._lab.end([daemon])
        self.daemons.remove(daemon)

    def fill(self) -> "Group":
        """Make as many daemons as the settings say: `node1` and so on."""
        for number in range(1, self._lab.settings.nodes + 1):
            self.add(f"node{number}")
        return self

    def launch(self, *daemons: Daemon) -> None:
        """Start these daemons, all if none is named, and wait until everybody is connected."""
        for each in daemons or self.daemons:
            each.launch()
        self.wait("all are connected", self.is_complete)

    def is_complete(self) -> bool:
        """Whether each is connected to each."""
        return all(each.linked(self.others(each)) for each in self.daemons)

    def others(self, *daemons: Daemon) -> list[Daemon]:
        """All but these."""
        return [each for each in self.daemons if each not in daemons]

    def wait(self, what: str, probe: Callable[[], bool]) -> None:
        """Wait until `probe` holds for what the daemons logged; raises `P2PError` if too long."""

        def looked() -> bool:
            for each in self.daemons:
                each.look()
            self._ear.listen()
            return probe()

        self._lab.wait(what, looked, self._patience)

    @property
    def beacons(self) -> int:
        """How many beacons were heard on the loopback so far."""
        return self._ear.count
