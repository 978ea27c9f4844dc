"""Mutual authentication inside TLS, as a pure machine.

::

    client                         server
    Hello           ->
                    <-             Hello, Proof
    Proof           ->
                    <-             Accepted          (either side: Refused instead)

Each side signs the transcript: the encoded hellos of both, with their fresh nonces and the
hash of the server's certificate as each side sees it. A man in the middle who terminates
TLS shows the client another certificate: the hashes differ, and he can't sign. A replayed
hello meets another nonce. On a private network each side also proves that it holds the
network key by an HMAC over the same transcript; the key itself never travels.
"""

import hashlib
import hmac

import attrs

from p2pd.address import Address
from p2pd.errors import BadMessage, HandshakeRefused
from p2pd.ids import NodeId
from p2pd.wire import codec
from p2pd.wire.identity import Identity
from p2pd.wire.messages import PROTOCOL_VERSION, Hello, PeerRecord, Proof, Signed
from p2pd.wire.records import RecordCache

_LABEL = b"p2pd handshake 1\0"


class Reason:
    """Why a handshake is refused: the codes that both sides log."""

    VERSION = "version"
    NETWORK = "network"
    NETWORK_KEY = "network_key"
    RECORD = "record"
    DIFFICULTY = "difficulty"
    ONESELF = "self"
    IDENTITY_CLASH = "identity_clash"
    MAN_IN_THE_MIDDLE = "man_in_the_middle"
    SIGNATURE = "signature"
    PROTOCOL = "protocol"
    FULL = "full"
    DUPLICATE = "duplicate"


@attrs.frozen
class Terms:
    """What this node brings to every handshake and asks of every peer.

    `network_key` is empty on an open network; `difficulty` is the least proof of work, in
    bits; `instance` (16 bytes) is drawn anew by every process.
    """

    identity: Identity
    instance: bytes
    network: str
    records: RecordCache = attrs.field(factory=RecordCache)
    network_key: bytes = b""
    difficulty: int = 0
    capabilities: tuple[str, ...] = ("zlib",)
    min_version: int = PROTOCOL_VERSION
    max_version: int = PROTOCOL_VERSION


@attrs.frozen
class RemotePeer:
    """The other side after the handshake: all of it proven, its addresses only claimed.

    `dial_number` and `passing` are the client's, whichever side that was.
    """

    node_id: NodeId
    record: PeerRecord
    signed_record: Signed
    addresses: tuple[Address, ...]
    instance: bytes
    dial_number: int
    passing: bool
    version: int
    capabilities: frozenset[str]


class Handshake:
    """One side of one handshake.

    `record` is this node's signed peer record, `nonce` 32 fresh random bytes, and
    `certificate` the SHA-256 of the server's certificate as this side knows it;
    `dial_number` counts the dials of a client's process, `passing` is what it says of its
    plans. `claimed` is who the peer says it
    is, `proven` whether that is so.
    """

    def __init__(
        self,
        terms: Terms,
        record: Signed,
        nonce: bytes,
        certificate: bytes,
        *,
        is_client: bool,
        dial_number: int = 0,
        passing: bool = False,
    ) -> None:
        self._terms = terms
        self._role = b"client" if is_client else b"server"
        self._peer_role = b"server" if is_client else b"client"
        self.hello = Hello(
            min_version=terms.min_version,
            max_version=terms.max_version,
            network=terms.network,
            capabilities=terms.capabilities,
            nonce=nonce,
            instance=terms.instance,
            record=record,
            certificate=certificate,
            dial_number=dial_number,
            passing=passing,
        )
        self.claimed: NodeId | None = None
        self.proven = False
        self._transcript = b""
        self._peer: RemotePeer | None = None

    def receive_hello(self, hello: Hello) -> Proof:
        """Check the peer's hello and return our proof; raises `HandshakeRefused`."""
        terms, ours = self._terms, self.hello
        try:
            opened = terms.records.open(hello.record)
        except BadMessage as error:
            raise HandshakeRefused(Reason.RECORD, f"bad peer record: {error}") from None
        node_id = self.claimed = opened.node_id
        version = min(hello.max_version, ours.max_version)
        if version < max(hello.min_version, ours.min_version):
            raise HandshakeRefused(
                Reason.VERSION,
                f"no common protocol version: {ours.min_version} to {ours.max_version} here, "
                f"{hello.min_version} to {hello.max_version} there; upgrade the older node",
            )
        if hello.network != ours.network:
            raise HandshakeRefused(
                Reason.NETWORK,
                # The peer shows this text as it stands.
                f"the two nodes are of different networks, the one that is refused of "
                f"{hello.network!r}; set the same node.network on both to join them",
            )
        if opened.work < terms.difficulty:
            raise HandshakeRefused(
                Reason.DIFFICULTY,
                f"the identity proves {opened.work} bits of work, this network asks for "
                f"{terms.difficulty} (identity.difficulty)",
            )
        if hello.instance == terms.instance and node_id == terms.identity.node_id:
            raise HandshakeRefused(Reason.ONESELF, "the address leads back to this node")
        if hello.certificate != ours.certificate:
            raise HandshakeRefused(
                Reason.MAN_IN_THE_MIDDLE,
                "the two ends see different TLS certificates: somebody between them terminates TLS",
            )
        clients = ours if self._role == b"client" else hello
        self._peer = RemotePeer(
            node_id=node_id,
            record=opened.record,
            signed_record=opened.signed,
            addresses=opened.addresses,
            instance=hello.instance,
            dial_number=clients.dial_number,
            passing=clients.passing,
            version=version,
            capabilities=frozenset(hello.capabilities) & frozenset(ours.capabilities),
        )
        self._transcript = self._digest(hello)
        return Proof(
            signature=terms.identity.sign(_LABEL + self._role + self._transcript),
            key_proof=self._key_proof(self._role),
        )

    def receive_proof(self, proof: Proof) -> RemotePeer:
        """Check the peer's proof and return who it is; raises `HandshakeRefused`."""
        peer = self._peer
        if peer is None:
            raise HandshakeRefused(Reason.PROTOCOL, "a proof before the hello")
        if not hmac.compare_digest(proof.key_proof, self._key_proof(self._peer_role)):
            raise HandshakeRefused(
                Reason.NETWORK_KEY,
                "the two nodes do not hold the same network key (node.network_key_file)",
            )
        signed = _LABEL + self._peer_role + self._transcript
        if not self._terms.records.is_signed_by(peer.record.public_key, proof.signature, signed):
            raise HandshakeRefused(
                Reason.SIGNATURE, "the peer can't prove that it holds the key of its node ID"
            )
        if peer.node_id == self._terms.identity.node_id:
            raise HandshakeRefused(
                Reason.IDENTITY_CLASH,
                "another running node has this node's identity (a copied state directory?); "
                "stop one of the two, remove its identity file and start it again",
            )
        self.proven = True
        return peer

    def _digest(self, theirs: Hello) -> bytes:
        """Hash both hellos, the client's first."""
        hellos = (self.hello, theirs) if self._role == b"client" else (theirs, self.hello)
        transcript = hashlib.sha256(_LABEL)
        for hello in hellos:
            encoded = codec.encode(hello)
            transcript.update(len(encoded).to_bytes(4, "big") + encoded)
        return transcript.digest()

    def _key_proof(self, role: bytes) -> bytes:
        key = self._terms.network_key
        return hmac.digest(key, _LABEL + role + self._transcript, "sha256") if key else b""
