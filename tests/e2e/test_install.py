"""A fresh clone and two commands: what the README promises. Slow: `make test-install`."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.daemons import DEADLINE, Namespace, p2pctl, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("git", "make", "python3.11"))),
        reason="git, make or python3.11 is not installed",
    ),
]

PROJECT = Path(__file__).parents[2]
INSTALL_TIMEOUT = 600.0


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of the last commit, with its environment made."""
    place = tmp_path / "p2pd"
    subprocess.run(["git", "clone", "--quiet", PROJECT, place], check=True)
    ready = ["make", "--no-print-directory", ".venv/.ready"]
    subprocess.run(ready, cwd=place, check=True, timeout=INSTALL_TIMEOUT)
    return place


def test_make_run_runs_a_node(clone: Path, tmp_path: Path, namespace: Namespace) -> None:
    socket, log_file = tmp_path / "p2pd.sock", tmp_path / "log"
    arguments = f"ARGS=--state-dir {tmp_path / 'state'} --control {socket}"
    with log_file.open("wb") as log, namespace.inside():
        make = subprocess.Popen(
            ["make", "--no-print-directory", "run", arguments],
            cwd=clone,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until("the node answers", lambda: p2pctl("--socket", str(socket), "status").stdout)
        client = clone / ".venv/bin/p2pctl"

        def ask(*argv: str) -> str:
            return subprocess.check_output([client, "--socket", socket, *argv], text=True)

        assert json.loads(ask("--json", "status"))["instance"] == "default"
        ask("put", "a", "1")
        assert ask("get", "a") == "1"
        # As Ctrl-C in its terminal does.
        os.killpg(make.pid, signal.SIGINT)
        make.wait(DEADLINE)
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)
            make.wait(DEADLINE)
        print(log_file.read_text())
    assert not socket.exists()
    assert "node.stopped" in log_file.read_text()
