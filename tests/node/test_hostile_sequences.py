"""Valid messages in any order, from members that keep to no other rule: nothing stays behind."""

import random
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
import pytest
import trio

from p2pd.core.merkle import EMPTY, EVERYTHING
from p2pd.errors import P2PError
from p2pd.ids import Key
from p2pd.net.faults import constant_latency
from p2pd.net.sim import SimStream
from p2pd.node.gossip import message_id_of
from p2pd.node.liveness import ALIVE_TOPIC, DEAD_TOPIC, LEFT_TOPIC
from p2pd.simulation.checks import check_always, check_quiet
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.world import SimNode, open_world
from p2pd.wire import codec
from p2pd.wire.framing import REPLY, REQUEST, Frame, write_frame
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    TAGS,
    Compare,
    Compared,
    DeadReports,
    DialBack,
    DialledBack,
    Echo,
    Echoed,
    Fetch,
    Fetched,
    FindNode,
    FindValue,
    GetPeers,
    Give,
    Given,
    Goodbye,
    Gossip,
    Message,
    Nodes,
    PeerRecord,
    Peers,
    Ping,
    Pong,
    Publication,
    Reach,
    Reached,
    Record,
    Refused,
    Release,
    Released,
    Signed,
    Store,
    Stored,
    Subtree,
    Value,
)
from p2pd.wire.session import Replied
from tests.node.scripted import HungUp, Line, ScriptedPeer, assert_unharmed, now_ms, stranger

HOSTILE_SECONDS = 40.0
# By then suspicions are over, and so is whatever else was under way.
QUIET_AFTER = 400.0
TOPIC = "honest"
ANSWERS: dict[type, type] = {
    Compare: Compared,
    DialBack: DialledBack,
    Echo: Echoed,
    Fetch: Fetched,
    FindNode: Nodes,
    FindValue: Value,
    GetPeers: Peers,
    Give: Given,
    Ping: Pong,
    Reach: Reached,
    Release: Released,
    Store: Stored,
}
# What ends a connection is said now and then only.
KINDS = [each for each in TAGS.values() if each not in {Goodbye, Refused}]
TEXTS = ["", "full", "busy", "leaving", "disconnected on request", "version", "refused", "x" * 64]


class Words:
    """Makes messages of what the field types allow, in part of what makes sense here."""

    def __init__(self, rng: random.Random, honest: list[SimNode], hostile: list[ScriptedPeer]):
        self.rng = rng
        self.honest = honest
        self.names = [f"key {number}" for number in range(6)]
        # Some that sign, and are told of, but never come.
        self.signers = [each.identity for each in hostile] + [stranger(rng) for _ in range(4)]
        self.ids = [bytes(each.node_id) for each in honest]
        self.ids += [bytes(each.node_id) for each in self.signers]
        self.ids += [*map(Key.of, self.names), bytes(32), b"\xff" * 32]
        self.message_ids = [rng.randbytes(16), EMPTY]
        self.addresses = [str(each.address) for each in honest]
        self.addresses += [str(each.address) for each in hostile]
        self.addresses += ["127.0.0.1:41000", "203.0.113.9:1", "[fe80::1]:41000", "nonsense", ""]
        self.facts = [each.services.own.signed for each in honest]

    def message(self, kind: type | None = None) -> Message:
        made: Message = self.value(kind or self.rng.choice(KINDS))
        return made

    def value(self, kind: Any) -> Any:
        choice = self.rng.choice
        if get_origin(kind) is Annotated:
            inner, bound = get_args(kind)
            return self._bounded(inner, *bound)
        if get_origin(kind) in {Union, types.UnionType}:
            return self.value(choice(get_args(kind)))
        if kind in {bool, type(None)}:
            return choice([True, False]) if kind is bool else None
        if kind is Signed:
            return self.fact()
        if kind is Subtree and choice([True, False]):
            return Subtree(b"", EVERYTHING.bits, choice(self.message_ids))
        hints = get_type_hints(kind, include_extras=True)
        return kind(*(self.value(hints[each.name]) for each in attrs.fields(kind)))

    def _bounded(self, inner: Any, least: int, most: int) -> Any:
        rng = self.rng
        if inner is int:
            likely = [least, least + 1, most, now_ms(), now_ms() - rng.randrange(60_000)]
            return min(rng.choice(likely), most)
        if inner is str:
            return rng.choice(TEXTS + self.addresses)[:most]
        if inner is bytes:
            if (least, most) == (32, 32):
                return rng.choice(self.ids)
            if (least, most) == (16, 16):
                return rng.choice(self.message_ids)
            return rng.randbytes(rng.choice([least, min(most, least + 1), min(most, 100)]))
        size = rng.choice([least, least, min(least + 1, most), min(most, 3), min(most, 20)])
        return tuple(self.value(get_args(inner)[0]) for _ in range(size))

    def fact(self) -> Signed:
        """Sign something new, or take what somebody signed before."""
        rng = self.rng
        if rng.random() < 0.5:
            return rng.choice(self.facts)
        signer = rng.choice(self.signers)
        makers: list[Callable[[Identity], PeerRecord | Record | Publication]] = [
            self.peer_record,
            self._record,
            self._publication,
        ]
        signed = signer.vouch(rng.choice(makers)(signer))
        self.facts = [*self.facts[-200:], signed]
        self.message_ids = [*self.message_ids[-200:], message_id_of(signed)]
        return signed

    def peer_record(self, identity: Identity) -> PeerRecord:
        addresses = tuple(self.rng.sample(self.addresses, self.rng.choice([0, 1, 3])))
        made: PeerRecord = self.value(PeerRecord)
        return attrs.evolve(made, public_key=identity.public_key, addresses=addresses)

    def _record(self, identity: Identity) -> Record:
        made: Record = self.value(Record)
        clock = self.rng.choice([0, now_ms() << 16, now_ms() + 82_000_000 << 16, made.clock])
        seen = tuple(each for each in made.seen if each.clock < clock)
        return attrs.evolve(made, writer=identity.public_key, clock=clock, seen=seen)

    def _publication(self, identity: Identity) -> Publication:
        made: Publication = self.value(Publication)
        topic = self.rng.choice(["news", DEAD_TOPIC, ALIVE_TOPIC, LEFT_TOPIC, "$other"])
        data = made.data
        if topic == DEAD_TOPIC:
            data = codec.encode(self.value(DeadReports))
        elif topic.startswith("$"):
            data = codec.encode(self.fact())
        return attrs.evolve(made, origin=identity.public_key, topic=topic, data=data)


