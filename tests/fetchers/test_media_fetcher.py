"""Which way rows of videos go: walls before pages, pages that are locked, and what is left of a row's time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.site_fetching import code, item
from support.sites import SiteServer, page

from img2dataset_dist.config import JobConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.media import MediaFetcher
from img2dataset_dist.model import Fetched
from img2dataset_dist.spool import Spool

CHALLENGE = {"cf-mitigated": "challenge"}
FILLER = "<p>words</p>" * 1000


@pytest.fixture
def server() -> Iterator[SiteServer]:
    with SiteServer() as running:
        yield running


class Run:
    """The outcomes of a list, and what was told."""

    def __init__(self, folder: Path, urls: list[str], **options: object) -> None:
        self.notes: list[str] = []
        plain = {"media": "video", "allow_private_addresses": True, "site_processes": 1, "retry_backoff": 0.01}
        job = JobConfig.from_flat(
            {"url_list": "x.csv", "input_format": "csv", "timeout": 20, "thread_count": 1, **plain, **options}
        )
        spool = Spool(str(folder / "spool"))
        context = FetchContext(spool=spool, job=job, notify=self.notes.append)
        began = time.monotonic()
        with contextlib.closing(MediaFetcher(job.fetch, context)) as fetcher:
            self.found: list[Fetched] = list(fetcher.fetch(item(url, n) for n, url in enumerate(urls)))
        self.seconds = time.monotonic() - began
        spool.close()
        self.found.sort(key=lambda one: one.item.index)
        assert [one.item.index for one in self.found] == list(range(len(urls))), "rows are conserved"

    @property
    def codes(self) -> list[str]:
        return [code(one) for one in self.found]

    def paused(self) -> int:
        return sum("left alone" in note for note in self.notes)


def test_a_wall_is_no_dead_page(tmp_path: Path, server: SiteServer) -> None:
    """The site is left alone for a while, and then it is asked again; the row has lost no try by it."""
    walls = [(403, CHALLENGE, page(FILLER)), (503, {}, page(FILLER).replace("A page", "Just a moment..."))]
    for number, wall in enumerate(walls):
        first = [wall]
        server.walls["/page/video"] = lambda _, first=first: first.pop() if first else None
        run = Run(tmp_path / str(number), [server.url("/page/video")], site_pause=1)
        assert run.codes == ["success"]
        assert run.found[0].facts.attempts == 2
        assert run.paused() == 1
        assert run.seconds > 1


def test_behind_a_wall_that_stays_rows_fail_as_blocked(tmp_path: Path, server: SiteServer) -> None:
    server.walls["/page/video"] = lambda _: (403, CHALLENGE, page(FILLER))
    run = Run(tmp_path, [server.url("/page/video")] * 12, site_pause=0.5)
    assert set(run.codes) == {"site_blocked"}
    assert all(one.failure and one.failure.transient for one in run.found)
    assert server.total() <= 6, "a site that rests is left alone"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 503])
def test_a_page_that_only_is_not_there_costs_one_request(tmp_path: Path, server: SiteServer, status: int) -> None:
    server.walls["/page/video"] = lambda _: (status, {}, page(FILLER + "<script src='/recaptcha.js'></script>"))
    run = Run(tmp_path, [server.url("/page/video")])
    assert run.codes == [f"http_{status}"]
    assert server.total() == 1
    assert not run.paused()


def test_who_says_when_to_come_back_is_asked_then(tmp_path: Path, server: SiteServer) -> None:
    first = [(429, {"Retry-After": "1"}, page("Please verify you are a human"))]
    server.walls["/page/video"] = lambda _: first.pop() if first else None
    run = Run(tmp_path, [server.url("/page/video")], retries=1, retry_backoff=0.01, site_pause=3600)
    assert run.codes == ["success"]
    assert run.seconds > 1


def test_a_locked_page_is_opened_by_cookies_of_yt_args(tmp_path: Path, server: SiteServer) -> None:
    def locked(headers: dict[str, str]) -> tuple[int, dict[str, str], str] | None:
        return None if "name=value" in headers.get("Cookie", "") else (403, {}, page("Log in first." + FILLER))

    server.walls["/page/video"] = locked
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tvalue\n")
    urls = [server.url("/page/video"), server.url("/media/no.mp4")]
    assert Run(tmp_path / "with", urls, yt_args={"cookiefile": str(cookies)}).codes == ["success", "http_404"]
    assert Run(tmp_path / "without", urls, yt_args={"ratelimit": 10**9}).codes == ["http_403", "http_404"]


def test_the_timeout_is_for_the_page_and_what_it_leads_to(tmp_path: Path, server: SiteServer) -> None:
    slow = [True]

    def slowly(_: dict[str, str]) -> None:
        if slow and slow.pop():
            time.sleep(2)

    server.walls["/page/video"] = slowly
    server.walls["/media/180p.mp4"] = lambda _: time.sleep(1.5)
    url = server.url("/page/video")
    run = Run(tmp_path / "slow", [url], timeout=3)
    assert run.codes == ["timeout_total"]
    assert run.found[0].facts.fetch_ms is not None
    assert run.found[0].facts.fetch_ms > 2900
    slow.clear()
    assert Run(tmp_path / "again", [url], timeout=3).codes == ["success"]
