"""Whether a node tells that its clock is wrong: by what most of its peers say."""

import trio
from trio.testing import MockClock

from p2pd.node.clock_watch import COMPARE_INTERVAL
from p2pd.simulation.world import SimNode, World, open_world


async def three(world: World) -> list[SimNode]:
    nodes = [await world.start(name) for name in "abc"]
    await world.until(lambda: all(each.is_connected_to(*others(nodes, each)) for each in nodes))
    return nodes


def others(nodes: list[SimNode], node: SimNode) -> list[SimNode]:
    return [each for each in nodes if each is not node]


def about_clocks(node: SimNode) -> list[str]:
    return [each for each in node.codes() if each.startswith("node.clock")]


async def test_a_node_whose_clock_is_wrong_says_so_once_and_when_it_is_right_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b, c = await three(world)
        a.clock_error = 900
        await trio.sleep(10 * COMPARE_INTERVAL)
        assert about_clocks(a) == ["node.clock_wrong"]
        told = next(each for each in a.events if each.code == "node.clock_wrong")
        assert "15 min ahead of those of 2 of 2 peers" in told.message
        a.clock_error = 0
        await trio.sleep(10 * COMPARE_INTERVAL)
        assert about_clocks(a)[-1] == "node.clock_right"
        assert about_clocks(a).count("node.clock_right") == 1
        assert all(about_clocks(each) == [] for each in (b, c))


async def test_a_clock_less_than_a_minute_off_is_right(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, *_ = await three(world)
        a.clock_error = -55
        await trio.sleep(10 * COMPARE_INTERVAL)
        assert "node.clock_wrong" not in a.codes()


async def test_of_two_nodes_both_say_that_one_of_them_is_wrong(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b))
        b.clock_error = -6 * 3600
        await trio.sleep(10 * COMPARE_INTERVAL)
        for node, other, how in ((a, "b", "6 h ahead of"), (b, "a", "6 h behind")):
            told = next(each for each in node.events if each.code == "node.clock_wrong")
            assert f"{how} that of {other} " in told.message


async def test_what_was_heard_before_the_clock_moved_is_no_verdict(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await three(world)
        # As if all slept, at some moment of those between two comparisons: what each heard last was
        # said by a clock an hour ago.
        for _ in range(60):
            for each in nodes:
                each.clock_error += 3600
            await trio.sleep(2 * COMPARE_INTERVAL + 0.5)
        assert all("node.clock_wrong" not in each.codes() for each in nodes)


async def test_peers_that_were_not_heard_for_minutes_make_no_clock_wrong(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        nodes = await world.start_many(
            12, per_second=10, liveness__ping_interval=300, liveness__evict_after=900
        )
        await trio.sleep(3600)
        assert all(about_clocks(each) == [] for each in nodes)


async def test_a_sleep_is_no_wrong_clock_where_probes_are_rare(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await world.start_many(
            4, per_second=10, liveness__ping_interval=300, liveness__evict_after=900
        )
        await trio.sleep(600)
        for _ in range(10):
            for each in nodes:
                each.clock_error += 3600
            await trio.sleep(610.3)
        assert all(about_clocks(each) == [] for each in nodes)


async def test_a_node_without_peers_says_nothing_of_its_clock(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await three(world)
        nodes[0].clock_error = 900
        await trio.sleep(10 * COMPARE_INTERVAL)
        for each in nodes[1:]:
            await world.crash(each)
        await trio.sleep(10 * COMPARE_INTERVAL)
        assert about_clocks(nodes[0]) == ["node.clock_wrong"]
