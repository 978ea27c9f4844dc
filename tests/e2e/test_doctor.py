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

from tests.e2e.daemons import Daemon, until
from tests.e2e.hosts import OUT, Ground
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


def codes(daemon: Daemon) -> set[str]:
    return {each["code"] for each in examined(daemon)["findings"]}


def test_all_is_well(ground: Ground) -> None:
    lan = ground.lan()
    daemons = [ground.host(lan).make_daemon() for _ in range(3)]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons))
    found = examined(daemons[0])
    assert found["ok"]
    assert found["daemon"]
    assert {each["level"] for each in found["findings"]} == {"ok"}, found
    shown = daemons[0].ctl("doctor")
    assert shown.returncode == 0
    assert "all is well" in shown.stdout


def test_multicast_dropped_by_the_own_firewall(ground: Ground) -> None:
    lan = ground.lan()
    daemons = [ground.host(lan).make_daemon() for _ in range(2)]
    ground.hosts[0].drop_multicast()
    start_all(daemons)
    until("the other one dials", know_each_other(daemons))
    found = problems(daemons[0])
    assert set(found) == {"multicast.dropped"}
    assert "firewall of this host" in found["multicast.dropped"]
    assert "lan0" in found["multicast.dropped"]
    assert problems(daemons[1]) == {}


def test_multicast_not_let_out_by_the_own_firewall(ground: Ground) -> None:
    daemon = ground.host(ground.lan()).make_daemon()
    ground.hosts[0].drop_multicast(OUT)
    daemon.start()
    found = problems(daemon)
    assert set(found) == {"multicast.not_sent"}
    assert "not permitted" in found["multicast.not_sent"]


def test_multicast_dropped_between(ground: Ground) -> None:
    lan = ground.lan(v6=False)
    daemons = [ground.host(lan).make_daemon() for _ in range(2)]
    ground.hosts[1].drop_multicast("input", OUT)
    start_all(daemons)
    found = problems(daemons[0])
    assert set(found) == {"peers.none"}
    daemons[1].call("connect", address=daemons[0].address)
    warned = [
        each["text"]
        for each in examined(daemons[0])["findings"]
        if each["code"] == "multicast.unanswered"
    ]
    assert warned
    assert ground.hosts[1].address in warned[0]


def test_inbound_tcp_dropped(ground: Ground) -> None:
    lan = ground.lan()
    daemons = [ground.host(lan).make_daemon() for _ in range(2)]
    ground.hosts[0].drop_inbound_tcp()
    start_all(daemons)
    until("the closed one dials", know_each_other(daemons))
    found = problems(daemons[0])
    assert set(found) == {"inbound.dropped"}
    assert "firewall" in found["inbound.dropped"]
    assert problems(daemons[1]) == {}


def test_an_interface_that_does_not_exist(ground: Ground) -> None:
    lan = ground.lan()
    broken = ground.host(lan).make_daemon("--set", "discovery.multicast.interfaces=['eth9']")
    start_all([broken, ground.host(lan).make_daemon()])
    found = problems(broken)
    assert set(found) == {"interface.missing"}
    assert "eth9" in found["interface.missing"]
    assert "other nodes answer on lan0" in found["interface.missing"]
    assert broken.connected() == set()


def test_an_interface_that_is_not_the_one_of_the_others(ground: Ground) -> None:
    lan, elsewhere = ground.lan(), ground.lan()
    host = ground.host(lan, elsewhere)
    broken = host.make_daemon("--set", "discovery.multicast.interfaces=['lan1']")
    start_all([broken, ground.host(lan).make_daemon()])
    found = problems(broken)
    assert set(found) == {"interface.wrong"}
    assert "other nodes answer on lan0" in found["interface.wrong"]
    assert broken.connected() == set()


def test_two_nodes_with_one_identity(ground: Ground, tmp_path: Path) -> None:
    lan = ground.lan()
    original = ground.host(lan).make_daemon().start()
    assert original.stop() == 0
    copy = tmp_path / "copy"
    shutil.copytree(original.state_dir, copy)
    twins = [original, ground.host(lan).make_daemon(state_dir=copy)]
    start_all(twins)
    for twin, other in zip(twins, reversed(twins), strict=True):
        found = problems(twin)
        assert set(found) == {"identity.clash"}
        assert other.namespace.address in found["identity.clash"] or "fe80" in str(found)


def test_a_clock_an_hour_off(ground: Ground, tmp_path: Path) -> None:
    lan = ground.lan()
    daemons = [ground.host(lan).make_daemon() for _ in range(3)]
    shift = tmp_path / "shift"
    shift.mkdir()
    (shift / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {HOUR}\n"
    )
    daemons[0].environment = {"PYTHONPATH": f"{shift}:{Path(__file__).parents[2]}"}
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons))
    found = problems(daemons[0])
    assert set(found) == {"clock.wrong"}
    assert "60 min ahead of those of 2 of 2 peers" in found["clock.wrong"]
    assert problems(daemons[1]) == {}
    assert "clock.peer" in codes(daemons[1])


def test_a_seed_that_is_unreachable(ground: Ground) -> None:
    lan = ground.lan()
    good = ground.host(lan).make_daemon().start()
    nobody = ground.host(lan).address
    flags = ("--set", f"discovery.seeds=['{good.address}', '{nobody}:41000', 'no.invalid:41000']")
    broken = ground.host(lan).make_daemon(*flags).start()
    found = problems(broken)
    assert set(found) == {"seed.unreachable", "seed.unresolved"}
    assert f"{nobody}:41000" in found["seed.unreachable"]
    assert "no.invalid" in found["seed.unresolved"]


def test_a_network_key_that_is_not_that_of_the_others(ground: Ground, tmp_path: Path) -> None:
    lan = ground.lan()
    daemons = []
    for number, key in enumerate("aab"):
        file = tmp_path / f"{number}.key"
        file.write_text(key * 32)
        daemons.append(ground.host(lan).make_daemon("--set", f"node.network_key_file='{file}'"))
    start_all(daemons)
    until("those with the same key are connected", know_each_other(daemons[:2]))
    found = problems(daemons[2])
    assert set(found) == {"network.key"}
    assert "does not hold the same network key" in found["network.key"]
    assert problems(daemons[0]) == {}


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


def test_a_full_disk(ground: Ground, tmp_path: Path) -> None:
    lan = ground.lan()
    place = tmp_path / "small"
    with small_disk(place):
        daemons = [ground.host(lan).make_daemon(state_dir=place), ground.host(lan).make_daemon()]
        start_all(daemons)
        until("they are connected", know_each_other(daemons))
        fill(place)
        assert set(problems(daemons[0])) == {"disk.full"}
        daemons[0].kill()
        without = problems(daemons[0], "--state-dir", str(place))
        assert set(without) == {"disk.full", "control.unreachable"}


def test_without_an_answer(ground: Ground) -> None:
    daemon = ground.host(ground.lan()).make_daemon().start()
    daemon.signal(signal.SIGSTOP)
    flags = ("--state-dir", str(daemon.state_dir), "--timeout", "0.5")
    found = examined(daemon, *flags)
    assert not found["daemon"]
    [silent] = [each for each in found["findings"] if each["level"] == "problem"]
    assert silent["code"] == "control.silent"
    assert f"process {daemon.pid}" in silent["text"]
    daemon.kill()
    assert set(problems(daemon, *flags)) == {"control.unreachable"}
