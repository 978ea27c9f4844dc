"""Every message of the protocol: facts, without methods.

A message travels as the msgpack array of its fields, in the order written here, in a frame
that carries its tag. Tags are append-only: none is ever given a second meaning. A message
never gains, loses or moves a field: what changes shape gets a new tag, and a new protocol
version if old nodes must not see it. Bounds stand in the types: `codec` checks what comes in
against them; code that fills in a message must keep to them itself.
"""

from typing import Annotated, NamedTuple, TypeVar

import attrs

from p2pd.ids import ID_BITS, ID_BYTES


class Length(NamedTuple):
    """Bounds of a `str` (in UTF-8 bytes), `bytes` or tuple (in items), both inclusive."""

    least: int
    most: int


class Range(NamedTuple):
    """Bounds of an `int`, both inclusive."""

    least: int
    most: int


PROTOCOL_VERSION = 1
# The version of frames until one is negotiated: the same for ever, so that nodes of all versions
# can tell each other that they have none in common.
HANDSHAKE_VERSION = 1
MAX_VALUE_BYTES = 1 << 18
MAX_SIGNED_BODY = MAX_VALUE_BYTES + 4096
# Bytes of a signed fact besides its body, generously.
SIGNED_OVERHEAD = 128
MAX_SIBLINGS = 8
MAX_SEEN = 32
MAX_RECORDS = 64
MAX_REDIRECTS = 12
MAX_TEXT = 256
MAX_PUBLICATION_BYTES = 1 << 16
MAX_IDS = 64
# Of Merkle trees.
FINGERPRINT_BYTES = 16
# Bits that one answer descends.
STEP = 4
# Subtrees in one question.
MAX_SUBTREES = 64
# Keys listed at once to an asker whose subtree is empty; it needs all of them anyway.
MAX_LISTED = 64
ENTRY_BYTES = ID_BYTES + FINGERPRINT_BYTES
MAX_KEYS = 64
MAX_GIVEN = 32

IdBytes = Annotated[bytes, Length(ID_BYTES, ID_BYTES)]
Sha256 = Annotated[bytes, Length(32, 32)]
Nonce = Annotated[bytes, Length(32, 32)]
PublicKey = Annotated[bytes, Length(32, 32)]
Signature = Annotated[bytes, Length(64, 64)]
Version = Annotated[int, Range(0, 255)]
Milliseconds = Annotated[int, Range(0, (1 << 63) - 1)]
Label = Annotated[str, Length(0, 64)]
Text = Annotated[str, Length(0, MAX_TEXT)]
Labels = Annotated[tuple[Label, ...], Length(0, 16)]
# The first bytes of the SHA-256 of a publication's body.
MESSAGE_ID_BYTES = 16
MessageId = Annotated[bytes, Length(MESSAGE_ID_BYTES, MESSAGE_ID_BYTES)]
MessageIds = Annotated[tuple[MessageId, ...], Length(0, MAX_IDS)]
Hops = Annotated[int, Range(0, 255)]
InstanceId = Annotated[bytes, Length(8, 8)]
Clock = Annotated[int, Range(0, (1 << 64) - 1)]
Fingerprint = Annotated[bytes, Length(FINGERPRINT_BYTES, FINGERPRINT_BYTES)]


@attrs.frozen
class Signed:
    """Bytes that somebody vouches for, kept as they came so that the signature stays true.

    `body` is the encoded fact (`PeerRecord`, `Record` or `Publication`); the signature covers
    a label of the kind of fact and the body.
    """

    body: Annotated[bytes, Length(1, MAX_SIGNED_BODY)]
    signature: Signature


SignedList = Annotated[tuple[Signed, ...], Length(0, MAX_RECORDS)]
Siblings = Annotated[tuple[Signed, ...], Length(0, MAX_SIBLINGS)]


@attrs.frozen
class PeerRecord:
    """What a node says about itself. The record with the greatest `sequence` counts."""

    public_key: PublicKey
    nonce: Annotated[int, Range(0, (1 << 64) - 1)]
    sequence: Milliseconds
    name: Label
    addresses: Annotated[tuple[Label, ...], Length(0, 16)]
    roles: Labels
    issued: Milliseconds


@attrs.frozen
class Seen:
    """The latest version by one actor that a writer had seen, given by its clock.

    An actor is one process of one writer: the first 8 bytes of the SHA-256 of the writer's
    public key and the process's `instance`.
    """

    actor: InstanceId
    clock: Clock


@attrs.frozen
class Record:
    """One version of what is stored under a key.

    `name_digest` is the SHA-256 of the name that the user gave; the key follows from it and, if
    `owned`, from the writer: nobody else can write there. `value` is None for a tombstone.
    `instance` tells the processes of a writer apart. `clock` is a hybrid logical clock (Kulkarni et
    al. 2014) in milliseconds * 2**16 + counter. `seen` is the version vector of what the writer had
    seen. `expires` is Unix milliseconds, 0 for never.
    """

    name_digest: Sha256
    owned: bool
    value: Annotated[bytes, Length(0, MAX_VALUE_BYTES)] | None
    writer: PublicKey
    instance: InstanceId
    clock: Clock
    seen: Annotated[tuple[Seen, ...], Length(0, MAX_SEEN)]
    expires: Milliseconds


