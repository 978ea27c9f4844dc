"""Gossip among many machines over a network of links with latency, in virtual seconds."""

import hashlib
import heapq
import itertools
import math
import random
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

import attrs
import pytest

from p2pd.core.announcements import MAX_ANNOUNCED, Announcements
from p2pd.core.broadcast import (
    DIGESTS_AT_ONCE,
    DIGESTS_PER_SECOND,
    GRAFT_GRACE,
    MAX_CHUNKS,
    NEWEST_CHUNKS,
    Broadcast,
    Send,
)
from p2pd.core.declined import DECLINED_FOR
from p2pd.core.history import History, Item
from p2pd.core.missing import GRAFT_AFTER, GRAFT_AGAIN
from p2pd.core.offers import RETRY, SLOW_FOR
from p2pd.core.shortcuts import MIN_SAMPLES, WINDOW
from p2pd.ids import NodeId
from p2pd.wire.messages import (
    MAX_IDS,
    Digest,
    Gossip,
    Graft,
    Have,
    Heard,
    Held,
    Message,
    Prune,
    Signed,
    Want,
)

LATENCY = 0.02
# Bytes for which a peer's queue has room.
ROOM = 1 << 20
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
        self.events: list[tuple[float, int, int, int, Message | None, int]] = []
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
                room=lambda peer: 0 if int.from_bytes(peer) in self.full else ROOM,
            )
            for number in range(count)
        ]
        for one, other in edges:
            self.connect(one, other)

    def connect(self, one: int, other: int) -> None:
        self.generation += 1
        for here, there in ((one, other), (other, one)):
            self.links[here][there] = self.generation
            self.machines[here].link_up(node_id(there), self.now)
            self.flush(here)

    def disconnect(self, one: int, other: int) -> None:
        for here, there in ((one, other), (other, one)):
            del self.links[here][there]
            self.machines[here].link_down(node_id(there), self.now)
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
                machine.take_graft(peer, message, self.now)
            case Prune():
                machine.take_prune(peer, message, self.now)
            case Want():
                machine.take_want(peer, message, self.now)
            case Digest():
                machine.take_digest(peer, message, self.now)
            case Held():
                machine.take_held(peer, message, self.now)

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
        longest = max(longest, *depth.values())
    return longest


def ring(count: int) -> list[Edge]:
    return [(number, (number + 1) % count) for number in range(count)]


def mesh(count: int) -> list[Edge]:
    return [(one, other) for other in range(count) for one in range(other)]


