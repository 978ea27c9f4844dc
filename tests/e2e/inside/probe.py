"""Does under the unit's sandbox what the daemon does, and what it must not be able to do.

It takes the daemon's place (a drop-in changes ExecStart and the watchdog's period), with the
daemon's own interpreter and libraries. What it finds goes to findings.json in the state directory;
then it serves: ready, watchdog, reload, until it is stopped.
"""

import json
import mmap
import os
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import logging_journald
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2pd.net.interfaces import list_interfaces
from p2pd.notify import Manager, watchdog_interval

STATE = Path(os.environ["STATE_DIRECTORY"])
RUNTIME = Path(os.environ["RUNTIME_DIRECTORY"])
INSTANCE = sys.argv[1]
MANAGER = Manager()
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100


def read_the_configuration() -> None:
    Path("/etc/p2pd/p2pd.toml").read_text()


def keep_records_in_a_wal() -> None:
    path = STATE / "probe.sqlite3"
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        database.execute("PRAGMA mmap_size=1048576")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE IF NOT EXISTS record (key BLOB PRIMARY KEY, value BLOB)")
        database.execute("INSERT OR REPLACE INTO record VALUES (x'00', zeroblob(100000))")
    database.close()
    assert path.stat().st_mode & 0o077 == 0


def make_an_identity_and_a_tls_context() -> None:
    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"probe"), b"probe")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "probe")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None)
    )
    path = STATE / "probe.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)


def listen_on_tcp() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener, socket.socket(family) as client:
            listener.bind((host, 0))
            listener.listen()
            client.connect(listener.getsockname())


def join_multicast_groups() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", 0))
        member = socket.inet_aton("239.255.0.1") + socket.inet_aton("127.0.0.1")
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        udp.settimeout(5)
        udp.sendto(b"beacon", ("239.255.0.1", udp.getsockname()[1]))
        assert udp.recv(100) == b"beacon"
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.bind(("::", 0))
        loopback = socket.if_nametoindex("lo")
        member = socket.inet_pton(socket.AF_INET6, "ff02::1:4100") + struct.pack("=I", loopback)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)


def follow_interfaces() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
    addresses = [host for each in list_interfaces() for host in each.addresses]
    assert "127.0.0.1" in addresses
    assert socket.gethostname()


def log_to_the_journal() -> None:
    assert logging_journald.check_journal_stream()
    journal = logging_journald.JournaldTransport()
    fields = (("message", "probing"), ("priority", 4), ("event", "probe.ready"))
    journal.send(fields)
    # Too long for a datagram: it goes by memfd.
    journal.send((*fields, ("traceback", "line\n" * 200_000)))


def find_a_writable_mount() -> None:
    """As root would see it, whom file permissions don't stop."""
    places = ("/", "/usr", "/etc/p2pd", "/run", "/var", "/var/lib", STATE.parent)
    if all(os.statvfs(place).f_flag & os.ST_RDONLY for place in places):
        raise PermissionError("all are read-only")


def write_to_shared_memory() -> None:
    Path("/dev/shm/probe").touch()


def look_into_homes() -> None:
    list(Path("/home").iterdir())


def run_what_it_wrote() -> None:
    refused = 0
    places = (STATE, RUNTIME, Path("/tmp"), Path("/var/tmp"))
    for place in places:
        script = place / "probe.sh"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o700)
        try:
            subprocess.run([script], check=True)
        except PermissionError:
            refused += 1
        script.unlink()
    if refused == len(places):
        raise PermissionError("refused everywhere")


def map_writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def send_raw_packets() -> None:
    """Refused for its family already, not only for the missing capability."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        return


def make_a_namespace() -> None:
    done = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        raise PermissionError(done.stderr.decode().strip())


def see_other_processes() -> None:
    Path("/proc/1/status").read_text()


NEEDED: tuple[Callable[[], None], ...] = (
    read_the_configuration,
    keep_records_in_a_wal,
    make_an_identity_and_a_tls_context,
    listen_on_tcp,
    join_multicast_groups,
    follow_interfaces,
    log_to_the_journal,
)
FORBIDDEN: tuple[Callable[[], None], ...] = (
    find_a_writable_mount,
    write_to_shared_memory,
    look_into_homes,
    run_what_it_wrote,
    map_writable_code,
    send_raw_packets,
    make_a_namespace,
    see_other_processes,
)


def attempt(action: Callable[[], None]) -> str:
    """`done`, or the error that `action` ended with."""
    try:
        action()
    except (OSError, AssertionError, ValueError, StopIteration, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


async def ping_the_watchdog() -> None:
    interval = watchdog_interval()
    assert interval is not None
    while True:
        MANAGER.tell("WATCHDOG=1")
        await trio.sleep(interval)


async def serve(listener: trio.SocketListener) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.aclose()

    await trio.serve_listeners(answer, [listener])


async def main() -> None:
    findings = {
        action.__name__: await trio.to_thread.run_sync(attempt, action)
        for action in NEEDED + FORBIDDEN
    }
    (STATE / "findings.json").write_text(
        json.dumps(
            {
                "needed": {action.__name__: findings[action.__name__] for action in NEEDED},
                "forbidden": {action.__name__: findings[action.__name__] for action in FORBIDDEN},
            }
        )
    )
    path = RUNTIME / f"{INSTANCE}.sock"
    path.unlink(missing_ok=True)
    control = trio.socket.socket(socket.AF_UNIX)
    await control.bind(os.fspath(path))
    path.chmod(0o660)
    control.listen()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, trio.SocketListener(control))
            nursery.start_soon(ping_the_watchdog)
            MANAGER.tell("READY=1", "STATUS=probing")
            async for signum in signals:
                if signum == signal.SIGTERM:
                    break
                MANAGER.tell("STATUS=reloaded")
            nursery.cancel_scope.cancel()
    path.unlink()


if __name__ == "__main__":
    if INSTANCE == "exit-2":
        sys.exit(2)
    trio.run(main)
