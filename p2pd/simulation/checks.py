"""What must hold in a world at any moment, or once it is quiet: each check lists its breaches."""

from collections.abc import Callable, Iterable, Iterator

import trio

from p2pd.core.entries import Status
from p2pd.core.registry import MAX_ENTRIES, MAX_UNPROVEN
from p2pd.core.routing import MOST_NEAR
from p2pd.ids import Key, distance, distance_bits
from p2pd.node.connection import Direction
from p2pd.node.outbox import MAX_OUTBOX
from p2pd.simulation.world import SimNode, World
from p2pd.store.base import Table
from p2pd.wire.session import MAX_PENDING

# Tasks of a node without any connection: its services, their workers, its listener.
MAX_OWN_TASKS = 40
TASKS_PER_CONNECTION = 3

Check = Callable[[World], Iterator[str]]


class Unsound(AssertionError):
    """A world broke one of its invariants; the message lists all breaches and the seed."""


def check_always(world: World) -> None:
    """Check what holds at any moment, faults or not; raises `Unsound`."""
    _raise(world, (no_bugs, limits_kept, tables_sound, tasks_bounded))


def check_quiet(world: World) -> None:
    """Check what holds once nothing has changed for a while; raises `Unsound`."""
    _raise(
        world,
        (
            no_bugs,
            limits_kept,
            tables_sound,
            tasks_bounded,
            connections_symmetric,
            everybody_connected,
            registries_true,
        ),
    )


def _raise(world: World, checks: Iterable[Check]) -> None:
    breaches = [f"{check.__name__}: {breach}" for check in checks for breach in check(world)]
    if breaches:
        shown = "\n".join(breaches[:20])
        more = f"\n... and {len(breaches) - 20} more" if len(breaches) > 20 else ""
        raise Unsound(
            f"seed {world.seed}, at {trio.current_time():.3f} s, "
            f"{len(breaches)} breaches:\n{shown}{more}"
        )


def no_bugs(world: World) -> Iterator[str]:
    """Nothing uncaught: no node met an exception that it had not foreseen."""
    for node in world.nodes.values():
        for event in node.events:
            if event.code == "bug":
                yield f"{node.name}: {event.message}"


def limits_kept(world: World) -> Iterator[str]:
    """Every bound holds: connections, registry, requests and bytes that wait."""
    for node in world.living():
        roster = node.services.roster
        config = roster.config
        for direction, most in (
            (Direction.INBOUND, config.max_inbound),
            (Direction.OUTBOUND, config.max_outbound),
        ):
            held = sum(each.direction is direction for each in roster.connections.values())
            if held > most:
                yield f"{node.name}: {held} {direction} connections, the limit is {most}"
        entries = list(node.services.registry)
        unproven = sum(not entry.proven for entry in entries)
        if len(entries) > MAX_ENTRIES + 64 or unproven > MAX_UNPROVEN + 64:
            yield f"{node.name}: {len(entries)} registry entries, {unproven} of them hearsay"
        for connection in roster.connections.values():
            if connection.requests_under_way > MAX_PENDING:
                yield f"{node.name}: {connection.requests_under_way} requests under way"
            if connection.bytes_waiting > 2 * MAX_OUTBOX:
                yield f"{node.name}: {connection.bytes_waiting} bytes wait to be sent"


def tables_sound(world: World) -> Iterator[str]:
    """Routing tables: right buckets, none too full, no own ID, nobody twice."""
    for node in world.living():
        table = node.services.routes.table
        seen = set()
        sizes: dict[int, int] = {}
        for contact in table:
            bucket = distance_bits(node.node_id, contact.node_id)
            sizes[bucket] = sizes.get(bucket, 0) + 1
            if contact.node_id == node.node_id:
                yield f"{node.name}: is in its own routing table"
            if contact.node_id in seen:
                yield f"{node.name}: has {contact.node_id!r} twice"
            seen.add(contact.node_id)
        for bucket, size in sizes.items():
            if size > MOST_NEAR * node.config.dht.k:
                yield f"{node.name}: bucket {bucket} holds {size} contacts"


