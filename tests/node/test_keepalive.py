"""Silent peers are noticed, slow ones are kept, and a machine that slept redials at once."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from p2pd.config import LivenessConfig
from p2pd.core.entries import Source
from p2pd.errors import P2PError
from p2pd.net.faults import Cut
from p2pd.net.sim import SimStream
from p2pd.node import feelers
from p2pd.node.connection import Connection
from p2pd.node.gossip import MAX_WAITING
from p2pd.node.keepalive import PASSING_SECONDS, SLEPT_SECONDS, Keepalive
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire.messages import Echo, Echoed, Message, Ping, Pong, Prune
from p2pd.wire.session import Received
from tests.node.scripted import HungUp, Line, ScriptedPeer, assert_unharmed, connected


async def two(world: World) -> tuple[SimNode, SimNode]:
    a = await world.start("a", lan=None)
    b = await world.start("b", lan=None, bootstrap=[a])
    await world.until(lambda: a.is_connected_to(b) and b.is_connected_to(a), within=1)
    return a, b


@pytest.mark.parametrize("one_way", [False, True])
async def test_a_silent_peer_is_dropped_after_its_misses(
    autojump_clock: MockClock, one_way: bool
) -> None:
    async with open_world(1) as world:
        a, b = await two(world)
        await trio.sleep(60)
        assert a.is_connected_to(b)
        cut = Cut(frozenset({b.network.host}), frozenset({a.network.host}), one_way)
        world.network.medium.cut(cut)
        # The last sign of life, one interval, and three probes of two seconds each.
        await world.until(lambda: not connected(a), within=5 + 5 + 3 * 2 + 1)
        gone = a.node.peers()[0]
        assert gone.last_error is not None
        assert "3 probes unanswered" in gone.last_error
        await trio.sleep(30)
        world.network.medium.heal(cut)
        await world.until(lambda: a.is_connected_to(b) and b.is_connected_to(a), within=60)
        assert_unharmed(a, b)


async def test_the_answers_of_others_do_not_put_off_the_end(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__evict_after=60)
        for number in range(3):
            line = await ScriptedPeer(world, host=f"10.9.1.{number}").connect(a)
            world.meanwhile(line.serve, lambda _: None)
        silent = ScriptedPeer(world)
        await silent.connect(a)
        connection = a.services.roster.connections[silent.identity.node_id]
        await world.until(lambda: connection.end_reason is not None, within=5 + 4 * 1 + 2)


async def test_the_first_to_fall_silent_does_not_wait_for_those_heard_later(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__evict_after=60)
        silent = ScriptedPeer(world)
        await silent.connect(a)
        connection = a.services.roster.connections[silent.identity.node_id]
        await trio.sleep(4)
        line = await ScriptedPeer(world, host="10.9.1.1").connect(a)
        world.meanwhile(line.serve, lambda _: None)
        await world.until(lambda: connection.end_reason is not None, within=7)


async def test_more_probes_than_needed_do_not_put_off_the_end(autojump_clock: MockClock) -> None:
    """Each refused duplicate sends one, and each wake-up of the machine."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__evict_after=60)
        silent = ScriptedPeer(world)
        await silent.connect(a)
        connection = a.services.roster.connections[silent.identity.node_id]
        for _ in range(10):
            connection.probe()
        await world.until(lambda: connection.end_reason is not None, within=5 + 4 * 1 + 2)


async def test_however_many_misses_are_allowed_a_silent_peer_is_evicted_in_time(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__misses=10, liveness__evict_after=10)
        await ScriptedPeer(world).connect(a)
        await world.until(lambda: not connected(a), within=10.2)


