"""From what was observed to what is wrong."""

from collections.abc import Iterable, Sequence, Sized

from p2pd.core.findings import (
    Finding,
    Findings,
    Level,
    listed,
    ok,
    problem,
    warning,
    worse_alone,
)
from p2pd.core.history import MAX_SKEW
from p2pd.core.lan_diagnosis import interfaces, multicast
from p2pd.core.observations import (
    CLONED,
    ClockSeen,
    DiskSeen,
    Observations,
    RefusalSeen,
    TargetSeen,
)
from p2pd.errors import Busy
from p2pd.wire.reasons import DialBackOutcome, Reason

# With less free space than this the disk will soon be full: the database's log alone takes 8 MiB.
LOW_DISK = 64 << 20
# Beyond this share of what the store may hold, it will soon be full.
STORE_FILLED = 0.9


def diagnose(seen: Observations) -> list[Finding]:
    """Return all findings, check by check; each check that could be made has at least one."""
    findings = [
        disk(seen.disk),
        *_filling(seen.disk),
        *interfaces(seen),
        *multicast(seen),
        *_refusals(seen),
        *(target(each, worse_alone(seen)) for each in seen.targets),
        *_inbound(seen),
        *_path(seen),
        *_clock(seen),
    ]
    explained = any(each.level is Level.PROBLEM for each in findings)
    return [*findings, *_peers(seen, explained=explained)]


def disk(seen: DiskSeen) -> Finding:
    """Say whether the state directory takes what is written."""
    free = f"{seen.free / (1 << 20):,.0f} MiB free"
    if seen.full:
        return problem(
            "disk.full",
            f"the disk of {seen.directory} is full: {seen.refusal}",
            "free some room there; a p2pd that runs goes on by itself",
        )
    if seen.refusal is not None:
        return problem(
            "disk.refuses",
            f"{seen.directory} can't be written to: {seen.refusal}",
            "make it writable for the user that runs p2pd, or choose another with --state-dir; "
            "a disk that became read-only has errors",
        )
    if seen.free < LOW_DISK:
        return warning(
            "disk.low", f"{seen.directory} is writable, with {free}", "free some room there"
        )
    return ok("disk.ok", f"{seen.directory or 'the store'} is writable, {free}")


def _filling(seen: DiskSeen) -> Findings:
    if seen.used <= STORE_FILLED * seen.most:
        return
    held = f"the records here take {seen.used:,} of {seen.most:,} bytes (store.max_bytes)"
    remedy = "raise store.max_bytes, put with --ttl, or delete what is of no use"
    if seen.used + seen.largest > seen.most:
        yield problem("disk.store_full", f"{held}: large values fit no more", remedy)
    else:
        yield warning("disk.store_low", held, remedy)


_REFUSALS: dict[str, tuple[str, str, str]] = {
    Reason.NETWORK_KEY: (
        "network.key",
        "does not hold the same network key (node.network_key_file)",
        "copy the key file from one node to all, then restart p2pd",
    ),
    Reason.NETWORK: (
        "network.name",
        "is in another network than {network!r}",
        "set the same node.network on all nodes, then restart p2pd",
    ),
    Reason.VERSION: (
        "network.version",
        "has no protocol version in common with the other",
        "upgrade the older of the two",
    ),
    Reason.DIFFICULTY: (
        "network.difficulty",
        "and this one do not ask for the same proof of work",
        "set the same identity.difficulty on all nodes, then restart p2pd",
    ),
    Reason.MAN_IN_THE_MIDDLE: (
        "network.intercepted",
        "is behind something that terminates TLS between the two",
        "find out what it is before you go on",
    ),
}


_APART = (
    "see whether p2pd runs there, whether its firewall lets its TCP port in, and whether "
    "that of this host lets connections out"
)
UNCLONE = "stop one of the two, move its identity.json away and start it again"


