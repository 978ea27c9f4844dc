"""What is on the wire once stays: tags and fields may only be added to.

A node of an older version is out there. Where this list differs from the code, the code
is wrong, unless something was appended.
"""

import attrs

from p2pd.wire.messages import (
    PROTOCOL_VERSION,
    TAGS,
    DeadReport,
    DeadReports,
    Difference,
    Heard,
    PeerRecord,
    Publication,
    Record,
    Seen,
    Signed,
    Slot,
    Subtree,
)

FIELDS = """
 1 Hello min_version max_version network capabilities nonce instance record certificate \
dial_number passing
 2 Proof signature key_proof
 3 Accepted
 4 Refused reason message others
 5 Goodbye reason
 6 Ping
 7 Pong
 8 Echo data
 9 Echoed data
10 GetPeers limit
11 Peers records
12 Announce record
13 FindNode target
14 Nodes records
15 FindValue key closer
16 Value versions records
17 Store record
18 Stored
19 Failed code message
20 Release many
21 Released agreed
22 Gossip publication hops
23 Have heard
24 Graft ids
25 Prune
26 Want ids
27 Digest slots reply
28 Held ids
29 Reach record
30 Reached alive
31 Compare subtrees
32 Compared differences
33 Fetch keys
34 Fetched keys versions
35 Give versions
36 Given stored
37 DialBack
38 DialledBack address outcome
"""
FACT_FIELDS = """
Signed body signature
PeerRecord public_key nonce sequence name addresses roles issued
Seen actor clock
Record name_digest owned value writer instance clock seen expires
Publication origin sequence issued topic data
DeadReport accused address sequence observed evidence
DeadReports reports
Heard message_id hops
Slot number fingerprint
Subtree path bits fingerprint
Difference index children entries
"""
FACTS = (
    Signed,
    PeerRecord,
    Seen,
    Record,
    Publication,
    DeadReport,
    DeadReports,
    Heard,
    Slot,
    Subtree,
    Difference,
)


def fields_of(cls: type) -> list[str]:
    return [field.name for field in attrs.fields(cls)]


def test_tags_and_fields_are_append_only() -> None:
    listed = {}
    for line in FIELDS.strip().splitlines():
        tag, name, *fields = line.split()
        listed[int(tag)] = (name, fields)
    assert {tag: (cls.__name__, fields_of(cls)) for tag, cls in TAGS.items()} == listed


def test_the_parts_of_messages_keep_their_shape() -> None:
    listed = {}
    for line in FACT_FIELDS.strip().splitlines():
        name, *fields = line.split()
        listed[name] = fields
    assert {cls.__name__: fields_of(cls) for cls in FACTS} == listed


def test_a_message_has_one_tag_that_fits_the_header() -> None:
    assert len(set(TAGS.values())) == len(TAGS)
    assert all(0 < tag < 256 for tag in TAGS)


def test_messages_are_facts() -> None:
    for cls in [*TAGS.values(), *FACTS]:
        assert all(field.default is attrs.NOTHING for field in attrs.fields(cls)), cls
        public = {name for name in vars(cls) if not name.startswith("_")}
        assert public == set(fields_of(cls)), cls


def test_the_protocol_version() -> None:
    assert PROTOCOL_VERSION == 1
