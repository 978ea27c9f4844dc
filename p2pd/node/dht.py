"""The key/value store as its users see it: put, get and delete over the closest nodes."""

import enum
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from p2pd.config import DhtConfig
from p2pd.core.quorums import Needed
from p2pd.core.records import Author, Version, living, version_of
from p2pd.errors import InvalidRequest, NotFound, P2PError, TooFewReplicas, VersionConflict
from p2pd.ids import Key, NodeId
from p2pd.node.convoy import Convoy
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.env import Env
from p2pd.node.late_writes import LateWrites
from p2pd.node.questions import Questions
from p2pd.node.quorum import Holding, Quorum
from p2pd.node.replica import Replica
from p2pd.node.routes import Routes
from p2pd.wire.framing import MAX_PAYLOAD
from p2pd.wire.messages import SIGNED_OVERHEAD, FindValue, Value

# Reads of other nodes that wait for the disk; beyond it, the node with the most waiting is told
# `busy`, as is one whose turn comes only after half of `dht.request_timeout`.
MAX_READS = 256
# Characters of a key that an error shows.
MAX_SHOWN = 200


class Consistency(enum.StrEnum):
    """How many replicas a read waits for."""

    ONE = "one"
    QUORUM = "quorum"
    ALL = "all"


@attrs.frozen
class Written:
    """A write: its version, and how many of the replicas wanted have it on disk."""

    version: Version
    stored: int
    wanted: int
    quorum: int


