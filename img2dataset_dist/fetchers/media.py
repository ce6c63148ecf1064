"""Videos, sounds and any other media: which way a row's bytes come, decided by what its URL answers.

::

    rows ──▶ a site that yt-dlp knows? ──▶ sites (yt-dlp) ────────────────────────────▶ file
               └▶ clips of an mp4? ──▶ byte ranges ──▶ curl ──▶ is it a page or a playlist? ──▶ file
               └────────────────────────────────────▶ curl ──┘   └──▶ sites (yt-dlp)

A file is an mp4 or a page by its bytes, whatever its URL or its server calls it. A wall before a page leads on as
well: its site is left alone for a while, and yt-dlp tells later whether it still stands. So does a locked page where
`yt_args` may have a key.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from img2dataset_dist import kinds
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import SiteBlocked
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.model import Fetched, FetchFacts, Item

if TYPE_CHECKING:
    from img2dataset_dist.fetchers.clip_ranges import RangePlanner
    from img2dataset_dist.fetchers.ytdlp import SiteFetcher

LEADS_ON = frozenset({"html", "m3u8", "mpd"})
"""Kinds that are no media themselves, but may say where some are."""

LOCKED = frozenset({"http_401", "http_403"})
"""Failures of pages that cookies, a login, headers or a proxy of `yt_args` may open."""

MOST_AT_SITES = 1000
"""Rows that may wait for sites before no more are read from the list."""

_END = object()


class MediaFetcher:
    """See `Fetcher`. Every body is a file."""

    def __init__(self, config: FetchConfig, context: FetchContext) -> None:
        assert context.job is not None
        assert context.spool is not None
        media = context.job.media
        self._spool = context.spool
        self._budget = context.budget or Budget(size=2**62, rows=2**62)
        from_sites = media.media in ("video", "audio")
        self._curl = CurlFetcher(config, context, walls=from_sites)
        self._ranges: RangePlanner | None = None
        self._sites: SiteFetcher | None = None
        if from_sites:
            from img2dataset_dist.fetchers.clip_ranges import RangePlanner  # noqa: PLC0415 (only they need it)
            from img2dataset_dist.fetchers.ytdlp import SiteFetcher  # noqa: PLC0415

            self._ranges = RangePlanner(context.job, spool=context.spool)
            self._sites = SiteFetcher(context.job, context, wake=self._curl.wake, slots=self._curl.slots)
        self._requests: deque[Item] = deque()
        self._in_parts: dict[tuple[int, int], Item] = {}
        self._at_curl = 0  # each of them may lead on to a site
        self._from_sites: set[tuple[int, int]] = set()

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """See `Fetcher.fetch`."""
        for fetched in self._curl.fetch(self._feed(items)):
            done = self._came(fetched)
            if done is not None:
                yield done

    def stop(self) -> None:
        """See `Fetcher.stop`."""
        self._curl.stop()

    def close(self) -> None:
        """See `Fetcher.close`."""
        if self._sites is not None:
            self._sites.close()
        self._curl.close()

    @property
    def alive(self) -> float:
        """See `Fetcher.alive`."""
        return self._curl.alive

    def profiles(self) -> list[HostProfile]:
        """See `Fetcher.profiles`."""
        return self._curl.profiles()

    def _feed(self, items: Iterator[Item | None]) -> Iterator[Item | None]:
        """What curl is to fetch: rows, and requests for more of rows that are under way."""
        more = True
        while True:
            self._collect()
            if self._requests:
                self._at_curl += 1
                yield self._requests.popleft()
                continue
            busy = self._sites.busy if self._sites is not None else 0
            if not more and not (busy or self._in_parts or self._at_curl):
                return
            item = next(items, _END) if more and busy < MOST_AT_SITES else None
            if item is _END:
                more = False
            elif item is None:
                yield None
            else:
                assert isinstance(item, Item)
                yield from self._route(item)

    def _route(self, item: Item) -> Iterator[Item]:
        """Send a row on its way."""
        if item.failure is None and item.url and self._sites is not None and self._sites.takes(item.url):
            self._sites.submit(item)
        elif self._ranges is not None and self._ranges.wants(item):
            self._in_parts[item.shard_id, item.index] = item
            self._requests.extend(self._ranges.begin(item))
        else:
            self._at_curl += 1
            yield item

    def _collect(self) -> None:
        """Rows that came from sites."""
        for fetched in self._sites.collect() if self._sites is not None else ():
            if fetched.file is not None:
                self._budget.take(fetched.file.size, force=True)
            self._from_sites.add((fetched.item.shard_id, fetched.item.index))
            self._curl.put(fetched)

    def _came(self, fetched: Fetched) -> Fetched | None:
        """A request is over: the row's outcome, or None while there is more to do."""
        row = fetched.item.shard_id, fetched.item.index
        if row in self._from_sites:
            self._from_sites.remove(row)
            return fetched
        self._at_curl -= 1
        if row in self._in_parts and self._ranges is not None:
            if fetched.file is not None:  # parts are not counted, or rows might wait for each other's room for ever
                self._budget.give(fetched.file.size)
            step = self._ranges.came(fetched)
            self._requests.extend(step.requests)
            if step.done is None:
                return None
            fetched = replace(step.done, item=self._in_parts.pop(row))
            if fetched.file is not None:
                self._budget.take(fetched.file.size, force=True)
        return self._led_on(fetched)

    def _led_on(self, fetched: Fetched) -> Fetched | None:
        """The outcome of a row, or None when it goes on to a site."""
        file, failure = fetched.file, fetched.failure
        if self._sites is None:
            return fetched
        if file is not None:
            if kind_of(file.path) not in LEADS_ON:
                return fetched
            self._budget.give(file.size)
            self._spool.remove(os.path.dirname(file.path))
        elif failure is None or not (failure.code == SiteBlocked.code or self._opens(failure.code, fetched.facts)):
            return fetched
        spent = (fetched.facts.fetch_ms or 0) / 1000
        self._sites.submit(fetched.item, spent=spent, wall=failure is not None and failure.code == SiteBlocked.code)
        return None

    def _opens(self, code: str, facts: FetchFacts) -> bool:
        """Whether yt-dlp may be let in by a page that keeps us out."""
        assert self._sites is not None
        return code in LOCKED and "html" in (facts.content_type or "").lower() and self._sites.has_credentials


def kind_of(path: str) -> str:
    """What a file is, by its first bytes; see `kinds.sniff`."""
    with open(path, "rb") as file:
        return kinds.sniff(file.read(kinds.HEAD_BYTES))