def _refusals(seen: Observations) -> Findings:
    clashes = [each for each in seen.refusals if each.reason == Reason.IDENTITY_CLASH]
    taken = [each for each in seen.refusals if each.reason == Reason.IDENTITY_TAKEN]
    if clashes or taken:
        ago = min(each.seconds_ago for each in clashes or taken)
        text = (
            f"another running node has this node's identity, at {_hosts(clashes)}"
            if clashes
            else f"the node at {_hosts(taken)} is connected to another node with this node's "
            "identity"
        )
        yield problem(
            "identity.clash",
            f"{text} ({ago:.0f} s ago); a cloned disk or a copied state directory?",
            UNCLONE,
        )
    else:
        yield ok("identity.ok", "no other node was seen with this node's identity")
    clones = [each for each in seen.refusals if each.reason == CLONED]
    if clones:
        yield warning(
            "identity.peer",
            f"other nodes, at {_hosts(clones)}, run with an identity that another has, "
            "too; a cloned disk or a copied state directory?",
            UNCLONE,
        )
    refused = False
    for reason, (code, text, remedy) in _REFUSALS.items():
        found = [each for each in seen.refusals if each.reason == reason]
        if found:
            refused = True
            who = f"the node at {_hosts(found)} {text.format(network=seen.network)}"
            always = reason == Reason.MAN_IN_THE_MIDDLE
            level = Level.PROBLEM if always else worse_alone(seen)
            yield Finding(code, level, who, remedy)
    if not refused:
        yield ok("network.ok", f"nobody was refused by network {seen.network!r} or its key")


def target(seen: TargetSeen, level: Level) -> Finding:
    """Say whether a configured address can be reached; `level`: how bad if a bootstrap can't."""
    check = "seed" if seen.seed else "bootstrap"
    level = Level.PROBLEM if seen.seed else level
    if seen.unresolved is not None:
        remedy = f"correct it in discovery.{_key(seen)}, or mend the name service of this host"
        return Finding(f"{check}.unresolved", level, seen.unresolved, remedy)
    if seen.reason == Busy.code:
        return warning(f"{check}.untested", f"{seen.text} was not tried: {seen.failure}")
    if seen.answered is None:
        text = about(seen.text, seen.failure)
        return Finding(f"{check}.unreachable", level, text, _target_remedy(seen))
    return ok(f"{check}.ok", f"{seen.text} answers at {seen.answered}")


def about(what: str, said: object) -> str:
    """Say of what something is said, unless that names it already."""
    text = str(said)
    return text if what in text else f"{what}: {text}"


def _key(target: TargetSeen) -> str:
    return "seeds" if target.seed else "bootstrap"


def _target_remedy(target: TargetSeen) -> str:
    if target.reason in _REFUSALS:
        return _REFUSALS[target.reason][2]
    return f"{_APART}; else correct discovery.{_key(target)}"


def _inbound(seen: Observations) -> Findings:
    if not seen.dials:
        why = "no connected peer can try it" if seen.other_hosts else "no other host is connected"
        yield warning(
            "inbound.untested", f"not tested whether others can connect to this node: {why}"
        )
        return
    reached = [each for each in seen.dials if each.outcome is DialBackOutcome.REACHED]
    if reached:
        yield ok("inbound.ok", f"{reached[0].peer} connected to {reached[0].address}")
        # One that was refused may have dialled an address that is not listened on.
        missed = [
            each
            for each in seen.dials
            if each.outcome is DialBackOutcome.SILENT
            or (each.outcome is DialBackOutcome.REFUSED and not each.own)
        ]
    else:
        missed = [*seen.dials]
    if not missed:
        return
    # Where one gets through, the others may be meant to stay out.
    level = Level.WARNING if reached else Level.PROBLEM
    first = min(missed, key=lambda each: (not each.own, each.outcome))
    port = first.address.rpartition(":")[2]
    if not first.own:
        yield Finding(
            "inbound.translated",
            level,
            f"{first.peer} sees this node at {first.address}, which is not an address of this "
            "host, and can't connect to it: a router between translates addresses (NAT)",
            f"forward TCP port {port} of the router to this host",
        )
        return
    code, met, cause = _CLOSED[first.outcome]
    if reached:
        cause = "packets get lost on the way, or a firewall lets only some in"
    yield Finding(
        code,
        level,
        f"{first.peer} dialled {first.address} and {met}: {cause}",
        f"let TCP port {port} in (docs/operations.md, Ports and firewall)",
    )


