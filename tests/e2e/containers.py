"""A machine with a real systemd: a container whose root is an overlay of this machine's.

Nothing is changed here: what is written in there goes to a temporary directory. Booted, it has a
network of its own; scripts of `tests/e2e/inside` do what an administrator would, and leave their
findings as JSON.
"""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
# Not /tmp: systemd-nspawn has its own there.
SOURCE = "root/p2pd"
CHECKS = "root/checks"
PYTHON = "/usr/local/lib/p2pd/bin/python"
Findings = dict[str, Any]

BOOT_TIMEOUT = 300.0
COMMAND_TIMEOUT = 300.0
_FINDINGS = "findings.json"

_UNIT = """
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
Requires=basic.target systemd-journald.service
After=basic.target systemd-journald.service

[Service]
Type=oneshot
TimeoutStartSec=280s
WorkingDirectory=/{checks}
ExecStart={python} -m tests.e2e.inside.{script} /{findings}

[Install]
WantedBy=multi-user.target
"""


def reason_to_skip() -> str | None:
    """Why no container can be booted here; None where one can."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    for tool in ("systemd-nspawn", "systemd-sysusers", "make"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


class Machine:
    """A root file system to write to, run commands in, and boot; get one from `machine`.

    The project's source is there, with what building leaves behind, at `SOURCE`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        hidden = shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info")
        shutil.copytree(PROJECT, root / SOURCE, ignore=hidden)
        shutil.copytree(PROJECT / "tests/e2e/inside", root / CHECKS / "tests/e2e/inside")
        self._arguments = (
            *("systemd-nspawn", "--quiet", f"--directory={root}"),
            *("--register=no", "--keep-unit", "--console=pipe"),
        )

    def run(self, *command: str) -> str:
        """Run a command in the source tree, on this machine's network; returns its output.

        pip finds its index as it does outside.
        """
        pip = [f"--setenv={each}={os.environ[each]}" for each in os.environ if "PIP_" in each]
        done = subprocess.run(
            [*self._arguments, *pip, f"--chdir=/{SOURCE}", *command],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def boot(self, script: str, *, enabled: tuple[str, ...] = ()) -> Findings:
        """Boot with a script of `tests/e2e/inside`; returns its findings.

        Only what `enabled` names is started beside the script and the basic system: what this
        machine runs besides is of no interest here.
        """
        units = self.root / "etc/systemd/system"
        (units / "checks.service").write_text(
            _UNIT.format(checks=CHECKS, python=PYTHON, findings=_FINDINGS, script=script)
        )
        for wants in (
            *units.glob("*.wants"),
            *(self.root / "lib/systemd/system").glob("mult*.wants"),
        ):
            shutil.rmtree(wants)
        self._enable("checks.service", *enabled)
        booted = subprocess.run(
            [
                # Killed with its container, where that takes too long.
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(*self._arguments, f"--machine=p2pd-{os.getpid()}", "--private-network"),
                *("--boot", "systemd.unit=multi-user.target"),
            ],
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BOOT_TIMEOUT,
            check=False,
        )
        report = self.root / _FINDINGS
        assert report.exists(), booted.stdout[-4000:] + booted.stderr[-4000:]
        found: Findings = json.loads(report.read_text())
        return found

    def _enable(self, *units: str) -> None:
        command = ("systemctl", "--quiet", f"--root={self.root}", "enable", *units)
        subprocess.run(command, check=True, timeout=60)


@contextmanager
def machine(place: Path) -> Iterator[Machine]:
    """Make a machine in an empty directory, for as long as the `with`; skips where it can't."""
    upper, work, root = (place / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir()
    options = f"lowerdir=/,upperdir={upper},workdir={work}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, root],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no overlay mount here: {mounted.stderr.strip()}")
    try:
        yield Machine(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def findings_of(
    factory: pytest.TempPathFactory, name: str, find: Callable[[Path], Findings]
) -> Findings:
    """Return what `find` found in an empty directory; all workers of a test run share it.

    Whoever needs it first boots, the others wait for that.
    """
    own = factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    report = place / f"{name}.json"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            report.write_text(json.dumps(find(factory.mktemp(name))))
    found: Findings = json.loads(report.read_text())
    return found
