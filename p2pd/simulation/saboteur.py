"""Liars that do everything at once: accuse, flood, replay, hold back, invent peers without end.

A saboteur is a full member, with the connections that a member gets; it speaks over them
on its own, without the bounds of an honest node.
"""

from collections import deque

import attrs
import trio

from p2pd.address import Address
from p2pd.node.connection import Connection
from p2pd.node.dispatch import Call
from p2pd.node.gossip import message_id_of
from p2pd.node.liveness import ALIVE_TOPIC, DEAD_TOPIC
from p2pd.simulation.adversary import false_report, invented_record, swallow, wall_ms
from p2pd.simulation.world import SimNode, World
from p2pd.wire import codec
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    MAX_IDS,
    Announce,
    Digest,
    FindNode,
    FindValue,
    GetPeers,
    Gossip,
    Graft,
    Have,
    Heard,
    Held,
    Nodes,
    Peers,
    Prune,
    Publication,
    Reach,
    Reached,
    Signed,
    Store,
    Stored,
    Value,
    Want,
)

# Public networks (/24) in which the invented peers claim to be.
NETWORKS = 8
MOST_RECORDED = 4000
# Invented peers in an answer to `FindNode`: as many as an honest node names at most.
_NODES = 20
# How often it speaks to each neighbour; what it says each time follows from the rates.
_BEAT = 0.1
# No more than this waits for a neighbour: a flooded connection would end, and the sabotage too.
_MOST_WAITING = 1 << 19


@attrs.frozen
class Sabotage:
    """What a saboteur does each second.

    `own` and `invented` are new publications, each told to one neighbour: by its own identity
    and by invented ones, of which there are `names` at a time, each used for about `uses` of
    them. `replayed` are those that it heard before, and `baits` announcements of what never
    comes, to each neighbour. `accuse_every` is the pause in seconds between two rounds of
    reports that everybody is dead.
    """

    own: float = 50.0
    invented: float = 500.0
    replayed: float = 5.0
    baits: float = 20.0
    names: int = 50
    uses: int = 20
    accuse_every: float = 5.0


