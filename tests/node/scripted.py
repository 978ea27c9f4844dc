"""Peers that say what a test tells them to, right or wrong."""

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import trio

from p2pd.address import Address
from p2pd.net import sim
from p2pd.simulation.world import EPOCH, SimNode, World
from p2pd.wire.handshake import Handshake, Terms
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    Accepted,
    Hello,
    Message,
    PeerRecord,
    Ping,
    Pong,
    Proof,
    Refused,
    Signed,
)
from p2pd.wire.session import Received, Replied, Session

M = TypeVar("M")
_dial_numbers = itertools.count(1)


class HungUp(Exception):
    """The node at the other end closed the connection."""


def now_ms() -> int:
    return int((EPOCH + trio.current_time()) * 1000)


def make_record(identity: Identity, *addresses: Address, **changes: Any) -> Signed:
    """Sign a peer record; `changes` replace what stands in it."""
    fields: dict[str, Any] = {
        "public_key": identity.public_key,
        "nonce": identity.nonce,
        "sequence": now_ms(),
        "name": "scripted",
        "addresses": tuple(map(str, addresses)),
        "roles": (),
        "issued": now_ms(),
    }
    return identity.vouch(PeerRecord(**fields | changes))


def stranger(rng: random.Random, difficulty: int = 0) -> Identity:
    return Identity.mint(rng.randbytes(32), difficulty)


class Line:
    """One end of a stream to a node, message by message."""

    def __init__(self, stream: sim.SimStream) -> None:
        self.stream = stream
        self.session = Session(now_ms)
        self.heard: list[Message] = []

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(b"".join(map(self.session.notice, messages)))

    async def next(self) -> Received | Replied:
        """Wait for the next message; raises `HungUp` at the end."""
        while (event := self.session.next_event()) is None:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                raise HungUp from None
            if not data:
                raise HungUp
            self.session.feed(data)
        self.heard.append(event.message)
        return event

    async def expect(self, kind: type[M]) -> M:
        """Wait for a message of a kind, past all others; raises `HungUp`."""
        while True:
            message = (await self.next()).message
            if isinstance(message, kind):
                return message

    async def hung_up(self) -> None:
        """Wait until the node closes the connection."""
        try:
            while True:
                await self.next()
        except HungUp:
            return

    async def ask(self, question: Message) -> Message:
        """Send a request and wait for its reply."""
        _, data = self.session.request(question)
        await self.stream.send_all(data)
        while True:
            event = await self.next()
            if isinstance(event, Replied):
                return event.message

    async def serve(
        self, answer: Callable[[Message], Message | None], also: Callable[[], None] = lambda: None
    ) -> None:
        """Answer requests until the node hangs up; pings always get their pong."""
        try:
            while True:
                event = await self.next()
                also()
                if isinstance(event, Replied) or event.request_id is None:
                    continue
                reply = Pong() if isinstance(event.message, Ping) else answer(event.message)
                if reply is not None:
                    await self.stream.send_all(self.session.reply(event.request_id, reply))
        except (HungUp, trio.BrokenResourceError):
            return


@attrs.define(slots=False, eq=False)
class ScriptedPeer:
    """A peer with an identity and a host; `terms` replace what it says in the handshake."""

    world: World
    host: str = "10.9.0.1"
    port: int = 41000
    identity: Identity = attrs.field()
    listens: bool = False
    terms: dict[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.network = sim.SimNetwork(self.world.network, self.host, bytes(32))
        self.instance = self.world.rng.randbytes(16)

    @identity.default
    def _mint(self) -> Identity:
        return stranger(self.world.rng)

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)

    def record(self, **changes: Any) -> Signed:
        return make_record(self.identity, *([self.address] if self.listens else []), **changes)

    async def dial(self, node: SimNode) -> Line:
        """Open a stream to a node, and say nothing."""
        return Line(await self.network.dial(node.address))

    async def connect(self, node: SimNode, **kwargs: Any) -> Line:
        """Dial a node and shake hands; returns the open connection.

        Where the node refuses, the `Refused` is the last message in `heard`.
        """
        line = await self.dial(node)
        handshake = self.handshake(line, is_client=True, **kwargs)
        await line.send(handshake.hello, handshake.proof())
        hello = (await line.next()).message
        if isinstance(hello, Refused):
            return line
        assert isinstance(hello, Hello)
        handshake.receive_hello(hello)
        peer = handshake.receive_proof(await line.expect(Proof))
        if isinstance((await line.next()).message, Accepted):
            line.session.established(peer.version, compress=True)
        return line

    async def listen(
        self,
        talk: Callable[[Line], Awaitable[None]],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections, shake hands and let `talk` go on from there."""
        listener = await self.network.listen(self.address)
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                pending = await listener.accept()
                nursery.start_soon(self._accept, await pending.secure(), talk)

    def handshake(self, line: Line, *, is_client: bool, **changes: Any) -> Handshake:
        terms: dict[str, Any] = {
            "identity": self.identity,
            "instance": self.instance,
            "network": "p2pd",
            "records": self.world.records,
        }
        return Handshake(
            Terms(**terms | self.terms),
            changes.pop("record", None) or self.record(),
            self.world.rng.randbytes(32),
            changes.pop("certificate", line.stream.certificate),
            is_client=is_client,
            dial_number=next(_dial_numbers) if is_client else 0,
            passing=changes.pop("passing", False),
        )

    async def _accept(self, stream: sim.SimStream, talk: Callable[[Line], Awaitable[None]]) -> None:
        line = Line(stream)
        handshake = self.handshake(line, is_client=False)
        try:
            handshake.receive_hello(await line.expect(Hello))
            peer = handshake.receive_proof(await line.expect(Proof))
            await line.send(handshake.hello, handshake.proof(), Accepted())
            line.session.established(peer.version, compress=True)
            await talk(line)
        except (HungUp, trio.BrokenResourceError):
            return


def assert_unharmed(*nodes: SimNode) -> None:
    """Nodes are up and saw no bug of their own."""
    for node in nodes:
        assert node.running is not None, f"{node.name} is down"
        bugs = [event.message for event in node.events if event.code == "bug"]
        assert not bugs


def reasons(node: SimNode) -> set[str]:
    """Return the reasons of all refusals that a node told of, as either side."""
    codes = ("peer.refused", "peer.dial_failed")
    return {str(event.fields["reason"]) for event in node.events if event.code in codes}


def last_errors(node: SimNode) -> list[str]:
    """Return what a node's registry holds as last errors."""
    return [peer.last_error for peer in node.node.peers() if peer.last_error]


def connected(node: SimNode) -> set[str]:
    """Return the node IDs (hex) of the peers that a node lists as connected."""
    peers = node.node.peers()
    return {each.node_id for each in peers if each.status == "connected" and each.node_id}
