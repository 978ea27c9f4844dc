"""How publications spread: a tree of eager links, with the lazy ones as its safety net.

Plumtree (Leitao, Pereira, Rodrigues 2007, "Epidemic Broadcast Trees"). A new publication is
pushed over the eager links and announced over all others. A duplicate makes its link lazy,
so that the eager links become a spanning tree; an announcement whose publication does not
come makes the link eager again, so that the tree heals. What is still missing after that is found
by comparing digests (anti-entropy, Demers et al. 1987), and pulled.
"""

import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import attrs

from p2pd.core.announcements import Announcements
from p2pd.core.bounded import BoundedTable
from p2pd.core.budget import Budgets
from p2pd.core.declined import Declined
from p2pd.core.history import History, Item, Place
from p2pd.core.missing import GRAFT_AFTER, Missing
from p2pd.core.offers import Offers
from p2pd.core.shortcuts import Shortcuts
from p2pd.ids import NodeId
from p2pd.wire.messages import (
    MAX_IDS,
    Digest,
    Gossip,
    Graft,
    Have,
    Held,
    Message,
    Prune,
    Want,
)

# For this many seconds after a `Graft` or a `Prune`, copies sent before it may still arrive: a
# duplicate says nothing about the link then.
GRAFT_GRACE = 0.5
# Digests of one peer that are answered: burst, then rate per second. Comparing one takes some
# milliseconds where most of what is retained is on one account, and many answers are long.
DIGESTS_AT_ONCE = 4
DIGESTS_PER_SECOND = 0.5
# Peers whose budget for that is remembered; beyond that, the one that asked longest ago starts
# anew.
MAX_DIGESTERS = 1024
MAX_CHUNKS = 8
NEWEST_CHUNKS = MAX_CHUNKS // 4
# Publications that were pulled recently. When full, the oldest is forgotten: its copy over the tree
# is then a duplicate like any other.
MAX_PULLED = 256
_MAX_HOPS = 255

Send = tuple[NodeId, Message]
T = TypeVar("T")


@attrs.define
class _Link:
    """One connection.

    `grafted_at` is when either end asked for it to be in the tree, `pruned_at` when we asked for it
    not to be. `serves`: a publication came over it first, while it was in the tree. `told` is the
    last one told in the previous round of `Held`: the next round begins after it.
    """

    eager: bool
    told: Place | None = None
    grafted_at: float = -math.inf
    pruned_at: float = -math.inf
    serves: bool = False

    def just_grafted(self, now: float) -> bool:
        """Whether what comes over it may have crossed a `Graft`."""
        return now < self.grafted_at + GRAFT_GRACE

    def just_pruned(self, now: float) -> bool:
        """Whether what comes over it may have crossed our `Prune`."""
        return now < self.pruned_at + GRAFT_GRACE


