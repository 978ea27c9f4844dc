"""The same seed gives the same world, to the byte, whatever else differs."""

import json
import os
import subprocess
import sys

SCENARIO = ["faulty", "--nodes", "8"]


def digest(seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-m", "p2pd.simulation", *SCENARIO, "--json", "--seed", str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: str = json.loads(done.stdout)[0]["digest"]
    return found


def test_one_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    assert len({digest(5, hash_seed) for hash_seed in ("0", "1", "77")}) == 1


def test_another_seed_gives_another_trace() -> None:
    assert digest(5, "0") != digest(6, "0")
