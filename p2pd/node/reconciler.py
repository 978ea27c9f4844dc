"""Reconciles the records of this node with those of another, and answers nodes that do so.

The node that starts compares (`core.merkle`), fetches what it lacks and gives what the other
one lacks; what either of them does not keep, less and less often (`core.stalemates`). All that
this node sends for this, in questions of its own and in answers, is paid for from one budget of
bytes.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

import attrs
import trio

from p2pd.core.budget import Budget
from p2pd.core.confirmations import Confirmations
from p2pd.core.merkle import EMPTY, Comparison, Prefix, compare, prefix_of
from p2pd.core.records import Version
from p2pd.core.stalemates import Divergence, Stalemates
from p2pd.errors import BadMessage, Busy, PeerError, RequestRefused, RequestTimedOut, StoreFull
from p2pd.ids import Key, NodeId
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.questions import Questions
from p2pd.node.replica import Replica
from p2pd.node.requester import Requester
from p2pd.node.roster import Roster
from p2pd.wire.messages import (
    MAX_GIVEN,
    MAX_KEYS,
    MAX_RECORDS,
    SIGNED_OVERHEAD,
    Compare,
    Compared,
    Fetch,
    Fetched,
    Give,
    Given,
    M,
    Message,
    Signed,
    Subtree,
)

# Bytes that repair sends: rate per second, and burst. See docs/operations.md.
BYTES_PER_SECOND = 1 << 20
BYTES_AT_ONCE = 1 << 22
# No message of repair counts for less: it costs time, too.
LEAST_COST = 1 << 12
# Seconds of waiting for answers in one reconciliation, and the bytes that must move for each more.
PATIENCE = 30.0
LEAST_BYTES_PER_SECOND = 1 << 13
# Bytes of records in one message, unless a single one, or those of a single key, are more.
BATCH_BYTES = 1 << 16
# Questions that wait for their turn; beyond it, the asker with the most waiting is told `busy`.
MAX_QUESTIONS_WAITING = 256
# The peer may have to wait for its budget and its disk.
REPLY_TIMEOUT = 10.0
# A question that waited longer for its turn is told `busy`: by the time that an answer is paid for,
# nobody might wait for it, and once that is so for some, it would soon be so for all.
ANSWER_WITHIN = REPLY_TIMEOUT / 2


@attrs.frozen
class Outcome:
    """What came of a reconciliation.

    `learned` counts the keys under which this node has something new, `given` the versions
    that the peer stored. `same`: at the beginning the peer had all that this node has, in the
    same versions; it may have had more.
    """

    learned: int
    given: int
    same: bool


@attrs.define
class _Batch:
    """Versions for one message, each with the divergence it is `of`; `size` in bytes."""

    versions: list[Signed] = attrs.field(factory=list)
    of: list[Divergence] = attrs.field(factory=list)
    size: int = 0

    def is_full_for(self, signed: Signed) -> bool:
        """Whether this one must go into another message; one alone fits any."""
        many = len(self.versions) == MAX_GIVEN
        return bool(self.versions) and (many or self.size + len(signed.body) > BATCH_BYTES)

    def add(self, divergence: Divergence, signed: Signed) -> None:
        """Add a version of a key."""
        self.versions.append(signed)
        self.of.append(divergence)
        self.size += len(signed.body) + SIGNED_OVERHEAD


class _Partner:
    """The peer in a reconciliation, abandoned if it takes too long for the amount it transfers.

    Otherwise a few that answer each question at the last moment would keep all the places there
    are, and nothing would be mended.
    """

    def __init__(self, node_id: NodeId, roster: Roster, requester: Requester) -> None:
        self.node_id = node_id
        self._roster = roster
        self._requester = requester
        self._waited = 0.0
        self._moved = 0

    def moved(self, count: int) -> None:
        """Note that this many bytes of records came or went."""
        self._moved += count

    async def ask(self, question: Message, kind: type[M]) -> M:
        """Return the answer.

        Raises what `Requester.request` raises, `PeerError` for a peer that a user disconnected, and
        `RequestTimedOut` where the answers took too long together.
        """
        node_id = self.node_id
        entry = self._roster.registry.get(node_id)
        if entry is not None and entry.parted and node_id not in self._roster.connections:
            raise PeerError(f"a user disconnected {node_id.short}")
        began = trio.current_time()
        reply = await self._requester.request(node_id, question, kind, REPLY_TIMEOUT)
        self._waited += trio.current_time() - began
        if self._waited > PATIENCE + self._moved / LEAST_BYTES_PER_SECOND:
            raise RequestTimedOut(f"{node_id.short} compares too slowly")
        return reply


class Reconciler:
    """Compares, fetches and gives; answers nodes that compare and fetch."""

    def __init__(
        self,
        env: Env,
        roster: Roster,
        requester: Requester,
        replica: Replica,
        confirmations: Confirmations,
        stalemates: Stalemates,
        dispatch: Dispatch,
    ) -> None:
        self._env = env
        self._roster = roster
        self._requester = requester
        self._replica = replica
        self._confirmations = confirmations
        self._stalemates = stalemates
        self._budget = Budget(BYTES_AT_ONCE, BYTES_PER_SECOND)
        self._paying = trio.Lock()
        self._questions: Questions[Compare | Fetch] = Questions(
            dispatch,
            MAX_QUESTIONS_WAITING,
            "too many questions wait; try again",
            patience=ANSWER_WITHIN,
        )
        dispatch.add(Compare, self._questions.take)
        dispatch.add(Fetch, self._questions.take)

    async def run(self) -> None:
        """Answer other nodes, until cancelled."""
        await self._replica.loaded.wait()
        await self._questions.answer_all(self._answer)

    async def reconcile(
        self,
        peer: NodeId,
        prefixes: Iterable[Prefix],
        *,
        take: bool = True,
        on_learned: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Compare what is under some prefixes with a peer, fetch and give what is missing.

        Without `take`, what only the peer has is left alone. `on_learned` is called once this node
        has something new, also where this fails afterwards. Raises what `Requester.request`
        raises (`RequestTimedOut` also where it takes too long in all), and `PeerError`,
        `BadMessage`, `StoreError`.
        """
        partner, tree = _Partner(peer, self._roster, self._requester), self._replica.tree
        comparison = Comparison(tree, prefixes, self._env.rng)
        while (question := comparison.next()) is not None:
            await self._pay(LEAST_COST)
            comparison.answered(await partner.ask(question, Compared))
        only_there = self._worthwhile(peer, comparison.only_there if take else {})
        different = self._worthwhile(peer, comparison.different)
        only_here = self._worthwhile(peer, dict.fromkeys(comparison.only_here))
        wanted = [*only_there, *different]
        try:
            theirs = await self._fetch(partner, [each.key for each in wanted])
        finally:
            in_vain = [each for each in wanted if tree.digest(each.key) == each.ours]
            if len(in_vain) < len(wanted):
                on_learned()
        # What replaces something first: a peer that is full takes that, and nothing else.
        given, refused = await self._give(partner, [*different, *only_here], theirs)
        # Not before all is given: where our version is the newer one, it is natural that
        # fetching the peer's changed nothing here.
        self._note_stalemates(peer, [*in_vain, *refused])
        lacking = comparison.different or comparison.only_here
        return Outcome(
            learned=len(wanted) - len(in_vain),
            given=given,
            same=comparison.complete and not lacking,
        )

    async def holds_anything(self, peer: NodeId) -> bool:
        """Ask whether a peer stores any record; raises as `reconcile`."""
        nothing = Compare((Subtree(b"", 0, EMPTY),))
        partner = _Partner(peer, self._roster, self._requester)
        return bool((await partner.ask(nothing, Compared)).differences)

    def _worthwhile(self, peer: NodeId, theirs: Mapping[bytes, bytes | None]) -> list[Divergence]:
        """Leave out what was exchanged before, and changed on neither side since."""
        digest, now = self._replica.tree.digest, trio.current_time()
        entry = self._roster.registry.get(peer)
        sequence = entry.sequence if entry is not None else 0
        differing = [
            Divergence(Key(key), digest(key), there, sequence) for key, there in theirs.items()
        ]
        return [each for each in differing if not self._stalemates.holds(peer, each, now)]

    def _note_stalemates(self, peer: NodeId, divergences: Iterable[Divergence]) -> None:
        # Once for each key, however many versions of it there are.
        for each in {each.key: each for each in divergences}.values():
            self._stalemates.note(peer, each, trio.current_time())

    async def _fetch(self, partner: _Partner, keys: Sequence[Key]) -> dict[Key, set[bytes]]:
        """Store all that a peer keeps under these keys; return the names of its versions."""
        names: dict[Key, set[bytes]] = {}
        place = 0
        while place < len(keys):
            asked = tuple(keys[place : place + MAX_KEYS])
            await self._pay(LEAST_COST)
            fetched = await partner.ask(Fetch(asked), Fetched)
            partner.moved(sum(len(each.body) for each in fetched.versions))
            if fetched.keys > len(asked):
                raise BadMessage("more keys than were asked for")
            keys_told = {*asked[: fetched.keys]}
            stored = await self._replica.write_all(fetched.versions, keys_told)
            for version in stored:
                names.setdefault(version.key, set()).add(version.name)
            place += fetched.keys
        return names

    async def _give(
        self, partner: _Partner, lacking: Iterable[Divergence], theirs: dict[Key, set[bytes]]
    ) -> tuple[int, list[Divergence]]:
        """Give what a peer lacks, but for the versions `theirs` that it has.

        Returns how many it stored, and what was in messages of which it did not store all.
        """
        given, refused = 0, list[Divergence]()
        async with aclosing(self._batches(lacking, theirs)) as batches:
            async for batch in batches:
                await self._pay(batch.size)
                partner.moved(batch.size)
                stored = 0
                try:
                    stored = (await partner.ask(Give(tuple(batch.versions)), Given)).stored
                except RequestRefused as refusal:
                    if refusal.reason == Busy.code:
                        raise
                    # Who is full may still take what is smaller than what it has, but nothing new.
                    replaces = batch.of[-1].theirs is not None
                    if refusal.reason != StoreFull.code or not replaces:
                        self._note_stalemates(partner.node_id, [*refused, *batch.of])
                        raise
                if stored < len(batch.versions):
                    refused += batch.of
                given += stored
        return given, refused

    async def _batches(
        self, lacking: Iterable[Divergence], theirs: dict[Key, set[bytes]]
    ) -> AsyncGenerator[_Batch, None]:
        batch = _Batch()
        for each in lacking:
            versions = self._replica.lasting(await self._replica.read(each.key))
            known = theirs.get(each.key, ())
            for signed in (version.signed for version in versions if version.name not in known):
                if batch.is_full_for(signed):
                    yield batch
                    batch = _Batch()
                batch.add(each, signed)
        if batch.versions:
            yield batch

    async def _answer(self, _: Call, question: Compare | Fetch) -> Message:
        if isinstance(question, Fetch):
            return await self._answer_fetch(question)
        answer = compare(self._replica.tree, question)
        differing = {each.index for each in answer.differences}
        for index, each in enumerate(question.subtrees):
            if index not in differing and each.fingerprint != EMPTY:
                self._confirmations.note(prefix_of(each), trio.current_time())
        size = sum(len(each.children) + len(each.entries) for each in answer.differences)
        await self._pay(size)
        return answer

    async def _answer_fetch(self, question: Fetch) -> Fetched:
        versions: list[Version] = []
        done = size = 0
        for raw in question.keys:
            found = self._replica.lasting(await self._replica.read(Key(raw)))
            added = sum(len(each.signed.body) + SIGNED_OVERHEAD for each in found)
            too_many = len(versions) + len(found) > MAX_RECORDS
            if done and (too_many or size + added > BATCH_BYTES):
                break
            versions += found
            done, size = done + 1, size + added
        await self._pay(size)
        return Fetched(done, tuple(each.signed for each in versions))

    async def _pay(self, cost: int) -> None:
        # One after the other: a long handover leaves each of the others its turn.
        async with self._paying:
            while not self._budget.spend(max(cost, LEAST_COST), trio.current_time()):  # noqa: ASYNC110 - a budget fills by time, there is no event to wait for
                await trio.sleep_until(self._budget.refilled_at())
