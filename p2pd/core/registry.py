"""The peer registry: all peers this node heard of, what came of them, and whom to dial.

Bounded so that it can't be flushed (after Bitcoin Core's address manager): a peer that was ever
connected yields its place only to another that was, and of those that never were, each source and
each public network may fill only a share.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator

from p2pd.address import Address, unscoped
from p2pd.core.entries import Backoff, Entry, Source, Status
from p2pd.core.hearsay import MAX_PER_NETWORK, Hearsay, network_of, public_network
from p2pd.ids import NodeId
from p2pd.wire.messages import PeerRecord, Signed

MAX_ENTRIES = 4096
MAX_UNPROVEN = 2048
MAX_ADDRESSES = 8
MAX_UNIDENTIFIED = Counter(
    {Source.BOOTSTRAP: 256, Source.SEED: 256, Source.MANUAL: 16, Source.MULTICAST: 4}
)
# Peers from before a restart that are dialled first: an attacker that would isolate a node by
# filling its tables has to do so while these are connected (Bitcoin Core, anchors.dat).
ANCHORS = 2
# A peer that failed this often in a row is dialled only when no better one is left.
_HOPELESS_AFTER = 8


class Registry:
    """All known peers, by node ID, and configured addresses that have not answered yet."""

    def __init__(self, own_id: NodeId, backoff: Backoff, rng: random.Random) -> None:
        self.backoff = backoff
        self._own_id = own_id
        self._rng = rng
        self._entries: dict[NodeId, Entry] = {}
        self._unidentified: dict[Address, Entry] = {}
        # Of proven peers only, those that were displaced included.
        self._changed: set[NodeId] = set()
        self._hearsay = Hearsay()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        yield from self._entries.values()
        yield from self._unidentified.values()

    def get(self, node_id: NodeId) -> Entry | None:
        """Return the entry of a peer, or None."""
        return self._entries.get(node_id)

    def counts(self) -> Counter[Status]:
        """Count the entries of each status."""
        return Counter(entry.status for entry in self)

    def heard(
        self,
        node_id: NodeId,
        address: Address,
        source: Source,
        wall: float,
    ) -> Entry | None:
        """Note that a peer is said to be at an address.

        Returns its entry, or None for this node itself and where the bounds leave no room.
        """
        if node_id == self._own_id:
            return None
        entry = self._entries.get(node_id) or self._admit(
            node_id, Entry(node_id, source, wall, addresses=[address])
        )
        if entry is not None:
            # What a peer signs comes first once it is learned, and where it answers once it does.
            best = entry.addresses[0] if entry.signed is not None and entry.addresses else None
            # Many lies in a row displace each other, not what is known to be true.
            if address not in entry.addresses and len(entry.addresses) >= MAX_ADDRESSES:
                del entry.addresses[1]
            _put_first(entry.addresses, address)
            # Nor do they come before that.
            if best is not None and address not in entry.answered:
                _put_first(entry.addresses, best)
        return entry

    def learn(
        self,
        signed: Signed,
        record: PeerRecord,
        addresses: Iterable[Address],
        source: Source,
        wall: float,
        *,
        told_by: NodeId | None = None,
    ) -> Entry | None:
        """Note a peer's own, verified record; one older than the known one changes nothing.

        `addresses` are those of the record that make sense from here. Returns the entry, or None
        for this node itself and where the bounds leave no room.
        """
        node_id = NodeId.of(record.public_key)
        usable = list(addresses)[:MAX_ADDRESSES]
        if node_id == self._own_id:
            return None
        entry = self._entries.get(node_id)
        if entry is None:
            entry = self._admit(node_id, Entry(node_id, source, wall, told_by, addresses=[*usable]))
        news = entry is not None and record.sequence > entry.sequence
        if entry is not None and news and self._hearsay.move(node_id, entry, usable):
            _take_record(entry, signed, record)
            # It was started again, or has another address.
            entry.left = False
            # What worked or was heard recently is kept after what the peer itself says.
            for address in reversed(usable):
                _put_first(entry.addresses, address)
            if entry.proven:
                self._changed.add(node_id)
        return entry

    def configured(self, address: Address, source: Source, wall: float) -> Entry | None:
        """Note an address of the configuration or a user whose node is not known yet.

        Returns the entry that already has the address, or a new one; None when full. Each source
        has its own bound.
        """
        # That a peer claims the address as its own is not enough: anybody could.
        for entry in self:
            if address in (entry.addresses if entry.node_id is None else entry.answered):
                return entry
        same_source = sum(each.source is source for each in self._unidentified.values())
        if same_source >= MAX_UNIDENTIFIED[source]:
            return None
        entry = Entry(None, source, wall, addresses=[address])
        self._unidentified[address] = entry
        return entry

    def identified(self, address: Address, node_id: NodeId) -> None:
        """Note that the known peer `node_id` answered at a configured address."""
        self._unidentified.pop(address, None)
        self.answered(node_id, address)

    def forget_unidentified(self, source: Source, keep: Iterable[Address]) -> None:
        """Drop the addresses of a source that have no node yet, except those to `keep`."""
        kept = set(keep)
        for address, entry in list(self._unidentified.items()):
            if entry.source is source and address not in kept:
                del self._unidentified[address]

    def connected(
        self,
        signed: Signed,
        record: PeerRecord,
        source: Source,
        wall: float,
        *,
        remote: Address,
        dialled: bool,
        passing: bool = False,
    ) -> Entry:
        """Note a finished handshake with the peer at `remote`, and whether we dialled it.

        A connection in passing does not undo that a user asked for the end of the last one.
        A proven peer always finds a place: when full, the worst entry is evicted; if the peer's
        public network already fills its share, the worst of that network.
        """
        node_id = NodeId.of(record.public_key)
        first = self._unidentified.pop(remote, None) if dialled else None
        entry = self._entries.get(node_id)
        if entry is None:
            entry = first or Entry(node_id, source, wall)
            entry.node_id = node_id
            self._make_room(public_network(remote))
            self._entries[node_id] = entry
        self._hearsay.discard(node_id)
        # Fresh from its owner: it counts even if the owner's clock was set back and its sequence is
        # smaller.
        _take_record(entry, signed, record)
        entry.status = Status.CONNECTED
        entry.success_count += 1
        entry.failures_before, entry.failures_in_row = entry.failures_in_row, 0
        entry.dead = entry.left = entry.anchor = False
        entry.last_seen = wall
        entry.last_error = None
        entry.reasons.clear()
        self._note_connection(entry, remote, dialled=dialled, passing=passing)
        return entry

    def reconnected(
        self,
        signed: Signed,
        record: PeerRecord,
        *,
        remote: Address,
        dialled: bool,
        passing: bool,
    ) -> Entry:
        """Note a connection that replaces another one to the same process.

        It may come from elsewhere, with a newer record.
        """
        entry = self._entries[NodeId.of(record.public_key)]
        if record.sequence > entry.sequence:
            _take_record(entry, signed, record)
        self._note_connection(entry, remote, dialled=dialled, passing=passing)
        return entry

    def _note_connection(
        self, entry: Entry, remote: Address, *, dialled: bool, passing: bool
    ) -> None:
        entry.last_host, entry.network = remote.host, public_network(remote)
        if dialled:
            _note_answered(entry, remote)
        if not (passing and entry.parted):
            entry.retry_at, entry.parted = 0.0, False
        if entry.node_id is not None:
            self._changed.add(entry.node_id)

    def answered(self, node_id: NodeId, address: Address) -> None:
        """Note that a peer answered at an address while it was already connected."""
        entry = self._entries.get(node_id)
        if entry is not None:
            _note_answered(entry, address)
            self._changed.add(node_id)

    def disconnected(
        self,
        node_id: NodeId,
        reason: str | None,
        wall: float,
        now: float,
        *,
        on_request: bool = False,
        left: bool = False,
    ) -> Entry:
        """Note that a connection ended, `left` if the peer is stopping; returns the entry.

        `reason`: why; None if this node is stopping, which is no error of the peer's. The first
        redial waits only the least delay, or the longest if a user on either side asked for the
        end.
        """
        entry = self._entries[node_id]
        entry.status = Status.DISCONNECTED
        entry.left = left
        entry.last_seen = wall
        if reason is not None:
            entry.last_error = reason
        if on_request or not entry.parted:
            pause = self.backoff.most if on_request else self.backoff.delay(1, self._rng)
            entry.retry_at = now + pause
        entry.parted |= on_request
        self._changed.add(node_id)
        return entry

    def failed(self, entry: Entry, reason: str, now: float) -> None:
        """Note a dial that failed, and when to try again."""
        entry.fail_count += 1
        entry.failures_in_row += 1
        entry.anchor = False
        entry.last_error = reason
        entry.retry_at = now + self.backoff.delay(entry.failures_in_row, self._rng)
        entry.parted = False
        if entry.node_id is not None:
            if entry.proven:
                self._changed.add(entry.node_id)
        elif entry.source is Source.MULTICAST and entry.failures_in_row >= _HOPELESS_AFTER:
            # A beacon may be forged, and a real one comes again.
            self._unidentified = {
                at: each for at, each in self._unidentified.items() if each is not entry
            }

    def refused_us(self, entry: Entry, reason: str, code: str, now: float) -> None:
        """Note that a peer that had dialled us refused us at the end of the handshake.

        It was no connection after all, and the next dial waits as long as it would have.
        """
        entry.failures_in_row = entry.failures_before
        entry.reasons.add(code)
        self.failed(entry, reason, now)

    def refused(self, node_id: NodeId, reason: str, wall: float) -> None:
        """Note that we refused an inbound peer that claimed, without proof, to be `node_id`."""
        if node_id == self._own_id:
            return
        entry = self._entries.get(node_id) or self._admit(
            node_id, Entry(node_id, Source.INBOUND, wall)
        )
        if entry is not None and entry.status is not Status.CONNECTED:
            entry.last_error = reason

    def left(self, node_id: NodeId) -> None:
        """Note that a node said goodbye: it is no news then that it can't be reached.

        If it was held dead, it was not: when it is back, nobody will revive it.
        """
        entry = self._entries.get(node_id)
        if entry is not None:
            entry.left, entry.dead = True, False

    def died(self, node_id: NodeId) -> None:
        """Note that a node is held dead: it is passed on to nobody, and dialled last."""
        entry = self._entries.get(node_id)
        if entry is not None:
            entry.dead = True

    def revived(self, node_id: NodeId) -> None:
        """Note that a node that was held dead is alive: its backoff is cut short."""
        entry = self._entries.get(node_id)
        if entry is not None and entry.dead:
            entry.dead = False
            self.retry_by(entry, 0.0)

    def retry_by(self, entry: Entry, at: float) -> None:
        """Cut an entry's backoff short, so that it ends at `at` (monotonic) at the latest.

        Where no dial is planned yet, the first one waits until then; one that is planned is never
        put off. Nothing changes where a user asked for the end of the connection.
        """
        if not entry.parted:
            # A peer that is heard again and again would never be dialled if it were put off each
            # time.
            entry.retry_at = min(entry.retry_at or at, at)
            entry.failures_in_row = min(entry.failures_in_row, 1)

    def retry_all(self) -> None:
        """Cut all backoffs short: what failed may succeed by now."""
        for entry in self:
            self.retry_by(entry, 0.0)

    def postpone(self, entry: Entry, until: float) -> None:
        """Do not dial before `until` (monotonic), for a reason that is not the peer's."""
        entry.retry_at = max(entry.retry_at, until)

    def candidates(self, now: float) -> list[Entry]:
        """Return whom to dial now, best first: not connected, not being dialled, not backing off.

        Configured addresses first, then peers that were good, then those heard of on the
        LAN, then hearsay; the hopeless and the dead last. Among equals, those in public networks
        without a connected peer come first, else at random.
        """
        held = {each.network for each in self if each.status is Status.CONNECTED} - {None}
        ready = [
            entry
            for entry in self
            if entry.status is not Status.CONNECTED
            and not entry.dialling
            and entry.addresses
            and entry.retry_at <= now
        ]
        ready.sort(key=lambda entry: (self._rank(entry), entry.network in held, self._rng.random()))
        return ready

    def next_retry(self, now: float) -> float | None:
        """Return the earliest moment after `now` at which a backoff ends, or None."""
        return min(
            (
                entry.retry_at
                for entry in self
                if entry.status is not Status.CONNECTED and entry.retry_at > now
            ),
            default=None,
        )

    def sample(self, count: int, exclude: NodeId | None) -> list[Signed]:
        """Pick signed records to pass on: of connected peers first, then of proven ones.

        None of those that are dead or have left, and from as many different public networks as
        there are.
        """
        connected: list[Entry] = []
        others: list[Entry] = []
        for entry in self._entries.values():
            gone = entry.dead or entry.left
            if entry.proven and not gone and entry.node_id != exclude:
                (connected if entry.status is Status.CONNECTED else others).append(entry)
        # Enough to choose from, without shuffling a large table for each question.
        pool = self._rng.sample(connected, min(2 * count, len(connected)))
        pool += self._rng.sample(others, min(2 * count, len(others)))
        seen: set[str] = set()
        diverse: list[Signed] = []
        rest: list[Signed] = []
        for entry in pool:
            if entry.signed is not None:
                (rest if entry.network in seen else diverse).append(entry.signed)
                if entry.network is not None:
                    seen.add(entry.network)
        return (diverse + rest)[:count]

    def choose_anchors(self) -> None:
        """Let the peers that were connected last be dialled first; call it after a load."""
        known = sorted(self._entries.values(), key=lambda each: each.last_seen or 0, reverse=True)
        for entry in known[:ANCHORS]:
            entry.anchor = True

    def restore(self, entry: Entry) -> None:
        """Take an entry from disk, which may have been another node's."""
        if entry.node_id not in {None, self._own_id} and len(self._entries) < MAX_ENTRIES:
            entry.network = network_of(entry.answered or entry.addresses)
            self._entries[entry.node_id] = entry

    def take_changes(self) -> tuple[list[tuple[NodeId, Entry]], list[NodeId]]:
        """Return what to write to disk, and what to delete there, since the last call.

        Hearsay is not kept over a restart.
        """
        known: list[tuple[NodeId, Entry]] = []
        gone: list[NodeId] = []
        for node_id in sorted(self._changed):
            entry = self._entries.get(node_id)
            # One that was displaced may have been heard of again meanwhile.
            if entry is not None and entry.proven:
                known.append((node_id, entry))
            else:
                gone.append(node_id)
        self._changed = set()
        return known, gone

    def not_saved(self, node_ids: Iterable[NodeId]) -> None:
        """Give back changes that were taken but did not reach the disk."""
        self._changed.update(node_ids)

    def _rank(self, entry: Entry) -> int:
        if entry.failures_in_row >= _HOPELESS_AFTER or entry.dead:
            return 4
        if entry.node_id is None or entry.source is Source.MANUAL or entry.anchor:
            return 0
        if entry.proven:
            return 1
        return 2 if entry.source is Source.MULTICAST else 3

    def _admit(self, node_id: NodeId, entry: Entry) -> Entry | None:
        """Find a place for a peer that is only hearsay, or None."""
        entry.network = network_of(entry.addresses)
        if self._hearsay.is_crowded(entry.network):
            failed = self._hearsay.dialled_in_vain(entry.network)
            if failed is None:
                return None
            self._drop(failed)
        full = len(self._entries) >= MAX_ENTRIES or len(self._hearsay) >= MAX_UNPROVEN
        victim = self._hearsay.displaced_by(entry, full=full)
        if victim is not None:
            self._drop(victim)
        elif full:
            return None
        self._entries[node_id] = entry
        self._hearsay.add(node_id, entry)
        return entry

    def _make_room(self, network: str | None) -> None:
        if len(self._entries) < MAX_ENTRIES:
            return
        idle = [each for each in self._entries.items() if each[1].status is not Status.CONNECTED]
        # If all of it is connected, the bounds on connections bound the table, too.
        if not idle:
            return
        neighbours = sum(each.network == network for each in self._entries.values())
        crowded = network is not None and neighbours >= MAX_PER_NETWORK
        inside = [each for each in idle if crowded and each[1].network == network]
        self._drop(min(inside or idle, key=_worth)[0])

    def _drop(self, node_id: NodeId) -> None:
        self._hearsay.discard(node_id)
        # Only proven peers are on disk: made-up peers must not cause a write each.
        if self._entries.pop(node_id).proven:
            self._changed.add(node_id)


