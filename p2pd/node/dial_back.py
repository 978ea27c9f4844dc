"""Can others open a connection to this node? It asks them to try, and tries for those that ask.

A node that asks can have only the very host dialled that its question comes from, and only at
a port that its own signed record announces: never anybody else. All it gets is one connection,
on which nothing happens but the opening of TLS.
"""

from contextlib import suppress
from functools import partial

import trio

from p2pd.address import Address
from p2pd.core.bounded import BoundedTable
from p2pd.errors import BadMessage, Busy, DialFailed, NotFound, P2PError, RequestRefused
from p2pd.node.connection import Connection
from p2pd.node.dials_for_others import DialsForOthers
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.roster import Roster
from p2pd.wire.messages import DialBack, DialledBack
from p2pd.wire.reasons import DialBackOutcome

# Seconds that a dial for another node may take. An honest one on a LAN takes milliseconds.
WITHIN = 2.0
# For all that ask together: dials under way at once, burst, then rate per second. For one host:
# seconds between two.
MAX_DIALS_BACK = 4
DIALS_BACK_AT_ONCE = 16
DIALS_BACK_PER_SECOND = 1.0
DIAL_BACK_AGAIN = 1.0
_MAX_HOSTS = 1024


class DiallingBack:
    """Dials back nodes that ask for it, and asks others to dial this one."""

    def __init__(self, env: Env, roster: Roster, dispatch: Dispatch) -> None:
        self._env = env
        self._registry = roster.registry
        self._dials = DialsForOthers(
            env.background,
            dispatch,
            most=MAX_DIALS_BACK,
            burst=DIALS_BACK_AT_ONCE,
            per_second=DIALS_BACK_PER_SECOND,
        )
        self._last = BoundedTable[str, float](_MAX_HOSTS)
        dispatch.add(DialBack, self._take)

    async def ask(self, connection: Connection) -> DialledBack | None:
        """Have a peer dial this node; None where it can't or won't say what came of it."""
        with suppress(P2PError):
            try:
                return await self._ask(connection)
            except RequestRefused as refusal:
                if refusal.reason != Busy.code:
                    return None
            await trio.sleep(DIAL_BACK_AGAIN)
            return await self._ask(connection)
        return None

    async def _ask(self, connection: Connection) -> DialledBack:
        # Its dial takes its time, and so does the way there and back.
        return await connection.request(DialBack(), DialledBack, WITHIN + 1)

    def _take(self, call: Call, question: DialBack) -> None:
        address, now = self._address_of(call), trio.current_time()
        if now - self._last.get(address.host, -DIAL_BACK_AGAIN) < DIAL_BACK_AGAIN:
            raise Busy("this host was dialled back just before; try again")
        self._dials.start(call, question, partial(self._dial, address))
        self._last[address.host] = now

    def _address_of(self, call: Call) -> Address:
        """Return the address that may be dialled for the node that asks; raises `NotFound`."""
        host = call.connection.remote.host
        entry = self._registry.get(call.connection.node_id)
        # Over loopback, as from a proxy on this host, these would be this host's own ports.
        if entry is None or entry.signed is None or call.connection.remote.ip.is_loopback:
            raise NotFound("nothing to dial back from here")
        try:
            announced = self._env.records.open(entry.signed).addresses
        except BadMessage as error:
            raise NotFound(str(error)) from None
        ports = [each.port for each in announced if each.host == host]
        # Behind a router that translates addresses, none of them is the one that others see.
        ports += [each.port for each in announced]
        if not ports:
            raise NotFound("no address is announced to dial back")
        return Address(host, ports[0])

    async def _dial(self, address: Address) -> DialledBack:
        outcome = DialBackOutcome.SILENT
        with trio.move_on_after(WITHIN):
            try:
                stream = await self._env.network.dial(address)
                await stream.aclose()
                outcome = DialBackOutcome.REACHED
            except DialFailed:
                outcome = DialBackOutcome.REFUSED
        return DialledBack(str(address)[:64], outcome)
