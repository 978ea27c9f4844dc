"""The doctor's judgement: what was observed, in; what is wrong, out."""

from typing import Any

import attrs
import pytest

from p2pd.core.diagnosis import LOW_DISK, diagnose
from p2pd.core.findings import Finding, Level
from p2pd.core.observations import (
    ClockSeen,
    DialSeen,
    DiskSeen,
    EchoSeen,
    InterfaceSeen,
    LinkSeen,
    Observations,
    RefusalSeen,
    TargetSeen,
)
from p2pd.wire.reasons import DialBackOutcome

V4, V6 = "239.255.0.1", "ff12::4100"
OTHER = "192.168.1.3"


def lan(*links: LinkSeen, name: str = "lan0", **changes: Any) -> InterfaceSeen:
    return InterfaceSeen(name=name, addresses=("192.168.1.2",), links=links, **changes)


LOOPBACK = InterfaceSeen("lo", ("127.0.0.1",), loopback=True, links=(LinkSeen(V4),))
ANSWERED = LinkSeen(V4, hosts=(OTHER,))
ANSWERED_V6 = LinkSeen(V6, hosts=("fe80::3",))
HEALTHY = Observations(
    network="p2pd",
    multicast_port=41000,
    listening=("0.0.0.0:41000", "[::]:41000"),
    interfaces=(LOOPBACK, lan(ANSWERED)),
    dials=(DialSeen("b", "192.168.1.2:41000", DialBackOutcome.REACHED),),
    clocks=(ClockSeen("b", 0.02), ClockSeen("c", -1.5)),
    echoes=(EchoSeen("b", True), EchoSeen("c", True)),
    disk=DiskSeen("/var/lib/p2pd", 1 << 40),
    connected=2,
    other_hosts=(OTHER, "192.168.1.4"),
    known=2,
)
ALONE: dict[str, Any] = {
    "connected": 0,
    "other_hosts": (),
    "known": 0,
    "dials": (),
    "clocks": (),
    "echoes": (),
}
TARGET = TargetSeen("seed.example:41000", seed=True)
CLASH = RefusalSeen("identity_clash", "192.168.1.9:41000", 3.0)
KEY = RefusalSeen("network_key", "192.168.1.9:41000", 3.0)


def found(level: Level, **changes: Any) -> dict[str, Finding]:
    findings = diagnose(attrs.evolve(HEALTHY, **changes))
    return {each.code: each for each in findings if each.level is level}


def test_a_healthy_node_has_neither_problems_nor_warnings() -> None:
    assert {each.level for each in diagnose(HEALTHY)} == {Level.OK}


def test_every_check_says_something() -> None:
    checks = {each.check for each in diagnose(HEALTHY)}
    assert checks == {
        *(
            "disk",
            "interface",
            "multicast",
            "identity",
            "network",
            "inbound",
            "path",
            "clock",
            "peers",
        )
    }


