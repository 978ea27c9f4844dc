"""Is a node there? Asked by ourselves, through others, and by others through us.

A probe asks a node on its connection, or dials it. Indirect probes (SWIM, section 3.1)
ask connected peers to do the same; they are answered only for nodes that this one was
connected to before, or anybody could let us dial anywhere.
"""

import enum
import math

import trio

from p2pd.config import LivenessConfig
from p2pd.core.budget import Budget
from p2pd.errors import Busy, ConnectionLost, DialFailed, HandshakeRefused, NotFound, P2PError
from p2pd.ids import NodeId
from p2pd.node.connection import Connection
from p2pd.node.dialer import Dialer
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.peer_book import PeerBook
from p2pd.node.roster import Roster
from p2pd.wire.messages import Failed, Ping, Reach, Reached, Signed

# Probes of our own under way at once; the others wait their turn.
MAX_PROBES = 16
# Who comes back and breaks again within so many seconds is not redialled at once any more.
REDIAL_AGAIN = 5.0
MAX_REDIALLED = 1024
# Of a node's addresses: what it claims may be somebody else's.
PROBED_ADDRESSES = 2
# Seconds between the tries of a node that hangs up at once.
HANGS_UP = (0.05, 0.2, 0.5)
# What others may let us dial: so often in a row, and so many a second from then on.
REACHES_AT_ONCE = 16
REACHES_PER_SECOND = 1.0
# Questions of others under way at once; beyond it, they are told `busy`.
MAX_REACHES = 16


class Outcome(enum.Enum):
    """What came of a probe; `NOT_TRIED`: there was no room, or a stranger had to wait."""

    ANSWERED = enum.auto()
    REFUSED = enum.auto()
    SILENT = enum.auto()
    NOT_TRIED = enum.auto()


class Probing:
    """Probes nodes; `run` must be running for others to be answered."""

    def __init__(
        self,
        env: Env,
        config: LivenessConfig,
        roster: Roster,
        dialer: Dialer,
        book: PeerBook,
        dispatch: Dispatch,
    ) -> None:
        self.config = config
        self._env = env
        self._roster = roster
        self._dialer = dialer
        self._book = book
        self._limit = trio.CapacityLimiter(MAX_PROBES)
        self._redialled: dict[NodeId, float] = {}
        self._reaches = 0
        self._budget = Budget(REACHES_AT_ONCE, REACHES_PER_SECOND)
        self._nursery: trio.Nursery | None = None
        dispatch.add(Reach, self._take_reach)

    async def run(self) -> None:
        """Probe for others, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    async def probe(self, node: NodeId) -> Outcome:
        """Ask a node on its connection, or dial it."""
        await self._pace(node)
        entry = self._roster.registry.get(node)
        if entry is None or not self._dialer.may_dial(entry, most=PROBED_ADDRESSES):
            return Outcome.NOT_TRIED
        async with self._limit:
            try:
                answered = await self._try_until_settled(node)
            except HandshakeRefused as refusal:
                answered = refusal.proven and refusal.claimed == node
            except DialFailed as error:
                return Outcome.REFUSED if error.refused else Outcome.SILENT
            except (Busy, NotFound):
                return Outcome.NOT_TRIED
            except P2PError:
                answered = False
        return Outcome.ANSWERED if answered else Outcome.SILENT

    async def ask_others(self, node: NodeId) -> bool:
        """Ask `liveness.indirect_probes` connected peers; returns whether any reached it."""
        entry = self._roster.registry.get(node)
        others = [each for each in self._roster.lasting() if each.node_id != node]
        asked = self._env.rng.sample(others, min(self.config.indirect_probes, len(others)))
        answers: list[bool] = []

        async def ask(connection: Connection, record: Signed) -> None:
            within = self._seconds() + self.config.ping_timeout
            try:
                reply = await connection.request(Reach(record), within)
            except P2PError:
                return
            if isinstance(reply, Reached):
                answers.append(reply.alive)

        if entry is not None and entry.signed is not None:
            async with trio.open_nursery() as nursery:
                for each in asked:
                    nursery.start_soon(ask, each, entry.signed)
        return any(answers)

    async def _pace(self, node: NodeId) -> None:
        """Wait a little where the node was probed just before, so that nobody is stormed."""
        before = self._redialled.pop(node, -math.inf)
        wait = REDIAL_AGAIN * self._env.rng.uniform(0.2, 0.4)
        if trio.current_time() - before < REDIAL_AGAIN:
            await trio.sleep(wait)
        self._redialled[node] = trio.current_time()
        if len(self._redialled) > MAX_REDIALLED:
            del self._redialled[next(iter(self._redialled))]

    async def _try_until_settled(self, node: NodeId) -> bool:
        """Try a node as `_try`; a few times where it hangs up at once.

        The sockets of a process that is killed close one after another: the one that it
        listened on may take a connection that nobody will ever serve.
        """
        for pause in HANGS_UP:
            began = trio.current_time()
            try:
                return await self._try(node)
            except (DialFailed, ConnectionLost) as error:
                settled = isinstance(error, DialFailed) and error.refused
                if settled or trio.current_time() - began > max(HANGS_UP):
                    raise
            await trio.sleep(pause)
        return await self._try(node)

    async def _try(self, node: NodeId) -> bool:
        """Ask a node on its connection, or dial it; returns whether it answered in time.

        Raises what `Dialer.request` raises.
        """
        with trio.move_on_after(self._seconds()):
            if node in self._roster.connections:
                # Should it end meanwhile, it is dialled.
                await self._dialer.request(node, Ping(), self.config.ping_timeout)
            else:
                await self._dialer.connect_to(node, most=PROBED_ADDRESSES)
            return True
        return False

    def _seconds(self) -> float:
        """Return how long a probe may take: it is not about being connected at any price."""
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
        spent = self._budget.spend(dials, trio.current_time())
        if not spent or self._reaches >= MAX_REACHES or self._nursery is None:
            raise Busy("too many nodes are asked for; try again")
        self._reaches += 1
        self._nursery.start_soon(self._reach, call, node)
        return None

    async def _reach(self, call: Call, node: NodeId) -> None:
        try:
            call.answer(Reached(await self._try(node)))
        except Busy as error:
            call.answer(Failed(error.code, "no room for a dial"))
        except HandshakeRefused as refusal:
            call.answer(Reached(refusal.proven and refusal.claimed == node))
        except P2PError:
            call.answer(Reached(alive=False))
        finally:
            self._reaches -= 1
