"""Pages, playlists and sites: whatever yt-dlp finds a video or sound in.

::

    submit ──▶ sites (whose turn is it?) ──▶ site_processes threads ──▶ a process each that runs yt-dlp
                  ▲                                  │                   (ytdlp_child.py, under ytdlp_guard.py)
                  └── waiting: retries, pauses ◀─────┴──▶ collect

A URL is extracted once: the answer of the extractor gives the formats, of which one is chosen and fetched, the sound
where it is kept apart, the subtitles and the metadata. A process that is over the deadline or the size cap is ended,
with all that it has started, and the next row gets another one.
"""

from __future__ import annotations

import collections
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from img2dataset_dist import urls
from img2dataset_dist.config import FetchConfig, MediaConfig
from img2dataset_dist.errors import (
    ROW_ERRORS,
    BadUrl,
    DiskFull,
    EmptyBody,
    EngineError,
    IgnoredHost,
    RowError,
    SiteBlocked,
    SiteError,
    TooLarge,
    TotalTimeout,
)
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.fetchers.outcome import http_failure
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting
from img2dataset_dist.fetchers.sites import PATIENCE, Sites, Word
from img2dataset_dist.fetchers.ytdlp_claims import Claims
from img2dataset_dist.fetchers.ytdlp_options import Settings, check_yt_args, check_yt_metadata_args
from img2dataset_dist.fetchers.ytdlp_process import DYING, Overdue, Overfull, SiteProcess
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item, MediaFile
from img2dataset_dist.spool import Spool

__all__ = ["SiteFetcher", "check_yt_args", "check_yt_metadata_args"]

ROWS_PER_PROCESS = 500
"""After so many a process is replaced: what extractors leave behind in memory goes with it."""

TRIES = 2
"""Processes that a row may end before it is blamed."""

_UNREACHED = frozenset({
    "dns", "connect", "tls", "timeout_total", "timeout_idle", "reset", "blocked_address", "ignored_host", "disk_full",
    "internal_error",
})  # fmt: skip
"""What says nothing of whether a site still blocks us."""


class Options(Protocol):
    """What of a job's options is needed; `JobConfig` has it."""

    @property
    def fetch(self) -> FetchConfig: ...

    @property
    def media(self) -> MediaConfig: ...


@dataclass(slots=True, eq=False)
class _Row:
    """One row on its way. Times on the monotonic clock."""

    item: Item
    url: urls.Url
    site: str
    attempts: int = 0
    began: float = 0.0
    blocked: Failure | None = None
    blocks: int = 0
    facts: FetchFacts = field(default_factory=FetchFacts)


