"""The listening side: accept, bound what is not authenticated yet, admit or refuse."""

import logging
from collections import Counter
from collections.abc import Sequence

import attrs
import trio

from p2pd.address import Address
from p2pd.core.bounded import BoundedTable
from p2pd.core.hearsay import public_network
from p2pd.errors import ConnectionLost, HandshakeRefused
from p2pd.net.base import Listener, Pending
from p2pd.node.connection import Connection, Direction
from p2pd.node.dispatch import BUG
from p2pd.node.env import Env
from p2pd.node.events import EXHAUSTED_PAUSE, Events
from p2pd.node.handshaking import Introducer
from p2pd.node.roster import Roster
from p2pd.wire.reasons import Reason

# Connections that have not finished their handshake. An honest one takes milliseconds, so when
# full, the oldest one of the host or network with the most is dropped, and newcomers are served.
MAX_HANDSHAKES = 64
# Refusals that are remembered: the repetition of one is no news.
MAX_REMEMBERED_REFUSALS = 256


@attrs.define(eq=False)
class _Handshake:
    """A handshake that is under way."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)


class Inbound:
    """Serves the listeners of a node."""

    def __init__(self, env: Env, introducer: Introducer, roster: Roster, events: Events) -> None:
        self._env = env
        self._introducer = introducer
        self._roster = roster
        self._events = events
        self._accepting = trio.CancelScope()
        self._handshakes: dict[Pending, _Handshake] = {}
        self._refusals = BoundedTable[tuple[str, str], None](MAX_REMEMBERED_REFUSALS)
        roster.on_disconnected.append(self._disconnected)

    async def run(self, listeners: Sequence[Listener]) -> None:
        """Accept connections until `stop` is called; those admitted live on in the roster."""
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)

    def stop(self) -> None:
        """Accept nobody any more."""
        self._accepting.cancel()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        try:
            while True:
                try:
                    pending = await listener.accept()
                except OSError as error:
                    self._events.emit_exhausted(f"can't take connections: {error.strerror}")
                    await trio.sleep(EXHAUSTED_PAUSE)
                    continue
                handshake = self._handshakes[pending] = _Handshake()
                nursery.start_soon(self._serve, pending, handshake)
                while len(self._handshakes) > MAX_HANDSHAKES:
                    await self._drop_slowest_handshake()
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()

    async def _serve(self, pending: Pending, handshake: _Handshake) -> None:
        handshake.scope.deadline = trio.current_time() + self._roster.config.dial_timeout
        admitted: list[Connection] = []
        try:
            with handshake.scope:
                await self._introduce(pending, admitted)
                return
            # A peer that was admitted just before its time was over must leave the table again.
            for connection in admitted:
                connection.abort("the handshake took too long")
        finally:
            del self._handshakes[pending]
            handshake.over.set()
            for connection in admitted:
                self._roster.serve_soon(connection)
            if not admitted:
                with trio.CancelScope(shield=True):
                    await pending.aclose()

    async def _introduce(self, pending: Pending, admitted: list[Connection]) -> None:
        def admit(connection: Connection) -> None:
            self._roster.admit_inbound(connection)
            admitted.append(connection)

        try:
            stream = await pending.secure()
            await self._introducer.as_server(stream, admit)
        except HandshakeRefused as refusal:
            self._note_refusal(pending.remote, refusal)
        except (ConnectionLost, trio.BrokenResourceError) as error:
            for connection in admitted:
                connection.abort(str(error))
        except Exception as error:  # noqa: BLE001 - the boundary: a bug costs one connection
            self._events.emit_bug("a handshake", error)
            for connection in admitted:
                connection.abort(BUG)

    async def _drop_slowest_handshake(self) -> None:
        by_network = Counter(_network(pending) for pending in self._handshakes)
        busiest = by_network.most_common(1)[0][0]
        victim = next(each for each in self._handshakes if _network(each) == busiest)
        handshake = self._handshakes[victim]
        handshake.scope.cancel()
        # Accepting faster than dropping would exceed the limit.
        await handshake.over.wait()

    def _disconnected(self, connection: Connection) -> None:
        if connection.refusal is None or connection.direction is Direction.OUTBOUND:
            return
        text = f"the peer refused: {connection.refusal.message}"
        refusal = HandshakeRefused(connection.refusal.reason, text, by_peer=True)
        refusal.claimed, refusal.proven = connection.node_id, True
        self._note_refusal(connection.remote, refusal)
        # It would refuse us all the same if we dialled it.
        entry = self._roster.registry.get(connection.node_id)
        if entry is not None:
            now = trio.current_time()
            self._roster.registry.refused_us(entry, text, refusal.reason, now)

    def _note_refusal(self, remote: Address, refusal: HandshakeRefused) -> None:
        # A duplicate is no news; the roster reports a clone.
        if refusal.reason in {Reason.DUPLICATE, Reason.IDENTITY_TAKEN}:
            return
        if refusal.claimed is not None:
            self._roster.registry.refused(refusal.claimed, str(refusal), self._env.wall_clock())
        news = (remote.host, refusal.reason) not in self._refusals
        self._refusals[remote.host, refusal.reason] = None
        # A node that has wiped its state hears of its earlier selves from others, and dials itself.
        level = logging.INFO if refusal.reason == Reason.ONESELF else logging.WARNING
        who = "the dialling peer refused" if refusal.by_peer else "refused the dialling peer"
        self._events.emit(
            "peer.refused",
            f"{who} at {remote}: {refusal.reason}: {refusal}",
            level=level if news else logging.DEBUG,
            peer=refusal.claimed,
            address=str(remote),
            reason=refusal.reason,
        )


def _network(pending: Pending) -> str:
    """Name where a dial comes from: one host may have all addresses of a public network."""
    return public_network(pending.remote) or pending.remote.host
