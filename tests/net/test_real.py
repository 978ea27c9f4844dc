"""The real network on loopback: TLS both ways, refusals, and what errors tell a user."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from p2pd.address import Address
from p2pd.errors import DialFailed, StartError
from p2pd.net.base import Listener, Stream, cause_of
from p2pd.net.certificate import make_tls_contexts
from p2pd.net.real import RealNetwork
from p2pd.net.tls import TlsStream

pytestmark = pytest.mark.e2e

LOOPBACK = Address("127.0.0.1", 0)
LOOPBACK_V6 = Address("::1", 0)
HANG = 20


def has_v6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_v6 = pytest.mark.skipif(not has_v6_loopback(), reason="loopback has no IPv6 address")
on_both = pytest.mark.parametrize(
    "where", [LOOPBACK, pytest.param(LOOPBACK_V6, marks=needs_v6)], ids=str
)


@pytest.fixture
async def near() -> RealNetwork:
    return RealNetwork()


@pytest.fixture
async def far() -> RealNetwork:
    return RealNetwork()


@asynccontextmanager
async def joined(
    near: RealNetwork, far: RealNetwork, where: Address = LOOPBACK
) -> AsyncIterator[tuple[Stream, Stream]]:
    """Dial from near to far; gives the two ends."""
    listener = await far.listen(where)
    accepted: list[Stream] = []

    async def accept() -> None:
        accepted.append(await (await listener.accept()).secure())

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            dialled = await near.dial(listener.address)
        yield dialled, accepted[0]
        await dialled.aclose()
        await accepted[0].aclose()
        await listener.aclose()


async def receive(stream: Stream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = await stream.receive_some()
        assert some
        data += some
    return data


@on_both
async def test_bytes_go_both_ways(near: RealNetwork, far: RealNetwork, where: Address) -> None:
    async with joined(near, far, where) as (one, other):
        await one.send_all(b"to and")
        assert await receive(other, 6) == b"to and"
        await other.send_all(b" fro")
        assert await receive(one, 4) == b" fro"


async def test_much_goes_through_at_once_both_ways(near: RealNetwork, far: RealNetwork) -> None:
    much = bytes(range(256)) * 8192
    async with joined(near, far) as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, much)
        nursery.start_soon(other.send_all, much[::-1])
        assert await receive(other, len(much)) == much
        assert await receive(one, len(much)) == much[::-1]


async def test_an_answer_goes_at_once_and_what_follows_it_leaves_together(
    near: RealNetwork, far: RealNetwork
) -> None:
    async with joined(near, far) as (one, other):
        assert one.send_nowait(b"question")
        assert not one.send_nowait(b"another")
        assert await receive(other, 8) == b"question"
        assert other.send_nowait(b"answer")
        assert not other.send_nowait(b"and more")
        await other.send_all(b", and more")
        assert await receive(one, 16) == b"answer, and more"
        assert one.send_nowait(b"next")
        assert await receive(other, 4) == b"next"


async def test_what_the_socket_took_in_part_arrives_once(
    near: RealNetwork, far: RealNetwork
) -> None:
    much = bytes(range(256)) * 65536
    async with joined(near, far) as (one, other), trio.open_nursery() as nursery:
        assert not one.send_nowait(much)
        nursery.start_soon(one.send_all, much + b"and the rest")
        assert await receive(other, len(much) + 12) == much + b"and the rest"


async def test_what_tls_no_longer_takes_is_not_said_to_be_sent(
    near: RealNetwork, far: RealNetwork
) -> None:
    async with joined(near, far) as (one, other):
        assert isinstance(other, TlsStream)
        other._socket.send(b"anything but a record")
        with pytest.raises(trio.BrokenResourceError):
            await one.receive_some()
        assert not one.send_nowait(b"lost")
        with pytest.raises(trio.BrokenResourceError):
            await one.send_all(b"lost")


async def test_both_ends_know_the_certificate_of_the_listening_one(
    near: RealNetwork, far: RealNetwork
) -> None:
    async with joined(near, far) as (one, other), joined(far, near) as (back, forth):
        assert len(one.certificate) == 32
        assert one.certificate == other.certificate
        assert back.certificate == forth.certificate
        assert one.certificate != back.certificate


async def test_every_network_has_a_certificate_of_its_own() -> None:
    assert make_tls_contexts().certificate != make_tls_contexts().certificate


async def test_each_end_knows_the_others_address(near: RealNetwork, far: RealNetwork) -> None:
    async with joined(near, far) as (one, other):
        assert one.remote.host == other.remote.host == "127.0.0.1"
        assert one.remote.port != other.remote.port


async def test_a_closed_end_is_the_end_for_the_other(near: RealNetwork, far: RealNetwork) -> None:
    async with joined(near, far) as (one, other):
        await one.send_all(b"last words")
        await one.aclose()
        assert await receive(other, 10) == b"last words"
        assert await other.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"x")


async def test_sending_to_one_who_left_breaks(near: RealNetwork, far: RealNetwork) -> None:
    async def send_on(stream: Stream) -> None:
        while True:
            await stream.send_all(bytes(100_000))

    async with joined(near, far) as (one, other):
        await other.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await send_on(one)


async def test_closing_does_not_wait_for_the_other_side(
    near: RealNetwork, far: RealNetwork
) -> None:
    async with joined(near, far) as (one, other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill_until_stuck, one)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await one.aclose()
            nursery.cancel_scope.cancel()
        await other.aclose()
        await other.aclose()


async def fill_until_stuck(stream: Stream) -> None:
    try:
        while True:
            await stream.send_all(bytes(1_000_000))
    except trio.ClosedResourceError:
        return


async def test_nobody_listening_is_a_failed_dial(near: RealNetwork, far: RealNetwork) -> None:
    listener = await far.listen(LOOPBACK)
    await listener.aclose()
    with pytest.raises(DialFailed, match=f"{listener.address}.*refused"):
        await near.dial(listener.address)


@pytest.mark.parametrize(
    "address",
    [
        Address("255.255.255.255", 1),
        Address("fe80::1%no-such-interface", 1),
        Address("224.0.0.1", 1),
    ],
    ids=str,
)
async def test_an_address_that_can_not_be_dialled_is_a_failed_dial(
    near: RealNetwork, address: Address
) -> None:
    with pytest.raises(DialFailed, match=address.host):
        await near.dial(address)


@asynccontextmanager
async def plain_server(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[Address]:
    """Serve without TLS."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield Address(host, port)
        nursery.cancel_scope.cancel()


