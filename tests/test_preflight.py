"""What would keep a node from running is found before it starts, all at once."""

import os
from pathlib import Path

from p2pd.config_file import load
from p2pd.preflight import host_problems


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(os.urandom(32).hex())
    config = load("", {"node.network_key_file": str(key), "control.group": "root"})
    assert host_problems(config, tmp_path / "p2pd.sock") == []
    assert host_problems(load("", {}), Path("/" + "x" * 106)) == []


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = {"node.network_key_file": str(tmp_path / "none"), "control.group": "no-such-group"}
    found = host_problems(load("", wrong), Path("/" + "x" * 107))
    assert [each.partition(":")[0] for each in found] == [
        "control.socket",
        "node.network_key_file",
        "control.group",
    ]
