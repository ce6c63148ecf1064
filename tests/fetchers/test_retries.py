"""Trying again: what is transient, when it is due, by whose word, and without a slot in between."""

from __future__ import annotations

import contextlib
import itertools
import time
from datetime import datetime, timezone
from urllib.parse import quote

import pytest
from support.fetching import SUCCESS, code, fetch, items, timed
from support.server import NastyServer

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting, parse_retry_after

PHOTO = "photo_00001.jpg"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *((f"/status/{status}", f"http_{status}") for status in (408, 425, 500, 502, 503, 504)),
        ("/truncated", "truncated"),
        ("/chunked-cut", "truncated"),
        ("/reset-body", "reset"),
        ("/hang", "timeout_first_byte"),
        ("/redirect/2/status/503", "http_503"),
    ],
)
def test_what_is_transient_is_tried_again(server: NastyServer, path: str, expected: str) -> None:
    (found,) = fetch([server.url(path)], retries=1, timeout=0.5 if "timeout" in expected else 10)
    assert (code(found), found.facts.attempts) == (expected, 2)


@pytest.mark.parametrize(
    "path",
    ["/status/404", "/status/403", "/status/501", "/206", "/garbage", "/bad-gzip", "/bad-chunk", "/redirect-loop", "/empty",
     "/redirect-file", "/robots?tag=noai", "/big?n=3000000"],
)  # fmt: skip
def test_what_is_final_is_not_tried_again(server: NastyServer, path: str) -> None:
    target = f"{path}{'&' if '?' in path else '?'}final=1"
    (found,) = fetch([server.url(target)], retries=3, max_body_bytes=2_000_000)
    assert code(found) != SUCCESS
    assert found.facts.attempts == 1
    assert server.count(target) == 1


def test_tries_are_counted_and_the_last_one_tells(server: NastyServer) -> None:
    targets = ["/flaky/retry-heals?fail=2", "/flaky/retry-stays?fail=3", "/status/404?tries=1"]
    healed, stays, final = fetch([server.url(target) for target in targets], retries=2)
    assert (code(healed), healed.facts.attempts, healed.facts.http_status) == (SUCCESS, 3, 200)
    assert (code(stays), stays.facts.attempts, stays.facts.http_status) == ("http_503", 3, 503)
    assert (code(final), final.facts.attempts) == ("http_404", 1)
    assert [server.count(target) for target in targets] == [3, 3, 1]


def test_a_name_that_is_not_found_and_a_port_that_refuses_are_tried_again(server: NastyServer) -> None:
    (found,) = fetch([server.refused()], retries=2)
    assert (code(found), found.facts.attempts) == ("connect", 3)


def test_each_try_has_the_whole_time(server: NastyServer) -> None:
    """A try is a fetch like the first: with all its redirects and its full `timeout`."""
    (found,), seconds = timed([server.url(f"/redirect-slow/9/{PHOTO}?s=0.25&try=1")], timeout=0.6, retries=1)
    assert found == "timeout_total"
    assert 1.2 <= seconds < 4
    assert server.count("/redirect-slow/9/photo_00001.jpg?s=0.25&try=1") == 2


def test_waiting_rows_hold_no_slot(server: NastyServer) -> None:
    """With one slot, a row that waits for its retry lets all others pass."""
    urls = [server.url("/flaky/retry-waits?fail=1"), *(server.url(f"/photo/{PHOTO}?w={n}") for n in range(15))]
    config = FetchConfig(thread_count=1, retries=1, retry_backoff=2.4, allow_private_addresses=True)
    with contextlib.closing(CurlFetcher(config, rand=lambda: 0.0)) as running:
        order = [fetched.item.index for fetched in running.fetch(items(urls))]
    assert order == [*range(1, 16), 0]


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(server: NastyServer) -> None:
    for path in ("/status/503?retry_after=1&obeyed=1", "/retry-date?s=1&obeyed=1"):
        (found,), seconds = timed([server.url(path)], retries=1)
        assert found == "http_503"
        assert 1.0 <= seconds < 5
        first, second = (entry["time"] for entry in server.log() if entry["target"] == path)
        assert second - first >= 0.95


@pytest.mark.parametrize("value", ["600", "999999999999", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_retry_after_is_capped(server: NastyServer, value: str) -> None:
    url = server.url(f"/status/503?retry_after={quote(value)}&capped=1")
    assert timed([url], retries=1, retry_max_wait=0.3)[1] < 5


@pytest.mark.parametrize("value", ["-5", "soon", "", "1e9", "Thu, 01 Jan 1970 00:00:00 GMT", "\u00b2"])
def test_a_bad_retry_after_is_as_none(server: NastyServer, value: str) -> None:
    url = server.url(f"/status/503?retry_after={quote(value)}&bad=1")
    (found,), seconds = timed([url], retries=1)
    assert found == "http_503"
    assert seconds < 3


def test_a_hundred_rows_with_retries_come_back_each_once(server: NastyServer) -> None:
    urls = [server.url(f"/flaky/retry-many-{n}?fail={n % 3}&status=500") for n in range(100)]
    found = fetch(urls, retries=2, thread_count=16)
    assert {code(one) for one in found} == {SUCCESS}
    assert [one.facts.attempts for one in found] == [n % 3 + 1 for n in range(100)]


def test_stop_ends_what_waits(server: NastyServer) -> None:
    config = FetchConfig(retries=1, retry_backoff=600, retry_max_wait=600, allow_private_addresses=True)
    began = time.monotonic()
    with contextlib.closing(CurlFetcher(config)) as running:
        urls = [server.url("/status/503?stop=1"), server.url("/latency?ms=300&stop=1")]
        for fetched in running.fetch(items(urls)):
            assert fetched.item.index == 1
            running.stop()
    assert time.monotonic() - began < 5


def test_backoff_doubles_with_jitter_and_a_cap() -> None:
    policy = RetryPolicy(retries=4, backoff=1, max_wait=5)
    assert [policy.wait(n, None, lambda: 0.5) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, None]
    assert policy.wait(1, None, lambda: 0.0) == 0.5
    assert policy.wait(1, None, lambda: 1.0) == 1.5
    assert policy.wait(1, 3.0, lambda: 0.5) == 3
    assert policy.wait(1, 3000.0, lambda: 0.5) == 5
    assert RetryPolicy(retries=0, backoff=1, max_wait=5).wait(1, None, lambda: 0.5) is None


def test_rows_that_failed_together_do_not_come_back_together() -> None:
    policy = RetryPolicy(retries=1, backoff=1, max_wait=60)
    numbers = itertools.cycle([0.1, 0.9, 0.3, 0.7])
    assert len({policy.wait(1, None, lambda: next(numbers)) for _ in range(8)}) == 4


def test_waiting_gives_the_soonest_first_and_not_early() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add(2.0, "b")
    waiting.add(1.0, "a")
    assert (len(waiting), waiting.next_due()) == (2, 1.0)
    assert waiting.pop_due(0.5) is None
    assert [waiting.pop_due(3.0), waiting.pop_due(3.0), waiting.pop_due(3.0)] == ["a", "b", None]
    assert (len(waiting), waiting.next_due()) == (0, None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30),
        ("Saturday, 21-Nov-26 10:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0),
        ("Sat, 21 Nov 2026 10:00:30", 30),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("\u00b2", None),
        ("Sat, 99 Nov 99999 10:00:30 GMT", None),
        ("9" * 400, 999999999),
    ],
)
def test_retry_after_header(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, lambda: datetime(2026, 11, 21, 10, 0, 0, tzinfo=timezone.utc)) == seconds
