"""The handshake, both machines joined back to back, with and without somebody in between."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import HandshakeRefused
from p2pd.wire import codec
from p2pd.wire.framing import MAX_HANDSHAKE_PAYLOAD
from p2pd.wire.handshake import Handshake, RemotePeer, Terms
from p2pd.wire.identity import Identity
from p2pd.wire.messages import Hello, PeerRecord, Proof, Signed
from p2pd.wire.reasons import Reason

CERTIFICATE = b"c" * 32
ALICE = Identity.mint(b"a" * 32, 0)
BOB = Identity.mint(b"b" * 32, 0)
MALLORY = Identity.mint(b"m" * 32, 0)

Tamper = Callable[[Hello], Hello]


def vouched(identity: Identity, **changes: Any) -> Signed:
    record = PeerRecord(identity.public_key, identity.nonce, 1, "name", (), (), 7)
    return identity.vouch(attrs.evolve(record, **changes))


def terms(identity: Identity, **changes: Any) -> Terms:
    instance = identity.public_key[:16]
    return attrs.evolve(Terms(identity=identity, instance=instance, network="home"), **changes)


def side(
    own: Terms,
    *,
    is_client: bool,
    nonce: bytes | None = None,
    certificate: bytes = CERTIFICATE,
    dial_number: int = 0,
    record: Signed | None = None,
) -> Handshake:
    return Handshake(
        own,
        record or vouched(own.identity),
        nonce or own.identity.public_key,
        certificate,
        is_client=is_client,
        dial_number=dial_number,
    )


def client(own: Terms | None = None, **changes: Any) -> Handshake:
    return side(own or terms(ALICE), is_client=True, **changes)


def server(own: Terms | None = None, **changes: Any) -> Handshake:
    return side(own or terms(BOB), is_client=False, **changes)


def same(hello: Hello) -> Hello:
    return hello


def join(
    one: Handshake, other: Handshake, to_other: Tamper = same, to_one: Tamper = same
) -> tuple[RemotePeer, RemotePeer]:
    """Run client `one` against server `other` to the end, as on a connection."""
    exchange_hellos(one, other, to_other, to_one)
    ones_peer = other.receive_proof(one.proof())
    return one.receive_proof(other.proof()), ones_peer


def exchange_hellos(
    one: Handshake, other: Handshake, to_other: Tamper = same, to_one: Tamper = same
) -> None:
    """Let each side have the other's hello."""
    other.receive_hello(to_other(one.hello))
    one.receive_hello(to_one(other.hello))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        act()
    assert not caught.value.by_peer
    assert str(caught.value)
    return caught.value.reason


def test_both_sides_know_each_other_at_the_end() -> None:
    seen_by_client, seen_by_server = join(client(dial_number=7), server())
    assert seen_by_client.node_id == BOB.node_id
    assert seen_by_server.node_id == ALICE.node_id
    assert seen_by_server.record.name == "name"
    assert seen_by_server.signed_record == vouched(ALICE)
    assert seen_by_server.instance == ALICE.public_key[:16]
    assert seen_by_client.instance == BOB.public_key[:16]


def test_the_dial_number_is_the_clients_on_both_sides() -> None:
    seen_by_client, seen_by_server = join(client(dial_number=7), server(dial_number=99))
    assert (seen_by_client.dial_number, seen_by_server.dial_number) == (7, 7)


def test_hellos_survive_the_wire() -> None:
    hello = client().hello
    assert codec.decode(Hello, codec.encode(hello)) == hello


def test_the_longest_hello_fits_before_the_handshake() -> None:
    longest = vouched(
        ALICE,
        nonce=(1 << 64) - 1,
        sequence=(1 << 63) - 1,
        issued=(1 << 63) - 1,
        name="n" * 64,
        addresses=("a" * 64,) * 16,
        roles=("r" * 64,) * 16,
    )
    wordy = terms(ALICE, network="n" * 64, capabilities=("c" * 64,) * 16)
    hello = client(wordy, record=longest, dial_number=(1 << 63) - 1).hello
    assert len(codec.encode(hello)) <= MAX_HANDSHAKE_PAYLOAD


@given(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd")))
@settings(max_examples=20)
def test_capabilities_intersect(ours: set[str], theirs: set[str]) -> None:
    one = client(terms(ALICE, capabilities=tuple(sorted(ours))))
    other = server(terms(BOB, capabilities=tuple(sorted(theirs))))
    assert [each.capabilities for each in join(one, other)] == [ours & theirs] * 2


versions = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)