async def test_nothing_flaps_where_nothing_happens(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await two(world)
        await trio.sleep(3600)
        assert a.codes() == b.codes() == ["peer.connected"]


async def test_a_slow_peer_is_alive(autojump_clock: MockClock) -> None:
    """Its answers come later than a probe waits for them, but they come."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        async with trio.open_nursery() as nursery:

            async def answer(data: bytes) -> None:
                await trio.sleep(3)
                await line.stream.send_all(data)

            async def serve() -> None:
                while True:
                    event = await line.next()
                    if isinstance(event.message, Ping):
                        nursery.start_soon(
                            answer, line.session.reply(event.request_id or 0, Pong())
                        )

            nursery.start_soon(serve)
            await trio.sleep(120)
            assert len(connected(a)) == 1
            nursery.cancel_scope.cancel()


async def test_the_probes_of_one_side_serve_both(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)

        async def probe() -> None:
            while True:
                await trio.sleep(3)
                await line.stream.send_all(line.session.request(Ping())[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            nursery.start_soon(line.serve, lambda _: None)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert len(connected(a)) == 1
        assert Pong() in line.heard
        assert Ping() not in line.heard


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody call the dead: that could come first."""
    monkeypatch.setattr(feelers, "CALL_INTERVAL", 10_000.0)
    monkeypatch.setattr(feelers, "MAX_CALL_INTERVAL", 10_000.0)


async def one_back_that_is_not_dialled_yet(world: World) -> tuple[SimNode, SimNode]:
    """Return a node, and another that it lost, and that it dials again in minutes only."""
    a = await world.start("a", lan=None, connections__backoff_min=300)
    b = await world.start("b", lan=None, connections__target=0)
    await a.node.connect(str(b.address))
    await world.crash(b)
    # The backoff is at least half as long as it says.
    await trio.sleep(100)
    await world.start("b")
    await trio.sleep(1)
    assert not a.is_connected_to(b)
    return a, b


@pytest.mark.usefixtures("no_calls")
async def test_a_machine_that_slept_redials_at_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await one_back_that_is_not_dialled_yet(world)
        a.clock_error += 3600
        await world.until(lambda: a.is_connected_to(b), within=6)
        assert a.codes().count("node.woke") == 1


async def test_time_in_which_this_process_did_not_run_is_nobodys_silence(
    autojump_clock: MockClock,
) -> None:
    """Nor do the probes count that could not be answered by then."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a)
        world.meanwhile(line.hung_up)
        [connection] = a.services.roster.lasting()
        await world.until(lambda: connection.unanswered_probes == 2, within=10)
        autojump_clock.jump(60)
        before = line.heard.count(Ping())
        await world.until(lambda: not connected(a), within=10)
        assert line.heard.count(Ping()) - before >= LivenessConfig().misses


@pytest.mark.usefixtures("no_calls")
async def test_who_did_not_run_for_long_redials_at_once(autojump_clock: MockClock) -> None:
    """Others may have given it up meanwhile."""
    async with open_world(1) as world:
        a, b = await one_back_that_is_not_dialled_yet(world)
        # Beyond the moment at which it looks round anyway.
        autojump_clock.jump(SLEPT_SECONDS + LivenessConfig().ping_interval + 2)
        await world.until(lambda: a.is_connected_to(b), within=3)
        assert a.codes().count("node.stalled") == 1


async def test_a_clock_set_back_or_a_little_forward_is_no_sleep(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await two(world)
        for step in (-3600, 5, -1):
            a.clock_error += step
            await trio.sleep(20)
        assert a.codes().count("node.clock_back") == 1
        assert "node.woke" not in a.codes()
        assert a.is_connected_to(b)


async def test_probes_go_on_where_all_requests_are_stuck(autojump_clock: MockClock) -> None:
    """Not even a full table of requests under way keeps a silent peer's connection."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await peer.connect(a)

        async def ask() -> None:
            try:
                await a.services.requester.request(peer.identity.node_id, Echo(b""), Echoed, 60)
            except P2PError:
                return

        async with trio.open_nursery() as nursery:
            for _ in range(1100):
                nursery.start_soon(ask)
            await world.until(lambda: not connected(a), within=20)
        assert_unharmed(a)


async def test_a_ping_survives_the_change_to_another_connection(autojump_clock: MockClock) -> None:
    """Its connection is closed as a duplicate while it waits: it goes out over the new one."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        old = await peer.connect(a)
        results: list[float] = []

        async def ping() -> None:
            results.append(await a.node.ping(peer.identity.node_id))

        def nothing(_: Message) -> None:
            return None

        async def ignore(line: Line) -> None:
            try:
                while True:
                    await line.next()
            except HungUp:
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ignore, old)
            nursery.start_soon(ping)
            await trio.sleep(0.1)
            new = await peer.connect(a)
            nursery.start_soon(partial(new.serve, nothing))
            await trio.sleep(0.1)
            # The node closes it where the peer does not.
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert len(results) == 1


@pytest.mark.parametrize("dialler", ["a", "b"])
@pytest.mark.parametrize("evict_after", [10, 5, 3])
async def test_a_silent_peer_is_off_the_list_when_its_time_is_up(
    autojump_clock: MockClock, evict_after: int, dialler: str
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__evict_after=evict_after)
        b = await world.start("b", lan=None)
        one, other = (a, b) if dialler == "a" else (b, a)
        await one.node.connect(str(other.address))
        await trio.sleep(60)
        world.meanwhile(lambda: world.pause(b, seconds=60))
        last_heard = a.services.roster.connections[b.node_id].last_heard
        while connected(a):
            # What was under way still comes.
            last_heard = a.services.roster.connections[b.node_id].last_heard
            assert trio.current_time() - last_heard <= evict_after + 0.1
            await trio.sleep(0.1)
        # With the other defaults the misses may end it after 9 s already.
        assert trio.current_time() - last_heard >= min(evict_after, 9)
        assert "silent" in (a.node.peers()[0].last_error or "")


async def test_every_second_the_list_is_right(autojump_clock: MockClock) -> None:
    """As somebody sees it who looks once a second."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__evict_after=10)
        line = await ScriptedPeer(world).connect(a)
        # The last that is heard of it, before nothing comes any more.
        await line.send(Pong())
        listed = []
        for _ in range(12):
            await trio.sleep(1)
            listed.append(len(connected(a)))
        assert listed == [1] * 10 + [0] * 2


@pytest.mark.parametrize("interval", [5, 60])
async def test_who_answers_is_not_evicted_however_soon_that_is(
    autojump_clock: MockClock, interval: int
) -> None:
    async with open_world(1) as world:
        a = await world.start(
            "a", lan=None, liveness__ping_interval=interval, liveness__evict_after=2
        )
        b = await world.start("b", lan=None, liveness__ping_interval=60)
        await b.node.connect(str(a.address))
        await trio.sleep(600)
        assert a.codes() == ["peer.connected"]


@pytest.mark.parametrize("misses", [1, 2, 3])
async def test_so_many_misses_in_a_row_end_a_connection_and_not_one_less(
    autojump_clock: MockClock, misses: int
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, liveness__misses=misses, liveness__evict_after=100)
        line = await ScriptedPeer(world).connect(a)
        missed = 0

        async def miss(count: int) -> None:
            """Answer one probe, then so many are left unanswered."""
            nonlocal missed
            while True:
                event = await line.next()
                if isinstance(event.message, Ping):
                    missed += 1
                    if missed > count:
                        missed = 0
                        data = line.session.reply(event.request_id or 0, Pong())
                        await line.stream.send_all(data)

        with trio.move_on_after(300):
            await miss(misses - 1)
        assert len(connected(a)) == 1
        with trio.fail_after(30), pytest.raises(HungUp):
            await miss(misses)
        assert f"{misses} probe" in (a.node.peers()[0].last_error or "")
        assert_unharmed(a)


@pytest.mark.parametrize("answers", [False, True])
async def test_who_came_in_passing_and_does_not_go_is_probed(
    autojump_clock: MockClock, answers: bool
) -> None:
    """It should have hung up itself: one that died instead is missed like any other peer."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a, passing=True)
        async with trio.open_nursery() as nursery:
            if answers:
                nursery.start_soon(line.serve, lambda _: None)
            await trio.sleep(10)
            assert Ping() not in line.heard
            await trio.sleep(5)
            assert bool(connected(a)) is answers
            await trio.sleep(17)
            nursery.cancel_scope.cancel()
        [known] = a.node.peers()
        expected = "no longer needed" if answers else "1 probes unanswered"
        assert expected in (known.last_error or "")
        assert (known.liveness == "alive") is answers
        assert_unharmed(a)


async def test_who_came_in_passing_has_time_to_answer(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        line = await ScriptedPeer(world).connect(a, passing=True)
        event = await line.next()
        while not (isinstance(event, Received) and isinstance(event.message, Ping)):
            event = await line.next()
        await trio.sleep(0.9 * LivenessConfig().ping_timeout)
        await line.stream.send_all(line.session.reply(event.request_id or 0, Pong()))
        await trio.sleep(1)
        assert connected(a)


async def test_questions_that_nobody_answers_do_not_keep_a_passing_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        peer = ScriptedPeer(world)
        await peer.connect(a, passing=True)

        async def ask() -> None:
            while True:
                with suppress(P2PError):
                    await a.services.requester.request(peer.identity.node_id, Echo(b""), Echoed, 1)
                await trio.sleep(5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await world.until(lambda: not connected(a), within=15)
            nursery.cancel_scope.cancel()
        assert_unharmed(a)


async def test_a_passing_connection_stays_while_an_answer_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)
        asked = 0

        async def talk(line: Line) -> None:
            nonlocal asked
            while True:
                event = await line.next()
                if not isinstance(event, Received) or event.request_id is None:
                    continue
                if isinstance(event.message, Echo):
                    asked += 1
                    world.meanwhile(answer_late, line, event.request_id)
                elif isinstance(event.message, Ping):
                    await line.stream.send_all(line.session.reply(event.request_id, Pong()))

        async def answer_late(line: Line, request_id: int) -> None:
            await trio.sleep(PASSING_SECONDS + 5)
            await line.stream.send_all(line.session.reply(request_id, Echoed(b"late")))

        await world._nursery.start(peer.listen, talk)
        await a.node.connect(str(peer.address))
        await a.node.disconnect(peer.identity.node_id)
        reply = await a.services.requester.request(peer.identity.node_id, Echo(b""), Echoed, 20)
        assert (reply, asked) == (Echoed(b"late"), 1)


@pytest.mark.parametrize("says", ["Prune", "Ping"])
async def test_what_is_no_question_keeps_no_passing_connection(
    autojump_clock: MockClock, says: str
) -> None:
    """Whoever takes it for one that lasts gossips over it, and probes it."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)

        async def talk(line: Line) -> None:
            world.meanwhile(line.serve, lambda _: None)
            while True:
                ping, notice = line.session.request(Ping())[1], line.session.notice(Prune())
                await line.stream.send_all(ping if says == "Ping" else notice)
                await trio.sleep(2)

        await world._nursery.start(peer.listen, talk)
        await a.node.connect(str(peer.address))
        await a.node.disconnect(peer.identity.node_id)
        await a.services.dialler.connect_to(peer.identity.node_id)
        [connection] = a.services.roster.connections.values()
        assert connection.passing
        await world.until(lambda: connection.end_reason is not None, within=60)
        # What the node itself asks keeps it for a while.
        assert trio.current_time() - connection.last_used < PASSING_SECONDS + 3
        assert "no longer needed" in (connection.end_reason or "")


async def test_an_answer_that_is_read_late_does_not_hide_that_this_process_stood_still(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what became due in a pause, the answer may be handled before the timer."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        await ScriptedPeer(world).connect(a)
        answers: list[Callable[[], None]] = []

        def probe(self: Connection, on_answer: Callable[[Connection], None] | None = None) -> None:
            if on_answer is not None:
                answers.append(lambda: on_answer(self))

        monkeypatch.setattr(Connection, "probe", probe)
        lates: list[float] = []
        services = a.services
        keepalive = Keepalive(
            services.own._env,
            LivenessConfig(),
            services.roster,
            services.events,
            lambda: None,
            lates.append,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keepalive.run)
            await world.until(lambda: bool(answers), within=10)
            # All that are probed answer, but it is read three seconds late.
            autojump_clock.jump(LivenessConfig().ping_timeout + 1)
            for answer in answers:
                answer()
            await trio.sleep(6)
            nursery.cancel_scope.cancel()
        assert max(lates) >= 0.9


@pytest.mark.parametrize("dialled_before", ["by us", "by it"])
async def test_who_is_connected_on_request_stays_connected(
    autojump_clock: MockClock, dialled_before: str
) -> None:
    async with open_world(41) as world:
        nodes = [await world.start(name, connections__target=0) for name in ("a", "b")]
        await trio.sleep(10)
        # Whose dial stays where each dials the other: the rule is on the other one's side.
        smaller, greater = sorted(nodes, key=lambda each: each.node_id)
        first, other = (greater, smaller) if dialled_before == "by us" else (smaller, greater)
        await first.node.ping(other.node_id)
        [passing] = greater.services.roster.connections.values()
        assert passing.passing
        await greater.node.connect(str(smaller.address))
        await trio.sleep(600)
        assert greater.is_connected_to(smaller)
        assert len(greater.services.roster.lasting()) == 1
        entry = greater.services.registry.get(smaller.node_id)
        assert entry is not None
        assert entry.source is Source.MANUAL


async def test_a_reload_to_shorter_intervals_holds_at_once(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        slow: Any = {"liveness__ping_interval": 1800, "liveness__evict_after": 7200}
        a = await world.start("a", lan=None, **slow)
        b = await world.start("b", lan=None, bootstrap=[a], **slow)
        await world.until(lambda: a.is_connected_to(b), within=1)
        await trio.sleep(60)
        a.node.reload(attrs.evolve(a.config, liveness=LivenessConfig()))
        world.network.medium.cut(Cut(frozenset({b.network.host}), frozenset({a.network.host})))
        await world.until(lambda: not a.is_connected_to(b), within=30)


async def test_who_takes_data_slowly_is_not_silent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link of 0.8 Mbit/s, and as much as gossip lets wait for it."""
    async with open_world(1) as world:
        a, b = await two(world)
        await trio.sleep(3)
        connection, slow_ends = a.services.roster.connections[b.node_id], set[SimStream]()
        send_all, send_nowait = SimStream.send_all, SimStream.send_nowait

        async def send_slowly(stream: SimStream, data: bytes) -> None:
            for at in range(0, len(data), 10_000):
                if stream in slow_ends:
                    await trio.sleep(0.1)
                await send_all(stream, data[at : at + 10_000])

        def do_not_send_at_once(stream: SimStream, data: bytes) -> bool:
            return stream not in slow_ends and send_nowait(stream, data)

        slow_ends |= {each for each in world.network.streams if each.local.host == a.network.host}
        monkeypatch.setattr(SimStream, "send_all", send_slowly)
        monkeypatch.setattr(SimStream, "send_nowait", do_not_send_at_once)
        while connection.bytes_waiting < MAX_WAITING:
            await a.node.publish("news", world.rng.randbytes(60_000))
        await trio.sleep(60)
        assert connection.end_reason is None
        assert b.node.snapshot().gossip.delivered > 10