class Saboteur:
    """One running node that does its worst until it stops; `run` must be running."""

    def __init__(self, world: World, node: SimNode, sabotage: Sabotage) -> None:
        self.sent = 0
        self._world = world
        self._node = node
        self._sabotage = sabotage
        self._sequence = 0
        self._invented = 0
        self._names: list[Identity] = []
        self._accusers: list[Identity] = []
        self._recorded: deque[Signed] = deque(maxlen=MOST_RECORDED)
        self._promises: list[bytes] = []
        self._promised: dict[bytes, None] = {}
        self._records: deque[Signed] = deque(maxlen=MOST_RECORDED)
        dispatch = node.services.dispatch
        dispatch.add(Gossip, self._record)
        for kind in (Graft, Want, Digest):
            dispatch.add(kind, swallow)
        dispatch.add(Have, self._promise_heard)
        dispatch.add(Held, self._promise_held)
        dispatch.add(GetPeers, lambda _, request: Peers(self._invent_many(request.limit)))
        dispatch.add(FindNode, lambda _, __: Nodes(self._invent_many(_NODES)))
        dispatch.add(FindValue, lambda _, __: Value((), self._invent_many(_NODES)))
        dispatch.add(Store, lambda _, __: Stored())
        dispatch.add(Reach, lambda _, __: Reached(alive=False))
        dispatch.add(Announce, self._keep_record)

    async def run(self) -> None:
        """Do everything at once, until the node stops."""
        accuse_at = trio.current_time()
        while self._node.running is not None:
            neighbours = [
                each
                for each in self._node.services.roster.lasting()
                if each.bytes_waiting <= _MOST_WAITING
            ]
            if neighbours:
                self._flood(neighbours)
                if trio.current_time() >= accuse_at:
                    accuse_at += self._sabotage.accuse_every
                    self._accuse_all(neighbours)
            del self._promises[:-MAX_IDS]
            await trio.sleep(_BEAT)

    def _flood(self, neighbours: list[Connection]) -> None:
        rng, sabotage = self._world.rng, self._sabotage
        for _ in range(self._times(sabotage.own)):
            flood = self._publish(self._node.identity, "flood", self._noise())
            self._push(rng.choice(neighbours), flood)
        for _ in range(self._times(sabotage.invented)):
            flood = self._publish(self._name(), "flood", self._noise())
            self._push(rng.choice(neighbours), flood)
        for connection in neighbours:
            # So it hears of all by announcements, and a neighbour it prunes has to look further.
            connection.notify(Prune())
            for _ in range(self._times(sabotage.replayed) if self._recorded else 0):
                self._push(connection, rng.choice(self._recorded))
            if self._records:
                connection.notify(Announce(rng.choice(self._records)))
            baits = [rng.randbytes(16) for _ in range(self._times(sabotage.baits))]
            _tell(connection, [*self._promises, *baits])

    def _accuse_all(self, neighbours: list[Connection]) -> None:
        """Report everybody dead, in its own name and in invented ones that were told of."""
        accusers = [self._node.identity, *self._accusers[-3:]]
        for accused in self._world.nodes.values():
            if accused is self._node:
                continue
            for accuser in accusers:
                data = false_report(accused, self._world.rng.choice(("refused", "silent")))
                publication = self._publish(accuser, DEAD_TOPIC, data)
                for connection in neighbours:
                    self._push(connection, publication)
        # A sign of life of somebody else, published as its own.
        if self._records:
            old = codec.encode(self._world.rng.choice(self._records))
            publication = self._publish(self._node.identity, ALIVE_TOPIC, old)
            for connection in neighbours:
                self._push(connection, publication)

    def _record(self, _: Call, gossip: Gossip) -> None:
        """Keep it for later, and pass it on to nobody."""
        self._recorded.append(gossip.publication)
        publication = codec.decode(Publication, gossip.publication.body)
        if publication.topic == ALIVE_TOPIC:
            self._records.append(codec.decode(Signed, publication.data))
        self._promise([message_id_of(gossip.publication)])

    def _keep_record(self, _: Call, announcement: Announce) -> None:
        self._records.append(announcement.record)

    def _promise_heard(self, _: Call, have: Have) -> None:
        self._promise([each.message_id for each in have.heard])

    def _promise_held(self, _: Call, held: Held) -> None:
        self._promise(list(held.ids))

    def _promise(self, ids: list[bytes]) -> None:
        """Tell everybody, again and again for a while, that these can be had here; they can't."""
        fresh = [each for each in ids if each not in self._promised]
        self._promises += fresh
        self._promised.update(dict.fromkeys(fresh))
        while len(self._promised) > MOST_RECORDED:
            del self._promised[next(iter(self._promised))]

    def _push(self, connection: Connection, signed: Signed) -> None:
        self.sent += 1
        connection.notify(Gossip(signed, 1))

    def _publish(self, origin: Identity, topic: str, data: bytes) -> Signed:
        self._sequence += 1
        now = wall_ms()
        return origin.vouch(
            Publication(origin.public_key, now * 1000 + self._sequence, now, topic, data)
        )

    def _name(self) -> Identity:
        """Take one of the current names; each is replaced by a new one after a while."""
        sabotage, rng = self._sabotage, self._world.rng
        if len(self._names) < sabotage.names:
            self._names.append(self._mint())
        number = rng.randrange(len(self._names))
        if rng.random() < 1 / sabotage.uses:
            self._names[number] = self._mint()
        return self._names[number]

    def _invent_many(self, count: int) -> tuple[Signed, ...]:
        return tuple(self._invent() for _ in range(count))

    def _invent(self) -> Signed:
        """Invent a peer that was never named before, in one of a few networks."""
        identity = self._mint()
        number = self._invented = self._invented + 1
        # Where this is told, they will be known by their records: as good reporters as any.
        self._accusers = [*self._accusers[-15:], identity]
        self._names = [*self._names[1:], identity]
        address = Address(f"198.51.{number % NETWORKS}.{number // NETWORKS % 254 + 1}", 41000)
        return invented_record(identity, address)

    def _mint(self) -> Identity:
        return Identity.mint(self._world.rng.randbytes(32), 0)

    def _noise(self) -> bytes:
        return self._world.rng.randbytes(self._world.rng.choice((20, 200, 2000)))

    def _times(self, per_second: float) -> int:
        """Draw how often something happens in a beat, from how often it should a second."""
        mean = per_second * _BEAT
        return int(mean) + (self._world.rng.random() < mean - int(mean))


def sabotage(world: World, node: SimNode, what: Sabotage) -> Saboteur:
    """Turn a running node into a saboteur, until it stops."""
    saboteur = Saboteur(world, node, what)
    world.meanwhile(saboteur.run)
    return saboteur


def _tell(connection: Connection, ids: list[bytes]) -> None:
    for at in range(0, len(ids), MAX_IDS):
        chunk = tuple(ids[at : at + MAX_IDS])
        connection.notify(Have(tuple(Heard(each, 0) for each in chunk)))
        connection.notify(Held(chunk))