@given(versions, versions)
def test_the_highest_common_version_or_a_refusal_on_both_sides(
    ours: list[int], theirs: list[int]
) -> None:
    one = client(terms(ALICE, min_version=ours[0], max_version=ours[1]))
    other = server(terms(BOB, min_version=theirs[0], max_version=theirs[1]))
    common = set(range(ours[0], ours[1] + 1)) & set(range(theirs[0], theirs[1] + 1))
    if common:
        assert [each.version for each in join(one, other)] == [max(common)] * 2
    else:
        assert refusal(lambda: other.receive_hello(one.hello)) == Reason.VERSION
        assert refusal(lambda: one.receive_hello(other.hello)) == Reason.VERSION


def test_a_hello_with_its_versions_upside_down_is_refused() -> None:
    upside_down = attrs.evolve(client().hello, min_version=2, max_version=1)
    assert refusal(lambda: server().receive_hello(upside_down)) == Reason.VERSION


def test_another_network_is_refused_on_both_sides() -> None:
    one, other = client(), server(terms(BOB, network="work"))
    assert refusal(lambda: other.receive_hello(one.hello)) == Reason.NETWORK
    assert refusal(lambda: one.receive_hello(other.hello)) == Reason.NETWORK


def test_the_text_of_a_refusal_by_network_is_true_on_both_sides() -> None:
    one, other = client(), server(terms(BOB, network="work"))
    with pytest.raises(HandshakeRefused) as refused:
        other.receive_hello(one.hello)
    assert "the one that is refused of 'home'" in str(refused.value)
    assert "the peer" not in str(refused.value)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(b"k" * 32, b"l" * 32), (b"k" * 32, b""), (b"", b"k" * 32)]
)
def test_without_the_network_key_one_is_refused_on_both_sides(ours: bytes, theirs: bytes) -> None:
    one = client(terms(ALICE, network_key=ours))
    other = server(terms(BOB, network_key=theirs))
    exchange_hellos(one, other)
    assert refusal(lambda: one.receive_proof(other.proof())) == Reason.NETWORK_KEY
    assert refusal(lambda: other.receive_proof(one.proof())) == Reason.NETWORK_KEY


def test_with_the_network_key_one_gets_in_and_the_key_does_not_travel() -> None:
    key = b"k" * 32
    one, other = client(terms(ALICE, network_key=key)), server(terms(BOB, network_key=key))
    assert [each.node_id for each in join(one, other)] == [BOB.node_id, ALICE.node_id]
    for each in (one, other):
        assert key not in codec.encode(each.proof()) + codec.encode(each.hello)


def test_a_key_proof_sent_back_to_its_maker_is_no_proof() -> None:
    key = b"k" * 32
    one, other = client(terms(ALICE, network_key=key)), server(terms(BOB, network_key=key))
    exchange_hellos(one, other)
    assert refusal(lambda: one.receive_proof(one.proof())) == Reason.NETWORK_KEY
    assert refusal(lambda: other.receive_proof(other.proof())) == Reason.NETWORK_KEY


@pytest.mark.parametrize(
    "record",
    [
        Signed(b"x", bytes(64)),
        Signed(vouched(ALICE).body, bytes(64)),
        Signed(vouched(ALICE).body, vouched(BOB).signature),
        MALLORY.vouch(PeerRecord(ALICE.public_key, 0, 1, "", (), (), 7)),
    ],
    ids=range(4),
)
def test_a_bad_record_is_refused(record: Signed) -> None:
    assert refusal(lambda: server().receive_hello(client(record=record).hello)) == Reason.RECORD


def test_too_cheap_an_identity_is_refused() -> None:
    asking = terms(BOB, difficulty=12)
    assert refusal(lambda: server(asking).receive_hello(client().hello)) == Reason.DIFFICULTY
    worked = Identity.mint(ALICE.private_key, 12)
    server(asking).receive_hello(client(terms(worked)).hello)


def test_oneself_is_known() -> None:
    one, other = client(), server(terms(ALICE))
    assert refusal(lambda: other.receive_hello(one.hello)) == Reason.ONESELF
    assert refusal(lambda: one.receive_hello(other.hello)) == Reason.ONESELF


def test_a_clone_is_told_apart_from_oneself_and_only_after_its_proof() -> None:
    one, other = client(), server(terms(ALICE, instance=b"another process!"))
    exchange_hellos(one, other)
    assert refusal(lambda: one.receive_proof(other.proof())) == Reason.IDENTITY_CLASH
    assert refusal(lambda: other.receive_proof(one.proof())) == Reason.IDENTITY_CLASH


def test_somebody_who_only_claims_to_be_us_is_no_clash() -> None:
    liar = side(terms(MALLORY), is_client=True, record=vouched(ALICE))
    victim = server(terms(ALICE))
    victim.receive_hello(liar.hello)
    assert refusal(lambda: victim.receive_proof(liar.proof())) == Reason.SIGNATURE


def test_the_claimed_id_is_known_before_the_proof() -> None:
    other = server(terms(BOB, network="work"))
    assert other.claimed is None
    refusal(lambda: other.receive_hello(client().hello))
    assert other.claimed == ALICE.node_id


