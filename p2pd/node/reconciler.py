"""Brings the records of this node and of another one together, and answers who does so.

The one who starts compares (`core.merkle`), fetches what it lacks and gives what the other
one lacks. All that this node sends for it, in questions of its own and in answers, is paid for
from one budget of bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import attrs
import trio

from p2pd.core.budget import Budget
from p2pd.core.confirmations import Confirmations
from p2pd.core.merkle import EMPTY, Comparison, Prefix, compare, prefix_of
from p2pd.core.records import Version
from p2pd.errors import BadMessage, PeerError, RequestTimedOut
from p2pd.ids import Key, NodeId
from p2pd.node.dialer import Dialer
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.questions import Questions
from p2pd.node.replica import Replica
from p2pd.node.roster import Roster
from p2pd.wire.messages import (
    MAX_GIVEN,
    MAX_KEYS,
    MAX_RECORDS,
    Compare,
    Compared,
    Failed,
    Fetch,
    Fetched,
    Give,
    Given,
    Message,
    Signed,
    Subtree,
)

# Bytes a second that repair sends, and what it may send at once. See docs/operations.md.
BYTES_PER_SECOND = 1 << 20
BYTES_AT_ONCE = 1 << 22
# No message of repair is held cheaper: it costs time, too.
LEAST_COST = 1 << 12
# Seconds of waiting for answers in one reconciliation, and what must move for more of them.
PATIENCE = 30.0
LEAST_BYTES_PER_SECOND = 1 << 13
# Bytes of records in one message, as long as it is more than one key's.
BATCH_BYTES = 1 << 16
# Questions that wait for their turn; beyond it, who has most waiting is told `busy`.
MAX_QUESTIONS_WAITING = 256
# The other one may have to wait for its budget and its disk.
REPLY_TIMEOUT = 10.0
_RECORD_OVERHEAD = 80

R = TypeVar("R", bound=Message)


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


class _Pace:
    """How long one peer lets a reconciliation wait: who takes too long for what it moves is left.

    Else a few who answer each question at the last moment would keep all the places that there
    are, and nothing would be mended.
    """

    def __init__(self, peer: NodeId) -> None:
        self._peer = peer
        self._seconds = 0.0
        self._bytes = 0

    def moved(self, count: int) -> None:
        """Note that so many bytes of records came or went."""
        self._bytes += count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within the `with`; raises `RequestTimedOut` where it was too much."""
        began = trio.current_time()
        yield
        self._seconds += trio.current_time() - began
        if self._seconds > PATIENCE + self._bytes / LEAST_BYTES_PER_SECOND:
            raise RequestTimedOut(f"{self._peer.hex()[:12]} compares too slowly")


