"""The DHT's map: the routing table, kept by what connections show, and lookups along it."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import attrs
import trio

from p2pd.address import is_local, network_group
from p2pd.config import DhtConfig
from p2pd.core.budget import Budgets
from p2pd.core.entries import Entry
from p2pd.core.lookup import Candidate, Lookup
from p2pd.core.round_trips import RoundTrips
from p2pd.core.routing import MAX_FAILURES, Contact, RoutingTable
from p2pd.errors import Busy, DialFailed, HandshakeRefused, P2PError, RequestRefused
from p2pd.ids import NodeId, closest_first
from p2pd.node.absence import Absence
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.peer_book import PeerBook
from p2pd.node.requester import Requester
from p2pd.node.roster import Roster
from p2pd.wire.messages import (
    MAX_RECORDS,
    FindNode,
    FindValue,
    M,
    Message,
    Nodes,
    Ping,
    Pong,
    Signed,
    Value,
)
from p2pd.wire.reasons import APART

# Kademlia, section 2.3: a range in which nothing was looked up for an hour.
REFRESH_AFTER = 3600.0
_REFRESH_CHECK = 300.0
# A node that joins makes itself known to this many of its neighbours. They name it to all nodes
# that look up something near it; each one more would cost every newcomer a dial for little. Where
# it then knows no more peers than `FEW`, it goes on to k: in a small network all should know each
# other.
JOIN_WIDTH = 8
FEW = 64
# Seconds until it does the same in all other ranges, if it still knows so few: not while a large
# network starts.
REFRESH_FIRST = (10.0, 20.0)
# A lookup starts from this many times k contacts: if half of the closest died at once, the
# survivors all name the same dead nodes.
BEYOND_THE_DEAD = 3
# Nodes that one peer names, that are not credible (see `Entry`), and that lookups dial in vain:
# burst, then rate per second. Anybody can make up nodes, at addresses of whoever is to be dialled.
# The burst is three whole answers: where half of a network died at once, its survivors name the
# dead, too.
IN_VAIN_AT_ONCE = 60.0
IN_VAIN_PER_SECOND = 1.0
# Peers for which that is counted; beyond that, the least recent one starts anew.
MAX_TELLERS = 1024
# All nodes within this many times the distance that holds about k nodes are asked at once.
# Measured with `simulation.lookups`: less leads to one more round of questions, more to no
# fewer.
NEAR = 2


@attrs.frozen
class Hop:
    """One query of a lookup: `seconds` it took, `outcome` is `answered` or an error code."""

    node_id: NodeId
    depth: int
    seconds: float
    outcome: str


@attrs.define
class Route:
    """What a lookup found; all lists of candidates are closest first.

    `closest` are the k closest that answered, `answers` what they and all others said, `hops`
    each step in the order of their ends. `silent` are those of the k closest that failed to
    answer or are late, though they may well run: see `is_gone`. `frontier` are the k
    closest without these, answered or not yet; `converged`: nobody closer will be heard of.
    """

    closest: list[Candidate] = attrs.field(factory=list)
    silent: list[Candidate] = attrs.field(factory=list)
    frontier: list[Candidate] = attrs.field(factory=list)
    converged: bool = False
    answers: dict[NodeId, Nodes | Value] = attrs.field(factory=dict)
    hops: list[Hop] = attrs.field(factory=list)


class Routes:
    """Which nodes are close to what, as far as this node knows or can find out."""

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        roster: Roster,
        requester: Requester,
        book: PeerBook,
        dispatch: Dispatch,
    ) -> None:
        self._env = env
        self._config = config
        self._roster = roster
        self._requester = requester
        self._book = book
        self._own_id = env.identity.node_id
        self.table = RoutingTable(self._own_id, config.k, trio.current_time())
        self._round_trips = RoundTrips()
        self._absence = Absence(env, roster)
        self._in_vain = Budgets[NodeId](MAX_TELLERS, IN_VAIN_AT_ONCE, IN_VAIN_PER_SECOND)
        self._connected = trio.Event()
        self._joined = trio.Event()
        dispatch.add(FindNode, self._answer)
        roster.on_connected.append(self._heard_from)
        roster.on_renewed.append(self._heard_from)
        roster.on_disconnected.append(self._note_end)

    async def run(self) -> None:
        """Join once a peer is connected, by a lookup of this node's own ID; refresh at times.

        Kademlia, section 2.3, except that a newcomer asks fewer of its neighbours than k.
        """
        await self._connected.wait()
        await self.look_up(self._own_id, FindNode(self._own_id), k=JOIN_WIDTH, urgent=False)
        if len(self._absence.dialable()) <= FEW:
            await self.look_up(self._own_id, FindNode(self._own_id), urgent=False)
        self._joined.set()
        rng = self._env.rng
        await trio.sleep(rng.uniform(*REFRESH_FIRST))
        if len(self._absence.dialable()) <= FEW:
            await self._refresh(math.inf)
        while True:
            await trio.sleep(_REFRESH_CHECK * rng.uniform(0.5, 1.5))
            before = trio.current_time() - REFRESH_AFTER
            await self._refresh(before)
            for contact in self.table.to_probe(before):
                await self._probe(contact)

    async def _refresh(self, before: float) -> None:
        """Look up a random ID in each bucket whose range had no lookup since `before`."""
        for target in self.table.to_refresh(before, self._env.rng):
            await self.look_up(target, FindNode(target), urgent=False)

    async def _probe(self, contact: Contact) -> None:
        """Ask a contact of which nothing was heard for long whether it is still there."""
        if contact.node_id not in self._roster.connections:
            # To get a connection is a sign of life already.
            await self.ask(contact.node_id, Ping(), Pong)
        else:
            self._note_life(self._roster.connections[contact.node_id], contact.signed)

    def died(self, node_id: NodeId) -> None:
        """Take note that a node is dead: a node that waits for its place gets it."""
        for _ in range(MAX_FAILURES):
            self._failed(node_id)

    def stopped(self, node_id: NodeId) -> None:
        """Take note that a node stopped."""
        self.died(node_id)
        self._absence.stopped(node_id)

    def revived(self, node_id: NodeId) -> None:
        """Take note that a node says, or others found, that it is alive: it may answer again."""
        self._absence.came(node_id)

    def is_gone(self, node_id: NodeId) -> bool:
        """Whether a node is known not to run: it left, or its host refused the last dial."""
        return self._absence.is_gone(node_id)

    def alive(self) -> list[NodeId]:
        """Return the contacts that did not fail, or were heard since."""
        return [
            each.node_id
            for each in self.table
            if not each.is_failing or self._absence.is_over(each.node_id)
        ]

    def _failed(self, node_id: NodeId) -> None:
        self.table.failed(node_id, connected=node_id in self._roster.connections)
        self._absence.failed(node_id)

    async def join(self) -> None:
        """Wait until this node has joined, at most for `dht.request_timeout`.

        It does not wait where no peer is known, or dials of all that are known have failed.
        """
        untried = any(not each.failures_in_row for each in self._absence.dialable())
        if untried and not self._joined.is_set():
            with trio.move_on_after(self._config.request_timeout):
                await self._joined.wait()

    def missing(self, excused: Collection[NodeId]) -> list[Entry]:
        """Return the nodes other than those `excused` that should answer; see `Absence.missing`."""
        return self._absence.missing(excused, joined=self._joined.is_set())

    def known_closest(self, target: bytes, count: int) -> list[NodeId] | None:
        """Return the closest nodes, this one among them, if no lookup is needed to know them.

        That is so in a network of no more nodes than k, once every peer that others told of has
        been a contact or could not be reached: a node that joins makes itself known to k others.
        """
        known = self._absence.dialable()
        if not self._joined.is_set() or len(known) >= self._config.k:
            return None
        contacts = (contact.node_id for contact in self.table)
        there = {each: None for each in contacts if not (self._is_dead(each) or self.is_gone(each))}
        untried = (each.node_id for each in known if not (each.dead or each.failures_in_row))
        if any(each and each not in there and not self.is_gone(each) for each in untried):
            return None
        return closest_first([*there, self._own_id], target)[:count]

    def closest_records(self, target: bytes, exclude: NodeId) -> tuple[Signed, ...]:
        """Return the signed records of the closest known nodes, for an answer."""
        count = min(self._config.k, MAX_RECORDS)
        contacts = self.table.closest(target, count + 1, but_for=self._is_dead)
        return tuple(self._newest(each) for each in contacts if each.node_id != exclude)[:count]

    def _newest(self, contact: Contact) -> Signed:
        entry = self._roster.registry.get(contact.node_id)
        return entry.signed if entry is not None and entry.signed is not None else contact.signed

    async def look_up(
        self,
        target: bytes,
        question: FindNode | FindValue,
        *,
        k: int | None = None,
        enough: Callable[[Route], bool] | None = None,
        urgent: bool = True,
    ) -> Route:
        """Find the way to the k nodes closest to `target`; see `core.lookup`.

        `k` is `dht.k` where none is given. `enough` is asked after each answer whether the
        route will do as it is; if so, the lookup ends there. Nodes held dead are not asked.
        A lookup that nobody waits for is not `urgent`: it asks no more nodes than it must.
        """
        route = Route()
        lookup = self._begin(target, k or self._config.k, urgent=urgent)
        async with trio.open_nursery() as nursery:
            progress = Alarm(self._env.alarms)
            while True:
                while (candidate := lookup.next(trio.current_time())) is not None:
                    nursery.start_soon(
                        self._ask_next, lookup, candidate, question, route, progress.ring
                    )
                if lookup.finished:
                    break
                if enough is not None:
                    self._update(route, lookup)
                    if enough(route):
                        break
                await progress.wait(lookup.late_at)
            nursery.cancel_scope.cancel()
        self._update(route, lookup)
        self._round_trips.came_back(*lookup.tally())
        return route

    async def ask(self, node_id: NodeId, question: Message, kind: type[M]) -> M | None:
        """Ask one node, and note how long it takes; None where no such answer comes in time."""
        dialled, sent_at = node_id not in self._roster.connections, trio.current_time()
        within = self._config.request_timeout
        try:
            answer = await self._requester.request(node_id, question, kind, within)
        except RequestRefused:
            return None
        except P2PError as error:
            self.note_failure(node_id, error)
            return None
        self._note_answer(node_id, trio.current_time() - sent_at, dialled=dialled)
        return answer

    def patience(self, node_id: NodeId) -> float:
        """Return within how many seconds an answer of a node can be expected."""
        dialled = node_id not in self._roster.connections
        return self._round_trips.expected(node_id, dialled=dialled)

    def _begin(self, target: bytes, k: int, *, urgent: bool) -> Lookup:
        self.table.looked_up(target, trio.current_time())
        count = BEYOND_THE_DEAD * self._config.k
        known = self.table.closest(target, count, but_for=self._is_dead)
        # Where all contacts are held dead, it may be this node that was cut off.
        known = known or self.table.closest(target, self._config.k)
        start = {contact.node_id: contact.signed for contact in known}
        return Lookup(
            target,
            (start | self._heard_of(target)).items(),
            own_id=self._own_id,
            k=k,
            alpha=self._config.alpha,
            patience=self.patience,
            near=NEAR * self.table.radius(k) if urgent else 0,
            spare=self._round_trips.spare(k) if urgent else 0,
            paths=self._config.disjoint_paths,
        )

    def _heard_of(self, target: bytes) -> dict[NodeId, Signed]:
        """Return the k closest peers of which others told, and of which no dial has failed.

        They may not be there; but where few nodes have looked up anything yet, contacts know at
        the middle distances little more than the nodes that happened to connect. Those who had us
        dial too many in vain are not believed.
        """
        now = trio.current_time()
        entries = {
            each.node_id: each.signed
            for each in self._roster.registry
            if each.node_id is not None
            and each.signed is not None
            # A peer that only ever dialled us may not be there to be dialled.
            and not (each.dead or each.failures_in_row or (each.proven and not each.answered))
            and (each.proven or each.told_by is None or self._in_vain.left(each.told_by, now) >= 1)
        }
        return {each: entries[each] for each in closest_first(entries, target)[: self._config.k]}

    def _update(self, route: Route, lookup: Lookup) -> None:
        route.closest, route.converged = lookup.closest(), lookup.converged
        route.frontier = lookup.frontier()
        route.silent = [each for each in lookup.silent() if not self.is_gone(each.node_id)]

    def _is_dead(self, node_id: NodeId) -> bool:
        entry = self._roster.registry.get(node_id)
        return entry is not None and entry.dead

    async def _ask_next(
        self,
        lookup: Lookup,
        candidate: Candidate,
        question: Message,
        route: Route,
        wake: Callable[[], None],
    ) -> None:
        """Ask a candidate of a lookup; enter its answer and the hop, and wake the lookup."""
        node_id, asked_at = candidate.node_id, trio.current_time()
        dialled = node_id not in self._roster.connections
        kind: type[Nodes | Value] = Nodes if isinstance(question, FindNode) else Value
        outcome, answer, gone = "answered", None, False

        @contextmanager
        def held_up() -> Iterator[None]:
            nonlocal dialled
            lookup.held_up(candidate)
            wake()
            yield
            lookup.sent(candidate, trio.current_time())
            dialled = node_id not in self._roster.connections
            wake()

        try:
            within = self._config.request_timeout
            with self._charged_if_in_vain(candidate):
                answer = await self._requester.request(node_id, question, kind, within, held_up)
        except RequestRefused:
            outcome = "refused"
        except P2PError as error:
            outcome = error.code
            gone = self.note_failure(node_id, error)
        now = trio.current_time()
        if answer is not None:
            route.answers[node_id] = answer
            self._note_answer(node_id, now - candidate.sent_at, dialled=dialled)
            connection = self._roster.connections.get(node_id)
            if connection is not None:
                self._note_life(connection, candidate.signed)
            lookup.answered(candidate, self._named(answer, connection))
        else:
            lookup.failed(candidate, gone=gone)
        route.hops.append(Hop(node_id, candidate.depth, now - asked_at, outcome))
        wake()

    def _note_answer(self, node_id: NodeId, seconds: float, *, dialled: bool) -> None:
        self._round_trips.took(node_id, seconds, dialled=dialled)
        self._absence.answered(node_id)

    def note_failure(self, node_id: NodeId, error: P2PError) -> bool:
        """Note that a node did not answer; returns whether it is known not to run."""
        nobody = isinstance(error, DialFailed) and error.refused
        # A node refused, or refusing us, as of another network is not a replica of ours, either.
        apart = (
            isinstance(error, HandshakeRefused)
            and error.reason in APART
            and error.claimed in {None, node_id}
        )
        if nobody or apart:
            self.stopped(node_id)
        # Without room for a connection, nobody knows whether it would have answered.
        elif not isinstance(error, Busy):
            self._failed(node_id)
        return self.is_gone(node_id)

    def _named(
        self, answer: Nodes | Value, told_by: Connection | None
    ) -> list[tuple[NodeId, Signed]]:
        """Check the records of an answer and enter them into the registry, to be dialled."""
        if told_by is None:
            return []
        host, teller = told_by.remote.host, told_by.node_id
        strangers = self._in_vain.left(teller, trio.current_time())
        named: list[tuple[NodeId, Signed]] = []
        for signed in answer.records[: self._config.k]:
            opened = self._book.learn(signed, told_over=host, told_by=teller)
            if opened is None or self._is_dead(opened.node_id):
                continue
            if not self._is_credible(opened.node_id):
                strangers -= 1
                if strangers < 0:
                    continue
            named.append((opened.node_id, signed))
        return named

    @contextmanager
    def _charged_if_in_vain(self, candidate: Candidate) -> Iterator[None]:
        """Charge who named a candidate that is not credible, nor connected at the end."""
        entry = self._roster.registry.get(candidate.node_id)
        teller = None if entry is None else candidate.told_by or entry.told_by
        if teller is None or self._is_credible(candidate.node_id):
            yield
            return
        self._in_vain.charge(teller, 1, trio.current_time())
        in_vain = True
        try:
            yield
        except Busy:
            in_vain = False
            raise
        finally:
            if not in_vain or self._is_credible(candidate.node_id):
                self._in_vain.give_back(teller, 1)

    def _is_credible(self, node_id: NodeId) -> bool:
        entry = self._roster.registry.get(node_id)
        return entry is not None and entry.credible

    def _answer(self, call: Call, request: FindNode) -> Nodes:
        return Nodes(self.closest_records(request.target, exclude=call.connection.node_id))

    def _heard_from(self, connection: Connection) -> None:
        self._absence.came(connection.node_id)
        if connection.peer.record.addresses:
            self._note_life(connection, connection.peer.signed_record)
            self._connected.set()

    def _note_end(self, connection: Connection) -> None:
        # The peer seemed to be one of us, until it had seen who we are.
        if connection.refusal is not None and connection.refusal.reason in APART:
            self.stopped(connection.node_id)

    def _note_life(self, connection: Connection, signed: Signed) -> None:
        """Enter the node at the other end into the table, if it can be dialled.

        A node that dialled us has not proven that. If it comes from an address that it announces,
        or from the very same link, no address translation lies between, and it is taken until
        that turns out wrong.
        """
        host = connection.remote.host
        entry = self._roster.registry.get(connection.node_id)
        proven = entry is not None and bool(entry.answered)
        near = connection.remote.ip.is_loopback or connection.remote.ip.is_link_local
        announced = any(each.host == host for each in connection.peer.addresses)
        if not (proven or near or announced):
            return
        self._absence.note_contact(connection.node_id)
        exempt = is_local(host) and not self._config.limit_local_networks
        self.table.heard_from(
            connection.node_id,
            signed,
            trio.current_time(),
            network=None if exempt else network_group(host),
            dialable=proven,
        )
