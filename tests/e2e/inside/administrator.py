"""Runs as root in the booted container: does with p2pd what an administrator does, in turn.

Its one argument is the file for what it finds: one JSON object, the name of each step and what
it found, or the traceback where it failed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.inside.commands import journal, run, show, until

NODE, TWO, FAR, SLOW = "p2pd.service", "p2pd@two.service", "p2pd@far.service", "p2pd@slow.service"
HANDED_OVER = "p2pd@ops.service"
CONFIG = Path("/etc/p2pd/p2pd.toml")
SOURCE = Path("/root/p2pd")
WHEELS = "/root/wheels"
NEW_VERSION = "99.0"
# Seconds; more than the interpreter takes to start where all cores are busy.
START_TIMEOUT = 8

Findings = dict[str, Any]


def as_user(name: str, *command: str) -> str:
    return run("runuser", "-u", name, "--", *command)


def node(*command: str, instance: str = "default") -> Any:
    """What `p2pctl --json` says, or why it failed."""
    said = run("p2pctl", "--instance", instance, "--json", *command)
    return said if said.startswith("exit") else json.loads(said)


def ip(arguments: str) -> None:
    run("ip", *arguments.split())


def main_pid(unit: str) -> int:
    return int(show(unit, "MainPID"))


def is_connected(other: str, instance: str = "default") -> bool:
    peers = node("peers", "--status", "connected", instance=instance)
    return any(peer["name"] == other for peer in peers)


def drop_in(unit: str, *lines: str) -> None:
    directory = Path(f"/etc/systemd/system/{unit}.d")
    directory.mkdir(exist_ok=True)
    (directory / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))


def started_again(unit: str, old: int) -> bool:
    return until(lambda: show(unit, "ActiveState") == "active" and main_pid(unit) not in {0, old})


def change_units() -> None:
    """What tests do not want to wait for; all at once: a reload ends extensions of time."""
    quick = "RestartSec=100ms"
    drop_in(NODE, quick)
    drop_in(TWO, quick, "WatchdogSec=3s")
    drop_in(FAR, quick, "NetworkNamespacePath=/run/netns/far")
    drop_in(SLOW, f"TimeoutStartSec={START_TIMEOUT}s", "Restart=no")
    # As docs/operations.md says.
    hand_over = ("PrivateUsers=no", "SupplementaryGroups=ops", "SystemCallFilter=@chown")
    drop_in(HANDED_OVER, *hand_over)
    run("systemctl", "daemon-reload")


def boot() -> Findings:
    """Enabled, it came up with the machine, with no network but the loopback yet."""
    active = until(lambda: show(NODE, "ActiveState") == "active")
    return {"active": active, "links": run("ip", "-brief", "link"), "status": node("status")}


def status() -> Findings:
    """What `systemctl status` shows."""
    return {"text": run("systemctl", "status", "--no-pager", NODE), "pid": main_pid(NODE)}


def users() -> Findings:
    """Root, a member of the group, and somebody else."""
    run("useradd", "--no-create-home", "--groups", "p2pd", "member")
    run("useradd", "--no-create-home", "stranger")
    return {
        "root": run("p2pctl", "put", "of root", "1"),
        "member": as_user("member", "p2pctl", "put", "of member", "2"),
        "member reads": as_user("member", "p2pctl", "get", "of root"),
        "stranger": as_user("stranger", "p2pctl", "status"),
        "stranger's state": as_user("stranger", "ls", "/var/lib/p2pd"),
    }


def instances() -> Findings:
    """Two of the template beside the node; one of them on a host of its own."""
    ip("netns add far")
    ip("-n far link set lo up")
    ip("link add lan0 type veth peer name lan0 netns far")
    Path("/etc/p2pd/far.env").write_text("P2PD_ARGS=--port 41000 --name far\n")
    run("groupadd", "ops")
    Path("/etc/p2pd/ops.env").write_text("P2PD_ARGS=--port 0 --set control.group=ops\n")
    Path("/etc/p2pd/two.env").write_text("P2PD_ARGS=--port 0 --name two\n")
    change_units()
    return {
        "start": run("systemctl", "start", TWO, FAR),
        "two": node("status", instance="two"),
        "far": node("status", instance="far"),
        "on one host": until(lambda: is_connected("two")),
        "journal": [
            (entry["P2PD_INSTANCE"], entry["EVENT"])
            for entry in journal("p2pd@*", "EVENT=node.started")
        ],
    }


def late_network() -> Findings:
    """A LAN that comes up long after the daemons."""
    for number, host in ((1, ""), (2, "-n far")):
        ip(f"{host} address add 192.0.2.{number}/24 dev lan0")
        ip(f"{host} link set lan0 up")
    return {
        "found": until(lambda: is_connected("far")),
        "addresses": node("status")["addresses"],
        "put": node("put", "of all", "3"),
        "got": run("p2pctl", "--instance", "far", "get", "of all"),
        "connected": [entry["PEER"] for entry in journal(NODE, "EVENT=peer.connected")],
        "far": node("status", instance="far")["node_id"],
    }


def reload() -> Findings:
    """Once with a change, once with a mistake."""
    before, good = main_pid(NODE), CONFIG.read_text()
    CONFIG.write_text("[liveness]\nping_interval = 4\n")
    found: Findings = {"reload": run("systemctl", "reload", NODE)}
    found["taken"] = until(lambda: bool(journal(NODE, "EVENT=config.reloaded")))
    CONFIG.write_text("[liveness]\nping_intervall = 4\n")
    run("systemctl", "reload", NODE)
    found["refused"] = until(lambda: bool(journal(NODE, "EVENT=config.refused")))
    found["why"] = [entry["MESSAGE"] for entry in journal(NODE, "EVENT=config.refused")]
    CONFIG.write_text(good)
    run("systemctl", "reload", NODE)
    return found | {"same process": main_pid(NODE) == before, "get": run("p2pctl", "get", "of all")}


def watchdog() -> Findings:
    """A daemon that hangs."""
    node("put", "of two", "4", instance="two")
    hung = main_pid(TWO)
    os.kill(hung, signal.SIGSTOP)
    return {
        "again": started_again(TWO, hung),
        "stack": any("Fatal Python error: Aborted" in each["MESSAGE"] for each in journal(TWO)),
        "restarts": show(TWO, "NRestarts"),
        "get": run("p2pctl", "--instance", "two", "get", "of two"),
    }


def crash() -> Findings:
    """A daemon that is killed."""
    node("put", "before", "5")
    killed = main_pid(NODE)
    os.kill(killed, signal.SIGKILL)
    return {
        "again": started_again(NODE, killed),
        "get": run("p2pctl", "get", "before"),
        "peers": until(lambda: is_connected("far") and is_connected("two")),
    }


def another_group() -> Findings:
    """The control socket is handed to a group that is not p2pd's."""
    found: Findings = {"start": run("systemctl", "start", HANDED_OVER)}
    run("useradd", "--no-create-home", "--groups", "ops", "manager")
    for user in ("manager", "member"):
        found[user] = as_user(user, "p2pctl", "--instance", "ops", "status")
    found["stop"] = run("systemctl", "stop", HANDED_OVER)
    return found


