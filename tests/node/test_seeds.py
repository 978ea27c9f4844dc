"""Seeds: connections to more than half of them, replaced when lost, and left alone when asked."""

import itertools
from typing import NoReturn

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.errors import DialFailed
from p2pd.net.sim import SimNetwork, SimStream
from p2pd.node.seeds import RESOLVE_INTERVAL, RESOLVE_WITHIN, TRY_INTERVAL, quorum
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.records import RecordCache
from tests.node.scripted import Line, ScriptedPeer, connected


async def start_seeds(world: World, count: int) -> list[SimNode]:
    """Start so many seeds, which dial nobody."""
    return [
        await world.start(f"s{number}", lan=None, node__roles=["seed"], connections__target=0)
        for number in range(count)
    ]


async def start_user(
    world: World, *seeds: str | SimNode, name: str = "a", target: int = 0
) -> SimNode:
    texts = [each if isinstance(each, str) else str(each.address) for each in seeds]
    return await world.start(name, lan=None, discovery__seeds=texts, connections__target=target)


def held(node: SimNode) -> int:
    return len(node.services.seeds.connected())


def stays_with(node: SimNode, other: SimNode) -> bool:
    """Whether they are connected, and not just for a question."""
    return other.node_id in {each.node_id for each in node.services.roster.lasting()}


