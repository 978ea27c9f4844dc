"""Connections beyond the target: where both ends have enough of them, one goes.

Who joins dials `connections.target` others, and is dialled by those who join later: without
this, every node would keep, and probe, twice as many as it needs. Nothing is closed unless
both ends agree, so that no release makes anybody dial.

Now and then a node dials one more, taken at random; one too many then goes, at either end,
rather a young one than an old one. So the network stays well mixed, as by the shuffles of HyParView
(Leitao, Pereira, Rodrigues 2007, section 4.4), and some connections last.
"""

from collections.abc import Callable
from contextlib import suppress

import trio

from p2pd.core.entries import Source
from p2pd.errors import P2PError
from p2pd.ids import NodeId
from p2pd.node.connection import Connection, Direction
from p2pd.node.dialer import Dialer
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.wire.messages import Release, Released

# So many beyond the target are no surplus: one that is lost makes nobody dial.
SLACK = 1
LEAST_PAUSE = 2.0
MOST_PAUSE = 60.0
MIX_INTERVAL = 600.0
_REQUEST_TIMEOUT = 5.0


class Surplus:
    """Asks peers, one at a time, whether a connection may go; answers who asks.

    `carries` says whether the tree of gossip goes over the connection to a peer.
    """

    def __init__(
        self,
        env: Env,
        roster: Roster,
        dialer: Dialer,
        dispatch: Dispatch,
        carries: Callable[[NodeId], bool],
    ) -> None:
        self._env = env
        self._carries = carries
        self._dialer = dialer
        self._roster = roster
        self._asking = False
        dispatch.add(Release, self._answer)

    async def run(self) -> None:
        """Give up what is too many, until cancelled; who is refused asks less often."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mix)
            await self._release()

    async def _release(self) -> None:
        pause = LEAST_PAUSE
        while True:
            await trio.sleep(pause * self._env.rng.uniform(0.5, 1.5))
            pause = LEAST_PAUSE if await self._release_one() else min(2 * pause, MOST_PAUSE)

    async def _mix(self) -> None:
        while True:
            await trio.sleep(MIX_INTERVAL * self._env.rng.uniform(0.5, 1.5))
            if len(self._roster.lasting()) > self._roster.config.target + SLACK + 1:
                continue
            now = trio.current_time()
            others = [
                entry
                for entry in self._roster.registry.candidates(now)
                if entry.proven and not entry.dead
            ]
            if others:
                with suppress(P2PError):
                    await self._dialer.dial_entry(self._env.rng.choice(others), stay=True)

    async def _release_one(self) -> bool:
        releasable = self._releasable()
        if not releasable:
            return False
        # Where the tree of gossip has settled, it is thin: what would tear it stays.
        spare = [each for each in releasable if not self._carries(each.node_id)] or releasable
        # They stand in the order of their making: the young go first, mostly.
        youth = max(self._env.rng.randrange(len(spare)) for _ in range(2))
        connection = spare[youth]
        self._asking = True
        try:
            reply = await connection.request(Release(), _REQUEST_TIMEOUT)
        except P2PError:
            return False
        finally:
            self._asking = False
        if reply != Released(agreed=True):
            return False
        connection.close("both ends have enough connections")
        return True

    def _answer(self, call: Call, _: Release) -> Released:
        releasable = self._releasable()
        asker = next((each for each in releasable if each is call.connection), None)
        agreed = asker is not None
        if asker is not None:
            # Should the asker not close it, it goes as soon as it is quiet.
            asker.passing = True
        return Released(agreed)

    def _releasable(self) -> list[Connection]:
        """Return the connections that may be given up: none while there are not too many.

        Seeds, and whom a user asked for, stay; and so do the last few that this node chose
        itself: who fills it with connections of his own must not have it to himself.
        """
        config, lasting = self._roster.config, self._roster.lasting()
        # Another node may be agreeing just now to what we asked.
        if len(lasting) - self._asking <= config.target + SLACK:
            return []
        made = [each for each in lasting if each.direction is Direction.OUTBOUND]
        few = len(made) - self._asking <= config.target // 2
        registry = self._roster.registry
        return [
            connection
            for connection in lasting
            if (entry := registry.get(connection.node_id)) is not None
            and entry.source not in {Source.MANUAL, Source.SEED}
            and not (few and connection.direction is Direction.OUTBOUND)
        ]
