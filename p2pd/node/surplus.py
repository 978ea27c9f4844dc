"""Connections beyond the target: where both ends have enough of them, one goes.

A node that joins dials others, and is dialled by those that join later: without this, every node
would keep, and probe, more than it needs. Nothing is closed unless both ends agree, so that
no release makes anybody dial. Only a node with far too many also asks peers that need theirs:
they find another one first.

Now and then a node dials one more, taken at random; one too many then goes at either end, a young
one rather than an old one. So the network stays well mixed, as by the shuffles of HyParView
(Leitao, Pereira, Rodrigues 2007, section 4.4), and some connections last.
"""

from collections.abc import Callable
from contextlib import suppress

import trio

from p2pd.core.entries import Source
from p2pd.errors import P2PError
from p2pd.ids import NodeId
from p2pd.node.connection import Connection, Direction
from p2pd.node.dialler import Dialler
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.wire.messages import Release, Released

# More than this many times the target is far too many.
MANY = 2
LEAST_PAUSE = 2.0
MOST_PAUSE = 60.0
MIX_INTERVAL = 600.0
_REQUEST_TIMEOUT = 5.0


class Surplus:
    """Asks peers, one at a time, whether a connection may go; answers peers that ask.

    `carries` says whether the tree of gossip has settled, and goes over the connection to a
    peer: then the tree is thin, and connections whose end would tear it stay, unless there are
    far too many.
    """

    def __init__(
        self,
        env: Env,
        roster: Roster,
        dialler: Dialler,
        dispatch: Dispatch,
        carries: Callable[[NodeId], bool],
    ) -> None:
        self._env = env
        self._carries = carries
        self._dialler = dialler
        self._roster = roster
        self._asking = False
        self._replacing = False
        dispatch.add(Release, self._answer)

    async def run(self) -> None:
        """Give up what is too many, until cancelled; when refused, ask less often."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mix)
            await self._release()

    async def _release(self) -> None:
        pause = LEAST_PAUSE
        while True:
            await trio.sleep(pause * self._env.rng.uniform(0.5, 1.5))
            released = await self._release_one()
            pause = LEAST_PAUSE if released or self._has_many() else min(2 * pause, MOST_PAUSE)

    async def _mix(self) -> None:
        while True:
            await trio.sleep(MIX_INTERVAL * self._env.rng.uniform(0.5, 1.5))
            if len(self._roster.lasting()) <= self._enough() + 1:
                await self._dial_one_more()

    async def _dial_one_more(self) -> bool:
        """Connect to one more peer, taken at random from those it was once connected to.

        Returns whether there is one more that lasts.
        """
        others = [
            entry
            for entry in self._roster.registry.candidates(trio.current_time())
            if entry.proven and not entry.dead
        ]
        # With a target of 0, this node is to dial nobody by itself.
        if not others or self._roster.config.target == 0:
            return False
        with suppress(P2PError):
            connection = await self._dialler.dial_entry(self._env.rng.choice(others), lasting=True)
            # It may be one that the peer made meanwhile, for a question.
            return not connection.passing
        return False

    async def _replace(self, connection: Connection) -> None:
        """Replace a connection whose peer has far too many by one to another peer.

        Once in `LEAST_PAUSE`, however often peers ask for it.
        """
        try:
            # A user may have asked for its peer meanwhile.
            if await self._dial_one_more() and self._is_free(connection):
                await _see_off(connection, "another one took its place")
            await trio.sleep(LEAST_PAUSE)
        finally:
            self._replacing = False

    async def _release_one(self) -> bool:
        # All connections may be of the tree, where it is a star with us at its centre.
        spare = self._releasable() or self._releasable(of_tree=self._has_many())
        if not spare:
            return False
        # They stand in the order in which they were made: mostly, young ones go first.
        youth = max(self._env.rng.randrange(len(spare)) for _ in range(2))
        connection = spare[youth]
        self._asking = True
        try:
            release = Release(self._has_many())
            reply = await connection.request(release, Released, _REQUEST_TIMEOUT)
        except P2PError:
            return False
        finally:
            self._asking = False
        if not reply.agreed:
            return False
        # A user may have asked for its peer meanwhile; but the peer has given up this connection.
        is_missed = not self._is_free(connection)
        await _see_off(connection, "both ends have enough connections")
        if is_missed:
            with suppress(P2PError):
                await self._dialler.connect_to(connection.node_id, lasting=True)
        return True

    def _answer(self, call: Call, release: Release) -> Released:
        connection = self._roster.connections.get(call.connection.node_id)
        if connection is None or connection is not call.connection:
            return Released(agreed=False)
        agreed = connection in self._releasable(of_tree=release.many)
        if agreed:
            # Should the asker not close it, it goes as soon as it is quiet.
            connection.passing = connection.given_up = True
        elif release.many and self._is_replaceable(connection):
            self._replacing = True
            self._env.background.start(self._replace, connection)
        return Released(agreed)

    def _enough(self) -> int:
        # A node that is to dial nobody by itself keeps one that a user or a peer made.
        return max(1, self._roster.config.target)

    def _has_many(self) -> bool:
        return len(self._roster.lasting()) > MANY * self._enough()

    def _releasable(self, *, of_tree: bool = False) -> list[Connection]:
        """Return the connections that may be given up: none while there are not too many.

        Those of the tree of gossip only where `of_tree` says so.

        The last few that this node chose itself stay: a peer that fills it with connections of
        its own must not have it to itself.
        """
        config, lasting = self._roster.config, self._roster.lasting()
        # Another node may be agreeing just now to what we asked.
        if len(lasting) - self._asking <= self._enough():
            return []
        made = [each for each in lasting if each.direction is Direction.OUTBOUND]
        few = len(made) - self._asking <= config.target // 2
        return [
            each
            for each in lasting
            if self._is_free(each)
            and not (few and each.direction is Direction.OUTBOUND)
            and (of_tree or not self._carries(each.node_id))
        ]

    def _is_replaceable(self, connection: Connection) -> bool:
        # One in passing goes by itself and leaves no gap to fill.
        return not self._replacing and not connection.passing and self._is_free(connection)

    def _is_free(self, connection: Connection) -> bool:
        """Whether it may go at all: those to seeds, and to peers that a user asked for, stay."""
        entry = self._roster.registry.get(connection.node_id)
        return entry is not None and entry.source not in {Source.MANUAL, Source.SEED}


async def _see_off(connection: Connection, reason: str) -> None:
    # It counts no more, however long its peer takes for our goodbye.
    connection.passing = connection.given_up = True
    await connection.see_off(reason)
