"""What TLS allows, and no node sends: it holds up nobody, and fills no memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2pd.address import Address
from p2pd.net.real import RealNetwork
from p2pd.net.tls import TlsStream
from tests.net.forger import Forger

pytestmark = pytest.mark.e2e

HANG = 20


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[TlsStream, Forger]]:
    """Give a stream of ours, and who is at the other end."""
    listener = await RealNetwork().listen(Address("127.0.0.1", 0))
    with trio.fail_after(HANG):
        forger = Forger(await trio.open_tcp_stream(*listener.address))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forger.do_handshake)
            stream = await (await listener.accept()).secure()
        yield stream, forger
        await stream.aclose()
        await forger.stream.aclose()
        await listener.aclose()


async def test_others_have_their_turn_however_small_the_records(nursery: trio.Nursery) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with attacked() as (stream, forger):
        nursery.start_soon(take_turns)
        await forger.stream.send_all(b"".join(forger.data(b"x") for _ in range(1000)))
        received, begun = 0, turns
        while received < 1000:
            received += len(await stream.receive_some())
            assert received <= 100 * (turns - begun + 2)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("asks", [False, True])
async def test_who_changes_keys_without_end_is_cut_off(*, asks: bool) -> None:
    async with attacked() as (stream, forger):
        await forger.stream.send_all(b"".join(forger.new_key(asks=asks) for _ in range(1000)))
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        # Each one that asks leaves an answer there.
        assert stream._outgoing.pending < 4096


async def test_who_changes_its_key_now_and_then_is_heard() -> None:
    async with attacked() as (stream, forger):
        for number in range(20):
            record = forger.data(bytes([number]))
            # One byte at a time, so that TLS sees each part of a record alone.
            for byte in record + forger.new_key(asks=number % 2 == 0):
                await forger.stream.send_all(bytes([byte]))
            assert await stream.receive_some() == bytes([number])


async def test_what_came_before_nonsense_is_received_and_then_it_stays_broken() -> None:
    async with attacked() as (stream, forger):
        await forger.stream.send_all(forger.data(b"one") + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await stream.receive_some() == b"one"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_between_large_records_other_tasks_have_their_turn() -> None:
    async with attacked() as (stream, forger):
        await forger.stream.send_all(b"".join(forger.data(bytes(16_000)) for _ in range(8)))
        sizes: list[int] = []
        while sum(sizes) < 8 * 16_000:
            sizes.append(len(await stream.receive_some()))
        assert max(sizes) <= 2 * 16_000


async def test_after_a_goodbye_of_tls_nothing_is_received() -> None:
    async with attacked() as (stream, forger):
        records = [forger.data(b"one"), forger.goodbye(), forger.data(b"two")]
        await forger.stream.send_all(b"".join(records))
        assert await stream.receive_some() == b"one"
        assert await stream.receive_some() == b""
        assert await stream.receive_some() == b""


async def test_a_record_that_was_cut_short_gives_nothing() -> None:
    async with attacked() as (stream, forger):
        await forger.stream.send_all(forger.data(b"whole") + forger.data(b"cut short")[:-1])
        await forger.stream.send_eof()
        assert await stream.receive_some() == b"whole"
        assert await stream.receive_some() == b""


async def test_a_send_that_was_cancelled_spoils_nothing_that_was_begun() -> None:
    network = RealNetwork()
    listener = await network.listen(Address("127.0.0.1", 0))
    accepted: list[TlsStream] = []

    async def accept() -> None:
        accepted.append(await (await listener.accept()).secure())

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            one = await network.dial(listener.address)
        [other] = accepted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, bytes(20_000_000))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, b"more")
            while received < 20_000_004:
                received += len(await other.receive_some())
        for each in (one, other, listener):
            await each.aclose()
