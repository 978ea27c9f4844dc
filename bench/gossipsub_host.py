"""One host of the gossipsub reference: py-libp2p in a process of its own.

`python -m bench.gossipsub_host FD` obeys the lines of JSON that come over the socket with that
number, one at a time, and ends when it is closed. Only this module needs `libp2p`.
"""

import json
import socket
import sys
import time
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

_TOPIC = "bench"
_LISTEN = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")


def _make_router() -> GossipSub:
    """Make a router with the parameters that the specification of gossipsub suggests.

    D = 6, D_low = 4, D_high = 12, a heartbeat each second, a history of 5 with the last 3
    announced (gossipsub v1.0, Parameters). Its limit of 10 messages a second and peer is off: it
    would drop messages where each node relays those of all.
    """
    return GossipSub(
        protocols=[PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        gossip_window=3,
        gossip_history=5,
        heartbeat_interval=1,
        spam_protection_enabled=False,
    )


async def _main(fd: int) -> None:
    # With its default muxer, yamux, messages take half as long again.
    host = new_host(key_pair=create_new_key_pair(), muxer_preference="MPLEX")
    router = _make_router()
    pubsub = Pubsub(host, router)
    with socket.socket(fileno=fd) as sock:
        async with (
            host.run(listen_addrs=[_LISTEN]),
            background_trio_service(pubsub),
            background_trio_service(router),
            trio.open_nursery() as nursery,
        ):
            await pubsub.wait_until_ready()
            subscription = await pubsub.subscribe(_TOPIC)
            nursery.start_soon(_report, subscription, sock)
            _send(sock, {"address": str(host.get_addrs()[0])})
            await _obey(sock, host, router, pubsub)
            nursery.cancel_scope.cancel()


async def _obey(sock: socket.socket, host: IHost, router: GossipSub, pubsub: Pubsub) -> None:
    with sock.makefile("rb") as lines:
        while True:
            await trio.lowlevel.wait_readable(sock)
            line = lines.readline()
            if not line:
                return
            command = json.loads(line)
            if "publish" in command:
                message = {"number": command["publish"], "began": time.perf_counter()}
                await pubsub.publish(_TOPIC, json.dumps(message).encode())
                continue
            for address in command.get("dial", ()):
                await host.connect(info_from_p2p_addr(multiaddr.Multiaddr(address)))
            _send(
                sock,
                {
                    "subscribers": len(pubsub.peer_topics.get(_TOPIC, ())),
                    "mesh": len(router.mesh.get(_TOPIC, ())),
                },
            )


async def _report(subscription: Any, sock: socket.socket) -> None:
    """Tell of each message how long it took; perf_counter is one clock for all processes here."""
    async for received in subscription:
        now = time.perf_counter()
        message = json.loads(received.data)
        _send(sock, {"number": message["number"], "took": now - message["began"]})


def _send(sock: socket.socket, told: dict[str, Any]) -> None:
    sock.sendall(json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    trio.run(_main, int(sys.argv[1]))
