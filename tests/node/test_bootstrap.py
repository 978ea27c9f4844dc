"""Bootstrap addresses are tried at once, and names for as long as they are configured."""

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import DialFailed
from p2pd.simulation.world import SimNode, World, open_world


class Names:
    """A name service: `known` are its answers, each after `delay` seconds."""

    def __init__(self) -> None:
        self.known: dict[str, list[Address]] = {}
        self.delay = 0.0

    async def resolve(self, host: str, port: int) -> list[Address]:
        if host[0].isdecimal():
            return [Address(host, port)]
        await trio.sleep(self.delay)
        if host not in self.known:
            raise DialFailed(f"can't resolve {host}: check the name")
        return self.known[host]


async def start_with(
    world: World, names: Names, patch: pytest.MonkeyPatch, *bootstrap: str
) -> SimNode:
    a = await world.start("a", lan=None, discovery__bootstrap=list(bootstrap))
    await world.crash(a)
    patch.setattr(a.network, "resolve", names.resolve)
    return await world.start("a")


async def test_a_slow_name_does_not_hold_up_the_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        b = await world.start("b", lan=None)
        names = Names()
        names.delay = 60.0
        a = await start_with(world, names, monkeypatch, "slow.example:1", str(b.address))
        await world.until(lambda: a.is_connected_to(b), within=1)


async def test_an_address_outlives_the_name_service(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        b = await world.start("b", lan=None)
        await world.crash(b)
        names = Names()
        names.known["b.example"] = [b.address]
        a = await start_with(world, names, monkeypatch, "b.example:41000")
        await trio.sleep(10)
        names.known.clear()
        await trio.sleep(120)
        assert a.codes().count("bootstrap.unresolved") == 1
        await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=300)


async def test_an_address_that_a_name_left_is_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        b = await world.start("b", lan=None)
        names = Names()
        names.known["b.example"] = [Address("10.7.7.7", 1)]
        a = await start_with(world, names, monkeypatch, "b.example:41000")
        await trio.sleep(10)
        names.known["b.example"] = [b.address]
        await world.until(lambda: a.is_connected_to(b), within=60)
        assert [each.name for each in a.node.peers()] == ["b"]
