"""`SiteFetcher` as a function, and what it left behind.

with site_fetcher(tmp_path, timeout=5) as fetcher:
    fetched = fetch(fetcher, [url, ...])       outcomes in the order of the URLs; rows are conserved
    code(fetched[0])
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from img2dataset_dist.config import FetchConfig, MediaConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.fetchers.link import Link
from img2dataset_dist.fetchers.slots import FileSlots
from img2dataset_dist.fetchers.ytdlp import SiteFetcher
from img2dataset_dist.model import Fetched, Item
from img2dataset_dist.spool import Spool

EMPTY = HostTable(rules={}, ignored=frozenset())


def item(url: str | None, index: int = 0) -> Item:
    """A row of a list."""
    return Item(shard_id=0, index=index, key=f"{index:04d}", url=url)


class Running:
    """A fetcher, its spool, and what it has told."""

    def __init__(
        self, folder: Path, table: HostTable, *, context: dict[str, Any] | None = None, link: Link | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        known = {name: options.pop(name) for name in list(options) if name in FetchConfig.model_fields}
        fetch = {"timeout": 20, "retry_backoff": 0.01, "allow_private_addresses": True} | known
        media = {"media": "video", "site_processes": 1, "site_pause": 0.05} | options
        config = SimpleNamespace(fetch=FetchConfig(**fetch), media=MediaConfig(**media))
        self.notices: list[str] = []
        self.wakes = 0
        self.spool = Spool(str(folder))
        context = FetchContext(spool=self.spool, table=table, notify=self.notices.append, **context or {})
        slots = FileSlots(context.slots) if context.slots else None
        self.fetcher = SiteFetcher(config, context, wake=self._woken, slots=slots, link=link)

    def _woken(self) -> None:
        self.wakes += 1

    def submit(self, urls: Sequence[str | None]) -> None:
        for index, url in enumerate(urls):
            self.fetcher.submit(item(url, index))

    def gather(self, count: int, seconds: float = 60.0) -> list[Fetched]:
        """The next outcomes, by their index."""
        found: list[Fetched] = []
        until = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < until, f"{count - len(found)} of {count} rows are missing"
            found += self.fetcher.collect()
            time.sleep(0.005)
        for one in found:
            assert (one.file is None) != (one.failure is None)
        return sorted(found, key=lambda one: one.item.index)

    def fetch(self, urls: Sequence[str | None]) -> list[Fetched]:
        """Outcomes in the order of `urls`."""
        self.submit(urls)
        found = self.gather(len(urls))
        assert [one.item.index for one in found] == list(range(len(urls))), "rows are conserved"
        assert self.fetcher.busy == 0
        return found

    def one(self, url: str) -> Fetched:
        return self.fetch([url])[0]

    def code(self, url: str) -> str:
        return code(self.one(url))

    def folders(self) -> set[str]:
        """Folders of rows that are there; the processes have one each, too."""
        return set(os.listdir(self.spool.root))


@contextlib.contextmanager
def site_fetcher(folder: Path, table: HostTable = EMPTY, **options: Any) -> Iterator[Running]:
    """A fetcher that may reach this machine. After it, no process and no file of it is left."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    running = Running(folder, table, **options)
    try:
        yield running
    finally:
        began = time.monotonic()
        running.fetcher.close()
        assert time.monotonic() - began < 5
        running.spool.close()
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert not left, left
    assert not os.path.exists(running.spool.root)


def site_processes() -> list[psutil.Process]:
    """Processes below us that run yt-dlp."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any("ytdlp_child" in word for word in process.cmdline())
    ]


def code(fetched: Fetched) -> str:
    return fetched.failure.code if fetched.failure else "success"
