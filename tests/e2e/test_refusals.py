"""Nodes that must not come together: both say why, in the log and in `last_error`."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, until

pytestmark = pytest.mark.e2e

NO_MULTICAST = ("--set", "discovery.multicast.enabled=false")


def logged(daemon: Daemon, event: str, reason: str) -> list[dict[str, Any]]:
    return [each for each in daemon.events(event) if each["reason"] == reason]


def errors_shown(daemon: Daemon) -> list[str]:
    return [each["last_error"] for each in daemon.call("peers") if each["last_error"]]


def assert_refused(dialler: Daemon, listener: Daemon, reason: str, words: str) -> None:
    """Both daemons run; check that each keeps the other out, and tells the same reason."""
    until("the dialler says why", lambda: logged(dialler, "peer.dial_failed", reason))
    until("the listener says why", lambda: logged(listener, "peer.refused", reason))
    for daemon in (dialler, listener):
        assert daemon.connected() == set()
        assert any(words in each for each in errors_shown(daemon)), errors_shown(daemon)


def test_another_network_name(make_daemon: MakeDaemon) -> None:
    listener = make_daemon("a", *NO_MULTICAST).start()
    flags = ("--set", "node.network=other", "--bootstrap", listener.address)
    dialler = make_daemon("b", *NO_MULTICAST, *flags).start()
    assert_refused(dialler, listener, "network", "node.network")


@pytest.mark.parametrize("dialler_has_key", [True, False])
def test_another_network_key(
    make_daemon: MakeDaemon, tmp_path: Path, *, dialler_has_key: bool
) -> None:
    keys = [tmp_path / "one.key", tmp_path / "two.key"]
    for key in keys:
        key.write_text(f"a secret of at least 32 bytes: {key.stem}\n")
    with_key = [("--set", f"node.network_key_file={key}") for key in keys]
    listener = make_daemon("a", *NO_MULTICAST, *with_key[0]).start()
    own = with_key[1] if dialler_has_key else ()
    dialler = make_daemon("b", *NO_MULTICAST, *own, "--bootstrap", listener.address).start()
    assert_refused(dialler, listener, "network_key", "node.network_key_file")


def test_the_same_network_key_lets_in(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    key = tmp_path / "network.key"
    key.write_text("a secret of at least 32 bytes, shared\n")
    flags = ("--set", f"node.network_key_file={key}")
    one, two = (make_daemon(name, *flags).start() for name in "ab")
    until("they are connected", lambda: one.connected() == {"b"} and two.connected() == {"a"})


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, False)])
def test_a_key_that_every_user_can_read_is_worth_a_warning(
    make_daemon: MakeDaemon, tmp_path: Path, *, mode: int, warns: bool
) -> None:
    key = tmp_path / "network.key"
    key.write_text("a secret of at least 32 bytes, shared\n")
    key.chmod(mode)
    daemon = make_daemon("a", *NO_MULTICAST, "--set", f"node.network_key_file={key}").start()
    said = [each["message"] for each in daemon.events("node.key_exposed")]
    assert [str(key) in each and "chmod" in each for each in said] == [True] * warns


def test_an_identity_with_too_little_work(make_daemon: MakeDaemon) -> None:
    strict = ("--set", "identity.difficulty=16")
    listener = make_daemon("a", *NO_MULTICAST, *strict).start()
    cheap = ("--set", "identity.difficulty=0", "--bootstrap", listener.address)
    dialler = make_daemon("b", *NO_MULTICAST, *cheap).start()
    assert_refused(dialler, listener, "difficulty", "identity.difficulty")


def test_oneself(make_daemon: MakeDaemon) -> None:
    node = make_daemon("a", "--bootstrap", "127.0.0.1:21001", port=21001).start()
    assert_refused(node, node, "self", "leads back to this node")
    assert {each["level"] for each in logged(node, "peer.dial_failed", "self")} == {"info"}


def test_a_copied_state_directory(make_daemon: MakeDaemon) -> None:
    original = make_daemon("a")
    original.start()
    original.stop()
    copy = make_daemon("b")
    shutil.copytree(original.state_dir, copy.state_dir)
    original.start()
    copy.start()
    for daemon in (original, copy):
        until("it is logged", partial(logs_a_clash, daemon))
        until("it is shown", partial(shows_a_clash, daemon))
        assert daemon.connected() == set()


def logs_a_clash(daemon: Daemon) -> bool:
    reason = "identity_clash"
    return bool(
        logged(daemon, "peer.refused", reason) or logged(daemon, "peer.dial_failed", reason)
    )


def shows_a_clash(daemon: Daemon) -> bool:
    return any("copied state" in each for each in errors_shown(daemon))