class Hostile:
    """Connects, talks at random and hangs up, as one peer, until cancelled."""

    def __init__(self, words: Words, peer: ScriptedPeer):
        self.words = words
        self.rng = words.rng
        self.peer = peer

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.peer.listen, self.talk)
            while True:
                await trio.sleep(self.rng.expovariate(1 / self.rng.choice([0.1, 1, 5])))
                nursery.start_soon(self._dial, self.rng.choice(self.words.honest))

    async def _dial(self, node: SimNode) -> None:
        if self.rng.random() < 0.2:
            self.peer.instance = self.rng.randbytes(16)
        changes: dict[str, Any] = {"passing": self.rng.random() < 0.4}
        if self.rng.random() < 0.3:
            changes["record"] = self.peer.identity.vouch(self.words.peer_record(self.peer.identity))
        with suppress(HungUp, P2PError, trio.BrokenResourceError):
            line = await self.peer.connect(node, **changes)
            await self.talk(line)

    async def talk(self, line: Line) -> None:
        stream = line.stream
        with trio.move_on_after(self.rng.expovariate(1 / self.rng.choice([0.1, 2, 20]))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._chat, line)
                with suppress(HungUp, trio.BrokenResourceError):
                    await self._answer(line)
                nursery.cancel_scope.cancel()
        await self._hang_up(line, stream)

    async def _hang_up(self, line: Line, stream: SimStream) -> None:
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
            last = self.rng.choice([Goodbye, Refused, None, None])
            with trio.move_on_after(0.1):
                if last is not None:
                    await line.send(self.words.message(last))
        if self.rng.random() < 0.3:
            stream.break_now()
            stream.peer.break_now()
        else:
            stream.close_now()

    async def _chat(self, line: Line) -> None:
        pause = self.rng.choice([0.005, 0.05, 0.5])
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(self.rng.expovariate(1 / pause))
                flags = self.rng.choice([0, REQUEST, REQUEST, REPLY, REQUEST | REPLY])
                number = self.rng.choice([0, 1, 2, self.rng.randrange(50), (1 << 64) - 1])
                data = self._frame(self.words.message(), flags, number)
                await line.stream.send_all(data * self.rng.choice([1, 1, 1, 2]))

    async def _answer(self, line: Line) -> None:
        while True:
            event = await line.next()
            line.heard.clear()
            message = event.message
            if isinstance(message, Gossip):
                self.words.facts.append(message.publication)
                self.words.message_ids.append(message_id_of(message.publication))
            if isinstance(event, Replied) or event.request_id is None:
                continue
            how = self.rng.choice(["well", "well", "wrong", "not"])
            if isinstance(message, Ping):
                how = "well"
            if how != "not":
                kind = ANSWERS.get(type(message)) if how == "well" else None
                data = self._frame(self.words.message(kind), REPLY, event.request_id)
                await line.stream.send_all(data * self.rng.choice([1, 1, 2]))

    def _frame(self, message: Message, flags: int, number: int) -> bytes:
        tag, payload = codec.encode_message(message)
        moment = self.rng.choice([0, now_ms(), (1 << 64) - 1])
        return write_frame(Frame(1, tag, flags, 0, number, moment, payload))


