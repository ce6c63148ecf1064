"""A real HTTP server that misbehaves on purpose, byte by byte, in a process of its own.

    with NastyServer(folder) as server:
        server.url("/photo/a.jpg"), server.url("/drip", host="127.0.0.2")
        server.count("/photo/a.jpg?x=1"), server.log(), server.peak(), server.connections()
        server.silent()     URL of a port that completes TCP and then never says a word, not even a TLS hello
        server.refused()    URL of a port that refuses connections

The first part of a path names the behaviour (the functions marked `@behaviour` below; their docstrings are the
manual), `/photo/NAME` is the well-behaved one. Wherever a behaviour sends a picture, `/behaviour/NAME` chooses it and
`/behaviour` sends the first one of the folder. Add a query string of your own to tell your requests from others'.

It listens on 127.0.0.1 to 127.0.0.4, so that tests can have several hosts. Nothing lasts longer than `LONGEST`
seconds, and the process ends with its parent, when its stdin closes.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import gzip
import http.client
import itertools
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, final
from urllib.parse import parse_qs, quote, unquote, urlsplit

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
LONGEST = 120.0
LIFETIME = 3600.0
MIB = 1 << 20
TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".html": "text/html"}


class Site:
    """What all connections share: the pictures and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = min((p.name for p in folder.iterdir() if p.suffix in TYPES), default="")
        self.log: collections.deque[dict[str, Any]] = collections.deque(maxlen=100_000)
        self.counts: collections.Counter[str] = collections.Counter()
        self.flaky: collections.Counter[str] = collections.Counter()
        self.active: collections.Counter[str] = collections.Counter()
        self.peak: collections.Counter[str] = collections.Counter()
        self.connections: collections.Counter[str] = collections.Counter()

    def load(self, name: str) -> tuple[bytes, str] | None:
        """Content and type of a picture; None when there is none of that name."""
        name = name or self.first
        if not name or ".." in name.split("/"):
            return None
        try:
            return self.read(name), TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        except OSError:
            return None

    @functools.lru_cache(maxsize=2000)  # noqa: B019 (one site per process)
    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class Gone(Exception):
    """The connection is over; nothing more can be said on it."""


class Exchange:
    """One request and the means to answer it, well or badly."""

    def __init__(self, site: Site, writer: asyncio.StreamWriter, target: str, headers: list[tuple[str, str]]) -> None:
        self.site = site
        self.writer = writer
        self.target = target
        self.headers = headers
        parts = urlsplit(target)
        self.behaviour, _, self.rest = parts.path.lstrip("/").partition("/")
        self.rest = unquote(self.rest)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.head_only = False
        self.keep = True

    def arg(self, name: str, default: float) -> float:
        """A number from the query string."""
        return float(self.query.get(name, [str(default)])[0])

    def picture(self) -> tuple[bytes, str]:
        """Content and type of the picture that the path names."""
        return self.site.load(self.rest) or (b"", "image/jpeg")

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, ssl.SSLError) as error:
            raise Gone from error

    async def head(self, status: int, *headers: tuple[str, object]) -> None:
        """Status line and headers, exactly these."""
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


@behaviour("photo")
async def photo(x: Exchange) -> None:
    """A picture, fast; the query string is ignored."""
    found = x.site.load(x.rest)
    await (x.answer(200, *found) if found else x.not_found())


@behaviour("status")
async def status(x: Exchange) -> None:
    """/status/503?retry_after=1: that status, with that Retry-After (seconds or a date)."""
    code = int(x.rest)
    after = [("Retry-After", value) for value in x.query.get("retry_after", [])]
    if code in (204, 304):
        await x.head(code, *after)
    else:
        await x.answer(code, f"status {code}".encode(), "text/plain", *after)


@behaviour("flaky")
async def flaky(x: Exchange) -> None:
    """/flaky/ID?fail=2&status=503: the first `fail` requests for this ID fail, then a picture."""
    name = x.rest
    x.rest = ""
    x.site.flaky[name] += 1
    if x.site.flaky[name] <= x.arg("fail", 1):
        await x.answer(int(x.arg("status", 503)), b"try again", "text/plain")
    else:
        await x.answer(200, *x.picture())


@behaviour("latency")
async def latency(x: Exchange) -> None:
    """?ms=100: a picture after that time."""
    await asyncio.sleep(min(x.arg("ms", 100) / 1000, LONGEST))
    await x.answer(200, *x.picture())


