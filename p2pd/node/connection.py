"""One open connection: hands what comes to its handlers, sends requests and matches their replies.

Whatever the peer does can end only this connection, with a reason. What is to be sent goes through
its `outbox`.
"""

import enum
import math
from collections.abc import Callable

import attrs
import trio

from p2pd.address import Address
from p2pd.errors import (
    BadMessage,
    Busy,
    ConnectionLost,
    PeerError,
    RequestRefused,
    RequestTimedOut,
)
from p2pd.ids import NodeId
from p2pd.net.base import Stream, cause_of
from p2pd.node.alarms import Alarm, Alarms
from p2pd.node.background import Background
from p2pd.node.dispatch import BUG, Dispatch
from p2pd.node.ending import Ending
from p2pd.node.outbox import Outbox
from p2pd.wire.handshake import RemotePeer
from p2pd.wire.messages import Failed, Goodbye, M, Message, Ping, Refused
from p2pd.wire.reasons import LEAVING, ON_REQUEST
from p2pd.wire.session import Replied, Session

# Seconds for which a peer's next message waits, at most, while the outbox is full: the peer may be
# stuck waiting for us to read.
FULL_PAUSE = 2.0
# After handling one peer's messages for this many seconds, all others get their turn.
TIME_SLICE = 0.002
# After a `busy` nothing is read from the peer for this long: refusing a flood costs, too.
BUSY_PAUSE = 0.05
# Seconds that a peer has to take what waits for it, our goodbye last.
FAREWELL = 5.0
_RTT_WEIGHT = 0.125


