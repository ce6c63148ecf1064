"""Deadlines: each ends what it is for, with a code of its own, and nothing that a server does stops the clock."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
from support.dns import BadDns
from support.fetching import SUCCESS, Raw, code, dripping, fetch, fetcher, full_backlog, items, timed
from support.server import NastyServer

SLACK = 2.0
"""Seconds that anything may take longer on a busy machine."""

PHOTO = "photo_00001.jpg"
IDLE = {"min_bytes_per_second": 1000, "min_speed_window": 0.5}


def test_connect_timeout_ends_a_handshake_of_tcp() -> None:
    with full_backlog() as url:
        if url is None:
            pytest.skip("this system drops no SYN")
        (found,), seconds = timed([url], timeout=30, connect_timeout=0.5)
    assert found == "timeout_connect"
    assert 0.5 <= seconds < 0.5 + SLACK


@pytest.mark.parametrize("options", [{"timeout": 30, "connect_timeout": 0.5}, {"timeout": 0.5}])
def test_connect_timeout_ends_a_handshake_of_tls(https_server: NastyServer, options: dict[str, Any]) -> None:
    (found,), seconds = timed([https_server.silent()], **options)
    assert found == "timeout_connect"
    assert 0.5 <= seconds < 0.5 + SLACK


@pytest.mark.parametrize("name", ["silent", "trunc", "delay-20000"])
def test_connect_timeout_ends_a_resolver_that_does_not_answer(server: NastyServer, name: str) -> None:
    with BadDns() as bad:
        url = f"http://{name}.test:{server.port}/photo/{PHOTO}"
        (found,), seconds = timed([url], timeout=30, connect_timeout=0.5, dns_servers=(bad.server,))
    assert found == "dns"
    assert seconds < 0.5 + SLACK


def test_slow_names_hold_up_no_other(server: NastyServer) -> None:
    with BadDns({"fine.test": ["127.0.0.1"]}) as bad:
        slow = [f"http://silent-{n}.test:{server.port}/photo/{PHOTO}" for n in range(8)]
        fine = [f"http://fine.test:{server.port}/photo/{PHOTO}?deadline={n}" for n in range(20)]
        found = fetch([*slow, *fine], timeout=30, connect_timeout=1, thread_count=64, dns_servers=(bad.server,))
    assert [code(one) for one in found] == ["dns"] * 8 + [SUCCESS] * 20
    assert max(one.facts.fetch_ms or 0 for one in found[8:]) < 1000


def test_time_of_earlier_requests_counts(server: NastyServer) -> None:
    """Those of the same row, as when a video comes in parts; a retry begins with as much as the first try."""
    row = replace(next(items([server.silent()])), spent=3.5)
    began = time.monotonic()
    with contextlib.closing(fetcher(timeout=4, retries=1)) as running:
        (found,) = running.fetch(iter([row]))
    assert code(found) in ("timeout_first_byte", "timeout_total")
    assert found.facts.attempts == 2
    assert 1.0 <= time.monotonic() - began < 1.0 + SLACK


def test_time_for_the_name_counts(server: NastyServer) -> None:
    """A name may take as long as a connection, and what it takes is in the row."""
    with BadDns() as bad:
        url = f"http://delay-700.test:{server.port}/photo/{PHOTO}"
        (late,) = fetch([url], connect_timeout=0.4, dns_servers=(bad.server,))
        (fine,) = fetch([url], timeout=10, dns_servers=(bad.server,))
    assert code(late) == "dns"
    assert code(fine) == SUCCESS
    assert (fine.facts.dns_ms or 0) >= 690
    assert (fine.facts.fetch_ms or 0) >= (fine.facts.dns_ms or 0)


def test_first_byte_timeout(server: NastyServer) -> None:
    """It says nothing about a body that comes later than that."""
    urls = [server.url(path) for path in ("/hang", "/first-byte?s=30", "/latency?ms=100", "/slow-first-byte?s=0.8")]
    found, seconds = timed(urls, timeout=30, first_byte_timeout=0.5)
    assert found == ["timeout_first_byte", "timeout_first_byte", SUCCESS, SUCCESS]
    assert 0.8 <= seconds < 0.8 + SLACK


@pytest.mark.parametrize(
    "path",
    [
        "/drip?every=0.1",
        "/drip-headers?every=0.1",
        "/hang-headers",
        "/slow-first-byte?s=60",
        "/endless-chunks?every=0.1",
    ],
)
def test_idle_timeout(server: NastyServer, path: str) -> None:
    (found,), seconds = timed([server.url(path)], timeout=30, **IDLE)
    assert found == "timeout_idle"
    assert 0.5 <= seconds < 0.5 + SLACK


def test_idle_timeout_lets_pass_what_is_slow_but_fast_enough_and_can_be_turned_off(server: NastyServer) -> None:
    url = server.url("/drip?every=0.02&n=40")
    assert timed([url], min_bytes_per_second=10, min_speed_window=0.3)[0] == [SUCCESS]
    assert timed([server.url("/slow-first-byte?s=0.8")], min_bytes_per_second=0, min_speed_window=0.2)[0] == [SUCCESS]


def test_timeout_is_over_the_whole_of_a_chain(server: NastyServer) -> None:
    """Each hop is quick, for the first byte as well; all of them together are not."""
    url = server.url(f"/redirect-slow/30/{PHOTO}?s=0.3")
    (found,), seconds = timed([url], timeout=1.2, first_byte_timeout=0.8, max_redirects=50)
    assert found == "timeout_total"
    assert 1.2 <= seconds < 1.2 + SLACK


def test_a_chain_of_answers_that_drip_is_no_way_around(server: NastyServer) -> None:
    """A redirect whose body drips is followed when it has become idle, and ends with the whole."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 100000\r\nLocation: /next/%d\r\n\r\n"
    hops: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        hops.append(b"")
        dripping(head % len(hops))(connection)

    with Raw(talk) as url:
        (found,), seconds = timed([url], timeout=1.5, **IDLE)
        assert found == "timeout_total"
        assert 1.5 <= seconds < 1.5 + SLACK
        assert 2 <= len(hops) <= 4
        hops.clear()
        (found,), seconds = timed([url], timeout=0.5)
        assert (found, len(hops)) == ("timeout_total", 1)
        assert seconds < 0.5 + SLACK


