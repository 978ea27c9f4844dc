"""Probes that nothing asks for: of some nodes held alive, and of some held dead.

A node that dies together with all its neighbours is missed by nobody. So for each death, all
nodes together probe `FEELERS_PER_DEATH` others, taken at random; and each node probes one every
now and then, as a feeler (Bitcoin Core, net.cpp, FEELER_INTERVAL).

Two halves of a network that were cut apart hold each other dead, and each may have all the
connections that it wants: so the dead are called, too (Serf, `reconnect`). Each node calls a
dead one every now and then: less often the fewer are dead, and the longer ago the last death was.
If one answers, others may be in reach again, too: they are told that they were held dead.
"""

import math
from collections.abc import Callable

import trio

from p2pd.core.actions import Liveness, Report
from p2pd.core.entries import Status
from p2pd.core.membership import Membership
from p2pd.core.own_reports import GATHER_MOST
from p2pd.core.suspects import DIALS_PER_SECOND
from p2pd.ids import NodeId
from p2pd.node.env import Env
from p2pd.node.gossip import GossipService
from p2pd.node.probing import ProbeOutcome, Probing
from p2pd.node.roster import Roster

FEELERS_PER_DEATH = 20
FEELER_INTERVAL = 300.0
MAX_FEELERS_AT_ONCE = 3
CALL_INTERVAL = 10.0
CALL_INTERVAL_SHARE = 1 / 60
MAX_CALL_INTERVAL = 300.0
# How many of the dead are told that they were held dead, beside the one that answered; of more,
# these are taken at random.
MAX_NAMED = 512


class Feelers:
    """Sends feelers out, tells `machine` which nodes are gone, and then calls `on_news`.

    Hands to `on_return` reports of old deaths, once one of the dead that it called has answered.
    """

    def __init__(
        self,
        env: Env,
        roster: Roster,
        probing: Probing,
        gossip: GossipService,
        machine: Membership,
        on_news: Callable[[], None],
        on_return: Callable[[list[Report]], None],
    ) -> None:
        self._env = env
        self._roster = roster
        self._registry = roster.registry
        self._probing = probing
        self._gossip = gossip
        self._machine = machine
        self._on_news = on_news
        self._on_return = on_return
        self._died_at = -math.inf
        self._somebody_died = trio.Event()

    async def run(self) -> None:
        """Send one out now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call_the_dead)
            await self._feel_around()

    def died(self) -> None:
        """Take note that a node is held dead from now on: others may have gone with it."""
        self._died_at = trio.current_time()
        self._somebody_died.set()
        share = FEELERS_PER_DEATH / max(1, len(self._registry))
        whole = int(share)
        self._feel(whole + (self._env.rng.random() < share - whole))

    async def _feel_around(self) -> None:
        while True:
            await trio.sleep(FEELER_INTERVAL * self._env.rng.uniform(0.5, 1.5))
            self._feel(1)

    async def _call_the_dead(self) -> None:
        before = 0
        while True:
            await self._somebody_died.wait()
            interval = (trio.current_time() - self._died_at) * CALL_INTERVAL_SHARE
            interval = min(max(interval, CALL_INTERVAL), MAX_CALL_INTERVAL)
            await trio.sleep(interval * self._env.rng.uniform(0.5, 1.5))
            known = [entry.node_id for entry in self._registry if entry.node_id is not None]
            dead = [each for each in known if self._is_dead(each)]
            if not dead:
                self._somebody_died = trio.Event()
                before = 0
                continue
            share = len(dead) / max(1, len(known) - len(dead))
            if len(dead) < before:
                # Where some came back, others that few hold dead may have, too.
                share = max(share, DIALS_PER_SECOND * interval / len(known))
            before = len(dead)
            if self._env.rng.random() < share:
                await self._call(self._env.rng.choice(dead))

    async def _call(self, node: NodeId) -> None:
        """Call one of the dead; if it answers after long, all are told that were dead as long.

        The reports by which others hold them dead, too, are not passed on any more.
        """
        then = trio.current_time() - self._gossip.retention
        old = {each.node: each for each in self._machine.verdicts_before(then)}
        await self._probing.call_back(node)
        # Who comes and goes makes nobody name the dead each time.
        if node not in old or node not in self._roster.connections:
            return
        # Others call, too: who was named by one of them is alive in a moment.
        await trio.sleep(self._env.rng.uniform(0, GATHER_MOST))
        left = [report for peer, report in old.items() if peer != node and self._is_dead(peer)]
        self._on_return([old[node], *self._env.rng.sample(left, min(len(left), MAX_NAMED))])

    def _is_dead(self, node: NodeId) -> bool:
        return self._machine.liveness(node) is Liveness.DEAD

    def _feel(self, count: int) -> None:
        if count == 0:
            return
        known = [entry.node_id for entry in self._registry if entry.node_id is not None]
        quiet = [each for each in known if self._is_quiet(each)]
        count = min(count, len(quiet), MAX_FEELERS_AT_ONCE)
        for node in self._env.rng.sample(quiet, count):
            self._env.background.start(self._touch, node)

    def _is_quiet(self, node: NodeId) -> bool:
        """Whether a node is held alive without being connected."""
        entry = self._registry.get(node)
        connected = entry is not None and entry.status is Status.CONNECTED
        return not connected and self._machine.liveness(node) is Liveness.ALIVE

    async def _touch(self, node: NodeId) -> None:
        outcome, now = await self._probing.probe(node), trio.current_time()
        refused = outcome is ProbeOutcome.REFUSED
        # Without any connection, silence may be that of our own link.
        silent = outcome is ProbeOutcome.SILENT and self._roster.lasting()
        if not (refused or silent):
            return
        # It may have said goodbye meanwhile, or have connected by itself. Or others reported it:
        # then this was the probe that the suspicion needs, and a second one would have to wait.
        if self._is_quiet(node):
            self._machine.lost(node, now, reset=refused, linked=False)
        self._machine.dial_failed(node, now, refused=refused)
        self._on_news()
