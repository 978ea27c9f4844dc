"""Runs as root in the booted container: drives the probes as an administrator would.

Its one argument is the file for what it finds: one JSON object, name of the question to answer.
"""

import json
import os
import pwd
import socket
import sys
from pathlib import Path

from tests.e2e.inside.commands import DEADLINE, journal, run, show, until

SINGLE, INSTANCE = "p2pd.service", "p2pd@two.service"
SINGLE_SOCKET, INSTANCE_SOCKET = "/run/p2pd/default.sock", "/run/p2pd/two.sock"


def greeting(path: str, *groups: int) -> str:
    """What an ordinary user in `groups` hears on a control socket, or the name of the error."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups(groups)
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            try:
                sock.connect(path)
                heard = sock.recv(100)
            except OSError as error:
                heard = type(error).__name__.encode()
        os.write(writing, heard)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        heard_by_child = pipe.read()
    os.wait()
    return heard_by_child


def watchdog_is_pinged() -> bool:
    first = show(SINGLE, "WatchdogTimestampMonotonic")
    return until(lambda: show(SINGLE, "WatchdogTimestampMonotonic") != first)


def after_a_crash() -> bool:
    """A killed probe comes back by itself."""
    before = show(SINGLE, "MainPID")
    run("systemctl", "kill", "--signal=KILL", SINGLE)
    return until(
        lambda: show(SINGLE, "MainPID") != before and show(SINGLE, "ActiveState") == "active"
    )


def after_bad_configuration() -> str:
    """The probe of this instance exits with 2."""
    run("systemctl", "start", "p2pd@exit-2.service")
    unit = "p2pd@exit-2.service"
    settled = until(lambda: show(unit, "ActiveState") == "failed")
    return f"{show(unit, 'Result')} {show(unit, 'NRestarts')}" if settled else "not failed"


def real_daemon() -> dict[str, object]:
    """What the unit does as it is installed, without the probe in the daemon's place."""
    Path("/etc/systemd/system/p2pd.service.d/probe.conf").unlink()
    found: dict[str, object] = {"loaded": run("systemctl", "daemon-reload")}
    found["start"] = run("systemctl", "restart", SINGLE)
    # Ready means that it answers: at once.
    status = run("p2pctl", "--json", "status")
    found["pid"] = json.loads(status)["pid"] if status.startswith("{") else status
    found["main pid"] = int(show(SINGLE, "MainPID"))
    found["put"] = run("p2pctl", "put", "key", "value").partition(" ")[0]
    found["restart"] = run("systemctl", "restart", SINGLE)
    found["get"] = run("p2pctl", "get", "key")
    found["reload"] = run("systemctl", "reload", SINGLE)
    found["reloaded"] = until(lambda: len(journal(SINGLE, "EVENT=config.reloaded")) > 0)
    found["started"] = len(journal(SINGLE, "EVENT=node.started"))
    found["stop"] = run("systemctl", "stop", SINGLE)
    found["result"] = show(SINGLE, "Result")
    found["stopped"] = len(journal(SINGLE, "EVENT=node.stopped"))
    found["socket"] = Path(SINGLE_SOCKET).exists()
    return found


def main() -> None:
    group = pwd.getpwnam("p2pd").pw_gid
    findings: dict[str, object] = {}
    findings["start"] = run("systemctl", "start", SINGLE, INSTANCE)
    findings["single"] = json.loads(Path("/var/lib/p2pd/findings.json").read_text())
    findings["instance"] = json.loads(Path("/var/lib/p2pd/two/findings.json").read_text())
    findings["member"] = greeting(SINGLE_SOCKET, group)
    findings["stranger"] = greeting(SINGLE_SOCKET)
    findings["watchdog"] = watchdog_is_pinged()
    findings["reload"] = run("systemctl", "reload", SINGLE)
    findings["reloaded"] = until(lambda: show(SINGLE, "StatusText") == "reloaded")
    entries = journal(SINGLE, "EVENT=probe.ready")
    findings["journal"] = [(entry["PRIORITY"], entry["MESSAGE"]) for entry in entries]
    findings["stop"] = run("systemctl", "stop", INSTANCE)
    findings["stopped"] = show(INSTANCE, "Result")
    findings["after the other stopped"] = greeting(SINGLE_SOCKET, group)
    findings["its own"] = greeting(INSTANCE_SOCKET, group)
    findings["state mode"] = f"{Path('/var/lib/p2pd').stat().st_mode & 0o777:o}"
    findings["crash"] = after_a_crash()
    findings["bad configuration"] = after_bad_configuration()
    findings["daemon"] = real_daemon()
    findings["log"] = run("journalctl", "--unit", "p2pd*", "--output=cat", "--lines=100")
    Path(sys.argv[1]).write_text(json.dumps(findings, indent=1))


if __name__ == "__main__":
    main()
