"""The newer behaviours of the nasty server, seen byte by byte: with sockets, and with the standard library's client."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import socket
import time
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from support.behaviours import BAD_LOCATIONS
from support.server import HOSTS, NastyServer

FIRST = "photo_00000.jpg"
SECOND = "photo_00001.jpg"
pytestmark = pytest.mark.allow_hosts(list(HOSTS))


@pytest.fixture(scope="module")
def first(photo_folder: Path) -> bytes:
    return (photo_folder / FIRST).read_bytes()


@dataclass
class Heard:
    """What came over a connection until it was closed or time was up."""

    data: bytes
    closed: bool
    seconds: float

    @property
    def head(self) -> str:
        return self.data.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    def header(self, name: str) -> list[str]:
        lines = (line.partition(": ") for line in self.head.split("\r\n")[1:])
        return [value for key, _, value in lines if key == name]


def hear(server: NastyServer, target: str, *headers: str, wait: float = 3.0, until: int = 1 << 22) -> Heard:
    """Ask once, on a connection that is to be closed after it, and listen."""
    begun, data = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as sock:
        lines = [f"GET /{target} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close", *headers]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        closed = False
        while len(data) < until and (left := begun + wait - time.monotonic()) > 0 and not closed:
            sock.settimeout(left)
            try:
                part = sock.recv(65536)
            except TimeoutError:
                break
            data += part
            closed = not part
    return Heard(data, closed, time.monotonic() - begun)


def test_first_byte_comes_late_and_all_at_once(server: NastyServer, first: bytes) -> None:
    assert hear(server, "first-byte?s=30", wait=0.3).data == b""
    heard = hear(server, "first-byte?s=0.2")
    assert heard.seconds >= 0.2
    assert (heard.status, heard.body) == (200, first)


def test_drips(server: NastyServer) -> None:
    heard = hear(server, "drip-headers?every=0.02", wait=0.4)
    assert heard.data.startswith(b"HTTP/1.1 200 OK\r\nX-Drip: xx")
    assert len(heard.data) < 60
    assert not heard.closed
    heard = hear(server, "huge-announce?every=0.02", wait=0.4)
    assert heard.header("Content-Length") == ["1000000000000000"]
    assert 2 < len(heard.body) < 30
    heard = hear(server, "gzip-drip?mib=10&n=50&every=0.02", wait=0.4)
    assert 100 <= len(heard.body) < 1500
    grown = zlib.decompressobj(31).decompress(heard.body)
    assert len(grown) > 200 * len(heard.body) or len(heard.body) < 300
    heard = hear(server, "gzip-drip?mib=1&n=1000&every=0.001")
    assert heard.header("Content-Length") == [str(len(heard.body))]
    assert gzip.decompress(heard.body) == bytes(1 << 20)


@pytest.mark.parametrize(
    ("target", "start", "again"),
    [
        ("continue-flood", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("endless-headers", b"HTTP/1.1 200 OK\r\nX-0-0: on and on\r\n", b": on and on\r\n"),
        ("endless-chunks", b"HTTP/1.1 200 OK\r\n", b"1\r\nx\r\n"),
    ],
)
def test_endless_things_do_not_end(server: NastyServer, target: str, start: bytes, again: bytes) -> None:
    heard = hear(server, target, wait=0.4)
    assert heard.data.startswith(start)
    assert heard.data.count(again) > 30
    assert not heard.closed
    assert len(heard.data) < 1 << 20, "bounded, so that the tests' machine has something left"


def test_throttle_counts_requests_for_each_id(server: NastyServer, first: bytes) -> None:
    def ask(name: str) -> Heard:
        return hear(server, f"throttle/{name}?limit=2&per=1")

    begun = time.monotonic()
    assert [ask("a").status for _ in range(2)] == [200, 200]
    refused = ask("a")
    assert (refused.status, refused.header("Retry-After")) == (429, ["1"])
    assert ask("b").body == first
    statuses = []
    while time.monotonic() < begun + 2.5:
        statuses.append(ask("a").status)
        time.sleep(0.05)
    assert 3 <= statuses.count(200) <= 4
    assert statuses.count(429) > 3
    assert hear(server, "throttle/c?limit=0&per=7").header("Retry-After") == ["7"]


def test_retry_date(server: NastyServer) -> None:
    heard = hear(server, "retry-date?s=5")
    ahead = parsedate_to_datetime(heard.header("Retry-After")[0]).timestamp() - time.time()
    assert heard.status == 503
    assert 4.5 < ahead <= 6.1
    assert hear(server, "retry-date?status=429").status == 429


def test_redirects_within_the_server(server: NastyServer, first: bytes) -> None:
    heard = hear(server, f"redirect-host/photo/{SECOND}?to=127.0.0.3&code=307&a=1")
    assert (heard.status, heard.header("Location")) == (
        307,
        [f"http://127.0.0.3:{server.port}/photo/{SECOND}?a=1"],
    )
    assert hear(server, "redirect-host").header("Location") == [f"http://127.0.0.2:{server.port}/photo/"]
    assert hear(server, "redirect-host?to=::1").header("Location") == [f"http://[::1]:{server.port}/photo/"]
    location = hear(server, f"redirect-relative/{FIRST}").header("Location")[0]
    assert location == f"../photo/{FIRST}"
    path = urlsplit(urljoin(server.url(f"/redirect-relative/{FIRST}"), location)).path
    assert hear(server, path[1:]).body == first


def test_redirect_slow_takes_its_time_at_every_hop(server: NastyServer, first: bytes) -> None:
    target, begun, hops = f"redirect-slow/3/{FIRST}?s=0.1", time.monotonic(), 0
    while (heard := hear(server, target)).status == 302:
        assert heard.seconds < 0.5
        target, hops = heard.header("Location")[0][1:], hops + 1
    assert hops == 3
    assert heard.body == first
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("redirect-private", "http://10.0.0.1/"),
        ("redirect-private?to=[fd00::1]", "http://[fd00::1]/"),
        *((f"redirect-bad/{kind}", location) for kind, location in BAD_LOCATIONS.items()),
    ],
)
def test_redirects_to_where_one_should_not_go(server: NastyServer, target: str, location: str) -> None:
    heard = hear(server, target)
    assert (heard.status, heard.header("Location")) == (302, [location])


def test_redirects_without_a_place_to_go(server: NastyServer) -> None:
    assert hear(server, "redirect-ftp").header("Location") == [f"ftp://127.0.0.1:{server.port}/photo.jpg"]
    heard = hear(server, "redirect-empty?code=308")
    assert (heard.status, heard.header("Location")) == (308, [])


@pytest.mark.parametrize("kind", ["crlf", "utf8", "latin1"])
def test_some_bad_redirects_lead_to_a_picture(server: NastyServer, kind: str, first: bytes) -> None:
    location = hear(server, f"redirect-bad/{kind}").header("Location")[0]
    heard = hear(server, location[1:])
    assert (heard.status, heard.body) == (200, first)
    assert heard.header("X-Injected") == []


def test_auth(server: NastyServer, first: bytes) -> None:
    def basic(user: str, password: str) -> str:
        return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    refused = hear(server, "auth")
    assert (refused.status, refused.header("WWW-Authenticate")) == (401, ['Basic realm="nasty"'])
    assert hear(server, "auth", basic("user", "secret")).body == first
    assert hear(server, "auth?user=me&password=p%40ss", basic("me", "p@ss")).status == 200
    wrong = hear(server, "auth", basic("user", "wrong"))
    assert wrong.status == 401
    assert wrong.header("X-Authorization") == [basic("user", "wrong").partition(": ")[2]]
    assert hear(server, "auth?token=T1", "Authorization: Bearer T1").status == 200
    assert hear(server, "auth?token=T1", basic("user", "secret")).status == 401


def test_lengths_that_are_wrong(server: NastyServer, first: bytes) -> None:
    heard = hear(server, "negative-length")
    assert (heard.header("Content-Length"), heard.body, heard.closed) == (["-1"], first, True)
    heard = hear(server, "two-lengths")
    assert heard.header("Content-Length") == [str(len(first)), str(len(first) + 100)]
    assert heard.body == first
    heard = hear(server, "length-and-chunked")
    assert heard.header("Content-Length") == [str(len(first) // 2)]
    assert heard.header("Transfer-Encoding") == ["chunked"]
    assert unchunked(heard.body) == (first, b"")


def unchunked(data: bytes) -> tuple[bytes, bytes]:
    """Body and trailers."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return body, data.removesuffix(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