class SiteFetcher:
    """See the module. Its methods may be called from any thread.

    Args:
        config: the options.
        spool: makes the folders of the rows.
        table: rules by host; headers, proxies and who is ignored hold for each request of an extraction.
        wake: called from our threads when there is something to collect.
        notify: takes lines for people.
        workers: how many of us there are that share nothing; each takes its part of what a host may be asked.

    Raises:
        ConfigError: `yt_args` or `yt_metadata_args` hold something that cannot be.
    """

    def __init__(
        self,
        config: Options,
        *,
        spool: Spool,
        table: HostTable,
        wake: Callable[[], None],
        notify: Callable[[str], None],
        workers: int = 1,
    ) -> None:
        check_yt_args(config.media.yt_args)
        check_yt_metadata_args(config.media.yt_metadata_args)
        self._config = config
        self._spool = spool
        self._table = table
        self._wake = wake
        self._notify = notify
        self._workers = workers
        fetch = config.fetch
        self._policy = RetryPolicy(retries=fetch.retries, backoff=fetch.retry_backoff, max_wait=fetch.retry_max_wait)
        self._claims = Claims((config.media.yt_args or {}).get("plugin_dirs") or ())
        self._change = threading.Condition()
        self._sites: Sites[_Row] = Sites(config.media.site_pause, self._limit)
        self._waiting: Waiting[_Row] = Waiting()
        self._done: collections.deque[Fetched] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._busy = 0
        self._broken: EngineError | None = None
        self._stopping = threading.Event()

    def claims(self, url: str) -> bool:
        """Whether yt-dlp has an extractor of its own for the URL. Asks nobody.

        Raises:
            EngineError: yt-dlp cannot be imported.
        """
        return self._claims.site(url) is not None

    @property
    def busy(self) -> int:
        """Rows that were submitted and not collected yet. While files wait for that, no more are fetched."""
        return self._busy

    def submit(self, item: Item) -> None:
        """Take a row; its outcome comes by `collect`."""
        with self._change:
            self._busy += 1
        try:
            url = urls.parse(item.url)
        except BadUrl as error:
            self._finish(Fetched(item=item, failure=Failure.of(error)))
            return
        if self._table.rule(url.host).ignore:
            self._finish(Fetched(item=item, failure=_IGNORED))
            return
        row = _Row(item=item, url=url, site=self._claims.site(url.url) or url.host)
        with self._change:
            self._park(row)
            if not self._idle and len(self._threads) < self._config.media.site_processes:
                thread = threading.Thread(target=self._work, name="site", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._change.notify()

    def collect(self) -> list[Fetched]:
        """Rows that are done; does not wait.

        Raises:
            EngineError: no process that runs yt-dlp can be started. No row is to blame.
        """
        if self._broken is not None:
            raise self._broken
        with self._change:
            found = list(self._done)
            self._done.clear()
            self._busy -= len(found)
            self._change.notify_all()
        return found

    def close(self) -> None:
        """End all processes, whatever they do; rows that are not done are given up."""
        with self._change:
            self._stopping.set()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self._claims.close()

    def _limit(self, row: _Row) -> int:
        """How many rows of the row's site may be under way here."""
        common = self._config.fetch.max_connections_per_host
        own = self._table.rule(row.url.host).connections
        return max(1, min(common if own is None else own, common) // self._workers)

    def _park(self, row: _Row) -> None:
        """Let a row wait for its turn, unless its site is given up."""
        if self._sites.refuses(row.site, time.monotonic()):
            self._finish(
                self._failed(row, row.blocked or Failure.of(SiteBlocked("the site has blocked us; not asked")))
            )
        else:
            self._sites.park(row.site, row)

    def _work(self) -> None:
        """One thread, with a process of its own."""
        process: SiteProcess | None = None
        home = self._spool.folder()
        rows = 0
        try:
            while (row := self._next()) is not None:
                if process is None or rows >= ROWS_PER_PROCESS:
                    if process is not None:
                        process.end()
                    process, rows = self._start(home), 0
                rows += 1
                process = self._try(process, home, row)
        except EngineError as error:
            self._broken = error
            self._wake()
        finally:
            if process is not None:
                process.end()
            self._spool.remove(home)

    def _start(self, home: str) -> SiteProcess:
        share = 1 / (self._workers * self._config.media.site_processes)
        settings = Settings.of(self._config.fetch, self._config.media, table=self._table, home=home, share=share)
        return SiteProcess(settings, self._stopping)

    def _next(self) -> _Row | None:
        """The row that may start next, when there is one; None when all is over."""
        with self._change:
            while not self._stopping.is_set():
                now = time.monotonic()
                while (due := self._waiting.pop_due(now)) is not None:
                    self._park(due)
                taken = None if self._is_full() else self._sites.take(now)
                if taken is not None:
                    row = taken[1]
                    row.began = now
                    return row
                times = [when for when in (self._waiting.next_due(), self._sites.next_start(now)) if when is not None]
                self._idle += 1
                self._change.wait(max(0.0, min(times) - now) if times else None)
                self._idle -= 1
        return None

    def _is_full(self) -> bool:
        """Whether files lie there that nobody has collected: who collects has no room, so no more are fetched."""
        return sum(one.file is not None for one in self._done) >= self._config.media.site_processes

    def _try(self, process: SiteProcess, home: str, row: _Row) -> SiteProcess | None:
        """One try at a row. Returns the process for the next one, None when it was ended."""
        row.attempts += 1
        answer: dict[str, Any] = {}
        left: SiteProcess | None = process
        error: RowError | None = None
        ends: list[str] = []
        folder = ""
        while error is None and not answer:
            try:
                self._spool.remove(folder)
                folder = self._spool.folder()
            except OSError as problem:
                error = DiskFull(problem.strerror or "disk full")
                break
            try:
                answer = process.ask(row.url.url, folder, self._config.fetch.timeout, any_page=row.site == row.url.host)
            except (Overdue, Overfull) as problem:
                late = isinstance(problem, Overdue)
                error = TotalTimeout("timeout") if late else TooLarge("larger than max_body_bytes")
                process.end()
                left = None
            except (EOFError, OSError, ValueError):
                stopping = self._stopping.is_set()
                ends.append(process.end(0.0 if stopping else DYING))
                if stopping:
                    return None
                left = process = self._start(home)
                if len(ends) >= TRIES:
                    error = SiteError(f"the process that ran yt-dlp {' and then '.join(dict.fromkeys(ends))}")
        self._settle(row, self._outcome(row, folder, answer, error), answer)
        return left

    def _outcome(self, row: _Row, folder: str, answer: dict[str, Any], error: RowError | None) -> Fetched:
        """What a row gets for now; its folder is gone when that is a failure."""
        file: MediaFile | None = None
        failure = None if error is None else Failure.of(error)
        if failure is None and "error" in answer:
            failure = failure_of(answer)
        if failure is None:
            try:
                file = file_of(folder, answer)
            except RowError as problem:
                failure = Failure.of(problem)
        if failure is not None:
            self._spool.remove(folder)
        facts = FetchFacts(
            http_status=_whole(answer.get("status")),
            final_url=answer.get("webpage") or answer.get("url"),
            fetch_ms=round((time.monotonic() - row.began) * 1000),
            attempts=row.attempts,
            bytes=_whole(answer.get("bytes")),
        )
        return Fetched(item=row.item, facts=facts, file=file, failure=failure)

    def _settle(self, row: _Row, outcome: Fetched, answer: dict[str, Any]) -> None:
        """Give a row back, or let it wait for another try."""
        failure = outcome.failure
        code = None if failure is None else failure.code
        word = Word.BLOCKED if code == "site_blocked" else Word.NOTHING if code in _UNREACHED else Word.ANSWERED
        asked_for = float(answer.get("retry_after") or 0.0)
        with self._change:
            now = time.monotonic()
            sure = answer.get("status") == HTTPStatus.TOO_MANY_REQUESTS or asked_for > 0
            given_up = self._sites.done(row.site, word, now, began=row.began, sure=sure, retry_after=asked_for)
            row.facts = outcome.facts
            for other in given_up:
                self._finish(self._failed(other, other.blocked or _GIVEN_UP))
            if word is Word.BLOCKED:
                self._blocked(row, outcome, now)
            else:
                wait = self._policy.wait(row.attempts - row.blocks, asked_for, random.random) if failure else None
                if failure is not None and failure.transient and wait is not None:
                    self._waiting.add(now + wait, row)
                else:
                    self._finish(outcome)
            self._change.notify_all()

    def _blocked(self, row: _Row, outcome: Fetched, now: float) -> None:
        """The row waits with the others of its site, and has lost no try by it; `PATIENCE` times."""
        row.blocks += 1
        row.blocked = outcome.failure
        if row.blocks > PATIENCE or self._sites.refuses(row.site, now):
            self._finish(outcome)
            return
        self._sites.park(row.site, row)
        pause = self._sites.paused(row.site, now)
        if pause:
            self._notify(f"{row.site} has blocked us; it is left alone for {pause:.0f} s")

    def _failed(self, row: _Row, failure: Failure) -> Fetched:
        return Fetched(item=row.item, facts=row.facts, failure=failure)

    def _finish(self, outcome: Fetched) -> None:
        with self._change:
            self._done.append(outcome)
        self._wake()


_IGNORED = Failure.of(IgnoredHost("the host is on the ignore list"))
_GIVEN_UP = Failure.of(SiteBlocked("the site has blocked us for long; it was not asked"))


def failure_of(answer: dict[str, Any]) -> Failure:
    """The failure that a process tells."""
    code, status = str(answer["error"]), _whole(answer.get("status"))
    if code == "http" and status is not None:
        return http_failure(status)
    kind = ROW_ERRORS.get(code, SiteError)
    return Failure(
        code=kind.code,
        message=str(answer.get("message") or kind.summary)[:500],
        status=RowError.status,
        transient=kind.transient,
    )


def file_of(folder: str, answer: dict[str, Any]) -> MediaFile:
    """The files that a process says it has made; only those that are in the folder count.

    Raises:
        EmptyBody: there is nothing in the file.
        SiteError: there is no file.
    """
    path = _inside(folder, answer.get("path"))
    if path is None:
        raise SiteError("nothing was fetched")
    size = os.stat(path).st_size
    sound = _inside(folder, answer.get("sound"))
    if not size:
        raise EmptyBody("empty body")
    found = {str(language): _inside(folder, name) for language, name in dict(answer.get("subtitles") or {}).items()}
    subtitles = {language: name for language, name in found.items() if name is not None}
    return MediaFile(
        path=path,
        size=size,
        sound=sound,
        subtitles=subtitles,
        automatic=frozenset(map(str, answer.get("automatic") or ())) & frozenset(subtitles),
        page=answer.get("page"),
    )


def _inside(folder: str, name: object) -> str | None:
    """Full path of a plain file of the folder, by its name."""
    if not isinstance(name, str) or not name or os.path.basename(name) != name:
        return None
    path = os.path.join(folder, name)
    try:
        return path if stat.S_ISREG(os.lstat(path).st_mode) else None
    except OSError:
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
