"""The nasty server does what its manual says, seen with curl's library and with bare sockets."""

import collections
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pyarrow.parquet as pq
import pycurl
import pytest
from PIL import Image
from support.nginx import NginxH2
from support.photos import ORIENTATION, photos, picture, url_list
from support.server import BEHAVIOURS, HOST6, HOSTS, NastyServer, most_within

FIRST = "photo_00000.jpg"
pytestmark = pytest.mark.allow_hosts([*HOSTS, HOST6])


def get(url: str, **options: Any) -> tuple[int, bytes, dict[str, list[str]]]:
    """Status, body and headers (lower-case names) as libcurl has them; raises pycurl.error."""
    body = io.BytesIO()
    headers: dict[str, list[str]] = {}

    def on_header(line: bytes) -> None:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            headers.setdefault(name.lower(), []).append(value.strip())

    curl = pycurl.Curl()
    defaults = {"TIMEOUT_MS": 5000, "NOPROXY": "*"}
    for name, value in {**defaults, **options, "URL": url, "WRITEDATA": body, "HEADERFUNCTION": on_header}.items():
        curl.setopt(getattr(pycurl, name), value)
    try:
        curl.perform()
        return curl.getinfo(pycurl.RESPONSE_CODE), body.getvalue(), headers
    finally:
        curl.close()


def curl_error(url: str, **options: Any) -> int:
    """Number of the error that libcurl reports."""
    with pytest.raises(pycurl.error) as caught:
        get(url, **options)
    return int(caught.value.args[0])


@pytest.fixture(scope="module")
def first(photo_folder: Path) -> bytes:
    return (photo_folder / FIRST).read_bytes()


def test_photo_is_served_right_and_its_query_ignored(server: NastyServer, photo_folder: Path) -> None:
    for name, kind in [(FIRST, "image/jpeg"), ("photo_00003.png", "image/png"), ("photo_00007.webp", "image/webp")]:
        status, body, headers = get(server.url(f"/photo/{name}?a=b,c"))
        assert (status, headers["content-type"]) == (200, [kind])
        assert body == (photo_folder / name).read_bytes()
        assert headers["content-length"] == [str(len(body))]


@pytest.mark.parametrize("path", ["/photo/none.jpg", "/photo/../server.py", "/nonsense", "/"])
def test_what_is_not_there_is_404(server: NastyServer, path: str) -> None:
    assert get(server.url(path), PATH_AS_IS=1)[0] == 404