class Dht:
    """The distributed hash table, as seen from this node."""

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        routes: Routes,
        quorum: Quorum,
        replica: Replica,
        late_writes: LateWrites,
        dispatch: Dispatch,
        *,
        max_value_bytes: int,
    ) -> None:
        self._env = env
        self._config = config
        self._routes = routes
        self._quorum = quorum
        self._replica = replica
        self._late_writes = late_writes
        self._max_value_bytes = max_value_bytes
        self._author = Author(env.identity.public_key, env.entropy)
        self._writing: dict[Key, trio.Lock] = {}
        self._convoy = Convoy()
        self._reads: Questions[FindValue] = Questions(
            dispatch,
            MAX_READS,
            "too many reads wait for the disk; try again",
            # Whoever asked waits for the answer about as long as this node would.
            patience=config.request_timeout / 2,
        )
        dispatch.add(FindValue, self._take_read)

    async def run(self) -> None:
        """Answer the reads of other nodes, and give records to late replicas, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._late_writes.run)
            await self._reads.answer_all(self._answer_read)

    async def put(
        self,
        name: str,
        value: bytes,
        *,
        owned: bool = False,
        ttl: float | None = None,
        if_version: str | None = None,
    ) -> Written:
        """Write a value that replaces all versions this node can see.

        `owned`: under that key of the name that only this node can write. `ttl` in seconds; None
        for the configured one. With `if_version`, a hexadecimal version, the write is refused with
        `VersionConflict` unless that version is the winner now. Raises `InvalidRequest`, and
        `TooFewReplicas` where fewer replicas than the write quorum have the record on disk;
        repeating the put is safe.
        """
        if len(value) > self._max_value_bytes:
            raise InvalidRequest(
                f"the value has {len(value)} bytes, more than "
                f"store.max_value_bytes = {self._max_value_bytes}"
            )
        lifetime = self._config.record_ttl if ttl is None else ttl
        # After a check of the version, the write must follow at once.
        async with self._locked_and_read(name, owned=owned, at_once=if_version is not None) as seen:
            if if_version is not None:
                self._check_answers(name, seen, self._needed(Consistency.QUORUM))
                self._check_version(seen.versions, if_version)
                self._check_up_to_date(name, Key.of(name, self._owner(owned=owned)), seen)
            return await self._write(name, value, seen, owned=owned, lifetime=lifetime)

    async def delete(self, name: str, *, owned: bool = False) -> Written:
        """Write a tombstone over all versions this node can see.

        Raises `NotFound` where there is nothing to delete, else as `put`.
        """
        # A tombstone does not hide versions that were not seen.
        async with self._locked_and_read(name, owned=owned, consistency=Consistency.ALL) as seen:
            if not living(seen.versions, self._env.wall_ms()):
                raise self._absence(name, self._owner(owned=owned), seen)
            return await self._write(name, None, seen, owned=owned, lifetime=0)

    async def get(
        self, name: str, consistency: Consistency, *, owner: NodeId | None = None
    ) -> list[Version]:
        """Return the versions of a key that no other supersedes, the winner first.

        `owner`: read that key of the name that only this owner can write. Tombstones are left out.
        Raises `NotFound`, but only once each of the closest nodes has answered or failed, and
        `TooFewReplicas`.
        """
        needed = self._needed(consistency)
        holding = await self._quorum.read(Key.of(name, owner), needed, until_found=True)
        self._check_answers(name, holding, needed)
        # A write by somebody who did not see a delete still stands.
        found = living(holding.versions, self._env.wall_ms())
        if not found:
            raise self._absence(name, owner, holding)
        return found

    def _owner(self, *, owned: bool) -> NodeId | None:
        """Return the owner of a key that this node writes: itself, or nobody."""
        return self._env.identity.node_id if owned else None

    def _needed(self, consistency: Consistency) -> Needed:
        counts = {
            Consistency.ONE: 1,
            Consistency.QUORUM: self._config.read_quorum,
            Consistency.ALL: math.inf,
        }
        return Needed(counts[consistency])

    @asynccontextmanager
    async def _locked_and_read(
        self,
        name: str,
        *,
        owned: bool,
        consistency: Consistency = Consistency.QUORUM,
        at_once: bool = False,
    ) -> AsyncIterator[Holding]:
        """Lock a key for one write, and read what is there: `Author` wants one write at a time.

        As many answers as `consistency` asks for are waited for, but not demanded. `at_once`: the
        write must not wait until others are ready, too.
        """
        key = Key.of(name, self._owner(owned=owned))
        lock = self._writing.setdefault(key, trio.Lock())
        try:
            async with lock:
                needed = self._needed(consistency)
                began = trio.current_time()
                with self._convoy.preparing():
                    seen = await self._quorum.read(key, needed, until_found=False)
                if not at_once:
                    await self._convoy.gather(trio.current_time() - began)
                yield seen
        finally:
            if not lock.locked():
                self._writing.pop(key, None)

    async def _write(
        self, name: str, value: bytes | None, seen: Holding, *, owned: bool, lifetime: float
    ) -> Written:
        now_ms = self._env.wall_ms()
        record = self._author.supersede(
            seen.versions,
            name=name,
            owned=owned,
            value=value,
            now_ms=now_ms,
            expires=now_ms + int(lifetime * 1000) if lifetime else 0,
        )
        version = version_of(self._env.identity.vouch(record), record)
        needed = Needed(self._config.write_quorum)
        stores = await self._quorum.store(version, seen.turnout, needed)
        if stores.count < stores.quorum:
            raise TooFewReplicas(
                f"{stores.count} of {stores.wanted} replicas stored {name!r}, {stores.quorum} are "
                f"needed (dht.write_quorum): {stores.refusal}; it is safe to try again"
            )
        for node in (*seen.late, *stores.late):
            self._late_writes.add(node, version)
        return Written(version, stores.count, stores.wanted, stores.quorum)

    def _check_answers(self, name: str, holding: Holding, needed: Needed) -> None:
        found = holding.turnout
        if not found.suffices(needed):
            raise TooFewReplicas(
                f"{found.answered} of {found.wanted} replicas answered for {name!r}, "
                f"{needed.of(found.wanted)} are needed; try again, or --consistency one"
            )

    def _absence(self, name: str, owner: NodeId | None, holding: Holding) -> P2PError:
        """Return `NotFound`, or `TooFewReplicas` where the absence is not established."""
        shown = _shown(name, owner)
        if holding.ahead:
            return TooFewReplicas(
                f"what is stored under {shown} is dated a day or so ahead of this node's clock; "
                "`p2pctl doctor` compares the clocks"
            )
        found = holding.turnout
        if found.mostly_silent:
            return TooFewReplicas(
                f"{shown} was not found, but {found.silent} of the nodes that may have it did "
                "not answer; try again"
            )
        hint = "" if name else ": it is empty, and `put` takes no empty one"
        return NotFound(f"no key {shown}{hint}")

    def _check_version(self, versions: list[Version], expected: str) -> None:
        # As in `get`: a tombstone does not win against a concurrent write.
        there = living(versions, self._env.wall_ms())
        winner = there[0].name.hex() if there else ""
        if winner != expected:
            raise VersionConflict(
                f"the version there is {winner or 'none'}, not {expected or 'none'}; "
                "read it again first"
            )

    def _check_up_to_date(self, name: str, key: Key, seen: Holding) -> None:
        if self._author.has_seen_more(key, seen.versions, self._env.wall_ms()):
            raise TooFewReplicas(
                f"the replicas of {_shown(name, None)} that answer are behind what this node has "
                "seen; try again, or put without --if-version"
            )

    def _take_read(self, call: Call, question: FindValue) -> Value | None:
        versions = self._replica.cached(Key(question.key))
        if versions is not None:
            return self._value(call, question, versions)
        self._reads.take(call, question)
        return None

    async def _answer_read(self, call: Call, question: FindValue) -> Value:
        return self._value(call, question, await self._replica.read(Key(question.key)))

    def _value(self, call: Call, question: FindValue, versions: Sequence[Version]) -> Value:
        asker = call.connection.node_id
        closer = self._routes.closest_records(question.key, asker) if question.closer else ()
        signed = tuple(each.signed for each in versions)
        # The most siblings allowed, of the largest size, would leave no room for closer nodes.
        room = MAX_PAYLOAD - sum(len(each.body) + SIGNED_OVERHEAD for each in signed)
        while closer and sum(len(each.body) + SIGNED_OVERHEAD for each in closer) > room:
            closer = closer[:-1]
        return Value(signed, closer)


def _shown(name: str, owner: NodeId | None) -> str:
    short = name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "..."
    return repr(short) if owner is None else f"{short!r} owned by {owner.short}"