@pytest.mark.parametrize(
    ("status", "expected", "dripping_one"),
    [("404 Not Found", "http_404", "http_404"), ("503 Busy", "http_503", "http_503"), ("302 Found", "http_302", "")],
)
@pytest.mark.parametrize("options", [{"timeout": 0.6}, {"timeout": 30, **IDLE}])
def test_an_error_page_is_its_status_whatever_its_body_does(
    status: str, expected: str, dripping_one: str, options: dict[str, Any]
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n"
    with Raw(dripping(f"{head}Content-Length: 1000000\r\n\r\n".encode())) as url:
        (found,), seconds = timed([url], **options)
    assert found == (dripping_one or ("timeout_total" if options["timeout"] < 1 else "timeout_idle"))
    assert seconds < 0.6 + SLACK
    with Raw(lambda connection: connection.sendall(f"{head}\r\n".encode() + bytes(2**20))) as url:
        (endless,), _ = timed([url])
        assert endless == expected


def test_the_deadlines_stand_still_for_nobody_else(server: NastyServer) -> None:
    """Rows that hang do not hold up the clocks of others, nor the ends of those that are done."""
    began = time.monotonic()
    urls = [server.url(f"/hang?clock={n}") for n in range(50)] + [server.url("/latency?ms=300")]
    found, seconds = timed(urls, timeout=1, thread_count=51)
    assert found == ["timeout_first_byte"] * 50 + [SUCCESS]
    assert 1 <= seconds <= time.monotonic() - began < 1 + SLACK


def test_connection_failures(server: NastyServer) -> None:
    refused, unknown = fetch([server.refused(), "http://no-such-host.invalid/"], connect_timeout=1)
    assert code(refused) == "connect"
    assert code(unknown) in ("dns", "timeout_connect")  # a machine without any network may time out
