"""One node of the reference `kademlia`, in a process of its own.

`python -m bench.kademlia_host FD` obeys the lines of JSON that come over the socket with that
number, one at a time, and ends when it is closed. Only this module needs `kademlia`.
"""

import asyncio
import json
import socket
import sys
import time
from typing import Any

from kademlia.network import Server

# As many copies as its measured figures elsewhere.
_COPIES = 8


async def _main(fd: int) -> None:
    server = Server(ksize=_COPIES)
    await server.listen(0, interface="127.0.0.1")
    port = server.transport.get_extra_info("sockname")[1]
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    _send(writer, {"port": port})
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "join":
            await server.bootstrap([("127.0.0.1", command["port"])])
            _send(writer, {})
        else:
            _send(writer, await _measure(server, command))


async def _measure(server: Server, command: dict[str, Any]) -> dict[str, Any]:
    keys, value = iter(command["keys"]), command["value"]
    failed = 0

    async def work() -> None:
        nonlocal failed
        for key in keys:
            if command["do"] == "put":
                failed += not await server.set(key, value)
            else:
                failed += await server.get(key) is None

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(command["under_way"])))
    return {"took": time.perf_counter() - began, "failed": failed}


def _send(writer: asyncio.StreamWriter, told: dict[str, Any]) -> None:
    writer.write(json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