class Direction(enum.StrEnum):
    """Who dialled."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@attrs.define(eq=False)
class _Slot:
    """A request under way; its alarm rings when it is over."""

    alarm: Alarm
    reply: Message | None = None


@attrs.define(eq=False)
class Asked:
    """A question that went along with the handshake; the `reply` may come before it is wanted."""

    question: Message
    request_id: int
    reply: Message | None = None


class Connection:
    """An authenticated connection; `run` serves it, the rest may be called meanwhile.

    `last_heard` and `last_used` are monotonic: when a whole message last came, and when a request
    last went out or a message other than a probe or a goodbye came; in passing, only a request.
    `rtt` is the smoothed round trip in seconds, None before anything came back. `local` and
    `remote` are the addresses of the two ends. `end_reason` is None while the connection lives;
    `ending` then says what it means. `refusal` is set when the dialling peer refused us after
    seeing our proof. `passing` marks a connection that was made for a question, and is closed when
    it is of no more use; `given_up`: both ends agreed that it goes. `told`: the log has its
    beginning at info, so its end, too. `on_request`: a user, at either end, asked for its end.
    """

    def __init__(
        self,
        stream: Stream,
        session: Session,
        peer: RemotePeer,
        direction: Direction,
        dispatch: Dispatch,
        alarms: Alarms,
        background: Background,
        asked: Asked | None = None,
    ) -> None:
        self.peer = peer
        self.local: Address = stream.local
        self.remote: Address = stream.remote
        self.direction = direction
        self.passing = peer.passing
        self.given_up = False
        self.told = False
        self.rtt: float | None = None
        self.last_heard = self.last_used = trio.current_time()
        self.unanswered_probes = 0
        self.end_reason: str | None = None
        self.refusal: Refused | None = None
        self.ending = Ending.UNWANTED
        self.on_request = False
        self.ended = trio.Event()
        self._stream = stream
        self._session = session
        self._dispatch = dispatch
        self._alarms = alarms
        self._outbox = Outbox(stream, background, self._end)
        self._told_busy = False
        self._slots: dict[int, _Slot] = {}
        self._asked = asked
        self._probe: tuple[int, float] | None = None
        self._on_answer: Callable[[Connection], None] | None = None
        self._scope = trio.CancelScope()

    @property
    def node_id(self) -> NodeId:
        """Who is at the other end."""
        return self.peer.node_id

    @property
    def peer_ms(self) -> int | None:
        """The peer's clock, in Unix milliseconds, when it sent what came last."""
        return self._session.peer_ms

    @property
    def requests_under_way(self) -> int:
        """How many of our requests wait for their replies."""
        return len(self._slots)

    @property
    def bytes_waiting(self) -> int:
        """How many bytes wait to be sent."""
        return self._outbox.bytes_waiting

    async def run(self) -> None:
        """Serve the connection until it ends, and close it: `end_reason` and `ending` say why.

        Where writing has to wait, a task in the background does it, and ends with the connection.
        Anything this raises is a bug.
        """
        try:
            with self._scope:
                self._outbox.open()
                if self.end_reason is None:
                    await self._read()
        except Exception:
            # So that the peer, and the log, do not hear that this node stops.
            self._end(BUG)
            raise
        finally:
            self._end("this node stops")
            for slot in self._slots.values():
                slot.alarm.ring()
            with trio.CancelScope(shield=True):
                await self._outbox.wait_stopped()
                await self._stream.aclose()
            self.ended.set()

    def close(self, reason: str, within: float = FAREWELL) -> None:
        """Say goodbye and end the connection once that is sent; later frames are dropped.

        A peer that does not take our goodbye `within` so many seconds goes without.
        """
        # It counts also where another goodbye, of either end, came first.
        self.on_request |= reason == ON_REQUEST
        if not self._outbox.is_closing:
            self.notify(Goodbye(reason))
        # Or a log or the registry would read as if the peer had said it.
        self._outbox.close(f"this node said goodbye: {reason}", within)

    async def see_off(self, reason: str) -> None:
        """Close the connection, and wait for its end; it ends at once if this is cancelled."""
        self.close(reason)
        try:
            await self.ended.wait()
        finally:
            self.abort(f"this node hung up: {reason}")

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that nothing should be added."""
        return self._outbox.is_full

    async def wait_for_room(self) -> None:
        """Wait until it is no longer `is_full`, or has ended."""
        await self._outbox.wait_for_room()

    def abort(self, reason: str, ending: Ending = Ending.UNWANTED) -> None:
        """End the connection at once."""
        self._end(reason, ending)

    def excuse(self, seconds: float) -> None:
        """Do not count this many seconds as the peer's silence: we were not listening."""
        self.last_heard = min(trio.current_time(), self.last_heard + seconds)
        self.unanswered_probes = 0

    def notify(self, message: Message) -> None:
        """Send a message that wants no answer."""
        self._outbox.put(self._session.notice(message))

    def reply(self, request_id: int, message: Message) -> None:
        """Answer a request of the peer."""
        self._told_busy |= isinstance(message, Failed) and message.code == Busy.code
        self._outbox.put(self._session.reply(request_id, message))

    async def request(self, message: Message, kind: type[M], within: float) -> M:
        """Send a request and wait up to `within` seconds for its reply, which is of a `kind`.

        A message that went along with the handshake, this very object, is not sent again. Raises
        `RequestRefused` where the peer declines, `PeerError` for a reply of another kind,
        `RequestTimedOut`, `ConnectionLost`, or `Busy` where too many are under way.
        """
        reply = await self._reply_to(message, within)
        if isinstance(reply, kind):
            return reply
        who, what = self.node_id.short, type(message).__name__
        if isinstance(reply, Failed):
            text = f"{who} refuses {what}: {reply.message}"
            raise RequestRefused(text, reason=reply.code)
        raise PeerError(f"{who} answers {what} with {type(reply).__name__}")

    async def _reply_to(self, message: Message, within: float) -> Message:
        until = trio.current_time() + within
        if not self._outbox.is_closing:
            with trio.move_on_at(until):
                await self.wait_for_room()
        if self.end_reason is not None:
            raise ConnectionLost(f"the connection has ended: {self.end_reason}")
        if self._outbox.is_closing:
            raise ConnectionLost("this node has said goodbye on the connection")
        if self.is_full:
            raise RequestTimedOut(f"{self.remote} has taken no data for {within:g} s")
        self.last_used = sent_at = trio.current_time()
        asked = self._asked
        if asked is not None and asked.question is message:
            self._asked, request_id = None, asked.request_id
            if asked.reply is not None:
                return asked.reply
        else:
            asked = None
            request_id, data = self._session.request(message)
            self._outbox.put(data)
        slot = self._slots[request_id] = _Slot(Alarm(self._alarms))
        try:
            await slot.alarm.wait(until)
        finally:
            del self._slots[request_id]
            self._session.forget(request_id)
        if slot.reply is not None:
            # It is not known here when a question left that went along with the handshake.
            if asked is None:
                # It may be that only one side ever probes: the other learns its `rtt` here.
                self.rtt = self.rtt or trio.current_time() - sent_at
            return slot.reply
        if self.end_reason is not None:
            raise ConnectionLost(f"the connection ended: {self.end_reason}")
        raise RequestTimedOut(f"no answer from {self.remote} in {within:g} s")

    def probe(self, on_answer: Callable[["Connection"], None] | None = None) -> None:
        """Send a ping; its answer shows in `last_heard` and `rtt`.

        `on_answer` is called once, when anything is next heard, unless another probe has replaced
        this one by then.
        """
        self.unanswered_probes += 1
        self._on_answer = on_answer
        if self._probe is not None:
            self._session.forget(self._probe[0])
            self._probe = None
        try:
            request_id, data = self._session.request(Ping())
        except Busy:
            # With so many requests unanswered, one more would tell nothing new.
            return
        self._probe = (request_id, trio.current_time())
        self._outbox.put(data)

    async def _read(self) -> None:
        try:
            await self._take_events()
            while self.end_reason is None:
                data = await self._stream.receive_some()
                if not data:
                    text = "the peer closed the connection"
                    self._end(text, Ending.BROKEN, by_reader=True)
                    break
                self._session.feed(data)
                await self._take_events()
        except trio.BrokenResourceError as error:
            text = f"the connection broke: {cause_of(error)}"
            self._end(text, Ending.BROKEN, by_reader=True)
        except BadMessage as error:
            self._end(f"the peer sent nonsense: {error}", by_reader=True)

    async def _take_events(self) -> None:
        late_replies = self._session.late_replies
        slice_end = math.inf
        while self.end_reason is None and (event := self._session.next_event()) is not None:
            self._note_life()
            if self.last_heard > slice_end:
                await trio.lowlevel.checkpoint()
                slice_end = math.inf
            slice_end = min(slice_end, self.last_heard + TIME_SLICE)
            if isinstance(event, Replied):
                self._take_reply(event)
            elif isinstance(event.message, Goodbye):
                text = f"the peer said goodbye: {event.message.reason}"
                leaves = event.message.reason == LEAVING
                # It may cross ours, by which a user here asked for the end.
                self.on_request |= event.message.reason == ON_REQUEST
                self._end(text, Ending.LEFT if leaves else Ending.UNWANTED, by_reader=True)
            elif isinstance(event.message, Refused):
                # A client checks us only after it was accepted.
                self.refusal = event.message
                self._end(f"the peer refused: {event.message.message}", by_reader=True)
            else:
                # One in passing is there for questions: a peer that takes it for one that lasts,
                # and gossips over it, does not keep it.
                is_use = event.request_id is not None or not self.passing
                if is_use and not isinstance(event.message, Ping):
                    self.last_used = self.last_heard
                self._dispatch.handle(self, event)
            if self._told_busy:
                await trio.sleep(BUSY_PAUSE)
                self._told_busy = False
            if self.is_full:
                with trio.move_on_after(FULL_PAUSE):
                    await self.wait_for_room()
        # The answer to an abandoned probe is a sign of life all the same.
        if self._session.late_replies > late_replies:
            self._note_life()

    def _note_life(self) -> None:
        self.last_heard = trio.current_time()
        self.unanswered_probes = 0
        if self._on_answer is not None:
            on_answer, self._on_answer = self._on_answer, None
            on_answer(self)

    def _take_reply(self, event: Replied) -> None:
        if self._probe is not None and event.request_id == self._probe[0]:
            sample = self.last_heard - self._probe[1]
            old = sample if self.rtt is None else self.rtt
            self.rtt = old + _RTT_WEIGHT * (sample - old)
            self._probe = None
            return
        slot = self._slots.get(event.request_id)
        if slot is not None:
            slot.reply = event.message
            slot.alarm.ring()
        elif self._asked is not None and event.request_id == self._asked.request_id:
            self._asked.reply = event.message

    def _end(
        self, reason: str, ending: Ending = Ending.UNWANTED, *, by_reader: bool = False
    ) -> None:
        """Note why the connection ends; the reader itself looks whether it has ended."""
        if self.end_reason is None:
            self.end_reason = reason
            self.ending = ending
            self._outbox.stop()
            if not by_reader:
                self._scope.cancel()
