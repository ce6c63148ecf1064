"""What the behaviours of the nasty server are made of: the site that all requests share, and one request.

A behaviour is an async function of one `Exchange`, registered with `@behaviour("name")`; it answers with the means of
the exchange, or with raw bytes.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
HOST6 = "::1"
LONGEST = 120.0
MIB = 1 << 20
REMEMBERED = 100_000
TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".html": "text/html"}


def starts() -> collections.deque[float]:
    return collections.deque(maxlen=REMEMBERED)


@dataclass(slots=True, kw_only=True)
class Robots:
    """What one host answers to /robots.txt."""

    status: int = 404
    body: bytes = b""
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class Site:
    """What all connections share: the pictures, what was asked for, and what the tests set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = min((p.name for p in folder.iterdir() if p.suffix in TYPES), default="")
        self.robots: dict[str, Robots] = {}
        self.active: collections.Counter[str] = collections.Counter()
        self.open: collections.Counter[str] = collections.Counter()
        self.forget()

    def forget(self) -> None:
        """Begin to count anew; what is going on just now counts for the new peaks."""
        self.log: collections.deque[dict[str, Any]] = collections.deque(maxlen=REMEMBERED)
        self.starts: collections.defaultdict[str, collections.deque[float]] = collections.defaultdict(starts)
        self.counts: collections.Counter[str] = collections.Counter()
        self.robots_counts: collections.Counter[str] = collections.Counter()
        self.flaky: collections.Counter[str] = collections.Counter()
        self.granted: collections.defaultdict[str, collections.deque[float]] = collections.defaultdict(starts)
        self.connections: collections.Counter[str] = collections.Counter()
        self.handshakes: collections.Counter[str] = collections.Counter()
        self.peak = +self.active
        self.peak_connections = +self.open

    def began(self, x: Exchange, connection: int) -> None:
        """A request came."""
        now = time.monotonic()
        self.counts[x.target] += 1
        entry = {"time": now, "target": x.target, "host": x.address, "connection": connection, "headers": x.headers}
        self.log.append(entry)
        for host in x.hosts:
            self.starts[host].append(now)
            self.active[host] += 1
            self.peak[host] = max(self.peak[host], self.active[host])

    def ended(self, x: Exchange) -> None:
        """It was answered, or its client is gone."""
        for host in x.hosts:
            self.active[host] -= 1

    def opened(self, host: str) -> None:
        """A connection came."""
        self.open[host] += 1
        self.peak_connections[host] = max(self.peak_connections[host], self.open[host])

    def load(self, name: str) -> tuple[bytes, str] | None:
        """Content and type of a picture; None when there is none of that name."""
        name = name or self.first
        if not name or ".." in name.split("/"):
            return None
        try:
            return self.read(name), TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        except (OSError, ValueError):
            return None

    @functools.lru_cache(maxsize=2000)  # noqa: B019 (one site per process)
    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class Gone(Exception):
    """The connection is over; nothing more can be said on it."""


def host_name(header: str) -> str:
    """The Host header without its port; empty when it makes no sense."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class Exchange:
    """One request and the means to answer it, well or badly.

    Attributes:
        address, port: of ours, that the client connected to.
        name: the host that it asked for.
        hosts: whom the request is counted for: the address, and the name when it is another.
    """

    def __init__(self, site: Site, writer: asyncio.StreamWriter, target: str, headers: list[tuple[str, str]]) -> None:
        self.site = site
        self.writer = writer
        self.target = target
        self.headers = headers
        self.content = b""
        parts = urlsplit(target)
        self.behaviour, _, self.rest = parts.path.lstrip("/").partition("/")
        self.rest = unquote(self.rest)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.head_only = False
        self.keep = True
        self.address, self.port = writer.get_extra_info("sockname")[:2]
        self.name = host_name(self.header("host"))
        self.hosts = {self.address, self.name or self.address}

    def arg(self, name: str, default: float) -> float:
        """A number from the query string."""
        return float(self.query.get(name, [str(default)])[0])

    def word(self, name: str, default: str) -> str:
        """A word from the query string."""
        return self.query.get(name, [default])[0]

    def header(self, name: str) -> str:
        """A header of the request, empty when it was not sent."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def scheme(self) -> str:
        return "https" if self.writer.get_extra_info("ssl_object") else "http"

    def picture(self) -> tuple[bytes, str]:
        """Content and type of the picture that the path names."""
        return self.site.load(self.rest) or (b"", "image/jpeg")

    async def pause(self, name: str, default: float) -> None:
        """Sleep for the seconds that the query string says."""
        await asyncio.sleep(min(self.arg(name, default), LONGEST))

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, ssl.SSLError) as error:
            raise Gone from error

    async def repeat(self, make: Callable[[int], bytes], every: float, times: int | None = None) -> None:
        """Send what `make` gives, again and again, then close."""
        deadline, index = time.monotonic() + LONGEST, 0
        while time.monotonic() < deadline and (times is None or index < times):
            await self.send(make(index))
            await asyncio.sleep(every)
            index += 1
        self.close()

    async def head(self, status: int, *headers: tuple[str, object]) -> None:
        """Status line and headers, exactly these; a character of a header is a byte."""
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def answer(self, status: int, body: bytes, kind: str, *headers: tuple[str, object]) -> None:
        """A correct answer."""
        await self.head(status, ("Content-Type", kind), ("Content-Length", len(body)), *headers)
        if not self.head_only:
            await self.send(body)

    async def not_found(self) -> None:
        await self.answer(404, b"<html><body>no such thing</body></html>", "text/html")

    async def chunks(self, body: bytes, size: int = 10_000) -> None:
        """A part of a body with Transfer-Encoding: chunked."""
        for start in range(0, len(body), size):
            part = body[start : start + size]
            await self.send(b"%x\r\n%b\r\n" % (len(part), part))

    def close(self) -> None:
        """Close the connection after what was sent so far."""
        raise Gone

    def reset(self) -> None:
        """Close with a TCP RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise Gone


Behaviour = Callable[[Exchange], Awaitable[None]]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    def register(function: Behaviour) -> Behaviour:
        BEHAVIOURS[name] = function
        return function

    return register
