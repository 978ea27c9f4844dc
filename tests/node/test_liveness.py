"""Who died is dead to all soon; nobody else is, whatever a liar says."""

from collections.abc import Callable, Iterable

import pytest
import trio
from trio.testing import MockClock

from p2pd.address import Address
from p2pd.core import own_reports, suspects
from p2pd.core.entries import Source
from p2pd.core.isolation import LONGEST, WINDOW
from p2pd.core.membership import HEARD_LATELY, WORST_HEALTH
from p2pd.core.signs_of_life import ANSWERED_AT_ONCE
from p2pd.core.suspicion import QUORUM
from p2pd.errors import Busy
from p2pd.ids import NodeId
from p2pd.net.faults import Cut
from p2pd.net.sim import SimPending, SimStream
from p2pd.node import feelers, liveness, probing, routes
from p2pd.node.dials_for_others import SHARE_OF_ONE
from p2pd.node.liveness import LivenessService
from p2pd.node.probing import ProbeOutcome
from p2pd.simulation.world import SimNode, World, open_world
from p2pd.wire import codec
from p2pd.wire.messages import (
    Compare,
    Compared,
    DeadReport,
    DeadReports,
    Failed,
    FindNode,
    Gossip,
    Hello,
    Message,
    Nodes,
    Ping,
    Proof,
    Publication,
    Reach,
    Reached,
    Refused,
    Release,
    Released,
    Signed,
)
from tests.node.scripted import (
    Line,
    ScriptedPeer,
    assert_unharmed,
    connected,
    now_ms,
)


def seen(by: SimNode, *others: SimNode | ScriptedPeer) -> list[str]:
    """Return what a node says of the liveness of others, `nobody` where it does not list them."""
    said = {each.node_id: each.liveness for each in by.node.peers()}
    return [said.get(each.identity.node_id.hex(), "nobody") for each in others]


def all_say(word: str, by: Iterable[SimNode], *of: SimNode) -> bool:
    return all(seen(each, *of) == [word] * len(of) for each in by)


async def settled(world: World, count: int, *, target: int = 4) -> list[SimNode]:
    """Start nodes and wait until each knows all others, as alive."""
    nodes = [await world.start(f"n{n}", connections__target=target) for n in range(count)]

    def known() -> bool:
        return all(
            "nobody" not in seen(each, *(other for other in nodes if other is not each))
            for each in nodes
        )

    await world.until(known, within=200)
    # Whoever was never connected to somebody may not know that he is alive.
    for each in nodes:
        for other in nodes:
            if seen(each, other) == ["unknown"] and other is not each:
                await each.node.ping(other.node_id)
    await trio.sleep(30)
    assert all(all_say("alive", nodes[:n] + nodes[n + 1 :], nodes[n]) for n in range(count))
    return nodes


def report(reporter: ScriptedPeer, accused: SimNode | ScriptedPeer, **changes: int) -> Gossip:
    fields = {"sequence": now_ms(), "observed": now_ms()} | changes
    body = DeadReport(
        accused=accused.identity.node_id,
        address=str(accused.address),
        evidence="refused",
        **fields,
    )
    return publish(reporter, liveness.DEAD_TOPIC, codec.encode(DeadReports((body,))))


def publish(origin: ScriptedPeer, topic: str, data: bytes, *, ahead: float = 0) -> Gossip:
    issued = now_ms() + int(ahead * 1000)
    identity = origin.identity
    return Gossip(identity.vouch(Publication(identity.public_key, issued, issued, topic, data)), 1)


def deaths(*nodes: SimNode) -> int:
    return sum(each.codes().count("peer.dead") for each in nodes)


