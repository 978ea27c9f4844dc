"""Interfaces and multicast of a real host, in network namespaces of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.in_namespace import SCENARIOS

ROOT = Path(__file__).parent.parent.parent
UNSHARE = [shutil.which("unshare") or "unshare", "--net"]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where no network namespace can be made."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    for tool in ("unshare", "ip", "tc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_a_namespace(scenario: str) -> None:
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.net.in_namespace", scenario],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
