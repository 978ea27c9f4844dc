"""What would keep a node from running is found before it starts, all at once."""

import os
from pathlib import Path

import pytest

from p2pd.config_file import load
from p2pd.errors import ConfigError
from p2pd.preflight import check_host


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(os.urandom(32).hex())
    config = load("", {"node.network_key_file": str(key), "control.group": "root"})
    check_host(config, tmp_path / "p2pd.sock")
    check_host(load("", {}), Path("/" + "x" * 106))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = {"node.network_key_file": str(tmp_path / "none"), "control.group": "no-such-group"}
    with pytest.raises(ConfigError) as caught:
        check_host(load("", wrong), Path("/" + "x" * 107))
    found = [each.partition(":")[0] for each in caught.value.problems]
    assert found == ["control.socket", "node.network_key_file", "control.group"]
