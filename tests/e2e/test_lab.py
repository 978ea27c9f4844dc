"""`p2pctl lab` with real daemons: its measurements, and that nothing of it goes out or stays."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pctl.lab.plan import TABLES
from tests.e2e.daemons import Namespace, until
from tests.e2e.hosts import Ground

pytestmark = pytest.mark.e2e

LAB = [sys.executable, "-m", "p2pctl", "lab"]
WITHIN = 150.0
_ETH_P_IP = 0x0800  # linux/if_ether.h


@contextmanager
def lab(
    place: Path, *argv: str, wrapper: tuple[str, ...] = ()
) -> Iterator["subprocess.Popen[str]"]:
    """Start one that keeps its files in `place`; killed at the end, if it is still there."""
    with subprocess.Popen(
        [*wrapper, *LAB, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def daemons_in(place: Path) -> set[int]:
    """The processes that have a file of `place` on their command line."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in command:
            found.add(int(each.name))
    return found


def test_six_tables(namespace: Namespace, tmp_path: Path) -> None:
    options = ("--nodes", "2", "--interval", "1", "--short-interval", "1", "--passive", "--json")
    with namespace.inside(), lab(tmp_path, *options) as process:
        out, error = process.communicate(timeout=WITHIN)
    assert process.returncode == 0, error + out
    assert json.loads(error)["warning"]["code"] == "slow"
    report = json.loads(out)
    assert report["network"] == "namespace"
    tables: dict[str, Any] = report["tables"]
    assert [*tables] == [*TABLES]
    assert not [name for name, table in tables.items() if {"failure", "left_out"} & {*table}]

    for node in (*tables["baseline"]["nodes"], *tables["hosts"]["hosts"]):
        assert 0 < node["first_peer_seconds"] <= node["all_peers_seconds"]
        assert node["ready_seconds"] > 0
        assert sum(node["sources"].values()) == 1
    assert tables["baseline"]["beacons"] >= 1
    by_multicast, by_address = tables["bootstrap"]["ways"]
    assert "multicast" in by_multicast["sources"]
    assert "multicast" not in by_address["sources"]
    assert (by_multicast["beacons"] > 0, by_address["beacons"]) == (True, 0)
    assert [each["passive"] for each in tables["interval"]["ways"]] == [False, False, True, True]
    assert {each["address"] for each in tables["hosts"]["hosts"]} == {
        "192.0.2.1:41000",
        "192.0.2.2:41000",
    }
    assert [each["rtt_ms"] is None for each in tables["hosts"]["hosts"]] == [True, False]
    assert [
        (each["moment"], each["seen_by"], each["status"]) for each in tables["registry"]["sights"]
    ] == [
        ("all connected", "node1", "connected"),
        ("all connected", "node2", "connected"),
        ("node2 stopped", "node1", "disconnected"),
        ("node2 started again", "node1", "connected"),
        ("node2 started again", "node2", "connected"),
        ("node2 killed", "node1", "disconnected"),
        ("node2 held for dead", "node1", "disconnected"),
        ("node2 started again", "node1", "connected"),
        ("node2 started again", "node2", "connected"),
    ]
    departures = tables["churn"]["departures"]
    assert [each["nodes"] for each in departures] == [["node2"], ["node2"], ["newcomer"]]
    assert all(each["dialled"] + each["was_dialled"] == 1 for each in departures)
    assert [*tmp_path.iterdir()] == []
    assert daemons_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_interrupt_leaves_nothing_behind(
    namespace: Namespace, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """After SIGKILL the directory stays: nobody is left to remove it."""
    options = ("--nodes", "2", "--interval", "3600", "--passive")
    with namespace.inside(), lab(tmp_path, *options) as process:
        until("its daemons run", lambda: len(daemons_in(tmp_path)) == 2)
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    assert len(error.splitlines()) == 1, error
    until("its daemons have ended", lambda: not daemons_in(tmp_path))
    assert ([*tmp_path.iterdir()] == []) is (number != signal.SIGKILL)


def test_without_namespaces_nothing_goes_out(ground: Ground, tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    lan = ground.lan()
    host = ground.host(lan)
    wrapper = ("setpriv", "--bounding-set=-sys_admin")
    with lan.inside():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    with sniffer, host.inside():
        sniffer.bind(("switch", _ETH_P_IP))
        sniffer.settimeout(10)
        options = ("baseline", "hosts", "--nodes", "2", "--json")
        with lab(tmp_path, *options, wrapper=wrapper) as process:
            out, error = process.communicate(timeout=WITHIN)
        # What does go out is seen.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
            outward.sendto(b"the end", ("239.255.0.1", 41000))
        assert sniffer.recv(2048).endswith(b"the end")
    assert process.returncode == 0, error + out
    report = json.loads(out)
    assert report["network"] == "loopback"
    assert len(report["tables"]["baseline"]["nodes"]) == 2
    assert "needs root" in report["tables"]["hosts"]["left_out"]


@pytest.mark.parametrize(("flags", "outcome"), [("-Ur", "refused"), ("-Urn", "made")])
def test_a_namespace_that_one_could_not_leave_again_is_not_entered(
    flags: str, outcome: str
) -> None:
    """Root in a user namespace only may make a network namespace, but not come back to the host's.

    The lab would go on in one whose loopback is down, and wait there for daemons in vain.
    """
    unshare = [shutil.which("unshare") or "unshare", flags]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs unshare(1), and user namespaces")
    script = """
import os
from p2pctl.lab.namespace import Namespace, NoNamespace
here = os.readlink("/proc/thread-self/ns/net")
try:
    Namespace().close()
    print("made")
except NoNamespace:
    print("refused")
print(os.readlink("/proc/thread-self/ns/net") == here)
"""
    command = [*unshare, sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == [outcome, "True"]
