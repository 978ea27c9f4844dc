"""Multicast, tried out: every link is asked who is there, and what comes back is counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from p2pd.core.observations import InterfaceSeen, LinkSeen
from p2pd.errors import BadMessage
from p2pd.net.base import Interface
from p2pd.node.addresses import suitable
from p2pd.node.discovery import ANSWER_GAP, Discovery, Link, Tally
from p2pd.node.env import Env
from p2pd.wire.beacon import read_beacon

# Seconds for answers, which take a moment. A datagram may be lost: it is sent three times.
LISTEN = 1.5
# The same where this node takes no part otherwise.
LISTEN_ASIDE = 1.0

Interfaces = tuple[InterfaceSeen, ...]


class Soundings:
    """Tries the multicast of a node out."""

    def __init__(self, env: Env, discovery: Discovery) -> None:
        self._env = env
        self._discovery = discovery

    async def take(self) -> Interfaces:
        """Ask on every link, and report on every interface that is up.

        Where nobody answers from another host, those are asked, too, that the configuration
        leaves out, but for those with a `!`: the others may be there. Nobody dials because
        of it.
        """
        up = self._env.network.interfaces()
        own_hosts = {host for each in up for host in each.addresses}
        links = list(self._discovery.links.values())
        news = trio.lowlevel.ParkingLot()
        with _tallied(links, news) as tallies:
            await self._ask(links, tallies, own_hosts, news)
        seen = {
            (link.interface.name, link.group): self._seen(link, tally, own_hosts)
            for link, tally in zip(links, tallies, strict=True)
        }
        alone = not any(set(each.hosts) - set(each.own_hosts) for each in seen.values())
        patterns = self._discovery.config.interfaces
        used = {each.name for each in suitable(up, patterns)}
        banned = [pattern for pattern in patterns if pattern.startswith("!")]
        allowed = {each.name for each in suitable(up, [*banned, "*"])}
        if alone and self._discovery.config.enabled:
            aside = [each for each in up if each.name in allowed - used]
            seen |= await self._ask_aside(aside, own_hosts)
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

    async def _ask(
        self,
        links: list[Link],
        tallies: list[Tally],
        own_hosts: set[str],
        news: trio.lowlevel.ParkingLot,
    ) -> None:
        def answered(link: Link, tally: Tally) -> bool:
            # On loopback there need be nobody else.
            others = {_plain(host) for host in tally.hosts} - own_hosts
            return tally.looped and (link.interface.loopback or bool(others))

        for _ in range(3):
            for link in links:
                await self._discovery.query(link)
            with trio.move_on_after(LISTEN / 3):
                while not all(map(answered, links, tallies)):
                    await news.park()
                # Others may have answered somebody just before.
                await trio.sleep(ANSWER_GAP)
                return

    def _seen(self, link: Link, tally: Tally, own_hosts: set[str]) -> LinkSeen:
        hosts = {_plain(host) for host in tally.hosts}
        return LinkSeen(
            group=link.group,
            trouble=link.trouble,
            listening=self._discovery.beacon(link.interface, link.group) is not None,
            looped=tally.looped,
            hosts=tuple(sorted(hosts)),
            own_hosts=tuple(sorted(hosts & own_hosts)),
            foreign=tuple(sorted(map(_plain, tally.foreign))),
        )

    async def _ask_aside(
        self, interfaces: list[Interface], own_hosts: set[str]
    ) -> dict[tuple[str, str], LinkSeen]:
        links = [Link(each, group) for each in interfaces for group in self._discovery.groups(each)]
        tallies = [Tally(trio.lowlevel.ParkingLot()) for _ in links]
        with trio.move_on_after(LISTEN_ASIDE):
            async with trio.open_nursery() as nursery:
                for link, tally in zip(links, tallies, strict=True):
                    nursery.start_soon(self._ask_one_aside, link, tally)
        return {
            (link.interface.name, link.group): self._seen(link, tally, own_hosts)
            for link, tally in zip(links, tallies, strict=True)
        }

    async def _ask_one_aside(self, link: Link, tally: Tally) -> None:
        own = self._discovery.beacon(link.interface, link.group)
        if own is None:
            return
        port = self._discovery.config.port
        try:
            socket = self._env.network.open_multicast(link.interface, link.group, port)
        except OSError as error:
            link.trouble = f"can't join {link.group} on {link.interface.name}: {error.strerror}"
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
            link.trouble = f"can't hear on {link.interface.name}: {error.strerror}"
        finally:
            socket.close()


@contextmanager
def _tallied(links: list[Link], news: trio.lowlevel.ParkingLot) -> Iterator[list[Tally]]:
    tallies = [Tally(news) for _ in links]
    for link, tally in zip(links, tallies, strict=True):
        link.tally = tally
    try:
        yield tallies
    finally:
        for link in links:
            link.tally = None


def _plain(host: str) -> str:
    return host.partition("%")[0]
