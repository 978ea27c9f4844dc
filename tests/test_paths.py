import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd import paths
from p2pd.errors import ConfigError, StartError

HOME = {"HOME": "/home/ada"}


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({}, 0, "/var/lib/p2pd/lab"),
        ({"STATE_DIRECTORY": "/var/lib/p2pd"}, 0, "/var/lib/p2pd"),
        ({"STATE_DIRECTORY": "/var/lib/p2pd:/var/lib/other"}, 61234, "/var/lib/p2pd"),
        ({**HOME, "STATE_DIRECTORY": ""}, 1000, "/home/ada/.local/state/p2pd/lab"),
        (HOME, 1000, "/home/ada/.local/state/p2pd/lab"),
        ({**HOME, "XDG_STATE_HOME": "/data"}, 1000, "/data/p2pd/lab"),
        ({**HOME, "XDG_STATE_HOME": "data"}, 1000, "/home/ada/.local/state/p2pd/lab"),
        ({**HOME, "XDG_STATE_HOME": "/data"}, 0, "/var/lib/p2pd/lab"),
    ],
)
def test_state_directory(environ: dict[str, str], uid: int, expected: str) -> None:
    assert paths.state_directory("lab", environ, uid) == Path(expected)


def test_without_a_home_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="set HOME, or use --state-dir"):
        paths.state_directory("lab", {}, 1000)


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({}, 0, "/run/p2pd/lab.sock"),
        ({"RUNTIME_DIRECTORY": "/run/p2pd"}, 61234, "/run/p2pd/lab.sock"),
        ({"RUNTIME_DIRECTORY": "/run/p2pd:/run/x"}, 0, "/run/p2pd/lab.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/p2pd/lab.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/p2pd/lab.sock"),
        ({"XDG_RUNTIME_DIR": "relative"}, 1000, "/tmp/p2pd-1000/lab.sock"),
        ({}, 1000, "/tmp/p2pd-1000/lab.sock"),
    ],
)
def test_control_socket(environ: dict[str, str], uid: int, expected: str) -> None:
    assert paths.control_socket("lab", environ, uid) == Path(expected)


@pytest.mark.parametrize("name", ["default", "a", "A-b_c.9", "x" * 64, "-x"])
def test_instance_names(name: str) -> None:
    assert paths.check_instance(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "x" * 65, "é", "a\n"])
def test_names_that_are_no_instance(name: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 64 of"):
        paths.check_instance(name)


@given(st.text(max_size=70))
def test_no_instance_leaves_its_directory(name: str) -> None:
    try:
        paths.check_instance(name)
    except ValueError:
        return
    assert paths.state_directory(name, {}, 0).parent == Path("/var/lib/p2pd")
    assert paths.state_directory(name, {}, 0).name == name


def test_a_socket_path_has_a_bound() -> None:
    longest = Path("/" + "x" * (paths.MAX_SOCKET_PATH - 1))
    assert paths.check_socket_path(longest) == longest
    with pytest.raises(ConfigError, match=r"has 108 bytes.*--control"):
        paths.check_socket_path(Path(f"{longest}x"))


@pytest.mark.parametrize("name", ["lock", "identity.json", "p2pd.db", "p2pd.db-wal"])
def test_no_instance_is_called_after_a_file_of_the_state_directory(name: str) -> None:
    with pytest.raises(ValueError, match="choose another name"):
        paths.check_instance(name)


def test_a_state_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"
    paths.make_state_directory(wanted)
    assert wanted.stat().st_mode & 0o777 == 0o700
    paths.make_state_directory(wanted)


def test_a_place_where_one_may_not_look_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(StartError, match="Permission denied; choose another with --state-dir"):
        paths.make_state_directory(tmp_path / "a")


def test_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    wanted = tmp_path / "state"
    wanted.write_text("")
    with pytest.raises(StartError, match="it exists, and is no directory; choose another"):
        paths.make_state_directory(wanted)


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o755), (1000, 0o700)])
def test_the_systems_socket_directory_is_open_to_the_sockets_group(
    tmp_path: Path, uid: int, mode: int
) -> None:
    before = os.umask(0o077)
    try:
        paths.make_socket_directory(tmp_path / "p2pd" / "default.sock", uid)
    finally:
        os.umask(before)
    assert (tmp_path / "p2pd").stat().st_mode & 0o777 == mode


class TestInTmp:
    """The fall-back in /tmp, where anybody may have been first."""

    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        directory = tmp_path / f"p2pd-{os.getuid()}"
        monkeypatch.setattr(paths, "FALLBACK_PARENT", tmp_path)
        return directory

    def test_it_is_made_private(self, directory: Path) -> None:
        socket = paths.control_socket("default", {}, os.getuid() or 1)
        assert socket.parent.parent == directory.parent
        paths.make_socket_directory(directory / "default.sock", os.getuid())
        assert directory.is_dir()
        paths.make_socket_directory(directory / "default.sock", os.getuid())

    def test_a_symlink_is_refused(self, directory: Path, tmp_path: Path) -> None:
        target = tmp_path / "theirs"
        target.mkdir(mode=0o700)
        directory.symlink_to(target)
        self.refuses(directory)

    def test_one_that_others_may_enter_is_refused(self, directory: Path) -> None:
        directory.mkdir()
        directory.chmod(0o770)
        self.refuses(directory)

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
    def test_somebody_elses_is_refused(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        os.chown(directory, 65534, 65534)
        self.refuses(directory)

    @staticmethod
    def refuses(directory: Path) -> None:
        with pytest.raises(StartError, match="not a directory of this user's alone"):
            paths.make_socket_directory(directory / "default.sock", os.getuid())
