"""Is a node there? Asked by ourselves, through others, and by others through us.

A probe asks a node on its connection, or dials it. Indirect probes (SWIM, section 3.1)
ask connected peers to do the same; they are answered only for nodes that this one was
connected to before, or anybody could make us dial anywhere.
"""

import enum
import math
from contextlib import suppress
from functools import partial

import attrs
import trio

from p2pd.config import LivenessConfig
from p2pd.core.bounded import BoundedTable
from p2pd.errors import (
    Busy,
    ConnectionLost,
    DialFailed,
    HandshakeRefused,
    NotFound,
    P2PError,
    RequestRefused,
)
from p2pd.ids import NodeId
from p2pd.node.connection import Connection
from p2pd.node.dialler import Dialler
from p2pd.node.dials_for_others import DialsForOthers
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.peer_book import PeerBook
from p2pd.node.requester import Requester
from p2pd.node.roster import Roster
from p2pd.wire.messages import Failed, Message, Ping, Pong, Reach, Reached, Signed

# Probes of our own under way at once; the others wait their turn.
MAX_PROBES = 16
# A node that comes back and breaks again within this many seconds is no longer redialled at once.
REDIAL_AGAIN = 5.0
MAX_REDIALLED = 1024
# Addresses of a node that a probe tries: what a node claims may be somebody else's.
PROBED_ADDRESSES = 2
# Seconds between the tries of a node that hangs up at once.
HANGS_UP = (0.05, 0.2, 0.5)
# Dials that others may have us make: burst, then rate per second.
REACHES_AT_ONCE = 16
REACHES_PER_SECOND = 1.0
# Other peers that are pinged beside a probe: an answer shows that we are not cut off.
MAX_PINGS = 3
# They are pinged after this share of the shortest probe: most hosts that refuse it have by then.
PING_AFTER = 0.125
# An answer to these pings in this last share of the shortest probe comes too late to count.
MARGIN = 0.25
# Questions of others under way at once; beyond it, they are told `busy`.
MAX_REACHES = 16


class ProbeOutcome(enum.Enum):
    """What came of a probe.

    `NOT_TRIED`: there was no room, no address is known, or a stranger had to wait. `UNCLEAR`: no
    answer, but none of the peers that this node is connected to answered, either.
    """

    ANSWERED = enum.auto()
    REFUSED = enum.auto()
    SILENT = enum.auto()
    NOT_TRIED = enum.auto()
    UNCLEAR = enum.auto()


@attrs.define
class _Answers:
    """When the first of the peers pinged beside a probe answered; infinity: none did."""

    first_at: float = math.inf
    came: trio.Event = attrs.field(factory=trio.Event)


class IndirectOutcome(enum.Enum):
    """What others say of a node: they reached it, they tried and failed, they do not know it.

    `NO_ANSWER`: they gave none, or were busy.
    """

    REACHED = enum.auto()
    TRIED = enum.auto()
    UNKNOWN = enum.auto()
    NO_ANSWER = enum.auto()


