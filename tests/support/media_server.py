"""A server of media files that knows Range requests, counts what it sends, and misbehaves on purpose; its own process.

    with MediaServer(folder) as server:
        server.url("/film.mp4"), server.url("/norange/film.mp4", host="127.0.0.2")
        server.count("/film.mp4")       requests for exactly this path and query
        server.sent("/film.mp4")        bytes of bodies that were sent for it
        server.ranges("/film.mp4")      their Range headers, None where there was none
        server.clear()

`/NAME` is a file of the folder as RFC 9110 wants it: 200, or for one range 206 with Content-Range, 416 beyond the end,
If-Range by ETag or date, HEAD. Files may come to the folder while it runs. `/BEHAVIOUR/NAME` is the same, but

    /norange/       a Range header is ignored: 200 and the whole file, no Accept-Ranges
    /noaccept/      ranges work, but no header tells
    /noetag/        neither ETag nor Last-Modified
    /liar/          206 with the Content-Range and the bytes of another range, 1000 bytes further on
    /wholeliar/     206 with the Content-Range that was asked for, and the whole file as its body
    /endless/       206 with "/*" in place of the size
    /changed/       from the second request on it is another file with another ETag: 1000 bytes longer (a "free" box)
    /swapped/       from the second request on another ETag, and each byte is another; as long as before
    /html200/       a page that says "not found", with status 200 and text/html
    /lietype/       the same page, as video/mp4
    /typeless/      no Content-Type
    /octets/        application/octet-stream
    /status/403/    that status, with a page
    /flaky/         503 for the first request, all is well from then on
    /truncated/     all headers, half of the body, and the connection is closed
    /zero/          an empty file
    /drip/          1000 bytes a tenth of a second; ?rate=N for N bytes per second
    /hang/          headers, and then nothing for as long as the client waits
    /redirect/      302 to /NAME; /redirect/redirect/NAME is a chain
    /deny/NAME      ranges get 403, the whole file is there for the asking

It listens on 127.0.0.1 to 127.0.0.4 and ends with its parent, when its stdin closes.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import http.client
import json
import mimetypes
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, final

TESTS = Path(__file__).parents[1]
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body><h1>This video is not available</h1></body></html>\n"
BLOCK = 64 * 2**10
SHIFT = 1000
LONGEST = 120.0
TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".m4s": "video/iso.segment", ".mov": "video/quicktime",
    ".webm": "video/webm", ".mkv": "video/x-matroska", ".avi": "video/x-msvideo", ".flv": "video/x-flv",
    ".ts": "video/mp2t", ".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml",
    ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".ogg": "audio/ogg", ".opus": "audio/ogg",
    ".flac": "audio/flac", ".wav": "audio/wav", ".vtt": "text/vtt", ".srt": "application/x-subrip",
    ".html": "text/html; charset=utf-8", ".json": "application/json", ".jpg": "image/jpeg", ".png": "image/png",
}  # fmt: skip


@final
class MediaServer:
    """The server as a context manager; see the module's docstring.

    Args:
        folder: what is served.
        bytes_per_second: how fast a connection is at most; None: as fast as it goes.
        latency: seconds between a request and its answer.
    """

    def __init__(self, folder: Path, *, bytes_per_second: float | None = None, latency: float = 0.0) -> None:
        command = [sys.executable, "-m", "support.media_server", str(Path(folder).absolute()), f"--latency={latency}"]
        if bytes_per_second is not None:
            command.append(f"--bytes-per-second={bytes_per_second}")
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=TESTS
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the media server did not start, exit code {self._process.wait(10)}")
        self.port = int(line)
        self.pid = self._process.pid

    def url(self, path: str, host: str = HOSTS[0]) -> str:
        """Full URL of a path."""
        return f"http://{host}:{self.port}{path}"

    def count(self, path: str) -> int:
        """How many requests came for exactly this path and query."""
        return int(self._ask()["counts"].get(path, 0))

    def counts(self) -> dict[str, int]:
        """Requests by path and query."""
        return dict(self._ask()["counts"])

    def sent(self, path: str | None = None) -> int:
        """Bytes of bodies that were sent for a path, headers left out; of all paths for None."""
        sent = self._ask()["sent"]
        return int(sum(sent.values()) if path is None else sent.get(path, 0))

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a path, in order."""
        return list(self._ask()["ranges"].get(path, []))

    def hosts(self) -> dict[str, int]:
        """Requests by the address of ours that they came to."""
        return dict(self._ask()["hosts"])

    def clear(self) -> None:
        """Forget all requests so far."""
        self._ask("clear")

    def __enter__(self) -> MediaServer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, command: str = "facts") -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOSTS[0], self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", f"/{command}")
            return dict(json.loads(connection.getresponse().read()))