@attrs.frozen
class Publication:
    """What its origin tells everybody. The one with the greater `sequence` is later.

    Topics that begin with `$` are the network's own: `$dead` (`data`: an encoded
    `DeadReports`), `$alive` and `$left` (the origin's encoded and signed `PeerRecord`).
    """

    origin: PublicKey
    sequence: Milliseconds
    issued: Milliseconds
    topic: Label
    data: Annotated[bytes, Length(0, MAX_PUBLICATION_BYTES)]


@attrs.frozen
class DeadReport:
    """What the origin of a publication observed about a node: evidence, not a verdict.

    `observed` is when, in the reporter's Unix milliseconds; `sequence` is that of the latest peer
    record of the accused that the reporter knows, so that a later one refutes the report;
    `evidence` is `refused` (the connection broke, and a redial was refused) or `silent`.
    """

    accused: IdBytes
    address: Label
    sequence: Milliseconds
    observed: Milliseconds
    evidence: Label


@attrs.frozen
class DeadReports:
    """What the origin of a publication observed about some nodes at about the same time."""

    reports: Annotated[tuple[DeadReport, ...], Length(1, MAX_IDS)]


@attrs.frozen
class Heard:
    """A publication that the sender has, and over how many hops it came."""

    message_id: MessageId
    hops: Hops


@attrs.frozen
class Slot:
    """All publications issued in one slice of time, by the exclusive or of their IDs."""

    number: Milliseconds
    fingerprint: MessageId


@attrs.frozen
class Hello:
    """The first message of either side: who and what it is, and the certificate it sees.

    `instance` is drawn anew by every process; `certificate` is the SHA-256 of the server's
    certificate as this side knows it (channel binding as in RFC 5929, section 4).
    `dial_number` counts the dials of the client's process (0 from a server), so that both
    sides know which of two connections by one dialler is the later one. `passing`: the client has a
    question and does not mean to stay, so the connection may be closed to make room as soon as it
    is quiet.
    """

    min_version: Version
    max_version: Version
    network: Label
    capabilities: Labels
    nonce: Nonce
    instance: Annotated[bytes, Length(16, 16)]
    record: Signed
    certificate: Sha256
    dial_number: Milliseconds
    passing: bool


@attrs.frozen
class Proof:
    """Follows either side's hello: signs what was said so far, and proves the network key."""

    signature: Signature
    key_proof: Annotated[bytes, Length(0, 32)]


@attrs.frozen
class Accepted:
    """The last message of the handshake, from the server: the connection is open."""


@attrs.frozen
class Refused:
    """Ends the handshake, and says why. A client's may come after `Accepted`.

    `others` are peers to try instead, if the sender is full.
    """

    reason: Label
    message: Text
    others: Annotated[tuple[Signed, ...], Length(0, MAX_REDIRECTS)]


@attrs.frozen
class Goodbye:
    """The last message on a connection that its sender closes on purpose."""

    reason: Label


@attrs.frozen
class Ping:
    """Are you there?"""


@attrs.frozen
class Pong:
    """I am."""


@attrs.frozen
class Echo:
    """Send these bytes back."""

    data: Annotated[bytes, Length(0, MAX_VALUE_BYTES)]


@attrs.frozen
class Echoed:
    """The bytes of an `Echo`."""

    data: Annotated[bytes, Length(0, MAX_VALUE_BYTES)]


@attrs.frozen
class GetPeers:
    """Tell me of up to `limit` peers."""

    limit: Annotated[int, Range(1, MAX_RECORDS)]


@attrs.frozen
class Peers:
    """Peer records, each signed by the peer that it is about."""

    records: SignedList


@attrs.frozen
class Announce:
    """My own peer record changed."""

    record: Signed


@attrs.frozen
class FindNode:
    """Which nodes closest to this ID do you know? Kademlia, section 2.3."""

    target: IdBytes


@attrs.frozen
class Nodes:
    """The closest nodes that the sender knows, closest first."""

    records: SignedList


@attrs.frozen
class FindValue:
    """What do you store under this key, and, if `closer`, who is closer to it?"""

    key: IdBytes
    closer: bool


@attrs.frozen
class Value:
    """All versions under the key that no other covers, and, if asked, the closest known nodes."""

    versions: Siblings
    records: SignedList


@attrs.frozen
class Store:
    """Keep this record."""

    record: Signed


@attrs.frozen
class Stored:
    """The record (or one that supersedes it) is on disk."""


@attrs.frozen
class Release:
    """I keep more connections than I need: may this one go?

    `many`: I keep far more, so find another one in its place.
    """

    many: bool


@attrs.frozen
class Released:
    """Whether the sender has enough connections, too; if so, the asker closes this one."""

    agreed: bool


@attrs.frozen
class Failed:
    """Sent instead of the answer to a request: why there is none."""

    code: Label
    message: Text


@attrs.frozen
class Gossip:
    """A publication, pushed over the tree or pulled; `hops` counts the links it came over."""

    publication: Signed
    hops: Hops


