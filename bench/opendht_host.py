"""One node of the reference OpenDHT, in a process of its own.

`python3 opendht_host.py FD` obeys the lines of JSON that come over the socket with that number,
one at a time, and ends when it is closed. It runs with the system's own interpreter, which has
`opendht` but not this package.
"""

import json
import socket
import sys
import threading
import time
from typing import Any

import opendht


def _main(fd: int) -> None:
    with socket.socket(fileno=fd) as sock, sock.makefile("rb") as lines:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        node = opendht.DhtRunner()
        node.run(port=port, ipv4="127.0.0.1", ipv6="::1")
        _send(sock, {"port": port})
        for line in lines:
            command = json.loads(line)
            if command["do"] == "join":
                node.bootstrap("127.0.0.1", str(command["port"]))
                _send(sock, {})
            else:
                _send(sock, _measure(node, command))


def _measure(node: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Begin the next one when one is done, with so many under way; from its own threads."""
    keys, value = iter(command["keys"]), command["value"].encode()
    left = len(command["keys"])
    failed = 0
    lock, done = threading.Lock(), threading.Event()

    def settle(*, succeeded: bool) -> None:
        nonlocal left, failed
        with lock:
            failed += not succeeded
            left -= 1
            if not left:
                done.set()
        begin()

    def begin() -> None:
        with lock:
            key = next(keys, None)
        if key is None:
            return
        where = opendht.InfoHash.get(key)
        if command["do"] == "put":
            node.put(where, opendht.Value(value), lambda ok, _: settle(succeeded=ok))
            return
        found: list[bytes] = []

        def take(each: Any) -> bool:
            found.append(each.data)
            return False

        node.get(where, take, lambda _, __: settle(succeeded=bool(found)))

    began = time.perf_counter()
    for _ in range(command["under_way"]):
        begin()
    done.wait(30)
    return {"took": time.perf_counter() - began, "failed": failed + left}


def _send(sock: socket.socket, told: dict[str, Any]) -> None:
    sock.sendall(json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    _main(int(sys.argv[1]))