async def test_a_server_without_tls_is_a_failed_dial(near: RealNetwork) -> None:
    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example.org ESMTP\r\n" * 100)
        await stream.aclose()

    async with plain_server(babble) as address:
        with trio.fail_after(HANG), pytest.raises(DialFailed, match="another program"):
            await near.dial(address)


async def test_a_server_that_hangs_up_is_a_failed_dial(near: RealNetwork) -> None:
    async with plain_server(trio.SocketStream.aclose) as address:
        with trio.fail_after(HANG), pytest.raises(DialFailed, match=str(address.port)):
            await near.dial(address)


async def test_a_server_that_was_killed_is_told_of_in_words(near: RealNetwork) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with plain_server(reset) as address:
        with trio.fail_after(HANG), pytest.raises(DialFailed, match="up: Connection reset by peer"):
            await near.dial(address)


def test_the_cause_of_a_broken_stream_is_told_in_words() -> None:
    broken = trio.BrokenResourceError("the connection broke")
    assert cause_of(broken) == "the connection broke"
    broken.__cause__ = OSError(32, "Broken pipe")
    assert cause_of(broken) == "Broken pipe"
    broken.__cause__ = OSError("timed out")
    assert cause_of(broken) == "timed out"


async def test_a_dial_of_one_who_says_nothing_can_be_given_up(near: RealNetwork) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        received = b""
        while some := await stream.receive_some():
            received += some
        hung_up.set()

    hung_up = trio.Event()
    async with plain_server(say_nothing) as address:
        with trio.move_on_after(0.05) as scope:
            await near.dial(address)
        assert scope.cancelled_caught
        with trio.fail_after(HANG):
            await hung_up.wait()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 600, b"\0" * 100, b""],
    ids=range(4),
)
async def test_garbage_to_the_port_breaks_only_that_connection(
    near: RealNetwork, far: RealNetwork, garbage: bytes
) -> None:
    listener = await far.listen(LOOPBACK)
    with trio.fail_after(HANG):
        talker = await trio.open_tcp_stream(*listener.address)
        if garbage:
            await talker.send_all(garbage)
        await talker.send_eof()
        pending = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await pending.secure()
        await pending.aclose()
        await talker.aclose()
        await dial_and_leave(near, listener)
    await listener.aclose()