@attrs.frozen
class Have:
    """Publications that the sender has: lazy push (Leitao et al. 2007, Plumtree, IHAVE)."""

    heard: Annotated[tuple[Heard, ...], Length(0, MAX_IDS)]


@attrs.frozen
class Graft:
    """Push to me from now on, and send me these: the tree is broken (Plumtree, GRAFT)."""

    ids: MessageIds


@attrs.frozen
class Prune:
    """Stop pushing to me, only announce: I get everything elsewhere (Plumtree, PRUNE)."""


@attrs.frozen
class Want:
    """Send me these; the tree stays as it is."""

    ids: MessageIds


@attrs.frozen
class Digest:
    """What the sender holds of all that is retained: anti-entropy (Demers et al. 1987).

    `reply`: the receiver should send its own digest, too.
    """

    slots: Annotated[tuple[Slot, ...], Length(0, MAX_IDS)]
    reply: bool


@attrs.frozen
class Held:
    """IDs that the sender holds in a slot where the two digests differ."""

    ids: MessageIds


@attrs.frozen
class Reach:
    """Can you reach the node of this peer record? I can't (ping-req in SWIM, section 3.1)."""

    record: Signed


@attrs.frozen
class Reached:
    """Whether the sender reached the node."""

    alive: bool


@attrs.frozen
class Subtree:
    """All keys that begin with the first `bits` bits of `path`, as the asker has them.

    `path` has no more bytes than it needs, with zeros after its bits. The fingerprint is `EMPTY` if
    there are no keys.
    """

    path: Annotated[bytes, Length(0, ID_BYTES)]
    bits: Annotated[int, Range(0, ID_BITS)]
    fingerprint: Fingerprint


@attrs.frozen
class Difference:
    """What the answerer has in a subtree that differs; `index` is its place in the question.

    Either the fingerprints of the 16 subtrees `STEP` bits further down, or, if `children` is empty,
    all keys, each followed by the digest of its versions.
    """

    index: Annotated[int, Range(0, MAX_SUBTREES - 1)]
    children: Annotated[bytes, Length(0, FINGERPRINT_BYTES << STEP)]
    entries: Annotated[bytes, Length(0, MAX_LISTED * ENTRY_BYTES)]


@attrs.frozen
class Compare:
    """Which of these subtrees differ from yours?"""

    subtrees: Annotated[tuple[Subtree, ...], Length(1, MAX_SUBTREES)]


@attrs.frozen
class Compared:
    """The subtrees that differ, in the order of the question."""

    differences: Annotated[tuple[Difference, ...], Length(0, MAX_SUBTREES)]


@attrs.frozen
class Fetch:
    """Send me all versions that you keep under these keys."""

    keys: Annotated[tuple[IdBytes, ...], Length(1, MAX_KEYS)]


@attrs.frozen
class Fetched:
    """The versions under the first `keys` of the keys asked for; ask again for the rest."""

    keys: Annotated[int, Range(1, MAX_KEYS)]
    versions: SignedList


@attrs.frozen
class Give:
    """Keep these: they belong to you, too, and you don't have them."""

    versions: Annotated[tuple[Signed, ...], Length(1, MAX_GIVEN)]


@attrs.frozen
class Given:
    """How many of them are on disk."""

    stored: Annotated[int, Range(0, MAX_GIVEN)]


@attrs.frozen
class DialBack:
    """Can you open a connection to me, at the host that this request comes from?"""


@attrs.frozen
class DialledBack:
    """What came of the dial: `outcome` is reached, refused or silent."""

    address: Label
    outcome: Label


Message = (
    Hello
    | Proof
    | Accepted
    | Refused
    | Goodbye
    | Ping
    | Pong
    | Echo
    | Echoed
    | GetPeers
    | Peers
    | Announce
    | FindNode
    | Nodes
    | FindValue
    | Value
    | Store
    | Stored
    | Failed
    | Release
    | Released
    | Gossip
    | Have
    | Graft
    | Prune
    | Want
    | Digest
    | Held
    | Reach
    | Reached
    | Compare
    | Compared
    | Fetch
    | Fetched
    | Give
    | Given
    | DialBack
    | DialledBack
)

# One kind of them.
M = TypeVar("M", bound=Message)

TAGS: dict[int, type[Message]] = {
    1: Hello,
    2: Proof,
    3: Accepted,
    4: Refused,
    5: Goodbye,
    6: Ping,
    7: Pong,
    8: Echo,
    9: Echoed,
    10: GetPeers,
    11: Peers,
    12: Announce,
    13: FindNode,
    14: Nodes,
    15: FindValue,
    16: Value,
    17: Store,
    18: Stored,
    19: Failed,
    20: Release,
    21: Released,
    22: Gossip,
    23: Have,
    24: Graft,
    25: Prune,
    26: Want,
    27: Digest,
    28: Held,
    29: Reach,
    30: Reached,
    31: Compare,
    32: Compared,
    33: Fetch,
    34: Fetched,
    35: Give,
    36: Given,
    37: DialBack,
    38: DialledBack,
}
