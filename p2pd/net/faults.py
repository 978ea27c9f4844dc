"""What can go wrong on the way between the hosts of `net.sim`, drawn from one seeded source.

Latency models give one-way seconds for each send; `Conditions` holds all that applies to a
world now, and may be changed at any moment.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

Latency = Callable[[str, str], float]

LAN_SECONDS = (0.0002, 0.0008)


def constant_latency(seconds: float) -> Latency:
    """The same between any two hosts."""
    return lambda _source, _destination: seconds


def lan_latency(rng: random.Random) -> Latency:
    """A switched LAN: 0.2 to 0.8 ms, drawn for each send."""
    return lambda _source, _destination: rng.uniform(*LAN_SECONDS)


def regional_latency(
    rng: random.Random,
    region_of: Mapping[str, int],
    between: Sequence[Sequence[float]],
    *,
    jitter: float = 0.1,
) -> Latency:
    """A WAN: `between[a][b]` is the one-way seconds from region a to region b.

    `region_of` says in which region a host is; a send takes longer by up to `jitter` of that.
    """

    def latency(source: str, destination: str) -> float:
        seconds = between[region_of[source]][region_of[destination]]
        return seconds * (1 + rng.uniform(0, jitter))

    return latency


@attrs.frozen
class Cut:
    """Nothing passes from `side` to the others, nor back unless it is `one_way`."""

    side: frozenset[str]
    others: frozenset[str]
    one_way: bool = False

    def blocks(self, source: str, destination: str) -> bool:
        """Whether what is sent from one host to the other is stopped."""
        if source in self.side:
            return destination in self.others
        return not self.one_way and source in self.others and destination in self.side


@attrs.define
class Conditions:
    """The state of all paths between hosts.

    Shares (`loss`, `duplication`, `reordering`) are of datagrams, from 0 to 1: streams
    repair themselves. `bandwidth` is each host's upload in bytes per second, None for no
    limit. A host in `unreachable` accepts no connection (a firewall, a NAT), but may dial.
    """

    rng: random.Random
    latency: Latency
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    bandwidth: float | None = None
    unreachable: set[str] = attrs.field(factory=set)
    cuts: list[Cut] = attrs.field(factory=list)
    _free_at: dict[str, float] = attrs.field(factory=dict)

    def blocked(self, source: str, destination: str) -> bool:
        """Whether a cut lies between two hosts."""
        return any(cut.blocks(source, destination) for cut in self.cuts)

    def arrival(self, source: str, destination: str, size: int, now: float) -> float:
        """Return when `size` bytes sent now arrive."""
        if self.bandwidth is not None:
            now = max(now, self._free_at.get(source, 0.0)) + size / self.bandwidth
            self._free_at[source] = now
        return now + self.latency(source, destination)

    def datagram_arrivals(
        self, source: str, destination: str, size: int, now: float
    ) -> list[float]:
        """Return when each copy of a datagram arrives: none, one or two of them."""
        if self.blocked(source, destination):
            return []
        copies = 1 + (self.rng.random() < self.duplication)
        arrivals: list[float] = []
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                due = self.arrival(source, destination, size, now)
                if self.rng.random() < self.reordering:
                    due += self.rng.uniform(0, 10) * (due - now)
                arrivals.append(due)
        return arrivals


def split(hosts: Collection[str], share: float, rng: random.Random) -> tuple[Cut, list[str]]:
    """Cut a random `share` of the hosts from the rest; returns the cut and that side."""
    side = rng.sample(sorted(hosts), round(share * len(hosts)))
    return Cut(frozenset(side), frozenset(hosts) - frozenset(side)), side
