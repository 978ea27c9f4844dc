"""What the fuzzer began with and what it found once breaks no harness, and each is of some use."""

from pathlib import Path

import pytest

from tests.fuzz.harnesses import HARNESSES

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("name", HARNESSES)
def test_the_corpus_breaks_nothing(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert len(inputs) >= 3
    for each in inputs:
        print(each.name)
        HARNESSES[name](each.read_bytes())
