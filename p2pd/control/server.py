"""The control socket's server: clients, their requests, and the answers one at a time.

Each client may have up to `MAX_REQUESTS` requests under way; at that limit the server reads
no further, so that a client that floods waits in its own socket. Up to `MAX_CLIENTS` clients
are connected; at that limit a newcomer replaces the client that has been connected longest
among those with no request and no subscription; if all are at work, the newcomer is told
`busy`. A client may close its sending half (as `printf ... | nc -N -U` does): it still gets
its answers. When it is gone altogether, its requests are cancelled, and nothing else.

Of all clients together `MAX_WRITES` writes are under way; further ones wait for their turn, so
that no client has those of another one fail by many of its own.

A bad line (too long, not JSON, an unknown method, wrong parameters) is answered with an
error, and the connection goes on; so it does after a bug in one request, which is emitted
as the event `bug`. How the messages look: `p2pd.control.api`.
"""

import select
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import trio

from p2pd import __version__
from p2pd.control import api, results, rpc
from p2pd.control.endpoint import listening_socket
from p2pd.control.methods import HANDLERS, Node
from p2pd.control.subscriptions import FEEDS, Feed
from p2pd.control.turns import Turns
from p2pd.errors import Busy, P2PError
from p2pd.node.events import EXHAUSTED_PAUSE

MAX_CLIENTS: Final = 128
MAX_REQUESTS: Final = 64
MAX_SUBSCRIPTIONS: Final = 16
# Twice what one client may have under way: it alone keeps nobody waiting. More would fill the
# queues to the other replicas, where all writes of this node count as one peer's.
MAX_WRITES: Final = 2 * MAX_REQUESTS

_READ_BYTES: Final = 64 * 1024

_WRITES: Final = frozenset({"put", "delete"})

# A client that does not read must not prevent a stop, nor stay connected once it is refused.
_LAST_WORD_SECONDS: Final = 1.0


