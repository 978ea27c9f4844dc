"""What makes the certificate of a process: why it can't be had is said."""

from pathlib import Path

import pytest

from p2pd.errors import StartError
from p2pd.net import minting
from p2pd.net.certificate import make_tls_contexts


def test_a_child_that_fails_is_told_and_leaves_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> bytes:
        raise ZeroDivisionError("planted by a test")

    monkeypatch.setattr(minting, "mint_certificate", fail)
    with pytest.raises(StartError, match="can't mint"):
        make_tls_contexts()
    assert "planted by a test" in capfd.readouterr().err


def test_a_directory_for_temporary_files_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(StartError, match="TMPDIR"):
        make_tls_contexts()