@pytest.mark.parametrize(
    ("code", "changes", "named"),
    [
        ("disk.full", {"disk": DiskSeen("/d", 0, "No space left on device", full=True)}, "/d"),
        ("disk.refuses", {"disk": DiskSeen("/d", 9, "Read-only file system")}, "Read-only"),
        (
            "disk.store_full",
            {"disk": DiskSeen("/d", 1 << 40, used=91, most=100, largest=10)},
            "91 of 100 bytes",
        ),
        (
            "interface.missing",
            {"patterns": ("eth9",), "interfaces": (lan(used=False),)},
            "'eth9'",
        ),
        (
            "interface.missing",
            {"patterns": ("eth9",), "interfaces": (lan(ANSWERED, used=False),)},
            "other nodes answer on lan0",
        ),
        (
            "interface.wrong",
            {
                "patterns": ("lan1",),
                "interfaces": (lan(ANSWERED, used=False), lan(LinkSeen(V4), name="lan1")),
            },
            "other nodes answer on lan0 (192.168.1.2), left out by discovery.multicast.interfaces",
        ),
        (
            "interface.wrong",
            {"interfaces": (LOOPBACK, lan(ANSWERED, name="br-lan", used=False))},
            "left out as that of containers or tunnels",
        ),
        ("interface.none", {"interfaces": (LOOPBACK,), **ALONE}, "up with a link and an address"),
        (
            "multicast.dropped",
            {"interfaces": (lan(LinkSeen(V4, looped=False), LinkSeen(V6, hosts=("fe80::3",))),)},
            "the firewall of this host drops incoming multicast",
        ),
        (
            "multicast.not_sent",
            {"interfaces": (lan(LinkSeen(V4, "can't send beacons on lan0: No route")),)},
            "No route",
        ),
        (
            "multicast.port_taken",
            {"interfaces": (lan(LinkSeen(V4, "can't join it on lan0: in use", port_taken=True)),)},
            "another program holds UDP port 41000",
        ),
        (
            "multicast.not_listening",
            {
                "listening": ("127.0.0.1:41000",),
                "interfaces": (lan(LinkSeen(V4, listening=False, looped=False)),),
            },
            "listens only on 127.0.0.1:41000",
        ),
        (
            "multicast.other_network",
            {"interfaces": (lan(LinkSeen(V4, foreign=(OTHER,))),), **ALONE},
            OTHER,
        ),
        ("identity.clash", {"refusals": (CLASH,)}, "192.168.1.9:41000"),
        (
            "identity.clash",
            {"refusals": (attrs.evolve(CLASH, reason="identity_taken"),)},
            "the node at 192.168.1.9:41000 is connected to another node",
        ),
        ("network.key", {"refusals": (KEY,), **ALONE}, "192.168.1.9:41000"),
        (
            "network.name",
            {"refusals": (RefusalSeen("network", "192.168.1.9:41000", 3.0),), **ALONE},
            "'p2pd'",
        ),
        (
            "network.intercepted",
            {"refusals": (RefusalSeen("man_in_the_middle", "192.168.1.9:41000", 3.0),)},
            "terminates TLS",
        ),
        (
            "seed.unresolved",
            {"targets": (attrs.evolve(TARGET, unresolved="can't resolve it"),)},
            "can't resolve it",
        ),
        (
            "seed.unreachable",
            {"targets": (attrs.evolve(TARGET, failure="refused", reason="dial_failed"),)},
            "seed.example:41000: refused",
        ),
        (
            "bootstrap.unreachable",
            {"targets": (attrs.evolve(TARGET, seed=False, failure="no answer"),), **ALONE},
            "no answer",
        ),
        (
            "inbound.dropped",
            {"dials": (DialSeen("b", "192.168.1.2:41000", DialBackOutcome.SILENT),)},
            "drops incoming TCP",
        ),
        (
            "inbound.refused",
            {"dials": (DialSeen("b", "192.168.1.2:41000", DialBackOutcome.REFUSED),)},
            "refused",
        ),
        (
            "inbound.translated",
            {"dials": (DialSeen("b", "203.0.113.9:41000", DialBackOutcome.SILENT, own=False),)},
            "NAT",
        ),
        (
            "path.large",
            {"echoes": (EchoSeen("b", False), EchoSeen("c", False), EchoSeen("d", True))},
            "by b, c: most likely something on the way drops large packets",
        ),
        (
            "clock.wrong",
            {"clocks": (ClockSeen("b", -3600.2), ClockSeen("c", -3599.9))},
            "60 min ahead of those of 2 of 2 peers",
        ),
        (
            "clock.wrong",
            {"clocks": (ClockSeen("b", 7200.0),)},
            "2 h behind that of b, the only peer",
        ),
        (
            "peers.unreachable",
            {**ALONE, "known": 1, "unreachable": ("b (12): no answer",)},
            "b (12): no answer",
        ),
        ("peers.none", {"interfaces": (LOOPBACK, lan(LinkSeen(V4))), **ALONE}, "no other node"),
    ],
)
def test_one_cause_is_one_problem_with_a_remedy(
    code: str, changes: dict[str, Any], named: str
) -> None:
    problems = found(Level.PROBLEM, **changes)
    assert list(problems) == [code]
    assert named in problems[code].text
    assert problems[code].remedy


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("disk.low", {"disk": DiskSeen("/d", LOW_DISK - 1)}),
        ("disk.store_low", {"disk": DiskSeen("/d", 1 << 40, used=91, most=100, largest=9)}),
        ("interface.unmatched", {"patterns": ("lan0", "wlan0")}),
        ("multicast.disabled", {"multicast": False}),
        ("multicast.unanswered", {"interfaces": (lan(LinkSeen(V4)),)}),
        ("multicast.impossible", {"interfaces": (lan(),)}),
        (
            "multicast.not_listening",
            {"interfaces": (lan(LinkSeen(V4, listening=False, looped=False), ANSWERED_V6),)},
        ),
        ("identity.peer", {"refusals": (attrs.evolve(CLASH, reason="cloned"),)}),
        ("network.key", {"refusals": (KEY,)}),
        ("bootstrap.unreachable", {"targets": (attrs.evolve(TARGET, seed=False),)}),
        ("path.large", {"echoes": (EchoSeen("b", False), EchoSeen("c", True))}),
        ("clock.untested", {"clocks": ()}),
        ("clock.peer", {"clocks": (ClockSeen("b", 3600.0), ClockSeen("c", 0.0))}),
        ("inbound.untested", {"dials": ()}),
    ],
)
def test_what_may_be_as_it_should_be_is_a_warning(code: str, changes: dict[str, Any]) -> None:
    assert list(found(Level.WARNING, **changes)) == [code]
    assert found(Level.PROBLEM, **changes) == {}


