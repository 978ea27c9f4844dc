"""`p2pctl doctor` names the cause right, on hosts that are broken in one way each."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pd.state import load_identity
from tests.e2e.daemons import Daemon, until
from tests.e2e.hosts import IN, OUT, Ground, Host, Lan, reason_to_skip_hosts
from tests.e2e.test_finding import know_each_other, start_all

pytestmark = pytest.mark.e2e

HOUR = 3600


def examined(daemon: Daemon, *flags: str) -> dict[str, Any]:
    """What the doctor says; its exit code fits that."""
    done = daemon.ctl("--json", "doctor", *flags)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stdout
    return found


def problems(daemon: Daemon, *flags: str) -> dict[str, str]:
    """The problems that the doctor finds, by their codes; each has a remedy."""
    findings = examined(daemon, *flags)["findings"]
    found = [each for each in findings if each["level"] == "problem"]
    assert all(each["remedy"] for each in found)
    return {each["code"]: each["text"] for each in found}


class Surroundings:
    """Two healthy nodes on a LAN; beside them, hosts that are broken in one way each."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.lan = ground.lan()
        self.healthy = [ground.host(self.lan).make_daemon() for _ in range(2)]
        self.made: list[Daemon] = []

    def host(self, *lans: Lan) -> Host:
        """A host on the LAN, or on those named."""
        return self.ground.host(*(lans or (self.lan,)))

    def daemon(
        self, *flags: str, host: Host | None = None, state_dir: Path | None = None
    ) -> Daemon:
        """A daemon that ends with the test; on a host of its own if none is named."""
        self.made.append((host or self.host()).make_daemon(*flags, state_dir=state_dir))
        return self.made[-1]

    def meets_all(self, daemon: Daemon) -> None:
        """Wait until a daemon is connected to both."""
        names = {each.name for each in self.healthy}
        until("it is connected to both", lambda: daemon.connected() == names)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    reason = reason_to_skip_hosts()
    if reason is not None:
        pytest.skip(reason)
    ground = Ground(tmp_path_factory.mktemp("ground"))
    try:
        made = Surroundings(ground)
        start_all(made.healthy)
        until("both are connected", know_each_other(made.healthy))
        yield made
    finally:
        ground.close()


@pytest.fixture
def lan(surroundings: Surroundings) -> Iterator[Surroundings]:
    """The surroundings, rid of what a test added."""
    yield surroundings
    for daemon in surroundings.made:
        daemon.end()
    surroundings.made.clear()


def test_all_is_well(lan: Surroundings) -> None:
    daemon = lan.daemon().start()
    lan.meets_all(daemon)
    found = examined(daemon)
    assert found["ok"]
    assert found["daemon"]
    assert {each["level"] for each in found["findings"]} == {"ok"}, found
    checks = ["control", "disk", "interface", "multicast", "identity", "network"]
    checks += ["inbound", "path", "clock", "peers"]
    assert list(dict.fromkeys(each["check"] for each in found["findings"])) == checks
    shown = daemon.ctl("doctor")
    assert shown.returncode == 0
    assert shown.stdout.endswith("all is well\n")


def test_multicast_dropped_by_the_own_firewall(lan: Surroundings) -> None:
    host = lan.host()
    host.drop_multicast()
    daemon = lan.daemon(host=host).start()
    lan.meets_all(daemon)
    found = problems(daemon)
    assert set(found) == {"multicast.dropped"}
    assert "the firewall of this host drops incoming multicast" in found["multicast.dropped"]
    assert problems(lan.healthy[0]) == {}


def test_multicast_not_let_out_by_the_own_firewall(lan: Surroundings) -> None:
    host = lan.host()
    host.drop_multicast(OUT)
    found = problems(lan.daemon(host=host).start())
    assert set(found) == {"multicast.not_sent"}
    assert "not permitted" in found["multicast.not_sent"]


def test_multicast_dropped_between(lan: Surroundings) -> None:
    switch = lan.ground.lan(v6=False)
    closed = lan.host(switch)
    closed.drop_multicast(IN, OUT)
    daemon, other = lan.daemon(host=lan.host(switch)), lan.daemon(host=closed)
    start_all([daemon, other])
    assert set(problems(daemon)) == {"peers.none"}
    other.call("connect", address=daemon.address)
    found = {each["code"]: each["text"] for each in examined(daemon)["findings"]}
    assert f"not even {closed.address}, though connected" in found["multicast.unanswered"]


