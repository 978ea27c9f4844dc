"""The six experiments: each starts daemons, does something to them, and says what it measured."""

import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from p2pctl.lab.daemons import Daemon
from p2pctl.lab.group import Group, Lab
from p2pctl.lab.networks import lan_of_hosts
from p2pctl.lab.results import (
    Baseline,
    Churn,
    Comparison,
    Departure,
    Finding,
    Hosts,
    HostTimes,
    NodeTimes,
    Registry,
    Result,
    Sight,
)


def baseline(lab: Lab) -> Baseline:
    """Let nodes that know nothing but the LAN start together."""
    with lab.group() as group:
        group.fill().launch()
        times = tuple(_node_times(each, group) for each in group.daemons)
        return Baseline(times, _after_ready(group), group.beacons)


def bootstrap(lab: Lab) -> Comparison:
    """Let nodes find each other by multicast, and then by the address of the first."""
    with lab.group() as group:
        group.fill().launch()
        by_multicast = _finding("multicast", group, lab)
    with lab.group(multicast=False) as group:
        first = group.add("node1")
        for number in range(2, lab.settings.nodes + 1):
            group.add(f"node{number}", "--bootstrap", first.address)
        group.launch()
        return Comparison((by_multicast, _finding("bootstrap", group, lab, multicast=False)))


def registry(lab: Lab) -> Registry:
    """Watch two nodes' entries of each other while one stops and returns, is killed and returns."""
    with lab.group() as group:
        group.fill().launch()
        stays, goes = group.daemons[0], group.daemons[-1]
        sights = _both_sides("all connected", None, stays, goes)
        for what, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
            gone, at = goes.node_id or "", _send(number, [goes])
            missed = _moment(group, f"{stays.name} misses {goes.name}", stays.lost, gone)
            sights += _one_side(f"{goes.name} {what}", missed - at, stays, goes)
            if number == signal.SIGKILL:
                dead = _moment(group, f"{goes.name} is held for dead", stays.dead, gone)
                sights += _one_side(f"{goes.name} held for dead", dead - at, stays, goes)
            group.launch(goes)
            back = _link(goes, stays) - goes.launched
            sights += _both_sides(f"{goes.name} started again", back, stays, goes)
        return Registry(tuple(sights))


