"""Requests to peers, connected or not: a peer that is not is dialled first."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import trio

from p2pd.errors import Busy, ConnectionLost, Exhausted, P2PError, RequestTimedOut
from p2pd.ids import NodeId
from p2pd.node.connection import Connection
from p2pd.node.dialler import Dialler
from p2pd.node.roster import Roster
from p2pd.wire.messages import M, Message

# The context that a request enters while it can't be on its way.
HeldUp = Callable[[], AbstractContextManager[None]]


class Requester:
    """Sends requests over the connections there are, and over new ones."""

    def __init__(self, roster: Roster, dialler: Dialler) -> None:
        self._roster = roster
        self._dialler = dialler
        roster.on_disconnected.append(self._disconnected)

    async def request(
        self,
        peer: NodeId,
        message: Message,
        kind: type[M],
        within: float,
        held_up: HeldUp = nullcontext,
    ) -> M:
        """Send a request to a peer, dialling it if need be; returns its reply, of a `kind`.

        All together takes at most `within` seconds. Where there is no room for the connection, it
        waits until others make some. Where the connection ends under the request, as a duplicate
        or to make room, the request is sent once more over another one. Both of these happen
        within a `held_up()`; one also ends with a dial that somebody else began, as the request
        sets out only then. Raises `NotFound` for a peer without a known address, `Busy` where
        there was no room in time, and what `Dialler.connect_to` and `Connection.request` raise.
        """
        until = trio.current_time() + within
        connection = self._roster.connections.get(peer)
        if connection is None:
            connection = await self._connect(peer, message, until, held_up)
        try:
            return await self._send(connection, message, kind, until)
        except ConnectionLost:
            with held_up(), trio.move_on_at(until):
                await connection.ended.wait()
            again = await self._connect(peer, message, until, held_up)
        return await self._send(again, message, kind, until)

    def _disconnected(self, _: Connection) -> None:
        self._dialler.room.unpark()

    async def _send(
        self, connection: Connection, message: Message, kind: type[M], until: float
    ) -> M:
        try:
            return await connection.request(message, kind, max(0, until - trio.current_time()))
        finally:
            # A connection that is quiet makes room.
            if not connection.requests_under_way:
                self._dialler.room.unpark()

    async def _connect(
        self, peer: NodeId, question: Message, until: float, held_up: HeldUp
    ) -> Connection:
        def set_out() -> None:
            with held_up():
                pass

        while True:
            error: P2PError = RequestTimedOut(f"peer {peer.short} was not reached in time")
            with trio.move_on_at(until):
                try:
                    return await self._dialler.connect_to(peer, question=question, waited=set_out)
                except Exhausted:
                    raise
                except Busy as full:
                    error = full
                with held_up():
                    await self._dialler.wait_for_room(peer)
                continue
            raise error
