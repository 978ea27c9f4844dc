"""The way in: which handler takes which message.

A handler is a plain function `(call, message) -> reply | None`. It must not block: slow
work goes to its service's own bounded channel, which answers later by `call.answer`.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from p2pd.address import Address
from p2pd.errors import P2PError, StoreError
from p2pd.ids import NodeId
from p2pd.node.events import Events
from p2pd.wire.codec import clip
from p2pd.wire.messages import MAX_TEXT, Failed, M, Message
from p2pd.wire.session import Received

# Why a connection ends on which a bug showed.
BUG = "a bug in this node; see its log"


class Caller(Protocol):
    """The connection that a message came over, as far as a handler needs it."""

    end_reason: str | None

    @property
    def node_id(self) -> NodeId:
        """Who is at the other end."""

    @property
    def remote(self) -> Address:
        """The other end's address."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that nothing should be added."""

    async def wait_for_room(self) -> None:
        """Wait until it is no longer `is_full`, or has ended."""

    def reply(self, request_id: int, message: Message) -> None:
        """Answer a request."""

    def abort(self, reason: str) -> None:
        """End the connection at once."""


class Call(NamedTuple):
    """Who sent a message, and how to answer it."""

    connection: Caller
    request_id: int | None

    def answer(self, message: Message) -> None:
        """Send the reply, if one was asked for."""
        if self.request_id is not None:
            self.connection.reply(self.request_id, message)


def failure(error: P2PError) -> Failed:
    """Say to a peer why it gets no answer.

    The disk's own errors name files of this host: those are for its own log only.
    """
    text = "the disk refuses" if type(error) is StoreError else str(error)
    return Failed(error.code, clip(text, MAX_TEXT))


class Dispatch:
    """The table of handlers of one node."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._handlers: dict[type, Callable[[Call, Any], Message | None]] = {}

    def add(self, kind: type[M], handler: Callable[[Call, M], Message | None]) -> None:
        """Let `handler` take all messages of a kind; each kind has one handler."""
        self._handlers[kind] = handler

    def handle(self, connection: Caller, received: Received) -> None:
        """Hand a message to its handler and send the answer.

        A `P2PError` that the handler raises becomes a `Failed` reply.
        """
        message = received.message
        call = Call(connection, received.request_id)
        handler = self._handlers.get(type(message))
        if handler is None:
            call.answer(Failed("unknown", f"{type(message).__name__} is not served here"))
            return
        with self._boundary(connection, message):
            try:
                reply = handler(call, message)
            except P2PError as error:
                reply = failure(error)
            if reply is not None:
                call.answer(reply)

    async def answer_later(
        self, call: Call, question: Message, answer: Callable[[], Awaitable[Message]]
    ) -> None:
        """Send what `answer` returns or raises, as `handle` would, for a handler that gave None."""
        with self._boundary(call.connection, question):
            try:
                reply = await answer()
            except P2PError as error:
                reply = failure(error)
            call.answer(reply)

    @contextmanager
    def _boundary(self, connection: Caller, message: Message) -> Iterator[None]:
        """Keep a bug in handling a peer's message within the `with` from ending the node.

        Any exception is a bug: it is reported with its traceback and costs this one connection.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - that is the boundary
            self._events.emit_bug(f"handling {type(message).__name__}", error, connection.node_id)
            connection.abort(BUG)
