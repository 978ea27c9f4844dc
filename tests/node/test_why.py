"""The account of a peer says what happened, and what is next."""

import re
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pd.errors import DialFailed, NotFound
from p2pd.ids import NodeId
from p2pd.node.chronicle import MAX_PEERS, MAX_STEPS, Chronicle
from p2pd.node.events import Event
from p2pd.node.snapshot import WhyResult
from p2pd.simulation.world import EPOCH, SimNode, World, open_world
from p2pd.wire.messages import Peers
from tests.node.scripted import ScriptedPeer
from tests.node.test_liveness import report, seen


def codes(why: WhyResult) -> list[str]:
    return [each.code for each in why.steps]


def text_of(why: WhyResult, code: str) -> str:
    return next(each.text for each in why.steps if each.code == code)


async def pair(world: World, **settings: Any) -> tuple[SimNode, SimNode]:
    """Start two nodes of which one dialled the other."""
    a = await world.start("a", lan=None, **settings)
    b = await world.start("b", lan=None, connections__target=0)
    await a.node.connect(str(b.address))
    # The first questions of the table of routes are over.
    await trio.sleep(5)
    return a, b


async def told_of(world: World, node: SimNode) -> tuple[ScriptedPeer, ScriptedPeer]:
    """Let a node be told of a peer that does not run; returns the teller and that one."""
    teller = ScriptedPeer(world)
    gone = ScriptedPeer(world, host="10.9.7.1", listens=True)
    line = await teller.connect(node)
    world._nursery.start_soon(line.serve, lambda _: Peers((gone.record(),)))
    await trio.sleep(1)
    return teller, gone


async def test_who_was_never_reached(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__backoff_min=100)
        teller, gone = await told_of(world, a)
        why = a.node.why(gone.identity.node_id)
        assert (why.status, why.liveness) == ("attempted", "unknown")
        assert "was never connected" in why.summary
        assert "Connection refused" in why.summary
        assert codes(why) == [
            "peer.heard_of",
            "peer.dial_failed",
            "address.known",
            "peer.last_error",
            "dial.backoff",
        ]
        told_by = teller.identity.node_id.hex()[:12]
        assert text_of(why, "peer.heard_of") == f"another peer told of it ({told_by})"
        assert text_of(why, "address.known").endswith(str(gone.address))
        assert text_of(why, "dial.backoff").startswith("1 failure in a row: not dialled for")


async def test_who_was_not_needed(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, connections__target=0)
        _, gone = await told_of(world, a)
        why = a.node.why(gone.identity.node_id)
        assert why.summary.endswith("is known, and no connection to it was needed so far")
        assert codes(why) == ["peer.heard_of", "address.known"]


async def test_who_fails_again_and_again(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world, connections__backoff_min=10)
        await world.crash(b)
        await trio.sleep(200)
        why = a.node.why(b.node_id)
        [step] = [each for each in why.steps if each.code == "dial.backoff"]
        [peer] = a.node.peers()
        assert peer.fail_count >= 4
        assert step.text.startswith(f"{peer.fail_count} failures in a row: not dialled for another")
        assert step.time is not None
        # In the future, by no more than the backoff that this many failures take.
        now = EPOCH + trio.current_time()
        assert now < step.time <= now + 10 * 2 ** (peer.fail_count - 1)
        # Before the verdict, and ever since: the same failure with the time of the latest.
        [_, failed] = [each for each in why.steps if each.code == "peer.dial_failed"]
        assert failed.time is not None
        assert failed.time > EPOCH + 60
        times = [each.time for each in why.steps if each.time is not None]
        assert times[0] == min(times)
        assert times[-1] == max(times)


async def test_who_is_connected(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world)
        await trio.sleep(60)
        why = a.node.why(b.node_id)
        assert (why.name, why.status, why.liveness) == ("b", "connected", "alive")
        assert why.summary.startswith("b (")
        assert why.summary.endswith(f"is connected, outbound, at {b.address}")
        assert codes(why) == ["peer.heard_of", "peer.connected", "probe.state"]
        assert text_of(why, "peer.heard_of") == "a user asked for its address"
        state = text_of(why, "probe.state")
        assert "0 probes unanswered" in state
        assert re.search(r"last heard of \d\.\d s ago, round trip 1\.\d ms", state)
        other = b.node.why(a.node_id)
        assert "is connected, inbound" in other.summary
        assert text_of(other, "peer.heard_of") == "it dialled this node"


async def test_who_is_dead_by_what_we_saw(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world)
        await world.crash(b)
        await world.until(lambda: seen(a, b) == ["dead"], within=3)
        why = a.node.why(b.node_id)
        assert why.liveness == "dead"
        assert "is dead: can't dial" in why.summary
        assert "Connection refused" in why.summary
        assert "reported" not in why.summary
        happened = codes(why)
        for earlier, later in (
            ("peer.connected", "peer.disconnected"),
            ("peer.disconnected", "peer.dial_failed"),
            ("peer.dial_failed", "peer.dead"),
        ):
            assert happened.index(earlier) < happened.index(later)
        assert "a redial was refused" in text_of(why, "peer.dead")


async def test_who_is_dead_by_silence(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world, connections__target=1)
        world.meanwhile(lambda: world.pause(b, seconds=600))
        await world.until(lambda: seen(a, b) == ["suspect"], within=20)
        silent = a.node.why(b.node_id)
        assert silent.summary.endswith(f"is connected, outbound, at {b.address}, but silent")
        await world.until(lambda: a.node.peers()[0].status == "disconnected", within=20)
        assert "is suspect: silent for 9 s" in a.node.why(b.node_id).summary
        await world.until(lambda: seen(a, b) == ["dead"], within=20)
        why = a.node.why(b.node_id)
        assert "3 probes unanswered" in text_of(why, "peer.disconnected")
        assert "it does not answer" in text_of(why, "peer.dead")


