import re
import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pd import config
from p2pd.config import (
    Config,
    ConnectionsConfig,
    DhtConfig,
    LogConfig,
    keys,
    value_at,
)
from p2pd.config_file import ORDERED, after_reload, effective, load
from p2pd.errors import ConfigError
from p2pd.hosts import parse_address
from p2pd.wire import messages

TEMPLATE = Path(__file__).parent.parent / "config" / "p2pd.toml"


def problems_of(toml: str | bytes, overrides: dict[str, object] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(toml, overrides)
    return caught.value.problems


def load_or_problems(
    toml: str | bytes, overrides: dict[str, object] | None = None
) -> Config | tuple[str, ...]:
    try:
        return load(toml, overrides)
    except ConfigError as error:
        return error.problems


def toml_values() -> st.SearchStrategy[object]:
    plain = (
        st.text(max_size=80)
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.booleans()
        | st.sampled_from(["[::]:0", "10.0.0.1:41000", "debug", "/run/x.sock", "239.0.0.1", "!lo"])
    )
    return plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(), plain, max_size=2)


def fitting_overrides() -> st.SearchStrategy[dict[str, object]]:
    """Values that are right by themselves for some keys, so that whole configurations pass."""
    return st.fixed_dictionaries(
        {},
        optional={
            "node.name": st.text(max_size=16).filter(str.isprintable),
            "node.network": st.sampled_from(['"', "\\", "réseau", "a # b"]),
            "listen.addresses": st.just(["0.0.0.0:0", "[::1]:7"]),
            "discovery.bootstrap": st.just(["seed.example.org:41000", "[fe80::1%eth0]:1"]),
            "discovery.multicast.interfaces": st.just(["eth*", "!docker*"]),
            "discovery.multicast.enabled": st.booleans(),
            "connections.backoff_min": st.floats(0.1, 300),
            "dht.record_ttl": st.integers(0, 86400) | st.floats(0, 1e6),
            "store.max_bytes": st.integers(65536, 2**48),
            "log.level": st.sampled_from(["debug", "info", "warning", "error"]),
        },
    )


class TestDefaults:
    def test_an_empty_file_gives_them(self) -> None:
        assert load("") == Config()
        assert load(b"") == Config()

    def test_every_key_tells_its_meaning_and_what_is_allowed(self) -> None:
        for path, about in keys().items():
            assert about["doc"].endswith("."), path
            assert about["rule"].allowed, path

    def test_the_template_lists_every_key_with_its_default(self) -> None:
        text = TEMPLATE.read_text()
        assert load(text) == Config()
        uncommented = re.sub(r"(?m)^#(?=\w)", "", text)
        assert load(uncommented) == Config()
        assert tomllib.loads(uncommented) == tomllib.loads(effective(Config()))

    def test_the_template_says_what_the_code_says(self) -> None:
        section = ""
        comments: dict[str, str] = {}
        for block in TEMPLATE.read_text().strip().split("\n\n"):
            lines = block.split("\n")
            if lines[0].startswith("["):
                section = lines[0].strip("[]")
            elif not lines[-1].startswith("# "):
                name = lines[-1].removeprefix("#").partition(" ")[0]
                words = " ".join(line.removeprefix("# ") for line in lines[:-1])
                comments[f"{section}.{name}"] = words
        assert comments.keys() == keys().keys()
        for path, about in keys().items():
            said = comments[path]
            assert about["doc"] in said
            assert about["rule"].allowed.lower() in said.lower()
            assert about["unit"] in said
            assert ("Reloadable." in said) == about["reload"]
        for lesser, greater in ORDERED:
            assert f"At most `{greater}`." in comments[lesser]


