"""Every mistake of a user: one clear line, the right exit code, no traceback."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import P2PD, Daemon, Namespace, p2pctl

pytestmark = pytest.mark.e2e


def p2pd(*flags: str, cwd: Path, namespace: Namespace) -> "subprocess.CompletedProcess[str]":
    """Run a `p2pd` that is expected to end by itself."""
    with namespace.inside():
        return subprocess.run(
            [P2PD, "--state-dir", "state", "--control", "p2pd.sock", *flags],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )


WRONG_FLAGS = {
    "an unknown flag": (["--prot", "1"], "--port"),
    "a stray argument": (["start"], "start"),
    "no value": (["--port"], "--port"),
    "no port": (["--port", "http"], "--port"),
    "a port too high": (["--port", "65536"], "--port"),
    "a port and an address": (["--port", "1", "--listen", "127.0.0.1:1"], "--listen"),
    "no address": (["--listen", "nonsense"], "--listen"),
    "a name to listen on": (["--listen", "localhost:1"], "--listen"),
    "IPv6 without brackets": (["--listen", "::1:41000"], "brackets"),
    "a bootstrap without a port": (["--bootstrap", "host"], "--bootstrap"),
    "a bootstrap at port 0": (["--bootstrap", "host:0"], "--bootstrap"),
    "an instance with a slash": (["--instance", "../x"], "--instance"),
    "an empty instance": (["--instance", ""], "--instance"),
    "a long name": (["--name", "x" * 65], "--name"),
    "a control character in a name": (["--name", "a\x1bb"], "--name"),
    "an unknown level": (["--log-level", "loud"], "--log-level"),
    "an unknown format": (["--log-format", "xml"], "--log-format"),
    "a set without a value": (["--set", "dht.k"], "--set"),
    "a set of nothing known": (["--set", "dht.kk=3"], "dht.k"),
    "a set of a section": (["--set", "dht=3"], "dht"),
    "a set of a wrong type": (["--set", "dht.k=many"], "dht.k"),
    "a set out of range": (["--set", "identity.difficulty=99"], "identity.difficulty"),
    "a set that is not a number": (["--set", "liveness.ping_timeout=nan"], "ping_timeout"),
    "a file that is not there": (["--config", "missing.toml"], "missing.toml"),
    "a directory as file": (["--config", "."], "can't read"),
    "a socket path too long": (["--control", "/tmp/" + "x" * 120], "--control"),
    "a key file that is not there": (["--set", "node.network_key_file=/none"], "/none"),
    "a group that is not there": (["--set", "control.group=no-such-group"], "groupadd"),
}


@pytest.mark.parametrize(("flags", "words"), WRONG_FLAGS.values(), ids=WRONG_FLAGS.keys())
def test_wrong_flags(tmp_path: Path, namespace: Namespace, flags: list[str], words: str) -> None:
    done = p2pd(*flags, cwd=tmp_path, namespace=namespace)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, "p2pd: ", words)


WRONG_FILES = {
    "an unknown section": ("[discovry]\n", "discovery"),
    "an unknown key": ("[connections]\ntargets = 3\n", "connections.target"),
    "a wrong type": ('[connections]\ntarget = "3"\n', "connections.target: "),
    "a boolean for a number": ("[connections]\ntarget = true\n", "connections.target: "),
    "out of range": ("[discovery.multicast]\nport = 0\n", "discovery.multicast.port: "),
    "a key for a section": ("dht = 3\n", "dht"),
    "no TOML": ("[connections\n", "line 1"),
    "no text": ("\0\x01", "line 1"),
}


@pytest.mark.parametrize(("content", "words"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_wrong_files(tmp_path: Path, namespace: Namespace, content: str, words: str) -> None:
    (tmp_path / "p2pd.toml").write_text(content)
    for more in ([], ["--check"]):
        done = p2pd("--config", "p2pd.toml", *more, cwd=tmp_path, namespace=namespace)
        assert done.returncode == 2
        assert_one_clear_line(done.stderr, "p2pd: ", words)


def test_all_mistakes_are_told_at_once(tmp_path: Path, namespace: Namespace) -> None:
    (tmp_path / "p2pd.toml").write_text("[dht]\nkk = 1\n[store]\nmax_bytes = -1\n")
    done = p2pd("--config", "p2pd.toml", "--port", "x", cwd=tmp_path, namespace=namespace)
    assert done.returncode == 2
    for words in ("dht.kk: ", "store.max_bytes: ", "--port: "):
        [line] = [each for each in done.stderr.splitlines() if words in each]
        assert line.startswith("p2pd: ")


def cannot_start(
    tmp_path: Path, namespace: Namespace, words: str, *flags: str, also: str = ""
) -> None:
    done = p2pd(*flags, "--set", "identity.difficulty=0", cwd=tmp_path, namespace=namespace)
    assert done.returncode == 1
    assert_one_clear_line(done.stderr, "p2pd: ", words)
    assert also in done.stderr


def test_the_port_is_taken(tmp_path: Path, make_daemon: MakeDaemon, namespace: Namespace) -> None:
    taken = make_daemon("a").start().port
    cannot_start(tmp_path, namespace, f"0.0.0.0:{taken}", "--port", f"{taken}", also="--port")
    address = f"127.0.0.1:{taken}"
    cannot_start(tmp_path, namespace, address, "--listen", address, also="--listen")


def test_an_address_of_another_host(tmp_path: Path, namespace: Namespace) -> None:
    cannot_start(tmp_path, namespace, "192.0.2.77:1", "--listen", "192.0.2.77:1", also="--listen")


def test_a_control_socket_that_is_a_file(tmp_path: Path, namespace: Namespace) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    cannot_start(tmp_path, namespace, str(mine), "--control", str(mine), also="--control")
    assert mine.read_text() == "mine"


def test_a_state_directory_that_is_a_file(tmp_path: Path, namespace: Namespace) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    cannot_start(tmp_path, namespace, str(mine), "--state-dir", str(mine), also="--state-dir")
    cannot_start(tmp_path, namespace, str(mine), "--state-dir", str(mine / "below"))


def test_the_control_socket_of_another_daemon(
    tmp_path: Path, make_daemon: MakeDaemon, namespace: Namespace
) -> None:
    path = str(make_daemon("a").start().socket)
    cannot_start(tmp_path, namespace, path, "--control", path, "--port", "0", also="--instance")


def test_too_few_file_descriptors(tmp_path: Path) -> None:
    for most in (12, 31):
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {most}; exec "$0" "$@"', P2PD, "--state-dir", "state"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        assert_one_clear_line(done.stderr, "p2pd: ", f"{most} file descriptors")
        assert "ulimit -n" in done.stderr


def test_no_journal_to_log_to(tmp_path: Path, namespace: Namespace) -> None:
    if Path("/run/systemd/journal/socket").exists():
        pytest.skip("there is a journal here")
    cannot_start(tmp_path, namespace, "no journal", "--log-format", "journal", also="console")


@pytest.fixture
def node(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon("a").start()


WRONG_COMMANDS = {
    "no command": ([], 2, "which command"),
    "an unknown command": (["statsu"], 2, "p2pctl status"),
    "an unknown flag": (["status", "--al"], 2, "--al"),
    "too few arguments": (["put", "key"], 2, "VALUE"),
    "too many arguments": (["get", "a", "b"], 2, "b"),
    "no number of seconds": (["status", "--timeout", "soon"], 2, "--timeout"),
    "an infinite time": (["status", "--timeout", "inf"], 2, "--timeout"),
    "an unknown status": (["peers", "--status", "dead"], 2, "--status"),
    "an unknown consistency": (["get", "a", "--consistency", "most"], 2, "--consistency"),
    "no count": (["ping", "x", "-c", "0"], 2, "count"),
    "a negative time to live": (["put", "a", "1", "--ttl", "-1"], 2, "--ttl"),
    "an unknown shell": (["completion", "csh"], 2, "bash"),
    "no address": (["connect", "nonsense"], 2, "HOST:PORT"),
    "port 0": (["connect", "127.0.0.1:0"], 2, "port"),
    "a version that is none": (["put", "a", "1", "--if-version", "0a" * 4], 2, "64 digits"),
    "a version that is not there": (
        ["put", "a", "1", "--if-version", "0a" * 32],
        1,
        "read it again",
    ),
    "nobody listens": (["connect", "127.0.0.1:1"], 1, "127.0.0.1:1"),
    "an unknown host": (["connect", "no-such-host.invalid:1"], 1, "no-such-host.invalid"),
    "an unknown peer": (["ping", "nobody"], 3, "nobody"),
    "an unknown peer to ask about": (["why", "nobody"], 3, "p2pctl doctor"),
    "an unknown peer to echo": (["echo", "nobody", "hi"], 3, "p2pctl peers"),
    "an unknown peer to leave": (["disconnect", "nobody"], 3, "nobody"),
    "an unknown key": (["get", "no-such-key"], 3, "no-such-key"),
    "an unknown key to delete": (["delete", "no-such-key"], 3, "no-such-key"),
    "a value too large": (["put", "a", "x" * 100_000], 2, "65536"),
}


@pytest.mark.parametrize(
    ("argv", "code", "words"), WRONG_COMMANDS.values(), ids=WRONG_COMMANDS.keys()
)
def test_wrong_commands(node: Daemon, argv: list[str], code: int, words: str) -> None:
    done = node.ctl(*argv)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, "p2pctl: ", words)

    as_json = node.ctl("--json", *argv)
    assert as_json.returncode == code
    error = json.loads(as_json.stderr)["error"]
    assert error.keys() == {"code", "message"}
    assert words in error["message"]
    assert node.events("bug") == []


def test_no_daemon(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sock", tmp_path):
        done = p2pctl("--socket", str(path), "status")
        assert done.returncode == 4
        assert_one_clear_line(done.stderr, "p2pctl: ", str(path))


def test_two_ways_to_name_the_daemon() -> None:
    done = p2pctl("--socket", "x", "--instance", "y", "status")
    assert done.returncode == 2
    assert_one_clear_line(done.stderr, "p2pctl: ", "--instance")


def test_a_node_is_no_peer_of_its_own(make_daemon: MakeDaemon) -> None:
    alone = make_daemon("alone", "--set", "discovery.multicast.enabled=false").start()
    for itself in ("alone", alone.call("status")["node_id"][:8]):
        done = alone.ctl("why", itself)
        assert done.returncode == 3
        assert_one_clear_line(done.stderr, "p2pctl: ", "is this node itself")


def test_an_ambiguous_name(make_daemon: MakeDaemon) -> None:
    first = make_daemon("a", "--set", "discovery.multicast.enabled=false").start()
    same = [make_daemon(each, "--set", "node.name=twin") for each in "bc"]
    for each in same:
        assert first.call("connect", address=each.start().address)
    done = first.ctl("ping", "twin")
    assert done.returncode == 2
    assert_one_clear_line(done.stderr, "p2pctl: ", "twin")
    assert done.stderr.count(" (connected)") == 2


def assert_one_clear_line(stderr: str, start: str, words: str) -> None:
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith(start)
    assert words in stderr
    assert "Traceback" not in stderr
    assert stderr.rstrip("\n").isprintable()