async def test_who_is_dead_by_what_others_say(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world, connections__target=0)
        await b.node.disconnect(a.node_id)
        world.meanwhile(lambda: world.pause(b, seconds=600))
        await trio.sleep(1)
        reporters = [ScriptedPeer(world, host=f"10.9.{n}.1") for n in range(3)]
        for each in reporters:
            line = await each.connect(a)
            world.meanwhile(lambda line=line: line.serve(lambda _: None))
            await line.send(report(each, b))
        await world.until(lambda: seen(a, b) == ["dead"], within=5)
        why = a.node.why(b.node_id)
        assert "reported by 3 peers" in why.summary
        accusations = [each for each in why.steps if each.code == "report.against"]
        assert len(accusations) == 3
        for step in accusations:
            assert step.text.startswith("scripted (")
            assert step.text.endswith(f") reports it dead: a dial of {b.address} was refused")
            assert step.time == pytest.approx(EPOCH + 6, abs=0.5)


async def test_a_users_connect_does_not_change_how_it_was_heard_of(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await world.start("a"), await world.start("b")
        await world.until(lambda: a.is_connected_to(b), within=10)
        heard_of = text_of(a.node.why(b.node_id), "peer.heard_of")
        assert "beacon" in heard_of
        await a.node.connect(str(b.address))
        assert text_of(a.node.why(b.node_id), "peer.heard_of") == heard_of


async def test_whom_a_user_parted(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world)
        await a.node.disconnect(b.node_id)
        await trio.sleep(1)
        for one, other, who in ((a, b, "this node"), (b, a, "the peer")):
            why = one.node.why(other.node_id)
            assert (why.status, why.liveness) == ("disconnected", "alive")
            assert why.summary.endswith(f"{who} said goodbye: disconnected on request")
            assert text_of(why, "dial.parted") == (
                "a user disconnected these two nodes; until it is dialled again, connections are "
                "for single requests only"
            )
            assert text_of(why, "dial.backoff") == "not dialled for another 299 s"
        await trio.sleep(298.5)
        assert text_of(a.node.why(b.node_id), "dial.backoff") == "dialled again in a moment"


async def test_a_connection_for_a_request_after_a_user_parted_them(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a, b = await pair(world)
        await a.node.disconnect(b.node_id)
        await trio.sleep(1)
        await a.node.ping(b.node_id)
        await trio.sleep(30)
        why = a.node.why(b.node_id)
        assert why.summary.endswith("no longer needed")
        # The last connection ended by itself: the user is the reason that it did not stay.
        assert "a user disconnected these two nodes" in text_of(why, "dial.parted")


async def test_who_left(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a, b = await pair(world)
        await world.stop(b)
        await trio.sleep(0.1)
        why = a.node.why(b.node_id)
        assert why.liveness == "unknown"
        assert "said goodbye: leaving" in text_of(why, "peer.disconnected")
        assert "peer.dead" not in codes(why)
        assert why.summary.endswith("stopped properly, with a goodbye")
        await trio.sleep(20)
        summary = a.node.why(b.node_id).summary
        assert "stopped properly, with a goodbye; since then: " in summary
        assert "refused" in summary
        await world.start("b", lan=None, connections__target=0)
        await a.node.connect(str(b.address))
        assert "is connected" in a.node.why(b.node_id).summary


async def test_an_address_where_nobody_was_found_says_what_was_found_there(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None, discovery__bootstrap=("10.9.9.9:41000",))
        await trio.sleep(1)
        with pytest.raises(NotFound, match=r"is not known so far: .*10\.9\.9\.9"):
            a.node.resolve_peer("10.9.9.9:41000")


async def test_what_names_nobody_is_repeated_in_short_only(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        with pytest.raises(NotFound, match="no known peer") as unknown:
            a.node.resolve_peer("\x7f" * 1_000_000)
        assert len(str(unknown.value)) < 1000


async def test_of_a_stranger_there_is_nothing_to_tell(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        a = await world.start("a", lan=None)
        with pytest.raises(NotFound):
            a.node.why(NodeId(bytes(32)))
        with pytest.raises(DialFailed):
            await a.node.connect("10.9.9.9:1")


def test_the_chronicle_is_bounded() -> None:
    chronicle = Chronicle()
    peers = [NodeId(n.to_bytes(32, "big")) for n in range(MAX_PEERS + 1)]
    for each in peers:
        chronicle.sink(Event("peer.connected", "here", 1.0, peer=each))
    assert chronicle.steps(peers[0]) == []
    # Whoever something happened to last stays.
    chronicle.sink(Event("peer.disconnected", "gone", 2.0, peer=peers[1]))
    chronicle.sink(Event("peer.connected", "here", 3.0, peer=peers[0]))
    assert len(chronicle.steps(peers[1])) == 2
    assert chronicle.steps(peers[2]) == []
    for number in range(3 * MAX_STEPS):
        chronicle.sink(Event("x", f"{number}", float(number), peer=peers[1]))
        chronicle.sink(Event("x", f"{number}", number + 0.5, peer=peers[1]))
    steps = chronicle.steps(peers[1])
    assert [each.text for each in steps] == [
        str(number) for number in range(2 * MAX_STEPS, 3 * MAX_STEPS)
    ]
    assert steps[-1].time == 3 * MAX_STEPS - 0.5
    chronicle.sink(Event("node.woke", "of nobody", 1.0))