class TestStrictness:
    @pytest.mark.parametrize(
        ("toml", "problem"),
        [
            ("[connections]\ntarget = '7'", "connections.target: expected an integer from 0 to"),
            ("[connections]\ntarget = true", "connections.target: expected an integer"),
            ("[connections]\ntarget = 1.0", "connections.target: expected an integer"),
            ("[connections]\ntarget = -1", "0 to 10000, not -1"),
            ("[connections]\ntarget = 0x" + "f" * 9000, "not an integer beyond 64 bits"),
            ("[liveness]\nping_interval = nan", "expected a number from 0.1 to 3600, not nan"),
            ("[liveness]\nping_interval = inf", "not inf"),
            ("[liveness]\nping_interval = true", "not true"),
            ("[discovery.multicast]\nenabled = 1", "expected true or false, not 1"),
            ("[discovery.multicast]\ngroup_v4 = '10.0.0.1'", "an IPv4 multicast address"),
            ("[discovery.multicast]\ngroup_v4 = 'ff02::1'", "an IPv4 multicast address"),
            ("[discovery.multicast]\ngroup_v6 = '239.0.0.1'", "an IPv6 multicast address"),
            ("[listen]\naddresses = []", "listen.addresses: expected a list of 1 to"),
            ("[listen]\naddresses = ['localhost:1']", "an IP address before the port"),
            ("[discovery]\nbootstrap = 'a:1'", "expected a list"),
            ("[discovery]\nbootstrap = ['a:1', 'b:0']", 'a port from 1 to 65535 in "b:0"'),
            ('[node]\nname = "\\u0085\\u202e"', 'not "\\x85\\u202e"'),
            ('[node]\nname = "a\\u001b[2J"', "node.name: expected printable text"),
            (f"[node]\nname = '{'ü' * 33}'", "node.name: expected printable text of at most 64"),
            ("[control]\nmode = '0999'", "control.mode: expected an octal mode"),
            ("[control]\nsocket = 'x.sock'", "control.socket: expected an absolute path"),
            ("[log]\nlevel = 'loud'", 'log.level: expected one of "debug", "info"'),
            ("[log]\nlevel = 2020-01-01", "not a date or time"),
            ("connections = 3", "connections: expected a section, [connections], not 3"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_allowed(self, toml: str, problem: str) -> None:
        if "\\u001b'" in toml:  # a literal string: the backslash is text, and printable
            assert load(toml).node.name == "a\\u001b"
            return
        (found,) = problems_of(toml)
        assert problem in found
        assert len(found) < 300
        assert found.isprintable()

    @pytest.mark.parametrize(
        ("toml", "problem"),
        [
            (
                "[connections]\ntagret = 3",
                "connections.tagret: unknown key; did you mean connections.target?",
            ),
            ("[conections]\ntarget = 3", "conections: unknown key; did you mean connections?"),
            ("target = 3", "target: unknown key; did you mean connections.target?"),
            (
                "[discovery.multcast]",
                "discovery.multcast: unknown key; did you mean discovery.multicast?",
            ),
            ("[multicast]", "multicast: unknown key; did you mean discovery.multicast?"),
            ("[log]\nLEVEL = 3", "log.LEVEL: unknown key; did you mean log.level?"),
            ("[liveness]\nzzz = 3", "liveness.zzz: unknown key"),
            ("[listen]\nport = 41000", "listen.port: unknown key; listen has addresses"),
            ('"connections.target" = 3', '"connections.target": unknown key'),
            ('"a\\nb" = 3', '"a\\nb": unknown key'),
        ],
    )
    def test_an_unknown_key_is_an_error_with_the_nearest_one(self, toml: str, problem: str) -> None:
        (found,) = problems_of(toml)
        assert found.startswith(problem)
        assert "\n" not in found

    @pytest.mark.parametrize(
        ("toml", "problem"),
        [
            (
                "[connections]\nbackoff_min = 301",
                "connections.backoff_min: expected at most connections.backoff_max, which is",
            ),
            (
                "[liveness]\nping_timeout = 6",
                "liveness.ping_timeout: expected at most liveness.ping_interval",
            ),
            ("[dht]\nalpha = 21", "dht.alpha: expected at most dht.k"),
            ("[dht]\nreplication = 21", "dht.replication: expected at most dht.k"),
            ("[dht]\nwrite_quorum = 21", "dht.write_quorum: expected at most dht.replication"),
            ("[dht]\nread_quorum = 21", "dht.read_quorum: expected at most dht.replication"),
            (
                "[store]\nmax_bytes = 5000",
                "store.max_value_bytes: expected at most store.max_bytes",
            ),
        ],
    )
    def test_keys_that_contradict_each_other(self, toml: str, problem: str) -> None:
        (found,) = problems_of(toml)
        assert found.startswith(problem)

    def test_all_problems_come_at_once(self) -> None:
        found = problems_of(
            "x = 1\n[connections]\ntarget = 'a'\nbackoff_min = 400\n[log]\nlevel = 'b'",
            {"store.max_byte": 1},
        )
        assert [each.partition(":")[0] for each in found] == [
            "store.max_byte",
            "x",
            "connections.target",
            "log.level",
            "connections.backoff_min",
        ]

    def test_a_wrong_key_does_not_make_its_partner_wrong(self) -> None:
        (found,) = problems_of("[connections]\nbackoff_max = 'x'\nbackoff_min = 400")
        assert found.startswith("connections.backoff_max")

    def test_values_made_in_code_are_checked_too(self) -> None:
        with pytest.raises(ValueError, match="expected an integer from 1 to 64, not 0"):
            DhtConfig(k=0)

    def test_whole_numbers_serve_as_times(self) -> None:
        timeout = load("[connections]\ndial_timeout = 7").connections.dial_timeout
        assert (timeout, type(timeout)) == (7.0, float)

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"\xff", "not valid TOML: not UTF-8 (at line 1)"),
            (b"\xef\xbb\xbf[node]\nname = '\xff'", "not valid TOML: not UTF-8 (at line 2)"),
            (b"a = ", "not valid TOML: Invalid value (at end of document)"),
            (b"a = " + b"[" * 100_000, "nested too deeply"),
            (b"a = " + b"9" * 5000, "not valid TOML: an integer has too many digits"),
            (b"a = 1\na = 2", "not valid TOML"),
        ],
    )
    def test_what_is_no_toml(self, raw: bytes, problem: str) -> None:
        (found,) = problems_of(raw)
        assert problem in found
        assert found.isprintable()


