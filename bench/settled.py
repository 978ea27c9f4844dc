"""What a node of a settled network of fifty costs while nothing happens: bytes and CPU."""

import tempfile
from pathlib import Path

import attrs
import trio

from bench.daemons import daemons
from bench.figures import Effort, Figure, Promise, Spread
from bench.idle import cpu_seconds

SIZE = 50
# So many connections each, as `connections.target` says by default; newcomers begin with half.
CONNECTIONS = 6
_FIRST_CONNECTIONS = 3
# Twice as long as in `idle`: more nodes take longer to part with the connections they can spare.
_SETTLE_TIMES = 2
_ETHERNET_HEADER = 14


@attrs.frozen
class Traffic:
    """The bytes on the loopback up to now, each counted once, from Ethernet's header upwards."""

    unicast: int
    multicast: int

    @classmethod
    def now(cls) -> "Traffic":
        """Read the counters of this network namespace, where nobody else has any traffic."""
        all_packets, all_octets = _loopback_counters()
        # Of IPv4 alone: a loopback by itself has no route for multicast of IPv6.
        ip4 = _ip_counters()
        multicast = ip4["OutMcastOctets"] + ip4["OutMcastPkts"] * _ETHERNET_HEADER
        return cls(all_octets + all_packets * _ETHERNET_HEADER - multicast, multicast)

    def since(self, before: "Traffic") -> "Traffic":
        """Return what has been added since then."""
        return Traffic(self.unicast - before.unicast, self.multicast - before.multicast)


async def settled(effort: Effort) -> list[Figure]:
    """Watch fifty daemons with the default configuration; bytes are the mean of all nodes.

    What is promised is about all that passes the link of one node, sent and received: what one
    node sends to another counts for either, a multicast for everybody. Beside it stands what a
    node sends, for which each frame counts once.
    """
    with (
        tempfile.TemporaryDirectory() as parent,
        daemons(
            Path(parent), SIZE, _FIRST_CONNECTIONS, settings={"connections.target": CONNECTIONS}
        ) as running,
    ):
        await trio.sleep(effort.settle_seconds * _SETTLE_TIMES)
        cpu_before = [cpu_seconds(each.pid) for each in running]
        traffic_before = Traffic.now()
        await trio.sleep(effort.idle_seconds)
        traffic = Traffic.now().since(traffic_before)
        cpu_after = [cpu_seconds(each.pid) for each in running]
        connected = [each.status()["peers"]["connected"] for each in running]
    sent = (traffic.unicast + traffic.multicast) / SIZE / effort.idle_seconds
    passed = (2 * traffic.unicast / SIZE + traffic.multicast) / effort.idle_seconds
    per_minute = 60 / effort.idle_seconds
    cpu = [(end - start) * per_minute for start, end in zip(cpu_before, cpu_after, strict=True)]
    among = f"idle among {SIZE}"
    return [
        Figure(
            f"{among}: sent and received, with headers",
            "bytes/s",
            Spread.of([passed]),
            promise=Promise(1000),
        ),
        Figure(f"{among}: sent, with headers", "bytes/s", Spread.of([sent])),
        Figure(f"{among}: CPU a minute", "s", Spread.of(cpu), promise=Promise(0.15)),
        Figure(f"{among}: connections", "peers", Spread.of(connected)),
    ]


def _loopback_counters() -> tuple[int, int]:
    """Return the packets that the loopback has sent (and received), and their bytes.

    Its bytes begin with the IP header, where those of other interfaces begin with Ethernet's.
    """
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            sent = counters.split()[8:]
            return int(sent[1]), int(sent[0])
    raise RuntimeError("there is no loopback in /proc/net/dev")


def _ip_counters() -> dict[str, int]:
    """Return what the kernel counts of IPv4 beyond the MIB, by name."""
    names, values = (
        line.split()[1:]
        for line in Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("IpExt:")
    )
    return {name: int(value) for name, value in zip(names, values, strict=True)}