class Reconciler:
    """Compares, fetches and gives; answers who compares and fetches."""

    def __init__(
        self,
        env: Env,
        roster: Roster,
        dialer: Dialer,
        replica: Replica,
        confirmations: Confirmations,
        dispatch: Dispatch,
    ) -> None:
        self._env = env
        self._roster = roster
        self._dialer = dialer
        self._replica = replica
        self._confirmations = confirmations
        self._budget = Budget(BYTES_AT_ONCE, BYTES_PER_SECOND)
        self._questions: Questions[Compare | Fetch] = Questions(
            MAX_QUESTIONS_WAITING, "too many questions wait; try again"
        )
        dispatch.add(Compare, self._questions.take)
        dispatch.add(Fetch, self._questions.take)

    async def run(self) -> None:
        """Answer other nodes, until cancelled."""
        await self._replica.loaded.wait()
        await self._questions.answer_all(self._answer)

    async def reconcile(
        self, peer: NodeId, prefixes: Iterable[Prefix], *, take: bool = True
    ) -> Outcome:
        """Compare what is under some prefixes with a peer, fetch and give what is missing.

        Without `take`, what only the peer has is left alone. Raises what `Dialer.request`
        raises (`RequestTimedOut` also where it takes too long in all), and `PeerError`,
        `BadMessage`, `StoreError`.
        """
        tree, pace = self._replica.tree, _Pace(peer)
        comparison = Comparison(tree, prefixes, self._env.rng)
        while (question := comparison.next()) is not None:
            await self._pay(LEAST_COST)
            with pace.waiting():
                answer = await self._ask(peer, question, Compared)
            comparison.answered(answer)
        wanted = [*(comparison.only_there if take else ()), *comparison.different]
        before = [tree.digest(key) for key in wanted]
        theirs = await self._fetch(peer, wanted, pace)
        learned = sum(tree.digest(key) != old for key, old in zip(wanted, before, strict=True))
        # What replaces something first: who is full takes that, and nothing else.
        lacking = [*comparison.different, *comparison.only_here]
        given = await self._give(peer, lacking, theirs, pace)
        return Outcome(learned, given, comparison.complete and not lacking)

    async def holds_anything(self, peer: NodeId) -> bool:
        """Ask whether a peer stores any record; raises as `reconcile`."""
        nothing = Compare((Subtree(b"", 0, EMPTY),))
        return bool((await self._ask(peer, nothing, Compared)).differences)

    async def _fetch(
        self, peer: NodeId, keys: Sequence[bytes], pace: "_Pace"
    ) -> dict[Key, set[bytes]]:
        """Store all that a peer keeps under these keys; return the names of its versions."""
        names: dict[Key, set[bytes]] = {}
        place = 0
        while place < len(keys):
            asked = tuple(keys[place : place + MAX_KEYS])
            with pace.waiting():
                fetched = await self._ask(peer, Fetch(asked), Fetched)
                pace.moved(sum(len(each.body) for each in fetched.versions))
            if fetched.keys > len(asked):
                raise BadMessage("more keys than were asked for")
            keys_told = {Key(each) for each in asked[: fetched.keys]}
            stored = await self._replica.write_all(fetched.versions, keys_told)
            for version in stored:
                names.setdefault(version.key, set()).add(version.name)
            place += fetched.keys
        return names

    async def _give(
        self, peer: NodeId, keys: Iterable[bytes], theirs: dict[Key, set[bytes]], pace: "_Pace"
    ) -> int:
        batch: list[Signed] = []
        size = given = 0
        for raw in keys:
            key = Key(raw)
            versions = self._replica.lasting(await self._replica.read(key))
            known = theirs.get(key, ())
            for signed in (each.signed for each in versions if each.name not in known):
                if batch and (len(batch) == MAX_GIVEN or size + len(signed.body) > BATCH_BYTES):
                    given += await self._give_batch(peer, batch, size, pace)
                    batch, size = [], 0
                batch.append(signed)
                size += len(signed.body) + _RECORD_OVERHEAD
        if batch:
            given += await self._give_batch(peer, batch, size, pace)
        return given

    async def _give_batch(self, peer: NodeId, batch: list[Signed], size: int, pace: "_Pace") -> int:
        await self._pay(size)
        with pace.waiting():
            pace.moved(size)
            return (await self._ask(peer, Give(tuple(batch)), Given)).stored

    async def _ask(self, peer: NodeId, question: Message, kind: type[R]) -> R:
        entry = self._roster.registry.get(peer)
        if entry is not None and entry.parted and peer not in self._roster.connections:
            raise PeerError(f"a user disconnected {peer.hex()[:12]}")
        reply = await self._dialer.request(peer, question, REPLY_TIMEOUT)
        if isinstance(reply, kind):
            return reply
        said = reply.message if isinstance(reply, Failed) else type(reply).__name__
        raise PeerError(f"{peer.hex()[:12]} answers {type(question).__name__}: {said}")

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
            added = sum(len(each.signed.body) + _RECORD_OVERHEAD for each in found)
            too_many = len(versions) + len(found) > MAX_RECORDS
            if done and (too_many or size + added > BATCH_BYTES):
                break
            versions += found
            done, size = done + 1, size + added
        await self._pay(size)
        return Fetched(done, tuple(each.signed for each in versions))

    async def _pay(self, cost: int) -> None:
        # Once it is refilled, another one that waited may spend it first.
        while not self._budget.spend(max(cost, LEAST_COST), trio.current_time()):  # noqa: ASYNC110 - a budget fills by time, there is no event to wait for
            await trio.sleep_until(self._budget.refilled_at())
