"""Why a peer stands where it stands: the causal chain, from what is known here."""

import trio

from p2pd.core.actions import Liveness
from p2pd.core.entries import Entry, Status
from p2pd.errors import NotFound
from p2pd.ids import NodeId
from p2pd.node.chronicle import Chronicle
from p2pd.node.connection import Connection
from p2pd.node.roster import describe
from p2pd.node.services import Services
from p2pd.node.snapshot import WhyResult, WhyStep

_HEARD_OF = {
    "multicast": "its beacon was heard on the LAN",
    "bootstrap": "it is behind a bootstrap address of the configuration",
    "seed": "it is behind a seed address of the configuration",
    "exchange": "another peer told of it",
    "inbound": "it dialled this node",
    "manual": "a user asked for its address",
}


def explain(peer: NodeId, services: Services, chronicle: Chronicle, wall: float) -> WhyResult:
    """Give the account of a known peer; `wall` is now in Unix seconds. Raises `NotFound`."""
    entry = services.registry.get(peer)
    if entry is None:
        raise NotFound(f"peer {peer.short} is not known any more")
    connection = services.roster.connections.get(peer)
    liveness = services.liveness.of(peer)
    steps = [_heard_of(entry), *chronicle.steps(peer)]
    reports = services.liveness.accusations(peer)
    steps = sorted([*steps, *reports], key=lambda step: step.time or 0)
    if connection is not None:
        steps.append(_probes(connection, wall))
    else:
        steps += _outlook(entry, wall)
    return WhyResult(
        node_id=peer.hex(),
        name=entry.name,
        status=entry.status.value,
        liveness=liveness.value,
        summary=_farewell(entry)
        if services.liveness.has_left(peer)
        else _summary(entry, liveness, connection, len(reports)),
        steps=steps,
    )


def _heard_of(entry: Entry) -> WhyStep:
    text = _HEARD_OF[entry.origin.value]
    if entry.told_by is not None:
        text += f" ({entry.told_by.short})"
    return WhyStep(entry.first_seen, "peer.heard_of", text)


def _probes(connection: Connection, wall: float) -> WhyStep:
    silence = trio.current_time() - connection.last_heard
    rtt = "unknown" if connection.rtt is None else f"{connection.rtt * 1000:.1f} ms"
    text = (
        f"last heard of {silence:.1f} s ago, round trip {rtt}, "
        f"{connection.unanswered_probes} probes unanswered"
    )
    return WhyStep(wall - silence, "probe.state", text)


def _outlook(entry: Entry, wall: float) -> list[WhyStep]:
    known = ", ".join(map(str, entry.addresses)) or "none"
    steps = [WhyStep(None, "address.known", f"addresses, best first: {known}")]
    if entry.last_error:
        steps.append(WhyStep(None, "peer.last_error", entry.last_error))
    wait = entry.retry_at - trio.current_time()
    if entry.parted:
        parted = "a user disconnected these two nodes"
        if wait > 0:
            parted += "; until it is dialled again, connections are for single requests only"
        steps.append(WhyStep(None, "dial.parted", parted))
    if wait > 0:
        text = f"not dialled for another {wait:.0f} s" if wait >= 1 else "dialled again in a moment"
        if entry.failures_in_row:
            text = f"{_count(entry.failures_in_row, 'failure')} in a row: {text}"
        steps.append(WhyStep(wall + wait, "dial.backoff", text))
    return steps


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _farewell(entry: Entry) -> str:
    # That nobody listens there any more follows from the goodbye, and is not its cause.
    since = f"; since then: {entry.last_error}" if entry.failures_in_row else ""
    return f"{describe(entry)} stopped properly, with a goodbye{since}"


def _summary(entry: Entry, liveness: Liveness, connection: Connection | None, accusers: int) -> str:
    who = describe(entry)
    if connection is not None:
        silent = ", but silent" if liveness is Liveness.SUSPECT else ""
        return f"{who} is connected, {connection.direction}, at {connection.remote}{silent}"
    if liveness in {Liveness.DEAD, Liveness.SUSPECT}:
        # Where no dial failed since the last connection, its end says nothing about now.
        own = entry.last_error if entry.failures_in_row or not accusers else None
        reported = f"reported by {_count(accusers, 'peer')}" if accusers else None
        said = ", and ".join(each for each in (own, reported) if each)
        return f"{who} is {liveness}: {said or 'it does not answer'}"
    if entry.status is Status.ATTEMPTED and entry.last_error:
        return f"{who} was never connected: {entry.last_error}"
    if entry.last_error:
        return f"{who} is not connected: {entry.last_error}"
    return f"{who} is known, and no connection to it was needed so far"
