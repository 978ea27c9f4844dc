"""Strangers that send rubbish, or nothing, and keep the line: the node serves on."""

import random
import resource
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.e2e.conftest import MakeDaemon
from tests.e2e.daemons import Daemon, Namespace, until

pytestmark = pytest.mark.e2e

NO_MULTICAST = ("--set", "discovery.multicast.enabled=false")
# Far above what a session costs, far below what a leak or a buffered payload would.
FLAT_MIB = 16.0


@pytest.fixture
def node(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A node, warmed up by an honest peer; still whole at the end of the test."""
    daemon = make_daemon("a", *NO_MULTICAST).start()
    with suppress(OSError):
        with_tls(daemon.namespace.dial(daemon.port)).close()
    before = daemon.resident_mib()
    yield daemon
    assert daemon.call("status")["name"] == "a"
    assert daemon.events("bug") == []
    assert daemon.resident_mib() - before < FLAT_MIB


def with_tls(sock: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def an_honest_peer_is_served(node: Daemon, make_daemon: MakeDaemon) -> None:
    """Let a new node join, write through it and read here."""
    peer = make_daemon("honest", *NO_MULTICAST, "--bootstrap", node.address).start()
    until("the honest peer is connected", lambda: node.connected() == {"honest"})
    assert peer.ctl("put", "key", "value").returncode == 0
    assert node.ctl("get", "key").stdout == "value"
    assert peer.call("ping", peer="a")["rtt_ms"]


def is_cut_off_after(sock: socket.socket, sent: bytes) -> bool:
    """Send this; whether the node then ends the connection, after whatever it still says."""
    with suppress(OSError):
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def frame(payload: bytes, *, version: int = 1, tag: int = 1, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">BBBBQQI", version, tag, 0, 0, 0, 0, size) + payload


GARBAGE = {
    "plaintext": b"GET / HTTP/1.1\r\nHost: p2pd\r\n\r\n",
    "random bytes": random.Random(7).randbytes(100_000),
    "a TLS record cut short": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_tls(
    node: Daemon, namespace: Namespace, make_daemon: MakeDaemon, sent: bytes
) -> None:
    for _ in range(20):
        with namespace.dial(node.port) as sock:
            assert is_cut_off_after(sock, sent)
    an_honest_peer_is_served(node, make_daemon)


INSIDE_TLS = {
    "nothing": b"",
    "random bytes": random.Random(8).randbytes(100_000),
    "half a frame": frame(b"\x90" * 64, length=128),
    "an oversized frame": frame(b"x" * 100, length=0xFFFFFFFF),
    "deep nesting": frame(b"\x91" * 8000 + b"\xc0"),
    "wrong types": frame(b"\x9a" + b"\xc3" * 10),
    "a message out of turn": frame(b"\x90", tag=9),
    "another version": frame(b"\x90", version=255),
}


@pytest.mark.parametrize("sent", INSIDE_TLS.values(), ids=INSIDE_TLS.keys())
def test_what_is_no_handshake(
    node: Daemon, namespace: Namespace, make_daemon: MakeDaemon, sent: bytes
) -> None:
    for _ in range(20):
        with with_tls(namespace.dial(node.port)) as sock:
            assert is_cut_off_after(sock, sent)
    an_honest_peer_is_served(node, make_daemon)


@pytest.mark.parametrize("first", [b"", b"\x16"], ids=["silent", "after one byte"])
def test_a_thousand_idle_connections(
    node: Daemon, namespace: Namespace, make_daemon: MakeDaemon, first: bytes
) -> None:
    with ExitStack() as opened, enough_descriptors(1000):
        for _ in range(1000):
            sock = opened.enter_context(namespace.dial(node.port))
            with suppress(ConnectionError):
                sock.sendall(first)
        an_honest_peer_is_served(node, make_daemon)


def test_a_thousand_idle_tls_sessions(
    node: Daemon, namespace: Namespace, make_daemon: MakeDaemon
) -> None:
    with ExitStack() as opened, enough_descriptors(1000):
        for _ in range(1000):
            opened.enter_context(with_tls(namespace.dial(node.port)))
        an_honest_peer_is_served(node, make_daemon)


def test_the_node_has_fewer_descriptors_than_strangers(
    namespace: Namespace, make_daemon: MakeDaemon
) -> None:
    node = make_daemon("a", *NO_MULTICAST).start()
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (40, 40))
    with ExitStack() as opened:
        for _ in range(100):
            opened.enter_context(namespace.dial(node.port))
    an_honest_peer_is_served(node, make_daemon)
    assert node.events("bug") == []


def test_a_byte_at_a_time(node: Daemon, namespace: Namespace, make_daemon: MakeDaemon) -> None:
    """Slow-loris, on both doors: what is slow is cut off, or at least in nobody's way."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    with ExitStack() as opened:
        strangers = [opened.enter_context(namespace.dial(node.port)) for _ in range(100)]
        clients = [opened.enter_context(node.socket_client()) for _ in range(200)]
        for byte in hello[:12]:
            for sock in [*strangers, *clients]:
                with suppress(ConnectionError):
                    sock.sendall(bytes([byte]))
        an_honest_peer_is_served(node, make_daemon)
        # The dial timeout of 5 s bounds a handshake, however it trickles in.
        for sock in strangers:
            sock.setblocking(False)
        until(
            "the slow are cut off",
            lambda: {trickle(sock, b"\0") for sock in strangers} == {True},
        )


def trickle(sock: socket.socket, byte: bytes) -> bool:
    """Send one more byte; whether the node has closed the connection."""
    time.sleep(0.001)
    try:
        sock.send(byte)
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_rubbish_on_the_control_socket(node: Daemon) -> None:
    lines = [
        *(b"", b"\x00\xff\xfe", b"{", b"[]", b"[" * 100_000, b"null", b'{"jsonrpc":"2.0"}'),
        *(b'{"jsonrpc":"2.0","id":1,"method":"nonsense"}', random.Random(9).randbytes(10_000)),
        b'{"jsonrpc":"2.0","id":1,"method":"put","params":{"key":7}}',
        b"x" * (5 << 20),
    ]
    for line in lines:
        with node.socket_client() as sock, suppress(ConnectionError):
            sock.sendall(line + b"\n")
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while data := sock.recv(65536):
                answer += data
            assert line == b"" or b'"error"' in answer
    assert node.ctl("status").returncode == 0


@contextmanager
def enough_descriptors(count: int) -> Iterator[None]:
    """Within the `with`, this process may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, count + 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
