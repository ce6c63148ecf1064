"""How connections are used: kept, made anew, resumed, shared by HTTP/2, bounded; and what a row says about its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from support.fetching import SUCCESS, code, fetch, fetcher, items, timed
from support.nginx import NginxH2
from support.server import HOST6, HOSTS, NastyServer

from img2dataset_dist.about import PROJECT_URL, VERSION
from img2dataset_dist.fetchers.wire import user_agent
from img2dataset_dist.model import Item

PHOTO = "photo_00001.jpg"


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def test_connections_are_kept_and_no_more_than_are_needed(server: NastyServer) -> None:
    before = sum(server.connections().values())
    found = fetch([server.url(f"/photo/{PHOTO}?ka={n}") for n in range(200)], thread_count=8)
    assert {code(one) for one in found} == {SUCCESS}
    assert 1 <= sum(server.connections().values()) - before <= 8


def test_a_connection_that_the_server_closed_is_made_anew(server: NastyServer) -> None:
    """It promised to keep it. Whether it is gone shows only when it is used again, which costs no row."""
    server.clear()
    found = fetch([server.url(f"/keepalive-close/{PHOTO}?gone={n}") for n in range(60)], thread_count=4)
    found += fetch([server.url(f"/keepalive-close/{PHOTO}?gone={n}&ms=5") for n in range(60)], thread_count=1)
    assert {code(one) for one in found} == {SUCCESS}
    assert {one.facts.attempts for one in found} == {1}
    assert sum(server.connections().values()) >= 120


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the sockets of this process in /proc")
@pytest.mark.parametrize("path", ["/photo/", "/keepalive-close/"])
def test_open_sockets_are_bounded(server: NastyServer, path: str) -> None:
    """By the transfers that may be under way, those that idle included, over all hosts."""
    server.clear()
    urls = [server.url(f"{path}{PHOTO}?n={n}", HOSTS[n // 50 % len(HOSTS)]) for n in range(600)]
    before, most = sockets(), 0
    with contextlib.closing(fetcher(thread_count=16)) as running:
        ours = sockets() - before - 2  # the two ends by which a thread wakes it, and what the resolver has
        for fetched in running.fetch(items(urls)):
            assert code(fetched) == SUCCESS
            most = max(most, sockets() - before)
        idle = sockets() - before
        at_server = max(server.peak_connections().values())  # which may see a new one before the end of its last one
    assert most <= 16 + 2 + max(0, ours) + 2  # one that is just being closed
    assert at_server <= 2 * 16
    assert idle <= 16 + 2 + max(0, ours) + 2
    assert sockets() <= before, "close leaves none behind"


def test_tls(https_server: NastyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = https_server.url(f"/photo/{PHOTO}")
    (refused,) = fetch([url])
    assert code(refused) == "tls"
    assert refused.failure
    assert not refused.failure.transient
    assert code(fetch([url], ignore_ssl_certificate=True)[0]) == SUCCESS
    monkeypatch.setenv("SSL_CERT_FILE", str(https_server.ca))
    assert code(fetch([url])[0]) == SUCCESS


def test_tls_sessions_are_resumed(https_server: NastyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection after the other, each closed after its answer: only the first needs the whole handshake."""
    monkeypatch.setenv("SSL_CERT_FILE", str(https_server.ca))
    https_server.clear()
    found = fetch([https_server.url(f"/keepalive-close/{PHOTO}?tls={n}") for n in range(40)], thread_count=1)
    assert {code(one) for one in found} == {SUCCESS}
    kinds = https_server.handshakes()
    assert kinds["full"] + kinds["resumed"] >= 40
    assert kinds["resumed"] >= 35


