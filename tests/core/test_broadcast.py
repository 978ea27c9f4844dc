"""Gossip among many machines over a network of links with latency, in virtual seconds."""

import hashlib
import heapq
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

import pytest

from p2pd.core.broadcast import Broadcast, Send
from p2pd.core.history import History, Item
from p2pd.ids import NodeId
from p2pd.wire.messages import (
    Digest,
    Gossip,
    Graft,
    Have,
    Held,
    Message,
    Prune,
    Signed,
    Want,
)

LATENCY = 0.02
WALL_MS = 1_700_000_000_000
Edge = tuple[int, int]


def node_id(number: int) -> NodeId:
    return NodeId(number.to_bytes(32))


def publication(number: int, origin: int, size: int = 10) -> Item:
    body = number.to_bytes(8) + bytes(size)
    message_id = hashlib.sha256(body).digest()[:16]
    return Item(message_id, Signed(body, bytes(64)), node_id(origin), WALL_MS + number, 0)


class Network:
    """Machines that talk over links; each link delivers in order, unless it goes down first."""

    def __init__(
        self,
        count: int,
        edges: Iterable[Edge],
        *,
        seed: int = 0,
        fanout: int = 6,
        ttl: int = 64,
        probability: float = 1.0,
    ) -> None:
        self.now = 100.0
        self.rng = random.Random(seed)
        self.events: list[tuple[float, int, int, int, Message | None]] = []
        self.sequence = 0
        self.links: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.generation = 0
        self.armed: dict[int, float] = {}
        self.delivered: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
        self.delivered_at: dict[bytes, float] = {}
        self.sent: Counter[type] = Counter()
        self.full: set[int] = set()
        self.published = 0
        self.machines = [
            Broadcast(
                node_id(number),
                History(retention=600.0, seen_ttl=600.0),
                fanout=fanout,
                ttl=ttl,
                probability=probability,
                rng=random.Random(seed * 100_003 + number),
                room=lambda peer: int.from_bytes(peer) not in self.full,
            )
            for number in range(count)
        ]
        for one, other in edges:
            self.connect(one, other)

    def connect(self, one: int, other: int) -> None:
        self.generation += 1
        for here, there in ((one, other), (other, one)):
            self.links[here][there] = self.generation
            self.machines[here].link_up(node_id(there))
            self.flush(here)

    def disconnect(self, one: int, other: int) -> None:
        for here, there in ((one, other), (other, one)):
            del self.links[here][there]
            self.machines[here].link_down(node_id(there))
            self.flush(here)

    def publish(self, origin: int) -> Item:
        item = publication(self.published, origin)
        self.published += 1
        self.machines[origin].publish(item, self.now)
        self.delivered[item.message_id][origin] += 1
        self.delivered_at[item.message_id] = self.now
        self.flush(origin)
        return item

    def compare(self, one: int, other: int) -> None:
        self.machines[one].digest_to(node_id(other))
        self.flush(one)

    def flush(self, number: int) -> None:
        self.post(number, self.machines[number].take_sends(self.now))
        due = self.machines[number].next_due()
        if due < self.armed.get(number, math.inf):
            self.armed[number] = due
            self.schedule(due, number, number, None)

    def post(self, sender: int, sends: list[Send]) -> None:
        for peer, message in sends:
            receiver = int.from_bytes(peer)
            self.sent[type(message)] += 1
            self.schedule(self.now + LATENCY, sender, receiver, message)

    def schedule(self, due: float, sender: int, receiver: int, message: Message | None) -> None:
        self.sequence += 1
        generation = self.links[sender].get(receiver, 0)
        heapq.heappush(self.events, (due, self.sequence, sender, receiver, message, generation))

    def run(self, seconds: float = math.inf) -> None:
        """Let time pass: so much, or until nothing is under way."""
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            due, _, sender, receiver, message, generation = heapq.heappop(self.events)
            self.now = max(self.now, due)
            if message is None:
                self.armed.pop(receiver, None)
            elif self.links[sender].get(receiver, 0) == generation:
                self.hand_over(sender, receiver, message)
            self.flush(receiver)
        if end < math.inf:
            self.now = end

    def hand_over(self, sender: int, receiver: int, message: Message) -> None:
        machine, peer = self.machines[receiver], node_id(sender)
        match message:
            case Gossip(signed, hops):
                number = int.from_bytes(signed.body[:8])
                message_id = hashlib.sha256(signed.body).digest()[:16]
                item = Item(message_id, signed, node_id(0), WALL_MS + number, hops)
                if machine.receive(peer, item, self.now):
                    self.delivered[message_id][receiver] += 1
                    self.delivered_at[message_id] = self.now
            case Have():
                machine.take_have(peer, message, self.now)
            case Graft():
                machine.take_graft(peer, message)
            case Prune():
                machine.take_prune(peer)
            case Want():
                machine.take_want(peer, message)
            case Digest():
                machine.take_digest(peer, message)
            case Held():
                machine.take_held(peer, message)

    def spread(self, origin: int) -> float:
        """Publish, wait until all is quiet, and return after how many latencies the last had it."""
        begin = self.now
        item = self.publish(origin)
        self.run()
        return (self.delivered_at[item.message_id] - begin) / LATENCY

    def copies(self) -> float:
        """Payloads sent for each delivery to somebody else."""
        delivered = sum(sum(each.values()) - 1 for each in self.delivered.values())
        return self.sent[Gossip] / delivered

    def assert_exactly_once(self) -> None:
        everybody = Counter(range(len(self.machines)))
        assert all(each == everybody for each in self.delivered.values())

    def forget(self) -> None:
        self.sent.clear()
        self.delivered.clear()


def random_graph(count: int, degree: int, seed: int) -> list[Edge]:
    """Connect everybody, then add random links until the mean degree is reached."""
    rng = random.Random(seed)
    edges = {(rng.randrange(number), number): None for number in range(1, count)}
    while len(edges) < min(count * degree // 2, count * (count - 1) // 2):
        one, other = sorted(rng.sample(range(count), 2))
        edges[one, other] = None
    return list(edges)


def diameter(count: int, edges: Iterable[Edge]) -> int:
    neighbours = defaultdict(list)
    for one, other in edges:
        neighbours[one].append(other)
        neighbours[other].append(one)
    longest = 0
    for begin in range(count):
        depth = {begin: 0}
        queue = deque([begin])
        while queue:
            here = queue.popleft()
            for there in neighbours[here]:
                if there not in depth:
                    depth[there] = depth[here] + 1
                    queue.append(there)
        longest = max(longest, max(depth.values()))
    return longest