class Dials:
    """Counts the connections that arrive at some nodes."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: dict[str, list[float]] = {}
        for address, listener in world.network.listeners.items():

            def connect(
                pending: SimPending,
                host: str = address.host,
                inner: Callable[[SimPending], None] = listener.connect,
            ) -> None:
                self.at.setdefault(host, []).append(trio.current_time())
                inner(pending)

            monkeypatch.setattr(listener, "connect", connect)

    def most_within(self, seconds: float) -> int:
        return max(
            (
                sum(begin <= each < begin + seconds for each in times)
                for times in self.at.values()
                for begin in times
            ),
            default=0,
        )


@pytest.mark.parametrize("seed", range(3))
async def test_who_is_killed_is_dead_to_all_within_three_seconds(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        nodes = await settled(world, 10)
        victim = world.rng.choice(nodes)
        survivors = [each for each in nodes if each is not victim]
        await world.crash(victim)
        await world.until(lambda: all_say("dead", survivors, victim), within=3)
        await trio.sleep(60)
        assert all_say("dead", survivors, victim)
        for each in survivors:
            assert all_say("alive", [other for other in survivors if other is not each], each)
        assert deaths(*survivors) == len(survivors)

        await world.start(victim.name)
        await world.until(lambda: all_say("alive", survivors, victim), within=5)
        assert_unharmed(*nodes)


async def test_half_killed_at_once_are_dead_to_all(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await settled(world, 10)
        victims = await world.kill(0.5)
        survivors = [each for each in nodes if each not in victims]
        await world.until(lambda: all_say("dead", survivors, *victims), within=10)
        await trio.sleep(30)
        assert all(
            all_say("alive", [each for each in survivors if each is not other], other)
            for other in survivors
        )


@pytest.mark.parametrize("seed", range(2))
async def test_who_falls_silent_for_good_is_dead_to_all_within_twenty_seconds(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        nodes = await settled(world, 10)
        victim = world.rng.choice(nodes)
        survivors = [each for each in nodes if each is not victim]
        world.meanwhile(lambda: world.pause(victim, seconds=300))
        await world.until(lambda: all_say("dead", survivors, victim), within=20)
        assert deaths(*survivors) == len(survivors)
        await trio.sleep(300)
        # It was cut off itself, and held nobody dead for that.
        assert deaths(victim) == 0
        everybody = [*survivors, victim]
        await world.until(
            lambda: all(
                all_say("alive", [each for each in everybody if each is not other], other)
                for other in everybody
            ),
            within=120,
        )


@pytest.mark.parametrize("seed", range(4))
async def test_who_of_a_half_falls_silent_for_good_is_dead_to_all_within_twenty_seconds(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        nodes = await settled(world, 10, target=9)
        gone, survivors = nodes[:5], nodes[5:]
        for each in gone:
            world.meanwhile(lambda each=each: world.pause(each, seconds=1000))
        await world.until(lambda: all_say("dead", survivors, *gone), within=20)
        assert all(
            all_say("alive", [each for each in survivors if each is not other], other)
            for other in survivors
        )


async def test_most_silent_for_good_is_no_isolation_for_ever(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await settled(world, 8, target=7)
        gone, survivors = nodes[:6], nodes[6:]
        for each in gone:
            world.meanwhile(lambda each=each: world.pause(each, seconds=1000))
        machines = [each.services.liveness._machine for each in survivors]
        await world.until(lambda: all(each.isolated for each in machines), within=20)
        await world.until(lambda: all_say("dead", survivors, *gone), within=20 + LONGEST)
        assert all(
            all_say("alive", [each for each in survivors if each is not other], other)
            for other in survivors
        )


async def test_who_is_cut_off_alone_holds_nobody_dead(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await settled(world, 6)
        await world.pause(nodes[0], seconds=120)
        assert deaths(nodes[0]) == 0
        assert "dead" not in seen(nodes[0], *nodes[1:])


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_was_out_of_reach_says_so_when_it_is_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What it said when it was accused came late, and was older than the dials in vain."""
    # As among hundreds: those who find it dead because it was told tell nobody.
    monkeypatch.setattr(own_reports, "TELL_AGAIN", 0)
    async with open_world(seed) as world:
        nodes = await settled(world, 20)
        away, *others = nodes
        sides = frozenset({away.network.host}), frozenset(each.network.host for each in others)
        cuts = Cut(*sides, one_way=True), Cut(*sides)
        gone = DeadReport(away.node_id, str(away.address), 1 << 50, now_ms(), "silent")
        told = codec.encode(DeadReports((gone,)))
        world.network.medium.cut(cuts[0])
        others[-1].services.gossip.publish_system(liveness.DEAD_TOPIC, told)
        await trio.sleep(0.5)
        world.network.medium.cut(cuts[1])
        await trio.sleep(8)
        assert "dead" in [seen(each, away)[0] for each in others]
        for each in cuts:
            world.network.medium.heal(each)
        took = await world.until(lambda: all_say("alive", others, away), within=3)
        print(f"alive for all after {took:.1f} s")


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_was_out_of_reach_says_so_though_nobody_is_lost_to_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """As all answer at once, no probe is due soon afterwards."""
    async with open_world(seed) as world:
        away, *others = [await world.start(f"n{n}", lan=None) for n in range(4)]
        for each in others:
            await away.node.connect(str(each.address))
        await trio.sleep(30)
        said = []
        gossip = others[0].services.gossip
        monkeypatch.setitem(gossip._system, liveness.ALIVE_TOPIC, lambda who, _: said.append(who))
        for each in others:
            await away.node.ping(each.node_id)
        cut = Cut(frozenset({away.network.host}), frozenset(each.network.host for each in others))
        world.network.medium.cut(cut)
        await world.until(lambda: away.services.liveness._was_away, within=10)
        world.network.medium.heal(cut)
        assert all(each.is_connected_to(away) for each in others)
        await world.until(lambda: said == [away.node_id], within=3)


@pytest.mark.parametrize("seed", range(2))
async def test_who_leaves_is_unknown_to_all_and_not_dead(
    autojump_clock: MockClock, seed: int
) -> None:
    async with open_world(seed) as world:
        nodes = await settled(world, 10)
        leaver = world.rng.choice(nodes)
        others = [each for each in nodes if each is not leaver]
        await world.stop(leaver)
        await world.until(lambda: all_say("unknown", others, leaver), within=1)
        # Feelers go out meanwhile.
        await trio.sleep(600)
        assert all_say("unknown", others, leaver)
        assert deaths(*others) == 0
        await world.start(leaver.name)
        await world.until(lambda: all_say("alive", others, leaver), within=5)
        # What it said when it left comes again from nobody.
        await trio.sleep(60)
        assert all_say("alive", others, leaver)


@pytest.mark.parametrize(("passing", "dialled"), [(True, False), (False, True)])
async def test_who_hangs_up_after_a_question_is_not_suspected(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    passing: bool,
    dialled: bool,
) -> None:
    # Before what is dialled is counted.
    monkeypatch.setattr(routes, "REFRESH_FIRST", (1.0, 2.0))
    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=0)
        peer = ScriptedPeer(world, listens=True)
        await world._nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
        line = await peer.connect(node, passing=passing)
        # What is under way when it hangs up, or was not answered, would be asked again, over a new
        # connection.
        nothing: dict[type[Message], Message] = {Compare: Compared(()), FindNode: Nodes(())}
        world.meanwhile(lambda: line.serve(lambda each: nothing.get(type(each))))
        await trio.sleep(10)
        dials = Dials(world, monkeypatch)
        for end in (line.stream, line.stream.peer):
            end.break_now()
        await trio.sleep(10)
        assert bool(dials.at) is dialled


async def test_a_liar_kills_nobody_and_makes_nobody_dialled_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        nodes = await settled(world, 8)
        liars = [ScriptedPeer(world, host=f"10.9.{n}.1") for n in range(2)]
        lines = [await liar.connect(node) for liar, node in zip(liars, nodes, strict=False)]
        for line in lines:
            world.meanwhile(lambda line=line: line.serve(lambda _: None))
        dials = Dials(world, monkeypatch)
        began = trio.current_time()
        while trio.current_time() < began + 60:
            for liar, line in zip(liars, lines, strict=True):
                ahead = world.rng.choice([0, -5_000, 50_000])
                for accused in nodes:
                    lie = report(liar, accused, observed=now_ms() + ahead)
                    try:
                        await line.send(lie)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        break
            for each in nodes:
                assert "dead" not in seen(each, *nodes), each.name
            await trio.sleep(1)
        assert deaths(*nodes) == 0
        # 120 reports of each, taken by 7 others.
        assert dials.most_within(1) <= 10
        assert sum(map(len, dials.at.values())) <= 100
        await trio.sleep(10)
        for each in nodes:
            assert all_say("alive", [other for other in nodes if other is not each], each)
        assert_unharmed(*nodes)