class _Ledger:
    """What came and what was sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.ranges: defaultdict[str, list[str | None]] = defaultdict(list)

    def came(self, target: str, host: str, wanted: str | None) -> int:
        """Count a request; the number of it, from 1."""
        with self.lock:
            self.counts[target] += 1
            self.hosts[host] += 1
            self.ranges[target].append(wanted)
            return self.counts[target]

    def facts(self) -> dict[str, Any]:
        with self.lock:
            return {"counts": self.counts, "sent": self.sent, "hosts": self.hosts, "ranges": self.ranges}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    """What a path stands for, and how it is to be sent."""

    read: Callable[[int, int], bytes]
    size: int
    etag: str | None
    date: str | None
    type: str | None
    number: int
    query: dict[str, list[str]]
    status: int = 200
    ranges: bool = True
    accept: bool = True
    total: str | None = None
    shift: int = 0
    whole: bool = False
    part: float = 1.0
    speed: float | None = None
    location: str | None = None
    refuse: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def _page(resource: _Resource, status: int = 200, kind: str | None = "text/html; charset=utf-8") -> _Resource:
    return replace(
        resource, read=lambda at, size: PAGE[at : at + size], size=len(PAGE), etag=None, date=None, type=kind,
        status=status, ranges=False, accept=False,
    )  # fmt: skip


def _longer(resource: _Resource) -> _Resource:
    box = SHIFT.to_bytes(4, "big") + b"free" + bytes(SHIFT - 8)

    def read(at: int, size: int) -> bytes:
        start = max(at - resource.size, 0)
        return resource.read(at, min(size, max(resource.size - at, 0))) or box[start : start + size]

    return replace(resource, read=read, size=resource.size + SHIFT, etag='"another"')


def _swapped(resource: _Resource) -> _Resource:
    other = bytes(byte ^ 0x55 for byte in range(256))
    return replace(resource, read=lambda at, size: resource.read(at, size).translate(other), etag='"another"')


_BEHAVIOURS: dict[str, Callable[[_Resource, str], _Resource]] = {
    "norange": lambda one, _: replace(one, ranges=False, accept=False),
    "noaccept": lambda one, _: replace(one, accept=False),
    "noetag": lambda one, _: replace(one, etag=None, date=None),
    "liar": lambda one, _: replace(one, shift=SHIFT),
    "wholeliar": lambda one, _: replace(one, whole=True),
    "endless": lambda one, _: replace(one, total="*"),
    "changed": lambda one, _: _longer(one) if one.number > 1 else one,
    "swapped": lambda one, _: _swapped(one) if one.number > 1 else one,
    "html200": lambda one, _: _page(one),
    "lietype": lambda one, _: _page(one, kind="video/mp4"),
    "typeless": lambda one, _: replace(one, type=None),
    "octets": lambda one, _: replace(one, type="application/octet-stream"),
    "flaky": lambda one, _: _page(one, 503) if one.number == 1 else one,
    "truncated": lambda one, _: replace(one, part=0.5),
    "zero": lambda one, _: replace(one, size=0),
    "drip": lambda one, _: replace(one, speed=float(one.query.get("rate", ["10000"])[0])),
    "hang": lambda one, _: replace(one, part=0.0),
    "redirect": lambda one, rest: replace(one, location=f"/{rest}", status=302, size=0, ranges=False),
    "deny": lambda one, _: replace(one, refuse=True),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    ledger: ClassVar[_Ledger] = _Ledger()
    folder: ClassVar[Path]
    latency: ClassVar[float] = 0.0
    speed: ClassVar[float | None] = None

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        """The tests' own questions."""
        if self.path == "/clear":
            self.ledger.clear()
        body = json.dumps(self.ledger.facts()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        number = self.ledger.came(self.path, self.connection.getsockname()[0], self.headers["Range"])
        if self.latency:
            time.sleep(self.latency)
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._answer(number)

    def _answer(self, number: int) -> None:
        parts = urllib.parse.urlsplit(self.path)
        first, _, rest = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        status = 0
        if first == "status":
            code, _, rest = rest.partition("/")
            status = int(code)
        elif first not in _BEHAVIOURS:
            first, rest = "", f"{first}/{rest}".rstrip("/")
        path = (self.folder / rest.split("/")[-1]) if first == "redirect" else self.folder / rest
        kind = TYPES.get(path.suffix, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        query = urllib.parse.parse_qs(parts.query)
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            nothing = _Resource(
                read=lambda *_: b"", size=0, etag=None, date=None, type=kind, number=number, query=query
            )
            self._send(_page(nothing, 404))
            return
        try:
            facts = os.fstat(file)
            resource = _Resource(
                read=lambda at, size: os.pread(file, size, at), size=facts.st_size, number=number, query=query,
                etag=f'"{facts.st_size:x}-{facts.st_mtime_ns:x}"', type=kind, speed=self.speed,
                date=email.utils.formatdate(facts.st_mtime, usegmt=True),
            )  # fmt: skip
            if status:
                resource = _page(resource, status)
            elif first:
                resource = _BEHAVIOURS[first](resource, rest)
            self._send(resource)
        finally:
            os.close(file)

    def _wanted(self, resource: _Resource) -> tuple[int, int] | None:
        """First byte and end of what is asked for; an empty span cannot be satisfied. None: all of it."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"] or "")
        if found is None or found.groups() == ("", "") or not resource.ranges:
            return None
        condition = self.headers["If-Range"]
        if condition is not None and condition not in (resource.etag, resource.date):
            return None
        if not found[1]:
            return max(resource.size - int(found[2]), 0), resource.size
        start = int(found[1])
        return start, max(min(resource.size, int(found[2]) + 1) if found[2] else resource.size, start)

    def _send(self, resource: _Resource) -> None:
        span = self._wanted(resource)
        if span is not None and resource.refuse:
            resource, span = _page(resource, 403), None
        start, end = span or (0, resource.size)
        if span is None:
            self.send_response(resource.status)
        elif start >= end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{resource.size}")
            start = end = 0
        else:
            start, end = min(start + resource.shift, resource.size - 1), min(end + resource.shift, resource.size)
            self.send_response(206)
            total = resource.total or str(resource.size)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
            if resource.whole:
                start, end = 0, resource.size
        if resource.accept:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in (
            ("ETag", resource.etag), ("Last-Modified", resource.date), ("Content-Type", resource.type),
            ("Location", resource.location), ("Content-Length", str(end - start)),
        ):  # fmt: skip
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(resource, start, end)

    def _body(self, resource: _Resource, start: int, end: int) -> None:
        stop = start + int((end - start) * resource.part)
        began, at = time.monotonic(), start
        block = BLOCK if resource.speed is None else max(1, min(BLOCK, int(resource.speed / 20)))
        while at < stop:
            chunk = resource.read(at, min(block, stop - at))
            if not chunk:
                break
            self.wfile.write(chunk)
            at += len(chunk)
            with self.ledger.lock:
                self.ledger.sent[self.path] += len(chunk)
            if resource.speed is not None:
                time.sleep(max(0.0, began + (at - start) / resource.speed - time.monotonic()))
        if at < end:
            self.close_connection = True
        if at < end and resource.part == 0:
            self.connection.settimeout(LONGEST)
            self.connection.recv(1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Without the look-up of our own name that the base class makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go when they like; anything else is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bytes-per-second", type=float, default=None)
    flags = parser.parse_args()
    _Handler.folder, _Handler.latency, _Handler.speed = flags.folder, flags.latency, flags.bytes_per_second
    first = _Server((HOSTS[0], 0), _Handler)
    servers = [first, *(_Server((host, first.server_port), _Handler) for host in HOSTS[1:])]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(first.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
