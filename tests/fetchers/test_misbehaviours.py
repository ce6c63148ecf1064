"""Every behaviour of the nasty server, over HTTP, TLS and HTTP/2: the right outcome, in time, and never half a body.

The table is tests/support/cases.py. All cases of one transport run at once, each with a fetcher of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.cases import CASES, MAX_BODY, SHORT, TRANSIENT, Case
from support.fetching import SUCCESS, code, fetch
from support.nginx import NginxH2
from support.server import BEHAVIOURS, NastyServer

from img2dataset_dist.errors import ROW_ERRORS
from img2dataset_dist.fetchers import curl, wire
from img2dataset_dist.model import Fetched

TRANSPORTS = ("http", "https", "h2")
AT_ONCE = 12
SLACK = 2.0
"""Seconds that a row may take longer than its deadline, on a busy machine."""

Result = tuple[Fetched, float]


def run(case: Case, url: str) -> Result:
    """The outcome of a row, and the seconds it took."""
    began = time.monotonic()
    options = {"timeout": case.timeout, "max_body_bytes": MAX_BODY, "ignore_ssl_certificate": True, **case.options}
    (found,) = fetch([url], **options)
    return found, time.monotonic() - began


@pytest.fixture(scope="module", params=TRANSPORTS)
def results(
    request: pytest.FixtureRequest, server: NastyServer, https_server: NastyServer, photo_folder: Path
) -> Iterator[tuple[str, dict[Case, Future[Result]]]]:
    """Name of the transport, and what comes of each case."""
    server.clear_robots()
    https_server.clear_robots()
    name = request.param
    with NginxH2(photo_folder, upstream=server) as front, ThreadPoolExecutor(AT_ONCE) as pool:
        bases: dict[str, NastyServer | NginxH2] = {"http": server, "https": https_server, "h2": front}
        late_first = sorted(CASES, key=lambda case: case.timeout)
        yield (
            name,
            {c: pool.submit(run, c, bases[name].url(c.url_path(f"{name}-{n}"))) for n, c in enumerate(late_first)},
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path + "".join(f" {name}" for name in case.options))
def test_misbehaviour(case: Case, results: tuple[str, dict[Case, Future[Result]]], photo_folder: Path) -> None:
    transport, futures = results
    found, seconds = futures[case].result(timeout=60)
    outcomes = case.h2 if transport == "h2" and case.h2 else (case.outcome,)
    assert code(found) in outcomes
    assert seconds <= case.timeout + SLACK
    if outcomes == (case.outcome,):
        assert found.facts.http_status == case.status
    assert found.facts.attempts == 1
    if found.failure is None:
        expected = case.content(photo_folder)
        assert found.body
        assert expected is None or found.body == expected
        assert found.facts.bytes == len(found.body)
        return
    known = ROW_ERRORS["http_status" if found.failure.code.startswith("http_") else found.failure.code]
    assert found.failure.transient == (found.failure.code in TRANSIENT)
    assert found.failure.status == known.status
    assert "127.0.0.1" not in found.failure.message, "messages are counted, so they hold no addresses"


def test_no_behaviour_is_left_out() -> None:
    assert {case.behaviour for case in CASES} - {"no-such-behaviour"} == BEHAVIOURS.keys()
    assert len({case.behaviour for case in CASES if case.account != SUCCESS}) >= 25
    assert len({case.path for case in CASES if case.timeout == SHORT}) >= 10


@pytest.mark.parametrize("case", [case for case in CASES if case.outcome in ROW_ERRORS], ids=lambda case: case.path)
def test_transient_is_what_the_error_tree_says(case: Case) -> None:
    assert ROW_ERRORS[case.outcome].transient == (case.outcome in TRANSIENT)


@pytest.mark.parametrize("to", ["10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost"])
def test_a_redirect_to_a_private_address_is_not_followed(
    server: NastyServer, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    for module in (curl, wire):
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
    target = f"{to}:{server.port}" if to in ("[::1]", "localhost") else to
    (found,) = fetch([server.url(f"/redirect-private?to={target}&private=1")], allow_private_addresses=False, timeout=2)
    # the name of this machine is ::1 and 127.0.0.1, of which the test calls the second one public
    assert code(found) == ("http_404" if to == "localhost" else "blocked_address")