def test_listening_in_one_family_does_not_hide_what_is_heard_there() -> None:
    apart = LinkSeen(V4, listening=False, looped=False)
    assert "multicast.ok" in found(Level.OK, interfaces=(lan(apart, ANSWERED_V6),))
    alone = lan(apart, LinkSeen(V6))
    assert "multicast.unanswered" in found(Level.WARNING, interfaces=(alone,))


def test_a_connected_host_of_the_lan_that_does_not_answer_is_named() -> None:
    warned = found(Level.WARNING, interfaces=(lan(LinkSeen(V4)),))
    assert f"not even {OTHER}, 192.168.1.4, though connected" in warned["multicast.unanswered"].text
    elsewhere = found(Level.WARNING, interfaces=(lan(LinkSeen(V4)),), other_hosts=("203.0.113.1",))
    assert "not even" not in elsewhere["multicast.unanswered"].text


def test_where_only_other_networks_answer_multicast_is_not_to_blame() -> None:
    heard = {"interfaces": (lan(LinkSeen(V4, foreign=(OTHER,))),), **ALONE}
    assert list(found(Level.PROBLEM, **heard)) == ["multicast.other_network"]
    assert "multicast.unanswered" not in found(Level.WARNING, **heard)


def test_nodes_of_the_same_host_are_no_sign_of_the_others() -> None:
    here = LinkSeen(V4, hosts=("192.168.1.2",), own_hosts=("192.168.1.2",))
    apart = (lan(ANSWERED, name="lan1", used=False), lan(here))
    assert list(found(Level.PROBLEM, interfaces=apart)) == ["interface.wrong"]


