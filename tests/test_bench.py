"""The benchmarks run and say what they should; how fast anything was is not looked at."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import serf
from bench.everybody import message_to_all
from bench.figures import Figure, Promise, Spread
from bench.gossipsub import SKIPPED
from bench.hosts import Host
from bench.survivors import SIZE, reads
from bench.tables import Table

ROOT = Path(__file__).parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Sends a datagram to itself and one to a group, and prints what was counted.
TRAFFIC = """
import socket
from bench.settled import Traffic
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
before = Traffic.now()
sock.sendto(bytes(100), sock.getsockname())
unicast = Traffic.now().since(before)
sock.sendto(bytes(1000), ("239.255.0.1", 41000))
both = Traffic.now().since(before)
print(unicast.unicast, unicast.multicast, both.unicast, both.multicast)
"""


@pytest.fixture(scope="module")
def needs_namespaces() -> None:
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--net", *user, "ip", "link", "set", "lo", "up"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs to make network namespaces")


@pytest.fixture(scope="module")
def found(needs_namespaces: None) -> dict[str, Any]:
    done = bench("request-reply", "under-way", "new-connection", "status", "--quick", "--json")
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_each_promise_is_judged_by_a_ratio_to_a_reference(found: dict[str, Any]) -> None:
    judged = [each for each in found["figures"] if each["promise"]]
    promised = {each["name"]: each["promise"] for each in judged}
    assert promised == {
        "request and reply, 100 bytes": {"limit": 2.5, "at_least": False, "of_median": False},
        "requests, 64 under way": {"limit": 2.0, "at_least": True, "of_median": False},
        "a new authenticated connection": {"limit": 2.0, "at_least": False, "of_median": False},
        "p2pctl status": {"limit": 4.0, "at_least": False, "of_median": False},
    }
    for figure in judged:
        ratio, limit = figure["ratio"]["median"], figure["promise"]["limit"]
        assert ratio == pytest.approx(figure["ours"]["median"] / figure["reference"]["median"])
        assert figure["kept"] == (
            ratio >= limit if figure["promise"]["at_least"] else ratio <= limit
        )


def test_the_figures_say_what_they_came_from(found: dict[str, Any]) -> None:
    assert set(found["about"]) >= {"date", "commit", "machine", "python", "packages"}


def test_discovery_on_a_lan_is_shown_with_its_parts(needs_namespaces: None) -> None:
    done = bench("lan", "--quick", "--json")
    assert done.stderr == ""
    whole, *parts = json.loads(done.stdout)["figures"]
    assert whole["against"] == (serf.NAME if serf.is_installed() else serf.SKIPPED)
    assert (whole["ratio"] is not None) == serf.is_installed()
    assert len(parts) == 4
    until_listening, the_rest = (each["ours"]["median"] for each in parts[-2:])
    # Of two starts, a median is the mean.
    assert until_listening + the_rest == pytest.approx(whole["ours"]["median"])


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    done = bench("nonsense")
    assert done.returncode == 2
    assert "request-reply" in done.stderr


def test_a_promise_binds_the_worst_value_or_the_median_if_it_says_so() -> None:
    spread = Spread.of([10, 15, 60])

    def kept(promise: Promise, ratio: Spread | None = None) -> bool | None:
        return Figure("", "ms", spread, ratio=ratio, promise=promise).kept

    assert kept(Promise(60)) is True
    assert kept(Promise(59)) is False
    assert kept(Promise(10, at_least=True)) is True
    assert kept(Promise(11, at_least=True)) is False
    assert kept(Promise(15, of_median=True)) is True
    assert kept(Promise(14, of_median=True)) is False
    assert kept(Promise(15, at_least=True, of_median=True)) is True
    assert kept(Promise(1), ratio=Spread.of([0.5, 1, 9])) is True
    assert str(Promise(20, of_median=True)) == "median <= 20"


async def test_messages_to_all_are_compared_round_by_round(autojump_clock: object) -> None:
    numbers: list[int] = []

    def ours(number: int) -> float:
        numbers.append(number)
        return 100.0 if number % 10 == 9 else 10.0

    each, rounds = await message_to_all(ours, lambda _: 40.0, rounds=2)
    # Two rounds to warm up, and one that the comparison throws away.
    assert numbers == list(range(50))
    assert (each.ours, each.kept) == (Spread(10, 10, 100), True)
    assert rounds.ours == Spread(10, 10, 10)
    assert rounds.reference == Spread(40, 40, 40)
    assert (rounds.ratio, rounds.kept) == (Spread(0.25, 0.25, 0.25), True)


async def test_without_the_reference_the_figure_says_how_to_get_it(autojump_clock: object) -> None:
    (each,) = await message_to_all(lambda _: 30.0, None, rounds=1)
    assert each.against == SKIPPED
    assert "docs/performance.md" in SKIPPED
    assert (each.reference, each.ratio, each.kept) == (None, None, False)


def test_traffic_is_counted_with_all_headers(needs_namespaces: None) -> None:
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    up = 'ip link set lo up && exec "$@"'
    command = ["unshare", "--net", *user, "sh", "-c", up, "sh", sys.executable, "-c", TRAFFIC]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    headers = 14 + 20 + 8  # Ethernet, IPv4, UDP
    counted = [int(each) for each in done.stdout.split()]
    assert counted == [100 + headers, 0, 100 + headers, 1000 + headers]


def test_after_half_were_killed_each_key_is_read_once_at_those_that_are_left() -> None:
    put: dict[str, int] = {}
    asked: dict[str, int] = {}
    killed: list[int] = []

    def call(method: str, key: str, at: int) -> float:
        assert at not in killed
        if method == "put":
            assert not killed
            put[key] = at
        else:
            assert key not in asked
            asked[key] = at
        return 0.002

    assert reads(call, killed.append) == [2.0] * len(put)
    assert sorted(killed) == list(range(SIZE // 2))
    assert asked.keys() == put.keys()
    assert set(put.values()) == set(range(SIZE))
    assert set(asked.values()) == set(range(SIZE)) - set(killed)


def test_calls_of_a_reference_that_fail_are_counted_with_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Host, "ask", lambda _host, _command: {"took": 1.5, "failed": 2})
    table = Table([object.__new__(Host)])
    assert [table.call("put", ["a", "b", "c"], "x", 3) for _ in range(2)] == [1.5, 1.5]
    assert table.failed == 4
