"""Streams become connections: the handshake that `wire.handshake` decides, sent and received."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from p2pd.errors import BadMessage, ConnectionLost, HandshakeRefused
from p2pd.net.base import Stream
from p2pd.node.connection import Asked, Connection, Direction
from p2pd.node.dispatch import Dispatch
from p2pd.node.env import Env
from p2pd.node.own_record import OwnRecord
from p2pd.node.peer_book import PeerBook
from p2pd.wire.codec import clip
from p2pd.wire.handshake import Handshake, RemotePeer, Terms
from p2pd.wire.messages import (
    MAX_TEXT,
    Accepted,
    Announce,
    FindNode,
    FindValue,
    Hello,
    M,
    Message,
    Proof,
    Refused,
)
from p2pd.wire.reasons import Reason
from p2pd.wire.session import Replied, Session


class Introducer:
    """Introduces this node to the one at the other end of a stream."""

    def __init__(
        self, env: Env, terms: Terms, own: OwnRecord, book: PeerBook, dispatch: Dispatch
    ) -> None:
        self._env = env
        self._terms = terms
        self._own = own
        self._book = book
        self._dispatch = dispatch

    async def as_client(
        self,
        stream: Stream,
        dial_number: int,
        *,
        passing: bool = False,
        question: Message | None = None,
    ) -> Connection:
        """Authenticate both ends of a stream that we dialled.

        `passing` tells the peer that the connection is made for a question only. A `question` goes
        along with the handshake if anybody may hear it; to get the answer, call `request` of the
        connection with this very object. Raises `HandshakeRefused` (whichever side refused) or
        `ConnectionLost`. The caller bounds the time, and closes the stream where this raises.
        """
        handshake = self._handshake(
            stream, is_client=True, dial_number=dial_number, passing=passing
        )
        exchange = _Exchange(stream, Session(self._env.wall_ms), self._book)
        with _translated(handshake):
            async with exchange.refusals_told(handshake):
                exchange.put(handshake.hello, handshake.proof())
                asked = None
                if question is not None and self._may_be_heard(question):
                    asked = exchange.ask(question)
                await exchange.flush()
                handshake.receive_hello(await exchange.receive(Hello))
                peer = handshake.receive_proof(await exchange.receive(Proof))
                await exchange.receive(Accepted)
        exchange.establish(peer)
        connection = self._connection(exchange, peer, Direction.OUTBOUND, asked)
        self._correct(connection, handshake)
        return connection

    async def as_server(self, stream: Stream, admit: Callable[[Connection], None]) -> Connection:
        """Authenticate both ends of a stream that was accepted; see `as_client`.

        `admit` gets the proven connection before the peer is told, and may raise
        `HandshakeRefused`.
        """
        handshake = self._handshake(stream, is_client=False)
        exchange = _Exchange(stream, Session(self._env.wall_ms), self._book)
        with _translated(handshake):
            async with exchange.refusals_told(handshake):
                handshake.receive_hello(await exchange.receive(Hello))
                peer = handshake.receive_proof(await exchange.receive(Proof))
                # Also before a refusal: a client believes `duplicate` of a proven server only.
                exchange.put(handshake.hello, handshake.proof())
                connection = self._connection(exchange, peer, Direction.INBOUND)
                try:
                    admit(connection)
                except HandshakeRefused as refusal:
                    if refusal.reason == Reason.FULL:
                        self._book.turned_away(peer.node_id, peer.signed_record)
                    raise
                exchange.put(Accepted())
                await exchange.flush()
        exchange.establish(peer)
        self._correct(connection, handshake)
        return connection

    def _correct(self, connection: Connection, handshake: Handshake) -> None:
        """Send our record again where it changed since the hello."""
        if handshake.hello.record != self._own.signed:
            connection.notify(Announce(self._own.signed))

    def _may_be_heard(self, question: Message) -> bool:
        """Whether a question may go to a listener that has proven nothing yet.

        What is looked for in a private network is nobody else's business.
        """
        return isinstance(question, FindNode | FindValue) and not self._terms.network_key

    def _connection(
        self,
        exchange: "_Exchange",
        peer: RemotePeer,
        direction: Direction,
        asked: Asked | None = None,
    ) -> Connection:
        return Connection(
            exchange.stream,
            exchange.session,
            peer,
            direction,
            self._dispatch,
            self._env.alarms,
            self._env.background,
            asked,
        )

    def _handshake(
        self, stream: Stream, *, is_client: bool, dial_number: int = 0, passing: bool = False
    ) -> Handshake:
        return Handshake(
            self._terms,
            self._own.signed,
            self._env.entropy(32),
            stream.certificate,
            is_client=is_client,
            dial_number=dial_number,
            passing=passing,
        )


@contextmanager
def _translated(handshake: Handshake) -> Iterator[None]:
    """Turn what can happen to the stream into the errors that `as_client` names."""
    try:
        yield
    except HandshakeRefused as refusal:
        refusal.claimed, refusal.proven = handshake.claimed, handshake.proven
        raise
    except BadMessage as error:
        text = f"the other end does not speak this protocol: {error}"
        raise HandshakeRefused(Reason.PROTOCOL, text) from None
    except trio.BrokenResourceError as error:
        raise ConnectionLost(f"cut off in the handshake: {error.__cause__ or error}") from None


class _Exchange:
    """The messages of one handshake."""

    def __init__(self, stream: Stream, session: Session, book: PeerBook) -> None:
        self.stream = stream
        self.session = session
        self._book = book
        self._outgoing: list[bytes] = []

    @asynccontextmanager
    async def refusals_told(self, handshake: Handshake) -> AsyncIterator[None]:
        """Within the `async with`, a refusal of ours is also told to the peer.

        A peer for which there is no room is told of others to try.
        """
        try:
            yield
        except HandshakeRefused as refusal:
            if not refusal.by_peer:
                text = clip(str(refusal), MAX_TEXT)
                full = refusal.reason == Reason.FULL
                others = self._book.redirects(exclude=handshake.claimed) if full else ()
                self.put(Refused(refusal.reason, text, others))
                with suppress(trio.BrokenResourceError):
                    await self.flush()
            raise

    def put(self, *messages: Message) -> None:
        """Let messages go with the next `flush`."""
        self._outgoing.extend(map(self.session.notice, messages))

    def ask(self, question: Message) -> Asked:
        """Let a question go with the next `flush`."""
        request_id, data = self.session.request(question)
        self._outgoing.append(data)
        return Asked(question, request_id)

    async def flush(self) -> None:
        """Send in one write all that waits."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if not self.stream.send_nowait(data):
            await self.stream.send_all(data)

    async def receive(self, kind: type[M]) -> M:
        """Wait for a message of this kind; frames behind it stay in the session."""
        while (event := self.session.next_event()) is None:
            data = await self.stream.receive_some()
            if not data:
                raise ConnectionLost("the other end closed the connection in the handshake")
            self.session.feed(data)
        message = event.message
        if isinstance(event, Replied) or event.request_id is not None:
            raise BadMessage(f"{type(message).__name__} is not a notice")
        if isinstance(message, Refused):
            for signed in message.others:
                self._book.learn(signed, told_over=self.stream.remote.host, told_by=None)
            told = f"the peer refused: {message.message}"
            raise HandshakeRefused(message.reason, told, by_peer=True)
        if not isinstance(message, kind):
            raise BadMessage(f"{type(message).__name__} instead of {kind.__name__}")
        return message

    def establish(self, peer: RemotePeer) -> None:
        """Switch the session to what was negotiated."""
        self.session.established(peer.version, compress="zlib" in peer.capabilities)