def churn(lab: Lab) -> Churn:
    """Let nodes leave, be killed, and be replaced, and see when all is as before."""
    with lab.group() as group:
        group.fill().launch()
        last = group.daemons[-1]
        half = group.daemons[lab.settings.nodes - lab.settings.nodes // 2 :]
        departures = [
            _departure("left and returned", signal.SIGTERM, group, [last]),
            _departure("killed and restarted", signal.SIGKILL, group, [last]),
        ]
        if len(half) > 1:
            departures.append(
                _departure("half killed at once, restarted", signal.SIGKILL, group, half)
            )
        departures.append(_replacement(group, last))
        return Churn(tuple(departures))


def interval(lab: Lab) -> Comparison:
    """Let nodes find each other with the long and the short beacon interval."""
    settings = lab.settings
    kinds = [(False, settings.interval), (False, settings.short_interval)]
    # A passive one at the long interval takes its time.
    kinds += [(True, settings.interval)] if settings.passive else []
    kinds += [(True, settings.short_interval)]
    ways = []
    for passive, seconds in kinds:
        with lab.group(passive=passive, interval=seconds) as group:
            group.fill().launch()
            how = "passive" if passive else "answering"
            ways.append(_finding(how, group, lab, passive=passive, seconds=seconds))
    return Comparison(tuple(ways))


def hosts(lab: Lab) -> Hosts:
    """Let nodes on several hosts of a LAN start together; raises `NoNamespace`."""
    with lan_of_hosts(lab.settings.nodes) as places, lab.group() as group:
        for number, place in enumerate(places, 1):
            group.add(f"host{number}", network=place)
        group.launch()
        times = tuple(_host_times(each, group) for each in group.daemons)
        return Hosts(times, _after_ready(group))


EXPERIMENTS: Final[dict[str, Callable[[Lab], Result]]] = {
    "baseline": baseline,
    "bootstrap": bootstrap,
    "registry": registry,
    "churn": churn,
    "interval": interval,
    "hosts": hosts,
}


def _link(observer: Daemon, peer: Daemon) -> float:
    """When `observer` was connected to `peer`."""
    return observer.links[peer.node_id or ""].since


def _discovery(observer: Daemon, peer: Daemon) -> float:
    """How long after the start of both `observer` was connected to `peer`."""
    return round(_link(observer, peer) - max(observer.launched, peer.launched), 3)


def _ready(daemon: Daemon) -> float:
    return round((daemon.ready or daemon.launched) - daemon.launched, 3)


def _after_ready(group: Group) -> float:
    """Return how long after the last node was ready the last connection came."""
    ready = max(each.ready or each.launched for each in group.daemons)
    last = max(link.since for each in group.daemons for link in each.links.values())
    # A node may be dialled just before it says that it is ready.
    return round(max(0.0, last - ready), 3)


def _sources(daemons: Sequence[Daemon]) -> dict[str, int]:
    peers = (peer["source"] for each in daemons for peer in each.call("peers"))
    return dict(Counter(peers).most_common())


def _node_times(daemon: Daemon, group: Group) -> NodeTimes:
    times = [_discovery(daemon, each) for each in group.others(daemon)]
    return NodeTimes(
        daemon.name, daemon.address, _ready(daemon), min(times), max(times), _sources([daemon])
    )


def _host_times(daemon: Daemon, group: Group) -> HostTimes:
    times, first = _node_times(daemon, group), group.daemons[0]
    rtt = None if daemon is first else first.call("ping", peer=daemon.node_id)["rtt_ms"][0]
    return HostTimes(
        node=times.node,
        address=times.address,
        ready_seconds=times.ready_seconds,
        first_peer_seconds=times.first_peer_seconds,
        all_peers_seconds=times.all_peers_seconds,
        sources=times.sources,
        rtt_ms=rtt,
    )


def _finding(
    how: str,
    group: Group,
    lab: Lab,
    *,
    multicast: bool = True,
    passive: bool | None = None,
    seconds: float | None = None,
) -> Finding:
    beacons = group.beacons
    times = [_discovery(each, other) for each in group.daemons for other in group.others(each)]
    return Finding(
        how=how,
        passive=lab.settings.passive if passive is None else passive,
        interval_seconds=(seconds or lab.settings.interval) if multicast else None,
        ready_seconds=max(map(_ready, group.daemons)),
        first_seconds=min(times),
        median_seconds=round(statistics.median(times), 3),
        last_seconds=max(times),
        after_ready_seconds=_after_ready(group),
        beacons=beacons,
        sources=_sources(group.daemons),
    )


def _one_side(moment: str, after: float | None, observer: Daemon, peer: Daemon) -> list[Sight]:
    entry = observer.entry_of(peer)
    return [
        Sight(
            moment=moment,
            after_seconds=None if after is None else round(after, 3),
            seen_by=observer.name,
            peer=peer.name,
            status=entry.get("status"),
            liveness=entry.get("liveness"),
            success_count=entry.get("success_count"),
            fail_count=entry.get("fail_count"),
            last_error=entry.get("last_error"),
        )
    ]


def _both_sides(moment: str, after: float | None, one: Daemon, other: Daemon) -> list[Sight]:
    return _one_side(moment, after, one, other) + _one_side(moment, after, other, one)


def _departure(
    what: str, number: signal.Signals, group: Group, going: Sequence[Daemon]
) -> Departure:
    noticed = _go(group, number, going)
    group.launch(*going)
    return _return(what, noticed, group, going)


def _replacement(group: Group, going: Daemon) -> Departure:
    noticed = _go(group, signal.SIGKILL, [going])
    group.remove(going)
    newcomer = group.add("newcomer")
    group.launch(newcomer)
    return _return("killed, a newcomer in its place", noticed, group, [newcomer])


def _send(number: signal.Signals, going: Sequence[Daemon]) -> float:
    """Send a signal to some at once, and wait for them to end; returns when it was sent."""
    at = time.time()
    for each in going:
        each.send(number)
    for each in going:
        each.reap()
    return at


def _moment(group: Group, what: str, times: Mapping[str, float], peer: str) -> float:
    """Wait until a time is known for a peer, and return it."""
    group.wait(what, lambda: peer in times)
    return times[peer]


def _go(group: Group, number: signal.Signals, going: Sequence[Daemon]) -> float:
    """Let some go; returns how long it took until all others had noticed."""
    staying = group.others(*going)
    gone = [each.node_id or "" for each in going]
    at = _send(number, going)
    group.wait(
        f"all others miss {', '.join(each.name for each in going)}",
        lambda: all(peer in each.lost for each in staying for peer in gone),
    )
    return round(max(each.lost[peer] for each in staying for peer in gone) - at, 3)


def _return(what: str, noticed: float, group: Group, back: Sequence[Daemon]) -> Departure:
    staying = group.others(*back)
    links = [(each, other) for each in back for other in group.others(each)]
    returned = max(_discovery(each, other) for each, other in links)
    returned = max(returned, *(_discovery(other, each) for each, other in links))
    # Connections between two that return are not counted.
    dialled = [each.links[other.node_id or ""].dialled for each, other in links if other in staying]
    return Departure(
        what=what,
        nodes=tuple(each.name for each in back),
        noticed_seconds=noticed,
        ready_seconds=max(map(_ready, back)),
        back_seconds=returned,
        dialled=sum(dialled),
        was_dialled=len(dialled) - sum(dialled),
    )