def test_two_certificates_are_a_man_in_the_middle() -> None:
    one, other = client(certificate=b"m" * 32), server()
    assert refusal(lambda: other.receive_hello(one.hello)) == Reason.MAN_IN_THE_MIDDLE
    assert refusal(lambda: one.receive_hello(other.hello)) == Reason.MAN_IN_THE_MIDDLE


def with_certificate(certificate: bytes) -> Tamper:
    return lambda hello: attrs.evolve(hello, certificate=certificate)


def test_rewriting_the_certificate_in_one_hello_does_not_help() -> None:
    # The client saw the certificate of the man in the middle, who hides that from the server.
    one, other = client(certificate=b"m" * 32), server()
    fix = with_certificate(CERTIFICATE)
    assert refusal(lambda: join(one, other, to_other=fix)) == Reason.MAN_IN_THE_MIDDLE


def test_rewriting_the_certificate_in_both_hellos_does_not_help() -> None:
    one, other = client(certificate=b"m" * 32), server()
    exchange_hellos(one, other, with_certificate(CERTIFICATE), with_certificate(b"m" * 32))
    assert refusal(lambda: one.receive_proof(other.proof())) == Reason.SIGNATURE
    assert refusal(lambda: other.receive_proof(one.proof())) == Reason.SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": b"n" * 32},
        {"capabilities": ()},
        {"instance": b"i" * 16},
        {"dial_number": 8},
        {"max_version": 200},
        {"min_version": 0},
        {"record": vouched(ALICE, name="other")},
    ],
    ids=str,
)
def test_nothing_in_a_hello_can_be_rewritten_on_its_way(changes: dict[str, Any]) -> None:
    one, other = client(dial_number=7), server()
    exchange_hellos(one, other, lambda hello: attrs.evolve(hello, **changes))
    assert refusal(lambda: one.receive_proof(other.proof())) == Reason.SIGNATURE
    assert refusal(lambda: other.receive_proof(one.proof())) == Reason.SIGNATURE


@pytest.mark.parametrize(
    "changes", [{"nonce": b"n" * 32}, {"capabilities": ()}, {"max_version": 200}], ids=str
)
def test_nothing_in_a_servers_hello_can_be_rewritten_on_its_way(changes: dict[str, Any]) -> None:
    one, other = client(), server()
    exchange_hellos(one, other, to_one=lambda hello: attrs.evolve(hello, **changes))
    assert refusal(lambda: one.receive_proof(other.proof())) == Reason.SIGNATURE


def test_what_a_server_said_is_of_no_use_against_a_fresh_nonce() -> None:
    one, other = client(), server()
    exchange_hellos(one, other)
    again = client(nonce=b"fresh" + bytes(27))
    again.receive_hello(other.hello)
    assert refusal(lambda: again.receive_proof(other.proof())) == Reason.SIGNATURE


def test_what_a_client_said_is_of_no_use_against_another_certificate() -> None:
    said, again = client(), server(certificate=b"d" * 32)
    assert refusal(lambda: again.receive_hello(said.hello)) == Reason.MAN_IN_THE_MIDDLE
    again.receive_hello(with_certificate(b"d" * 32)(said.hello))
    assert refusal(lambda: again.receive_proof(said.proof())) == Reason.SIGNATURE


def test_a_proof_sent_back_to_its_maker_is_no_proof() -> None:
    # An attacker who sends everything back: the same instance would be "self", so he changes it.
    victim = client()
    reflected = attrs.evolve(victim.hello, instance=b"i" * 16)
    victim.receive_hello(reflected)
    assert refusal(lambda: victim.receive_proof(victim.proof())) == Reason.SIGNATURE


def test_another_ones_proof_is_no_proof() -> None:
    one, other = client(), server()
    other.receive_hello(one.hello)
    stranger = client(terms(MALLORY))
    assert refusal(lambda: other.receive_proof(stranger.proof())) == Reason.SIGNATURE


def test_a_proof_before_the_hello_is_refused() -> None:
    assert refusal(lambda: server().receive_proof(Proof(bytes(64), b""))) == Reason.PROTOCOL


@given(st.binary(min_size=64, max_size=64), st.binary(max_size=32))
@settings(max_examples=30)
def test_no_made_up_proof_passes(signature: bytes, key_proof: bytes) -> None:
    other = server(terms(BOB, network_key=b"k" * 32))
    other.receive_hello(client(terms(ALICE, network_key=b"k" * 32)).hello)
    assert refusal(lambda: other.receive_proof(Proof(signature, key_proof))) == Reason.NETWORK_KEY
    open_ = server()
    open_.receive_hello(client().hello)
    assert refusal(lambda: open_.receive_proof(Proof(signature, b""))) == Reason.SIGNATURE