async def serve_control(
    node: Node,
    path: Path,
    *,
    mode: int,
    group: str | None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the Unix socket at `path` until cancelled; then remove it.

    `mode` holds the permission bits of the socket, `group` the name of the group that gets
    it, or None. Calls `task_status.started()` once clients are answered. Raises
    `ConfigError` and `StartError` as `listening_socket` does; what a client does ends at
    most its own connection.
    """
    clients = _Clients(node)
    with listening_socket(path, mode, group) as sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    node.events.emit_exhausted(f"can't take clients of {path}: {error.strerror}")
                    await trio.sleep(EXHAUSTED_PAUSE)
                else:
                    nursery.start_soon(clients.serve, stream)


class _Clients:
    """All connected clients, the oldest first."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._writes = Turns[_Client](MAX_WRITES)
        self._clients: dict[int, _Client] = {}
        self._count = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one client to its end."""
        async with stream:
            client = _Client(self._node, stream, self._writes)
            if not self._make_room():
                await client.refuse(Busy(f"{MAX_CLIENTS} clients are at work already: try later"))
                return
            self._count += 1
            number = self._count
            self._clients[number] = client
            try:
                await client.run()
            finally:
                self._clients.pop(number, None)

    def _make_room(self) -> bool:
        if len(self._clients) < MAX_CLIENTS:
            return True
        for number, client in self._clients.items():
            if client.idle:
                del self._clients[number]
                client.close()
                return True
        return False


class _Client:
    """One connection: a reader, and a task for each request and subscription."""

    def __init__(self, node: Node, stream: trio.SocketStream, writes: "Turns[_Client]") -> None:
        self._node = node
        self._stream = stream
        self._writes = writes
        self._scope = trio.CancelScope()
        self._slots = trio.Semaphore(MAX_REQUESTS)
        self._writing = trio.Lock()
        self._greeted = False
        self._feeds: dict[int, Feed] = {}
        self._feed_count = 0
        self._own: dict[str, Callable[[rpc.Request, trio.Nursery], Awaitable[None]]] = {
            **dict.fromkeys(FEEDS, self._subscribe),
            "unsubscribe": self._unsubscribe,
            "stop": self._stop,
        }

    @property
    def idle(self) -> bool:
        """True when nothing is under way for this client."""
        return self._slots.value == MAX_REQUESTS and not self._feeds

    def close(self) -> None:
        """End the connection."""
        self._scope.cancel()

    async def refuse(self, error: P2PError) -> None:
        """Say why this client is not served."""
        with self._scope, trio.move_on_after(_LAST_WORD_SECONDS):
            await self._send(rpc.error_message(rpc.rpc_error_of(error, None)))

    async def run(self) -> None:
        """Serve until the client is gone, or has all answers after closing its half."""
        with self._scope:
            async with trio.open_nursery() as watching:
                async with trio.open_nursery() as requests:
                    await self._read(requests, watching)
                watching.cancel_scope.cancel()

    async def _read(self, requests: trio.Nursery, watching: trio.Nursery) -> None:
        lines = rpc.LineBuffer(api.MAX_LINE_BYTES)
        watched = False
        while True:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                self.close()
                return
            last = lines.end() if not data else None
            for line in (last,) if last is not None else lines.feed(data):
                if self._slots.value == 0 and not watched:
                    # Reading stops here, so the end of the stream can't be seen.
                    watched = True
                    watching.start_soon(self._close_on_hangup)
                await self._take(line, requests)
            if not data:
                if not watched:
                    watching.start_soon(self._close_on_hangup)
                return

    async def _take(self, line: bytes | None, requests: trio.Nursery) -> None:
        try:
            if line is None:
                raise rpc.too_long()
            request = rpc.parse_request(line)
        except rpc.RpcError as error:
            await self._send(rpc.error_message(error))
            return
        await self._slots.acquire()
        requests.start_soon(self._run_request, request, requests)

    async def _run_request(self, request: rpc.Request, nursery: trio.Nursery) -> None:
        own = self._own.get(request.method)
        try:
            if own is not None:
                await self._guarded(request, lambda: own(request, nursery))
            else:
                await self._guarded(request, lambda: self._answer(request))
        finally:
            self._slots.release()

    async def _guarded(self, request: rpc.Request, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except P2PError as error:
            await self._refuse(request, rpc.rpc_error_of(error, request.id))
        except Exception as error:  # noqa: BLE001 - a bug in one request ends that request only
            what = f"the control request {request.method}"
            self._node.events.emit_bug(what, error, method=request.method)
            message = "a bug in p2pd: its log has the traceback"
            internal = rpc.RpcError(api.INTERNAL_ERROR, "internal", message, request_id=request.id)
            await self._refuse(request, internal)

    async def _answer(self, request: rpc.Request) -> None:
        turn = self._writes.turn(self) if request.method in _WRITES else nullcontext()
        async with turn:
            result = await HANDLERS[request.method](self._node, request.params)
        await self._reply(request, result)

    async def _subscribe(self, request: rpc.Request, nursery: trio.Nursery) -> None:
        if len(self._feeds) >= MAX_SUBSCRIPTIONS:
            raise Busy(
                f"{MAX_SUBSCRIPTIONS} subscriptions on this connection already: "
                "end one with `unsubscribe` or open another connection"
            )
        self._feed_count += 1
        number = self._feed_count
        feed = FEEDS[request.method](self._node, request.params)
        self._feeds[number] = feed
        nursery.start_soon(self._guarded, request, lambda: self._deliver(request, number, feed))

    async def _deliver(self, request: rpc.Request, number: int, feed: Feed) -> None:
        try:
            with feed.attached():
                result: results.SubscribedResult = {"subscription": number}
                await self._reply(request, result)
                while (batch := await feed.next_batch()) is not None:
                    notices = [
                        rpc.notification(request.method, {"subscription": number, **members})
                        for members in batch
                    ]
                    if notices:
                        await self._send(*notices)
        finally:
            del self._feeds[number]

    async def _unsubscribe(self, request: rpc.Request, nursery: trio.Nursery) -> None:  # noqa: ARG002 - as the other methods of this table
        feed = self._feeds.get(request.params["subscription"])
        if feed is not None:
            feed.close()
        result: results.UnsubscribeResult = {"unsubscribed": feed is not None}
        await self._reply(request, result)

    async def _stop(self, request: rpc.Request, nursery: trio.Nursery) -> None:  # noqa: ARG002 - as the other methods of this table
        result: results.StopResult = {"stopping": True}
        try:
            # First the answer: the stopping node may end this very server.
            with trio.move_on_after(_LAST_WORD_SECONDS):
                await self._reply(request, result)
        finally:
            self._node.stop()

    async def _reply(self, request: rpc.Request, result: Any) -> None:
        if request.wants_answer:
            await self._send(rpc.result_message(request.id, result))

    async def _refuse(self, request: rpc.Request, error: rpc.RpcError) -> None:
        if request.wants_answer:
            await self._send(rpc.error_message(error))

    async def _send(self, *messages: dict[str, Any]) -> None:
        encoded = b""
        async with self._writing:
            if messages and not self._greeted:
                greeting = {"protocol": api.PROTOCOL_VERSION, "version": __version__}
                encoded = rpc.encode({**messages[0], "p2pd": greeting})
                messages = messages[1:]
            encoded += b"".join(rpc.encode(each) for each in messages)
            self._greeted = self._greeted or bool(encoded)
            try:
                await self._stream.send_all(encoded)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.close()

    async def _close_on_hangup(self) -> None:
        try:
            await _hung_up(self._stream.socket)
        except OSError as error:
            # Then the client gets its answers, whether it is still there or not.
            self._node.events.emit_exhausted(f"can't watch a client: {error.strerror}")
        else:
            self.close()


async def _hung_up(sock: trio.socket.SocketType) -> None:
    """Wait until the other side has closed both halves of the connection.

    After one half is closed, reading can't tell this; an epoll set that asks for nothing
    still reports EPOLLHUP (epoll_ctl(2)), and can itself be waited for.
    """
    with select.epoll() as hangups:
        hangups.register(sock.fileno(), 0)
        await trio.lowlevel.wait_readable(hangups.fileno())
