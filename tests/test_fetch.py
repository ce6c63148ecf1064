"""The fetcher against a server that misbehaves: every row has an outcome, the right one, in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from support.server import NastyServer

from img2dataset_dist.about import PROJECT_URL, VERSION
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import ROW_ERRORS
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting, parse_retry_after
from img2dataset_dist.fetchers.wire import user_agent
from img2dataset_dist.fetchers.x_robots import is_disallowed
from img2dataset_dist.model import Fetched, Item


def items(urls: list[str | None]) -> Iterator[Item]:
    for index, url in enumerate(urls):
        yield Item(shard_id=0, index=index, key=f"{index:04d}", url=url)


def fetch(urls: list[str | None], **options: Any) -> list[Fetched]:
    """Outcomes in the order of `urls`."""
    fetcher = CurlFetcher(
        FetchConfig(**({"timeout": 5, "retry_backoff": 0.01, "allow_private_addresses": True} | options))
    )
    try:
        found = list(fetcher.fetch(items(urls)))
    finally:
        fetcher.close()
    assert sorted(f.item.index for f in found) == list(range(len(urls))), "rows are conserved"
    for one in found:
        assert (one.body is None) != (one.failure is None)
    return sorted(found, key=lambda f: f.item.index)


def code(fetched: Fetched) -> str:
    return fetched.failure.code if fetched.failure else "success"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/photo/photo_00000.jpg", "success"),
        ("/chunked", "success"),
        ("/gzip", "success"),
        ("/no-length", "success"),
        ("/redirect/3/photo/photo_00000.jpg", "success"),
        ("/redirect/3/photo/photo_00000.jpg?code=308", "success"),
        ("/typed/photo_00000.jpg?type=text/html", "success"),
        ("/html", "success"),
        ("/status/404", "http_404"),
        ("/status/410", "http_410"),
        ("/status/500", "http_500"),
        ("/status/503", "http_503"),
        ("/status/204", "empty_body"),
        ("/status/304", "http_304"),
        ("/empty", "empty_body"),
        ("/truncated", "truncated"),
        ("/chunked-cut", "truncated"),
        ("/bad-chunk", "protocol"),
        ("/bad-gzip", "protocol"),
        ("/reset", "reset"),
        ("/reset-body", "reset"),
        ("/close", "reset"),
        ("/garbage", "protocol"),
        ("/huge-header?n=2000000", "protocol"),
        ("/redirect-loop", "redirect_loop"),
        ("/redirect/11/photo/photo_00000.jpg", "redirect_loop"),
        ("/redirect-file", "redirect_refused"),
        ("/redirect-to?url=gopher://127.0.0.1/", "redirect_refused"),
        ("/redirect-to?url=http://", "protocol"),
        ("/big?n=3000000", "too_large"),
        ("/big?n=3000000&length=0", "too_large"),
        ("/gzip-bomb?mib=50", "too_large"),
        ("/hang", "timeout_first_byte"),
        ("/hang-headers", "timeout_total"),
        ("/slow-first-byte?s=60", "timeout_total"),
        ("/drip?every=0.2", "timeout_total"),
        ("/robots?tag=noai", "disallowed_by_header"),
        ("/robots?tag=otherbot:%20noai", "success"),
        ("/robots?tag=all&tag=img2dataset-dist:%20noindex", "disallowed_by_header"),
    ],
)
def test_outcome(server: NastyServer, path: str, expected: str) -> None:
    began = time.monotonic()
    (found,) = fetch([server.url(path)], timeout=1.5, max_body_bytes=2_000_000)
    assert code(found) == expected
    assert time.monotonic() - began < 4
    if found.failure is not None:
        assert expected in ROW_ERRORS or expected.startswith("http_")
        assert "127.0.0.1" not in found.failure.message, "messages are counted, so they hold no addresses"


def test_status_and_facts_are_kept(server: NastyServer) -> None:
    good, moved, missing, bad = fetch(
        [
            server.url("/photo/photo_00000.jpg"),
            server.url("/redirect/2/photo/photo_00001.jpg"),
            server.url("/status/404"),
            "ftp://127.0.0.1/x",
        ]
    )
    assert good.facts.http_status == 200
    assert good.facts.content_type == "image/jpeg"
    assert good.facts.bytes == len(good.body or b"")
    assert good.facts.attempts == 1
    assert good.facts.fetch_ms is not None
    assert moved.facts.final_url == server.url("/photo/photo_00001.jpg")
    assert missing.facts.http_status == 404
    assert code(bad) == "bad_url"
    assert bad.facts.attempts == 0


def test_connection_failures(server: NastyServer) -> None:
    refused, silent, unknown = fetch(
        [server.refused(), server.silent().replace("http:", "https:"), "http://no-such-host.invalid/"],
        connect_timeout=1,
    )
    assert code(refused) == "connect"
    assert code(silent) == "timeout_connect"
    assert code(unknown) in ("dns", "timeout_connect")  # a machine without any network may time out


def test_idle_timeout(server: NastyServer) -> None:
    (found,) = fetch([server.url("/drip?every=0.1")], timeout=30, min_bytes_per_second=1000, min_speed_window=1)
    assert code(found) == "timeout_idle"


def test_a_mixed_list_is_accounted_for_exactly(server: NastyServer) -> None:
    """A thousand rows, bad ones among them; the hanging ones cost one deadline together, not one each."""
    kinds = {
        "/photo/photo_00000.jpg": "success",
        "/status/404": "http_404",
        "/reset": "reset",
        "/truncated": "truncated",
        "/redirect-loop": "redirect_loop",
        "/garbage": "protocol",
    }
    urls: list[str | None] = [server.url(f"{path}?mixed={n}") for n in range(160) for path in kinds]
    hanging = [server.url(f"/hang?mixed={n}") for n in range(40)]
    began = time.monotonic()
    found = fetch([*urls, *hanging], timeout=2, thread_count=64)
    assert time.monotonic() - began < 20
    assert [code(f) for f in found] == [*kinds.values()] * 160 + ["timeout_first_byte"] * 40


def test_only_transient_failures_are_tried_again(server: NastyServer) -> None:
    healed, still, final = fetch(
        [
            server.url("/flaky/fetch-heals?fail=2"),
            server.url("/status/503?tries=1"),
            server.url("/status/404?tries=1"),
        ],
        retries=2,
    )
    assert (code(healed), healed.facts.attempts) == ("success", 3)
    assert (code(still), still.facts.attempts) == ("http_503", 3)
    assert (code(final), final.facts.attempts) == ("http_404", 1)
    assert server.count("/status/503?tries=1") == 3
    assert server.count("/status/404?tries=1") == 1


def test_waiting_rows_hold_no_slot(server: NastyServer) -> None:
    """With one slot, a row that waits for its retry lets all others pass."""
    waits = server.url("/flaky/fetch-waits?fail=1")
    order = []
    fetcher = CurlFetcher(
        FetchConfig(thread_count=1, retries=1, retry_backoff=1.0, allow_private_addresses=True), rand=lambda: 0.0
    )
    for fetched in fetcher.fetch(items([waits, *(server.url(f"/photo/photo_00000.jpg?w={n}") for n in range(20))])):
        order.append(fetched.item.index)
    fetcher.close()
    assert order == [*range(1, 21), 0]


def test_retry_after_is_obeyed_up_to_the_cap(server: NastyServer) -> None:
    began = time.monotonic()
    fetch([server.url("/status/503?retry_after=1&ra=1")], retries=1)
    assert time.monotonic() - began >= 1.0
    began = time.monotonic()
    fetch([server.url("/status/503?retry_after=600&ra=2")], retries=1, retry_max_wait=0.2)
    assert time.monotonic() - began < 5


def test_we_say_who_we_are(server: NastyServer) -> None:
    (found,) = fetch([server.url("/echo-headers")], user_agent_token="mytoken")
    headers = {name.lower(): value for name, value in json.loads(found.body or b"[]")}
    assert headers["user-agent"] == f"img2dataset-dist/{VERSION} (+{PROJECT_URL}) mytoken"
    assert user_agent(None) == f"img2dataset-dist/{VERSION} (+{PROJECT_URL})"


def test_no_proxy_from_the_environment(server: NastyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.refused())
    (found,) = fetch([server.url("/photo/photo_00000.jpg")])
    assert code(found) == "success"


def test_connections_are_kept_alive(server: NastyServer) -> None:
    before = sum(server.connections().values())
    fetch([server.url(f"/photo/photo_00000.jpg?ka={n}") for n in range(200)], thread_count=8)
    assert sum(server.connections().values()) - before <= 8


def test_tls(https_server: NastyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = https_server.url("/photo/photo_00000.jpg")
    assert code(fetch([url])[0]) == "tls"
    assert code(fetch([url], ignore_ssl_certificate=True)[0]) == "success"
    monkeypatch.setenv("SSL_CERT_FILE", str(https_server.ca))
    assert code(fetch([url])[0]) == "success"


def test_a_list_that_is_slow_does_not_stall_transfers(server: NastyServer) -> None:
    """None in the list means: nothing yet."""

    def slow() -> Iterator[Item | None]:
        for index, item in enumerate(items([server.url(f"/photo/photo_00000.jpg?slow={n}") for n in range(5)])):
            yield item
            for _ in range(3 * (index < 4)):
                yield None

    fetcher = CurlFetcher(FetchConfig(allow_private_addresses=True))
    assert len(list(fetcher.fetch(slow()))) == 5
    fetcher.close()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        (["noai"], True),
        (["NoAI"], True),
        (["noindex, nofollow"], True),
        (["nofollow, noimageai"], True),
        (["all"], False),
        (["mytoken: noai"], True),
        (["MyToken : noai"], True),
        (["googlebot: noai"], False),
        (["googlebot: noai", "noindex"], True),
        (["googlebot: noindex, otherbot: noai"], False),
        (["googlebot: nofollow, mytoken: noai"], True),
        (["*: noai"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], True),
        (["max-snippet: 10, googlebot: noindex"], False),
        (["", ",", ":", "::", "noai:"], False),
    ],
)
def test_x_robots_tag(headers: list[str], expected: bool) -> None:
    assert is_disallowed(headers, {"mytoken"}, {"noai", "noimageai", "noindex", "noimageindex"}) is expected


def test_x_robots_tag_can_be_turned_off(server: NastyServer) -> None:
    (found,) = fetch([server.url("/robots?tag=noai&off=1")], disallowed_header_directives=[])
    assert code(found) == "success"


def test_backoff_doubles_with_jitter_and_a_cap() -> None:
    policy = RetryPolicy(retries=4, backoff=1, max_wait=5)
    assert [policy.wait(n, None, lambda: 0.5) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, None]
    assert policy.wait(1, None, lambda: 0.0) == 0.5
    assert policy.wait(1, 3.0, lambda: 0.5) == 3
    assert policy.wait(1, 3000.0, lambda: 0.5) == 5


def test_waiting_gives_the_soonest_first_and_not_early() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add(2.0, "b")
    waiting.add(1.0, "a")
    assert waiting.next_due() == 1.0
    assert waiting.pop_due(0.5) is None
    assert [waiting.pop_due(3.0), waiting.pop_due(3.0), waiting.pop_due(3.0)] == ["a", "b", None]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("9" * 400, 999999999),
    ],
)
def test_retry_after_header(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, lambda: datetime(2026, 11, 21, 10, 0, 0, tzinfo=timezone.utc)) == seconds
