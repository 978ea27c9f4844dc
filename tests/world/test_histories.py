"""Clients that use the store all at once, under faults; and the judge of it, tried on liars."""

from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.lowlevel

from p2pd.core.records import merge
from p2pd.errors import TooFewReplicas
from p2pd.node import dht, quorum, replica
from p2pd.node.replica import Replica
from p2pd.simulation.checks import Unsound
from p2pd.simulation.determinism import run_in_virtual_time
from p2pd.simulation.histories import Fact, History, Kind, Operation, Outcome, breaches, summary
from p2pd.simulation.plan import Row
from p2pd.simulation.scenarios import NAMED, run_scenario
from p2pd.simulation.world import open_world

NODES = ("n0", "n1", "n2")


def run_named(name: str, seed: int) -> Row:
    print(f"python -m p2pd.simulation {name} --seed {seed}")
    (row,) = run_in_virtual_time(run_scenario, NAMED[name], seed, print, seed=seed).rows
    return row


def first_to_break(rule: str, name: str, seeds: int) -> int | None:
    """Return the first seed whose history breaks a rule ("" for any), or None."""
    for seed in range(seeds):
        try:
            run_named(name, seed)
        except BaseExceptionGroup as group:
            found, rest = group.split(Unsound)
            if found is None or rest is not None:
                raise
            text = str(leaf(found))
            print(text)
            if f" of {rule}" in text:
                return seed
    return None


def leaf(group: BaseExceptionGroup[Unsound]) -> Unsound:
    found = group.exceptions[0]
    return leaf(found) if isinstance(found, BaseExceptionGroup) else found


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_stays_and_what_was_deleted_does_not_return(seed: int) -> None:
    assert run_named("histories", seed).store["acknowledged"] > 10


@pytest.mark.parametrize("seed", range(2))
def test_while_one_node_is_away_every_read_is_current(seed: int) -> None:
    assert run_named("histories-calm", seed).store["acknowledged"] > 50


@pytest.mark.parametrize("restarted", [False, True])
def test_who_reaches_nobody_says_that_the_quorum_is_lost(restarted: bool) -> None:
    async def main() -> None:
        async with open_world(1) as world:
            first = await world.start("n0", lan=None)
            nodes = await world.start_many(6, per_second=5, bootstrap=[first], lan=None)
            await trio.sleep(10)
            await first.node.put("key", b"value")
            lonely = nodes[-1]
            if restarted:
                await world.crash(lonely)
            world.meanwhile(partial(world.pause, lonely, seconds=60))
            await trio.lowlevel.checkpoint()
            if restarted:
                await world.start(lonely.name)
            with pytest.raises(TooFewReplicas):
                await lonely.node.put("key", b"other")
            with pytest.raises(TooFewReplicas):
                await lonely.node.get("no such key")

    run_in_virtual_time(main, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["histories", "histories-calm"])
def test_two_thousand_histories(name: str) -> None:
    assert first_to_break("", name, 2000) is None


def test_a_merge_that_keeps_the_winner_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (replica, quorum):
        monkeypatch.setattr(module, "merge", lambda versions: merge(versions)[:1])
    assert first_to_break("nothing_lost", "histories", 100) is not None


def test_a_replica_that_acknowledges_before_the_disk_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = Replica._commit

    async def hasty(self: Replica, batch: list[replica._Write]) -> None:
        for each in batch:
            self._settle(each, None)
            each.reply = None
        await sound(self, batch)

    monkeypatch.setattr(Replica, "_commit", hasty)
    assert first_to_break("told_once_on_disk", "histories", 100) is not None


def test_one_who_does_not_look_at_the_expected_version_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dht.Dht, "_check_version", lambda *_: None)
    assert first_to_break("one_of_a_kind", "histories-calm", 100) is not None


class Told:
    """A history made by hand: one key, three replicas, versions named by letters."""

    def __init__(self) -> None:
        self.history = History(settled_at=100, replicas={"k": list(NODES)})
        self.keep("a")
        self.put("a", 1)

    def put(
        self, version: str, at: float, *seen: str, value: str | None = "", **how: object
    ) -> Operation:
        """Put (value None: delete) what replaces `seen`; on all disks half a second later."""
        content = None if value is None else (value or version).encode()
        self.history.facts[version] = Fact(
            version, "k", content, version.encode(), 0, dict.fromkeys(map(str.encode, seen), 0),
            dict.fromkeys(NODES, at + 0.5),
        )  # fmt: skip
        kind = Kind.DELETE if value is None else Kind.PUT
        return self.add(kind, at, value=content, version=version, stored=3, **how)

    def get(self, at: float, *found: str, **how: object) -> Operation:
        return self.add(Kind.GET, at, found={each: each.encode() for each in found}, **how)

    def add(self, kind: Kind, at: float, **how: object) -> Operation:
        fields = {"node": "n0", "ended": at + 1, "outcome": Outcome.OK} | how
        operation = Operation(
            len(self.history.operations),
            kind,
            "k",
            began=at,
            **fields,  # type: ignore[arg-type] # handed on
        )
        self.history.operations.append(operation)
        return operation

    def keep(self, *versions: str, nodes: tuple[str, ...] = NODES) -> None:
        kept = self.history.kept.setdefault("k", {})
        kept.update(dict.fromkeys(nodes, frozenset(versions)))


def lost(told: Told) -> None:
    told.put("b", 3, "a")
    told.keep()


