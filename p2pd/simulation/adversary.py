"""Nodes that lie: full members of the network, except in what they answer."""

from contextlib import suppress

import trio

from p2pd.address import Address
from p2pd.errors import Busy
from p2pd.node.dispatch import Call
from p2pd.node.liveness import DEAD_TOPIC
from p2pd.simulation.world import EPOCH, SimNode, World
from p2pd.wire import codec
from p2pd.wire.identity import Identity
from p2pd.wire.messages import (
    DeadReport,
    DeadReports,
    Digest,
    FindNode,
    FindValue,
    GetPeers,
    Gossip,
    Graft,
    Have,
    Held,
    Nodes,
    PeerRecord,
    Peers,
    Signed,
    Store,
    Stored,
    Value,
    Want,
)

INVENTED = 20
# TEST-NET-3 (RFC 5737): nobody is there.
_NOWHERE = "203.0.113."


def make_liar(world: World, node: SimNode) -> None:
    """Let a running node lie from now on, until it restarts.

    It names only invented nodes, knows no value, and throws away what it says it stored.
    """
    invented = tuple(_invent(world, number) for number in range(INVENTED))
    dispatch = node.services.dispatch

    def find_node(_: Call, __: FindNode) -> Nodes:
        return Nodes(invented)

    def find_value(_: Call, __: FindValue) -> Value:
        return Value((), invented)

    def store(_: Call, __: Store) -> Stored:
        return Stored()

    def get_peers(_: Call, request: GetPeers) -> Peers:
        return Peers(invented[: request.limit])

    dispatch.add(FindNode, find_node)
    dispatch.add(FindValue, find_value)
    dispatch.add(Store, store)
    dispatch.add(GetPeers, get_peers)


def _invent(world: World, number: int) -> Signed:
    identity = Identity.mint(world.rng.randbytes(32), 0)
    return invented_record(identity, Address(f"{_NOWHERE}{number + 1}", 41000))


def invented_record(identity: Identity, address: Address) -> Signed:
    """Sign the record of a peer that does not exist, which claims to be at an address."""
    return identity.vouch(
        PeerRecord(
            public_key=identity.public_key,
            nonce=identity.nonce,
            sequence=1,
            name="invented",
            addresses=(str(address),),
            roles=(),
            issued=1,
        )
    )


def false_report(accused: SimNode, evidence: str) -> bytes:
    """Encode a report that a node is dead, which none of its records so far refutes."""
    report = DeadReport(
        accused=accused.node_id,
        address=str(accused.address),
        sequence=1 << 62,
        observed=wall_ms(),
        evidence=evidence,
    )
    return codec.encode(DeadReports((report,)))


def wall_ms() -> int:
    """Return the world's Unix milliseconds."""
    return int((EPOCH + trio.current_time()) * 1000)


def swallow(_: Call, __: object) -> None:
    """Take a message, and say nothing."""


def make_mute(node: SimNode) -> None:
    """Let a running node pass on no message from now on, until it restarts."""
    for kind in (Gossip, Have, Graft, Want, Digest, Held):
        node.services.dispatch.add(kind, swallow)


async def accuse_everybody(world: World, liar: SimNode, *, every: float) -> None:
    """Let a running node report all others dead, again and again, until it stops."""
    while liar.running is not None:
        for node in [each for each in world.nodes.values() if each is not liar]:
            with suppress(Busy):
                liar.services.gossip.publish_system(DEAD_TOPIC, false_report(node, "refused"))
        await trio.sleep(every)
