"""Who is alive: `core.membership` judges, this gathers evidence and does what it asks for.

The evidence: ends of connections, our own redials, what others reached for us, and what is
signed and told by gossip: dead reports on `$dead`, signs of life on `$alive`, and the last word
of nodes that leave on `$left`.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from p2pd.core.actions import (
    Action,
    AskOthers,
    Declare,
    Evidence,
    Liveness,
    Redial,
    Report,
    Revive,
)
from p2pd.core.bounded import BoundedTable
from p2pd.core.entries import Entry, Source
from p2pd.core.membership import HEARD_LATELY, Membership
from p2pd.core.signs_of_life import SignsOfLife
from p2pd.errors import BadMessage, Busy
from p2pd.ids import NodeId
from p2pd.node.alarms import Alarm
from p2pd.node.connection import Connection, Direction
from p2pd.node.ending import Ending
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.feelers import Feelers
from p2pd.node.gossip import GossipService
from p2pd.node.own_record import OwnRecord
from p2pd.node.peer_book import PeerBook
from p2pd.node.probing import IndirectOutcome, ProbeOutcome, Probing
from p2pd.node.roster import Roster, describe
from p2pd.node.snapshot import WhyStep
from p2pd.wire import codec
from p2pd.wire.messages import MAX_IDS, DeadReport, DeadReports, PeerRecord, Publication, Signed

DEAD_TOPIC = "$dead"
ALIVE_TOPIC = "$alive"
LEFT_TOPIC = "$left"
# This many seconds after its start, a node that heard others on the LAN, and knows at most
# `INTRODUCE_TO` peers, tells everybody who it is: nodes that only heard its beacon have no record
# of it, and no name.
INTRODUCE_AFTER = 5.0
INTRODUCE_TO = 128
# A silence of this many seconds beyond a `ping_interval` says nothing yet, however short the
# timeout.
LEAST_AWAY = 1.0
# Nodes that said goodbye before they were known; beyond that, the first of them is forgotten.
MAX_LEFT_UNKNOWN = 256
# A timer that comes this many seconds late means that this process did not run.
LATE = 1.0


@attrs.frozen(eq=False)
class _Probe:
    """A probe under way; `last`: its failure is the verdict."""

    last: bool
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class LivenessService:
    """Watches over the peers of a node."""

    def __init__(
        self,
        env: Env,
        roster: Roster,
        probing: Probing,
        book: PeerBook,
        own: OwnRecord,
        gossip: GossipService,
        events: Events,
    ) -> None:
        self.on_dead: list[Callable[[NodeId], None]] = []
        self.on_left: list[Callable[[NodeId], None]] = []
        self.on_alive: list[Callable[[NodeId], None]] = []
        self._env = env
        self._own_id = env.identity.node_id
        self._roster = roster
        self._registry = roster.registry
        self._probing = probing
        self._book = book
        self._own = own
        self._gossip = gossip
        self._events = events
        self._machine = Membership(
            self._own_id,
            rng=env.rng,
            network_of=self._network_of,
            last_heard=self._last_heard,
        )
        self._feelers = Feelers(
            env, roster, probing, gossip, self._machine, self._wake, self._end_long_partition
        )
        self._under_way: dict[NodeId, _Probe] = {}
        self._signs_of_life = SignsOfLife()
        # Who left before it was known here, and when (Unix ms): an older word may come later.
        self._left_unknown = BoundedTable[NodeId, int](MAX_LEFT_UNKNOWN)
        # When anybody was heard last, and whether that was so long ago that this node was away.
        self._heard_at = -math.inf
        self._was_away = False
        self._alarm = Alarm(env.alarms)
        roster.on_connected.append(self._connected)
        roster.on_disconnected.append(self._disconnected)
        gossip.on_system(DEAD_TOPIC, self._take_reports)
        gossip.on_system(ALIVE_TOPIC, self._take_sign_of_life)
        gossip.on_system(LEFT_TOPIC, self._take_leave)

    def of(self, peer: NodeId) -> Liveness:
        """Say what is known of a peer: alive, suspect, dead or unknown."""
        if peer in self._roster.connections:
            connection = self._roster.connections[peer]
            return Liveness.SUSPECT if connection.unanswered_probes > 1 else Liveness.ALIVE
        return self._machine.liveness(peer)

    def has_left(self, peer: NodeId) -> bool:
        """Whether a peer stopped properly, and nothing was heard of it since."""
        return peer not in self._roster.connections and self._machine.has_left(peer)

    def accusations(self, peer: NodeId) -> list[WhyStep]:
        """Return who says that a peer is dead, for `p2pctl why`."""
        return [
            WhyStep(
                each.observed_ms / 1000,
                "report.against",
                f"{self._name(reporter)} reports it dead: {each.saw}",
            )
            for reporter, each in self._machine.accusers(peer).items()
        ]

    def timer_came(self, late: float) -> None:
        """Take note of a timer of this process, and by how many seconds it came late.

        A process that did not run for a while doubts itself before it doubts others.
        """
        now = trio.current_time()
        self._note_touch(now)
        if late < LATE:
            self._machine.on_time()
            # Verdicts may be due sooner now.
            self._alarm.no_later_than(self._machine.next_due())
            if self._machine.isolated:
                self._machine.in_touch(self._last_heard(), now)
                self._wake()
            return
        self._machine.late(late)
        self._machine.slept(now)
        # Nodes that reported us meanwhile should hear at once that we are back.
        self.say_alive()

    def _note_touch(self, now: float) -> None:
        """Say that this node is alive where it hears others again after hearing nobody.

        A node that dialled it meanwhile, because of somebody's report, may hold it dead, and
        has no need to connect to it. A node that wants connections hears somebody in each
        `ping_interval` plus the time that an answer takes.
        """
        self._heard_at = max(self._heard_at, self._last_heard())
        silence = now - self._heard_at
        config = self._probing.config
        # This is checked every half `ping_timeout`: a silence that is over by then was short.
        if silence > config.ping_interval + max(0.75 * config.ping_timeout, LEAST_AWAY):
            wants_some = self._roster.config.target > 0
            self._was_away = wants_some and self._heard_at > -math.inf
        elif self._was_away:
            self._was_away = False
            self.say_alive()

    def say_alive(self) -> None:
        """Tell everybody soon that this node is alive, with its current peer record."""
        self._signs_of_life.want(trio.current_time())
        self._wake()

    def say_goodbye(self) -> None:
        """Tell everybody that this node leaves: those without a connection to it, too."""
        with suppress(Busy):
            self._gossip.publish_system(LEFT_TOPIC, codec.encode(self._own.signed))

    async def run(self) -> None:
        """Judge, redial, ask and report, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feelers.run)
            # Nobody holds a new node dead.
            if len(self._registry) > 0:
                self.say_alive()
            nursery.start_soon(self._introduce)
            while True:
                due = min(self._machine.next_due(), self._signs_of_life.due)
                await self._alarm.wait(due)
                self._give_sign_of_life()
                self._count()
                actions = self._machine.take_actions(trio.current_time())
                for action in actions:
                    self._do(action, nursery)
                dead = [each for each in actions if isinstance(each, Report)]
                self._publish_reports([each for each in dead if not self._hears(each.node)])

    async def _introduce(self) -> None:
        await trio.sleep(INTRODUCE_AFTER * self._env.rng.uniform(0.5, 1.5))
        on_lan = any(each.source is Source.MULTICAST for each in self._registry)
        if on_lan and len(self._registry) <= INTRODUCE_TO:
            self.say_alive()

    def _do(self, action: Action, nursery: trio.Nursery) -> None:
        match action:
            case Redial(node, last):
                nursery.start_soon(self._redial, node, last)
            case AskOthers(node, last):
                nursery.start_soon(self._ask_others, node, last)
            case Declare(node, evidence, reporters):
                self._declare(node, evidence, len(reporters))
            case Revive(node):
                self._note_alive(node)
                self._tell(node, "peer.alive", f"{self._name(node)} is alive", logging.INFO)

    async def _redial(self, node: NodeId, last: bool = False) -> None:  # noqa: FBT001, FBT002 - a task's argument
        """Probe a node, unless that is under way, and tell the machine the outcome.

        The last dial takes the place of an earlier probe: the node may be back since that began.
        """
        entry = self._registry.get(node)
        if entry is None:
            self._machine.forget(node)
            return
        earlier = self._under_way.get(node)
        if earlier is not None:
            if earlier.last or not last:
                return
            earlier.scope.cancel()
        probe = self._under_way[node] = _Probe(last)
        try:
            with probe.scope:
                outcome = await self._probing.probe(node, last=last)
        finally:
            if self._under_way.get(node) is probe:
                del self._under_way[node]
        if probe.scope.cancel_called:
            return
        now = trio.current_time()
        if outcome is ProbeOutcome.ANSWERED:
            self._machine.heard(node, now)
            if node not in self._roster.connections:
                # It refused us, but proved who it is.
                self._machine.unlinked(node, now, now)
        elif outcome is ProbeOutcome.NOT_TRIED:
            await self._judge_untried(node, entry)
        elif outcome is ProbeOutcome.UNCLEAR:
            self._machine.dial_unclear(node, now)
        else:
            self._machine.dial_failed(node, now, refused=outcome is ProbeOutcome.REFUSED)
        self._wake()

    async def _judge_untried(self, node: NodeId, entry: Entry) -> None:
        """Tell the machine what is to become of a suspect that could not be dialled."""
        # If nobody was ever connected to it, all others would be asked in vain.
        if entry.proven and self._machine.wants_others(node):
            await self._ask_others(node)
        now = trio.current_time()
        if not entry.addresses or self._roster.config.max_outbound == 0:
            # To ask again would bring nothing.
            self._machine.dial_impossible(node, now)
        else:
            self._machine.dial_put_off(node, now)

    async def _ask_others(self, node: NodeId, last: bool = False) -> None:  # noqa: FBT001, FBT002 - a task's argument
        outcome, now = await self._probing.ask_others(node), trio.current_time()
        if outcome is IndirectOutcome.REACHED:
            self._machine.others_reached(node, now)
        elif last:
            return
        elif outcome is IndirectOutcome.NO_ANSWER:
            self._machine.others_unclear(node, now)
        else:
            self._machine.others_failed(node, now, tried=outcome is IndirectOutcome.TRIED)
        self._wake()

    def _connected(self, connection: Connection) -> None:
        now = trio.current_time()
        self._count()
        self._note_touch(now)
        self._machine.heard(connection.node_id, now)
        # Mostly that is no news: a peer that is being accepted should not wait for nothing.
        self._alarm.no_later_than(self._machine.next_due())

    def _disconnected(self, connection: Connection) -> None:
        node, now = connection.node_id, trio.current_time()
        self._count()
        self._machine.unlinked(node, connection.last_heard, now)
        self._alarm.no_later_than(self._machine.next_due())
        if _is_no_news(connection):
            return
        if connection.ending is Ending.LEFT:
            self._note_leave(node)
        elif connection.ending in {Ending.BROKEN, Ending.SILENT}:
            self._machine.lost(node, now, reset=connection.ending is Ending.BROKEN)
        self._wake()

    def _note_leave(self, node: NodeId, issued_ms: int | None = None) -> None:
        self._registry.left(node)
        self._machine.left(node, trio.current_time(), issued_ms)
        for callback in self.on_left:
            callback(node)

    def _note_alive(self, node: NodeId) -> None:
        for callback in self.on_alive:
            callback(node)

    def _count(self) -> None:
        connected, known = len(self._roster.lasting()), len(self._registry)
        self._machine.set_population(connected, known, trio.current_time())

    def _publish_reports(self, dead: list[Report]) -> None:
        reports = tuple(self._seen_dead(each) for each in dead)
        for at in range(0, len(reports), MAX_IDS):
            # Where these are too many, others saw it, too, or will.
            with suppress(Busy):
                data = codec.encode(DeadReports(reports[at : at + MAX_IDS]))
                self._gossip.publish_system(DEAD_TOPIC, data)

    def _end_long_partition(self, dead: list[Report]) -> None:
        """Name those that have been held dead here for long, so that they refute it.

        This node says that it is alive, too: the others may have held it dead for as long.
        """
        self._publish_reports(dead)
        self.say_alive()

    def _seen_dead(self, report: Report) -> DeadReport:
        entry = self._registry.get(report.node)
        return DeadReport(
            accused=report.node,
            address=str(entry.addresses[0]) if entry and entry.addresses else "",
            sequence=max(0, entry.sequence) if entry else 0,
            observed=self._env.wall_ms() - round((trio.current_time() - report.at) * 1000),
            evidence=report.evidence.value,
        )

    def _take_reports(self, reporter: NodeId, publication: Publication) -> None:
        try:
            reports = codec.decode(DeadReports, publication.data).reports
        except BadMessage:
            return
        for report in reports:
            self._take_report(reporter, report)

    def _take_report(self, reporter: NodeId, report: DeadReport) -> None:
        accused = NodeId(report.accused)
        entry, now = self._registry.get(accused), trio.current_time()
        # An identity of which nothing is known may have cost nothing.
        stranger = self._registry.get(reporter) is None
        if accused == self._own_id:
            self._signs_of_life.accused(
                reporter, report.observed, wall_ms=self._env.wall_ms(), stranger=stranger, now=now
            )
            self._wake()
            return
        if entry is None:
            return
        connection = self._roster.connections.get(accused)
        noted = self._machine.reported(
            report,
            reporter,
            known_sequence=max(0, entry.sequence),
            heard_at=connection.last_heard if connection is not None else None,
            wall_ms=self._env.wall_ms(),
            now=now,
            stranger=stranger,
        )
        self._alarm.no_later_than(self._machine.next_due())
        if noted and connection is not None:
            # Its word against the reporter's.
            self._env.background.start(self._redial, accused)

    def _take_sign_of_life(self, origin: NodeId, publication: Publication) -> None:
        if publication.issued <= self._left_unknown.get(origin, -1):
            return
        if self._learn_own(origin, publication) is not None:
            now, wall_ms = trio.current_time(), self._env.wall_ms()
            self._machine.vouched(origin, publication.issued, now, wall_ms)
            # It may have left, or the machine forgot that it was dead, and then revives nobody.
            if self._machine.liveness(origin) is Liveness.ALIVE:
                self._note_alive(origin)
            self._wake()

    def _take_leave(self, origin: NodeId, publication: Publication) -> None:
        entry = self._registry.get(origin)
        # The clock of one that was ahead may be right when it starts again.
        issued_ms = min(publication.issued, self._env.wall_ms())
        if entry is None:
            self._left_unknown[origin] = max(issued_ms, self._left_unknown.get(origin, -1))
            return
        record = self._learn_own(origin, publication)
        if record is None or origin in self._roster.connections:
            return
        # A later record that we know means that it was started again since.
        if record.sequence >= entry.sequence:
            self._note_leave(origin, issued_ms)
            self._wake()

    def _learn_own(self, origin: NodeId, publication: Publication) -> PeerRecord | None:
        """Take the peer record that a known node published of itself."""
        try:
            signed = codec.decode(Signed, publication.data)
        except BadMessage:
            return None
        # All nodes hear it: whoever could name others would have all of them dial at once.
        if self._registry.get(origin) is None or self._book.owner(signed) != origin:
            return None
        here = self._own.addresses[0].host if self._own.addresses else "0.0.0.0"
        opened = self._book.learn(signed, told_over=here, told_by=None)
        return None if opened is None else opened.record

    def _give_sign_of_life(self) -> None:
        now = trio.current_time()
        if now < self._signs_of_life.due:
            return
        wall_ms = self._env.wall_ms()
        issued = self._signs_of_life.date(wall_ms)
        try:
            self._gossip.publish_system(ALIVE_TOPIC, codec.encode(self._own.signed), issued)
        except Busy:
            self._signs_of_life.put_off(now)
        else:
            self._signs_of_life.said(wall_ms, now)

    def _declare(self, node: NodeId, evidence: Evidence, reporters: int) -> None:
        if self._hears(node):
            self._machine.heard(node, trio.current_time())
            return
        connection = self._roster.connections.get(node)
        if connection is not None:
            connection.abort("it was silent, and is held dead", Ending.SILENT)
        for callback in self.on_dead:
            callback(node)
        said = f", reported by {reporters}" if reporters else ""
        what = {
            Evidence.REFUSED: "its connection broke and a redial was refused",
            Evidence.SILENT: "it does not answer",
        }[evidence]
        self._tell(node, "peer.dead", f"{self._name(node)} is dead: {what}{said}", logging.WARNING)
        self._feelers.died()

    def _tell(self, node: NodeId, code: str, text: str, level: int) -> None:
        self._events.emit(code, text, level=level, peer=node)

    def _name(self, node: NodeId) -> str:
        entry = self._registry.get(node)
        return describe(entry) if entry is not None else f"peer {node.short}"

    def _network_of(self, node: NodeId) -> str | None:
        entry = self._registry.get(node)
        return None if entry is None else entry.network

    def _hears(self, node: NodeId) -> bool:
        """Whether something came recently over a connection to a node."""
        connection = self._roster.connections.get(node)
        now = trio.current_time()
        return connection is not None and now - connection.last_heard <= HEARD_LATELY

    def _last_heard(self) -> float:
        heard = (each.last_heard for each in self._roster.connections.values())
        return max(heard, default=-math.inf)

    def _wake(self) -> None:
        self._alarm.ring()


def _is_no_news(connection: Connection) -> bool:
    """Whether the end of a connection in passing says nothing of the peer.

    A peer that dialled us for a question only may give that up, and then just hangs up.
    """
    hung_up = connection.ending is Ending.BROKEN and connection.direction is Direction.INBOUND
    return connection.passing and (hung_up or connection.ending is Ending.UNWANTED)