class TestAnyInput:
    @given(st.binary(max_size=200))
    def test_bytes_give_a_configuration_or_a_config_error(self, raw: bytes) -> None:
        outcome = load_or_problems(raw)
        assert isinstance(outcome, Config) or all(each.isprintable() for each in outcome)

    @given(st.dictionaries(st.sampled_from(list(keys())) | st.text(), toml_values(), max_size=4))
    @example({"connections.target.x": 1})
    @example({"node": 3})
    @example({"\U00010000" * 99: 1, "node.name": "\U000e0001" * 99})
    def test_values_give_a_configuration_that_survives_or_a_config_error(
        self, overrides: dict[str, object]
    ) -> None:
        outcome = load_or_problems("", overrides)
        if isinstance(outcome, Config):
            assert load(effective(outcome)) == outcome
        else:
            assert outcome
            assert all(len(each) < 400 and "\n" not in each for each in outcome)

    @given(fitting_overrides())
    def test_what_is_in_effect_can_be_read_back(self, overrides: dict[str, object]) -> None:
        config = load("", overrides)
        assert load(effective(config)) == config
        for path, value in overrides.items():
            kept = value_at(config, path)
            assert (list(kept) if isinstance(value, list) else kept) == value


class TestOverrides:
    def test_they_win_over_the_file(self) -> None:
        config = load("[connections]\ntarget = 3\nmax_inbound = 4", {"connections.target": 5})
        assert (config.connections.target, config.connections.max_inbound) == (5, 4)

    def test_they_do_not_hide_a_value_in_place_of_a_section(self) -> None:
        (found,) = problems_of("connections = 3", {"connections.target": 5})
        assert found.startswith("connections: expected a section")


class TestReload:
    def test_takes_over_what_can_change_and_names_the_rest(self) -> None:
        running = Config()
        fresh = attrs.evolve(
            running,
            connections=ConnectionsConfig(target=3),
            log=LogConfig(level="debug", format="json"),
            dht=DhtConfig(k=40),
        )
        config, pending = after_reload(running, fresh)
        assert config == attrs.evolve(
            running, connections=ConnectionsConfig(target=3), log=LogConfig(level="debug")
        )
        assert pending == ("dht.k", "log.format")

    def test_without_a_change_nothing_is_pending(self) -> None:
        assert after_reload(Config(), Config()) == (Config(), ())


class TestParseAddress:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("10.0.0.1:41000", ("10.0.0.1", 41000)),
            ("[::1]:1", ("::1", 1)),
            ("[2001:DB8:0::1]:65535", ("2001:db8::1", 65535)),
            ("[fe80::1%eth0]:41000", ("fe80::1%eth0", 41000)),
            ("node-1.example.org:41000", ("node-1.example.org", 41000)),
            ("localhost:41000", ("localhost", 41000)),
        ],
    )
    def test_to_dial(self, text: str, expected: tuple[str, int]) -> None:
        assert parse_address(text) == expected

    @pytest.mark.parametrize("text", ["0.0.0.0:0", "[::]:0"])
    def test_port_0_is_for_listening_only(self, text: str) -> None:
        assert parse_address(text, listening=True)[1] == 0
        with pytest.raises(ValueError, match="a port from 1 to 65535"):
            parse_address(text)

    @pytest.mark.parametrize(
        "text",
        [
            "", ":", "10.0.0.1", "10.0.0.1:", ":41000", "::1:41000", "[::1]", "[::1]41000", "[]:1",
            "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:+1", "10.0.0.1:\u0661", "10.0.0.1: 1",
            "1.2.3:4",
            "256.0.0.1:1", "01.2.3.4:1", "[10.0.0.1]:1", "a b:1", "-a:1", "a..b:1", "a\x00:1",
            "[fe80::1%\x1b]:1", "a" * 64 + ":1", "10.0.0.1:1\n", "http://a:1",
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected ") as caught:
            parse_address(text)
        assert str(caught.value).isprintable()

    def test_host_names_cannot_be_listened_on(self) -> None:
        with pytest.raises(ValueError, match="expected an IP address before the port"):
            parse_address("localhost:1", listening=True)

    @given(st.text(alphabet=st.sampled_from("[]:.%-019afA_ \n"), max_size=40))
    def test_any_text_is_an_address_or_a_value_error(self, text: str) -> None:
        try:
            host, port = parse_address(text)
        except ValueError:
            return
        again = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert parse_address(again) == (host, port)


def test_bounds_are_those_of_the_protocol() -> None:
    assert config.MAX_K == messages.MAX_RECORDS
    assert config.MAX_VALUE_BYTES == messages.MAX_VALUE_BYTES
    assert config.MAX_PUBLICATION_BYTES == messages.MAX_PUBLICATION_BYTES
