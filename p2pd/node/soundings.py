"""Multicast, tried out: every link is asked who is there, and what comes back is counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from p2pd.address import unscoped
from p2pd.core.observations import InterfaceSeen, LinkSeen
from p2pd.errors import BadMessage
from p2pd.net.base import Interface
from p2pd.node.addresses import suitable
from p2pd.node.discovery import ANSWER_GAP, Discovery, Link, Tally
from p2pd.wire.beacon import read_beacon

# Seconds for answers, which take a moment. A datagram may be lost: three queries share this time.
LISTEN = 1.5
# The same for links on which this node otherwise takes no part.
LISTEN_ASIDE = 1.0

# What was seen of each link, by the name of its interface and its group.
_Seen = dict[tuple[str, str], LinkSeen]


class Soundings:
    """Tries the multicast of a node out."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    async def take(self, up: Sequence[Interface]) -> tuple[InterfaceSeen, ...]:
        """Ask on every link, and report on every interface that is `up`; takes up to 2.5 s.

        Where nobody answers from another host, the interfaces that the configuration leaves
        out are asked, too, but for those that a `!` pattern names: the other nodes may be
        there. Nobody dials because of it.
        """
        own_hosts = {host for each in up for host in each.addresses}
        links = list(self._discovery.links.values())
        news = trio.lowlevel.ParkingLot()
        with _tallied(links, news) as tallies:
            await self._ask(links, tallies, own_hosts, news)
        seen = self._seen(links, tallies, own_hosts)
        alone = not any(set(each.hosts) - set(each.own_hosts) for each in seen.values())
        used = {each.name for each in suitable(up, self._discovery.config.interfaces)}
        if alone and self._discovery.config.enabled:
            seen |= await self._ask_aside(self._left_out(up, used), own_hosts)
        return tuple(
            InterfaceSeen(
                name=each.name,
                addresses=each.addresses,
                loopback=each.loopback,
                used=each.name in used,
                links=tuple(view for (name, _), view in seen.items() if name == each.name),
            )
            for each in up
        )

    def _left_out(self, up: Sequence[Interface], used: set[str]) -> list[Interface]:
        patterns = self._discovery.config.interfaces
        banned = [pattern for pattern in patterns if pattern.startswith("!")]
        allowed = {each.name for each in suitable(up, [*banned, "*"])}
        return [each for each in up if each.name in allowed - used]

    async def _ask(
        self,
        links: list[Link],
        tallies: list[Tally],
        own_hosts: set[str],
        news: trio.lowlevel.ParkingLot,
    ) -> None:
        def answered(link: Link, tally: Tally) -> bool:
            # On loopback there need be no other node.
            others = set(map(unscoped, tally.hosts)) - own_hosts
            return tally.looped and (link.interface.loopback or bool(others))

        for link in links:
            # What kept a group from being joined may have been mended since.
            link.retry.set()
        for _ in range(3):
            for link in links:
                await self._discovery.query(link)
            with trio.move_on_after(LISTEN / 3):
                while not all(map(answered, links, tallies)):
                    await news.park()
                # Others may have answered another query just before.
                await trio.sleep(ANSWER_GAP)
                return

    def _seen(self, links: list[Link], tallies: list[Tally], own_hosts: set[str]) -> _Seen:
        return {
            (link.interface.name, link.group): self._link_seen(link, tally, own_hosts)
            for link, tally in zip(links, tallies, strict=True)
        }

    def _link_seen(self, link: Link, tally: Tally, own_hosts: set[str]) -> LinkSeen:
        hosts = set(map(unscoped, tally.hosts))
        return LinkSeen(
            group=link.group,
            trouble=link.trouble,
            port_taken=link.port_taken,
            listening=self._discovery.beacon(link.interface, link.group) is not None,
            looped=tally.looped,
            hosts=tuple(sorted(hosts)),
            own_hosts=tuple(sorted(hosts & own_hosts)),
            # What else runs on this host says nothing about the LAN.
            foreign=tuple(sorted(set(map(unscoped, tally.foreign)) - own_hosts)),
        )

    async def _ask_aside(self, interfaces: list[Interface], own_hosts: set[str]) -> _Seen:
        """Ask where this node takes no part: it joins, asks, listens for a while, and leaves."""
        links = [Link(each, group) for each in interfaces for group in self._discovery.groups(each)]
        tallies = [Tally(trio.lowlevel.ParkingLot()) for _ in links]
        with trio.move_on_after(LISTEN_ASIDE):
            async with trio.open_nursery() as nursery:
                for link, tally in zip(links, tallies, strict=True):
                    nursery.start_soon(self._ask_one_aside, link, tally)
        return self._seen(links, tallies, own_hosts)

    async def _ask_one_aside(self, link: Link, tally: Tally) -> None:
        own = self._discovery.beacon(link.interface, link.group)
        if own is None:
            return
        try:
            socket = self._discovery.open(link)
        except OSError as error:
            link.mute = f"can't join {link.group} on {link.interface.name}: {error.strerror}"
            return
        link.socket = socket
        try:
            await self._discovery.query(link)
            while True:
                data, host = await socket.receive()
                try:
                    tally.note(read_beacon(data), host, own)
                except BadMessage:
                    continue
        except OSError as error:
            link.deaf = f"can't hear on {link.interface.name}: {error.strerror}"
        finally:
            socket.close()


@contextmanager
def _tallied(links: list[Link], news: trio.lowlevel.ParkingLot) -> Iterator[list[Tally]]:
    """Count what is heard on these links within the `with`, in a tally for each."""
    tallies = [Tally(news) for _ in links]
    for link, tally in zip(links, tallies, strict=True):
        link.tally = tally
    try:
        yield tallies
    finally:
        for link in links:
            link.tally = None
