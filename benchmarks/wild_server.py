"""An unkind piece of the web: pictures after a lognormal wait, and URLs that hang, drip, fail or reset.

    python wild_server.py FOLDER        prints its port, serves 127.0.0.1 to 127.0.0.40, ends when its stdin closes

What a URL does is decided by a hash of its host and path alone (`nature`), so that whoever has the list knows the
exact account of it beforehand. `GET /-/report` says what was asked and when answers went out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import math
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 41))
SEED = "open-web-1"
MEDIAN, SIGMA, LONGEST = 0.25, 0.8, 8.0
"""Seconds before an answer begins: lognormal. None waits so long that it would meet a timeout of 10 s."""

KINDS = {"hang": 0.02, "drip": 0.01, "missing": 0.05, "busy": 0.02, "reset": 0.01}
"""Shares of the URLs; the others are `picture`.

hang: takes the request and never answers. drip: a picture, one byte per second. missing: 404. busy: the first time 503
with Retry-After: 1, then a picture. reset: the connection is reset in place of an answer.
"""
PICTURE = "picture"
REPORT = "/-/report"
_WAITS = statistics.NormalDist()


class Nature(NamedTuple):
    """What a URL does, after how many seconds, and a number that chooses its picture."""

    kind: str
    wait: float
    number: int


class Server(NamedTuple):
    """A running server."""

    port: int

    def urls(self, count: int) -> list[str]:
        """So many distinct URLs, spread over the hosts."""
        return [f"http://{HOSTS[i % len(HOSTS)]}:{self.port}{path(i)}" for i in range(count)]

    def report(self) -> dict[str, Any]:
        """Requests by kind, and when (monotonic seconds) each answer that had a good picture was sent."""
        connection = http.client.HTTPConnection(HOSTS[0], self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", REPORT)
            return dict(json.loads(connection.getresponse().read()))


def path(number: int) -> str:
    """Path of the URL of that number."""
    return f"/picture/{number:06d}.jpg"


def nature(host: str, target: str) -> Nature:
    """What the URL of that host and path does."""
    digest = hashlib.sha256(f"{SEED} {host}{target}".encode()).digest()
    first, second, third = struct.unpack_from(">QQQ", digest)
    place, kind = first / 2**64, PICTURE
    for name, share in KINDS.items():
        if place < share:
            kind = name
            break
        place -= share
    wait = MEDIAN * math.exp(SIGMA * _WAITS.inv_cdf((second + 0.5) / (2**64 + 1)))
    return Nature(kind, min(wait, LONGEST), third)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve the pictures of `folder` from another process while the context lasts."""
    command = [sys.executable, str(Path(__file__)), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server of the open web did not start")
        try:
            yield Server(int(line))
        finally:
            process.stdin.close()


class _Site:
    """The server's side: the pictures, and what happened so far."""

    def __init__(self, folder: Path) -> None:
        self.pictures = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
        self.requests: Counter[str] = Counter()
        self.sent: list[float] = []
        self.asked: set[str] = set()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for as many requests as come."""
        host = writer.get_extra_info("sockname")[0]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # or the server ends
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                if target == REPORT:
                    await _answer(writer, "200 OK", json.dumps({"requests": self.requests, "sent": self.sent}).encode())
                else:
                    await self._behave(host, target, reader, writer)
                if b"connection: close" in head.lower():
                    break
        writer.close()

    async def _behave(self, host: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        what = nature(host, target)
        self.requests[what.kind] += 1
        if what.kind == "hang":
            await reader.read()  # until the client goes
            raise ConnectionResetError
        await asyncio.sleep(what.wait)
        first = target not in self.asked
        self.asked.add(target)
        body = self.pictures[what.number % len(self.pictures)]
        if what.kind == "missing":
            await _answer(writer, "404 Not Found", b"there is no such picture")
        elif what.kind == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            raise ConnectionResetError
        elif what.kind == "drip":
            await _drip(writer, body)
        elif what.kind == "busy" and first:
            await _answer(writer, "503 Service Unavailable", b"not now", "Retry-After: 1\r\n")
        else:
            await _answer(writer, "200 OK", body, "Content-Type: image/jpeg\r\n")
            self.sent.append(time.monotonic())


async def _answer(writer: asyncio.StreamWriter, status: str, body: bytes, headers: str = "") -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)
    await writer.drain()


async def _drip(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for number in range(len(body)):
        writer.write(body[number : number + 1])
        await writer.drain()  # raises once the client is gone
        await asyncio.sleep(1)


async def _main(folder: Path) -> None:
    site, port = _Site(folder), 0
    loop = asyncio.get_running_loop()
    for host in HOSTS:
        server = await asyncio.start_server(site.connection, host, port, backlog=4096)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