def tasks_bounded(world: World) -> Iterator[str]:
    """No task leaks: their number is bounded for the world, each node and each connection."""
    living = world.living()
    # Besides what is connected, what waits in a handshake or in a lookup.
    connections = sum(len(node.services.roster.connections) + 16 for node in living)
    most = 50 + MAX_OWN_TASKS * len(world.nodes) + TASKS_PER_CONNECTION * connections
    tasks = trio.lowlevel.current_statistics().tasks_living
    if tasks > most:
        yield f"{tasks} tasks for {len(living)} nodes, at most {most} are in order"


def connections_symmetric(world: World) -> Iterator[str]:
    """Both ends have the same one connection to each other, and no stream is left over."""
    by_id = {node.node_id: node for node in world.living()}
    ends = 0
    for node in by_id.values():
        for peer_id, connection in node.services.roster.connections.items():
            ends += 1
            peer = by_id.get(peer_id)
            if peer is None:
                yield f"{node.name}: is connected to a node that does not run"
                continue
            back = peer.services.roster.connections.get(node.node_id)
            if back is None:
                yield f"{node.name}: is connected to {peer.name}, but not the other way round"
            elif back.peer.dial_number != connection.peer.dial_number:
                yield f"{node.name} and {peer.name} each keep another connection"
    if len(world.network.streams) != ends:
        yield f"{len(world.network.streams)} streams for {ends} ends of connections"


def everybody_connected(world: World) -> Iterator[str]:
    """The living form one network: from any of them all can be reached."""
    living = {node.node_id: node for node in world.living()}
    if not living:
        return
    reached = set()
    ahead = [next(iter(living))]
    while ahead:
        here = ahead.pop()
        if here not in reached and here in living:
            reached.add(here)
            ahead += living[here].services.roster.connections
    if len(reached) < len(living):
        lost = sorted(living[each].name for each in living.keys() - reached)
        yield f"{len(lost)} nodes are cut off from the first: {', '.join(lost[:10])}"


def registries_true(world: World) -> Iterator[str]:
    """The peers that are connected, and no others, are `connected` in the registry.

    And no node forgot one that it was ever connected to.
    """
    for node in world.living():
        connections = node.services.roster.connections
        entries = {entry.node_id: entry for entry in node.services.registry}
        for peer_id in connections:
            if peer_id not in entries:
                yield f"{node.name}: is connected to {peer_id!r}, whom it does not know"
        for known, entry in entries.items():
            if (entry.status is Status.CONNECTED) != (known in connections):
                yield f"{node.name}: {known!r} is {entry.status} in its registry"
        met = {event.peer for event in node.events if event.code == "peer.connected"}
        for once in sorted(each for each in met if each is not None):
            if once not in entries and len(entries) < MAX_ENTRIES:
                yield f"{node.name}: forgot {once!r}, to whom it was connected"


def closest(world: World, key: bytes, count: int) -> list[SimNode]:
    """Return the living nodes closest to a key, closest first: what a lookup should find."""
    return sorted(world.living(), key=lambda node: distance(node.node_id, key))[:count]


def rightful(world: World, name: str) -> list[SimNode]:
    """Return the living nodes that should hold a key: the `dht.replication` closest to it."""
    replication = max((node.config.dht.replication for node in world.living()), default=0)
    return closest(world, Key.of(name), replication)


async def holders(world: World, name: str) -> list[SimNode]:
    """Return the living nodes that hold a key."""
    key = Key.of(name)
    return [node for node in world.living() if await node.store.get(Table.RECORDS, key) is not None]


async def copies(world: World, name: str) -> tuple[int, int]:
    """Count the living nodes that hold a key, and how many of them are its rightful replicas."""
    held = await holders(world, name)
    return len(held), sum(node in rightful(world, name) for node in held)