class Client:
    """Puts, gets and publishes at an honest node, until cancelled."""

    def __init__(self, node: SimNode, rng: random.Random):
        self.node = node
        self.rng = rng
        self.put: dict[str, bytes] = {}
        self.heard: set[str] = set()

    async def run(self) -> None:
        with self.node.node.deliveries(
            frozenset({TOPIC}), lambda message: self.heard.add(message.message_id)
        ):
            await trio.sleep_forever()

    async def work(self, published: set[str]) -> None:
        number = 0
        while True:
            number += 1
            await trio.sleep(self.rng.uniform(0.5, 3))
            key, value = f"{self.node.name} {number % 4}", b"%d" % number
            self.put.pop(key, None)
            # Replicas that do not answer may well be too many.
            with suppress(P2PError), trio.fail_after(30):
                await self.node.node.put(key, value)
                self.put[key] = value
            published.add(await self.node.node.publish(TOPIC, value))


def left_behind(node: SimNode) -> Iterator[str]:
    """Name what is still under way, or counted, though nobody waits for it."""
    services = node.services
    gossip, machine = services.gossip._machine, services.liveness._machine
    counts = {
        "lasting dials": services.dialler._lasting_under_way,
        "probes": services.probing._limit.borrowed_tokens,
        "dials for others": services.probing._reaches._under_way,
        "dials back": services.doctor._dialling_back._dials._under_way,
        "handshakes": len(services.inbound._handshakes),
        "writes": len(services.replica._waiting),
        "reads": len(services.replica._reading) + len(services.dht._reads._waiting),
        "questions": len(services.reconciler._questions._waiting),
        "puts": len(services.dht._writing) + services.dht._convoy._preparing,
        "late writes": len(services.dht._late_writes._waiting),
        "releases": services.surplus._asking + services.surplus._replacing,
        "retired connections": len(services.roster._retiring),
        "publications missing": len(gossip._missing) + len(gossip._offers),
        "links": len(gossip._links.keys() - services.roster.connections),
        "suspicions": len(machine._suspects._suspicions),
        "visits": sum(each.under_way for each in services.repair.tending._visits.values()),
        "dials": sum(
            each.dialling and each.node_id not in services.dialler._dials
            for each in services.registry
        ),
    }
    for connection in services.roster.connections.values():
        peer = connection.node_id.short
        counts[f"bytes for {peer}"] = connection.bytes_waiting
        counts[f"requests to {peer}"] = connection.requests_under_way
        # A probe may be under way.
        counts[f"slots of {peer}"] = max(0, len(connection._session._pending) - 1)
    yield from (f"{node.name}: {count} {what}" for what, count in counts.items() if count)


async def _attacked(seed: int) -> None:
    rng = random.Random(seed)
    async with open_world(seed, constant_latency(rng.choice([0.0005, 0.03]))) as world:
        honest = [await world.start("a", lan=None)]
        for name in "bc":
            honest.append(await world.start(name, lan=None, bootstrap=honest))
        await world.until(lambda: all(each.is_connected_to(honest[0]) for each in honest[1:]))
        hostile = [
            ScriptedPeer(world, host=f"10.9.0.{number + 1}", listens=True)
            for number in range(rng.choice([1, 2]))
        ]
        words = Words(rng, honest, hostile)
        clients = [Client(each, rng) for each in honest]
        published: set[str] = set()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.run)
            with trio.move_on_after(HOSTILE_SECONDS):
                async with trio.open_nursery() as attack:
                    for client in clients:
                        attack.start_soon(client.work, published)
                    for peer in hostile:
                        attack.start_soon(Hostile(words, peer).run)
                    while True:
                        await trio.sleep(1)
                        check_always(world)
            for peer in hostile:
                world.network.listeners.pop(peer.address, None)
            hosts = {each.host for each in hostile}
            for stream in [each for each in world.network.streams if each.local.host in hosts]:
                stream.close_now()
            await trio.sleep(QUIET_AFTER)
            for client in clients:
                assert client.heard == published
            nursery.cancel_scope.cancel()
        check_quiet(world)
        assert_unharmed(*honest)
        assert [each for node in honest for each in left_behind(node)] == []
        for node in honest:
            for other in honest:
                if other is not node:
                    assert node.services.liveness.of(other.node_id).value == "alive"
            for client in clients:
                for key, value in client.put.items():
                    assert (await node.node.get(key)).winner.value == value


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_of_what_hostile_members_say(seed: int) -> None:
    print(f"seed {seed}")
    run_in_virtual_time(_attacked, seed, seed=seed)