def slow_start_begins() -> Findings:
    """A database that takes longer to read than `TimeoutStartSec` allows: a pipe, for a while."""
    state = Path("/var/lib/p2pd/slow")
    state.mkdir(mode=0o700)
    database = state / "p2pd.db"
    os.mkfifo(database, 0o600)
    run("chown", "-R", "p2pd:p2pd", str(state))
    # Open for both ways, a pipe needs nobody at the other end.
    script = f"exec 3<>{database}; sleep {START_TIMEOUT + 1}; rm {database}"
    subprocess.Popen(["sh", "-c", script])
    run("systemctl", "start", "--no-block", SLOW)
    return {"says so": until(lambda: "checking the database" in show(SLOW, "StatusText"))}


def slow_start() -> Findings:
    """What became of it, looked at when other steps are done."""
    settled = until(lambda: show(SLOW, "ActiveState") not in {"activating", "deactivating"})
    began, ended = (
        int(show(SLOW, f"{name}TimestampMonotonic")) for name in ("InactiveExit", "ActiveEnter")
    )
    found = {
        "settled": settled,
        "after": show(SLOW, "ActiveState"),
        "seconds": (ended - began) / 1e6,
    }
    run("systemctl", "stop", SLOW)
    return found


def upgrade() -> Findings:
    """Another release is installed under the running daemons; then they are restarted."""
    environment = os.environ | {"PIP_NO_INDEX": "1"}
    before = main_pid(NODE)
    make = ("make", "--no-print-directory", "-C", str(SOURCE), "install")
    init = SOURCE / "p2pd/__init__.py"
    init.write_text(
        re.sub('__version__ = ".*"', f'__version__ = "{NEW_VERSION}"', init.read_text())
    )
    failed = run(*make, env=environment | {"PIP_FIND_LINKS": "/nowhere"})
    found: Findings = {"failed": failed[:6], "client after that": node("status")}
    found["install"] = run(*make, env=environment | {"PIP_FIND_LINKS": WHEELS})
    # The old daemon, with its files gone, and the new client.
    found["meanwhile"] = {
        "version": node("status")["version"],
        "same process": main_pid(NODE) == before,
        "put": node("put", "meanwhile", "6"),
        "echo": node("echo", "far", "hello"),
        "publish": node("publish", "news", "hello"),
    }
    run("systemctl", "restart", TWO)
    found["newcomer"] = until(lambda: is_connected("two"))
    found["restart"] = run("systemctl", "try-restart", NODE, "p2pd@*")
    found["version"] = node("status")["version"]
    found["get"] = run("p2pctl", "get", "meanwhile")
    found["peers"] = until(lambda: is_connected("far") and is_connected("two"))
    return found