@behaviour("slow-first-byte")
async def slow_first_byte(x: Exchange) -> None:
    """?s=2: headers at once, the body after that time."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await asyncio.sleep(min(x.arg("s", 2), LONGEST))
    await x.send(body)


@behaviour("drip")
async def drip(x: Exchange) -> None:
    """?every=1&n=1000000: announces n bytes and sends one every `every` seconds."""
    await x.head(200, ("Content-Type", "image/jpeg"), ("Content-Length", int(x.arg("n", 1_000_000))))
    body, every = x.picture()[0] or b"\xff", x.arg("every", 1)
    deadline = time.monotonic() + LONGEST
    for index in range(int(x.arg("n", 1_000_000))):
        if time.monotonic() > deadline:
            break
        await x.send(body[index % len(body) :][:1])
        await asyncio.sleep(every)
    x.close()


@behaviour("hang")
async def hang(x: Exchange) -> None:
    """Takes the request and never answers."""
    await asyncio.sleep(LONGEST)
    x.close()


@behaviour("hang-headers")
async def hang_headers(x: Exchange) -> None:
    """Stops in the middle of the headers."""
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await asyncio.sleep(LONGEST)
    x.close()


@behaviour("reset")
async def reset(x: Exchange) -> None:
    """TCP RST in place of an answer."""
    x.reset()


@behaviour("reset-body")
async def reset_body(x: Exchange) -> None:
    """TCP RST in the middle of the body."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body[: len(body) // 2])
    await asyncio.sleep(0.05)
    x.reset()


@behaviour("close")
async def close(x: Exchange) -> None:
    """Closes the connection in place of an answer."""
    x.close()


@behaviour("truncated")
async def truncated(x: Exchange) -> None:
    """Half of what Content-Length says, then closes."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body[: len(body) // 2])
    x.close()


@behaviour("half-picture")
async def half_picture(x: Exchange) -> None:
    """HTTP is fine, but the picture is only the first half of its file."""
    body, kind = x.picture()
    await x.answer(200, body[: len(body) // 2], kind)


async def chunks(x: Exchange, body: bytes, size: int = 10_000) -> None:
    for start in range(0, len(body), size):
        part = body[start : start + size]
        await x.send(b"%x\r\n%b\r\n" % (len(part), part))


@behaviour("chunked")
async def chunked(x: Exchange) -> None:
    """A picture in chunks, as it should be."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
    await chunks(x, body)
    await x.send(b"0\r\n\r\n")


@behaviour("chunked-cut")
async def chunked_cut(x: Exchange) -> None:
    """Chunks without an end."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
    await chunks(x, body[: len(body) // 2])
    x.close()


@behaviour("bad-chunk")
async def bad_chunk(x: Exchange) -> None:
    """A chunk size that is no number."""
    await x.head(200, ("Content-Type", "image/jpeg"), ("Transfer-Encoding", "chunked"))
    await x.send(b"zz\r\nnonsense\r\n")
    x.close()


async def redirect_to(x: Exchange, location: str) -> None:
    await x.head(int(x.arg("code", 302)), ("Location", location), ("Content-Length", 0))


@behaviour("redirect")
async def redirect(x: Exchange) -> None:
    """/redirect/3/photo/a.jpg?code=302: three redirects, then /photo/a.jpg."""
    left, _, target = x.rest.partition("/")
    code = int(x.arg("code", 302))
    more = f"/redirect/{int(left) - 1}/{target}?code={code}"
    await redirect_to(x, quote(f"/{target}") if int(left) <= 1 else quote(more, safe="/?=&"))


@behaviour("redirect-loop")
async def redirect_loop(x: Exchange) -> None:
    """Redirects to itself."""
    await redirect_to(x, x.target)


@behaviour("redirect-to")
async def redirect_anywhere(x: Exchange) -> None:
    """?url=URL&code=302: redirects there."""
    await redirect_to(x, x.query["url"][0])


@behaviour("redirect-file")
async def redirect_file(x: Exchange) -> None:
    """Redirects to a file of the client's machine."""
    await redirect_to(x, "file:///etc/passwd")


@behaviour("gzip")
async def gzipped(x: Exchange) -> None:
    """A picture with Content-Encoding: gzip, whether asked for or not."""
    body, kind = x.picture()
    await x.answer(200, gzip.compress(body), kind, ("Content-Encoding", "gzip"))


@behaviour("bad-gzip")
async def bad_gzip(x: Exchange) -> None:
    """Says gzip, but it is not."""
    await x.answer(200, *x.picture(), ("Content-Encoding", "gzip"))


@functools.cache
def zeros_gzipped(mib: int) -> bytes:
    return gzip.compress(bytes(mib * MIB), compresslevel=6)


@behaviour("gzip-bomb")
async def gzip_bomb(x: Exchange) -> None:
    """?mib=100: about a thousandth of that on the wire."""
    body = await asyncio.to_thread(zeros_gzipped, min(int(x.arg("mib", 100)), 1024))
    await x.answer(200, body, "image/jpeg", ("Content-Encoding", "gzip"))


