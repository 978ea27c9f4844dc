"""`docs/protocol.md` against the code: its tables, its limits, its test vectors."""

import hashlib
import hmac
import re
import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
import pytest

from p2pd.core import (
    admission,
    announcements,
    broadcast,
    declined,
    history,
    isolation,
    membership,
    merkle,
    missing,
    offers,
    own_reports,
    records,
    registry,
    reporters,
    routing,
    signs_of_life,
    stalemates,
    suspects,
    suspicion,
    tending,
)
from p2pd.ids import Key
from p2pd.node import (
    absence,
    connection,
    dial_back,
    dialler,
    dials_for_others,
    discovery,
    exchange,
    feelers,
    gossip,
    inbound,
    keepalive,
    late_writes,
    liveness,
    probing,
    reconciler,
    repair,
    replica,
    republish,
    roster,
    routes,
    seeds,
    shortage,
    surplus,
)
from p2pd.wire import beacon, codec, framing, handshake, messages, reasons, session
from p2pd.wire.identity import Identity, open_peer_record, open_publication, open_record, work
from p2pd.wire.messages import (
    TAGS,
    DeadReport,
    DeadReports,
    Difference,
    Echo,
    Gossip,
    Heard,
    Hello,
    PeerRecord,
    Publication,
    Range,
    Record,
    Seen,
    Signed,
    Slot,
    Subtree,
)

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
VECTORS = tomllib.loads("\n".join(BLOCKS))
LABEL = b"p2pd handshake 1\0"

REASONS = sorted(reasons.Reason)


