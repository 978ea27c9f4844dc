import os
import shlex
import subprocess
import sys
import types
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import p2pd
from p2pd import __main__, __version__, cli
from p2pd.config import Config
from p2pd.config_file import load
from p2pd.errors import ConfigError, StartError, StoreError
from p2pd.invocation import Invocation, reread_config


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "p2pd.toml"
    path.write_text("[connections]\ntarget = 3\n[log]\nlevel = 'error'\n")
    return path


def problems_of(*argv: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv)
    return caught.value.problems


class TestInvocation:
    def test_without_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/p2pd:/var/lib/more")
        monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/p2pd")
        invocation = cli.parse([])
        assert invocation.config.node.name
        assert (
            attrs.evolve(invocation.config, node=attrs.evolve(invocation.config.node, name=""))
            == Config()
        )
        assert invocation.instance == "default"
        assert invocation.state_dir == Path("/var/lib/p2pd")
        assert invocation.control_path == Path("/run/p2pd/default.sock")
        assert invocation.config_file is None

    def test_every_flag(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "c.toml").write_text("")
        invocation = cli.parse(
            shlex.split(
                "--config c.toml --instance lab --name ada --listen 127.0.0.1:0 --listen [::1]:7 "
                "--bootstrap a:1 --bootstrap b:2 --state-dir state --control c.sock "
                "--set dht.k=30 --log-level debug --log-format json"
            )
        )
        config = invocation.config
        assert invocation.config_file == tmp_path / "c.toml"
        assert invocation.instance == "lab"
        assert invocation.state_dir == tmp_path / "state"
        assert invocation.control_path == tmp_path / "c.sock"
        assert config.control.socket == str(tmp_path / "c.sock")
        assert config.node.name == "ada"
        assert config.listen.addresses == ("127.0.0.1:0", "[::1]:7")
        assert config.discovery.bootstrap == ("a:1", "b:2")
        assert config.dht.k == 30
        assert (config.log.level, config.log.format) == ("debug", "json")

    def test_port_stands_for_all_addresses(self) -> None:
        assert cli.parse(["--port", "0"]).config.listen.addresses == ("0.0.0.0:0", "[::]:0")

    def test_the_file_may_place_the_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "p2pd.toml"
        path.write_text("[control]\nsocket = '/run/elsewhere.sock'")
        assert cli.parse(["--config", str(path)]).control_path == Path("/run/elsewhere.sock")

    def test_set_wins_over_flags_and_flags_over_the_file(self, config_file: Path) -> None:
        argv = ["--config", str(config_file)]
        assert cli.parse(argv).config.log.level == "error"
        argv += ["--log-level", "warning"]
        assert cli.parse(argv).config.log.level == "warning"
        argv += ["--set", "log.level=info", "--set", "log.level=debug"]
        config = cli.parse(argv).config
        assert config.log.level == "debug"
        assert config.connections.target == 3


class TestSet:
    @pytest.mark.parametrize(
        ("assignment", "name"),
        [
            ("node.name=ada", "ada"),
            ("node.name=ada lovelace", "ada lovelace"),
            ('node.name="ada"', "ada"),
            ("node.name='7'", "7"),
            (" node.name = a=b ", "a=b"),
        ],
    )
    def test_text(self, assignment: str, name: str) -> None:
        assert cli.parse(["--set", assignment]).config.node.name == name

    def test_other_values(self) -> None:
        config = cli.parse(
            ["--set=discovery.bootstrap=['a:1']", "--set=discovery.multicast.enabled=false",
             "--set=control.mode=0600", "--set=liveness.ping_interval=7"]
        ).config  # fmt: skip
        assert config.discovery.bootstrap == ("a:1",)
        assert config.discovery.multicast.enabled is False
        assert config.control.mode == "0600"
        assert config.liveness.ping_interval == 7.0

    @pytest.mark.parametrize(
        ("assignment", "problem"),
        [
            ("node.name", '--set: expected SECTION.KEY=VALUE, not "node.name"'),
            ("node.name=7", "node.name: expected printable text of at most 64 bytes, not 7"),
            ("node.name=[", '--set: expected a TOML value or a bare word, not "["'),
            (
                "log.level=1\nx=2",
                r'log.level: expected one of "debug", "info", "warning", "error", not "1\nx',
            ),
            ("node.nmae=x", "node.nmae: unknown key; did you mean node.name?"),
            ("=x", '--set: expected SECTION.KEY=VALUE, not "=x"'),
        ],
    )
    def test_mistakes(self, assignment: str, problem: str) -> None:
        (found,) = problems_of("--set", assignment)
        assert found.startswith(problem)

    @given(st.text(max_size=40))
    @example("--")
    def test_any_text_is_taken_or_refused(self, text: str) -> None:
        for assignment in (text, f"node.name={text}", f"discovery.bootstrap={text}"):
            try:
                cli.parse([f"--set={assignment}"])
            except ConfigError as error:
                problems = error.problems
            else:
                problems = ()
            assert all("\n" not in problem for problem in problems)