@behaviour("big")
async def big(x: Exchange) -> None:
    """?n=1000000&length=1: n bytes of nothing; length=0 leaves out Content-Length (chunked)."""
    total, block = min(int(x.arg("n", MIB)), 1024 * MIB), bytes(65536)
    announced = x.arg("length", 1)
    size = ("Content-Length", total) if announced else ("Transfer-Encoding", "chunked")
    await x.head(200, ("Content-Type", "image/jpeg"), size)
    for start in range(0, total, len(block)):
        part = block[: total - start]
        await (x.send(part) if announced else chunks(x, part, len(block)))
    if not announced:
        await x.send(b"0\r\n\r\n")


@behaviour("no-length")
async def no_length(x: Exchange) -> None:
    """A picture that ends with the connection."""
    body, kind = x.picture()
    await x.head(200, ("Content-Type", kind), ("Connection", "close"))
    await x.send(body)
    x.close()


@behaviour("empty")
async def empty(x: Exchange) -> None:
    """200 without a single byte."""
    await x.answer(200, b"", "image/jpeg")


@behaviour("html")
async def html(x: Exchange) -> None:
    """200 with a page in place of a picture, the way hotlink protection does it."""
    await x.answer(200, b"<!doctype html><html><body>Please log in to see this picture</body></html>", "text/html")


@behaviour("typed")
async def typed(x: Exchange) -> None:
    """/typed/a.png?type=text/html: a picture under a wrong Content-Type; an empty type leaves it out."""
    body, kind = x.picture()
    kind = x.query.get("type", [kind])[0]
    await x.head(200, *([("Content-Type", kind)] if kind else []), ("Content-Length", len(body)))
    await x.send(body)


@behaviour("garbage")
async def garbage(x: Exchange) -> None:
    """Not HTTP at all."""
    await x.send(b"\x00\x01SSH-2.0-OpenSSH_9.9\r\n\xff\xfe" * 20)
    x.close()


@behaviour("huge-header")
async def huge_header(x: Exchange) -> None:
    """?n=1000000: a header of that many bytes before the picture."""
    body, kind = x.picture()
    filler = "x" * min(int(x.arg("n", 1_000_000)), 64 * MIB)
    await x.head(200, ("X-Filler", filler), ("Content-Type", kind), ("Content-Length", len(body)))
    await x.send(body)


@behaviour("robots")
async def robots(x: Exchange) -> None:
    """?tag=noai&tag=mybot: noindex: a picture with these X-Robots-Tag headers."""
    await x.answer(200, *x.picture(), *(("X-Robots-Tag", tag) for tag in x.query.get("tag", [])))


@behaviour("echo-headers")
async def echo_headers(x: Exchange) -> None:
    """The request's headers as JSON: a list of [name, value]."""
    await x.answer(200, json.dumps(x.headers).encode(), "application/json")


@behaviour("_facts")
async def facts(x: Exchange) -> None:
    """For NastyServer: what was asked for so far. /_facts/clear forgets it."""
    site = x.site
    if x.rest == "clear":
        for counter in (site.counts, site.flaky, site.peak, site.connections, site.log):
            counter.clear()
    content = {"counts": site.counts, "peak": site.peak, "connections": site.connections}
    if x.rest == "log":
        content["log"] = list(site.log)
    await x.answer(200, json.dumps(content).encode(), "application/json")


async def read_request(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    """The next request of a connection; None at its end."""
    try:
        block = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONGEST)
    except (TimeoutError, asyncio.TimeoutError, EOFError, ConnectionError, ssl.SSLError, asyncio.LimitOverrunError):
        return None
    first, *lines = block.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    method, target, _ = first.split(" ", 2)
    x = Exchange(site, writer, target, [(name, value.strip()) for name, _, value in pairs])
    x.head_only = method == "HEAD"
    x.keep = ("connection", "close") not in {(name.lower(), value.lower()) for name, value in x.headers}
    return x


async def respond(x: Exchange, peer: str, connection: int) -> None:
    """Answer one request and take down that it came."""
    site, own = x.site, x.behaviour.startswith("_")
    if not own:
        site.counts[x.target] += 1
        entry = {"time": time.monotonic(), "target": x.target, "host": peer, "connection": connection}
        site.log.append({**entry, "headers": x.headers})
        site.active[peer] += 1
        site.peak[peer] = max(site.peak[peer], site.active[peer])
    try:
        handler = BEHAVIOURS.get(x.behaviour)
        await (handler(x) if handler else x.not_found())
    finally:
        site.active[peer] -= not own