def test_inbound_tcp_dropped(lan: Surroundings) -> None:
    host = lan.host()
    host.drop_inbound_tcp()
    daemon = lan.daemon(host=host).start()
    lan.meets_all(daemon)
    found = problems(daemon)
    assert set(found) == {"inbound.dropped"}
    assert "firewall" in found["inbound.dropped"]


def test_large_packets_dropped_on_the_way(lan: Surroundings) -> None:
    host = lan.host()
    host.drop_longer_than(1000)
    daemon = lan.daemon(host=host).start()
    lan.meets_all(daemon)
    found = {each["code"]: each["level"] for each in examined(daemon)["findings"]}
    assert found["path.large"] == "problem"
    assert found["inbound.ok"] == "ok"


def test_an_interface_that_does_not_exist(lan: Surroundings) -> None:
    daemon = lan.daemon("--set", "discovery.multicast.interfaces=['eth9']").start()
    found = problems(daemon)
    assert set(found) == {"interface.missing"}
    assert "eth9" in found["interface.missing"]
    assert "other nodes answer on lan0" in found["interface.missing"]
    assert daemon.connected() == set()


def test_an_interface_that_is_not_that_of_the_others(lan: Surroundings) -> None:
    host = lan.host(lan.lan, lan.ground.lan())
    only = ("--set", "discovery.multicast.interfaces=['lan1']")
    daemon = lan.daemon(*only, host=host).start()
    found = problems(daemon)
    assert set(found) == {"interface.wrong"}
    assert "other nodes answer on lan0" in found["interface.wrong"]
    assert daemon.connected() == set()


def test_two_nodes_with_one_identity(lan: Surroundings, tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    load_identity(first, difficulty=8)
    shutil.copytree(first, copy)
    twins = [lan.daemon(state_dir=first), lan.daemon(state_dir=copy)]
    start_all(twins)
    for twin in twins:
        found = problems(twin)
        assert set(found) == {"identity.clash"}


def test_a_clock_an_hour_off(lan: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {HOUR}\n"
    )
    daemon = lan.daemon()
    daemon.environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    daemon.start()
    lan.meets_all(daemon)
    found = problems(daemon)
    assert set(found) == {"clock.wrong"}
    assert "60 min ahead of those of 2 of 2 peers" in found["clock.wrong"]
    others = {each["code"]: each["text"] for each in examined(lan.healthy[0])["findings"]}
    assert daemon.name in others["clock.peer"]


def test_seeds_that_are_unreachable(lan: Surroundings) -> None:
    nobody = f"{lan.host().address}:41000"
    seeds = [lan.healthy[0].address, nobody, "no.invalid:41000"]
    found = problems(lan.daemon("--set", f"discovery.seeds={seeds}").start())
    assert set(found) == {"seed.unreachable", "seed.unresolved"}
    assert nobody in found["seed.unreachable"]
    assert "no.invalid" in found["seed.unresolved"]


def test_a_network_key_that_is_not_that_of_the_others(lan: Surroundings, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    found = problems(lan.daemon("--set", f"node.network_key_file='{key}'").start())
    assert set(found) == {"network.key"}
    assert "does not hold the same network key" in found["network.key"]
    assert problems(lan.healthy[0]) == {}


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system with room for 4 MiB."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "p2pd-test", str(place)]
    subprocess.run(mount, check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=10)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return


def test_a_full_disk(lan: Surroundings, tmp_path: Path) -> None:
    place = tmp_path / "small"
    with small_disk(place):
        daemon = lan.daemon(state_dir=place).start()
        lan.meets_all(daemon)
        fill(place)
        assert set(problems(daemon)) == {"disk.full"}
        daemon.kill()
        without = problems(daemon, "--state-dir", str(place))
        assert set(without) == {"disk.full", "control.unreachable"}


def test_a_daemon_that_hangs_and_one_that_is_gone(lan: Surroundings) -> None:
    daemon = lan.daemon().start()
    daemon.signal(signal.SIGSTOP)
    flags = ("--state-dir", str(daemon.state_dir), "--timeout", "0.5")
    found = examined(daemon, *flags)
    assert not found["daemon"]
    [silent] = [each for each in found["findings"] if each["level"] == "problem"]
    assert silent["code"] == "control.silent"
    assert f"process {daemon.pid}" in silent["text"]
    assert "is stopped" in silent["text"]
    assert silent["remedy"].endswith(f"`kill -CONT {daemon.pid}`")
    daemon.kill()
    assert set(problems(daemon, *flags)) == {"control.unreachable"}
