"""The key/value store as its users see it: put, get and delete over the closest nodes."""

import enum
import math

import attrs
import trio

from p2pd.config import DhtConfig
from p2pd.core.records import Version, merge, supersede, unexpired, version_of
from p2pd.errors import (
    BadMessage,
    Busy,
    InvalidRequest,
    NotFound,
    P2PError,
    TooFewReplicas,
    VersionConflict,
)
from p2pd.ids import Key, NodeId, distance
from p2pd.node.dialer import Dialer
from p2pd.node.dispatch import Call, Dispatch, failure
from p2pd.node.env import Env
from p2pd.node.fair_channel import FairChannel
from p2pd.node.replica import Replica
from p2pd.node.routes import Route, Routes
from p2pd.wire.identity import open_record
from p2pd.wire.messages import (
    MAX_SIBLINGS,
    Failed,
    FindValue,
    Signed,
    Store,
    Stored,
    Value,
)

# Reads of other nodes that wait for the disk; beyond it, who has most waiting is told `busy`.
MAX_READS = 256


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


@attrs.define
class _Read:
    """What the replicas of a key hold."""

    versions: list[Version]
    replicas: list[NodeId]
    answered: int


class Dht:
    """The distributed hash table, as seen from this node."""

    def __init__(
        self,
        env: Env,
        config: DhtConfig,
        routes: Routes,
        dialer: Dialer,
        replica: Replica,
        dispatch: Dispatch,
        *,
        max_value_bytes: int,
    ) -> None:
        self._env = env
        self._config = config
        self._routes = routes
        self._dialer = dialer
        self._replica = replica
        self._max_value_bytes = max_value_bytes
        self._own_id = env.identity.node_id
        self._reads: FairChannel[NodeId, tuple[Call, FindValue]] = FairChannel(MAX_READS)
        dispatch.add(FindValue, self._take_read)

    async def run(self) -> None:
        """Answer the reads of other nodes, until cancelled."""
        while True:
            call, question = await self._reads.receive()
            if call.connection.end_reason is not None:
                continue
            try:
                versions = await self._replica.read(Key(question.key))
            except P2PError as error:
                call.answer(failure(error))
                continue
            records = self._routes.closest_records(question.key, call.connection.node_id)
            call.answer(Value(tuple(each.signed for each in versions), records))

    async def put(
        self,
        name: str,
        value: bytes | None,
        *,
        ttl: float | None = None,
        if_version: str | None = None,
    ) -> Written:
        """Write a value (None: a tombstone) that replaces all versions this node can see.

        `ttl` in seconds; None for the configured one. With `if_version`, a hexadecimal
        version, the write is refused with `VersionConflict` unless that is the winner now.
        Raises `InvalidRequest`, and `TooFewReplicas` where less than the write quorum has
        the record on disk; to repeat the put is safe.
        """
        if value is not None and len(value) > self._max_value_bytes:
            raise InvalidRequest(
                f"the value has {len(value)} bytes, more than "
                f"store.max_value_bytes = {self._max_value_bytes}"
            )
        key = Key.of(name)
        read = await self._read(key)
        if if_version is not None:
            self._check_version(read.versions, if_version)
        now_ms = self._env.wall_ms()
        lifetime = self._config.record_ttl if ttl is None else ttl
        record = supersede(
            read.versions,
            key=key,
            value=value,
            writer=self._env.identity.public_key,
            now_ms=now_ms,
            expires=now_ms + int(lifetime * 1000) if lifetime else 0,
        )
        signed = self._env.identity.vouch(record)
        stored, refusal = await self._store(signed, read.replicas)
        wanted = len(read.replicas)
        quorum = self._config.write_quorum or wanted // 2 + 1
        written = Written(version_of(signed, record), stored, wanted, quorum)
        if stored < quorum:
            raise TooFewReplicas(
                f"{stored} of {wanted} replicas stored {name!r}, {quorum} are needed "
                f"(dht.write_quorum): {refusal}; it is safe to try again"
            )
        return written

    async def get(self, name: str, consistency: Consistency) -> list[Version]:
        """Return the versions of a key that no other supersedes, the winner first.

        Tombstones are left out. Raises `NotFound`, said only when every one of the closest
        nodes has answered or failed, and `TooFewReplicas`.
        """
        read = await self._read(Key.of(name))
        needed = {
            Consistency.ONE: 1,
            Consistency.QUORUM: self._config.read_quorum or len(read.replicas) // 2 + 1,
            Consistency.ALL: len(read.replicas),
        }[consistency]
        if read.answered < needed:
            raise TooFewReplicas(
                f"{read.answered} of {len(read.replicas)} replicas answered for {name!r}, "
                f"{needed} are needed; try again, or --consistency one"
            )
        # A delete that somebody did not see leaves that one's write standing.
        living = [each for each in read.versions if each.record.value is not None]
        if not living:
            raise NotFound(f"no key {name!r}")
        return living

    async def _read(self, key: Key) -> _Read:
        """Ask the closest nodes, and this one, what they hold."""
        route = await self._routes.look_up(key, FindValue(key))
        nodes = [candidate.node_id for candidate in route.closest]
        replicas = sorted([*nodes, self._own_id], key=lambda each: distance(each, key))
        replicas = replicas[: self._config.replication]
        versions = await self._replica.read(key)
        for node_id in nodes:
            versions += self._versions_in(route, node_id, key)
        answered = sum(each == self._own_id or each in route.answers for each in replicas)
        return _Read(merge(unexpired(versions, self._env.wall_ms())), replicas, answered)

    def _versions_in(self, route: Route, node_id: NodeId, key: Key) -> list[Version]:
        answer = route.answers.get(node_id)
        found: list[Version] = []
        for signed in answer.versions[:MAX_SIBLINGS] if isinstance(answer, Value) else ():
            try:
                record = open_record(signed)
            except BadMessage:
                continue
            if record.key == key:
                found.append(version_of(signed, record))
        return found

    async def _store(self, signed: Signed, replicas: list[NodeId]) -> tuple[int, str]:
        """Give a record to all replicas at once.

        Returns how many have it on disk, and what the first of the others said.
        """
        stored = 0
        refusals: list[str] = []

        async def store_at(replica: NodeId) -> None:
            nonlocal stored
            try:
                if replica == self._own_id:
                    await self._replica.write(signed)
                    stored += 1
                    return
                reply = await self._dialer.request(replica, Store(signed), math.inf)
                stored += isinstance(reply, Stored)
                if isinstance(reply, Failed):
                    refusals.append(f"{replica.hex()[:12]} refuses: {reply.message}")
            except P2PError as error:
                refusals.append(str(error))

        with trio.move_on_after(self._config.request_timeout):
            async with trio.open_nursery() as nursery:
                for replica in replicas:
                    nursery.start_soon(store_at, replica)
        if stored == len(replicas):
            return stored, "there are no more nodes"
        return stored, refusals[0] if refusals else "no answer in time"

    def _check_version(self, versions: list[Version], expected: str) -> None:
        # As `get` tells: a tombstone does not win against a concurrent write.
        living = [each for each in versions if each.record.value is not None]
        winner = living[0].name.hex() if living else ""
        if winner != expected:
            raise VersionConflict(
                f"the version there is {winner or 'none'}, not {expected}; read it again first"
            )

    def _take_read(self, call: Call, question: FindValue) -> None:
        for each, _ in self._reads.put(call.connection.node_id, (call, question)):
            each.answer(failure(Busy("too many reads wait for the disk; try again")))
