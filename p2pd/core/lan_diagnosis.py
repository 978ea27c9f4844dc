"""Why nobody is found on the LAN: interfaces and multicast, from what was observed."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from p2pd.address import is_link_local_v6, is_local, network_group
from p2pd.core.findings import Finding, Findings, Level, listed, ok, problem, warning, worse_alone
from p2pd.core.observations import InterfaceSeen, LinkSeen, Observations


def interfaces(seen: Observations) -> Findings:
    """Check which interfaces are used, and whether the others are on one of those."""
    used = [each for each in seen.interfaces if each.used]
    left_out = [each for each in seen.interfaces if not each.used and _strangers([each])]
    wanted = [pattern for pattern in seen.patterns if not pattern.startswith("!")]
    chosen = f"discovery.multicast.interfaces = [{', '.join(map(repr, seen.patterns))}]"
    if wanted and not used:
        text = f"{chosen} fits no interface that is up; up: {_named(seen.interfaces)}"
        heard = f"; other nodes answer on {_named(left_out)}" if left_out else ""
        yield problem("interface.missing", text + heard, _remedy(left_out))
    elif left_out and not _strangers(used):
        why = f"by {chosen}" if seen.patterns else "as that of containers or tunnels"
        yield problem(
            "interface.wrong",
            f"other nodes answer on {_named(left_out)}, left out {why}, none on {_named(used)}",
            _remedy(left_out),
        )
    elif all(each.loopback for each in seen.interfaces):
        yield Finding(
            "interface.none",
            worse_alone(seen),
            "no interface but loopback is up with a link and an address: no other host can be "
            "reached",
            "bring the network up: `ip address` shows the interfaces, their addresses, and "
            "NO-CARRIER where the cable or the access point is missing; p2pd follows by itself",
        )
    else:
        for pattern in wanted:
            if not any(fnmatchcase(each.name, pattern) for each in seen.interfaces):
                yield warning(
                    "interface.unmatched", f"no interface that is up fits {pattern!r} of {chosen}"
                )
        yield ok("interface.ok", f"in use: {_named(used)}")


def _remedy(left_out: list[InterfaceSeen]) -> str:
    if not left_out:
        return "correct it and restart p2pd, or bring that interface up"
    names = ", ".join(repr(each.name) for each in left_out)
    return f"name {names} in discovery.multicast.interfaces, then restart p2pd"


def multicast(seen: Observations) -> Findings:
    """Check, for each interface in use, whether beacons go out, come back and are answered."""
    if not seen.multicast:
        yield warning(
            "multicast.disabled",
            "discovery.multicast.enabled is false: nobody is found on the LAN",
            None if seen.connected else "set it to true, or name nodes in discovery.bootstrap",
        )
        return
    used = [each for each in seen.interfaces if each.used]
    for interface in used:
        found = list(_link_problems(seen, interface))
        yield from found
        if all(each.level is Level.WARNING for each in found):
            yield from _heard(seen, interface)
    foreign = {host for each in used for link in each.links for host in link.foreign}
    if foreign and not any(link.hosts for each in used for link in each.links):
        yield Finding(
            "multicast.other_network",
            worse_alone(seen),
            f"nodes of other networks answer ({listed(foreign)}), none of {seen.network!r}",
            "set the same node.network on all nodes",
        )


def _link_problems(seen: Observations, interface: InterfaceSeen) -> Findings:
    links = interface.links
    deaf = [each for each in links if not each.listening and not interface.loopback]
    mute = [each for each in links if each.listening and each.trouble is not None]
    dropped = [
        each for each in links if each.listening and each.trouble is None and not each.looped
    ]
    if deaf:
        # To listen in one family only may be what the user wants.
        one_family = any(each.listening for each in links)
        yield Finding(
            "multicast.not_listening",
            Level.WARNING if one_family else Level.PROBLEM,
            f"{interface.name}: no beacons are sent to {_groups(deaf)}, for p2pd listens only on "
            f"{', '.join(seen.listening)}",
            "listen on all addresses: leave listen.addresses at its default",
        )
    for link in mute:
        if link.port_taken:
            yield problem(
                "multicast.port_taken",
                f"{interface.name}, {link.group}: {link.trouble}: another program holds UDP port "
                f"{seen.multicast_port} for itself",
                f"stop it (`ss -lunp 'sport = :{seen.multicast_port}'` shows it), or set another "
                "discovery.multicast.port on all nodes",
            )
            continue
        yield problem(
            "multicast.not_sent",
            f"{interface.name}, {link.group}: {link.trouble}",
            f"let UDP to port {seen.multicast_port} out through the firewall of this host; "
            "`ip route` must have a way to the group",
        )
    if dropped:
        yield problem(
            "multicast.dropped",
            f"{interface.name}: beacons are sent to {_groups(dropped)}, but not even this node's "
            "own come back: the firewall of this host drops incoming multicast",
            f"let UDP port {seen.multicast_port} to {_groups(dropped)} in "
            "(docs/operations.md, Ports and firewall)",
        )


def _groups(links: Iterable[LinkSeen]) -> str:
    return " and ".join(each.group for each in links)


def _heard(seen: Observations, interface: InterfaceSeen) -> Findings:
    if not interface.links:
        if not interface.loopback:
            yield warning(
                "multicast.impossible", f"{interface.name} has no address, or does no multicast"
            )
        return
    strangers = _strangers([interface])
    here = {host for link in interface.links for host in link.own_hosts}
    came_back = f"{interface.name}: beacons are sent and come back"
    if strangers:
        # A node is heard in both families.
        shown = {each for each in strangers if not is_link_local_v6(each)} or strangers
        yield ok("multicast.ok", f"{came_back}; answers from {listed(shown)}")
    elif any(link.foreign for link in interface.links):
        yield ok("multicast.ok", f"{came_back}; only nodes of other networks answer")
    elif interface.loopback or here:
        who = "; other nodes of this host answer" if here else ""
        yield ok("multicast.ok", came_back + who)
    else:
        silent = [host for host in seen.other_hosts if _same_lan(host, interface)]
        yield warning(
            "multicast.unanswered",
            f"{came_back}, but no other host answers"
            + (f", not even {listed(silent)}, though connected" if silent else ""),
            "if there are nodes on that LAN: their firewalls, the switch or the access point "
            "(client isolation, IGMP snooping) drop multicast, or it is another LAN",
        )


def _same_lan(host: str, interface: InterfaceSeen) -> bool:
    groups = {network_group(each) for each in interface.addresses}
    return is_local(host) and network_group(host) in groups


def _strangers(interfaces: Iterable[InterfaceSeen]) -> set[str]:
    """Return the other hosts from which nodes of this network answer."""
    return {
        host
        for interface in interfaces
        for link in interface.links
        for host in set(link.hosts) - set(link.own_hosts)
    }


def _named(interfaces: Iterable[InterfaceSeen]) -> str:
    shown = (
        f"{each.name} ({each.addresses[0] if each.addresses else 'no address'})"
        for each in interfaces
    )
    return ", ".join(shown) or "none"