class TestMistakes:
    @pytest.mark.parametrize(
        ("argv", "problem"),
        [
            ("--nmae x", 'unknown flag "--nmae"; did you mean --name?'),
            ("--state_dir=x", 'unknown flag "--state_dir"; did you mean --state-dir?'),
            ("--instanc x", 'unknown flag "--instanc"; did you mean --instance?'),
            ("--qqqqqq", 'unknown flag "--qqqqqq"; see p2pd --help'),
            ("--json", 'unknown flag "--json"; see p2pd --help'),
            ("start", 'unexpected argument "start"; see p2pd --help'),
            ("--name", "--name: expected one argument"),
            ("--port 1 --listen [::]:1", "--listen: not allowed with argument --port"),
            ("--port 65536", '--port: expected a port from 0 to 65535, not "65536"'),
            ("--port \u0661", "--port: expected a port from 0 to 65535"),
            ("--listen 41000", "--listen: expected ADDR:PORT"),
            ("--bootstrap ::1:7", "--bootstrap: expected HOST:PORT with IPv6 in brackets"),
            ("--log-level loud", '--log-level: expected one of "debug"'),
            ("--log-level x --set log.level=loud", 'log.level: expected one of "debug"'),
            ("--instance ../x", "--instance: expected 1 to 64 of"),
            ("--config=", "--config: expected a path, not ''"),
            ("--state-dir=", "--state-dir: expected a path, not ''"),
            ("--control=", "--control: expected a path, not ''"),
            ("--config /nonexistent/p", "can't read the configuration '/nonexistent/p': No such"),
            ("--config /", "can't read the configuration '/': Is a directory"),
            ("--config /proc/version", "the configuration '/proc/version' is not valid TOML: "),
            ("--config /dev/zero", "'/dev/zero' has over 1048576 bytes"),
        ],
    )  # fmt: skip
    def test_one_line_each(self, argv: str, problem: str) -> None:
        (found,) = problems_of(*argv.split())
        assert found.startswith(problem)
        assert "\n" not in found

    def test_all_at_once(self, config_file: Path) -> None:
        config_file.write_text("[connections]\ntagret = 3")
        found = problems_of(
            *("--config", str(config_file), "--port", "x", "--instance", ".", "--name", "\x1b"),
            *("--set", "a", "--set", "dht.k=0"),
        )
        assert [each.partition(":")[0] for each in found] == [
            "--instance",
            "--port",
            "--set",
            "connections.tagret",
            "--name",
            "dht.k",
        ]

    def test_what_is_missing_on_this_host_is_told_beside_other_mistakes(
        self, config_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config_file.write_text(
            '[dht]\nkk = 3\n[node]\nnetwork_key_file = "/none"\n[control]\ngroup = "no-such-group"'
        )
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
            monkeypatch.delenv(variable, raising=False)
        found = problems_of("--config", str(config_file), "--control", "/" + "x" * 107)
        assert [each.partition(":")[0] for each in found] == [
            "dht.kk",
            "--control",
            "node.network_key_file",
            "control.group",
            "no home directory to keep state in",
        ]

    def test_a_file_that_can_not_be_read_hides_no_other_mistake(self) -> None:
        found = problems_of("--config", "/none", "--set", "dht.kk=3")
        assert [each.partition(":")[0] for each in found] == [
            "can't read the configuration '/none'",
            "dht.kk",
        ]


class TestReload:
    def test_reads_the_file_again_under_the_same_flags(self, config_file: Path) -> None:
        invocation = cli.parse(["--config", str(config_file), "--log-level", "debug"])
        assert reread_config(invocation) == (invocation.config, [])
        config_file.write_text("[connections]\ntarget = 9\n[log]\nlevel = 'error'")
        config, _ = reread_config(invocation)
        assert (config.connections.target, config.log.level) == (9, "debug")
        assert config.node.name == invocation.config.node.name

    def test_a_mistake_in_the_file_is_told(self, config_file: Path) -> None:
        invocation = cli.parse(["--config", str(config_file)])
        config_file.write_text("[connections]\ntarget = 'x'")
        _, (problem,) = reread_config(invocation)
        assert problem.startswith("connections.target: ")


class TestMain:
    @staticmethod
    def daemon(monkeypatch: pytest.MonkeyPatch, outcome: int | Exception) -> list[Invocation]:
        """Put a stand-in for the daemon in its place; gives what it was started with."""
        started = []

        def run(invocation: Invocation) -> int:
            started.append(invocation)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        stand_in = types.ModuleType("p2pd.daemon")
        vars(stand_in)["run"] = run
        monkeypatch.setitem(sys.modules, "p2pd.daemon", stand_in)
        monkeypatch.setattr(p2pd, "daemon", stand_in, raising=False)
        return started

    def test_runs_the_daemon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started = self.daemon(monkeypatch, 0)
        assert cli.main(["--name", "ada"]) == 0
        assert [each.config.node.name for each in started] == ["ada"]

    @pytest.mark.parametrize(
        ("error", "code", "lines"),
        [
            (StartError("0.0.0.0:1 is in use"), 1, ["p2pd: 0.0.0.0:1 is in use"]),
            (StoreError("disk full"), 1, ["p2pd: disk full"]),
            (ConfigError("a: x", "b: y"), 2, ["p2pd: a: x", "p2pd: b: y"]),
        ],
    )
    def test_says_why_it_ended(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: Exception,
        code: int,
        lines: list[str],
    ) -> None:
        self.daemon(monkeypatch, error)
        assert cli.main([]) == code
        assert capsys.readouterr().err.splitlines() == lines

    def test_ctrl_c_before_it_runs_is_no_traceback(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(_: object) -> int:
            raise KeyboardInterrupt

        self.daemon(monkeypatch, 0)
        monkeypatch.setattr(sys.modules["p2pd.daemon"], "run", interrupt)
        assert cli.main([]) == 130
        assert capsys.readouterr().err == ""

    def test_check_prints_what_is_in_effect(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        config_file: Path,
    ) -> None:
        started = self.daemon(monkeypatch, 0)
        argv = ["--config", str(config_file), "--state-dir", str(tmp_path / "new"), "--check"]
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert load(out) == cli.parse(argv).config
        assert f"# configuration file: '{config_file}'" in out
        assert f"# state directory: '{tmp_path}/new'" in out
        assert not started
        assert not (tmp_path / "new").exists()

    def test_check_without_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--check"]) == 0
        assert "# configuration file: none\n" in capsys.readouterr().out

    def test_check_looks_for_what_the_configuration_names(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        argv = ["--check", "--set", f"node.network_key_file={key}"]
        assert cli.main([*argv, "--set", "control.group=nobodys-group"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.splitlines() == [
            (
                f"p2pd: node.network_key_file: can't read {key}: No such file or directory; "
                "correct the path, or let the user that runs p2pd read it"
            ),
            (
                "p2pd: control.group: there is no group 'nobodys-group'; make it with "
                "`groupadd --system nobodys-group` or name another"
            ),
        ]
        key.write_text("k" * 32)
        assert cli.main(argv) == 0
        for length, words in ((31, "at least 32"), (4097, "more than 4096 bytes")):
            key.write_text("k" * length)
            assert cli.main(argv) == 2
            assert words in capsys.readouterr().err

    def test_check_of_a_wrong_file(
        self, capsys: pytest.CaptureFixture[str], config_file: Path
    ) -> None:
        config_file.write_text("x = 1\ny = 2")
        assert cli.main(["--config", str(config_file), "--check"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == ["p2pd: x: unknown key", "p2pd: y: unknown key"]

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"p2pd {__version__}\n"


@pytest.mark.parametrize("flag", ["--check", "--version", "--help"])
def test_quick_answers_do_without_trio(flag: str) -> None:
    code = (
        "import sys; from p2pd import cli\n"
        "try: sys.exit(cli.main(sys.argv[1:]))\n"
        "finally: print(*sorted({'trio', 'cryptography', 'p2pd.daemon'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, flag],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("flag", ["--check", "--version"])
def test_an_output_that_can_not_be_written_is_told_in_a_line(flag: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "p2pd", flag],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "p2pd: can't write the output: No space left on device\n"


def test_the_module_runs() -> None:
    argv = [sys.executable, "-m", "p2pd", "--prot", "1"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == 'p2pd: unknown flag "--prot"; did you mean --port?\n'


def test_ctrl_c_before_it_is_loaded_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == __main__.INTERRUPTED