_CLOSED = {
    DialBackOutcome.SILENT: (
        "inbound.dropped",
        "got no answer",
        "a firewall, most likely this host's, drops incoming TCP",
    ),
    DialBackOutcome.REFUSED: (
        "inbound.refused",
        "was refused",
        "a firewall rejects it, or p2pd does not listen there",
    ),
}


def _path(seen: Observations) -> Findings:
    lost = [each.peer for each in seen.echoes if not each.came_back]
    if lost:
        names = [each.name for each in seen.interfaces if each.used and not each.loopback]
        name = names[0] if len(names) == 1 else "INTERFACE"
        yield Finding(
            "path.large",
            # With most peers: the cause is most likely near this host.
            Level.PROBLEM if len(lost) * 2 > len(seen.echoes) else Level.WARNING,
            f"short messages are answered, long ones are not, by {listed(lost)}: most likely "
            "something on the way drops large packets",
            f"lower this host's MTU (`ip link set dev {name} mtu 1280`; "
            "connections made from then on keep to it), or let ICMP (packet too big) through the "
            "firewalls between",
        )
    elif seen.echoes:
        yield ok("path.ok", f"long messages come back from {_count(seen.echoes, 'peer')}")


def _clock(seen: Observations) -> Findings:
    off = _off(seen.clocks)
    wrong = wrong_clock(seen.clocks)
    if not seen.clocks:
        yield warning("clock.untested", "not compared: no peer is connected")
    elif not off:
        most = max(abs(each.ahead) for each in seen.clocks)
        yield ok("clock.ok", f"within {most:.1f} s of those of {_count(seen.clocks, 'peer')}")
    elif wrong is not None:
        yield wrong
    else:
        yield warning(
            "clock.peer",
            "; ".join(
                f"the clock of {each.peer} is {_ahead(each.ahead)} this one" for each in off[:3]
            ),
            "set the clock there (`timedatectl set-ntp true`): its messages are dropped",
        )


def wrong_clock(clocks: Sequence[ClockSeen]) -> Finding | None:
    """Return what is wrong with this host's clock by the clocks of most peers, None if nothing."""
    off = _off(clocks)
    if len(off) * 2 <= len(clocks):
        return None
    # Where the others' clocks are ahead, this one's is behind.
    # Not `statistics.median`: importing `statistics` alone costs half a megabyte.
    ahead = -sorted(each.ahead for each in off)[len(off) // 2]
    than = f"those of {len(off)} of {_count(clocks, 'peer')}"
    if len(clocks) == 1:
        than = f"that of {off[0].peer}, the only peer: one of the two is wrong"
    return problem(
        "clock.wrong",
        f"this host's clock is {_ahead(ahead)} {than}",
        "set the clock (`timedatectl set-ntp true`): messages dated so far off are dropped",
    )


def _off(clocks: Iterable[ClockSeen]) -> list[ClockSeen]:
    return [each for each in clocks if abs(each.ahead) > MAX_SKEW]


def _ahead(seconds: float) -> str:
    units = {"days": 86400, "h": 3600, "min": 60}
    unit = next((each for each, size in units.items() if abs(seconds) >= 2 * size), "min")
    amount = abs(seconds) / units[unit]
    return f"{amount:,.0f} {unit} {'ahead of' if seconds > 0 else 'behind'}"


def _peers(seen: Observations, *, explained: bool) -> Findings:
    if seen.connected:
        yield ok("peers.ok", f"{seen.connected} connected, {seen.known} known")
        return
    level = Level.WARNING if explained else Level.PROBLEM
    if seen.known or seen.unreachable:
        said = "; ".join(seen.unreachable[:3]) or "none has answered a dial so far"
        yield Finding(
            "peers.unreachable",
            level,
            f"no peer is connected{f', {seen.known} known' if seen.known else ''}: {said}",
            f"{_APART if not explained else 'see to the problems above first'}; "
            "`p2pctl why PEER` says more",
        )
    else:
        yield Finding(
            "peers.none",
            level,
            f"no other node of network {seen.network!r} is known: none runs where multicast "
            "reaches",
            "see to the problems above first"
            if explained
            else "start one; where multicast does not reach, name one with --bootstrap HOST:PORT",
        )


def _count(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _hosts(found: Iterable[RefusalSeen]) -> str:
    return listed({each.address for each in found})