async def test_reports_of_a_connected_peer_start_one_probe_at_a_time(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = [await world.start(name, lan=None, connections__target=0) for name in "ab"]
        await a.node.connect(str(b.address))
        liar = ScriptedPeer(world)
        line = await liar.connect(a)
        connection = a.services.roster.connections[b.node_id]
        most = 0
        for _ in range(300):
            await line.send(report(liar, b))
            await trio.sleep(0.001)
            most = max(most, connection.requests_under_way)
        assert most <= 1
        await world.crash(b)
        await world.until(lambda: seen(a, b) == ["dead"], within=3)


def dials_of(node: SimNode, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list to which the times are added at which a node dials from now on."""
    times: list[float] = []
    dial = node.network.dial

    async def note(address: Address) -> SimStream:
        times.append(trio.current_time())
        return await dial(address)

    monkeypatch.setattr(node.network, "dial", note)
    return times


async def proven(world: World, node: SimNode, host: str = "10.9.7.1") -> ScriptedPeer:
    """Return a listening peer that the node was connected to, and no more is."""
    peer = ScriptedPeer(world, host=host, listens=True)
    await world._nursery.start(peer.listen, lambda line: line.serve(lambda _: None))
    await node.node.connect(str(peer.address))
    await node.node.disconnect(peer.identity.node_id)
    return peer


async def test_reach_is_answered_for_proven_peers_only(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        known = await proven(world, a)
        unknown = ScriptedPeer(world, host="10.9.8.1", listens=True)
        dialled = False

        async def talk(_: Line) -> None:
            nonlocal dialled
            dialled = True

        await world._nursery.start(unknown.listen, talk)
        asker = await ScriptedPeer(world).connect(a)
        assert await asker.ask(Reach(known.record())) == Reached(alive=True)
        answer = await asker.ask(Reach(unknown.record()))
        assert isinstance(answer, Failed)
        assert answer.code == "not_found"
        forged = Signed(known.record().body, bytes(64))
        answer = await asker.ask(Reach(forged))
        assert isinstance(answer, Failed)
        await trio.sleep(8)
        assert not dialled
        # One that is gone.
        b = await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        record = b.services.own.signed
        await a.node.disconnect(b.node_id)
        await world.crash(b)
        assert await asker.ask(Reach(record)) == Reached(alive=False)
        assert_unharmed(a)


async def refuse(there: ScriptedPeer) -> None:
    """Accept connections at the address of a peer; the peer proves who it is, and is full."""
    listener = await there.network.listen(there.address)
    while True:
        line = Line(await (await listener.accept()).secure())
        handshake = there.handshake(line, is_client=False)
        handshake.receive_hello(await line.expect(Hello))
        await line.expect(Proof)
        await line.send(handshake.hello, handshake.proof(), Refused("full", "", ()))
        await line.stream.aclose()


@pytest.mark.parametrize("who", ["itself", "another"])
async def test_a_refusal_is_a_sign_of_life_of_whoever_proves_who_it_is(
    autojump_clock: MockClock, who: str
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        b = await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        record = b.services.own.signed
        await a.node.disconnect(b.node_id)
        await world.crash(b)
        there = ScriptedPeer(world, host=b.address.host, port=b.address.port, listens=True)
        if who == "itself":
            there.identity = b.identity
        world.meanwhile(refuse, there)
        asker = await ScriptedPeer(world).connect(a)
        assert await asker.ask(Reach(record)) == Reached(alive=who == "itself")
        world.meanwhile(asker.serve, lambda _: None)
        answered = await a.services.probing.probe(b.node_id) is ProbeOutcome.ANSWERED
        assert answered is (who == "itself")


async def test_who_is_full_is_alive_however_often_strangers_report_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        teller, full = ScriptedPeer(world), ScriptedPeer(world, listens=True)
        line = await teller.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        world.meanwhile(refuse, full)
        book = a.services.exchange._book
        book.learn(full.record(), told_over=full.host, told_by=teller.identity.node_id)
        for begin in (0, 10, 20):
            for number in range(QUORUM):
                invented = ScriptedPeer(world, host=f"10.200.0.{begin + number}")
                await line.send(report(invented, full))
            await trio.sleep(400)
            assert seen(a, full) == ["alive"]


async def test_who_has_no_room_to_reach_a_node_does_not_say_that_it_is_gone(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        known = await proven(world, a)
        b = await world.start("b", lan=None, connections__target=0)
        # It asks whom it knows, who answers nothing.
        await trio.sleep(60)
        await a.node.connect(str(b.address))
        asker = await ScriptedPeer(world).connect(a)
        answer = await asker.ask(Reach(known.record()))
        assert isinstance(answer, Failed)
        assert answer.code == "busy"


async def test_one_of_the_dead_that_answers_a_call_gets_a_connection_that_lasts(
    autojump_clock: MockClock,
) -> None:
    """It may be the only one that leads to the others that were out of reach as well."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        known = await proven(world, a)
        await trio.sleep(60)
        assert not connected(a)
        entry = a.services.registry.get(known.identity.node_id)
        assert entry is not None
        # Those that a user asked for last anyway.
        entry.source, entry.parted = Source.INBOUND, False
        await a.services.probing.call_back(known.identity.node_id)
        [connection] = a.services.roster.lasting()
        assert connection.node_id == known.identity.node_id


def told(line: Line, topic: str) -> list[Publication]:
    """Return what came over a line on a topic since it was looked at last, oldest first."""
    messages, line.heard[:] = list(line.heard), []
    all_told = [
        codec.decode(Publication, each.publication.body)
        for each in messages
        if isinstance(each, Gossip)
    ]
    return [each for each in all_told if each.topic == topic]


def named(publications: Iterable[Publication]) -> dict[NodeId, int]:
    """Return who is named by dead reports, and the time at which it was found dead."""
    return {
        NodeId(each.accused): each.observed
        for publication in publications
        for each in codec.decode(DeadReports, publication.data).reports
    }


async def test_old_deaths_are_told_where_one_of_them_answers_a_call_and_only_there(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = 600.0
    monkeypatch.setattr(feelers, "MAX_NAMED", 1)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0, gossip__retention=retention)
        reporter = ScriptedPeer(world)
        gone = [await proven(world, a, f"10.9.7.{number}") for number in (1, 2, 3)]
        old, *also_old = gone
        young = await world.start("b", lan=None, connections__target=0)
        listeners = {each: world.network.listeners.pop(each.address) for each in gone}
        line = await left_to_feelers(world, a, reporter)
        await world.until(lambda: connected(a) == {reporter.identity.node_id.hex()}, within=100)
        for peer in gone:
            await line.send(report(reporter, peer))
        await world.until(lambda: seen(a, *gone) == ["dead"] * 3, within=20)
        died_by = now_ms()
        await trio.sleep(retention)
        await a.node.connect(str(young.address))
        await world.crash(young)
        await world.until(lambda: seen(a, young) == ["dead"], within=20)
        await trio.sleep(own_reports.GATHER_MOST)
        line.heard.clear()
        calls = 0
        call_back = probing.Probing.call_back

        async def count(self: probing.Probing, node: NodeId) -> None:
            nonlocal calls
            calls += 1
            await call_back(self, node)

        monkeypatch.setattr(probing.Probing, "call_back", count)
        await trio.sleep(200)
        assert calls > 3
        assert not named(told(line, liveness.DEAD_TOPIC))
        await world.start("b")
        await world.until(lambda: seen(a, young) == ["alive"], within=300)
        await trio.sleep(own_reports.GATHER_MOST + 1)
        assert not named(told(line, liveness.DEAD_TOPIC))
        world.network.listeners[old.address] = listeners[old]
        await world.until(lambda: seen(a, old) == ["alive"], within=2000)
        await trio.sleep(own_reports.GATHER_MOST + 1)
        heard = list(line.heard)
        reports = named(told(line, liveness.DEAD_TOPIC))
        one_more = set(reports) - {old.identity.node_id}
        assert len(one_more) == len(reports) - 1 == feelers.MAX_NAMED
        assert one_more < {each.identity.node_id for each in also_old}
        assert all(observed <= died_by for observed in reports.values())
        line.heard = heard
        [alive] = told(line, liveness.ALIVE_TOPIC)
        assert alive.origin == a.identity.public_key


async def test_reach_makes_a_node_dial_within_its_budget(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        b = await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        record = b.services.own.signed
        await a.node.disconnect(b.node_id)
        await world.crash(b)
        tried = dials_of(a, monkeypatch)
        greedy = await ScriptedPeer(world).connect(a)
        answers: list[Message] = []
        for _ in range(60):
            answers.append(await greedy.ask(Reach(record)))
            await trio.sleep(0.1)
        refused = [each for each in answers if isinstance(each, Failed)]
        assert {each.code for each in refused} == {"busy"}
        # The last question may overdraw it.
        of_one, last = len(tried), probing.PROBED_ADDRESSES
        elapsed = trio.current_time() - tried[0]
        most = probing.REACHES_AT_ONCE + probing.REACHES_PER_SECOND * elapsed
        assert SHARE_OF_ONE * probing.REACHES_AT_ONCE <= of_one <= SHARE_OF_ONE * most + last
        # What that one can't have is there for another one.
        other = await ScriptedPeer(world, host="10.9.0.2").connect(a)
        for _ in range(int((1 - SHARE_OF_ONE) * probing.REACHES_AT_ONCE)):
            assert await other.ask(Reach(record)) == Reached(alive=False)
        # A crowd gets no more.
        for number in range(3, 63):
            one_more = await ScriptedPeer(world, host=f"10.9.0.{number}").connect(a)
            await one_more.ask(Reach(record))
        elapsed = trio.current_time() - tried[0]
        most = probing.REACHES_AT_ONCE + probing.REACHES_PER_SECOND * elapsed
        assert probing.REACHES_AT_ONCE <= len(tried) <= most + last


async def test_no_room_for_a_dial_is_no_sign_of_life(autojump_clock: MockClock) -> None:
    """The node can't dial itself: others tell it."""
    async with open_world(1) as world:
        names = [f"n{n}" for n in range(5)]
        others = [await world.start(name, lan=None, connections__target=4) for name in names]
        for each in others[1:]:
            for other in others[: others.index(each)]:
                if not each.is_connected_to(other):
                    await each.node.connect(str(other.address))
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        victim = others[0]
        await victim.node.connect(str(a.address))
        await a.node.connect(str(others[1].address))
        await trio.sleep(5)
        await world.crash(victim)
        await world.until(lambda: seen(a, victim) == ["dead"], within=20)


async def test_whoever_did_not_run_for_a_while_accuses_nobody(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        nodes = await settled(world, 4)
        # All timers of this process come late at once.
        autojump_clock.jump(60)
        await trio.sleep(30)
        assert deaths(*nodes) == 0
        for each in nodes:
            assert all_say("alive", [other for other in nodes if other is not each], each)


async def test_who_is_well_again_waits_no_longer_for_a_verdict_under_way(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer_came = LivenessService.timer_came
    unwell = False

    def seldom_on_time(self: LivenessService, late: float) -> None:
        if late or not unwell:
            timer_came(self, late)

    monkeypatch.setattr(LivenessService, "timer_came", seldom_on_time)
    async with open_world(1) as world:
        # Fewer than a quorum, whose reports would decide.
        a, *others, silent = await settled(world, 4)
        hosts = frozenset(each.network.host for each in others)
        own, cut_off = frozenset({a.network.host}), frozenset({silent.network.host})
        world.network.medium.cut(Cut(cut_off, own | hosts))
        await world.until(lambda: seen(a, silent) == ["suspect"], within=30)
        unwell = True
        a.services.liveness.timer_came(WORST_HEALTH)
        # All its probes have come to nothing by then.
        await trio.sleep(9)
        assert seen(a, silent) == ["suspect"]
        unwell = False
        for _ in range(WORST_HEALTH):
            a.services.liveness.timer_came(0.0)
        # The time of one more dial.
        await world.until(lambda: seen(a, silent) == ["dead"], within=2)


async def test_a_leave_that_comes_late_or_from_another_says_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        earlier = now_ms()
        await trio.sleep(10)
        peer = await proven(world, a)
        world.conditions.unreachable.add(peer.host)
        other = ScriptedPeer(world)
        line = await other.connect(a)

        def of_peer() -> str:
            said = {each.node_id: each.liveness for each in a.node.peers()}
            return said[peer.identity.node_id.hex()]

        stale = codec.encode(peer.record(sequence=earlier))
        latest = codec.encode(peer.record())
        for lie in (
            publish(peer, liveness.LEFT_TOPIC, stale),
            publish(other, liveness.LEFT_TOPIC, latest),
            publish(peer, liveness.LEFT_TOPIC, b"nonsense"),
        ):
            await line.send(lie)
            await trio.sleep(1)
            assert of_peer() == "alive"
        await line.send(publish(peer, liveness.LEFT_TOPIC, latest))
        await trio.sleep(1)
        assert of_peer() == "unknown"
        assert connected(a) == {other.identity.node_id.hex()}
        assert_unharmed(a)


async def test_the_word_of_the_accused_counts_though_its_clock_is_slow(
    autojump_clock: MockClock,
) -> None:
    """Nobody can dial it, so its word is all that speaks for it."""
    async with open_world(1) as world:
        a, b, c = [await world.start(name, lan=None, connections__target=0) for name in "abc"]
        b.clock_error = -20.0
        await b.node.connect(str(a.address))
        await b.node.connect(str(c.address))
        await a.node.connect(str(c.address))
        await b.node.disconnect(a.node_id)
        world.conditions.unreachable.add(b.network.host)
        assert seen(a, b) == ["alive"]
        for number in range(4):
            liar = ScriptedPeer(world, host=f"10.9.{number}.1")
            line = await liar.connect(a)
            world.meanwhile(lambda line=line: line.serve(lambda _: None))
            await line.send(report(liar, b))
        await trio.sleep(0.1)
        for _ in range(200):
            assert "dead" not in seen(a, b)
            await trio.sleep(0.1)
        assert seen(a, b) == ["alive"]


async def test_whoever_accuses_the_connected_is_not_believed_any_more(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        others = [await world.start(f"n{n}", lan=None, connections__target=0) for n in range(3)]
        gone = await world.start("gone", lan=None, connections__target=0)
        for each in (*others, gone):
            await a.node.connect(str(each.address))
        await a.node.disconnect(gone.node_id)
        world.meanwhile(lambda: world.pause(gone, seconds=600))
        liar, honest = ScriptedPeer(world), ScriptedPeer(world, host="10.8.0.1")
        lies, truth = await liar.connect(a), await honest.connect(a)
        world.meanwhile(lambda: lies.serve(lambda _: None))
        world.meanwhile(lambda: truth.serve(lambda _: None))
        await trio.sleep(1)
        for each in others:
            await lies.send(report(liar, each))
        await trio.sleep(3)
        await lies.send(report(liar, gone))
        await trio.sleep(1)
        assert seen(a, *others, gone) == ["alive"] * 4
        await truth.send(report(honest, gone))
        await world.until(lambda: seen(a, gone) == ["dead"], within=10)


@pytest.mark.parametrize("passing", [False, True])
async def test_who_is_reported_is_judged_though_the_connection_to_it_is_not_wanted_any_more(
    autojump_clock: MockClock, *, passing: bool
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        reporter = ScriptedPeer(world)
        line, gone = await reporter.connect(a), await proven(world, a)
        world.meanwhile(line.serve, lambda _: None)
        await a.node.ping(gone.identity.node_id)
        world.network.medium.cut(Cut(frozenset({gone.host}), frozenset({a.network.host})))
        await line.send(report(reporter, gone))
        # Long enough for the probe that the report brings, too short for the silence to show.
        await trio.sleep(4)
        assert seen(a, gone) == ["alive"]
        connection = a.services.roster.connections[gone.identity.node_id]
        connection.passing = passing
        connection.close("no longer needed")
        await world.until(lambda: seen(a, gone) == ["dead"], within=60)


async def test_a_silent_connection_keeps_nobody_alive(autojump_clock: MockClock) -> None:
    """Where probes are seldom: others notice first, and our own probe confirms it."""
    async with open_world(1) as world:
        a = await world.start(
            "a",
            lan=None,
            connections__target=0,
            liveness__ping_interval=300,
            liveness__evict_after=3000,
        )
        b = await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        reporters = [ScriptedPeer(world, host=f"10.9.{number}.1") for number in range(3)]
        lines = [await each.connect(a) for each in reporters]
        for line in lines:
            world.meanwhile(lambda line=line: line.serve(lambda _: None))
        world.meanwhile(lambda: world.pause(b, seconds=600))
        await trio.sleep(HEARD_LATELY + 5)
        for reporter, line in zip(reporters, lines, strict=True):
            await line.send(report(reporter, b))
        await world.until(lambda: seen(a, b) == ["dead"], within=10)
        await trio.sleep(60)
        assert seen(a, b) == ["dead"]
        assert a.codes().count("peer.alive") == 0
        assert not a.is_connected_to(b)


async def left_to_feelers(world: World, node: SimNode, neighbour: ScriptedPeer) -> Line:
    """Give a node a neighbour, and wait until nothing else dials whom it knew before."""
    line = await neighbour.connect(node)
    world.meanwhile(lambda: line.serve(lambda _: None))
    await trio.sleep(25)
    return line


async def test_who_leaves_while_a_feeler_is_out_is_not_missed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feelers, "FEELER_INTERVAL", 60.0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer = await proven(world, a)
        world.conditions.unreachable.add(peer.host)
        line = await left_to_feelers(world, a, ScriptedPeer(world))
        tried = dials_of(a, monkeypatch)
        await world.until(lambda: len(tried) > 0, within=90)
        await line.send(publish(peer, liveness.LEFT_TOPIC, codec.encode(peer.record())))
        for _ in range(30):
            await trio.sleep(1)
            assert seen(a, peer) == ["unknown"]
        assert len(tried) == 1


async def test_a_feeler_counts_where_others_report_the_node_while_it_is_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second probe of the same node would have to wait a while."""
    monkeypatch.setattr(feelers, "FEELER_INTERVAL", 60.0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer, reporter = await proven(world, a), ScriptedPeer(world)
        del world.network.listeners[peer.address]
        line = await left_to_feelers(world, a, reporter)
        begun, refused = [], []
        dial = a.network.dial

        async def dial_slowly(address: Address) -> SimStream:
            begun.append(trio.current_time())
            await trio.sleep(1)
            refused.append(trio.current_time())
            return await dial(address)

        monkeypatch.setattr(a.network, "dial", dial_slowly)
        await world.until(lambda: len(begun) > 0, within=100)
        await line.send(report(reporter, peer))
        await world.until(lambda: seen(a, peer) == ["suspect"], within=0.5)
        await world.until(lambda: seen(a, peer) == ["dead"], within=5)
        assert trio.current_time() - refused[0] < 0.2


async def test_a_probe_that_was_under_way_is_not_the_last_dial(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be back since that one began."""
    monkeypatch.setattr(feelers, "FEELER_INTERVAL", 60.0)
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        peer, reporter = await proven(world, a), ScriptedPeer(world)
        line = await left_to_feelers(world, a, reporter)
        world.conditions.unreachable.add(peer.host)
        begun = dials_of(a, monkeypatch)
        await world.until(lambda: len(begun) == 1, within=100)
        # The feeler fails soon after it: then the probe that the report brought is under way.
        await trio.sleep(1.5)
        await line.send(report(reporter, peer))
        await world.until(lambda: len(begun) == 2, within=10)
        world.conditions.unreachable.remove(peer.host)
        await trio.sleep(30)
        assert "peer.dead" not in a.codes()
        assert seen(a, peer) == ["alive"]


async def test_whose_only_link_is_out_holds_not_all_others_dead(autojump_clock: MockClock) -> None:
    """Its probes of them come to nothing then, and with nobody left it can't tell why."""
    async with open_world(1) as world:
        others = [await world.start(f"n{n}", connections__target=4) for n in range(8)]
        await trio.sleep(30)
        node = await world.start("v", connections__target=1, connections__max_inbound=0)
        await trio.sleep(60)
        for each in others:
            await node.node.ping(each.node_id)
        await world.until(lambda: len(node.services.roster.connections) == 1, within=400)
        hosts = frozenset(each.network.host for each in others)
        world.network.medium.cut(Cut(frozenset({node.network.host}), hosts))
        await trio.sleep(120)
        assert seen(node, *others).count("dead") <= 1


async def told_of_one_who_left(
    world: World,
) -> tuple[SimNode, Line, ScriptedPeer, Callable[[], None]]:
    """Return a node, a line over which it is told, of whom, and what makes it know of that one."""
    a = await world.start("a", lan=None, connections__target=0)
    teller, gone = ScriptedPeer(world), ScriptedPeer(world)
    line = await teller.connect(a)

    def learn() -> None:
        book = a.services.exchange._book
        book.learn(gone.record(), told_over="10.9.0.1", told_by=teller.identity.node_id)

    return a, line, gone, learn


async def test_an_older_word_of_who_had_left_before_it_was_known_says_nothing(
    autojump_clock: MockClock,
) -> None:
    """A newcomer gets the publications of the last minutes in any order."""
    async with open_world(0) as world:
        a, line, gone, learn = await told_of_one_who_left(world)
        record = codec.encode(gone.record())
        before = publish(gone, liveness.ALIVE_TOPIC, record)
        await trio.sleep(1)
        await line.send(publish(gone, liveness.LEFT_TOPIC, record))
        await trio.sleep(1)
        learn()
        await line.send(before)
        await trio.sleep(1)
        assert seen(a, gone) == ["unknown"]
        await line.send(publish(gone, liveness.ALIVE_TOPIC, record))
        await trio.sleep(1)
        assert seen(a, gone) == ["alive"]


async def test_an_old_goodbye_does_not_hide_that_a_node_is_back(autojump_clock: MockClock) -> None:
    """A partition is over, or somebody sends it again to a node that was started since."""
    async with open_world(0) as world:
        a, line, peer, learn = await told_of_one_who_left(world)
        world.meanwhile(lambda: line.serve(lambda _: None))
        learn()
        left = publish(peer, liveness.LEFT_TOPIC, codec.encode(peer.record()))
        await trio.sleep(5)
        back = publish(peer, liveness.ALIVE_TOPIC, codec.encode(peer.record()))
        await trio.sleep(10)
        await line.send(left)
        await trio.sleep(1)
        assert seen(a, peer) == ["unknown"]
        await line.send(back)
        await trio.sleep(1)
        assert seen(a, peer) == ["alive"]


async def test_of_two_goodbyes_of_a_stranger_the_later_counts_whatever_its_clock_says(
    autojump_clock: MockClock,
) -> None:
    async with open_world(0) as world:
        a, line, gone, learn = await told_of_one_who_left(world)
        record = codec.encode(gone.record())
        first = publish(gone, liveness.LEFT_TOPIC, record)
        await trio.sleep(1)
        between = publish(gone, liveness.ALIVE_TOPIC, record)
        await trio.sleep(1)
        ahead = publish(gone, liveness.LEFT_TOPIC, record, ahead=30)
        await line.send(ahead)
        await line.send(first)
        await trio.sleep(1)
        learn()
        await line.send(between)
        await trio.sleep(1)
        assert seen(a, gone) == ["unknown"]
        # It was started again, and its clock is right now.
        await line.send(publish(gone, liveness.ALIVE_TOPIC, record))
        await trio.sleep(1)
        assert seen(a, gone) == ["alive"]


async def test_the_sign_of_life_of_one_whose_death_was_forgotten_counts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "MAX_DEAD", 1)
    async with open_world(0) as world:
        a = await world.start("a", lan=None, connections__target=0)
        line = await ScriptedPeer(world).connect(a)
        world.meanwhile(lambda: line.serve(lambda _: None))
        # Nobody listens at the addresses that they announce.
        gone, other = [
            ScriptedPeer(world, host=f"10.8.{number}.1", listens=True) for number in range(2)
        ]
        for each in (gone, other):
            await (await each.connect(a)).stream.aclose()
            await trio.sleep(10)
            assert seen(a, each) == ["dead"]
        assert seen(a, gone) == ["unknown"]
        await line.send(publish(gone, liveness.ALIVE_TOPIC, codec.encode(gone.record())))
        await trio.sleep(1)
        assert seen(a, gone) == ["alive"]
        entry = a.services.registry.get(gone.identity.node_id)
        assert entry is not None
        assert not entry.dead


async def test_who_says_that_it_is_alive_again_is_a_replica_again(
    autojump_clock: MockClock,
) -> None:
    """A feeler may not come to it for hours, and nobody need connect to it."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        await world.start("b", lan=None, bootstrap=[a])
        await trio.sleep(10)
        peer = await proven(world, a)
        line = await left_to_feelers(world, a, ScriptedPeer(world))

        def is_replica() -> bool:
            closest = a.services.routes.known_closest(bytes(32), 20)
            return closest is not None and peer.identity.node_id in closest

        assert is_replica()
        await line.send(publish(peer, liveness.LEFT_TOPIC, codec.encode(peer.record())))
        await world.until(lambda: seen(a, peer) == ["unknown"], within=1)
        assert not is_replica()
        await trio.sleep(1)
        await line.send(publish(peer, liveness.ALIVE_TOPIC, codec.encode(peer.record())))
        await world.until(lambda: seen(a, peer) == ["alive"], within=1)
        assert is_replica()


async def test_a_suspect_that_the_registry_has_forgotten_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async with open_world(0) as world:
        a = await world.start("a", lan=None)
        peer = await ScriptedPeer(world).connect(a)
        services, gone = a.services, next(iter(a.services.roster.connections))
        services.roster.on_disconnected.append(lambda each: services.registry._drop(each.node_id))
        await peer.stream.aclose()
        await trio.sleep(1)
        assert services.registry.get(gone) is None
        assert services.liveness.of(gone) == "unknown"


async def test_whose_address_another_node_has_now_is_not_suspect_for_ever(
    autojump_clock: MockClock,
) -> None:
    """As where a host was installed anew: nobody can dial the node that it was before."""
    async with open_world(0) as world:
        nodes = [await world.start("n0", lan=None)]
        for number in range(1, 3):
            nodes.append(await world.start(f"n{number}", lan=None, bootstrap=nodes))
        before = await world.start("before", lan=None, bootstrap=nodes, host="10.5.0.1")
        await world.until(lambda: all(each.is_connected_to(before) for each in nodes))
        await world.crash(before)
        after = await world.start("after", lan=None, bootstrap=nodes, host="10.5.0.1")
        await world.until(lambda: all_say("dead", nodes, before), within=20)
        assert all_say("alive", nodes, after)


async def test_who_dials_nobody_judges_whom_it_lost_too(autojump_clock: MockClock) -> None:
    async with open_world(0) as world:
        hub = await world.start("hub", lan=None, connections__max_outbound=0)
        others = [await world.start(name, lan=None, bootstrap=[hub]) for name in "ab"]
        await world.until(lambda: all(each.is_connected_to(hub) for each in others))
        await world.crash(others[1])
        await world.until(lambda: all_say("dead", [hub, others[0]], others[1]), within=30)
        assert all_say("alive", [hub], others[0])


async def test_a_lost_node_without_an_address_is_alive_where_others_reach_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(0) as world:
        a = await world.start("a", lan=None)
        b = await world.start("b", lan=None, bootstrap=[a])
        await world.until(lambda: a.is_connected_to(b))
        peer = ScriptedPeer(world)
        lost, kept = await peer.connect(a), await peer.connect(b)
        world.meanwhile(kept.serve, lambda _: None)
        await trio.sleep(1)
        await lost.stream.aclose()
        await world.until(lambda: not connected(a) & {peer.identity.node_id.hex()}, within=1)
        await trio.sleep(120)
        assert seen(a, peer) == ["alive"]
        assert deaths(a) == 0


async def test_a_refutation_that_has_to_wait_is_still_dated_after_the_report(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(31) as world:
        a = await world.start("a", lan=None, connections__target=0)
        gossip, said = a.services.gossip, list[int]()
        publish = gossip.publish_system

        def busy_once(topic: str, data: bytes, issued: int) -> object:
            said.append(issued)
            if len(said) == 1:
                raise Busy("too many messages were published")
            return publish(topic, data, issued)

        monkeypatch.setattr(gossip, "publish_system", busy_once)
        reporter = ScriptedPeer(world)
        line = await reporter.connect(a)
        # The reporter's clock is ahead.
        reported = now_ms() + 20_000
        await line.send(report(reporter, a, observed=reported))
        await trio.sleep(5)
        assert len(said) == 2
        assert min(said) > reported


@pytest.mark.parametrize("seed", range(3))
async def test_liars_do_not_use_up_what_an_accused_answers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Reports of invented peers cost nothing; then come those that others believe."""
    async with open_world(seed) as world:
        nodes = await settled(world, 8, target=3)
        accused, others = nodes[5], [each for each in nodes if each is not nodes[5]]
        # As in a large network, where a dial of one's own mostly comes too late to save it.
        monkeypatch.setattr(suspects, "DIALS_PER_SECOND", 0.01)
        liars = [ScriptedPeer(world, host=f"10.9.{number}.1") for number in range(3)]
        lines = [await liar.connect(each) for liar, each in zip(liars, others, strict=False)]
        for line in lines:
            world.meanwhile(line.serve, lambda _: None)
        # Known to all, so that their reports count.
        for each in nodes:
            for liar in liars:
                book = each.services.exchange._book
                book.learn(liar.record(), told_over=liar.host, told_by=None)
        await trio.sleep(1)

        for number in range(4 * ANSWERED_AT_ONCE):
            invented = ScriptedPeer(world, host=f"10.200.0.{number}")
            await lines[0].send(report(invented, accused))
            await trio.sleep(0.2)
        before = deaths(*others)
        for liar, line in zip(liars, lines, strict=True):
            await line.send(report(liar, accused))
        await trio.sleep(10)
        assert deaths(*others) == before
        assert seen(others[0], accused) == ["alive"]


async def test_reports_of_peers_that_nobody_knows_make_nobody_ask(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No one was ever connected to what a liar invents: all would be asked, and know nothing."""
    asked: list[NodeId] = []
    ask_others = probing.Probing.ask_others

    async def ask(self: probing.Probing, node: NodeId) -> probing.IndirectOutcome:
        asked.append(node)
        return await ask_others(self, node)

    monkeypatch.setattr(probing.Probing, "ask_others", ask)
    async with open_world(1) as world:
        nodes = await settled(world, 4)
        a, liar = nodes[0], ScriptedPeer(world)
        line = await liar.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        invented = [ScriptedPeer(world, f"10.200.0.{number}", listens=True) for number in range(99)]
        for each in invented:
            told_by = liar.identity.node_id
            a.services.exchange._book.learn(each.record(), told_over=liar.host, told_by=told_by)
        for each in invented:
            await line.send(report(liar, each))
        await trio.sleep(5)
        # They are more than may be dialled at once.
        assert set(seen(a, *invented)) == {"suspect", "dead"}
        assert not asked


async def test_a_repeated_report_of_a_peer_in_good_connection_makes_no_probe(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await settled(world, 2)
        liar = ScriptedPeer(world)
        line = await liar.connect(a)
        world.meanwhile(line.serve, lambda _: None)
        await trio.sleep(1)
        probes = 0
        connection = a.services.roster.connections[b.node_id]
        request = connection._session.request

        def count(message: Message) -> tuple[int, bytes]:
            nonlocal probes
            probes += isinstance(message, Ping)
            return request(message)

        connection._session.request = count  # type: ignore[method-assign]  # to count, only
        for _ in range(20):
            await line.send(report(liar, b))
            await trio.sleep(1)
        assert 1 <= probes <= 3


async def test_who_is_lost_while_there_is_no_room_for_a_dial_is_dialled_once_there_is(
    autojump_clock: MockClock,
) -> None:
    asked: list[Message] = []

    def answer(question: Message) -> Message | None:
        if not isinstance(question, Reach):
            return None
        asked.append(question)
        return Reached(alive=False)

    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0, connections__max_outbound=1)
        b = await world.start("b", lan=None, connections__target=0)
        deaf = ScriptedPeer(world, listens=True)
        await world._nursery.start(deaf.listen, lambda line: line.serve(answer))
        await a.node.connect(str(deaf.address))
        await b.node.connect(str(a.address))
        await trio.sleep(1)
        await world.crash(b)
        await trio.sleep(5)
        assert seen(a, b) == ["suspect"]
        assert len(asked) == 1
        await a.node.disconnect(deaf.identity.node_id)
        await world.until(lambda: seen(a, b) == ["dead"], within=5)


@pytest.mark.parametrize("topic", [liveness.ALIVE_TOPIC, liveness.LEFT_TOPIC])
async def test_who_says_that_it_is_alive_or_leaves_names_nobody_else(
    autojump_clock: MockClock, topic: str
) -> None:
    """Or one message would have all nodes of the network dial the addresses in it."""
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        liar, invented = ScriptedPeer(world), ScriptedPeer(world, host="10.9.9.9", listens=True)
        line = await liar.connect(a)
        await line.send(publish(liar, topic, codec.encode(invented.record())))
        await trio.sleep(1)
        assert a.services.roster.registry.get(invented.identity.node_id) is None


async def test_connections_that_were_given_up_hide_no_isolation(autojump_clock: MockClock) -> None:
    """Three lost of three is all; three of twelve would be few."""

    def agree(question: Message) -> Message | None:
        return Released(agreed=True) if isinstance(question, Release) else None

    async with open_world(1) as world:
        node = await world.start("a", lan=None, connections__target=3)
        async with trio.open_nursery() as nursery:
            for number in range(12):
                line = await ScriptedPeer(world, host=f"10.9.{number}.1").connect(node)
                nursery.start_soon(line.serve, agree)
            await world.until(lambda: len(connected(node)) == 3, within=300)
            await trio.sleep(WINDOW)
            nursery.cancel_scope.cancel()
        await world.until(lambda: node.services.liveness._machine.isolated)


async def test_who_knows_no_address_of_a_node_says_nothing_of_it(
    autojump_clock: MockClock,
) -> None:
    """Others are asked in its place, down to the one that is connected to it."""
    async with open_world(1) as world:
        nodes = await settled(world, 8, target=7)
        peer = ScriptedPeer(world)
        *lost, kept = [await peer.connect(each) for each in nodes]
        world.meanwhile(kept.serve, lambda _: None)
        await trio.sleep(1)
        for line in lost:
            await line.stream.aclose()
        await trio.sleep(60)
        assert deaths(*nodes) == 0
        assert [seen(each, peer) for each in nodes] == [["alive"]] * 8


async def test_a_probe_that_waited_for_its_turn_pings_those_who_are_connected_by_then(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "MAX_PROBES", 1)
    async with open_world(1) as world:
        a, *others = [
            await world.start(name, lan=None, connections__target=0) for name in ("a", "b", "c")
        ]
        for each in others:
            await a.node.connect(str(each.address))
            await a.node.disconnect(each.node_id)
            world.meanwhile(lambda each=each: world.pause(each, seconds=1000))
        first = ScriptedPeer(world, host="10.9.0.1")
        world.meanwhile((await first.connect(a)).serve, lambda _: None)
        await trio.sleep(1)
        outcomes: list[ProbeOutcome] = []

        async def probe(node: SimNode) -> None:
            outcomes.append(await a.services.probing.probe(node.node_id))

        async with trio.open_nursery() as nursery:
            for each in others:
                nursery.start_soon(probe, each)
            await trio.sleep(1)
            a.services.roster.connections[first.identity.node_id].abort("it goes")
            second = ScriptedPeer(world, host="10.9.0.2")
            world.meanwhile((await second.connect(a)).serve, lambda _: None)
        assert outcomes == [ProbeOutcome.SILENT] * 2


async def test_two_probes_at_once_of_who_was_just_probed_both_wait(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(1) as world:
        a, b = [await world.start(name, lan=None, connections__target=0) for name in "ab"]
        await a.node.connect(str(b.address))
        await a.node.disconnect(b.node_id)
        await world.crash(b)
        # Nobody dials it for a question any more.
        await trio.sleep(60)
        await a.services.probing.probe(b.node_id)
        probed_at, tried = trio.current_time(), dials_of(a, monkeypatch)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(a.services.probing.probe, b.node_id)
        assert min(tried) - probed_at >= 0.1 * probing.REDIAL_AGAIN
