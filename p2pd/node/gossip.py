"""Gossip: what any node publishes reaches all; `core.broadcast` decides, this sends.

Every node passes on everything; subscriptions are local.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from p2pd.config import GossipConfig
from p2pd.core.admission import MOST_OF_ORIGIN, SYSTEM, Admission, Grant, is_system_topic
from p2pd.core.broadcast import Broadcast
from p2pd.core.history import MAX_SKEW, History, Item
from p2pd.errors import BadMessage, Busy, InvalidRequest
from p2pd.ids import NodeId
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection, Direction
from p2pd.node.dispatch import Call, Caller, Dispatch
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.node.snapshot import Delivery, GossipUse
from p2pd.wire.messages import (
    MESSAGE_ID_BYTES,
    Digest,
    Gossip,
    Graft,
    Have,
    Held,
    M,
    Prune,
    Publication,
    Signed,
    Want,
)

ANTI_ENTROPY_INTERVAL = 5.0
# After this many rounds without news each further pause is twice as long, up to
# `QUIET_INTERVAL`: a node that has news begins the rounds.
ROUNDS_AFTER_NEWS = 6
QUIET_INTERVAL = 60.0
# A peer for which this many bytes wait is only told what there is.
MAX_WAITING = 1 << 20

# Why publications are dropped, and which of these reasons hold later, too.
_OVERSIZED = "oversized"
_ORIGIN_FLOOD = "origin_flood"
_FOR_GOOD = {_OVERSIZED, _ORIGIN_FLOOD}
Sink = Callable[[Delivery], None]
SystemHandler = Callable[[NodeId, Publication], None]


class GossipService:
    """Publishes, passes on and delivers; `run` must be running to get what was missed."""

    def __init__(
        self, env: Env, config: GossipConfig, roster: Roster, dispatch: Dispatch, *, name: str
    ) -> None:
        self._env = env
        self._config = config
        self._roster = roster
        self._own_id = env.identity.node_id
        self._own_name = name
        # What is no old news yet must be recognized, or it would be delivered twice.
        seen_ttl = max(config.seen_ttl, config.retention + MAX_SKEW)
        self._history = History(retention=config.retention, seen_ttl=seen_ttl)
        self._machine = Broadcast(
            self._own_id,
            self._history,
            fanout=config.fanout,
            ttl=config.ttl,
            probability=config.probability,
            rng=env.rng,
            room=self._room_for,
        )
        self._sequence = 0
        self._published = 0
        self._payloads = 0
        self._delivered = 0
        self._sinks: list[tuple[frozenset[str], Sink]] = []
        self._system: dict[str, SystemHandler] = {}
        self._admission = Admission(roster.registry)
        self._quiet_rounds = 0
        self._round_at = math.inf
        self._alarm = Alarm(env.alarms)
        self.dropped: Counter[str] = Counter()
        roster.on_connected.append(self._link_up)
        roster.on_renewed.append(self._renewed)
        roster.on_disconnected.append(self._link_down)
        dispatch.add(Gossip, self._take)
        self._hand_on(dispatch, Have, self._machine.take_have)
        self._hand_on(dispatch, Graft, self._machine.take_graft)
        self._hand_on(dispatch, Prune, self._machine.take_prune)
        self._hand_on(dispatch, Want, self._machine.take_want)
        self._hand_on(dispatch, Digest, self._machine.take_digest)
        self._hand_on(dispatch, Held, self._machine.take_held)

    @property
    def retention(self) -> float:
        """For how many seconds a publication is passed on."""
        return self._config.retention

    @property
    def use(self) -> GossipUse:
        """How much was published here, delivered, came again, and was dropped."""
        duplicates, dropped = self._machine.duplicates, self.dropped.total()
        return GossipUse(self._published, self._delivered, duplicates, dropped)

    @property
    def payloads(self) -> int:
        """How many of the users' publications came, including those known already."""
        return self._payloads

    def carries(self, peer: NodeId) -> bool:
        """Whether the tree of messages has settled, and goes over the connection to a peer."""
        return self._machine.settled and peer in self._machine.eager

    def on_system(self, topic: str, handler: SystemHandler) -> None:
        """Let `handler` take what others publish on one of the network's own topics."""
        self._system[topic] = handler

    @contextmanager
    def sent_to(self, topics: frozenset[str], sink: Sink) -> Iterator[None]:
        """Within the `with`, `sink` gets each message on these topics; on all where empty.

        Sinks must not block or raise. Raises `InvalidRequest` for an invalid topic.
        """
        for topic in topics:
            _check_topic(topic)
        subscription = (topics, sink)
        self._sinks.append(subscription)
        try:
            yield
        finally:
            self._sinks.remove(subscription)

    def publish(self, topic: str, data: bytes) -> bytes:
        """Tell everybody; returns the message ID.

        Without a connection the message waits for one, within `gossip.retention`. Raises
        `InvalidRequest` for an invalid topic or size, `Busy` for too many messages.
        """
        _check_topic(topic)
        if len(data) > self._config.max_message_bytes:
            raise InvalidRequest(
                f"the message has {len(data)} bytes, more than "
                f"gossip.max_message_bytes = {self._config.max_message_bytes}"
            )
        message_id = self.publish_system(topic, data)
        self._published += 1
        return message_id

    def publish_system(self, topic: str, data: bytes, issued: int | None = None) -> bytes:
        """Publish without looking at the topic; raises `Busy`.

        `issued` in Unix milliseconds, where it is to differ from our clock.
        """
        now_ms = self._env.wall_ms() if issued is None else issued
        if not self._admission.within_bounds(self._own_id, now_ms, topic):
            raise Busy(
                f"{MOST_OF_ORIGIN} messages were published in this minute; "
                "nobody would take more; try again in the next one"
            )
        self._admission.count(self._own_id, now_ms, topic)
        # The clock makes it grow across restarts, the increment within a millisecond.
        self._sequence = max(now_ms, self._sequence + 1)
        publication = Publication(
            self._env.identity.public_key, self._sequence, now_ms, topic, data
        )
        signed = self._env.identity.vouch(publication)
        item = Item(
            message_id_of(signed), signed, self._own_id, now_ms, hops=0, account=self._own_id
        )
        self._machine.publish(item, trio.current_time())
        self._flush()
        self._deliver(item, publication)
        return item.message_id

    async def run(self) -> None:
        """Send what is due by itself, and compare with a peer now and then."""
        self._note_news()
        while True:
            self._flush()
            await self._alarm.wait(min(self._round_at, self._machine.next_due()))
            now = trio.current_time()
            if now >= self._round_at:
                self._round_at = now + self._next_pause()
                self._history.expire(now, self._env.wall_ms())
                self._compare()

    def _note_news(self) -> None:
        """Let the next rounds of anti-entropy follow each other quickly."""
        self._quiet_rounds = 0
        self._round_at = min(self._round_at, trio.current_time() + self._next_pause())
        self._alarm.no_later_than(self._round_at)

    def _next_pause(self) -> float:
        self._quiet_rounds += 1
        rare = 2.0 ** max(0, min(self._quiet_rounds - ROUNDS_AFTER_NEWS, 16))
        pause = min(ANTI_ENTROPY_INTERVAL * rare, QUIET_INTERVAL)
        return pause * self._env.rng.uniform(0.75, 1.25)

    def _compare(self) -> None:
        """Send our digest to a peer chosen at random."""
        lasting = self._roster.lasting()
        if lasting:
            self._machine.digest_to(self._env.rng.choice(lasting).node_id)

    def _link_up(self, connection: Connection) -> None:
        if connection.passing:
            return
        self._machine.link_up(connection.node_id, trio.current_time())
        # For whatever either side missed while there was no connection.
        if connection.direction is Direction.OUTBOUND:
            self._machine.digest_to(connection.node_id)
        self._wake()

    def _renewed(self, connection: Connection) -> None:
        """Link one that lasts, in the place of one that was made for a question."""
        if not self._machine.has_link(connection.node_id):
            self._link_up(connection)

    def _note_gossip(self, caller: Caller) -> None:
        """Link a connection in passing over which its dialler gossips: it means it to last.

        For the dialler it took the place of one that we had dialled at the same time, to last. With
        a link at one end only, what comes over it here first would cut our links of the tree. Where
        we dialled, nothing changes: whom we ask a question may not choose to stay.
        """
        connection = self._roster.connections.get(caller.node_id)
        if connection is None or connection is not caller or not connection.passing:
            return
        if connection.direction is Direction.INBOUND and not connection.given_up:
            self._roster.keep(connection)
            self._link_up(connection)

    def _link_down(self, connection: Connection) -> None:
        self._machine.link_down(connection.node_id, trio.current_time())
        self._wake()

    def _take(self, call: Call, gossip: Gossip) -> None:
        self._note_gossip(call.connection)
        signed, peer = gossip.publication, call.connection.node_id
        now, now_ms = trio.current_time(), self._env.wall_ms()
        try:
            publication, origin = self._env.records.open_publication(signed)
        except BadMessage as error:
            # The peer that passed it on had to check it, too.
            call.connection.abort(f"the peer passed on a forged message: {error}")
            return
        account = self._admission.account_of(origin, now_ms / 1000)
        item = Item(message_id_of(signed), signed, origin, publication.issued, gossip.hops, account)
        grant = Grant.SPREAD
        if not self._history.has_seen(item.message_id):
            problem = self._problem(item, publication, now_ms)
            if problem is None:
                asked = self._machine.was_asked(peer, item.message_id)
                wall = now_ms / 1000
                grant = self._admission.grant(peer, item, publication, now, wall, asked=asked)
            if problem is not None or grant is Grant.DROP:
                self.dropped[problem or "peer_flood"] += 1
                self._machine.decline(item.message_id, now, for_good=problem in _FOR_GOOD)
                return
            self._admission.count(item.origin, item.issued, publication.topic)
        self._payloads += not is_system_topic(publication.topic)
        if self._machine.receive(peer, item, now, spread=grant is Grant.SPREAD):
            self._deliver(item, publication)
        self._flush()

    def _problem(self, item: Item, publication: Publication, now_ms: int) -> str | None:
        """Say why a publication is refused from anybody, however much room there is."""
        if len(publication.data) > self._config.max_message_bytes:
            return _OVERSIZED
        if self._history.is_stale(item.issued, now_ms):
            return "stale"
        if not self._admission.within_bounds(item.origin, item.issued, publication.topic):
            return _ORIGIN_FLOOD
        return None

    def _deliver(self, item: Item, publication: Publication) -> None:
        self._note_news()
        if is_system_topic(publication.topic):
            handler = self._system.get(publication.topic)
            if handler is not None and item.origin != self._own_id:
                handler(item.origin, publication)
            return
        self._delivered += 1
        if not self._sinks:
            return
        delivery = Delivery(
            topic=publication.topic,
            message_id=item.message_id.hex(),
            origin=item.origin,
            origin_name=self._name_of(item.origin),
            sequence=publication.sequence,
            published_at=publication.issued / 1000,
            hops=item.hops,
            data=publication.data,
        )
        for topics, sink in tuple(self._sinks):
            if not topics or publication.topic in topics:
                sink(delivery)

    def _name_of(self, origin: NodeId) -> str | None:
        if origin == self._own_id:  # which has no entry in its own registry
            return self._own_name
        entry = self._roster.registry.get(origin)
        return entry.name if entry else None

    def _hand_on(
        self, dispatch: Dispatch, kind: type[M], take: Callable[[NodeId, M, float], None]
    ) -> None:
        def handler(call: Call, message: M) -> None:
            self._note_gossip(call.connection)
            take(call.connection.node_id, message, trio.current_time())
            self._flush()

        dispatch.add(kind, handler)

    def _room_for(self, peer: NodeId) -> int:
        connection = self._roster.connections.get(peer)
        return 0 if connection is None else MAX_WAITING - connection.bytes_waiting

    def _flush(self) -> None:
        """Send what the machine has to send, and see when it wants to be asked again."""
        for peer, message in self._machine.take_sends(trio.current_time()):
            connection = self._roster.connections.get(peer)
            if connection is not None:
                connection.notify(message)
        self._alarm.no_later_than(self._machine.next_due())

    def _wake(self) -> None:
        """Send soon, from a task of our own: a connection is just being entered or left."""
        self._alarm.ring()


def message_id_of(signed: Signed) -> bytes:
    """Name a publication: the first bytes of the hash of what was signed."""
    return hashlib.sha256(signed.body).digest()[:MESSAGE_ID_BYTES]


def _check_topic(topic: str) -> None:
    # Lone surrogates are not printable, and can't be encoded.
    if not topic.isprintable() or not 0 < len(topic.encode()) <= 64:
        raise InvalidRequest("a topic is 1 to 64 bytes of printable text")
    if is_system_topic(topic):
        raise InvalidRequest(f"topics that begin with {SYSTEM} are the network's own")
