"""Peer exchange: connected nodes tell each other of peers, by the records these signed."""

import random
from itertools import islice

import trio

from p2pd.core.registry import Registry
from p2pd.errors import P2PError
from p2pd.node.connection import Connection
from p2pd.node.dispatch import Call, Caller, Dispatch
from p2pd.node.env import Env
from p2pd.node.own_record import OwnRecord
from p2pd.node.peer_book import PeerBook
from p2pd.node.roster import Roster
from p2pd.wire.messages import Announce, GetPeers, Peers, Signed
from p2pd.wire.records import OpenedRecord

PEERS_PER_ANSWER = 16
# With this many records of peers, a new connection is not asked for more, and others seldom are.
ENOUGH_PEERS = 128
# A random peer is asked this often at first, and less and less often while that brings no new
# record. A peer heard only by its beacon has no record yet, and no name.
EXCHANGE_INTERVAL = 60.0
MOST_EXCHANGE_INTERVAL = 600.0
_REQUEST_TIMEOUT = 5.0


class Exchange:
    """Asks for peers, answers those that ask, and sends connected peers our new record."""

    def __init__(
        self,
        env: Env,
        roster: Roster,
        book: PeerBook,
        own: OwnRecord,
        dispatch: Dispatch,
    ) -> None:
        self._env = env
        self._roster = roster
        self._registry: Registry = roster.registry
        self._book = book
        self._own = own
        self._ask: trio.MemorySendChannel[Connection]
        # A connection that finds no room here is asked at random, later.
        self._ask, self._to_ask = trio.open_memory_channel(64)
        dispatch.add(GetPeers, self._answer)
        dispatch.add(Announce, self._take_announcement)
        roster.on_connected.append(self._ask_soon)

    async def run(self) -> None:
        """Ask each new peer, and one at random now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_at_random)
            async for connection in self._to_ask:
                # At most one under way for each connection.
                nursery.start_soon(self._ask_for_peers, connection)

    def announce(self) -> None:
        """Send our current record to all connected peers."""
        for connection in self._roster.connections.values():
            connection.notify(Announce(self._own.signed))

    def _answer(self, call: Call, request: GetPeers) -> Peers:
        count = min(request.limit, PEERS_PER_ANSWER)
        return Peers(tuple(self._registry.sample(count, exclude=call.connection.node_id)))

    def _take_announcement(self, call: Call, announcement: Announce) -> None:
        # Unasked, a peer may tell of itself only.
        if self._book.owner(announcement.record) == call.connection.node_id:
            opened = self._learn(announcement.record, call.connection)
            if opened is not None:
                self._roster.renew(call.connection.node_id, opened)

    def _ask_soon(self, connection: Connection) -> None:
        if connection.passing or self._records() >= ENOUGH_PEERS:
            return
        try:
            self._ask.send_nowait(connection)
        except trio.WouldBlock:
            return

    async def _ask_at_random(self) -> None:
        rng: random.Random = self._env.rng
        interval, known = EXCHANGE_INTERVAL, 0
        while True:
            await trio.sleep(interval * rng.uniform(0.75, 1.25))
            if lasting := self._roster.lasting():
                await self._ask_for_peers(rng.choice(lasting))
            records = self._records()
            news = known < records < ENOUGH_PEERS
            interval = EXCHANGE_INTERVAL if news else min(2 * interval, MOST_EXCHANGE_INTERVAL)
            known = records

    def _records(self) -> int:
        """Count the records that are known, up to `ENOUGH_PEERS`."""
        signed = (each for each in self._registry if each.signed is not None)
        return sum(1 for _ in islice(signed, ENOUGH_PEERS))

    async def _ask_for_peers(self, connection: Connection) -> None:
        try:
            question = GetPeers(PEERS_PER_ANSWER)
            reply = await connection.request(question, Peers, _REQUEST_TIMEOUT)
        except P2PError:
            return
        for signed in reply.records[:PEERS_PER_ANSWER]:
            self._learn(signed, connection)

    def _learn(self, signed: Signed, told_by: Caller) -> OpenedRecord | None:
        return self._book.learn(signed, told_over=told_by.remote.host, told_by=told_by.node_id)