def _worth(item: tuple[NodeId, Entry]) -> tuple[bool, int, float]:
    """Order entries by what would be lost with them: unproven, failing, oldest first."""
    entry = item[1]
    return (entry.proven, -entry.failures_in_row, entry.last_seen or entry.first_seen)


def _put_first(addresses: list[Address], address: Address) -> None:
    if address in addresses:
        addresses.remove(address)
    addresses.insert(0, address)
    del addresses[MAX_ADDRESSES:]


def _note_answered(entry: Entry, address: Address) -> None:
    # An interface that was plugged in anew has another index: the one before leads nowhere.
    entry.addresses[:] = [each for each in entry.addresses if not _differ_in_scope(each, address)]
    entry.answered = tuple(each for each in entry.answered if not _differ_in_scope(each, address))
    _put_first(entry.addresses, address)
    if address not in entry.answered:
        entry.answered = (address, *entry.answered)[:MAX_ADDRESSES]


def _differ_in_scope(one: Address, other: Address) -> bool:
    same = (unscoped(one.host), one.port) == (unscoped(other.host), other.port)
    return same and one != other


def _take_record(entry: Entry, signed: Signed, record: PeerRecord) -> None:
    entry.signed, entry.sequence = signed, record.sequence
    entry.name = record.name or None
