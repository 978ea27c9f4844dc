"""`p2pctl` in process, against the real control server: output, exit codes, errors."""

import io
import itertools
import json
import re
import socket
import sys
import types
from typing import Any

import pytest
import trio

from p2pctl import commands, render
from p2pctl.cli import COMMANDS, full_parser, main
from p2pctl.commands import MAX_VALUE_BYTES
from p2pd.control import results
from p2pd.control.client import Client
from p2pd.errors import DialFailed, RequestTimedOut, TooFewReplicas
from p2pd.node.snapshot import Delivery, StoredVersion
from tests.control.fake_node import ALICE, BOB, FakeNode
from tests.p2pctl.conftest import Daemon

Captured = pytest.CaptureFixture[str]


def json_of(capsys: Captured, *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_json_has_the_promised_fields(daemon: Daemon, capsys: Captured) -> None:
    daemon.node.records["k"] = b"v"
    peer_fields = set(results.PeerJson.__annotations__)
    assert set(json_of(capsys, "status")) == set(results.StatusResult.__annotations__)
    assert [set(each) for each in json_of(capsys, "peers")] == [peer_fields] * 2
    assert json_of(capsys, "connect", "192.0.2.1:1") == {
        "peer": str(ALICE),
        "address": "192.0.2.1:1",
    }
    assert json_of(capsys, "disconnect", "bob") == {"peer": str(BOB)}
    assert json_of(capsys, "ping", "bob", "-c", "2", "-i", "0") == {
        "peer": str(BOB),
        "rtt_ms": [0.25, 0.25],
    }
    assert json_of(capsys, "echo", "bob", "hi") == {"peer": str(BOB), "text": "hi", "rtt_ms": 0.5}
    assert json_of(capsys, "put", "a", "b") == {
        "key": "a",
        "version": "v1",
        "replicas": {"stored": 2, "wanted": 3, "quorum": 2},
    }
    assert json_of(capsys, "get", "k") == {
        "key": "k",
        "value": "v",
        "version": "v1",
        "writer": str(ALICE),
        "siblings": 0,
    }
    assert len(json_of(capsys, "get", "k", "--all")["versions"]) == 1
    assert json_of(capsys, "delete", "k")["version"] == "v2"
    assert set(json_of(capsys, "lookup", "k")) == set(results.LookupResultJson.__annotations__)
    assert json_of(capsys, "publish", "news", "hi") == {"message_id": f"{1:032x}"}
    why = json_of(capsys, "why", "bob")
    assert set(why) == set(results.WhyResultJson.__annotations__)
    assert {*why["steps"][0]} == set(results.WhyStepJson.__annotations__)
    doctor = json_of(capsys, "doctor")
    assert set(doctor) == set(results.DoctorResultJson.__annotations__)
    assert {*doctor["findings"][0]} == set(results.FindingJson.__annotations__)
    assert json_of(capsys, "stop") == {"stopping": True}


def test_text_says_the_same(daemon: Daemon, capsys: Captured) -> None:
    def text(*argv: str) -> str:
        assert main(argv) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "\x1b" not in captured.out
        return captured.out

    assert str(daemon.node.node_id) in text("status")
    assert "gossip     3 published, 5 delivered, 1 duplicate, 0 dropped\n" in text("status")
    header, alice, bob = text("peers").splitlines()
    assert header.index("LIVENESS") == alice.index("alive")
    assert header.startswith("NODE ")
    assert header.index("STATUS") == alice.index("connected") == bob.index("disconnected")
    assert str(BOB) not in text("peers", "--status", "connected")
    assert text("peers", "--status", "attempted") == "no attempted peers\n"
    assert text("connect", "192.0.2.1:1") == f"connected to {ALICE.short} at 192.0.2.1:1\n"
    assert text("disconnect", "bob") == f"disconnected from {BOB.short}\n"
    assert text("ping", "bob", "-c3", "-i0").count(f"{BOB.short}: 0.25 ms\n") == 3
    assert text("echo", "bob", "hi there") == "hi there  (0.50 ms)\n"
    assert "2 of 3 replicas" in text("put", "k", "v")
    assert text("get", "k") == "v"
    assert "timeout" in text("lookup", "k")
    assert text("delete", "k").startswith("deleted k on 3 of 3")
    assert text("publish", "news", "hi") == f"{1:032x}\n"
    summary, silent, dead = text("why", "bob").splitlines()
    assert summary == "bob is dead: three others could not reach it either"
    assert re.fullmatch(r"  \d+ d( \d+ h)? ago  probe\.silent  3 probes without an answer", silent)
    assert dead.split() == ["-", "peer.dead", "nobody", "reaches", "it"]
    assert dead.index("peer.dead") == silent.index("probe.silent")
    assert text("stop") == "p2pd is leaving\n"


def test_who_is_alone_is_sent_to_the_doctor(daemon: Daemon, capsys: Captured) -> None:
    hint = "`p2pctl doctor` says why"
    daemon.node.registry.clear()
    assert main(["peers"]) == 0
    assert hint in capsys.readouterr().out
    assert main(["--json", "status"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert hint not in render.status(status)
    status["peers"]["connected"] = 0
    assert hint in render.status(status)


def test_options_stand_before_the_command_or_after_it(daemon: Daemon, capsys: Captured) -> None:
    for argv in (["--json", "--timeout", "3", "status"], ["status", "--timeout=3", "--json"]):
        assert main(argv) == 0
        assert json.loads(capsys.readouterr().out)["name"] == "me"


def test_the_socket_is_named_by_option_then_environment_then_default(
    daemon: Daemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["status"]) == 0
    assert main(["status", "--instance", "other"]) == 4
    monkeypatch.setenv("P2PCTL_SOCKET", "/nowhere/env.sock")
    capsys.readouterr()
    assert main(["status"]) == 4
    assert "/nowhere/env.sock ($P2PCTL_SOCKET): is it running?" in capsys.readouterr().err
    assert main(["status", "--socket", str(daemon.path)]) == 0
    monkeypatch.delenv("P2PCTL_SOCKET")
    assert main(["status", "--instance", "../x"]) == 2
    assert main(["status", "--instance", "other"]) == 4
    capsys.readouterr()
    runtime = daemon.path.parent / "run" / "p2pd"
    runtime.mkdir(parents=True)
    (runtime / "other.sock").symlink_to(daemon.path)
    assert main(["status", "--instance", "other"]) == 0


def test_where_nobody_answers_the_instances_that_run_are_named(
    daemon: Daemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = daemon.path.parent / "run" / "p2pd"
    runtime.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime.parent))
    monkeypatch.delenv("P2PCTL_SOCKET", raising=False)
    for name in ("a", "b"):
        (runtime / f"{name}.sock").symlink_to(daemon.path)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(runtime / "killed.sock"))
    (runtime / "notes.txt").touch()
    # Not those of the system, which may well be there.
    monkeypatch.setattr(commands, "default_sockets", lambda name: [f"{runtime}/{name}.sock"])
    assert main(["status", "--instance", "typo"]) == 4
    assert capsys.readouterr().err.endswith(
        "with --socket PATH. Others run here: --instance a, --instance b\n"
    )
    assert main(["status", "--socket", str(runtime / "typo.sock")]) == 4
    assert "Others" not in capsys.readouterr().err


def test_a_lookup_that_asked_one_or_nobody() -> None:
    hop: results.LookupHopJson = {
        "node_id": BOB.hex(),
        "depth": 1,
        "rtt_ms": 0.5,
        "outcome": "answered",
    }
    found: results.FoundNodeJson = {
        "node_id": BOB.hex(),
        "address": "192.0.2.2:1",
        "distance_bits": 3,
    }
    result: results.LookupResultJson = {
        "target": ALICE.hex(), "reached": None, "found": [found], "hops": [hop], "elapsed_ms": 1.0
    }  # fmt: skip
    assert f"target {ALICE}, 1 query in 1.00 ms\n\nDEPTH" in render.lookup(result)
    result["hops"] = []
    assert f"target {ALICE}, 0 queries in 1.00 ms\n\nCLOSEST" in render.lookup(result)
    result["reached"] = True
    assert "in 1.00 ms: it answers\n" in render.lookup(result)
    result["reached"] = False
    assert "in 1.00 ms: no answer from it, and" in render.lookup(result)


def test_pings_are_a_second_apart_or_as_told(
    daemon: Daemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, paused = 100.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        paused.append(seconds)
        now += seconds

    clock = types.SimpleNamespace(sleep=sleep, monotonic=lambda: now)
    monkeypatch.setattr(commands, "time", clock)
    assert main(["ping", "bob", "-c", "3"]) == 0
    assert paused == [0.0, 1.0, 1.0]
    paused.clear()
    assert main(["ping", "bob", "-c", "2", "--interval", "0.25"]) == 0
    assert paused == [0.0, 0.25]


def test_put_passes_its_options_on(daemon: Daemon, capsys: Captured) -> None:
    there = "0a" * 32
    assert main(["put", "k", "-5", "--ttl", "1.5", "--if-version", there]) == 0
    assert daemon.node.records == {"k": b"-5"}
    assert daemon.node.calls == [("put", "k", False, 1.5, there)]


def test_owned_keys(daemon: Daemon, capsys: Captured) -> None:
    assert main(["put", "k", "mine", "--owned"]) == 0
    assert main(["get", "k", "--owner", "alice"]) == 0
    assert main(["delete", "k", "--owned"]) == 0
    calls = [("put", "k", True, None, None), ("get", "k", "quorum", "alice"), ("delete", "k", True)]
    assert daemon.node.calls == calls


def test_values_go_in_and_out_byte_for_byte(
    daemon: Daemon, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = bytes(range(256)) * 4096
    give_input(monkeypatch, value)
    assert main(["put", "k", "-"]) == 0
    assert daemon.node.records["k"] == value
    capsysbinary.readouterr()
    assert main(["get", "k"]) == 0
    assert capsysbinary.readouterr().out == value


def test_a_message_is_published_byte_for_byte(
    daemon: Daemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Delivery] = []
    with daemon.node.deliveries(frozenset(), received.append):
        give_input(monkeypatch, b"\xff\n")
        assert main(["publish", "news", "-"]) == 0
        assert main(["publish", "news", "grün"]) == 0
    assert [each.data for each in received] == [b"\xff\n", "grün".encode()]
    assert {each.topic for each in received} == {"news"}


def test_a_value_too_long_is_refused_before_it_is_sent(
    daemon: Daemon, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_input(monkeypatch, b"x" * MAX_VALUE_BYTES)
    assert main(["put", "k", "-"]) == 0
    give_input(monkeypatch, b"x" * (MAX_VALUE_BYTES + 1))
    assert main(["put", "k", "-"]) == 2
    assert str(MAX_VALUE_BYTES) in capsys.readouterr().err


def test_arguments_that_are_no_text_are_values_but_no_keys(
    daemon: Daemon, capsys: Captured
) -> None:
    assert main(["put", "k", "\udcff"]) == 0
    assert daemon.node.records["k"] == b"\xff"
    assert main(["get", "\udcff"]) == 2
    assert "`key`" in capsys.readouterr().err


def test_get_all_shows_every_version(daemon: Daemon, capsys: Captured) -> None:
    daemon.node.records["k"] = b"one"
    daemon.node.siblings = (StoredVersion(value=b"\x1b[2J", version="v7", writer=str(BOB)),)
    assert main(["get", "k", "--all", "--consistency", "one"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["v1", str(ALICE)[:8], "3", "B", "one"]
    assert second.split() == ["v7", str(BOB)[:8], "4", "B", r"\x1b[2J"]
    assert daemon.node.calls == [("get", "k", "one", None)]


def failing(node: FakeNode, error: Exception) -> None:
    async def fail() -> None:
        raise error

    node.before = fail


@pytest.mark.parametrize(
    ("argv", "exit_code", "code"),
    [
        (["get", "missing"], 3, "not_found"),
        (["ping", "nobody"], 3, "not_found"),
        (["connect", "nowhere"], 2, "invalid_request"),
        (["publish", "$dead", "x"], 2, "invalid_request"),
        (["subscribe", *"a" * 65], 2, "invalid_request"),
        (["subscribe", "a" * 65], 2, "usage"),
        (["why", "nobody"], 3, "not_found"),
        (["publish", "news"], 2, "usage"),
        (["subscribe"], 2, "usage"),
        (["subscribe", "news", "--count", "0"], 2, "usage"),
        (["subscribe", "news", "--count", "9" * 30], 2, "usage"),
        (["statsu"], 2, "usage"),
        ([], 2, "usage"),
        (["put", "k"], 2, "usage"),
        (["get", "k", "--consistency", "some"], 2, "usage"),
        (["put", "k", "v", "--ttl", "0"], 2, "usage"),
        (["put", "k", "v", "--ttl", "nan"], 2, "usage"),
        (["ping", "bob", "-c", "0"], 2, "usage"),
        (["status", "--sock", "x"], 2, "usage"),
        (["status", "--timeout", "-1"], 2, "usage"),
        (["status", "--timeout"], 2, "usage"),
        (["--socket", "a", "status", "--instance", "b"], 2, "usage"),
        (["--socket", "/nowhere/p2pd.sock", "status"], 4, "daemon_unreachable"),
    ],
)
def test_an_error_has_its_exit_code_and_its_json(
    daemon: Daemon, capsys: Captured, argv: list[str], exit_code: int, code: str
) -> None:
    assert main(argv) == exit_code
    text = capsys.readouterr()
    assert main(["--json", *argv]) == exit_code
    document = capsys.readouterr()
    assert text.out == document.out == ""
    error = json.loads(document.err)["error"]
    assert error["code"] == code
    assert text.err == f"p2pctl: {error['message']}\n"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["status", "--timeout", "x"],
            "expected a number of seconds above 0 and up to 1e9, not 'x'",
        ),
        (
            ["put", "k", "v", "--ttl", "0"],
            "expected a number of seconds above 0 and up to 1e9, not '0'",
        ),
        (["ping", "bob", "-c", "x"], "expected a whole number from 1 to 1000, not 'x'"),
        (["lab", "--interval", "0"], "expected a number of seconds from 1 to 86400, not '0'"),
    ],
)
def test_a_number_that_will_not_do_is_told_what_would(
    capsys: Captured, argv: list[str], expected: str
) -> None:
    assert main(argv) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "exit_code"), [(TooFewReplicas("1 of 2"), 5), (ZeroDivisionError(), 1)]
)
def test_a_failing_node_decides_the_exit_code(
    daemon: Daemon, capsys: Captured, error: Exception, exit_code: int
) -> None:
    failing(daemon.node, error)
    assert main(["get", "k"]) == exit_code


@pytest.mark.parametrize("name", ["lab", "completion"])
def test_help_offers_no_flag_that_is_not_used(capsys: Captured, name: str) -> None:
    assert main([name, "--help"]) == 0
    offered = capsys.readouterr().out
    assert "--json" in offered
    assert not {"--socket", "--instance", "--timeout"} & set(re.findall("--[a-z]+", offered))


def test_no_answer_in_time_is_exit_5(daemon: Daemon, capsys: Captured) -> None:
    daemon.node.before = trio.sleep_forever
    assert main(["lookup", "k", "--timeout", "0.05"]) == 5
    assert "--timeout" in capsys.readouterr().err


def test_a_lost_ping_is_null_and_all_lost_is_exit_5(daemon: Daemon, capsys: Captured) -> None:
    lost = iter([False, True, False])

    async def maybe() -> None:
        if next(lost, True):
            raise RequestTimedOut("no pong")

    daemon.node.before = maybe
    assert json_of(capsys, "ping", "bob", "-c", "3", "-i", "0")["rtt_ms"] == [0.25, None, 0.25]
    assert main(["ping", "bob", "-c", "2", "-i", "0"]) == 5
    assert capsys.readouterr().err == "p2pctl: no pong\n"


def test_a_peer_that_goes_away_amid_pings_loses_the_others(
    daemon: Daemon, capsys: Captured
) -> None:
    there = iter([True])

    async def once() -> None:
        if not next(there, False):
            raise DialFailed("nobody listens there")

    daemon.node.before = once
    assert json_of(capsys, "ping", "bob", "-c", "3", "-i", "0")["rtt_ms"] == [0.25, None, None]
    # Who never answered is no loss.
    assert main(["ping", "bob", "-c", "2", "-i", "0"]) == 1
    assert capsys.readouterr().err == "p2pctl: nobody listens there\n"


def test_get_says_that_others_wrote_beside(daemon: Daemon, capsys: Captured) -> None:
    daemon.node.records["k"] = b"one"
    daemon.node.siblings = (StoredVersion(value=b"two", version="v7", writer=str(BOB)),)
    assert main(["get", "k"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == "one"
    assert "1 other version stands beside this one" in shown.err


@pytest.mark.parametrize("seconds", ["1e10", "inf", "nan"])
def test_a_time_that_no_clock_can_tell_is_refused(capsys: Captured, seconds: str) -> None:
    assert main(["--timeout", seconds, "status"]) == 2
    assert "up to 1e9" in capsys.readouterr().err


def test_an_unknown_command_gets_the_nearest_one(capsys: Captured) -> None:
    assert main(["statsu"]) == 2
    assert "did you mean `p2pctl status`?" in capsys.readouterr().err
    assert main(["zzz"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_a_misspelt_flag_gets_the_nearest_one(capsys: Captured) -> None:
    for argv, told in [
        (["--jsno", "status"], "unknown flag '--jsno'; did you mean --json?"),
        (["put", "k", "v", "--tll=4"], "unknown flag '--tll'; did you mean --ttl?"),
        (["put", "k", "v", "zzz"], "unexpected argument 'zzz'; see `p2pctl put --help`"),
    ]:
        assert main(argv) == 2
        assert capsys.readouterr().err == f"p2pctl: {told}\n"


def test_an_unknown_flag_is_told_of_rather_than_what_it_seems_to_leave_out(
    capsys: Captured,
) -> None:
    for argv, told in [
        (["put", "k", "v", "--zzz"], "unknown flag '--zzz' (a text that begins with - goes after"),
        (["put", "k", "-v"], "unknown flag '-v' (a text that begins with - goes after --)"),
        (["put", "k", "--tll=4"], "unknown flag '--tll'; did you mean --ttl?"),
        (["ping", "-c10"], "the following arguments are required: PEER"),
        (["put", "-5"], "the following arguments are required: VALUE"),
        (["put", "--", "-v"], "the following arguments are required: VALUE"),
        (["put", "- an item"], "the following arguments are required: VALUE"),
        (["get", "k", "--owner", "-abc"], "argument --owner: expected one argument"),
        (["lab", "--timeout", "3"], "unknown flag '--timeout'"),
        (["lab", "basline", "--nodes=2"], "argument TABLE: invalid choice: 'basline'"),
    ]:
        assert main(argv) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["put", "", "v"], "argument KEY: expected a key, not ''; see `p2pctl put --help`"),
        (["lookup", ""], "argument KEY|NODE: expected a key or a node, not ''"),
        (["ping", ""], "argument PEER: expected a peer, not ''"),
        (["get", "k", "--owner", ""], "argument --owner: expected a peer, not ''"),
        (["publish", "", "hi"], "argument TOPIC: expected 1 to 64 bytes of printable text, not ''"),
        (["subscribe", "news", ""], "argument TOPIC: expected 1 to 64 bytes of printable"),
        (["subscribe", "ü" * 33], "argument TOPIC: expected 1 to 64 bytes of printable"),
        (["subscribe", "\udcff"], r"argument TOPIC: expected 1 to 64 bytes of printable text, not"),
        (["--socket", "", "status"], "argument --socket: expected a path, not ''"),
        (["doctor", "--state-dir", ""], "argument --state-dir: expected a path, not ''"),
        (["doctor", "--config="], "argument --config: expected a path, not ''"),
    ],
)
def test_what_is_empty_or_too_long_is_told_by_its_place(
    daemon: Daemon, capsys: Captured, argv: list[str], told: str
) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"p2pctl: {told}")
    assert shown.count("\n") == 1
    assert main(["publish", "ü" * 32, ""]) == 0


def test_json_in_a_value_is_no_option(daemon: Daemon, capsys: Captured) -> None:
    assert main(["get", "--", "--json"]) == 3
    assert capsys.readouterr().err == "p2pctl: no record '--json'\n"


def test_interrupted_is_exit_130(monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("p2pd.control.client.Client.call", interrupt)
    assert main(["status"]) == 130


def test_pings_that_are_interrupted_are_summed_up(
    monkeypatch: pytest.MonkeyPatch, daemon: Daemon, capsys: Captured
) -> None:
    call, calls = Client.call, itertools.count(1)

    def interrupted(*args: Any, **named: Any) -> Any:
        if next(calls) % 3 == 0:
            raise KeyboardInterrupt
        return call(*args, **named)

    monkeypatch.setattr(Client, "call", interrupted)
    assert main(["ping", "bob", "-c", "9", "-i", "0"]) == 130
    shown = capsys.readouterr().out.splitlines()
    assert shown[2:] == ["2 of 2 answered; min/avg/max 0.25/0.25/0.25 ms"]
    assert main(["--json", "ping", "bob", "-c", "9", "-i", "0"]) == 130
    assert json.loads(capsys.readouterr().out)["rtt_ms"] == [0.25, 0.25]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: Captured) -> None:
    assert main([name, "--help"]) == 0
    assert f"p2pctl {name}" in capsys.readouterr().out.partition("example: ")[2]


def test_help_lists_every_command(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "p2pctl 0.1.0\n"


@pytest.mark.parametrize("columns", [72, 80, 100])
def test_help_fits_into_a_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("", *COMMANDS):
        assert main([*name.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) < columns, name
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("\ncommands:\n")[2].partition("\n\n")[0]
    names = [line[:14].strip() for line in listed.splitlines()]
    assert [each for each in names if each] == [*COMMANDS]
    assert " ".join(listed.split()) == " ".join(
        f"{name} {command.help}" for name, command in COMMANDS.items()
    )


def test_the_parser_for_completion_knows_every_command() -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            full_parser().parse_args([name, "--help"])


def test_errors_stand_below_each_other_in_what_is_watched(daemon: Daemon, capsys: Captured) -> None:
    assert main(["peers", "--json"]) == 0
    [peer, *_] = json.loads(capsys.readouterr().out)
    style = render.Style(io.StringIO())
    short, long = (
        render.peer_line(peer | {"name": name, "last_error": "no"}, style)
        for name in ("al", "workshop")
    )
    assert short.index("  no") > short.index("al")
    assert len(short) == len(long)
    assert render.peer_line(peer | {"last_error": None}, style).endswith(peer["name"])
