"""The Kademlia routing table (Maymounkov, Mazieres 2002, sections 2.2 and 2.4).

256 buckets, one for each bit length of the distance, made when first needed. A bucket keeps up to k
contacts, least recently heard from first; when it is full, a newcomer waits in its replacement
cache. Where fewer than k contacts are nearer, a bucket keeps more than k, so that a node knows all
that are around it. A contact leaves only when it fails and another waits for its place, so that an
outage empties no table. One that never answered a dial leaves when it fails, even if none waits,
and yields to one that did answer a dial.

One network (/24, /48) has at most `MAX_IN_BUCKET` places in a bucket and `MAX_IN_TABLE` in all:
addresses in many networks cost more than keys (S/Kademlia, section 4.1, on eclipse attacks). A
contact that moves to a network without a place leaves, too.
"""

import random
from collections.abc import Callable, Iterator
from itertools import chain, islice

import attrs

from p2pd.ids import ID_BITS, ID_BYTES, NodeId, distance, distance_bits, distance_to
from p2pd.wire.messages import Signed

MAX_FAILURES = 2
MAX_IN_BUCKET = 2
MAX_IN_TABLE = 10
# Nodes keep all contacts in a subtree of at least k nodes (section 2.4, "highly unbalanced trees"):
# otherwise one node in nine has more than k neighbours in the bucket that completes it, and those
# that wait there would be replicas that the node closest to a key knows nothing of. With IDs drawn
# at random, and k = 20, up to 37 were seen in that bucket; far more are of somebody who chose them.
MOST_NEAR = 4


@attrs.define(eq=False)
class Contact:
    """A node that a lookup can ask: proven by a connection, with its signed record.

    `heard_at` is when it last gave a sign of life, monotonic; `network` the one for whose limits it
    counts, or None; `dialable`: it answered at an address that was dialled.
    """

    node_id: NodeId
    signed: Signed
    heard_at: float = 0.0
    network: str | None = None
    dialable: bool = True
    failures: int = 0

    @property
    def is_failing(self) -> bool:
        """Whether it failed so often that another may take its place."""
        return self.failures >= MAX_FAILURES


@attrs.define
class _Bucket:
    """Contacts and replacement cache, both least recently heard from first.

    `looked_up_at` is when an ID in its range was last looked up, monotonic.
    """

    looked_up_at: float
    contacts: dict[NodeId, Contact] = attrs.field(factory=dict)
    replacements: dict[NodeId, Contact] = attrs.field(factory=dict)


