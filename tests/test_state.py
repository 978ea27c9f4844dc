"""The state directory, where other users may write to it, or read from it, too."""

from pathlib import Path

import pytest

from p2pd.errors import StartError
from p2pd.state import IDENTITY_FILE, is_identity_exposed, load_identity, locked


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


@pytest.mark.parametrize(
    ("directory", "key", "exposed"),
    [
        (0o700, 0o600, False),
        # Nobody else gets to it.
        (0o700, 0o644, False),
        (0o755, 0o600, False),
        (0o755, 0o604, True),
        (0o750, 0o640, True),
        (0o770, 0o600, True),
        (0o702, 0o600, True),
    ],
)
def test_a_private_key_is_exposed_where_others_can_read_or_replace_it(
    tmp_path: Path, directory: int, key: int, *, exposed: bool
) -> None:
    place = tmp_path / "state"
    place.mkdir()
    load_identity(place, 0)
    (place / IDENTITY_FILE).chmod(key)
    place.chmod(directory)
    assert is_identity_exposed(place) is exposed
