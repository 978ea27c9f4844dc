"""The Kademlia routing table (Maymounkov, Mazieres 2002, sections 2.2 and 2.4).

256 buckets, one for each length of the distance, made when first needed. A bucket keeps up
to k contacts, least recently heard from first; who finds it full waits in its replacement
cache. A contact leaves only when it fails and somebody waits for its place, so that an
outage empties no table.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import attrs

from p2pd.ids import ID_BITS, ID_BYTES, NodeId, distance, distance_bits
from p2pd.wire.messages import Signed

MAX_FAILURES = 2


@attrs.define(eq=False)
class Contact:
    """A node that a lookup can ask: proven by a connection, with its signed record."""

    node_id: NodeId
    signed: Signed
    failures: int = 0


@attrs.define
class _Bucket:
    """Contacts and replacement cache, both least recently heard from first.

    `looked_up_at` is when somewhere in its range was last looked up, monotonic.
    """

    looked_up_at: float
    contacts: dict[NodeId, Contact] = attrs.field(factory=dict)
    replacements: dict[NodeId, Contact] = attrs.field(factory=dict)


class RoutingTable:
    """Contacts of `own_id`, at most `k` in a bucket and as many waiting.

    `now` is the monotonic time of its making.
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

    def heard_from(self, node_id: NodeId, signed: Signed) -> None:
        """Note a sign of life: the contact becomes the most recent of its bucket.

        Where the bucket is full, it waits in the replacement cache, whose oldest goes.
        """
        if node_id == self._own_id:
            return
        bits = distance_bits(self._own_id, node_id)
        bucket = self._buckets.setdefault(bits, _Bucket(self._made_at))
        contact = bucket.contacts.pop(node_id, None)
        if contact is not None:
            contact.signed, contact.failures = signed, 0
            bucket.contacts[node_id] = contact
            return
        bucket.replacements.pop(node_id, None)
        contact = Contact(node_id, signed)
        if len(bucket.contacts) < self._k:
            bucket.contacts[node_id] = contact
            return
        bucket.replacements[node_id] = contact
        if len(bucket.replacements) > self._k:
            del bucket.replacements[next(iter(bucket.replacements))]
        self._replace_failing(bucket)

    def failed(self, node_id: NodeId) -> None:
        """Note that a node did not answer; it goes if it fails often and another waits."""
        bucket = self._buckets.get(distance_bits(self._own_id, node_id))
        if bucket is None:
            return
        bucket.replacements.pop(node_id, None)
        contact = bucket.contacts.get(node_id)
        if contact is not None:
            contact.failures += 1
            self._replace_failing(bucket)

    def looked_up(self, target: bytes, now: float) -> None:
        """Note that `target` is being looked up: that refreshes the bucket of its range."""
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

        Those are left out for whom `but_for` holds.
        """
        closest_first = sorted(self, key=lambda contact: distance(contact.node_id, target))
        return list(islice((each for each in closest_first if not but_for(each.node_id)), count))

    def radius(self, count: int) -> int:
        """Return a distance of which about `count` nodes are closer to any point: the density.

        It is the greatest there is where fewer contacts are known.
        """
        around = self.closest(self._own_id, count)
        known = len(around) == count
        return distance(around[-1].node_id, self._own_id) if known else 2**ID_BITS

    def _replace_failing(self, bucket: _Bucket) -> None:
        failing = [each for each in bucket.contacts.values() if each.failures >= MAX_FAILURES]
        for contact in failing[: len(bucket.replacements)]:
            del bucket.contacts[contact.node_id]
            node_id, newest = bucket.replacements.popitem()
            bucket.contacts[node_id] = newest
