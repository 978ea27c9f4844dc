"""The state directory's lock, where somebody else may write to that directory, too."""

from pathlib import Path

import pytest

from p2pd.errors import StartError
from p2pd.state import locked


def test_a_lock_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/lock").symlink_to(precious)
    with (
        pytest.raises(StartError, match="can't write to the state directory"),
        locked(tmp_path / "state"),
    ):
        pass
    assert precious.read_text() == "untouched"