def let_nobody_ask(node: SimNode, patch: pytest.MonkeyPatch) -> None:
    """Keep a node from dialling for questions, as those of the DHT: what is left are its seeds."""

    async def refuse(*_: object, **__: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise DialFailed("not in this test")

    patch.setattr(node.services.dialler, "dial_entry", refuse)


def sources(node: SimNode) -> list[str]:
    return [each.source for each in node.node.peers()]


def without_seeds(node: SimNode) -> None:
    """Take all seeds out of a node's configuration."""
    discovery = attrs.evolve(node.config.discovery, seeds=())
    node.config = attrs.evolve(node.config, discovery=discovery)


def test_a_quorum_is_more_than_half() -> None:
    assert [quorum(count) for count in range(8)] == [0, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("target", [0, 6])
async def test_a_node_connects_to_a_quorum(
    autojump_clock: MockClock, count: int, target: int
) -> None:
    async with open_world(count) as world:
        seeds = await start_seeds(world, count)
        a = await start_user(world, *seeds, target=target)
        wanted = count // 2 + 1
        await world.until(lambda: held(a) >= wanted, within=5)
        await trio.sleep(2 * RESOLVE_INTERVAL)
        among = connected(a) & {each.node_id.hex() for each in seeds}
        assert len(among) >= wanted
        if target == 0:
            assert held(a) == len(a.services.roster.lasting()) == wanted


@pytest.mark.parametrize("count", range(1, 5))
async def test_a_seed_on_its_own_list_lacks_nothing_and_leaves_itself_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One list is for all nodes."""
    async with open_world(count) as world:
        seeds = await start_seeds(world, count)
        texts = tuple(str(each.address) for each in seeds)
        for each in seeds:
            discovery = attrs.evolve(each.config.discovery, seeds=texts)
            each.node.reload(attrs.evolve(each.config, discovery=discovery))
        await trio.sleep(2 * TRY_INTERVAL)
        first, dials = seeds[0], list[Address]()
        dial = first.network.dial

        async def note(address: Address) -> SimStream:
            dials.append(address)
            return await dial(address)

        monkeypatch.setattr(first.network, "dial", note)
        await trio.sleep(2 * RESOLVE_INTERVAL)
        assert dials.count(first.address) <= 2
        for each in seeds:
            # With itself, more than half.
            assert held(each) + 1 > count / 2
            told = [code for code in each.codes() if code.startswith("seed.")]
            assert told[-1:] in ([], ["seed.enough"])


async def test_a_seed_on_its_own_list_leaves_itself_alone_while_another_one_is_away(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        seed, away = await start_seeds(world, 2)
        await world.crash(away)
        dials = list[Address]()
        dial = seed.network.dial

        async def note(address: Address) -> SimStream:
            dials.append(address)
            return await dial(address)

        monkeypatch.setattr(seed.network, "dial", note)
        texts = (str(seed.address), str(away.address))
        discovery = attrs.evolve(seed.config.discovery, seeds=texts)
        seed.node.reload(attrs.evolve(seed.config, discovery=discovery))
        await trio.sleep(0.9 * RESOLVE_INTERVAL)
        assert dials.count(away.address) > 10
        assert dials.count(seed.address) == 1


async def test_a_lost_seed_is_replaced_by_another(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 3)
        a = await start_user(world, *seeds)
        await world.until(lambda: held(a) == 2, within=5)
        lost = next(each for each in seeds if a.is_connected_to(each))
        others = [each for each in seeds if each is not lost]
        await world.crash(lost)
        await world.until(lambda: a.is_connected_to(*others), within=1)
        assert held(a) == 2


async def test_each_address_of_a_name_is_a_candidate(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 5)
        a = await start_user(world, "seeds.example:41000")
        await world.crash(a)

        async def resolve(host: str, port: int) -> list[Address]:
            assert (host, port) == ("seeds.example", 41000)
            await trio.lowlevel.checkpoint()
            return [each.address for each in seeds]

        monkeypatch.setattr(a.network, "resolve", resolve)
        await world.start("a")
        await world.until(lambda: held(a) == 3, within=5)
        assert len(connected(a)) == 3


async def test_a_name_that_takes_long_to_look_up_holds_up_no_other_seed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        one, other, named = [await world.start(name, lan=None) for name in ("s1", "s2", "s3")]
        look_up = SimNetwork.resolve

        async def resolve(self: SimNetwork, host: str, port: int) -> list[Address]:
            if host != "slow.example":
                return await look_up(self, host, port)
            await trio.sleep(20)
            return [named.address]

        monkeypatch.setattr(SimNetwork, "resolve", resolve)
        texts = ["slow.example:41000", str(one.address), str(other.address)]
        a = await world.start("a", lan=None, discovery__seeds=texts, connections__target=0)
        await world.until(lambda: a.is_connected_to(one, other), within=RESOLVE_WITHIN + 0.5)
        await world.stop(one)
        await world.until(lambda: a.is_connected_to(other, named), within=30)


async def test_a_name_may_come_to_stand_for_others_while_one_is_dialled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        dead = [Address(f"203.0.113.{number}", 41000) for number in (8, 9)]
        world.conditions.unreachable |= {each.host for each in dead}
        there = [seed.address, *dead]

        async def resolve(self: SimNetwork, host: str, port: int) -> list[Address]:
            await trio.sleep(2)
            return [*there]

        monkeypatch.setattr(SimNetwork, "resolve", resolve)
        a = await world.start("a", lan=None, discovery__seeds=["s.example:41000"])
        await trio.sleep(60)
        there[:] = [seed.address]
        await trio.sleep(120)
        assert a.is_connected_to(seed)
        assert [each for each in a.codes() if each.startswith("seed.")][-1] == "seed.enough"


async def test_what_a_name_no_longer_stands_for_once_it_answers_is_no_seed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        before, after = await start_seeds(world, 2)
        there, dials = [[before.address]], 0
        dial = SimNetwork.dial

        async def resolve(self: SimNetwork, host: str, port: int) -> list[Address]:
            await trio.sleep(2 * RESOLVE_WITHIN)
            return there.pop() if there else [after.address]

        async def dial_slowly(self: SimNetwork, address: Address) -> SimStream:
            nonlocal dials
            if address == before.address:
                dials += 1
                if dials == 1:
                    raise DialFailed("not yet")
                await trio.sleep(2 * RESOLVE_WITHIN)
            return await dial(self, address)

        monkeypatch.setattr(SimNetwork, "resolve", resolve)
        monkeypatch.setattr(SimNetwork, "dial", dial_slowly)
        a = await start_user(world, "s.example:41000")
        await world.until(lambda: stays_with(a, before), within=30)
        await world.until(lambda: stays_with(a, after), within=30)
        assert list(a.services.seeds.connected()) == [after.address]


async def test_a_seed_that_hangs_up_is_tried_once_per_interval(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        seed = ScriptedPeer(world, listens=True)
        calls: list[float] = []
        lookups: list[float] = []
        far_too_many = trio.Event()

        async def hang_up(line: Line) -> None:
            calls.append(trio.current_time())
            if len(calls) > 100:
                far_too_many.set()
            await line.stream.aclose()

        async def resolve(host: str, port: int) -> list[Address]:
            lookups.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            return [Address(host, port)]

        async with trio.open_nursery() as nursery:
            await nursery.start(seed.listen, hang_up)
            a = await start_user(world, str(seed.address))
            let_nobody_ask(a, monkeypatch)
            monkeypatch.setattr(a.network, "resolve", resolve)
            await trio.sleep(1)
            calls.clear()
            with trio.move_on_after(20 * TRY_INTERVAL):
                await far_too_many.wait()
            nursery.cancel_scope.cancel()
        # It is not given up either.
        assert len(calls) >= 18
        assert min(b - a for a, b in itertools.pairwise(calls)) >= TRY_INTERVAL
        assert min(b - a for a, b in itertools.pairwise(lookups)) >= TRY_INTERVAL


async def test_one_that_is_away_is_tried_until_it_is_back(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        a = await start_user(world, seed)
        await world.until(lambda: held(a) == 1, within=5)
        await world.crash(seed)
        await trio.sleep(600)
        await world.start(seed.name)
        await world.until(lambda: held(a) == 1, within=2 * TRY_INTERVAL)


async def test_a_disconnect_on_request_is_respected(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 3)
        a = await start_user(world, *seeds)
        await world.until(lambda: held(a) == 2, within=5)
        parted = next(each for each in seeds if a.is_connected_to(each))
        others = [each for each in seeds if each is not parted]
        await a.node.disconnect(parted.node_id)
        await world.until(lambda: a.is_connected_to(*others), within=1)
        await trio.sleep(60)
        assert a.is_connected_to(*others)
        assert not stays_with(a, parted)


async def test_a_disconnect_holds_until_the_longest_backoff_ends(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        seed = ScriptedPeer(world, listens=True)
        calls: list[float] = []

        async def serve(line: Line) -> None:
            calls.append(trio.current_time())
            await line.serve(lambda _: None)

        async with trio.open_nursery() as nursery:
            await nursery.start(seed.listen, serve)
            a = await start_user(world, str(seed.address))
            let_nobody_ask(a, monkeypatch)
            await world.until(lambda: held(a) == 1, within=5)
            asked_at = trio.current_time()
            await a.node.disconnect(seed.identity.node_id)
            await world.until(lambda: len(calls) == 2, within=600)
            nursery.cancel_scope.cancel()
        pause = calls[1] - asked_at
        longest = a.config.connections.backoff_max
        assert longest <= pause <= longest + 2 * TRY_INTERVAL


async def test_a_question_after_a_disconnect_keeps_no_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        a = await start_user(world, seed)
        await world.until(lambda: held(a) == 1, within=5)
        await a.node.disconnect(seed.node_id)
        await a.node.ping(seed.node_id)
        assert a.is_connected_to(seed)
        for _ in range(60):
            assert not stays_with(a, seed)
            assert held(a) == 0
            await trio.sleep(1)


async def test_it_is_respected_for_one_that_took_the_place_of_another(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        (old,) = await start_seeds(world, 1)
        a = await start_user(world, old)
        await world.until(lambda: held(a) == 1, within=5)
        await world.crash(old)
        new = await world.start("new", lan=None, host=old.address.host, connections__target=0)
        await world.until(lambda: a.is_connected_to(new), within=2 * TRY_INTERVAL)
        await a.node.disconnect(new.node_id)
        for _ in range(60):
            assert not stays_with(a, new)
            await trio.sleep(1)


async def test_a_seed_that_dialled_first_is_known_as_one(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        address = Address("10.5.0.1", 41000)
        a = await start_user(world, str(address))
        await trio.sleep(1)
        seed = await world.start("s", lan=None, host=address.host, bootstrap=[a])
        await world.until(lambda: held(a) == 1, within=2 * TRY_INTERVAL)
        assert [(each.node_id, each.source) for each in a.node.peers()] == [
            (seed.node_id.hex(), "seed")
        ]


async def test_short_and_enough_are_told_once_per_change(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 2)
        a = await start_user(world, *seeds)

        def told() -> list[str]:
            return [each for each in a.codes() if each in {"seed.short", "seed.enough"}]

        await world.until(lambda: held(a) == 2, within=5)
        assert told() == []
        for number in range(1, 3):
            await world.crash(seeds[0])
            await trio.sleep(60)
            assert told() == ["seed.short", "seed.enough"] * (number - 1) + ["seed.short"]
            await world.start(seeds[0].name)
            await trio.sleep(60)
            assert told() == ["seed.short", "seed.enough"] * number


async def test_the_role_shows_in_the_status_and_in_the_record(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        a = await start_user(world, seed)
        await world.until(lambda: held(a) == 1, within=5)
        assert seed.node.snapshot().roles == ["seed"]
        assert a.node.snapshot().roles == []
        for node, other, roles in ((a, seed, ("seed",)), (seed, a, ())):
            entry = node.services.registry.get(other.node_id)
            assert entry is not None
            assert entry.signed is not None
            assert RecordCache(most=1).open(entry.signed).record.roles == roles


async def test_seeds_are_released_only_once_they_left_the_list(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 2)
        users = [await start_user(world, *seeds, name=name) for name in "abcd"]
        await world.until(lambda: all(held(each) == 2 for each in users), within=5)
        # Both ends have more than they need, and would agree.
        await trio.sleep(600)
        assert all(each.is_connected_to(*seeds) for each in users)
        lost = {
            event.peer
            for each in users
            for event in each.events
            if event.code == "peer.disconnected"
        }
        assert lost.isdisjoint(each.node_id for each in seeds)
        a = users[0]
        without_seeds(a)
        a.node.reload(a.config)
        await world.until(lambda: len(a.services.roster.lasting()) == 1, within=300)
        assert "seed" not in sources(a)


async def test_what_left_the_list_while_a_node_was_down_is_no_seed(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        seeds = await start_seeds(world, 2)
        a = await start_user(world, *seeds)
        await world.until(lambda: held(a) == 2, within=5)
        await world.stop(a)
        without_seeds(a)
        await world.start("a")
        await trio.sleep(1)
        assert sources(a) == ["bootstrap"] * 2


async def test_a_name_that_nobody_resolves_is_told_of_once_and_may_stand_for_any_seed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        is_known = True

        async def resolve(host: str, port: int) -> list[Address]:
            await trio.lowlevel.checkpoint()
            if is_known:
                return [seed.address]
            raise DialFailed("no server knows the name")

        a = await start_user(world, "s.example:41000")
        monkeypatch.setattr(a.network, "resolve", resolve)
        await world.until(lambda: held(a) == 1, within=2 * TRY_INTERVAL)
        await world.stop(a)
        is_known, before = False, a.codes().count("seed.unresolved")
        await world.start("a")
        await trio.sleep(60)
        assert sources(a) == ["seed"]
        assert a.codes().count("seed.unresolved") - before == 1


async def test_names_that_can_not_be_looked_up_yet_are_seeds_that_are_lacking(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the start of a host whose name server is not within reach yet."""
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        is_up = False

        async def resolve(self: SimNetwork, host: str, port: int) -> list[Address]:
            await trio.lowlevel.checkpoint()
            if is_up:
                return [seed.address]
            raise DialFailed("the name server does not answer")

        monkeypatch.setattr(SimNetwork, "resolve", resolve)
        a = await start_user(world, "s.example:41000")
        await trio.sleep(20)
        assert a.codes().count("seed.short") == 1
        is_up = True
        await world.until(lambda: held(a) == 1, within=TRY_INTERVAL + 1)
        await trio.sleep(1)
        assert a.codes()[-1] == "seed.enough"


async def test_a_new_list_does_not_wait_for_a_name_of_the_old_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        look_up = SimNetwork.resolve

        async def resolve(self: SimNetwork, host: str, port: int) -> list[Address]:
            if host == "slow.example":
                await trio.sleep(60)
            return await look_up(self, host, port)

        monkeypatch.setattr(SimNetwork, "resolve", resolve)
        a = await start_user(world, "slow.example:41000")
        await trio.sleep(RESOLVE_WITHIN + 1)
        discovery = attrs.evolve(a.config.discovery, seeds=(str(seed.address),))
        a.node.reload(attrs.evolve(a.config, discovery=discovery))
        await world.until(lambda: held(a) == 1, within=1)


async def test_a_seed_that_a_user_asked_for_stays_the_users(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        (seed,) = await start_seeds(world, 1)
        a = await world.start("a", lan=None, connections__target=0)
        await a.node.connect(str(seed.address))
        for seeds in ((str(seed.address),), ()):
            discovery = attrs.evolve(a.config.discovery, seeds=seeds)
            a.node.reload(attrs.evolve(a.config, discovery=discovery))
            await trio.sleep(2 * TRY_INTERVAL)
            assert sources(a) == ["manual"]


async def test_a_seed_that_never_answered_is_forgotten_with_the_list(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await start_user(world, "10.5.0.1:41000")
        await trio.sleep(1)
        assert sources(a) == ["seed"]
        without_seeds(a)
        a.node.reload(a.config)
        await trio.sleep(1)
        assert a.node.peers() == []


async def test_a_seed_for_which_there_is_no_room_has_not_failed(autojump_clock: MockClock) -> None:
    async with open_world(21) as world:
        seeds = await start_seeds(world, 2)
        texts = [str(each.address) for each in seeds]
        a = await world.start(
            "a",
            lan=None,
            discovery__seeds=texts,
            connections__target=0,
            connections__max_outbound=1,
        )
        await trio.sleep(10 * TRY_INTERVAL)
        assert [each.fail_count for each in a.services.registry] == [0, 0]
        assert held(a) == 1


async def test_a_seed_that_dialled_us_is_not_held_unreachable_where_its_address_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        seed = ScriptedPeer(world, listens=True)
        let_nobody_ask(a, monkeypatch)
        line = await seed.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        # It answered there in the past.
        a.services.registry.answered(seed.identity.node_id, seed.address)
        world.conditions.unreachable.add(seed.address.host)
        discovery = attrs.evolve(a.config.discovery, seeds=(str(seed.address),))
        a.node.reload(attrs.evolve(a.config, discovery=discovery))
        await trio.sleep(20 * TRY_INTERVAL)
        entry = a.services.registry.get(seed.identity.node_id)
        assert entry is not None
        assert connected(a) == {seed.identity.node_id.hex()}
        assert entry.failures_in_row == 0