class Probing:
    """Probes nodes, for this one and for others."""

    def __init__(
        self,
        env: Env,
        config: LivenessConfig,
        roster: Roster,
        dialler: Dialler,
        requester: Requester,
        book: PeerBook,
        dispatch: Dispatch,
    ) -> None:
        self.config = config
        self._env = env
        self._roster = roster
        self._dialler = dialler
        self._requester = requester
        self._book = book
        self._limit = trio.CapacityLimiter(MAX_PROBES)
        self._redialled = BoundedTable[NodeId, float](MAX_REDIALLED)
        self._reaches = DialsForOthers(
            env.background,
            dispatch,
            most=MAX_REACHES,
            burst=REACHES_AT_ONCE,
            per_second=REACHES_PER_SECOND,
        )
        dispatch.add(Reach, self._take_reach)

    def reload(self, config: LivenessConfig) -> None:
        """Use other timeouts from now on."""
        self.config = config

    async def probe(self, node: NodeId, *, last: bool = False) -> ProbeOutcome:
        """Ask a node on its connection, or dial it; waits for a turn (`MAX_PROBES`) first.

        `last`: the node did not answer before. It is asked at once, for half a `ping_timeout`,
        as it may have come back since.
        """
        if not last:
            await self._pace(node)
        entry = self._roster.registry.get(node)
        if entry is None or not self._dialler.claim_dial(entry, most=PROBED_ADDRESSES):
            return ProbeOutcome.NOT_TRIED
        soon = self.config.ping_timeout / 2
        seconds = soon if last else self._seconds()
        async with self._limit, trio.open_nursery() as nursery:
            began, answers = trio.current_time(), _Answers()
            others = self._others(node)[:MAX_PINGS]
            for each in others:
                nursery.start_soon(self._ping, each, answers, began + soon * PING_AFTER)
            outcome = await self._outcome(node, seconds)
            # Where the others answer only at the end, the node had no time to answer, either.
            latest = max(trio.current_time(), began + soon) - soon * MARGIN
            if outcome is ProbeOutcome.SILENT and others:
                with trio.move_on_at(latest):
                    await answers.came.wait()
                if answers.first_at > latest:
                    outcome = ProbeOutcome.UNCLEAR
            nursery.cancel_scope.cancel()
        return outcome

    async def _outcome(self, node: NodeId, seconds: float) -> ProbeOutcome:
        try:
            answered = await self._try_until_settled(node, seconds)
        except HandshakeRefused as refusal:
            answered = refusal.proven and refusal.claimed == node
        except DialFailed as error:
            return ProbeOutcome.REFUSED if error.refused else ProbeOutcome.SILENT
        except (Busy, NotFound):
            return ProbeOutcome.NOT_TRIED
        except P2PError:
            answered = False
        return ProbeOutcome.ANSWERED if answered else ProbeOutcome.SILENT

    async def _ping(self, other: Connection, answers: _Answers, at: float) -> None:
        await trio.sleep_until(at)
        with suppress(P2PError):
            await other.request(Ping(), Pong, self.config.ping_timeout)
            answers.first_at = min(answers.first_at, trio.current_time())
            answers.came.set()

    async def call_back(self, node: NodeId) -> None:
        """Dial a node that is held dead; if it is there, the connection is to last.

        The connection may be the only one that leads to others that were out of reach as well.
        """
        entry = self._roster.registry.get(node)
        if entry is None or not self._dialler.claim_dial(entry, most=PROBED_ADDRESSES):
            return
        async with self._limit:
            with suppress(P2PError), trio.move_on_after(self._seconds()):
                await self._dialler.connect_to(node, lasting=True, most=PROBED_ADDRESSES)

    async def ask_others(self, node: NodeId) -> IndirectOutcome:
        """Ask `liveness.indirect_probes` connected peers that know a node to reach it."""
        entry = self._roster.registry.get(node)
        if entry is None or entry.signed is None:
            return IndirectOutcome.UNKNOWN
        record = entry.signed
        # Peers that fell silent together with it can say nothing: the silent are asked last.
        others = sorted(self._others(node), key=lambda each: -each.unanswered_probes)
        outcomes: list[IndirectOutcome] = []

        async def ask_one_who_knows() -> None:
            outcome = IndirectOutcome.UNKNOWN
            while outcome is IndirectOutcome.UNKNOWN and others:
                outcome = await self._ask(others.pop(), record)
            outcomes.append(outcome)
            if outcome is IndirectOutcome.REACHED:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(self.config.indirect_probes):
                nursery.start_soon(ask_one_who_knows)
        by_weight = IndirectOutcome.REACHED, IndirectOutcome.TRIED, IndirectOutcome.NO_ANSWER
        return next((each for each in by_weight if each in outcomes), IndirectOutcome.UNKNOWN)

    async def _ask(self, other: Connection, record: Signed) -> IndirectOutcome:
        within = self._seconds() + self.config.ping_timeout
        try:
            reply = await other.request(Reach(record), Reached, within)
        except RequestRefused as refusal:
            return (
                IndirectOutcome.UNKNOWN
                if refusal.reason == NotFound.code
                else IndirectOutcome.NO_ANSWER
            )
        except P2PError:
            return IndirectOutcome.NO_ANSWER
        return IndirectOutcome.REACHED if reply.alive else IndirectOutcome.TRIED

    def _others(self, node: NodeId) -> list[Connection]:
        """Return the lasting connections to others than a node, in a random order."""
        others = [each for each in self._roster.lasting() if each.node_id != node]
        self._env.rng.shuffle(others)
        return others

    async def _pace(self, node: NodeId) -> None:
        """Wait a little where the node was probed just before, so that it is not stormed."""
        before = self._redialled.get(node, -math.inf)
        if trio.current_time() - before < REDIAL_AGAIN:
            await trio.sleep(REDIAL_AGAIN * self._env.rng.uniform(0.2, 0.4))
        self._redialled[node] = trio.current_time()

    async def _try_until_settled(self, node: NodeId, seconds: float) -> bool:
        """Try a node as `_try` does; a few times where it hangs up at once.

        The sockets of a process that is killed close one after another: the one that it
        listened on may take a connection that nobody will ever serve.
        """
        for pause in HANGS_UP:
            began = trio.current_time()
            try:
                return await self._try(node, seconds)
            except (DialFailed, ConnectionLost) as error:
                settled = isinstance(error, DialFailed) and error.refused
                if settled or trio.current_time() - began > max(HANGS_UP):
                    raise
            await trio.sleep(pause)
        return await self._try(node, seconds)

    async def _try(self, node: NodeId, seconds: float) -> bool:
        """Ask a node on its connection, or dial it; returns whether it answered in time.

        Raises what `Requester.request` raises.
        """
        with trio.move_on_after(seconds):
            if node in self._roster.connections:
                # Should the connection end meanwhile, the node is dialled.
                await self._requester.request(node, Ping(), Pong, self.config.ping_timeout)
            else:
                await self._dialler.connect_to(node, most=PROBED_ADDRESSES)
            return True
        return False

    def _seconds(self) -> float:
        """Return how long a probe may take: it need not get a connection at any price."""
        return max(self.config.ping_timeout, self._roster.config.dial_timeout / 2)

    def _take_reach(self, call: Call, question: Reach) -> Reached | None:
        node = self._book.owner(question.record)
        entry = None if node is None else self._roster.registry.get(node)
        if node is None or entry is None or not entry.proven:
            raise NotFound("this node never was connected to that one")
        host, asker = call.connection.remote.host, call.connection.node_id
        self._book.learn(question.record, told_over=host, told_by=asker)
        connection = self._roster.connections.get(node)
        if connection is not None and trio.current_time() - connection.last_heard < 1.0:
            return Reached(alive=True)
        dials = min(len(entry.addresses), PROBED_ADDRESSES)
        self._reaches.start(call, question, partial(self._reach, node), dials=dials)
        return None

    async def _reach(self, node: NodeId) -> Message:
        try:
            return Reached(await self._try(node, self._seconds()))
        except Busy as error:
            return Failed(error.code, "no room for a dial")
        except NotFound:
            # Not tried: others may know an address, or be connected to it.
            raise
        except HandshakeRefused as refusal:
            return Reached(refusal.proven and refusal.claimed == node)
        except P2PError:
            return Reached(alive=False)