def security() -> Findings:
    """What systemd says of the sandbox of the units that did all that."""
    text = {unit: run("systemd-analyze", "security", "--no-pager", unit) for unit in (NODE, TWO)}
    return {
        unit: float(re.findall(r"Overall exposure level for \S+: (\d+\.\d+)", said)[0])
        for unit, said in text.items()
    }


def stop() -> Findings:
    """One stops; the others stay, and saw it leave."""
    began = time.monotonic()
    found: Findings = {"stop": run("systemctl", "stop", NODE)}
    found["seconds"] = time.monotonic() - began
    found["result"] = show(NODE, "Result")
    found["socket"] = Path("/run/p2pd/default.sock").exists()
    found["client"] = run("p2pctl", "status")
    found["goodbye"] = until(
        lambda: journal(FAR, "EVENT=peer.disconnected")[-1]["MESSAGE"].endswith("goodbye: leaving")
    )
    found["others"] = node("status", instance="two")["instance"]
    return found


def uninstall() -> Findings:
    """All goes but configuration and state."""
    found: Findings = {"make": run("make", "--no-print-directory", "-C", str(SOURCE), "uninstall")}
    found["running"] = {unit: show(unit, "ActiveState") for unit in (NODE, TWO, FAR)}
    kept = ("/etc/p2pd/p2pd.toml", "/var/lib/p2pd/identity.json", "/var/lib/p2pd/two/p2pd.db")
    found["kept"] = [Path(each).exists() for each in kept]
    return found


def log() -> Findings:
    """What should not be in it, and its end for whoever looks for a fault."""
    entries = journal("p2pd*")
    texts = [str(entry["MESSAGE"]) for entry in entries]
    return {
        "bugs": [text for text in texts if "Traceback" in text],
        "unreachable": len(journal("p2pd*", "EVENT=manager.unreachable")),
        "end": texts[-80:],
    }


STEPS: tuple[Callable[[], Findings], ...] = (
    boot,
    status,
    users,
    instances,
    another_group,
    slow_start_begins,
    late_network,
    reload,
    watchdog,
    crash,
    slow_start,
    upgrade,
    security,
    stop,
    uninstall,
    log,
)


def main() -> None:
    """Take the steps."""
    findings: dict[str, Any] = {}
    for step in STEPS:
        began = time.monotonic()
        try:
            findings[step.__name__] = step()
        except Exception:  # noqa: BLE001 - what failed is a finding, and the next step has its turn
            findings[step.__name__] = {"traceback": traceback.format_exc()}
        findings[step.__name__]["took"] = round(time.monotonic() - began, 1)
        Path(sys.argv[1]).write_text(json.dumps(findings, indent=1))


if __name__ == "__main__":
    main()
