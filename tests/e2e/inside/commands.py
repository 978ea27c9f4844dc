"""What the scripts that run in a booted container share."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

DEADLINE = 20.0


def run(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Its output and, when it failed, how."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env
    )
    if done.returncode != 0:
        return f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def show(unit: str, name: str) -> str:
    """A property of a unit, as systemctl shows it."""
    return run("systemctl", "show", "--value", "--property", name, unit)


def journal(unit: str, *matches: str) -> list[dict[str, Any]]:
    """The journal's entries of a unit that have these fields, oldest first."""
    lines = run("journalctl", "--unit", unit, *matches, "--output=json", "--no-pager")
    return [json.loads(line) for line in lines.splitlines()]


def until(condition: Callable[[], bool]) -> bool:
    """Wait until `condition` holds; False when it did not within the deadline."""
    give_up = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