def test_connections_are_kept_alive_and_counted(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as own:
        curl = pycurl.Curl()
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        for number in range(3):
            curl.setopt(pycurl.URL, own.url(f"/photo/{FIRST}?n={number % 2}"))
            curl.perform()
        curl.close()
        get(own.url("/empty", host="127.0.0.2"))
        assert own.counts() == {f"/photo/{FIRST}?n=0": 2, f"/photo/{FIRST}?n=1": 1, "/empty": 1}
        assert own.count(f"/photo/{FIRST}?n=0") == 2
        assert own.connections() == {"127.0.0.1": 1, "127.0.0.2": 1}
        assert own.peak() == {"127.0.0.1": 1, "127.0.0.2": 1}
        log = own.log()
        assert [entry["host"] for entry in log] == ["127.0.0.1"] * 3 + ["127.0.0.2"]
        assert log[0]["connection"] == log[2]["connection"] != log[3]["connection"]
        own.clear()
        assert own.counts() == {}
        assert own.log() == []


@pytest.mark.parametrize("status", [200, 301, 403, 404, 410, 429, 500, 503, 599])
def test_status(server: NastyServer, status: int) -> None:
    assert get(server.url(f"/status/{status}"))[0] == status


def test_status_with_retry_after(server: NastyServer) -> None:
    assert get(server.url("/status/503?retry_after=1"))[2]["retry-after"] == ["1"]
    assert "retry-after" not in get(server.url("/status/503"))[2]
    assert get(server.url("/status/204"))[:2] == (204, b"")


def test_flaky_fails_that_often_for_each_id(server: NastyServer, first: bytes) -> None:
    for name in ("one", "two"):
        answers = [get(server.url(f"/flaky/{name}?fail=2")) for _ in range(3)]
        assert [status for status, _, _ in answers] == [503, 503, 200]
        assert answers[2][1] == first


GOOD = ["latency?ms=1", "slow-first-byte?s=0.01", "chunked", "redirect/1/photo/" + FIRST, "redirect/3/photo/" + FIRST]
GOOD += [
    "gzip",
    "no-length",
    "typed?type=text/html",
    "typed?type=",
    "robots?tag=all",
    "redirect-to?url=/photo/" + FIRST,
]


@pytest.mark.parametrize("path", GOOD)
def test_the_picture_comes_all_the_same(server: NastyServer, path: str, first: bytes) -> None:
    status, body, _ = get(server.url("/" + path), FOLLOWLOCATION=1, ACCEPT_ENCODING="")
    assert (status, body == first) == (200, True)


BAD = {
    "drip?every=0.05": pycurl.E_OPERATION_TIMEDOUT,
    "hang": pycurl.E_OPERATION_TIMEDOUT,
    "hang-headers": pycurl.E_OPERATION_TIMEDOUT,
    "slow-first-byte?s=5": pycurl.E_OPERATION_TIMEDOUT,
    "latency?ms=5000": pycurl.E_OPERATION_TIMEDOUT,
    "reset": pycurl.E_RECV_ERROR,
    "reset-body": pycurl.E_RECV_ERROR,
    "close": pycurl.E_GOT_NOTHING,
    "truncated": pycurl.E_PARTIAL_FILE,
    "chunked-cut": pycurl.E_PARTIAL_FILE,
    "bad-chunk": pycurl.E_RECV_ERROR,
    "redirect-loop": pycurl.E_TOO_MANY_REDIRECTS,
    "redirect/6/photo/a": pycurl.E_TOO_MANY_REDIRECTS,
    "redirect-file": pycurl.E_UNSUPPORTED_PROTOCOL,
    "bad-gzip": pycurl.E_BAD_CONTENT_ENCODING,
    "garbage": pycurl.E_UNSUPPORTED_PROTOCOL,
}


@pytest.mark.parametrize("path", BAD)
def test_misbehaviour_is_the_one_announced(server: NastyServer, path: str) -> None:
    options = {"FOLLOWLOCATION": 1, "MAXREDIRS": 5, "ACCEPT_ENCODING": "", "TIMEOUT_MS": 400}
    assert curl_error(server.url("/" + path), **options) == BAD[path]


def test_silent_port_accepts_and_refused_port_does_not(server: NastyServer, https_server: NastyServer) -> None:
    assert curl_error(server.silent(), TIMEOUT_MS=300) == pycurl.E_OPERATION_TIMEDOUT
    assert curl_error(https_server.silent(), CONNECTTIMEOUT_MS=300) == pycurl.E_OPERATION_TIMEDOUT
    assert curl_error(server.refused()) == pycurl.E_COULDNT_CONNECT


def test_bombs_and_big_bodies_have_the_size_that_was_asked_for(server: NastyServer) -> None:
    packed = get(server.url("/gzip-bomb?mib=10"))[1]
    assert len(packed) < 100_000
    assert len(gzip.decompress(packed)) == 10 << 20
    assert len(get(server.url("/big?n=3000001"))[1]) == 3_000_001
    status, body, headers = get(server.url("/big?n=3000001&length=0"))
    assert (status, len(body), "content-length" in headers) == (200, 3_000_001, False)
    assert len(get(server.url("/huge-header?n=50000"))[2]["x-filler"][0]) == 50_000


def test_bodies_that_are_no_pictures(server: NastyServer, first: bytes) -> None:
    assert get(server.url("/empty"))[:2] == (200, b"")
    assert get(server.url("/html"))[2]["content-type"] == ["text/html"]
    assert get(server.url("/half-picture"))[1] == first[: len(first) // 2]


def test_headers_both_ways(server: NastyServer) -> None:
    tags = get(server.url("/robots?tag=noai&tag=mybot:+noindex"))[2]["x-robots-tag"]
    assert tags == ["noai", "mybot: noindex"]
    echoed = json.loads(get(server.url("/echo-headers"), HTTPHEADER=["X-One: 1"], USERAGENT="me")[1])
    assert ["X-One", "1"] in echoed
    assert ["User-Agent", "me"] in echoed


def test_head_has_no_body(server: NastyServer, first: bytes) -> None:
    status, body, headers = get(server.url(f"/photo/{FIRST}"), NOBODY=1)
    assert (status, body, headers["content-length"]) == (200, b"", [str(len(first))])


def test_https_is_trusted_only_with_its_authority(https_server: NastyServer, first: bytes) -> None:
    url = https_server.url(f"/photo/{FIRST}?https")
    assert curl_error(url) == pycurl.E_SSL_CACERT
    assert get(url, CAINFO=https_server.ca)[1] == first
    assert get(url, SSL_VERIFYPEER=0, SSL_VERIFYHOST=0)[1] == first
    assert https_server.count(f"/photo/{FIRST}?https") == 2
    assert curl_error(https_server.url("/reset"), CAINFO=https_server.ca) in (pycurl.E_RECV_ERROR, 52)


def test_many_connections_at_once(server: NastyServer, first: bytes) -> None:
    multi, curls = pycurl.CurlMulti(), []
    for number in range(200):
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, server.url(f"/latency?ms=300&many={number}", host="127.0.0.3"))
        curl.setopt(pycurl.WRITEDATA, body := io.BytesIO())
        multi.add_handle(curl)
        curls.append((curl, body))
    active = 1
    while active:
        active = multi.perform()[1]
        multi.select(0.1)
    assert all(body.getvalue() == first for _, body in curls)
    assert server.peak()["127.0.0.3"] > 20


def plain(server: NastyServer, host: str, target: str, **headers: str) -> tuple[int, bytes]:
    """Status and body by the standard library's client, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection(host, server.port, timeout=5)) as connection:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


def test_open_connections_are_counted_until_either_side_closes(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as own:
        assert own.peak_connections() == {}
        held = [socket.create_connection(("127.0.0.2", own.port)) for _ in range(7)]
        _wait_until(lambda: own.peak_connections() == {"127.0.0.2": 7})
        assert own.connections() == {}, "none of them brought a request"
        for sock in held:
            sock.close()
        own.clear()
        plain(own, "127.0.0.2", "/photo/")
        own.clear()
        assert own.peak_connections() == {}
        for _ in range(30):
            assert plain(own, "127.0.0.2", "/photo/")[0] == 200
            assert curl_error(own.url("/close", host="127.0.0.2")) == pycurl.E_GOT_NOTHING
        assert own.peak_connections() == {"127.0.0.2": 1}, "one after another is never two at once"
        assert own.peak() == {"127.0.0.2": 1}


def test_a_client_that_leaves_is_counted_no_longer(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as own:
        for number in range(20):
            with socket.create_connection(("127.0.0.1", own.port)) as sock:
                sock.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
                _wait_until(lambda number=number: own.count("/hang") > number)  # type: ignore[misc]
        assert own.peak_connections() == {"127.0.0.1": 1}
        assert own.peak() == {"127.0.0.1": 1, "x": 1}


def test_starts_and_the_highest_rate(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as own:
        before = time.monotonic()
        for _ in range(5):
            plain(own, "127.0.0.3", "/photo/")
        time.sleep(0.3)
        plain(own, "127.0.0.3", "/status/404")
        plain(own, "127.0.0.1", "/photo/", Host="pictures.test")
        starts = own.starts("127.0.0.3")
        assert len(starts) == 6
        assert starts == sorted(starts)
        assert before <= starts[0] <= starts[-1] <= time.monotonic()
        assert own.max_rate("127.0.0.3", window=0.25) == 5
        assert own.max_rate("127.0.0.3", window=5) == 6
        assert own.starts("127.0.0.4") == []
        assert own.max_rate("127.0.0.4") == 0
        assert len(own.starts("pictures.test")) == len(own.starts("127.0.0.1")) == 1
        own.clear()
        assert own.starts("127.0.0.3") == []


@pytest.mark.parametrize(
    ("times", "most"), [([], 0), ([1.0], 1), ([0.0, 1.0], 1), ([0.0, 0.9, 1.0, 1.5, 1.8], 4), ([2.0, 2.0, 2.0], 3)]
)
def test_most_within_a_window(times: list[float], most: int) -> None:
    assert most_within(times, 1.0) == most


def test_robots_txt_is_what_the_test_said_for_each_host(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as own:
        assert plain(own, "127.0.0.1", "/robots.txt")[0] == 404
        own.set_robots("127.0.0.2", body="User-agent: *\nDisallow: /\n")
        own.set_robots("127.0.0.3", status=503, body=b"\xff\xfe", delay=0.2, headers={"Retry-After": "9"})
        own.set_robots("named.test", body="by name")
        assert plain(own, "127.0.0.1", "/robots.txt")[0] == 404
        assert plain(own, "127.0.0.2", "/robots.txt") == (200, b"User-agent: *\nDisallow: /\n")
        assert plain(own, "127.0.0.2", "/robots.txt", Host=f"named.test:{own.port}") == (200, b"by name")
        begun = time.monotonic()
        status, body, headers = get(own.url("/robots.txt", host="127.0.0.3"))
        assert (status, body, headers["retry-after"]) == (503, b"\xff\xfe", ["9"])
        assert time.monotonic() - begun >= 0.2
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "named.test"]
        assert [own.robots_count(host) for host in hosts] == [2, 2, 1, 0, 1]
        assert own.count("/robots.txt") == 5
        own.clear()
        assert own.robots_count("127.0.0.2") == 0
        assert plain(own, "127.0.0.2", "/robots.txt")[0] == 200, "what was set stays"
        own.clear_robots()
        assert plain(own, "127.0.0.2", "/robots.txt")[0] == 404


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_full_and_resumed_handshakes_are_told_apart(photo_folder: Path, version: ssl.TLSVersion) -> None:
    with NastyServer(photo_folder, https=True) as own:
        assert own.handshakes() == {"full": 0, "resumed": 0}
        context = ssl.create_default_context(cafile=own.ca)
        context.minimum_version = context.maximum_version = version
        session = None
        for resumed in (False, True, True):
            with (
                socket.create_connection(("127.0.0.1", own.port), timeout=5) as sock,
                context.wrap_socket(sock, server_hostname="127.0.0.1", session=session) as tls,
            ):
                tls.sendall(b"GET /photo/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                while tls.recv(65536):
                    pass
                assert tls.session_reused == resumed
                session = tls.session
        assert own.handshakes() == {"full": 1, "resumed": 2}
        assert own.peak_connections() == {"127.0.0.1": 1}


@pytest.mark.skipif(not NastyServer.has_ipv6, reason="this machine has no ::1")
def test_ipv6_loopback_is_one_more_host(server: NastyServer, https_server: NastyServer, first: bytes) -> None:
    url = server.url(f"/photo/{FIRST}", host="::1")
    assert url == f"http://[::1]:{server.port}/photo/{FIRST}"
    server.clear()
    assert get(url)[1] == first
    assert server.peak_connections()["::1"] == server.peak()["::1"] == len(server.starts("::1")) == 1
    assert get(https_server.url(f"/photo/{FIRST}", host="::1"), CAINFO=https_server.ca)[1] == first


def test_what_the_owner_asks_is_not_for_clients(server: NastyServer) -> None:
    for command in ("facts", "_facts", "log", "clear"):
        assert plain(server, "127.0.0.1", f"/{command}")[0] == 404


def h2(front: NginxH2, paths: list[str]) -> list[tuple[int, bytes]]:
    """Get these one after another over one handle of libcurl's."""
    curl, answers = pycurl.Curl(), []
    curl.setopt(pycurl.CAINFO, front.ca)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
    curl.setopt(pycurl.TIMEOUT_MS, 5000)
    for path in paths:
        body = io.BytesIO()
        curl.setopt(pycurl.URL, front.url(path))
        curl.setopt(pycurl.WRITEDATA, body)
        curl.perform()
        answers.append((curl.getinfo(pycurl.RESPONSE_CODE), body.getvalue()))
    curl.close()
    return answers


def test_nginx_speaks_http2_itself_and_for_the_nasty_server(photo_folder: Path, first: bytes) -> None:
    with NastyServer(photo_folder) as upstream, NginxH2(photo_folder, upstream=upstream) as front:
        paths = [f"/photo/{FIRST}?own", f"/latency/{FIRST}?ms=10", "/status/410", "/photo/none.jpg"]
        assert h2(front, paths) == [(200, first), (200, first), (410, b"status 410"), (404, ANY)]
        seen = front.requests(4)
        assert [request.target for request in seen] == paths
        assert {request.protocol for request in seen} == {"HTTP/2.0"}
        assert len({request.connection for request in seen}) == 1
        assert upstream.counts() == {f"/latency/{FIRST}?ms=10": 1, "/status/410": 1}
        context = ssl.create_default_context(cafile=front.ca)
        with contextlib.closing(http.client.HTTPSConnection("localhost", front.port, context=context)) as connection:
            connection.request("GET", "/photo/" + FIRST)
            assert connection.getresponse().read() == first
        last = front.requests(5)[-1]
        assert (last.protocol, last.status, last.host) == ("HTTP/1.1", 200, "localhost")
        assert last.connection != seen[0].connection


def test_nginx_passes_on_bodies_as_they_come_and_ends_connections_on_request(photo_folder: Path) -> None:
    with NastyServer(photo_folder) as upstream, NginxH2(photo_folder, upstream=upstream, requests=2) as front:
        assert [status for status, _ in h2(front, [f"/photo/{FIRST}?{n}" for n in range(5)])] == [200] * 5
        counts = collections.Counter(request.connection for request in front.requests(5))
        assert sorted(counts.values()) == [1, 2, 2]
        received = io.BytesIO()
        curl = pycurl.Curl()
        options = {"URL": front.url("/drip?every=0.02"), "CAINFO": front.ca, "WRITEDATA": received, "TIMEOUT_MS": 500}
        for option, value in options.items():
            curl.setopt(getattr(pycurl, option), value)
        with pytest.raises(pycurl.error):
            curl.perform()
        curl.close()
        assert 3 < len(received.getvalue()) < 30
        work, port = front._work, front.port
    assert not work.exists()
    assert socket.socket().connect_ex(("127.0.0.1", port)) != 0


def test_every_behaviour_is_tested_here() -> None:
    text = Path(__file__).read_text() + Path(__file__).with_name("test_behaviours.py").read_text()
    assert [name for name in BEHAVIOURS if f'"{name}' not in text and f"/{name}" not in text] == []
    assert all(function.__doc__ for function in BEHAVIOURS.values())


def test_server_ends_with_its_parent(photo_folder: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from support.server import NastyServer
server = NastyServer(Path({str(photo_folder)!r}))
print(server.port, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    port = int(done.stdout)
    _wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) != 0)


def _wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_photos_are_distinct_repeatable_and_of_all_kinds(tmp_path: Path) -> None:
    names = photos(tmp_path / "a", 40)
    contents = [(tmp_path / "a" / name).read_bytes() for name in names]
    assert len({hashlib.sha256(content).digest() for content in contents}) == 40
    again = random.Random(1).sample(range(40), 5)
    assert [picture(index)[1] for index in again] == [contents[index] for index in again]
    assert picture(0, seed=1) != picture(0, seed=2)
    images = [Image.open(io.BytesIO(content)) for content in contents]
    assert {image.format for image in images} == {"JPEG", "PNG", "WEBP"}
    assert {image.mode for image in images} == {"RGB", "L"}
    assert [index for index, image in enumerate(images) if image.getexif().get(ORIENTATION) == 6] == [11, 31]
    assert all(200 <= side <= 900 for image in images for side in image.size)


def test_url_lists(tmp_path: Path) -> None:
    urls, columns = ["http://a/1,2.jpg", None], {"caption": ["one", "two"]}
    assert Path(url_list(tmp_path / "l.txt", urls)).read_text() == "http://a/1,2.jpg\n\n"
    assert gzip.decompress(Path(url_list(tmp_path / "l.txt.gz", urls)).read_bytes()) == b"http://a/1,2.jpg\n\n"
    text = Path(url_list(tmp_path / "l.csv", urls, columns)).read_text()
    assert text == 'url,caption\n"http://a/1,2.jpg",one\n,two\n'
    assert (
        Path(url_list(tmp_path / "l.tsv", urls, columns)).read_text().startswith("url\tcaption\nhttp://a/1,2.jpg\tone")
    )
    rows = [{"url": "http://a/1,2.jpg", "caption": "one"}, {"url": None, "caption": "two"}]
    assert json.loads(Path(url_list(tmp_path / "l.json", urls, columns)).read_text()) == rows
    lines = Path(url_list(tmp_path / "l.jsonl", urls, columns)).read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert pq.read_table(url_list(tmp_path / "l.parquet", urls, columns)).to_pylist() == rows