def lost_to_one_that_did_not_see_it(told: Told) -> None:
    told.put("b", 3)
    told.keep("b")


def lost_to_one_that_was_there_before(told: Told) -> None:
    told.put("b", 0, "a", node="n1")
    told.keep("b")


def never_on_a_disk(told: Told) -> None:
    del told.history.facts["a"]


def on_fewer_disks_than_told(told: Told) -> None:
    told.history.facts["a"].disks["n2"] = 2.5


def replicas_that_differ(told: Told) -> None:
    told.put("b", 3, "a")
    told.keep("b")
    told.keep("a", nodes=("n1",))


def replicas_that_agree_on_too_little(told: Told) -> None:
    told.put("b", 3)
    told.keep("b")
    told.keep("a", "b", nodes=("n9",))


def read_but_never_written(told: Told) -> None:
    told.get(5, "z", "a")


def read_before_it_was_put(told: Told) -> None:
    told.get(5, "a")
    told.put("b", 9, "a")
    told.keep("b")
    told.get(5, "a", "b")


def read_though_it_was_refused(told: Told) -> None:
    told.put("b", 3, "a", outcome=Outcome.REFUSED)
    told.keep("b")
    told.get(5, "b")


def read_under_another_version(told: Told) -> None:
    told.add(Kind.GET, 5, found={"b": b"a"})


def read_after_its_deletion(told: Told) -> None:
    told.put("b", 3, "a", value=None)
    told.keep("b")
    told.get(101, "a")


def read_beside_what_replaced_it(told: Told) -> None:
    told.put("b", 3, "a")
    told.put("c", 4, "b")
    told.keep("c")
    told.get(101, "a", "c")


def said_to_be_absent(told: Told) -> None:
    told.get(101)


def missing_beside_its_sibling(told: Told) -> None:
    told.put("b", 1)
    told.keep("a", "b")
    told.get(101, "b")


def not_answered_in_the_end(told: Told) -> None:
    told.get(101, outcome=Outcome.REFUSED)


def two_that_expected_the_same(told: Told) -> None:
    told.put("b", 3, "a", expected="a")
    told.put("c", 5, "a", "b", expected="a")
    told.keep("c")


def two_that_expected_the_same_through_a_third(told: Told) -> None:
    told.put("b", 3, "a", expected="a")
    told.put("x", 5, "b")
    told.put("c", 7, "a", "x", expected="a")
    told.keep("c")


def one_that_leaves_what_it_expected(told: Told) -> None:
    told.put("b", 3, expected="a")
    told.keep("a", "b")


@pytest.mark.parametrize(
    ("rule", "deed"),
    [
        ("nothing_lost", lost),
        ("nothing_lost", lost_to_one_that_did_not_see_it),
        ("nothing_lost", lost_to_one_that_was_there_before),
        ("nothing_lost", never_on_a_disk),
        ("told_once_on_disk", on_fewer_disks_than_told),
        ("replicas_agree", replicas_that_differ),
        ("replicas_agree", replicas_that_agree_on_too_little),
        ("nothing_invented", read_but_never_written),
        ("nothing_invented", read_before_it_was_put),
        ("nothing_invented", read_though_it_was_refused),
        ("nothing_invented", read_under_another_version),
        ("nothing_returns", read_after_its_deletion),
        ("nothing_returns", read_beside_what_replaced_it),
        ("reads_miss_nothing", said_to_be_absent),
        ("reads_miss_nothing", missing_beside_its_sibling),
        ("settled_store_answers", not_answered_in_the_end),
        ("one_of_a_kind", two_that_expected_the_same),
        ("one_of_a_kind", two_that_expected_the_same_through_a_third),
        ("one_of_a_kind", one_that_leaves_what_it_expected),
    ],
)
def test_each_rule_finds_what_breaks_it(rule: str, deed: Callable[[Told], None]) -> None:
    told = Told()
    deed(told)
    assert rule in {each.partition(":")[0] for each in breaches(told.history)}


def test_a_sound_history_breaks_no_rule() -> None:
    told = Told()
    told.put("b", 3, "a", expected="a")
    told.put("c", 3, "a", expected="a", node="n1")
    told.get(5, "b", "c")
    told.put("d", 7, "b", "c", value=None)
    unknown = told.put("e", 7, "b", "c")
    unknown.outcome, unknown.version = Outcome.UNKNOWN, ""
    told.get(7.2, "b", "c")
    told.get(101, "e")
    told.keep("d", "e")
    assert breaches(told.history) == []
    assert summary(told.history)["acknowledged"] == 4


def test_while_faults_last_a_read_may_be_late_unless_they_are_calm() -> None:
    told = Told()
    told.put("b", 3, "a")
    told.keep("b")
    told.get(5, "a")
    assert breaches(told.history) == []
    assert summary(told.history)["stale"] == summary(told.history)["missed"] == 1
    told.history.calm = True
    assert {each.partition(":")[0] for each in breaches(told.history)} == {
        "nothing_returns",
        "reads_miss_nothing",
    }


def test_what_one_node_writes_twice_at_once_may_replace_itself() -> None:
    told = Told()
    told.put("b", 1, "a")
    told.keep("b")
    assert breaches(told.history) == []


def test_what_is_dropped_at_the_bound_of_siblings_is_no_breach() -> None:
    told = Told()
    told.put("b", 3)
    told.keep("b")
    told.history.full.add("k")
    assert breaches(told.history) == []