@pytest.mark.parametrize(
    ("code", "missed", "named"),
    [
        (
            "inbound.translated",
            DialSeen("b", "203.0.113.9:41000", DialBackOutcome.SILENT, own=False),
            "b sees this node at 203.0.113.9:41000",
        ),
        (
            "inbound.dropped",
            DialSeen("b", "192.168.1.2:41000", DialBackOutcome.SILENT),
            "b dialled 192.168.1.2:41000 and got no answer: packets get lost on the way, or",
        ),
    ],
)
def test_who_reaches_this_node_counts_more_than_who_does_not(
    code: str, missed: DialSeen, named: str
) -> None:
    """But a neighbour behind the same router must not hide that nobody else gets through."""
    dials = (missed, DialSeen("c", "192.168.1.2:41000", DialBackOutcome.REACHED))
    assert "inbound.ok" in found(Level.OK, dials=dials)
    warned = found(Level.WARNING, dials=dials)
    assert list(warned) == [code]
    assert named in warned[code].text
    assert found(Level.PROBLEM, dials=dials) == {}


def test_an_address_that_is_not_listened_on_is_no_trouble_where_another_is_reached() -> None:
    dials = (
        DialSeen("b", "[fd00::2]:41000", DialBackOutcome.REFUSED),
        DialSeen("c", "192.168.1.2:41000", DialBackOutcome.REACHED),
    )
    assert found(Level.WARNING, dials=dials) == {}


def test_one_wrong_clock_among_many_is_not_ours() -> None:
    clocks = (ClockSeen("b", 0.0), ClockSeen("c", 3600.0), ClockSeen("d", 1.0))
    warned = found(Level.WARNING, clocks=clocks)
    assert "the clock of c is 60 min ahead" in warned["clock.peer"].text


def test_that_nobody_is_connected_is_no_second_problem() -> None:
    deaf = (lan(LinkSeen(V4, looped=False)),)
    assert list(found(Level.PROBLEM, interfaces=deaf, **ALONE)) == ["multicast.dropped"]
    assert "peers.none" in found(Level.WARNING, interfaces=deaf, **ALONE)


def test_where_something_else_explains_it_nobody_is_sent_to_the_firewalls_of_others() -> None:
    apart = {**ALONE, "known": 1, "unreachable": ("b (12): no answer",)}
    [unexplained] = found(Level.PROBLEM, **apart).values()
    assert "its firewall lets its TCP port in" in str(unexplained.remedy)
    assert "that of this host lets connections out" in str(unexplained.remedy)
    explained = found(Level.WARNING, refusals=(KEY,), **apart)["peers.unreachable"]
    assert str(explained.remedy).startswith("see to the problems above first")


def test_an_address_is_named_once() -> None:
    refused = "can't dial 192.0.2.1:4: Connection refused"
    target = TargetSeen("192.0.2.1:4", seed=True, failure=refused, reason="dial_failed")
    assert found(Level.PROBLEM, targets=(target,))["seed.unreachable"].text == refused
    other = attrs.evolve(target, failure="no answer")
    told = found(Level.PROBLEM, targets=(other,))["seed.unreachable"].text
    assert told == "192.0.2.1:4: no answer"
    # Of who is behind it nothing is known, so nobody is counted as known.
    apart = found(Level.PROBLEM, **ALONE, unreachable=(refused,))["peers.unreachable"]
    assert apart.text == f"no peer is connected: {refused}"


def test_an_address_that_does_not_answer_may_be_out_of_reach_of_this_host_alone() -> None:
    silent = attrs.evolve(TARGET, failure="no answer", reason="dial_failed")
    [told] = found(Level.PROBLEM, targets=(silent,)).values()
    assert "that of this host lets connections out" in str(told.remedy)


def test_a_port_that_another_program_has_is_not_blamed_on_the_firewall() -> None:
    taken = LinkSeen(V4, "can't join it on lan0: Address already in use", port_taken=True)
    [told] = found(Level.PROBLEM, interfaces=(lan(taken),)).values()
    assert "ss -lunp" in str(told.remedy)
    assert "firewall" not in str(told.remedy)


def test_refusals_at_several_addresses_need_not_be_of_one_node() -> None:
    several = (KEY, attrs.evolve(KEY, address="192.168.1.8:41000"))
    told = found(Level.WARNING, refusals=several)["network.key"]
    assert told.text.startswith("the node at 192.168.1.8:41000, 192.168.1.9:41000 does not hold")