def table_under(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, cells stripped, without the header."""
    _, found, after = PAGE.partition(f"\n### {heading}\n")
    assert found, f"docs/protocol.md has no heading `### {heading}`"
    section = after.partition("\n#")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def number(value: int) -> str:
    return f"2^{value.bit_length()}-1" if value > 1 << 32 else str(value)


def in_words(annotation: Any) -> str:
    """A field's type as the page writes it."""
    if get_origin(annotation) is Annotated:
        inner, bound = get_args(annotation)
        if isinstance(bound, Range):
            return f"{in_words(inner)} {bound.least}..{number(bound.most)}"
        least, most = bound
        size = f"{least}" if least == most else f"{least}..{most}"
        if get_origin(inner) is tuple:
            return f"list of {size} x {in_words(get_args(inner)[0])}"
        return f"{in_words(inner)} {size}"
    if get_origin(annotation) in {Union, UnionType}:
        (inner,) = (each for each in get_args(annotation) if each is not NoneType)
        return f"nil or {in_words(inner)}"
    return str(annotation.__name__)


def fields_of(cls: type[Any]) -> list[list[str]]:
    hints = get_type_hints(cls, include_extras=True)
    return [[f"`{each.name}`", in_words(hints[each.name])] for each in attrs.fields(cls)]


@pytest.mark.parametrize(("tag", "cls"), TAGS.items(), ids=str)
def test_every_message_stands_in_the_page(tag: int, cls: type[Any]) -> None:
    assert [row[:2] for row in table_under(f"{tag} {cls.__name__}")] == fields_of(cls)


@pytest.mark.parametrize(
    "cls",
    [
        Signed,
        PeerRecord,
        Record,
        Publication,
        DeadReport,
        DeadReports,
        Heard,
        Slot,
        Subtree,
        Difference,
    ],
    ids=str,
)
def test_every_part_of_a_message_stands_in_the_page(cls: type[Any]) -> None:
    assert [row[:2] for row in table_under(cls.__name__)] == fields_of(cls)


def test_no_message_stands_in_the_page_that_does_not_exist() -> None:
    headings = re.findall(r"^### (\d+ \w+)$", PAGE, re.MULTILINE)
    assert headings == [f"{tag} {cls.__name__}" for tag, cls in TAGS.items()]


def test_every_refusal_stands_in_the_page() -> None:
    assert sorted(row[0].strip("`") for row in table_under("Reason codes")) == REASONS


def test_limits() -> None:
    assert VECTORS["limits"] == {
        "protocol_version": messages.PROTOCOL_VERSION,
        "header_bytes": framing.HEADER_BYTES,
        "max_handshake_payload": framing.MAX_HANDSHAKE_PAYLOAD,
        "max_payload": framing.MAX_PAYLOAD,
        "max_value_bytes": messages.MAX_VALUE_BYTES,
        "max_siblings": messages.MAX_SIBLINGS,
        "max_seen": messages.MAX_SEEN,
        "max_remembered": records.MAX_REMEMBERED,
        "grace_ms": records.GRACE_MS,
        "max_records": messages.MAX_RECORDS,
        "max_redirects": messages.MAX_REDIRECTS,
        "max_beacon": beacon.MAX_BEACON,
        "max_clock_ahead_ms": records.MAX_CLOCK_AHEAD_MS,
        "max_publication_bytes": messages.MAX_PUBLICATION_BYTES,
        "max_ids": messages.MAX_IDS,
        "slots": history.SLOTS,
    }


def test_habits() -> None:
    assert VECTORS["habits"] == {
        "compress_from": framing.COMPRESS_FROM,
        "max_pending_requests": session.MAX_PENDING,
        "max_handshakes": inbound.MAX_HANDSHAKES,
        "idle_after_s": roster.IDLE_AFTER,
        "passed_after_s": roster.PASSED_AFTER,
        "passing_s": keepalive.PASSING_SECONDS,
        "welcome_s": shortage.WELCOME,
        "head_start_s": dialler.HEAD_START,
        "cut_short_s": dialler.CUT_SHORT,
        "many": surplus.MANY,
        "join_width": routes.JOIN_WIDTH,
        "few": routes.FEW,
        "refresh_first_s": [*routes.REFRESH_FIRST],
        "most_near": routing.MOST_NEAR,
        "beyond_the_dead": routes.BEYOND_THE_DEAD,
        "max_late_bytes": late_writes.MAX_LATE_BYTES,
        "away_after_s": absence.AWAY_AFTER,
        "readers_margin_ms": records.READERS_MARGIN_MS,
        "busy_pause_s": connection.BUSY_PAUSE,
        "strangers_at_once": dialler.STRANGERS_AT_ONCE,
        "strangers_per_second": dialler.STRANGERS_PER_SECOND,
        "burst_s": list(discovery.BURST),
        "answer_gap_s": discovery.ANSWER_GAP,
        "answers_at_once": discovery.ANSWERS_AT_ONCE,
        "answers_per_second": discovery.ANSWERS_PER_SECOND,
        "polite_delay_s": discovery.POLITE_DELAY,
        "peers_per_answer": exchange.PEERS_PER_ANSWER,
        "enough_peers": exchange.ENOUGH_PEERS,
        "exchange_interval_s": [exchange.EXCHANGE_INTERVAL, exchange.MOST_EXCHANGE_INTERVAL],
        "max_addresses": registry.MAX_ADDRESSES,
        "release_pause_s": [surplus.LEAST_PAUSE, surplus.MOST_PAUSE],
        "mix_interval_s": surplus.MIX_INTERVAL,
        "seed_try_interval_s": seeds.TRY_INTERVAL,
        "dial_back_s": dial_back.WITHIN,
        "max_dials_back": dial_back.MAX_DIALS_BACK,
        "dial_back_again_s": dial_back.DIAL_BACK_AGAIN,
        "dials_back_at_once": dial_back.DIALS_BACK_AT_ONCE,
        "dials_back_per_second": dial_back.DIALS_BACK_PER_SECOND,
        "share_of_one": dials_for_others.SHARE_OF_ONE,
    }


def test_habits_of_gossip() -> None:
    assert VECTORS["gossip_habits"] == {
        "anti_entropy_interval_s": gossip.ANTI_ENTROPY_INTERVAL,
        "rounds_after_news": gossip.ROUNDS_AFTER_NEWS,
        "quiet_interval_s": gossip.QUIET_INTERVAL,
        "announce_after_s": announcements.ANNOUNCE_AFTER,
        "graft_after_s": missing.GRAFT_AFTER,
        "graft_again_s": missing.GRAFT_AGAIN,
        "graft_grace_s": broadcast.GRAFT_GRACE,
        "retry_s": offers.RETRY,
        "broken_for_s": offers.BROKEN_FOR,
        "slow_for_s": offers.SLOW_FOR,
        "declined_for_s": declined.DECLINED_FOR,
        "digests_at_once": broadcast.DIGESTS_AT_ONCE,
        "digests_per_second": broadcast.DIGESTS_PER_SECOND,
        "max_chunks": broadcast.MAX_CHUNKS,
        "newest_chunks": broadcast.NEWEST_CHUNKS,
        "max_skew_s": history.MAX_SKEW,
        "known_at_once": admission.KNOWN_AT_ONCE,
        "known_per_second": admission.KNOWN_PER_SECOND,
        "words_at_once": admission.SYSTEM_AT_ONCE,
        "words_per_second": admission.SYSTEM_PER_SECOND,
        "acquainted_after_s": admission.ACQUAINTED_AFTER,
        "acquainted_at_once": admission.ACQUAINTED_AT_ONCE,
        "acquainted_per_second": admission.ACQUAINTED_PER_SECOND,
        "heard_of_at_once": admission.HEARD_OF_AT_ONCE,
        "heard_of_per_second": admission.HEARD_OF_PER_SECOND,
        "told_at_once": admission.TOLD_AT_ONCE,
        "told_per_second": admission.TOLD_PER_SECOND,
        "peer_at_once": admission.PEER_AT_ONCE,
        "peer_per_second": admission.PEER_PER_SECOND,
        "most_at_once": admission.MOST_AT_ONCE,
        "most_per_second": admission.MOST_PER_SECOND,
        "scarce_for_s": admission.SCARCE_FOR,
        "bytes_count": admission.BYTES_COUNT,
        "most_of_origin": admission.MOST_OF_ORIGIN,
        "origin_s": admission.ORIGIN_SECONDS,
        "max_items": history.MAX_ITEMS,
        "max_bytes": history.MAX_BYTES,
        "max_seen": history.MAX_SEEN,
    }


def test_habits_of_repair() -> None:
    assert VECTORS["repair_habits"] == {
        "purge_interval_s": replica.PURGE_INTERVAL,
        "max_questions": merkle.MAX_QUESTIONS,
        "max_found": merkle.MAX_FOUND,
        "most_pauses": stalemates.MOST_PAUSES,
        "deputy_s": list(tending.SOON[1]),
        "small": tending.SMALL,
        "retry_s": tending.RETRY,
        "again_after_s": tending.AGAIN_AFTER,
        "look_again_s": repair.LOOK_AGAIN,
        "new_s": repair.NEW,
        "hand_over_s": repair.HAND_OVER,
        "patience_s": reconciler.PATIENCE,
        "answer_within_s": reconciler.ANSWER_WITHIN,
        "least_bytes_per_second": reconciler.LEAST_BYTES_PER_SECOND,
        "max_lookups": republish.MAX_LOOKUPS,
        "max_at_once": republish.MAX_AT_ONCE,
        "bytes_at_once": reconciler.BYTES_AT_ONCE,
        "bytes_per_second": reconciler.BYTES_PER_SECOND,
        "least_cost": reconciler.LEAST_COST,
        "batch_bytes": reconciler.BATCH_BYTES,
    }


def test_habits_of_liveness() -> None:
    assert VECTORS["liveness_habits"] == {
        "grace_s": suspicion.GRACE,
        "last_dial_s": suspicion.LAST_DIAL,
        "ask_again_s": suspicion.ASK_AGAIN,
        "most_unclear": suspicion.MOST_UNCLEAR,
        "in_touch_s": suspects.IN_TOUCH,
        "cut_off_s": isolation.CUT_OFF,
        "call_interval_s": feelers.CALL_INTERVAL,
        "max_call_interval_s": feelers.MAX_CALL_INTERVAL,
        "suspicion_least_s": suspicion.SUSPICION_LEAST,
        "suspicion_most_s": suspicion.SUSPICION_MOST,
        "worst_health": membership.WORST_HEALTH,
        "isolation_window_s": isolation.WINDOW,
        "introduce_after_s": liveness.INTRODUCE_AFTER,
        "introduce_to": liveness.INTRODUCE_TO,
        "isolation_longest_s": isolation.LONGEST,
        "isolation_share": isolation.MOST,
        "isolations_in_a_row": isolation.IN_A_ROW,
        "isolation_again_s": isolation.AGAIN,
        "fewest_losses": isolation.FEWEST_LOSSES,
        "quorum": suspicion.QUORUM,
        "refute_wait_s": suspicion.REFUTE_WAIT,
        "gather_s": own_reports.GATHER,
        "gather_most_s": own_reports.GATHER_MOST,
        "tell_again": own_reports.TELL_AGAIN,
        "refute_interval_s": signs_of_life.LEAST_INTERVAL,
        "counted_again_s": signs_of_life.COUNTED_AGAIN,
        "answered_at_once": signs_of_life.ANSWERED_AT_ONCE,
        "answered_per_s": signs_of_life.ANSWERED_PER_SECOND,
        "answers_for_s": signs_of_life.ANSWERS_FOR,
        "report_ttl_s": reporters.REPORT_TTL,
        "report_early_s": reporters.REPORT_EARLY,
        "report_again_s": reporters.REPORT_AGAIN,
        "reports_per_minute": reporters.REPORTS_PER_MINUTE,
        "max_recent_of_one": reporters.MAX_RECENT_OF_ONE,
        "max_reports": suspicion.MAX_REPORTS,
        "false_reports": reporters.FALSE_REPORTS,
        "credit_window_s": reporters.CREDIT_WINDOW,
        "dials_per_second": suspects.DIALS_PER_SECOND,
        "probe_window_least_s": suspects.PROBE_WINDOW_LEAST,
        "reaches_at_once": probing.REACHES_AT_ONCE,
        "reaches_per_second": probing.REACHES_PER_SECOND,
        "feelers_per_death": feelers.FEELERS_PER_DEATH,
        "feeler_interval_s": feelers.FEELER_INTERVAL,
        "max_feelers_at_once": feelers.MAX_FEELERS_AT_ONCE,
        "max_named": feelers.MAX_NAMED,
    }


def test_the_networks_own_topics() -> None:
    shown = re.findall(r"`(\$\w+)`", PAGE)
    topics = [value for name, value in vars(liveness).items() if name.endswith("_TOPIC")]
    assert sorted(set(shown)) == sorted(topics)


def identity(name: str) -> Identity:
    given = VECTORS[name]
    return Identity(bytes.fromhex(given["private_key"]), given["nonce"])


@pytest.mark.parametrize("name", ["client", "server"])
def test_identity(name: str) -> None:
    given, shown = VECTORS[name], identity(name)
    minted = Identity.mint(shown.private_key, given["difficulty"])
    assert (minted.nonce, minted.public_key.hex(), str(minted.node_id)) == (
        given["nonce"],
        given["public_key"],
        given["node_id"],
    )
    assert work(shown.public_key, shown.nonce) == given["bits"] >= given["difficulty"]


def test_peer_record() -> None:
    given = VECTORS["peer_record"]
    client = identity("client")
    record = PeerRecord(
        public_key=client.public_key,
        nonce=client.nonce,
        sequence=given["sequence"],
        name=given["name"],
        addresses=tuple(given["addresses"]),
        roles=tuple(given["roles"]),
        issued=given["issued"],
    )
    signed = client.vouch(record)
    assert (signed.body.hex(), signed.signature.hex()) == (given["body"], given["signature"])
    assert client.sign(b"p2pd peer record 1\0" + signed.body) == signed.signature
    assert open_peer_record(signed) == record


@pytest.mark.parametrize(
    ("name", "value", "key"), [("record", b"hello", "key"), ("tombstone", None, "owned_key")]
)
def test_record(name: str, value: bytes | None, key: str) -> None:
    first, given = VECTORS["record"], VECTORS[name]
    client = identity("client")
    assert str(Key.of(first["key_name"])) == first["key"]
    assert str(Key.of(first["key_name"], client.node_id)) == first["owned_key"]
    record = Record(
        name_digest=hashlib.sha256(first["key_name"].encode()).digest(),
        owned=given["owned"],
        value=value,
        writer=client.public_key,
        instance=bytes.fromhex(first["instance"]),
        clock=(given["clock_ms"] << 16) + given["clock_counter"],
        seen=tuple(Seen(bytes.fromhex(actor), at) for actor, at in given["seen"]),
        expires=given["expires"],
    )
    signed = client.vouch(record)
    assert (signed.body.hex(), signed.signature.hex()) == (given["body"], given["signature"])
    assert client.sign(b"p2pd record 1\0" + signed.body) == signed.signature
    version = records.version_of(signed, open_record(signed))
    assert (version.name.hex(), str(version.key)) == (given["version"], first[key])
    assert version.actor.hex() == first["actor"]


def publication(name: str, data: bytes) -> Signed:
    """Make the publication of a vector, and check its bytes and its message ID."""
    given, client = VECTORS[name], identity("client")
    fact = Publication(client.public_key, given["sequence"], given["issued"], given["topic"], data)
    signed = client.vouch(fact)
    assert (signed.body.hex(), signed.signature.hex()) == (given["body"], given["signature"])
    assert client.sign(b"p2pd publication 1\0" + signed.body) == signed.signature
    assert open_publication(signed) == fact
    assert gossip.message_id_of(signed).hex() == given["message_id"]
    assert hashlib.sha256(signed.body).hexdigest().startswith(given["message_id"])
    return signed


def dead_report() -> bytes:
    given = VECTORS["dead_report"]
    report = DeadReport(
        accused=identity("server").node_id,
        address=given["address"],
        sequence=given["record_sequence"],
        observed=given["observed"],
        evidence=given["evidence"],
    )
    return codec.encode(DeadReports((report,)))


def test_publication() -> None:
    given = VECTORS["publication"]
    signed = publication("publication", given["data"].encode())
    tag, payload = codec.encode_message(Gossip(signed, given["hops"]))
    frame = framing.Frame(1, tag, 0, 0, 0, given["timestamp"], payload)
    assert framing.write_frame(frame).hex() == given["frame"]


def test_dead_report() -> None:
    given = VECTORS["dead_report"]
    assert given["topic"] == liveness.DEAD_TOPIC
    data = dead_report()
    assert data.hex() == given["data"]
    publication("dead_report", data)


def test_sign_of_life() -> None:
    assert VECTORS["sign_of_life"]["topic"] == liveness.ALIVE_TOPIC
    publication("sign_of_life", codec.encode(signed_of("peer_record")))


def signed_of(name: str) -> Signed:
    given = VECTORS[name]
    return Signed(bytes.fromhex(given["body"]), bytes.fromhex(given["signature"]))


def filled(annotation: Any, given: Any) -> Any:
    """A field's value, as the vectors of messages write it."""
    if get_origin(annotation) is Annotated:
        return filled(get_args(annotation)[0], given)
    if get_origin(annotation) is tuple:
        return tuple(filled(get_args(annotation)[0], each) for each in given)
    if annotation is Signed:
        return signed_of(given)
    if attrs.has(annotation):
        hints = get_type_hints(annotation, include_extras=True).values()
        fields = zip(hints, given, strict=True)
        return annotation(*(filled(hint, each) for hint, each in fields))
    return bytes.fromhex(given) if annotation is bytes else given


@pytest.mark.parametrize("cls", sorted({*TAGS.values()} - {Hello, Echo, Gossip}, key=str), ids=str)
def test_message(cls: type[Any]) -> None:
    given = VECTORS["messages"][cls.__name__]
    message = filled(cls, given["fields"])
    facts = {name: codec.encode(signed_of(name)).hex() for name in ("peer_record", "record")}
    tag, payload = codec.encode_message(message)
    assert payload.hex() == given["payload"].format(**facts)
    assert codec.decode_message(tag, payload) == message


def test_digest() -> None:
    given = VECTORS["digest"]
    held = {
        "publication": VECTORS["publication"]["data"].encode(),
        "dead_report": dead_report(),
    }
    kept = history.History(retention=given["retention_s"], seen_ttl=1.0)
    fingerprint = 0
    for name, data in held.items():
        signed, issued = publication(name, data), VECTORS[name]["issued"]
        message_id = gossip.message_id_of(signed)
        kept.add(history.Item(message_id, signed, identity("client").node_id, issued, 0), 0.0)
        fingerprint ^= int.from_bytes(message_id)
        assert issued // (given["retention_s"] * 1000 // history.SLOTS) == given["number"]
    assert kept.slots() == (Slot(given["number"], bytes.fromhex(given["fingerprint"])),)
    assert fingerprint.to_bytes(16).hex() == given["fingerprint"]


def test_merkle_tree() -> None:
    given = VECTORS["merkle"]
    keys = [hashlib.sha256(bytes([number])).digest() for number in range(max(given["keys"]))]
    versions = {key: [hashlib.sha256(key).digest()] for key in keys}
    assert merkle.digest_of(versions[keys[0]]) == bytes.fromhex(given["digest"])
    two = [*versions[keys[0]], hashlib.sha256(versions[keys[0]][0]).digest()]
    assert merkle.digest_of(two) == bytes.fromhex(given["digest_of_two"])
    assert given["fingerprints"] == [
        merkle.Tree({key: versions[key] for key in keys[:count]}).fingerprint().hex()
        for count in given["keys"]
    ]


def test_frame() -> None:
    given = VECTORS["frame"]
    tag, payload = codec.encode_message(Echo(given["data"].encode()))
    frame = framing.Frame(
        1, tag, framing.REQUEST, 0, given["message_id"], given["timestamp"], payload
    )
    assert framing.write_frame(frame).hex() == given["bytes"]


def test_beacon() -> None:
    given = VECTORS["beacon"]
    assert beacon.network_tag(given["network_name"]) == given["network"]
    shown = beacon.Beacon(
        identity("client").node_id, given["port"], given["network"], given["instance"]
    )
    assert beacon.write_beacon(shown).decode() == given["datagram"]
    assert beacon.write_beacon(attrs.evolve(shown, query=True)).decode() == given["query"]


def test_handshake() -> None:
    """Both sides' bytes, by the code and once more by what the page says, with hashlib."""
    given = VECTORS["handshake"]
    key = bytes.fromhex(given["network_key"])
    sides = {}
    for role in ("client", "server"):
        who = identity(role)
        record = PeerRecord(who.public_key, who.nonce, 1, role, (), (), 1)
        sides[role] = handshake.Handshake(
            handshake.Terms(
                identity=who,
                instance=bytes.fromhex(given[f"{role}_instance"]),
                network=given["network"],
                network_key=key,
                difficulty=VECTORS[role]["difficulty"],
            ),
            who.vouch(record),
            bytes.fromhex(given[f"{role}_nonce"]),
            bytes.fromhex(given["certificate"]),
            is_client=role == "client",
            dial_number=given["dial_number"] if role == "client" else 0,
        )
    client, server = sides["client"], sides["server"]
    hellos = {role: codec.encode(side.hello) for role, side in sides.items()}
    server.receive_hello(client.hello)
    client.receive_hello(server.hello)
    proofs = {role: side.proof() for role, side in sides.items()}
    client.receive_proof(proofs["server"])
    server.receive_proof(proofs["client"])

    framed = {role: len(hello).to_bytes(4, "big") + hello for role, hello in hellos.items()}
    said = {"client": framed["client"], "server": framed["client"] + framed["server"]}
    for role, proof in proofs.items():
        transcript = hashlib.sha256(LABEL + said[role]).digest()
        assert transcript.hex() == given[f"{role}_transcript"]
        what = LABEL + role.encode() + transcript
        assert hellos[role].hex() == given[f"{role}_hello"]
        assert proof.signature.hex() == given[f"{role}_signature"]
        assert proof.key_proof.hex() == given[f"{role}_key_proof"]
        assert proof.signature == identity(role).sign(what)
        assert proof.key_proof == hmac.digest(key, what, "sha256")
