"""The network in memory, in virtual time: what `net.real` is to one host, for many nodes.

There are no threads and no real time here: run it under
`trio.testing.MockClock(autojump_threshold=0)`.
"""

import itertools
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from p2pd.address import Address
from p2pd.errors import DialFailed, StartError
from p2pd.net.base import Interface
from p2pd.net.medium import Medium

# Like a socket's buffers: a sender waits while this much is under way or unread.
WINDOW = 256 * 1024
_FIRST_EPHEMERAL = 32768


class SimWorld:
    """The hosts of a simulation: who listens where, who is in which group, all streams."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.listeners: dict[Address, SimListener] = {}
        self.groups: dict[tuple[str, str, int], list[SimMulticastSocket]] = {}
        self.streams: dict[SimStream, None] = {}


class SimStream:
    """One end of a connection."""

    def __init__(
        self, world: SimWorld, local: Address, remote: Address, certificate: bytes
    ) -> None:
        self.remote = remote
        self.certificate = certificate
        self.local = local
        self.peer: SimStream
        self._world = world
        self._inbox: deque[bytes] = deque()
        self._reader: trio.lowlevel.Task | None = None
        self._drained = trio.Event()
        self._under_way = 0
        self._last_due = 0.0
        self._ended = False
        self._broken = False
        self._closed = False
        world.streams[self] = None

    async def receive_some(self) -> bytes:
        """See `Stream`."""
        while not self._inbox:
            self._check_open()
            if self._ended:
                await trio.lowlevel.checkpoint()
                return b""
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        data = self._inbox.popleft() if len(self._inbox) == 1 else b"".join(self._inbox)
        self._inbox.clear()
        self.peer.drained(len(data))
        return data

    def send_nowait(self, data: bytes) -> bool:
        """See `Stream`."""
        if self._closed or self._broken or self._under_way >= WINDOW:
            return False
        self._under_way += len(data)
        self._send(self.peer.deliver, data)
        return True

    async def send_all(self, data: bytes) -> None:
        """See `Stream`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        while self._under_way >= WINDOW:
            self._drained = trio.Event()
            await self._drained.wait()
            self._check_open()
            if self._ended:
                # A side that closes without having read all resets the connection (RFC 2525, 2.17).
                raise trio.BrokenResourceError("connection reset")
        self._under_way += len(data)
        self._send(self.peer.deliver, data)

    async def aclose(self) -> None:
        """See `Stream`."""
        self.close_now()

    def close_now(self) -> None:
        """Close this end, as the kernel does for a process that has ended."""
        if not self._closed:
            self._closed = True
            self._world.streams.pop(self, None)
            self._wake_reader()
            self._drained.set()
            if not self._broken:
                self._send(self.peer.end)

    def deliver(self, data: bytes) -> None:
        """Take bytes that arrive; if this end is closed, the sender gets a reset."""
        if self._closed:
            self._send(self.peer.break_now)
        else:
            self._inbox.append(data)
            self._wake_reader()

    def end(self, _: bytes = b"") -> None:
        """Take the end of the stream; what is sent from now on is lost."""
        self._ended = True
        self._wake_reader()
        self._drained.set()

    def drained(self, count: int) -> None:
        """Take note that the other end has read `count` bytes."""
        full = self._under_way >= WINDOW
        self._under_way -= count
        if full:
            self._drained.set()

    def break_now(self, _: bytes = b"") -> None:
        """Break this end, as by a reset; tell the other end nothing."""
        self._broken = True
        self._world.streams.pop(self, None)
        self._inbox.clear()
        self._wake_reader()
        self._drained.set()

    def _send(self, deliver: Callable[..., None], data: bytes = b"") -> None:
        medium, source, destination = self._world.medium, self.local.host, self.remote.host
        cuts = medium.conditions.cuts
        if cuts and medium.hold(source, destination, partial(self._send, deliver, data)):
            return
        now = trio.current_time()
        medium.trace(now, source, destination, data)
        due = medium.conditions.arrival(source, destination, len(data), now)
        # Order is kept, whatever the latency of each send.
        self._last_due = medium.schedule(max(due, self._last_due), deliver, data)

    def _wake_reader(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError("connection reset")


class SimPending:
    """See `Pending`: there is nothing left to do but to hand over the stream."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream
        self.remote = stream.remote

    async def secure(self) -> SimStream:
        """See `Pending`."""
        return self._stream

    async def aclose(self) -> None:
        """See `Pending`."""
        await self._stream.aclose()


class SimListener:
    """See `Listener`."""

    def __init__(self, world: SimWorld, address: Address, certificate: bytes) -> None:
        self.address = address
        self.certificate = certificate
        self._world = world
        self._send, self._receive = trio.open_memory_channel[SimPending](math.inf)

    async def accept(self) -> SimPending:
        """See `Listener`."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        """See `Listener`."""
        for address in [each for each, known in self._world.listeners.items() if known is self]:
            del self._world.listeners[address]
        self._send.close()
        await trio.lowlevel.checkpoint()

    def connect(self, pending: SimPending) -> None:
        """Take a connection that arrives."""
        self._send.send_nowait(pending)


class SimMulticastSocket:
    """See `MulticastSocket`."""

    def __init__(self, world: SimWorld, where: tuple[str, str, int], host: str) -> None:
        self._world = world
        self._where = where
        self.host = host
        self._send, self._receive = trio.open_memory_channel[tuple[bytes, str]](256)
        world.groups.setdefault(where, []).append(self)

    async def send(self, data: bytes) -> None:
        """See `MulticastSocket`."""
        await trio.lowlevel.checkpoint()
        medium, now = self._world.medium, trio.current_time()
        for each in self._world.groups[self._where]:
            medium.trace(now, self.host, each.host, data)
            for due in medium.conditions.datagram_arrivals(self.host, each.host, len(data), now):
                medium.schedule(due, each.deliver, data, self.host)

    async def receive(self) -> tuple[bytes, str]:
        """See `MulticastSocket`."""
        return await self._receive.receive()

    def close(self) -> None:
        """See `MulticastSocket`."""
        self._world.groups[self._where].remove(self)
        self._send.close()

    def deliver(self, data: bytes, sender: str) -> None:
        """Take a datagram that arrives."""
        try:
            self._send.send_nowait((data, sender))
        # As in a full socket buffer, and after a close: the datagram is lost.
        except (trio.WouldBlock, trio.ClosedResourceError):
            return


class SimNetwork:
    """See `Network`: the view of one node, on a host with one interface.

    Several nodes may share a host. `lan` names the segment that multicast reaches, None
    for a host without multicast. `certificate` (32 bytes) stands for the TLS certificate's
    hash of this node's process.
    """

    def __init__(
        self, world: SimWorld, host: str, certificate: bytes, lan: str | None = None
    ) -> None:
        self.world = world
        self.host = host
        self._certificate = certificate
        self._lan = lan
        self._ports = itertools.count(_FIRST_EPHEMERAL)
        self._interfaces = [
            Interface("sim0", 2, loopback=False, multicast=lan is not None, addresses=(host,))
        ]
        self._changed = trio.Event()

    async def dial(self, address: Address) -> SimStream:
        """See `Network`."""
        world = self.world
        await self._carry(self.host, address.host)
        if address.host in world.medium.conditions.unreachable and address.host != self.host:
            await trio.sleep_forever()
        listener = world.listeners.get(address)
        if listener is None:
            await self._carry(address.host, self.host)
            raise DialFailed(f"can't dial {address}: Connection refused", refused=True)
        local = Address(self.host, next(self._ports))
        near = SimStream(world, local, address, listener.certificate)
        far = SimStream(world, address, local, listener.certificate)
        near.peer, far.peer = far, near
        listener.connect(SimPending(far))
        try:
            await self._carry(address.host, self.host)
            # TLS's hello, and the answer.
            await self._carry(self.host, address.host)
            await self._carry(address.host, self.host)
        except BaseException:
            with trio.CancelScope(shield=True):
                await near.aclose()
            raise
        return near

    async def _carry(self, source: str, destination: str) -> None:
        """Wait until what is sent now from one host arrives at the other."""
        medium, arrived = self.world.medium, trio.Event()

        def send() -> None:
            medium.schedule(medium.arrival(source, destination, 0), arrived.set)

        if not medium.hold(source, destination, send):
            send()
        await arrived.wait()

    async def listen(self, address: Address) -> SimListener:
        """See `Network`; whatever the host of `address`, the listener is on this host."""
        await trio.lowlevel.checkpoint()
        bound = Address(self.host, address.port or next(self._ports))
        if bound in self.world.listeners:
            raise StartError(f"can't listen on {bound}: another node has this port")
        listener = SimListener(self.world, bound, self._certificate)
        self.world.listeners[bound] = listener
        return listener

    async def resolve(self, host: str, port: int) -> list[Address]:
        """See `Network`; there are no names here."""
        await trio.lowlevel.checkpoint()
        return [Address(host, port)]

    def interfaces(self) -> list[Interface]:
        """See `Network`."""
        return list(self._interfaces)

    def owns(self, host: str) -> bool:
        """See `Network`."""
        return host == self.host

    def set_interfaces(self, *interfaces: Interface) -> None:
        """Give the host other interfaces, and wake those that wait for a change."""
        self._interfaces = list(interfaces)
        self._changed.set()

    @asynccontextmanager
    async def interface_changes(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """See `Network`."""

        async def changed() -> None:
            self._changed = trio.Event()
            await self._changed.wait()

        yield changed

    def open_multicast(self, interface: Interface, group: str, port: int) -> SimMulticastSocket:
        """See `Network`."""
        if self._lan is None:
            raise OSError(19, f"no multicast on {interface.name}")
        return SimMulticastSocket(self.world, (self._lan, group, port), interface.addresses[0])