def test_trailers(server: NastyServer, first: bytes) -> None:
    heard = hear(server, "trailers")
    assert heard.header("Trailer") == ["X-Sha256"]
    checksum = hashlib.sha256(first).hexdigest()
    assert unchunked(heard.body) == (first, f"X-Sha256: {checksum}\r\n".encode())


def test_early_hints_come_before_the_picture(server: NastyServer, first: bytes) -> None:
    heard = hear(server, "early-hints")
    assert heard.status == 103
    assert heard.header("Link")
    assert heard.body.startswith(b"HTTP/1.1 200 OK\r\n")
    assert heard.body.endswith(b"\r\n\r\n" + first)


def test_encodings(server: NastyServer, first: bytes) -> None:
    heard = hear(server, "deflate")
    assert heard.header("Content-Encoding") == ["deflate"]
    assert zlib.decompress(heard.body) == first
    assert zlib.decompress(hear(server, "deflate?raw=1").body, -15) == first
    heard = hear(server, "bad-brotli")
    assert (heard.header("Content-Encoding"), heard.body) == (["br"], first)


def test_odd_statuses(server: NastyServer, first: bytes) -> None:
    heard = hear(server, "206")
    half = len(first) // 2
    assert (heard.status, heard.body) == (206, first[:half])
    assert heard.header("Content-Range") == [f"bytes 0-{half - 1}/{len(first)}"]
    assert (hear(server, "304").status, hear(server, "304").body) == (304, b"")
    heard = hear(server, "text-404")
    assert (heard.status, heard.header("Content-Type"), heard.body) == (404, ["image/jpeg"], first)
    heard = hear(server, "upgrade", wait=0.3)
    assert (heard.status, heard.body, heard.closed) == (101, b"\x81\x05hello", False)


def test_http09_has_no_head(server: NastyServer, first: bytes) -> None:
    assert hear(server, "http09").data == first


@pytest.mark.parametrize("milliseconds", [0, 150])
def test_keepalive_close_breaks_its_promise(server: NastyServer, milliseconds: int, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"GET /keepalive-close?ms=%d HTTP/1.1\r\nHost: x\r\n\r\n" % milliseconds)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.read() == first
        assert response.getheader("Connection") == "keep-alive"
        read = time.monotonic()
        assert sock.recv(1) == b""
        assert (time.monotonic() - read > 0.1) == (milliseconds > 0)


def test_half_close_leaves_the_other_half_open(server: NastyServer, first: bytes) -> None:
    server.clear()
    with socket.create_connection(("127.0.0.4", server.port), timeout=5) as sock:
        sock.sendall(b"GET /half-close HTTP/1.1\r\nHost: 127.0.0.4\r\n\r\n")
        data = b""
        while part := sock.recv(65536):
            data += part
        assert data.endswith(b"\r\n\r\n" + first)
        time.sleep(0.1)
        sock.sendall(b"still here")  # a closed peer would answer with RST
        time.sleep(0.1)
        sock.sendall(b"and still")
    assert server.peak_connections()["127.0.0.4"] == 1