SHAPES = {
    "two": (2, [(0, 1)]),
    "line": (3, [(0, 1), (1, 2)]),
    "ring": (10, ring(10)),
    "star": (12, [(0, other) for other in range(1, 12)]),
    "mesh": (20, mesh(20)),
    "random": (100, random_graph(100, 7, 1)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_everybody_gets_each_message_once_whoever_publishes(shape: str) -> None:
    net = Network(*SHAPES[shape])
    for origin in range(len(net.machines)):
        net.spread(origin)
    net.assert_exactly_once()


@pytest.mark.parametrize("shape", SHAPES)
def test_publishing_all_at_once_breaks_no_tree_for_long(shape: str) -> None:
    net = Network(*SHAPES[shape])
    for _ in range(3):
        for origin in range(len(net.machines)):
            net.publish(origin)
        net.run()
    net.assert_exactly_once()


@pytest.mark.parametrize("count", [10, 100])
@pytest.mark.parametrize("seed", range(4))
def test_a_settled_tree_is_cheap_and_fast(count: int, seed: int) -> None:
    edges = random_graph(count, 7, seed)
    net = Network(count, edges, seed=seed)
    for _ in range(20):
        net.spread(net.rng.randrange(count))
    net.forget()
    for _ in range(60):
        net.spread(net.rng.randrange(count))
    net.assert_exactly_once()
    copies = net.copies()
    times = [net.spread(net.rng.randrange(count)) for _ in range(30)]
    longest = diameter(count, edges)
    print(f"{count=} {seed=} {longest=} {copies=:.3f} {max(times)=:.1f}")
    assert copies <= 1.15
    assert statistics.mean(times) <= 1.5 * longest + 1
    # Exchanges of single links come near to the lowest tree, but not always to it.
    assert max(times) <= 1.5 * longest + 2.01


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_that_lost_links_heals_without_a_digest(seed: int) -> None:
    edges = random_graph(60, 7, seed)
    net = Network(60, edges, seed=seed)
    for _ in range(10):
        net.spread(net.rng.randrange(60))
    lost = connected_without(60, edges, net.rng, 60)
    for one, other in lost:
        net.disconnect(one, other)
    for _ in range(3):
        took = net.spread(net.rng.randrange(60)) * LATENCY
        print(f"{seed=} {took=:.2f} s")
        assert took < 2.0
    net.forget()
    for _ in range(20):
        net.spread(net.rng.randrange(60))
    net.assert_exactly_once()
    assert net.copies() <= 1.15


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_doubled_while_links_come_and_go(seed: int) -> None:
    count = 40
    edges = random_graph(count, 6, seed)
    net = Network(count, edges, seed=seed)
    up = list(edges)
    for _ in range(60):
        net.publish(net.rng.randrange(count))
        net.run(net.rng.random() * 0.05)
        for one, other in connected_without(count, up, net.rng, 3):
            net.disconnect(one, other)
            up.remove((one, other))
        for one, other in edges:
            if (one, other) not in up and net.rng.random() < 0.1:
                net.connect(one, other)
                up.append((one, other))
        net.run(net.rng.random() * 0.3)
    net.run()
    for _ in range(6):
        for one, other in up:
            net.compare(one, other)
        net.run(RETRY + 1)
    net.assert_exactly_once()


def test_two_halves_that_were_apart_tell_each_other_by_digest() -> None:
    halves = [*ring(10), *((one + 10, other + 10) for one, other in ring(10))]
    net = Network(20, halves)
    # More than one round tells, so that the next one must go on where it ended.
    for number in range(MAX_CHUNKS * MAX_IDS + 40):
        net.publish(number % 20)
    net.run()
    assert all(sum(each.values()) == 10 for each in net.delivered.values())
    net.connect(0, 15)
    for _ in range(3):
        net.compare(0, 15)
        net.run(RETRY + 1)
    net.assert_exactly_once()


def test_what_was_pulled_prunes_nobody() -> None:
    net = Network(12, ring(11))
    for origin in range(8):
        net.spread(origin)
    net.forget()
    net.connect(3, 11)
    before = [machine.eager for machine in net.machines[:3]]
    net.compare(11, 3)
    net.run()
    assert sum(each[11] for each in net.delivered.values()) == 8
    assert net.sent[Prune] == 0
    assert [machine.eager for machine in net.machines[:3]] == before


def settled(seed: int) -> tuple[Network, list[Edge]]:
    """Make a network of which each node has got something over the tree."""
    edges = random_graph(60, 7, seed)
    net = Network(60, edges, seed=seed)
    for _ in range(20):
        net.spread(net.rng.randrange(60))
    net.forget()
    return net, edges


@pytest.mark.parametrize("seed", range(4))
def test_links_that_come_to_a_settled_tree_leave_it_as_it_is(seed: int) -> None:
    net, edges = settled(seed)
    before = [machine.eager for machine in net.machines]
    for one, other in random_graph(60, 12, seed):
        if (one, other) not in edges:
            net.connect(one, other)
    net.run()
    assert not net.sent
    assert [machine.eager for machine in net.machines] == before
    net.spread(0)
    assert net.copies() == 1


def test_who_joins_a_settled_tree_is_pushed_to_at_once() -> None:
    net = Network(4, [(0, 1), (1, 2)])
    for origin in range(3):
        net.spread(origin)
    net.connect(1, 3)
    net.run()
    assert net.spread(0) == pytest.approx(2)


def test_a_tree_link_that_is_lost_is_replaced_at_once_though_others_are_left() -> None:
    node = machine(A, B, C)
    assert node.receive(A, come(1), 0.0)
    assert node.settled
    node.take_sends(9.0)
    node.link_down(A, 9.0)
    assert node.take_sends(9.0) == [(C, Graft(()))]
    assert not node.settled


def test_who_comes_and_goes_and_brings_nothing_tears_no_tree() -> None:
    node = machine(A, B, C)
    assert node.receive(A, come(1), 0.0)
    node.take_graft(D, Graft(()), 0.0)
    for _ in range(3):
        node.link_up(D, 0.0)
        node.take_graft(D, Graft(()), 0.0)
        node.link_down(D, 0.0)
    assert node.settled
    assert node.eager == [A, B]


def test_a_new_link_asks_to_be_of_a_tree_that_has_not_settled() -> None:
    node = machine(A)
    node.link_up(B, 0.0)
    assert node.take_sends(0.0) == [(B, Graft(()))]
    assert node.receive(A, come(1), 0.0)
    node.take_sends(9.0)
    node.link_up(C, 9.0)
    assert node.take_sends(9.0) == []
    assert node.eager == [A, B]


def test_what_was_asked_for_settles_nothing() -> None:
    node = machine(A, B, fanout=1)
    node.take_have(B, have(come(1)), 0.0)
    node.take_sends(GRAFT_AFTER)
    assert node.receive(B, come(1), GRAFT_AFTER + 0.1)
    assert not node.settled


def test_those_behind_who_pulled_it_too_early_get_it_over_the_tree_all_the_same() -> None:
    """A round of anti-entropy crosses a publication: 2 has it of 4, and then of 1."""
    net = Network(5, [(0, 1), (1, 2), (2, 3), (2, 4)])
    for origin in range(5):
        net.spread(origin)
    net.run(GRAFT_GRACE)
    net.forget()
    item = publication(99, 0)
    two = net.machines[2]
    two.take_held(node_id(4), Held((item.message_id,)), net.now)
    two.take_sends(net.now)
    assert two.receive(node_id(4), attrs.evolve(item, hops=9), net.now)
    assert not two.receive(node_id(1), attrs.evolve(item, hops=2), net.now)
    assert two.take_sends(net.now) == [(node_id(3), Gossip(item.signed, 3))]
    assert node_id(1) in two.eager
    assert not two.receive(node_id(1), attrs.evolve(item, hops=2), net.now)
    assert two.take_sends(net.now) == [(node_id(1), Prune())]


def test_what_was_pulled_and_comes_from_one_who_announced_it_is_a_duplicate() -> None:
    node = machine(A, B, C)
    node.take_held(C, Held((come(1).message_id,)), 0.0)
    node.take_have(B, have(come(1)), 0.0)
    node.take_sends(0.0)
    assert node.receive(C, come(1), 0.1)
    node.take_sends(9.0)
    assert not node.receive(B, come(1), 0.2)
    assert node.take_sends(9.0) == [(B, Prune())]


def test_what_was_pulled_long_ago_is_pushed_on_by_nobody() -> None:
    node = machine(A, B, C)
    node.take_held(C, Held((come(1).message_id,)), 0.0)
    node.take_sends(0.0)
    assert node.receive(C, come(1), 0.0)
    node.take_sends(9.0)
    assert not node.receive(A, come(1), 9.0)
    assert node.take_sends(9.0) == [(A, Prune())]


def test_peers_without_room_get_announcements_and_fetch_it_later() -> None:
    net = Network(3, [(0, 1), (0, 2)])
    net.full = {1}
    item = net.publish(0)
    net.run(0.2)
    assert net.delivered[item.message_id] == Counter([0, 2])
    net.full = set()
    net.run()
    net.assert_exactly_once()


def test_beyond_the_ttl_it_is_only_announced() -> None:
    net = Network(6, [(number, number + 1) for number in range(5)], ttl=2)
    item = net.publish(0)
    net.run(LATENCY * 5)
    assert net.delivered[item.message_id] == Counter([0, 1, 2])
    net.run()
    net.assert_exactly_once()


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_who_is_left_out_by_chance_gets_it_in_the_end(probability: float) -> None:
    net = Network(30, random_graph(30, 6, 5), probability=probability)
    for origin in range(30):
        net.spread(origin)
    net.assert_exactly_once()


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> list[float]:
        net = Network(40, random_graph(40, 6, 2), seed=9, probability=0.8)
        return [net.spread(net.rng.randrange(40)) for _ in range(20)] + [*net.sent.values()]

    assert run() == run()


# One machine alone, with the messages that it takes and gives.

A, B, C, D = map(node_id, range(1, 5))


def machine(*peers: NodeId, fanout: int = 2, room: int = ROOM, seed: int = 0) -> Broadcast:
    made = Broadcast(
        node_id(0),
        History(retention=600.0, seen_ttl=600.0),
        fanout=fanout,
        ttl=16,
        probability=1.0,
        rng=random.Random(seed),
        room=lambda _: room,
    )
    for peer in peers:
        made.link_up(peer, -math.inf)
    # What links send when they come is tested by itself.
    made.take_sends(-math.inf)
    return made


def come(number: int, hops: int = 1, size: int = 10) -> Item:
    return attrs.evolve(publication(number, 9, size), hops=hops)


def have(*items: Item) -> Have:
    return Have(tuple(Heard(item.message_id, item.hops) for item in items))


def test_the_first_links_are_eager_up_to_the_fanout() -> None:
    assert machine(A, B, C, D).eager == [A, B]


def test_hops_count_the_links_that_the_receiver_has_it_over() -> None:
    node = machine(A, B, C)
    own = publication(1, 0)
    node.publish(own, 0.0)
    assert node.take_sends(0.0) == [(A, Gossip(own.signed, 1)), (B, Gossip(own.signed, 1))]
    assert node.take_sends(node.next_due()) == [(C, Have((Heard(own.message_id, 0),)))]
    other = come(2, hops=3)
    assert node.receive(A, other, 1.0)
    assert node.take_sends(1.0) == [(B, Gossip(other.signed, 4))]
    assert node.take_sends(node.next_due()) == [(C, Have((Heard(other.message_id, 3),)))]
    assert node.next_due() == math.inf


def test_who_announced_it_is_told_after_how_many_links_it_came() -> None:
    """So that it can compare that with the way over which it got it."""
    node = machine(A, B, fanout=1)
    node.take_have(B, have(come(1, hops=7)), 0.0)
    assert node.receive(A, come(1, hops=3), 0.1)
    assert node.take_sends(0.1) == []
    assert node.take_sends(node.next_due()) == [(B, have(come(1, hops=3)))]


def test_hops_are_counted_up_to_what_a_message_can_hold() -> None:
    node = machine(A, B)
    node.receive(A, come(1, hops=255), 0.0)
    node.take_sends(9.0)
    node.take_want(B, Want((come(1).message_id,)), 9.0)
    assert node.take_sends(9.0) == [(B, Gossip(come(1).signed, 255))]


def test_a_duplicate_makes_its_link_lazy_but_never_the_last_eager_one() -> None:
    node = machine(A, B)
    assert node.receive(A, come(1), 0.0)
    node.take_sends(0.0)
    assert not node.receive(B, come(1), 0.0)
    assert node.take_sends(0.0) == [(B, Prune())]
    assert node.eager == [A]
    assert not node.receive(A, come(1), 0.0)
    assert node.take_sends(0.0) == []
    assert node.eager == [A]
    assert node.duplicates == 2


def test_what_is_announced_and_does_not_come_is_asked_of_one_after_the_other() -> None:
    node = machine(A, B, C, fanout=1)
    for peer in (B, C):
        node.take_have(peer, have(come(1)), 0.0)
    assert node.take_sends(0.0) == []
    assert node.next_due() == GRAFT_AFTER
    wanted = Graft((come(1).message_id,))
    assert node.take_sends(GRAFT_AFTER) == [(B, wanted)]
    assert node.take_sends(node.next_due()) == [(C, wanted)]
    assert node.take_sends(node.next_due()) == []
    assert node.next_due() == math.inf
    assert node.eager == [A, B, C]


def test_it_is_not_asked_for_when_it_comes_in_time() -> None:
    node = machine(A, B, fanout=1)
    node.take_have(B, have(come(1)), 0.0)
    assert node.receive(A, come(1), 0.1)
    assert not any(isinstance(message, Graft) for _, message in node.take_sends(9.0))
    assert node.next_due() == math.inf


def test_when_the_link_that_should_bring_it_goes_another_is_asked_at_once() -> None:
    node = machine(A, B, C, fanout=1)
    node.take_have(B, have(come(1)), 5.0)
    node.take_have(C, have(come(1)), 5.0)
    node.link_down(A, 5.0)
    sends = node.take_sends(5.0)
    assert (B, Graft((come(1).message_id,))) in sends
    node.link_down(B, 5.0)
    assert (C, Graft((come(1).message_id,))) in node.take_sends(5.0)


def test_a_link_just_grafted_is_not_pruned_for_what_crosses_on_it() -> None:
    node = machine(A, B, fanout=1)
    node.take_have(B, have(come(1)), 0.0)
    node.take_sends(GRAFT_AFTER)
    now = GRAFT_AFTER + 0.01
    assert node.receive(A, come(1), now)
    assert not node.receive(B, come(1), now)
    assert node.eager == [A, B]
    assert node.receive(A, come(2), now + 1)
    assert not node.receive(B, come(2), now + 1)
    assert node.eager == [A]


def test_without_an_eager_link_a_lazy_one_is_taken() -> None:
    node = machine(A, B, fanout=1)
    node.link_down(A, 0.0)
    assert node.eager == [B]
    assert node.take_sends(0.0) == [(B, Graft(()))]
    node.link_up(A, 0.0)
    node.take_prune(B, Prune(), 0.0)
    assert node.eager == [A]


def test_a_graft_gets_what_is_retained_and_pushes_from_then_on() -> None:
    node = machine(A, B, fanout=1)
    node.receive(A, come(1, hops=2), 0.0)
    node.take_sends(9.0)
    node.take_graft(B, Graft((come(1).message_id, bytes(16))), 9.0)
    assert node.take_sends(9.0) == [(B, Gossip(come(1).signed, 3))]
    assert node.eager == [A, B]


def test_what_came_just_before_a_graft_is_pushed_and_not_only_announced() -> None:
    """The peer exchanged another link for this one: over that one it comes no more."""
    node = machine(A, B, fanout=1)
    node.receive(A, come(1), 0.0)
    node.take_sends(0.0)
    node.take_graft(B, Graft(()), 0.02)
    assert node.take_sends(0.02) == [(B, Gossip(come(1).signed, 2))]
    assert node.take_sends(9.0) == []
    node.receive(A, come(2), 10.0)
    node.take_sends(20.0)
    node.take_graft(B, Graft(()), 20.0)
    assert node.take_sends(20.0) == []


def test_what_crosses_a_graft_of_the_peer_does_not_prune_the_link() -> None:
    node = machine(A, B, fanout=1)
    node.receive(A, come(1), 0.0)
    node.take_sends(9.0)
    node.take_graft(B, Graft(()), 9.0)
    assert not node.receive(B, come(1), 9.01)
    assert node.eager == [A, B]
    assert not node.receive(B, come(1), 9.01 + GRAFT_GRACE)
    assert node.eager == [A]


def test_what_crosses_a_prune_of_ours_does_not_put_the_link_back_at_this_end_only() -> None:
    node = machine(A, B)
    node.receive(A, come(1), 0.0)
    node.receive(B, come(1), 0.0)
    assert node.eager == [A]
    assert (B, Prune()) in node.take_sends(0.0)
    assert node.receive(B, come(2), 0.01)
    assert node.eager == [A]
    # The peer grafted it meanwhile.
    assert node.receive(B, come(3), 0.01 + GRAFT_GRACE)
    assert node.eager == [A, B]


def test_what_crosses_a_prune_of_ours_is_not_pushed_over_the_link_just_grafted() -> None:
    """It would go around a circle, and cut the tree wherever the copies meet."""
    node = machine(A, B, C)
    node.receive(A, come(1), 0.0)
    node.receive(B, come(1), 0.0)
    node.take_sends(0.0)
    assert node.eager == [A]
    node.take_sends(0.1)
    node.take_graft(C, Graft(()), 0.1)
    assert node.receive(B, come(2), 0.1)
    sends = node.take_sends(9.0)
    assert {peer for peer, each in sends if isinstance(each, Gossip)} == {A}
    # It may have come to nobody on that side of the circle yet.
    assert (C, have(come(2))) in sends
    assert node.receive(B, come(3), 9.0)
    pushed = {peer for peer, each in node.take_sends(9.0) if isinstance(each, Gossip)}
    assert pushed == {A, C}


def test_each_id_is_wanted_of_one_peer_at_a_time() -> None:
    node = machine(A, B)
    held = Held((come(1).message_id,))
    want = Want(held.ids)
    node.take_held(A, held, 0.0)
    assert node.take_sends(0.0) == [(A, want)]
    node.take_held(B, held, 0.0)
    assert node.take_sends(RETRY - 0.1) == []
    node.take_held(B, held, 0.0)
    assert node.take_sends(RETRY) == [(B, want)]
    node.link_down(B, RETRY)
    node.take_held(A, held, 0.0)
    assert (A, want) in node.take_sends(RETRY)


@pytest.mark.parametrize("brings", [True, False])
def test_who_had_no_room_for_all_is_soon_asked_for_the_rest(brings: bool) -> None:
    node = machine(A, B)
    held = Held((come(1).message_id, come(2).message_id))
    node.take_held(A, held, 0.0)
    assert node.take_sends(0.0) == [(A, Want(held.ids))]
    if brings:
        node.receive(A, come(1), 0.1)
        node.take_sends(0.2)
    node.take_held(A, Held((come(2).message_id,)), RETRY + SLOW_FOR)
    wants = [each for each in node.take_sends(RETRY + SLOW_FOR) if isinstance(each[1], Want)]
    assert wants == [(A, Want((come(2).message_id,)))] * brings


def test_what_was_wanted_leaves_the_tree_as_it_is() -> None:
    node = machine(A, B, C)
    for number in (1, 2):
        node.take_held(B, Held((come(number).message_id,)), 0.0)
    node.take_sends(0.0)
    assert node.receive(B, come(1), 0.0)
    told = Have((Heard(come(1).message_id, 1),))
    assert node.take_sends(0.0) == []
    assert node.take_sends(node.next_due()) == [(A, told), (C, told)]
    # The tree was quicker: the copy asked for is no sign of a link too many.
    assert node.receive(A, come(2), 1.0)
    assert not node.receive(B, come(2), 1.0)
    assert node.eager == [A, B]


def test_round_after_round_tells_of_everything() -> None:
    node = machine(A)
    everything = {come(number).message_id for number in range(3 * MAX_CHUNKS * MAX_IDS)}
    for number in range(len(everything)):
        node.receive(A, come(number), 0.0)
    node.take_sends(9.0)
    told: list[bytes] = []
    for _ in range(4):
        node.take_digest(A, Digest((), reply=True), 0.0)
        *held, (_, digest) = node.take_sends(9.0)
        assert isinstance(digest, Digest)
        assert not digest.reply
        assert len(held) == MAX_CHUNKS
        told += [each for _, message in held for each in getattr(message, "ids", ())]
    assert set(told) == everything


def test_two_neighbours_do_not_tell_a_newcomer_the_same() -> None:
    rounds: list[set[bytes]] = []
    for seed in range(2):
        node = machine(A, seed=seed)
        for number in range(8 * MAX_CHUNKS * MAX_IDS):
            node.receive(A, come(number), 0.0)
        node.take_sends(9.0)
        node.take_digest(A, Digest((), reply=False), 0.0)
        sends = node.take_sends(9.0)
        rounds.append({each for _, message in sends for each in getattr(message, "ids", ())})
    newest = NEWEST_CHUNKS * MAX_IDS
    assert len(rounds[0] & rounds[1]) < newest + (len(rounds[0]) - newest) // 2


def test_newer_ones_do_not_keep_a_round_from_what_is_older() -> None:
    """With as many new ones between two rounds as a round tells of those that are older."""
    node = machine(A)
    older = {come(number).message_id for number in range(3 * MAX_CHUNKS * MAX_IDS)}
    numbers = itertools.count()
    for _ in older:
        node.receive(A, come(next(numbers)), 0.0)
    told: set[bytes] = set()
    for round_ in range(10):
        for _ in range((MAX_CHUNKS - NEWEST_CHUNKS) * MAX_IDS if round_ else 0):
            node.receive(A, come(next(numbers)), 0.0)
        node.take_sends(9.0)
        node.take_digest(A, Digest((), reply=True), 10.0 * round_)
        for _, message in node.take_sends(10.0 * round_):
            told.update(getattr(message, "ids", ()))
    assert told >= older


def test_a_batch_for_one_peer_is_no_more_than_its_queue_has_room_for() -> None:
    node = machine(A, B, room=1 << 18)
    items = [come(number, size=1 << 14) for number in range(40)]
    for item in items:
        node.receive(A, item, 0.0)
        node.take_sends(0.0)
    node.take_want(B, Want(tuple(item.message_id for item in items)), 9.0)
    assert len(node.take_sends(9.0)) == 16


def test_an_id_that_is_asked_for_twice_in_one_message_is_sent_once() -> None:
    node = machine(A, B)
    node.receive(A, come(1), 0.0)
    node.take_sends(0.0)
    ids = (come(1).message_id,) * 3
    node.take_want(B, Want(ids), 9.0)
    assert len(node.take_sends(9.0)) == 1
    node.take_graft(B, Graft(ids), 9.0)
    assert len(node.take_sends(9.0)) == 1


def test_announcements_are_bounded() -> None:
    node = machine(A, B, fanout=1)
    for number in range(MAX_ANNOUNCED + 10):
        node.receive(A, come(number), 0.0)
    sends = node.take_sends(0.0)
    told = [heard.message_id for _, message in sends for heard in getattr(message, "heard", ())]
    assert told == [come(number).message_id for number in range(10, MAX_ANNOUNCED + 10)]


def test_what_fills_a_message_is_told_at_once_whoever_else_waits() -> None:
    announcements = Announcements()
    announcements.add(A, bytes(16), 1, 0.0)
    for number in range(MAX_IDS):
        assert announcements.to_tell(0.01) == []
        announcements.add(B, number.to_bytes(16), 1, 0.01)
    assert announcements.next_due() <= 0.01
    assert [peer for peer, _ in announcements.to_tell(0.01)] == [B]
    assert announcements.to_tell(announcements.next_due()) == [(A, [Heard(bytes(16), 1)])]


def test_a_link_that_would_be_sooner_replaces_that_of_the_tree() -> None:
    node = machine(A, B, fanout=1)
    for number in range(MIN_SAMPLES):
        assert node.eager == [A]
        node.receive(A, come(number, hops=6), number)
        node.take_have(B, have(come(number, hops=2)), number)
    assert node.eager == [B]
    sends = node.take_sends(99.0)
    assert (B, Graft(())) in sends
    assert (A, Prune()) in sends


@pytest.mark.parametrize(("hops", "exchanged"), [(3, True), (4, False)])
def test_a_link_that_would_be_as_soon_replaces_it_only_after_more_samples(
    hops: int, exchanged: bool
) -> None:
    node = machine(A, B, fanout=1)
    for number in range(WINDOW):
        assert node.eager == [A]
        node.receive(A, come(number, hops=4), number)
        node.take_have(B, have(come(number, hops=hops)), number)
    assert node.eager == ([B] if exchanged else [A])


def test_no_link_is_exchanged_for_one_where_the_publication_was_later() -> None:
    node = machine(A, B, fanout=1)
    for number in range(MIN_SAMPLES - 1):
        node.receive(A, come(number, hops=6), number)
        node.take_have(B, have(come(number, hops=2)), number)
    node.receive(A, come(100, hops=3), 100)
    node.take_have(B, have(come(100, hops=3)), 100)
    assert node.eager == [A]
    node.receive(A, come(101, hops=3), 101)
    node.take_have(B, have(come(101, hops=2)), 101)
    assert node.eager == [B]


def test_an_announcement_repeated_is_no_reason_to_exchange_a_link() -> None:
    node = machine(A, B, fanout=1)
    node.receive(A, come(1, hops=6), 0.0)
    node.take_sends(0.0)
    for _ in range(4):
        node.take_have(B, have(*[come(1, hops=0)] * MIN_SAMPLES), 1.0)
    assert node.eager == [A]
    assert not any(isinstance(each, Graft | Prune) for _, each in node.take_sends(9.0))


def test_strangers_change_nothing_but_their_publications_count() -> None:
    node = machine(A)
    item = come(1)
    node.take_have(D, have(item), 0.0)
    node.take_graft(D, Graft(()), 0.0)
    node.take_prune(D, Prune(), 0.0)
    node.take_held(D, Held((item.message_id,)), 0.0)
    node.take_digest(D, Digest((), reply=True), 0.0)
    node.digest_to(D)
    node.link_down(D, 0.0)
    assert node.next_due() == math.inf
    assert node.receive(D, item, 0.0)
    assert node.take_sends(0.0) == [(A, Gossip(item.signed, 2))]


def connected_without(count: int, edges: list[Edge], rng: random.Random, most: int) -> list[Edge]:
    """Choose up to `most` links whose loss leaves everybody connected."""
    left, chosen = dict.fromkeys(edges), []
    for edge in rng.sample(edges, min(most, len(edges))):
        del left[edge]
        if is_connected(count, left):
            chosen.append(edge)
        else:
            left[edge] = None
    return chosen


def is_connected(count: int, edges: Iterable[Edge]) -> bool:
    above = list(range(count))

    def top(node: int) -> int:
        while above[node] != node:
            node = above[node]
        return node

    for one, other in edges:
        above[top(one)] = top(other)
    return len({top(node) for node in range(count)}) == 1


def test_what_was_declined_is_asked_of_nobody_for_a_while() -> None:
    node = machine(A, B, C)
    item = come(1)
    node.take_have(B, Have((Heard(item.message_id, 1),)), 0.0)
    node.decline(item.message_id, 0.1, for_good=False)
    node.take_have(C, Have((Heard(item.message_id, 1),)), 0.2)
    node.take_held(C, Held((item.message_id,)), 0.3)
    assert node.take_sends(DECLINED_FOR) == []
    node.take_held(C, Held((item.message_id,)), DECLINED_FOR + 0.1)
    assert node.take_sends(DECLINED_FOR + 0.1) == [(C, Want((item.message_id,)))]
    assert node.receive(C, item, DECLINED_FOR + 0.2)
    node.decline(come(2).message_id, 1.0, for_good=True)
    node.take_held(C, Held((come(2).message_id,)), 1000.0)
    assert not [each for _, each in node.take_sends(1000.0) if isinstance(each, Want)]


def test_what_is_not_to_be_spread_is_told_to_who_compares_and_sent_to_who_asks() -> None:
    network = Network(3, [(0, 1), (1, 2)])
    network.forget()
    kept = publication(0, 0)
    assert network.machines[1].receive(node_id(0), kept, network.now, spread=False)
    network.flush(1)
    network.run()
    assert not network.sent
    network.compare(2, 1)
    network.run()
    assert network.delivered[kept.message_id] == Counter([2])


def test_a_burst_of_duplicates_is_answered_by_one_prune() -> None:
    node = machine(A, B)
    items = [come(number) for number in range(20)]
    for each in items:
        assert node.receive(A, each, 0.0)
    node.take_sends(0.0)
    for each in items:
        assert not node.receive(B, each, 0.1)
    assert node.take_sends(0.1) == [(B, Prune())]
    # Perhaps it got lost in a change of connections.
    assert not node.receive(B, items[0], 0.2 + GRAFT_GRACE)
    assert node.take_sends(0.2 + GRAFT_GRACE) == [(B, Prune())]


def test_who_sends_digests_without_end_is_answered_but_now_and_then() -> None:
    node = machine(A, B)
    node.publish(come(1), 0.0)
    node.take_sends(0.0)
    for number in range(1000):
        node.take_digest(A, Digest((), reply=False), number / 10)
        # To come anew gives no more.
        node.link_up(A, number / 10)
    answers = sum(isinstance(message, Held) for _, message in node.take_sends(100.0))
    assert answers <= DIGESTS_AT_ONCE + 100 * DIGESTS_PER_SECOND + 1
    node.take_digest(B, Digest((), reply=False), 100.0)
    assert [to for to, message in node.take_sends(100.0) if isinstance(message, Held)] == [B]


def test_who_was_asked_as_it_holds_something_is_told_from_who_announced_it() -> None:
    node = machine(A, B, C)
    item = come(1)
    node.take_have(A, have(item), 0.0)
    node.take_held(B, Held((item.message_id,)), 0.1)
    node.take_sends(GRAFT_AFTER)
    node.take_sends(GRAFT_AFTER + GRAFT_AGAIN)
    assert [node.was_asked(each, item.message_id) for each in (A, B, C)] == [False, True, False]


def test_what_crosses_on_a_link_grafted_in_a_quiet_time_does_not_prune_it() -> None:
    node = machine(A)
    node.receive(A, come(1), 0.0)
    node.take_sends(0.0)
    node.take_have(A, have(come(2)), 1.0)
    node.link_up(B, 500.0)
    node.link_down(A, 500.0)
    assert (B, Graft(())) in node.take_sends(500.0)
    # The same, pushed before by both.
    node.link_up(C, 500.1)
    assert not node.receive(B, come(1), 500.1)
    assert node.eager == [B, C]
