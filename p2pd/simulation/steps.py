"""What each kind of step does; what it measures becomes a row of its run."""

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from p2pd.simulation import clients, endurance, histories, measure
from p2pd.simulation.adversary import make_liar
from p2pd.simulation.checks import Unsound
from p2pd.simulation.plan import Run, Step

# Messages to everybody before the tree counts as settled, and those measured.
WARM_UP = 20
PUBLISHED = 30
_SHOWN = 5


async def _measure(run: Run, _: Step) -> None:
    world, number = run.world, run.number("measure")
    put = await measure.put_keys(world, [] if number else run.names)
    get = await measure.get_keys(world, run.names)
    lookup = await measure.look_up(world, [f"point {number} {each}" for each in run.names])
    run.add_row("measure", put=put.summary(), get=get.summary(), lookup=lookup.summary())


async def _publish(run: Run, _: Step) -> None:
    warm_up = 0 if run.number("publish") else WARM_UP
    spread = await measure.publish(run.world, PUBLISHED, warm_up=warm_up)
    run.add_row("publish", gossip=spread.summary())


async def _history(run: Run, step: Step) -> None:
    repair = endurance.repair_interval(run.world)
    history = await clients.live_through(run.world, step.seconds, calm=step.calm, repair=repair)
    found = histories.breaches(history)
    if found:
        rules = Counter(each.partition(":")[0] for each in found)
        counts = ", ".join(f"{count} of {rule}" for rule, count in rules.items())
        shown = "\n".join(found[:_SHOWN])
        raise Unsound(f"seed {run.world.seed}, breaches in a history: {counts}\n{shown}")
    run.add_row("history", store=histories.summary(history))


async def _wait(_: Run, step: Step) -> None:
    await trio.sleep(step.seconds)


async def _kill(run: Run, step: Step) -> None:
    await run.world.kill(step.share)
    await trio.sleep(step.seconds)


async def _partition(run: Run, step: Step) -> None:
    await run.world.partition(step.share, seconds=step.seconds, one_way=step.one_way)


async def _breaks(run: Run, step: Step) -> None:
    await run.world.break_connections(per_second=step.per_second, seconds=step.seconds)


async def _stalls(run: Run, step: Step) -> None:
    await run.world.stall_connections(
        per_second=step.per_second, each=step.each, seconds=step.seconds
    )


async def _churn(run: Run, step: Step) -> None:
    await run.world.churn(
        mean_session=step.session, mean_absence=step.absence, seconds=step.seconds
    )


async def _skew(run: Run, step: Step) -> None:
    run.world.skew_clocks(step.most)
    await trio.sleep(step.seconds)


async def _weather(run: Run, step: Step) -> None:
    conditions = run.world.conditions
    conditions.loss = conditions.duplication = conditions.reordering = step.share
    await trio.sleep(step.seconds)


async def _firewalls(run: Run, step: Step) -> None:
    run.world.close_to_inbound(step.share)
    await trio.sleep(step.seconds)


async def _liars(run: Run, step: Step) -> None:
    living = run.world.living()
    for node in run.world.rng.sample(living, round(step.share * len(living))):
        make_liar(run.world, node)
    await trio.sleep(step.seconds)


# By the names of `plan.KINDS`.
STEPS: dict[str, Callable[[Run, Step], Awaitable[None]]] = {
    "measure": _measure,
    "publish": _publish,
    "store": endurance.store,
    "halves": endurance.halves,
    "turnover": endurance.turnover,
    "history": _history,
    "wait": _wait,
    "kill": _kill,
    "partition": _partition,
    "breaks": _breaks,
    "stalls": _stalls,
    "churn": _churn,
    "skew": _skew,
    "weather": _weather,
    "firewalls": _firewalls,
    "liars": _liars,
}