class RoutingTable:
    """Contacts of `own_id`: at most `k` in a bucket, more in the nearest; `k` wait for each.

    `now` is the monotonic time at which it is made.
    """

    def __init__(self, own_id: NodeId, k: int, now: float = 0.0) -> None:
        self._own_id = own_id
        self._k = k
        self._made_at = now
        self._buckets: dict[int, _Bucket] = {}

    def __len__(self) -> int:
        return sum(len(bucket.contacts) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self._buckets.values():
            yield from bucket.contacts.values()

    def heard_from(
        self,
        node_id: NodeId,
        signed: Signed,
        now: float = 0.0,
        *,
        network: str | None = None,
        dialable: bool = True,
    ) -> None:
        """Note a sign of life: the contact becomes the most recent of its bucket.

        If the bucket is full, it waits in the replacement cache; when that is full, too, the oldest
        is evicted. If its network already has enough places, it is not taken.
        """
        if node_id == self._own_id:
            return
        bits = distance_bits(self._own_id, node_id)
        bucket = self._buckets.setdefault(bits, _Bucket(self._made_at))
        contact = bucket.contacts.get(node_id)
        if contact is not None:
            if contact.network != network and self._is_crowded(bucket, network):
                # It moved to a network that has enough places already.
                self._replace(bucket, contact, list(bucket.replacements.values()))
                bucket.contacts.pop(node_id, None)
                return
            contact.network = network
            contact.signed, contact.failures, contact.heard_at = signed, 0, now
            contact.dialable |= dialable
            bucket.contacts[node_id] = bucket.contacts.pop(node_id)
            return
        bucket.replacements.pop(node_id, None)
        if self._is_crowded(bucket, network):
            return
        contact = Contact(node_id, signed, now, network, dialable)
        if len(bucket.contacts) < self._k or self._may_grow(bucket, bits):
            bucket.contacts[node_id] = contact
            return
        bucket.replacements[node_id] = contact
        if len(bucket.replacements) > self._k:
            del bucket.replacements[next(iter(bucket.replacements))]
        self._replace_failing(bucket)

    def failed(self, node_id: NodeId, *, connected: bool = False) -> None:
        """Note that a node did not answer; it is dropped if it fails often and another waits.

        One that was never dialled successfully is then dropped in any case, unless it is connected.
        """
        bucket = self._buckets.get(distance_bits(self._own_id, node_id))
        if bucket is None:
            return
        bucket.replacements.pop(node_id, None)
        contact = bucket.contacts.get(node_id)
        if contact is not None:
            contact.failures += 1
            self._replace_failing(bucket)
            if contact.is_failing and not (contact.dialable or connected):
                bucket.contacts.pop(node_id, None)

    def to_probe(self, before: float) -> list[Contact]:
        """Return whom to probe: from each bucket the contact least recently heard from.

        Only if it was not heard from since `before`, and if another waits for its place (Kademlia,
        section 2.2) or it never proved that it can be dialled.
        """
        oldest = [
            (next(iter(bucket.contacts.values())), bucket)
            for bucket in self._buckets.values()
            if bucket.contacts
        ]
        return [
            contact
            for contact, bucket in oldest
            if contact.heard_at < before and (bucket.replacements or not contact.dialable)
        ]

    def looked_up(self, target: bytes, now: float) -> None:
        """Note that `target` is being looked up: this refreshes the bucket of its range."""
        bucket = self._buckets.get(distance_bits(self._own_id, target))
        if bucket is not None:
            bucket.looked_up_at = now

    def to_refresh(self, before: float, rng: random.Random) -> list[bytes]:
        """Return a random ID in each bucket whose range was not looked up since `before`.

        Kademlia, section 2.3.
        """
        own = int.from_bytes(self._own_id)
        return [
            (own ^ 1 << (bits - 1) ^ rng.getrandbits(bits - 1)).to_bytes(ID_BYTES)
            for bits, bucket in self._buckets.items()
            if bucket.looked_up_at < before
        ]

    def closest(
        self, target: bytes, count: int, *, but_for: Callable[[NodeId], bool] = lambda _: False
    ) -> list[Contact]:
        """Return the `count` contacts closest to `target`, closest first.

        Contacts for which `but_for` holds are left out.
        """
        away = distance_to(target)
        closest_first = sorted(self, key=lambda contact: away(contact.node_id))
        return list(islice((each for each in closest_first if not but_for(each.node_id)), count))

    def radius(self, count: int) -> int:
        """Return a distance from any point within which about `count` nodes lie: the density.

        If fewer contacts are known, it is the greatest possible distance.
        """
        around = self.closest(self._own_id, count)
        known = len(around) == count
        return distance(around[-1].node_id, self._own_id) if known else 2**ID_BITS

    def _may_grow(self, bucket: _Bucket, bits: int) -> bool:
        """Whether a bucket of k may have one more: fewer than k are nearer, and nobody fails."""
        failing = any(each.is_failing for each in bucket.contacts.values())
        if failing or len(bucket.contacts) >= MOST_NEAR * self._k:
            return False
        nearer = chain.from_iterable(
            each.contacts.values() for other, each in self._buckets.items() if other < bits
        )
        return sum(not each.is_failing for each in nearer) < self._k

    def _is_crowded(self, bucket: _Bucket, network: str | None) -> bool:
        if network is None:
            return False
        inside = [*bucket.contacts.values(), *bucket.replacements.values()]
        return sum(each.network == network for each in inside) >= MAX_IN_BUCKET or self._is_full_of(
            network
        )

    def _is_full_of(self, network: str | None) -> bool:
        return network is not None and sum(each.network == network for each in self) >= MAX_IN_TABLE

    def _replace_failing(self, bucket: _Bucket) -> None:
        for contact in [each for each in bucket.contacts.values() if each.is_failing]:
            self._replace(bucket, contact, list(bucket.replacements.values()))
        for contact in [each for each in bucket.contacts.values() if not each.dialable]:
            better = [each for each in bucket.replacements.values() if each.dialable]
            self._replace(bucket, contact, better)

    def _replace(self, bucket: _Bucket, contact: Contact, waiting: list[Contact]) -> None:
        """Give a contact's place to the one heard from last among some that wait."""
        allowed = [each for each in waiting if not self._is_full_of(each.network)]
        if allowed:
            del bucket.contacts[contact.node_id]
            del bucket.replacements[allowed[-1].node_id]
            bucket.contacts[allowed[-1].node_id] = allowed[-1]
