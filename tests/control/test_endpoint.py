import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from p2pd.control.endpoint import listening_socket
from p2pd.errors import ConfigError, StartError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_asked_for_and_goes_on_exit(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "p2pd.sock"
    with listening_socket(path, mode, None):
        assert mode_of(path) == mode
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_socket_is_never_open_wider_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p2pd.sock"
    seen = []
    plain = Path.chmod

    def watched(self: Path, mode: int) -> None:
        seen.append(mode_of(self))
        plain(self, mode)

    monkeypatch.setattr(Path, "chmod", watched)
    before = os.umask(0)
    try:
        with listening_socket(path, 0o600, None):
            pass
    finally:
        os.umask(before)
    assert seen == [0]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    assert path.exists()
    with listening_socket(path, 0o600, None), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    with listening_socket(path, 0o600, None):
        with (
            pytest.raises(StartError, match="--control PATH, or, without that flag") as caught,
            listening_socket(path, 0o600, None),
        ):
            pass
        assert str(path) in str(caught.value)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_live_socket_with_a_full_backlog_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartError, match="listening"), listening_socket(path, 0o600, None):
            pass
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="not a socket"), listening_socket(path, 0o600, None):
        pass
    assert path.read_text() == "precious"


def test_a_successors_socket_is_left_alone_on_exit(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    with listening_socket(path, 0o600, None), socket.socket(socket.AF_UNIX) as successor:
        path.rename(tmp_path / "old.sock")
        successor.bind(str(path))
    assert path.exists()


def test_an_unknown_group_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "p2pd.sock"
    with (
        pytest.raises(ConfigError, match=r"control\.group: .*'no-such-group'"),
        listening_socket(path, 0o660, "no-such-group"),
    ):
        pass
    assert not path.exists()


def test_the_socket_gets_its_group(tmp_path: Path) -> None:
    mine = {os.getegid(), *os.getgroups()}
    every = grp.getgrall() if os.geteuid() == 0 else [grp.getgrgid(each) for each in mine]
    group = max(every, key=lambda each: each.gr_gid)
    path = tmp_path / "p2pd.sock"
    with listening_socket(path, 0o660, group.gr_name):
        assert path.stat().st_gid == group.gr_gid


def test_a_group_that_is_not_permitted_is_a_start_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    name = grp.getgrgid(os.getegid()).gr_name
    path = tmp_path / "p2pd.sock"
    with pytest.raises(StartError, match=name), listening_socket(path, 0o660, name):
        pass
    assert not path.exists()


def test_a_missing_directory_is_a_start_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "p2pd.sock"
    with pytest.raises(StartError, match="missing"), listening_socket(path, 0o600, None):
        pass