async def dial_and_leave(near: RealNetwork, listener: Listener) -> None:
    async def dial() -> None:
        await (await near.dial(listener.address)).aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        pending = await listener.accept()
        await (await pending.secure()).aclose()


async def test_an_older_tls_is_refused(far: RealNetwork) -> None:
    listener = await far.listen(LOOPBACK)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def dial() -> None:
        tcp = await trio.open_tcp_stream(*listener.address)
        stream = trio.SSLStream(tcp, old)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            pending = await listener.accept()
            with pytest.raises(trio.BrokenResourceError):
                await pending.secure()
            await pending.aclose()
    await listener.aclose()


async def test_a_closed_listener_accepts_no_more(far: RealNetwork) -> None:
    listener = await far.listen(LOOPBACK)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_the_address_in_effect_has_the_port_that_was_chosen(far: RealNetwork) -> None:
    listener = await far.listen(LOOPBACK)
    assert listener.address.host == "127.0.0.1"
    assert listener.address.port > 0
    await listener.aclose()


async def test_a_port_in_use_names_the_address_and_the_flags(far: RealNetwork) -> None:
    listener = await far.listen(LOOPBACK)
    with pytest.raises(StartError) as caught:
        await far.listen(listener.address)
    for word in (str(listener.address), "another program", "--port", "--listen", "--port 0"):
        assert word in str(caught.value)
    await listener.aclose()
    await (await far.listen(listener.address)).aclose()


async def test_a_strange_address_names_it_and_the_flag(far: RealNetwork) -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1:0.*no interface.*--listen"):
        await far.listen(Address("192.0.2.1", 0))


async def test_an_unknown_scope_names_the_flag(far: RealNetwork) -> None:
    with pytest.raises(StartError, match=r"fe80::1%nowhere.*--listen"):
        await far.listen(Address("fe80::1%nowhere", 0))


@needs_v6
async def test_all_addresses_of_both_families_fit_beside_each_other(far: RealNetwork) -> None:
    v4 = await far.listen(Address("0.0.0.0", 0))
    v6 = await far.listen(Address("::", v4.address.port))
    await v6.aclose()
    await v4.aclose()


async def test_numbers_resolve_to_themselves(near: RealNetwork) -> None:
    assert await near.resolve("127.0.0.1", 5) == [Address("127.0.0.1", 5)]
    assert await near.resolve("::1", 5) == [Address("::1", 5)]


@needs_v6
async def test_an_ipv4_mapped_address_resolves_to_that_of_ipv4(near: RealNetwork) -> None:
    assert await near.resolve("::ffff:127.0.0.1", 5) == [Address("127.0.0.1", 5)]
    assert await near.resolve("::ffff:0:0:7f00:1", 5) == [Address("::ffff:0:0:7f00:1", 5)]


@pytest.mark.parametrize("name", ["nobody.invalid", "a" * 64 + ".invalid", "..", "\0", "é" * 300])
async def test_a_name_that_is_none_is_a_failed_dial(near: RealNetwork, name: str) -> None:
    with pytest.raises(DialFailed, match="can't resolve") as failed:
        await near.resolve(name, 5)
    assert "Errno" not in str(failed.value)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (socket.EAI_NONAME, "check the name"),
        (socket.EAI_AGAIN, "check the name service of this host"),
    ],
)
async def test_a_name_is_not_blamed_where_no_server_answers(
    near: RealNetwork, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "it failed")

    monkeypatch.setattr(trio.socket, "getaddrinfo", fail)
    with pytest.raises(DialFailed) as failed:
        await near.resolve("seed.example", 5)
    assert str(failed.value) == f"can't resolve seed.example: it failed; {advice}"


@needs_v6
async def test_a_link_local_address_without_its_interface_is_said_to_lack_it() -> None:
    network = RealNetwork()
    with pytest.raises(DialFailed, match=r"name the interface, as in \[fe80::1%eth0\]:9"):
        await network.dial(Address("fe80::1", 9))
    with pytest.raises(StartError, match=r"name the interface, as in \[fe80::1%eth0\]:9.*--listen"):
        await network.listen(Address("fe80::1", 9))