def test_trusted_certificates_are_read_once(
    https_server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the usual bundle takes longer than a handshake; it must not come with each connection."""
    bundle = tmp_path / "bundle.pem"
    shutil.copy(certifi.where(), bundle)
    with bundle.open("a") as file:
        file.write(Path(https_server.ca or "").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    began = time.process_time()
    for _ in range(3):
        ssl.create_default_context(cafile=str(bundle))
    reading = (time.process_time() - began) / 3
    https_server.clear()
    began = time.process_time()
    found = fetch([https_server.url(f"/keepalive-close/{PHOTO}?ca={n}") for n in range(60)], thread_count=4)
    spent = time.process_time() - began
    assert {code(one) for one in found} == {SUCCESS}
    assert sum(https_server.handshakes().values()) >= 60
    assert spent < 60 * reading, "less than it takes to read the bundle for each"


@pytest.fixture(scope="module")
def front(server: NastyServer, photo_folder: Path) -> Iterator[NginxH2]:
    with NginxH2(photo_folder, upstream=server) as running:
        yield running


def test_http_2(front: NginxH2, photo_folder: Path) -> None:
    """Requests share connections, and each is answered with its own body."""
    paths = sorted(photo_folder.iterdir())
    rows = [(path, f"/photo/{path.name}?h2={n}") for n in range(5) for path in paths]
    found = fetch([front.url(target) for _, target in rows], thread_count=64, ignore_ssl_certificate=True)
    assert [one.body for one in found] == [path.read_bytes() for path, _ in rows]
    requests = [one for one in front.requests(len(rows)) if "h2=" in one.target]
    assert len(requests) == len(rows)
    assert {one.protocol for one in requests} == {"HTTP/2.0"}
    assert len({one.connection for one in requests}) <= 64


def test_http_2_requests_share_a_connection(front: NginxH2) -> None:
    """Once there is a connection, requests that come at the same time go over it."""
    first = front.url(f"/photo/{PHOTO}?shared=0")
    later = [front.url(f"/latency/{PHOTO}?ms=200&shared={n}") for n in range(1, 40)]
    with contextlib.closing(fetcher(thread_count=64, ignore_ssl_certificate=True)) as running:
        assert [code(one) for one in running.fetch(items([first]))] == [SUCCESS]
        began = time.monotonic()
        assert {code(one) for one in running.fetch(items(later))} == {SUCCESS}
        assert time.monotonic() - began < 4, "side by side, not one after the other"
    requests = [one for one in front.requests(41) if "shared=" in one.target]
    assert len(requests) == 40
    assert len({one.connection for one in requests}) <= 3


def test_http_2_connections_that_the_server_ends_cost_no_row(server: NastyServer, photo_folder: Path) -> None:
    """GOAWAY after every ten requests."""
    with NginxH2(photo_folder, upstream=server, requests=10) as front:
        urls = [front.url(f"/photo/{PHOTO}?away={n}") for n in range(120)]
        found = fetch(urls, thread_count=8, ignore_ssl_certificate=True, retries=0)
    assert Counter(code(one) for one in found) == {SUCCESS: 120}


@pytest.mark.parametrize("path", ["/gzip", "/deflate", "/deflate?raw=1"])
def test_compressed_bodies_are_unpacked(server: NastyServer, photo_folder: Path, path: str) -> None:
    (found,) = fetch([server.url(path)])
    assert found.body == (photo_folder / "photo_00000.jpg").read_bytes()
    assert found.facts.bytes == len(found.body)


def test_we_say_who_we_are_and_what_we_understand(server: NastyServer) -> None:
    (found,) = fetch([server.url("/echo-headers")], user_agent_token="mytoken")
    headers = {name.lower(): value for name, value in json.loads(found.body or b"[]")}
    assert headers["user-agent"] == f"img2dataset-dist/{VERSION} (+{PROJECT_URL}) mytoken"
    assert {"gzip", "deflate", "br"} <= {word.strip() for word in headers["accept-encoding"].split(",")}
    assert user_agent(None) == f"img2dataset-dist/{VERSION} (+{PROJECT_URL})"
    assert not headers.keys() & {"cookie", "authorization", "range", "referer", "te"}


def test_no_proxy_from_the_environment(server: NastyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, server.refused())
    assert code(fetch([server.url(f"/photo/{PHOTO}")])[0]) == SUCCESS


@pytest.mark.skipif(not NastyServer.has_ipv6, reason="this machine has no ::1")
def test_ipv6(server: NastyServer, https_server: NastyServer) -> None:
    urls = [server.url(f"/photo/{PHOTO}?six={n}", HOST6) for n in range(10)]
    urls += [https_server.url(f"/photo/{PHOTO}", HOST6), server.url(f"/redirect-host/photo/{PHOTO}?to=::1")]
    assert [code(one) for one in fetch(urls, ignore_ssl_certificate=True)] == [SUCCESS] * 12


def test_phases_of_a_row(server: NastyServer, https_server: NastyServer) -> None:
    """New connections and kept ones; what was not needed took no time."""
    plain = [server.url(f"/latency/{PHOTO}?ms=300&phase={n}") for n in range(2)]
    new, kept = (one.facts for one in fetch(plain, thread_count=1))
    for facts in (new, kept):
        assert 300 <= (facts.first_byte_ms or 0) < 2000
        assert (facts.first_byte_ms or 0) <= (facts.fetch_ms or 0)
        assert (facts.dns_ms, facts.tls_ms) == (0, 0)
        assert facts.connect_ms is not None
    assert kept.connect_ms == 0

    secret = [https_server.url(f"/latency/{PHOTO}?ms=300&phase={n}") for n in range(2)]
    new, kept = (one.facts for one in fetch(secret, thread_count=1, ignore_ssl_certificate=True))
    assert 0 < (new.tls_ms or 0) < 2000
    assert (kept.connect_ms, kept.tls_ms) == (0, 0)
    for facts in (new, kept):
        assert 300 <= (facts.first_byte_ms or 0) < 2000
        parts = sum(part or 0 for part in (facts.dns_ms, facts.connect_ms, facts.tls_ms, facts.first_byte_ms))
        assert parts <= (facts.fetch_ms or 0) + 3, "each is rounded"


def test_phases_of_rows_that_came_less_far(server: NastyServer, https_server: NastyServer) -> None:
    refused, hung, silent, moved = (
        one.facts
        for one in fetch(
            [
                server.refused(),
                server.url("/hang"),
                https_server.silent(),
                server.url(f"/redirect-slow/2/{PHOTO}?s=0.3"),
            ],
            timeout=1,
        )
    )
    assert (refused.connect_ms, refused.tls_ms, refused.first_byte_ms, refused.http_status) == (None, None, None, None)
    assert hung.connect_ms is not None
    assert (hung.first_byte_ms, hung.http_status) == (None, None)
    assert 1000 <= (hung.fetch_ms or 0) < 3000
    assert silent.connect_ms is not None
    assert (silent.tls_ms, silent.first_byte_ms) == (None, None)
    assert (moved.fetch_ms or 0) >= 600, "the whole chain"
    assert (moved.first_byte_ms or 0) < 300, "its last request"


def test_what_is_known_of_a_row(server: NastyServer) -> None:
    good, moved, missing, bad = fetch(
        [
            server.url("/photo/photo_00000.jpg"),
            server.url(f"/redirect/2/photo/{PHOTO}"),
            server.url("/status/404"),
            "ftp://127.0.0.1/x",
        ]
    )
    assert (good.facts.http_status, good.facts.content_type, good.facts.attempts) == (200, "image/jpeg", 1)
    assert good.facts.bytes == len(good.body or b"")
    assert moved.facts.final_url == server.url(f"/photo/{PHOTO}")
    assert missing.facts.http_status == 404
    assert code(bad) == "bad_url"
    assert bad.facts.attempts == 0


def test_a_list_that_is_slow_does_not_stall_transfers(server: NastyServer) -> None:
    """None in the list means: nothing yet."""

    def slow() -> Iterator[Item | None]:
        for index, item in enumerate(items([server.url(f"/photo/{PHOTO}?slow={n}") for n in range(5)])):
            yield item
            yield from [None] * (3 * (index < 4))

    with contextlib.closing(fetcher()) as running:
        assert len(list(running.fetch(slow()))) == 5


@pytest.mark.parametrize("threads", [1, 8])
def test_the_end_of_a_list_is_not_waited_for(server: NastyServer, threads: int) -> None:
    urls = [server.url(f"/photo/{PHOTO}?end={n}") for n in range(threads)]
    assert min(timed(urls, thread_count=threads)[1] for _ in range(3)) < 0.8