class Broadcast:
    """One node's part in spreading what `history` retains.

    `fanout`: up to so many new links are eager, before the tree has settled. `ttl`: links after
    which a publication is only announced. `probability` of each push; a peer that is left out gets
    an announcement. `room` says how many bytes a peer's queue takes now; if none, it gets an
    announcement, too.

    All times are monotonic seconds. Call `take_sends` after every call of another method,
    and at `next_due`. What comes from a peer without a link changes nothing, except for a
    publication, which is as good from anybody. `duplicates` counts those that came again.
    """

    def __init__(
        self,
        own_id: NodeId,
        history: History,
        *,
        fanout: int,
        ttl: int,
        probability: float,
        rng: random.Random,
        room: Callable[[NodeId], int],
    ) -> None:
        self.duplicates = 0
        self._own_id = own_id
        self._history = history
        self._fanout = fanout
        self._ttl = ttl
        self._probability = probability
        self._rng = rng
        self._room = room
        self._settled = False
        self._links: dict[NodeId, _Link] = {}
        self._missing = Missing()
        self._shortcuts = Shortcuts()
        self._sends: list[Send] = []
        # What is in `_sends` for each, in bytes: `room` can't see that yet.
        self._batched: dict[NodeId, int] = {}
        self._announcements = Announcements()
        self._offers = Offers()
        self._declined = Declined()
        self._digests = Budgets[NodeId](MAX_DIGESTERS, DIGESTS_AT_ONCE, DIGESTS_PER_SECOND)
        # When it was pulled, and who had it then: a copy from anybody else comes over the tree.
        self._pulled = BoundedTable[bytes, tuple[float, frozenset[NodeId]]](MAX_PULLED)

    @property
    def eager(self) -> list[NodeId]:
        """The peers to whom publications are pushed: our links in the tree."""
        return [peer for peer, link in self._links.items() if link.eager]

    @property
    def settled(self) -> bool:
        """Whether a publication came over the tree since a link that brought some was lost."""
        return self._settled

    def has_link(self, peer: NodeId) -> bool:
        """Whether there is a link to a peer."""
        return peer in self._links

    def link_up(self, peer: NodeId, now: float) -> None:
        """Take a new connection, or one that replaces an older one to the same peer.

        In a settled tree it is lazy: an eager one would close a circle, which the next publication
        would open wherever its copies meet.
        """
        if peer == self._own_id:
            return
        if peer in self._links:
            self.link_down(peer, now)
        self._links[peer] = _Link(eager=False)
        if not self.eager or (not self._settled and len(self.eager) < self._fanout):
            self._graft(peer, (), now)

    def link_down(self, peer: NodeId, now: float) -> None:
        """Give up a closed connection: what was to come over it is asked for elsewhere."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        self._announcements.take(peer)
        self._offers.link_down(peer)
        self._missing.link_down(peer, now, eager=link.eager)
        if link.eager:
            self._shortcuts.clear()
            if link.serves or not self.eager:
                # The tree fell in two, and most links of the smaller part lead out of it.
                self._settled = False
                self._graft_another(peer, now)

    def publish(self, item: Item, now: float) -> None:
        """Send out a publication of our own."""
        if self._history.add(item, now):
            self._spread(item, frozenset(), now)

    def was_asked(self, peer: NodeId, message_id: bytes) -> bool:
        """Whether a peer was recently asked for a publication because its digest listed it."""
        wanted = self._offers.is_wanted(message_id, peer)
        return wanted or self._missing.was_asked_by_digest(message_id, peer)

    def receive(self, peer: NodeId, item: Item, now: float, *, spread: bool = True) -> bool:
        """Take a publication that is verified and not stale; True if it is to be delivered.

        `item.hops` counts the link from `peer`, too. Without `spread`, it is only kept for those
        who ask for it. False: it was seen before.
        """
        link = self._links.get(peer)
        wanted = self._offers.is_wanted(item.message_id, peer)
        if not self._history.add(item, now):
            self.duplicates += 1
            if link is not None and not wanted:
                self._take_again(peer, link, item, now)
            return False
        self._offers.arrived(item.message_id)
        absent = self._missing.arrived(item.message_id)
        announcers = absent.announcers if absent is not None else {}
        asked = absent.asked if absent is not None else {}
        if wanted:
            self._offers.brought(peer, now)
        if not spread:
            return True
        knowing = frozenset({peer, *announcers, *asked})
        if wanted:
            # Most neighbours have had it for a long time. A push would be a duplicate to them, and
            # cost the link its place in the tree.
            self._spread(item, knowing, now, push=False)
            self._pulled[item.message_id] = now, knowing
            return True
        if link is not None:
            self._note_first(link, now, asked=bool(asked))
        self._spread_first(item, link, knowing, now)
        if link is not None and not asked:
            self._shortcuts.came(item.message_id, peer, item.hops)
            for announcer, hops in announcers.items():
                if hops is not None:
                    self._compare(item.message_id, announcer, hops, now)
        return True

    def decline(self, message_id: bytes, now: float, *, for_good: bool) -> None:
        """Stop asking for what came and can't be taken, for `DECLINED_FOR` seconds or for good."""
        self._missing.arrived(message_id)
        self._offers.arrived(message_id)
        self._declined.add(message_id, now, for_good=for_good)

    def take_have(self, peer: NodeId, have: Have, now: float) -> None:
        """Note what a peer has; what does not come over the tree is asked for later."""
        if peer not in self._links:
            return
        for heard in have.heard:
            if self._history.has_seen(heard.message_id):
                self._compare(heard.message_id, peer, heard.hops, now)
            elif not self._declined.holds(heard.message_id, now):
                self._missing.announced(heard.message_id, peer, heard.hops, now)

    def take_graft(self, peer: NodeId, graft: Graft, now: float) -> None:
        """Push to a peer from now on, and send it what it asks for.

        Also what it was to be told of: that came here just before the graft, while the tree link
        that the peer gave up for this one may have brought it nothing any more.
        """
        link = self._links.get(peer)
        if link is None:
            return
        self._set_eager(link, eager=True)
        link.grafted_at = now
        ids = dict.fromkeys((*graft.ids, *self._announcements.take(peer)))
        for item in map(self._history.get, ids):
            if item is None:
                continue
            if self._has_room(peer):
                self._send_item(peer, item)
            else:
                self._announce(peer, item, now)

    def take_prune(self, peer: NodeId, _: Prune, now: float) -> None:
        """Stop pushing to a peer, and only announce."""
        link = self._links.get(peer)
        if link is not None and link.eager:
            self._set_eager(link, eager=False)
            if not self.eager:
                # Otherwise everything would come only after an announcement.
                self._graft_another(peer, now)

    def take_want(self, peer: NodeId, want: Want, _now: float) -> None:
        """Send what a peer asks for, as far as there is room: it asks again for the rest."""
        if peer not in self._links:
            return
        for item in map(self._history.get, dict.fromkeys(want.ids)):
            if item is not None:
                if not self._has_room(peer):
                    return
                self._send_item(peer, item)

    def digest_to(self, peer: NodeId) -> None:
        """Begin a round of anti-entropy with a peer."""
        if peer in self._links:
            self._sends.append((peer, Digest(self._history.slots(), reply=True)))

    def take_digest(self, peer: NodeId, digest: Digest, now: float) -> None:
        """Tell a peer what is held where its digest differs; at most `MAX_CHUNKS` messages.

        A quarter of them are the newest of each account. The rest begins where the previous round
        ended, so that everything is told in the end. A peer that sends too many digests gets no
        answer.
        """
        link = self._links.get(peer)
        if link is None:
            return
        # The budget is the peer's, not the link's: connecting again gives no more.
        if not self._digests.spend(peer, 1, now):
            return
        backlog, most = self._history.differing(digest.slots), MAX_CHUNKS * MAX_IDS
        ids = backlog.newest(most if len(backlog) <= most else NEWEST_CHUNKS * MAX_IDS)
        if len(backlog) > most:
            # Each link begins elsewhere, so that a newcomer is not told the same by all.
            begin = link.told or backlog.draw(self._rng)
            others = backlog.before(begin, most - len(ids), but=set(ids))
            link.told = others[-1]
            ids += [message_id for _, message_id in others]
        self._sends.extend((peer, Held(chunk)) for chunk in _chunks(ids))
        if digest.reply:
            self._sends.append((peer, Digest(self._history.slots(), reply=False)))

    def take_held(self, peer: NodeId, held: Held, now: float) -> None:
        """Ask a peer for what it holds that was not seen here, unless another was just asked.

        What exceeds the bounds of `Offers` is left to a later round.
        """
        if peer not in self._links:
            return
        for message_id in held.ids:
            if self._history.has_seen(message_id) or self._declined.holds(message_id, now):
                continue
            if message_id in self._missing:
                # Whoever announced it may have lied.
                self._missing.announced(message_id, peer, None, now)
            else:
                self._offers.offer(message_id, peer, now, alone=len(self._links) == 1)

    def take_sends(self, now: float) -> list[Send]:
        """Return everything to send now, in order."""
        for peer, ids in self._missing.to_ask(now).items():
            for chunk in _chunks(ids):
                self._graft(peer, chunk, now)
        if self._offers:
            for peer, ids in self._offers.to_ask(now).items():
                self._sends.extend((peer, Want(chunk)) for chunk in _chunks(ids))
        for peer, heard in self._announcements.to_tell(now):
            self._sends.extend((peer, Have(chunk)) for chunk in _chunks(heard))
        sends, self._sends = self._sends, []
        self._batched.clear()
        return sends

    def next_due(self) -> float:
        """Return when `take_sends` will have something; `math.inf` for never."""
        if self._sends or self._offers:
            return -math.inf
        return min(self._missing.next_due(), self._announcements.next_due())

    def _spread_first(
        self, item: Item, link: _Link | None, knowing: frozenset[NodeId], now: float
    ) -> None:
        """Spread what came over a link first.

        If it crossed our `Prune`, whoever we just grafted instead gets it over the tree: a push
        would go around the circle that there is for a moment, and cut it where the copies meet.
        """
        grafted: list[NodeId] = []
        if link is not None and link.just_pruned(now):
            links = self._links.items()
            grafted = [each for each, to in links if to.just_grafted(now)]
        self._spread(item, knowing.union(grafted), now)
        for peer in grafted:
            if peer not in knowing:
                self._announce(peer, item, now)

    def _note_first(self, link: _Link, now: float, *, asked: bool) -> None:
        """Take note that a publication came over a link first; `asked`: somebody was asked for it.

        The peer pushes to us, so this link is in the tree: our pushes go over it, too. Unless that
        crossed our `Prune`: then only this end would take it for one of the tree.
        """
        link.serves |= link.eager and not asked
        self._settled |= link.serves
        if not link.just_pruned(now):
            self._set_eager(link, eager=True)

    def _take_again(self, peer: NodeId, link: _Link, item: Item, now: float) -> None:
        """Pass on what was pulled just before it came over the tree; else prune the link.

        In the first case, those behind us still wait for it; any other duplicate shows a circle.
        """
        pulled_at, knowing = self._pulled.get(item.message_id, (-math.inf, frozenset()))
        if now < pulled_at + GRAFT_AFTER and peer not in knowing:
            del self._pulled[item.message_id]
            self._set_eager(link, eager=True)
            self._spread(item, {peer, *knowing}, now)
        elif not link.just_grafted(now):
            self._prune(peer, link, now)

    def _spread(
        self, item: Item, knowing: Collection[NodeId], now: float, *, push: bool = True
    ) -> None:
        """Push to those in the tree that lack it, and announce it to the rest.

        What is pushed is also announced to lazy links that have it: they learn over how many links
        it came here, and whether it should have come to them this way (`core.shortcuts`).
        """
        push = push and item.hops < self._ttl
        for peer, link in self._links.items():
            if peer in knowing and (link.eager or not push):
                continue
            if (
                push
                and link.eager
                and (self._probability >= 1 or self._rng.random() < self._probability)
                and self._has_room(peer)
            ):
                self._send_item(peer, item)
            else:
                self._announce(peer, item, now)

    def _has_room(self, peer: NodeId) -> bool:
        return self._batched.get(peer, 0) < self._room(peer)

    def _send_item(self, peer: NodeId, item: Item) -> None:
        self._batched[peer] = self._batched.get(peer, 0) + len(item.signed.body)
        self._sends.append((peer, Gossip(item.signed, min(item.hops + 1, _MAX_HOPS))))

    def _announce(self, peer: NodeId, item: Item, now: float) -> None:
        self._announcements.add(peer, item.message_id, item.hops, now)

    def _compare(self, message_id: bytes, announcer: NodeId, hops: int, now: float) -> None:
        """Exchange a tree link for the announcer's if that makes the tree better."""
        link = self._links.get(announcer)
        if link is None or link.eager:
            return
        over = self._shortcuts.announced(message_id, announcer, hops)
        old = self._links.get(over) if over is not None else None
        if over is None or old is None or not old.eager:
            return
        self._graft(announcer, (), now)
        self._prune(over, old, now)

    def _graft(self, peer: NodeId, ids: tuple[bytes, ...], now: float) -> None:
        link = self._links[peer]
        self._set_eager(link, eager=True)
        link.grafted_at = now
        self._sends.append((peer, Graft(ids)))

    def _prune(self, peer: NodeId, link: _Link, now: float) -> None:
        under_way = not link.eager and link.just_pruned(now)
        if under_way or self.eager == [peer]:
            return
        self._set_eager(link, eager=False)
        link.pruned_at = now
        self._sends.append((peer, Prune()))

    def _set_eager(self, link: _Link, *, eager: bool) -> None:
        if link.eager is not eager:
            link.eager = eager
            self._shortcuts.clear()

    def _graft_another(self, but: NodeId, now: float) -> None:
        """Make a lazy link eager, if there is one to any peer `but` this."""
        lazy = [peer for peer, link in self._links.items() if not link.eager and peer != but]
        if lazy:
            self._graft(self._rng.choice(lazy), (), now)


def _chunks(items: Sequence[T]) -> list[tuple[T, ...]]:
    return [tuple(items[at : at + MAX_IDS]) for at in range(0, len(items), MAX_IDS)]
