"""The network in memory keeps the promises of the seam, in virtual time."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.address import Address
from p2pd.errors import DialFailed, StartError
from p2pd.net.base import Interface
from p2pd.net.faults import Conditions, constant_latency
from p2pd.net.medium import TICK, Medium, on_tick
from p2pd.net.sim import WINDOW, SimNetwork, SimStream, SimWorld

LATENCY = 0.01
NEAR, FAR = "10.0.0.1", "10.0.0.2"
PORT = Address(FAR, 41000)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@asynccontextmanager
async def running(*, jitter: float = 0.0) -> AsyncIterator[SimWorld]:
    rng = random.Random(1)
    latency = (
        (lambda _source, _destination: rng.uniform(LATENCY, LATENCY + jitter))
        if jitter
        else constant_latency(LATENCY)
    )
    world = SimWorld(Medium(Conditions(rng, latency)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.medium.run)
        yield world
        nursery.cancel_scope.cancel()


def network(world: SimWorld, host: str, lan: str | None = "lan") -> SimNetwork:
    return SimNetwork(world, host, host.encode().ljust(32), lan)


async def joined(world: SimWorld) -> tuple[SimStream, SimStream]:
    """Dial from near to far; returns the two ends."""
    listener = await network(world, FAR).listen(PORT)
    near = await network(world, NEAR).dial(PORT)
    far = await (await listener.accept()).secure()
    await listener.aclose()
    return near, far


def test_what_floats_add_costs_no_tick() -> None:
    ticks = [round(on_tick(number * 0.01 + 0.05, 0.01) / 0.01) for number in range(10_000)]
    assert ticks == list(range(5, 10_005))
    assert on_tick(0.0501, 0.01) == pytest.approx(0.06)


async def receive(stream: SimStream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = await stream.receive_some()
        assert some
        data += some
    return data


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30))
@settings(max_examples=20)
def test_bytes_arrive_in_order_whatever_the_latency_of_each(chunks: Sequence[bytes]) -> None:
    async def play() -> None:
        async with running(jitter=0.5) as world:
            near, far = await joined(world)
            for chunk in chunks:
                await near.send_all(chunk)
            whole = b"".join(chunks)
            assert await receive(far, len(whole)) == whole

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_bytes_take_their_time(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        before = trio.current_time()
        near, far = await joined(world)
        # TCP, then TLS.
        assert trio.current_time() - before == pytest.approx(4 * LATENCY, abs=4 * TICK)
        before = trio.current_time()
        await near.send_all(b"x")
        await far.receive_some()
        assert trio.current_time() - before == pytest.approx(LATENCY, abs=2 * TICK)


async def test_both_ends_know_the_certificate_of_the_listening_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        near, far = await joined(world)
        assert near.certificate == far.certificate == network(world, FAR)._certificate
        assert near.remote == PORT
        assert far.remote.host == NEAR


async def test_a_closed_end_is_the_end_after_what_was_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        near, far = await joined(world)
        await near.send_all(b"last words")
        await near.aclose()
        assert await far.receive_some() == b"last words"
        assert await far.receive_some() == b""
        assert await far.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        await near.aclose()


async def test_sending_to_one_who_left_breaks_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        near, far = await joined(world)
        await far.aclose()
        await near.send_all(b"too late")
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"again")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_a_reset_ends_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        near, far = await joined(world)

        async def wait() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await near.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            near.break_now()
        await far.aclose()


async def test_closing_ends_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        near, far = await joined(world)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        await far.aclose()


async def test_a_sender_waits_while_its_window_is_full(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        near, far = await joined(world)
        await near.send_all(bytes(WINDOW))
        assert not near.send_nowait(b"x")
        with trio.move_on_after(60) as scope:
            await near.send_all(b"x")
        assert scope.cancelled_caught
        await receive(far, WINDOW)
        with trio.fail_after(60):
            await near.send_all(b"more")
        assert await receive(far, 4) == b"more"


async def test_sending_without_waiting_keeps_the_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        near, far = await joined(world)
        assert near.send_nowait(b"a")
        await near.send_all(b"b")
        assert near.send_nowait(b"c")
        assert await receive(far, 3) == b"abc"


async def test_nobody_listening_is_a_failed_dial(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        with pytest.raises(DialFailed, match="refused"):
            await network(world, NEAR).dial(PORT)
        near, _ = await joined(world)
        with pytest.raises(DialFailed, match="refused"):
            await network(world, NEAR).dial(PORT)
        await near.aclose()


async def test_a_port_is_had_once_and_again_after_it_was_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        far = network(world, FAR)
        listener = await far.listen(PORT)
        with pytest.raises(StartError, match="41000"):
            await network(world, FAR).listen(PORT)
        await (await network(world, NEAR).listen(Address(NEAR, 41000))).aclose()
        await listener.aclose()
        await (await far.listen(PORT)).aclose()
        one, other = [await far.listen(Address(FAR, 0)) for _ in range(2)]
        assert one.address.port != other.address.port


async def test_a_closed_listener_accepts_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        listener = await network(world, FAR).listen(PORT)
        await listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_datagrams_reach_the_segment_and_the_sender_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as world:
        hosts = [
            network(world, NEAR),
            network(world, FAR),
            network(world, "10.0.9.1", lan="elsewhere"),
        ]
        one, other, elsewhere = [
            each.open_multicast(each.interfaces()[0], "239.255.0.1", 41000) for each in hosts
        ]
        await one.send(b"hello")
        assert await one.receive() == (b"hello", NEAR)
        assert await other.receive() == (b"hello", NEAR)
        with trio.move_on_after(10) as scope:
            await elsewhere.receive()
        assert scope.cancelled_caught
        other.close()
        await one.send(b"still here")
        assert await one.receive() == (b"still here", NEAR)


async def test_a_host_without_multicast_has_none(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        alone = network(world, NEAR, lan=None)
        (only,) = alone.interfaces()
        assert not only.multicast
        with pytest.raises(OSError, match="sim0"):
            alone.open_multicast(only, "239.255.0.1", 41000)


async def test_changes_of_interfaces_are_told(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        host = network(world, NEAR)
        new = Interface("sim1", 3, loopback=False, multicast=True, addresses=(FAR,))

        async def change() -> None:
            await trio.sleep(5)
            host.set_interfaces(new)

        async with host.interface_changes() as changed, trio.open_nursery() as nursery:
            nursery.start_soon(change)
            with trio.fail_after(6):
                await changed()
            assert host.interfaces() == [new]
