"""Mutual authentication inside TLS, as a pure machine.

::

    client                         server
    Hello, Proof    ->
                    <-             Hello, Proof, Accepted

One round trip; a side that does not agree says Refused instead. A hello has a fresh nonce and the
hash of the server's certificate as its sender sees it. The client signs its own hello, the server
both. A man in the middle that terminates TLS shows the client another certificate: the hashes
differ, and it can't sign. What the server says answers the client's nonce. What the client says is
valid only for the holder of one certificate, and nobody else has ever seen it: it came inside TLS.
On a private network each side also proves that it holds the network key, by an HMAC over what it
signs; the key itself never travels.
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
from p2pd.wire.reasons import Reason
from p2pd.wire.records import RecordCache

_LABEL = b"p2pd handshake 1\0"
_CLIENT, _SERVER = b"client", b"server"


@attrs.frozen
class Terms:
    """What this node brings to every handshake and asks of every peer.

    `network_key` is empty on an open network; `difficulty` is the least proof of work accepted, in
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
    """The other side after the handshake: all of it proven, except its addresses.

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
    `dial_number` counts the dials of a client's process, `passing` says whether it means to stay.
    `claimed` is who the peer says it is, `proven` whether it proved that.

    A client sends its `hello` and `proof` at once, a server sends its own once the client has
    proven itself. Each takes the other's hello, then its proof.
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
        self._role, self._peer_role = (_CLIENT, _SERVER) if is_client else (_SERVER, _CLIENT)
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
        self._said = _framed(self.hello)
        # What each role signs. A client signs before it has heard from the server.
        self._signed_texts = {_CLIENT: _signed_text(_CLIENT, self._said)} if is_client else {}
        self._peer: RemotePeer | None = None

    def proof(self) -> Proof:
        """Prove who this node is; on a server only after `receive_hello`."""
        text = self._signed_texts[self._role]
        return Proof(self._terms.identity.sign(text), self._key_proof(text))

    def receive_hello(self, hello: Hello) -> None:
        """Check the peer's hello; raises `HandshakeRefused`."""
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
                # The peer shows this text verbatim.
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
        is_client, theirs = self._role == _CLIENT, _framed(hello)
        clients = ours if is_client else hello
        first, second = (self._said, theirs) if is_client else (theirs, self._said)
        self._signed_texts = {
            _CLIENT: _signed_text(_CLIENT, first),
            _SERVER: _signed_text(_SERVER, first + second),
        }
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

    def receive_proof(self, proof: Proof) -> RemotePeer:
        """Check the peer's proof and return who it is; raises `HandshakeRefused`."""
        peer = self._peer
        if peer is None:
            raise HandshakeRefused(Reason.PROTOCOL, "a proof before the hello")
        text = self._signed_texts[self._peer_role]
        if not hmac.compare_digest(proof.key_proof, self._key_proof(text)):
            raise HandshakeRefused(
                Reason.NETWORK_KEY,
                "the two nodes do not hold the same network key (node.network_key_file)",
            )
        if not self._terms.records.is_signed_by(peer.record.public_key, proof.signature, text):
            raise HandshakeRefused(
                Reason.SIGNATURE, "the peer can't prove that it holds the key of its node ID"
            )
        if peer.node_id == self._terms.identity.node_id:
            raise HandshakeRefused(
                Reason.IDENTITY_CLASH,
                "another running node has this node's identity (a copied state directory?); "
                "stop one of the two, move its identity.json away and start it again",
            )
        self.proven = True
        return peer

    def _key_proof(self, text: bytes) -> bytes:
        key = self._terms.network_key
        return hmac.digest(key, text, "sha256") if key else b""


def _framed(hello: Hello) -> bytes:
    """Return a hello as it goes into a transcript."""
    encoded = codec.encode(hello)
    return len(encoded).to_bytes(4, "big") + encoded


def _signed_text(role: bytes, said: bytes) -> bytes:
    """Return what a role's side signs: label and role, then the hash of its transcript."""
    return _LABEL + role + hashlib.sha256(_LABEL + said).digest()
