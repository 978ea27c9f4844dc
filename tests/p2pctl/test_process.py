"""`p2pctl` as a process of its own: streams, signals, terminals, start-up, completion."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from p2pd.control import results
from p2pd.control.subscriptions import MAX_PENDING
from p2pd.ids import NodeId
from p2pd.node.snapshot import FindingResult
from tests.control.fake_node import ALICE, message, peer
from tests.p2pctl.conftest import Daemon

P2PCTL = [sys.executable, "-m", "p2pctl"]
ROOT = Path(__file__).parents[2]


@contextmanager
def start(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run in the background; killed after a while, so that no read waits for ever."""
    with subprocess.Popen(
        [*P2PCTL, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        deadline = threading.Timer(20, process.kill)
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()  # a test that failed must not wait for it


def test_watch_writes_each_event_at_once(daemon: Daemon) -> None:
    async def happen() -> None:
        await daemon.subscriber()
        daemon.node.events.emit("peer.dead", "bob is dead", who="bob")

    with start("watch", "--json") as process:
        daemon.run(happen)
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 130
    assert (event["code"], event["fields"]) == ("peer.dead", {"who": "bob"})


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_peers_writes_each_change_at_once(daemon: Daemon, *, as_json: bool) -> None:
    async def change() -> None:
        await daemon.subscriber()
        daemon.node.becomes(0, "disconnected")

    with start("peers", "--watch", *(["--json"] if as_json else [])) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        daemon.run(change)
        lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    if as_json:
        assert all(json.loads(line)["node_id"] for line in lines)
    assert ["alice" in line for line in lines] == [True, False, True]
    assert ["disconnected" in line for line in lines] == [False, True, True]


def test_subscribe_writes_each_message_at_once_and_ends_after_its_count(daemon: Daemon) -> None:
    async def first() -> None:
        await daemon.subscriber()
        daemon.node.deliver(message("other"))
        daemon.node.deliver(message("news", number=1))

    async def rest() -> None:
        for number in (2, 3):
            daemon.node.deliver(message("weather", b"\xff", number=number))

    with start("subscribe", "news", "weather", "--count", "2", "--json") as process:
        daemon.run(first)
        assert process.stdout is not None
        one = json.loads(process.stdout.readline())
        assert process.poll() is None
        daemon.run(rest)
        out, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (0, "")
    two = json.loads(out)
    fields = {*results.MessageJson.__annotations__}
    assert (set(one), set(two)) == (fields - {"data_base64"}, fields - {"data"})
    assert (one["topic"], one["data"], one["sequence"]) == ("news", "hello", 1)
    assert (two["topic"], two["data_base64"], two["sequence"]) == ("weather", "/w==", 2)


def test_a_message_is_one_line_that_can_not_drive_the_terminal(daemon: Daemon) -> None:
    async def happen() -> None:
        await daemon.subscriber()
        daemon.node.deliver(message(data=b"\x1b[2J\xff\none\n", origin_name=HOSTILE))
        daemon.node.deliver(message(data=b"", origin_name=None))

    with start("subscribe", "news", "--count", "2") as process:
        daemon.run(happen)
        out, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (0, "")
    first, second = out.splitlines()
    assert first.isprintable()
    assert first.endswith(r"  \x1b[2J\xff\none")
    assert re.fullmatch(rf"\d\d:\d\d:20  news {{14}}{ALICE.short:<16}  ", second)


def test_a_slow_subscriber_hears_how_many_it_missed(daemon: Daemon) -> None:
    async def flood() -> None:
        await daemon.subscriber()
        for number in range(MAX_PENDING + 6):
            daemon.node.deliver(message(number=number))

    async def one_more() -> None:
        daemon.node.deliver(message(number=9999))

    with start("subscribe", "news", "--json", "--count", f"{MAX_PENDING + 1}") as process:
        assert process.stdout is not None
        daemon.run(flood)
        for _ in range(MAX_PENDING):
            process.stdout.readline()
        daemon.run(one_more)
        out, error = process.communicate(timeout=10)
    assert json.loads(out)["sequence"] == 9999
    warning = json.loads(error)["warning"]
    assert (warning["code"], warning["count"]) == ("missed", 6)


@pytest.mark.parametrize("command", ["watch", "subscribe news"])
def test_the_end_of_the_daemon_ends_a_subscription_with_exit_4(
    daemon: Daemon, tmp_path: Path, command: str
) -> None:
    # The fixture's own server goes on: a second one ends here.
    script = (
        "import socket,json,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True)\n"
        "c,_=s.accept(); c.recv(9999)\n"
        "c.sendall(json.dumps({'id':1,'result':{'subscription':1},"
        "'p2pd':{'protocol':1,'version':'x'}}).encode()+b'\\n')\n"
    )
    path = str(tmp_path / "other.sock")
    server = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    with start("--socket", path, *command.split()) as process:
        _, error = process.communicate(timeout=10)
    server.communicate(timeout=10)
    assert process.returncode == 4
    assert error.startswith(f"p2pctl: {path}: ")


@pytest.mark.parametrize("command", ["peers", "peers --json", "peers --watch", "--help"])
def test_a_reader_that_leaves_early_sees_no_traceback(daemon: Daemon, command: str) -> None:
    async def many() -> None:
        daemon.node.registry = [peer(NodeId.of(b"%d" % each)) for each in range(3000)]

    daemon.run(many)
    shell = f"set -o pipefail; {sys.executable} -m p2pctl {command} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    assert len(done.stdout) == 1


@pytest.mark.parametrize("command", ["watch", "subscribe news"])
def test_a_subscription_ends_when_its_reader_leaves_before_anything_comes(
    daemon: Daemon, command: str
) -> None:
    with start(*command.split()) as process:
        daemon.run(daemon.subscriber)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("redirection", "exit_code", "error"),
    [
        (">&-", 0, ""),
        ("> /dev/full", 1, "p2pctl: can't write the output: No space left on device\n"),
    ],
)
def test_an_output_that_can_not_be_written(
    daemon: Daemon, redirection: str, exit_code: int, error: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m p2pctl status {redirection}"],
        capture_output=True, text=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (exit_code, error)


def on_terminal(*argv: str, **environment: str) -> bytes:
    """Run with a terminal as standard output and error; gives all that it got."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*P2PCTL, *argv],
        stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=ROOT,
        env={**os.environ, "TERM": "xterm", **environment},
    ) as process:  # fmt: skip
        os.close(follower)
        received = b""
        try:
            while data := os.read(leader, 4096):
                received += data
        except OSError:
            pass  # Linux reports the end of a terminal so
        finally:
            os.close(leader)
        process.wait(10)
    return received


def test_a_terminal_gets_colour_unless_it_is_declined(daemon: Daemon) -> None:
    assert b"\x1b[32mconnected\x1b[0m" in on_terminal("peers")
    assert b"\x1b" not in on_terminal("peers", NO_COLOR="1")
    assert b"\x1b" not in on_terminal("peers", TERM="dumb")


def test_a_terminal_of_unknown_width_is_taken_for_one_of_80_columns(daemon: Daemon) -> None:
    text = " ".join(["word"] * 12)  # 59 columns beside 20 of level and check
    daemon.node.findings = [FindingResult("clock", "clock.untested", "warning", text, None)]
    assert text.encode() in on_terminal("doctor")


def test_get_adds_a_newline_for_a_terminal_only(daemon: Daemon) -> None:
    daemon.node.records["k"] = b"value"
    assert on_terminal("get", "k") == b"value\r\n"
    done = subprocess.run([*P2PCTL, "get", "k"], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout == b"value"


def test_progress_is_shown_on_a_terminal_and_taken_away(daemon: Daemon) -> None:
    daemon.node.before = trio.sleep_forever
    shown = on_terminal("lookup", "k", "--timeout", "1.3")
    assert b"lookup: 1 s" in shown
    assert b"\r\x1b[Kp2pctl: lookup: no answer within 1.3 s" in shown


@pytest.mark.parametrize(
    ("command", "queue", "told"),
    [
        ("watch", 1, b"watch: no answer within 1.3 s"),
        ("status", 0, b"{path}: p2pd does not accept within 1.3 s"),
    ],
)
def test_progress_is_shown_while_a_daemon_that_hangs_is_waited_for(
    tmp_path: Path, command: str, queue: int, told: bytes
) -> None:
    path = str(tmp_path / "hung.sock")
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as earlier:
        hung.bind(path)
        hung.listen(queue)
        earlier.connect(path)
        shown = on_terminal(command, "--socket", path, "--timeout", "1.3")
    assert f"{command}: 1 s".encode() in shown
    assert b"\r\x1b[Kp2pctl: " + told.replace(b"{path}", path.encode()) in shown


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\nfake line\r"


@pytest.mark.parametrize(
    "argv", [["peers"], ["peers", "--json"], ["peers", "--watch"], ["ping", "x"]]
)
def test_a_hostile_name_can_not_drive_the_terminal(daemon: Daemon, argv: list[str]) -> None:
    async def hostile() -> None:
        registry = [attrs.evolve(peer(), name=HOSTILE, last_error=HOSTILE, address=HOSTILE)]
        daemon.node.registry = registry

    daemon.run(hostile)
    if "--watch" in argv:
        with start(*argv) as process:
            assert process.stdout is not None
            shown = process.stdout.readline()
            process.kill()
    else:
        shown = on_terminal(*argv, NO_COLOR="1").decode().replace("\r\n", "\n")
    assert all(each.isprintable() or each == "\n" for each in shown)
    assert "\nfake line" not in shown


def test_starting_up_loads_little() -> None:
    # -S keeps what the installation itself imports out of the account.
    script = (
        "import sys; sys.path.insert(0, '.'); import p2pctl.cli; p2pctl.cli.main(['status']);"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True, text=True, check=True, cwd=ROOT, env={"P2PCTL_SOCKET": "/nowhere"},
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "p2pd.control.client" in loaded
    heavy = "logging dataclasses inspect asyncio trio attr attrs tabulate shtab pathlib shutil "
    heavy += "datetime difflib subprocess threading tempfile random ssl ast"
    assert loaded & set(heavy.split()) == set()


def completion(shell: str) -> str:
    done = subprocess.run(
        [*P2PCTL, "completion", shell], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["st"], ["status", "stop"]),
        (["subscribe", "news", "--c"], ["--count"]),
        (["--json", "pe"], ["peers"]),
        (["peers", "--st"], ["--status"]),
        (["peers", "--status", ""], ["attempted", "connected", "disconnected"]),
        (["get", "k", "--consistency", "q"], ["quorum"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes(tmp_path: Path, words: list[str], candidates: list[str]) -> None:
    script = tmp_path / "completion"
    script.write_text(completion("bash"))
    driver = """
        source "$1"; shift
        COMP_WORDS=(p2pctl "$@"); COMP_CWORD=$#; COMP_LINE="p2pctl $*"; COMP_POINT=${#COMP_LINE}
        function=$(complete -p p2pctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function p2pctl "${@: -1}"
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", driver, "bash", str(script), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (candidates, "")


@pytest.mark.parametrize(
    ("shell", "mark"), [("zsh", "#compdef p2pctl"), ("fish", "complete -c p2pctl")]
)
def test_the_other_shells_get_their_script(shell: str, mark: str) -> None:
    assert mark in completion(shell)
