"""The benchmarks run and say what they should; how fast anything was is not looked at."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
        "request and reply, 100 bytes": {"limit": 2.5, "at_least": False},
        "requests, 64 under way": {"limit": 2.0, "at_least": True},
        "a new authenticated connection": {"limit": 2.0, "at_least": False},
        "p2pctl status": {"limit": 4.0, "at_least": False},
    }
    for figure in judged:
        ratio, limit = figure["ratio"]["median"], figure["promise"]["limit"]
        assert ratio == pytest.approx(figure["ours"]["median"] / figure["reference"]["median"])
        assert figure["kept"] == (
            ratio >= limit if figure["promise"]["at_least"] else ratio <= limit
        )


def test_the_figures_say_what_they_came_from(found: dict[str, Any]) -> None:
    assert set(found["about"]) >= {"date", "commit", "machine", "python", "packages"}


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    done = bench("nonsense")
    assert done.returncode == 2
    assert "request-reply" in done.stderr