async def converse(
    site: Site, numbers: itertools.count[int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, from accept to close."""
    host = writer.get_extra_info("sockname")[0]
    number = next(numbers)
    counted = False
    try:
        while x := await read_request(site, reader, writer):
            if not counted and not x.behaviour.startswith("_"):
                counted = True
                site.connections[host] += 1
            await respond(x, host, number)
            if not x.keep:
                break
    except (Gone, ConnectionError, ValueError, KeyError):
        pass
    finally:
        with contextlib.suppress(OSError, ssl.SSLError):
            writer.close()


def bind(port: int) -> list[socket.socket]:
    """One listening socket per host that this machine has, all on one port."""
    for _ in range(50):
        first = listening(HOSTS[0], port)
        chosen = first.getsockname()[1]
        try:
            others = [listening(host, chosen) for host in HOSTS[1:]]
        except PermissionError:
            return [first]
        except OSError as error:
            if error.errno in (49, 99):  # EADDRNOTAVAIL: not every system has all of 127.0.0.0/8
                return [first]
            first.close()
            continue
        return [first, *others]
    raise RuntimeError("no port is free on all hosts")


def listening(host: str, port: int, backlog: int = 1024) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    if backlog:
        sock.listen(backlog)
    return sock


def make_certificate(ca_file: str) -> ssl.SSLContext:
    """A TLS context for our hosts; the authority that signed it goes to `ca_file`."""
    import trustme  # noqa: PLC0415 (only https needs it)

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS, "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(ca_file)
    return context


async def serve(folder: Path, port: int, ca_file: str | None) -> None:
    """Run for `LIFETIME` at most. Prints the ports: ours, the silent one, the one that refuses."""
    site, numbers = Site(folder), itertools.count()
    context = make_certificate(ca_file) if ca_file else None
    silent, refused = listening(HOSTS[0], 0), listening(HOSTS[0], 0, backlog=0)
    handler = functools.partial(converse, site, numbers)
    socks = bind(port)
    servers = [await asyncio.start_server(handler, sock=s, ssl=context, limit=4 * MIB, backlog=1024) for s in socks]
    print(*(sock.getsockname()[1] for sock in (socks[0], silent, refused)), flush=True)
    await asyncio.sleep(LIFETIME)
    for server in servers:
        server.close()


def end_with_parent() -> None:
    """Leave as soon as stdin closes, which it does when the parent dies, however it dies."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pictures")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ca", help="serve https, and write the certificate of the authority there")
    args = parser.parse_args()
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(serve(args.folder, args.port, args.ca))


@final
class NastyServer:
    """The server as a context manager; see the module's docstring."""

    def __init__(self, folder: Path, *, https: bool = False) -> None:
        self.scheme = "https" if https else "http"
        self.ca: str | None = None
        command = [sys.executable, __file__, str(folder)]
        if https:
            handle, self.ca = tempfile.mkstemp(suffix=".pem")
            os.close(handle)
            command += ["--ca", self.ca]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        if len(ports) != 3:
            raise RuntimeError(f"the test server did not start, exit code {self._process.wait(10)}")
        self.port, self._silent, self._refused = map(int, ports)

    def url(self, path: str, host: str = HOSTS[0]) -> str:
        """Full URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def silent(self, path: str = "/x.jpg") -> str:
        """A URL on a port that completes TCP connections and never reads or writes."""
        return f"{self.scheme}://{HOSTS[0]}:{self._silent}{path}"

    def refused(self, path: str = "/x.jpg") -> str:
        """A URL on a port that refuses connections."""
        return f"{self.scheme}://{HOSTS[0]}:{self._refused}{path}"

    def count(self, target: str) -> int:
        """How many requests came for exactly this path and query."""
        return int(self._facts("")["counts"].get(target, 0))

    def counts(self) -> dict[str, int]:
        """Requests by path and query."""
        return dict(self._facts("")["counts"])

    def connections(self) -> dict[str, int]:
        """Connections that brought at least one request, by address of ours."""
        return dict(self._facts("")["connections"])

    def peak(self) -> dict[str, int]:
        """Most requests in flight at once, by address of ours."""
        return dict(self._facts("")["peak"])

    def log(self) -> list[dict[str, Any]]:
        """The last 100,000 requests: time (monotonic seconds), target, host, connection, headers as pairs."""
        return list(self._facts("log")["log"])

    def clear(self) -> None:
        """Forget all requests so far."""
        self._facts("clear")

    def _facts(self, what: str) -> dict[str, Any]:
        if self.ca:
            context = ssl.create_default_context(cafile=self.ca)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                HOSTS[0], self.port, timeout=30, context=context
            )
        else:
            connection = http.client.HTTPConnection(HOSTS[0], self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", f"/_facts/{what}")
            return dict(json.loads(connection.getresponse().read()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()
        if self.ca:
            Path(self.ca).unlink(missing_ok=True)

    def __enter__(self) -> NastyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if __name__ == "__main__":
    main()
