"""Pages, playlists and sites: whatever yt-dlp finds a video or sound in.

::

    submit ──▶ sites (whose turn is it?) ──▶ site_processes threads ──▶ a process each that runs yt-dlp
                  ▲                                  │                   (ytdlp_child.py, under ytdlp_guard.py)
                  └── waiting: retries, pauses, ◀────┴──▶ collect
                               our own network

A URL is extracted once: the answer of the extractor gives the formats, of which one is chosen and fetched, the sound
where it is kept apart, the subtitles and the metadata. A process that is over the deadline or the size cap is ended,
with all that it has started, and the next row gets another one.
"""

from __future__ import annotations

import collections
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from img2dataset_dist import urls
from img2dataset_dist.config import FetchConfig, MediaConfig
from img2dataset_dist.errors import BadUrl, IgnoredHost, RowError, SiteBlocked
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.curl import ANSWERS, SILENCES
from img2dataset_dist.fetchers.health import Health
from img2dataset_dist.fetchers.link import Link
from img2dataset_dist.fetchers.outcome import WALL
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting
from img2dataset_dist.fetchers.sites import PATIENCE, Sites, Word
from img2dataset_dist.fetchers.slots import PER_HOST, FileSlots
from img2dataset_dist.fetchers.ytdlp_answers import failure_of, file_of, whole
from img2dataset_dist.fetchers.ytdlp_claims import Claims
from img2dataset_dist.fetchers.ytdlp_desk import Desk, Said
from img2dataset_dist.fetchers.ytdlp_options import Settings, check_yt_args, check_yt_metadata_args
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item, MediaFile

__all__ = ["SiteFetcher", "check_yt_args", "check_yt_metadata_args"]

CREDENTIALS = frozenset({
    "ap_mso", "ap_password", "ap_username", "cookiefile", "http_headers", "password", "proxy", "referer",
    "source_address", "user_agent", "username", "videopassword",
})  # fmt: skip
"""Of `yt_args`: what makes a site answer differently from how it answers us."""

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
    """One row on its way.

    Attributes:
        item, url: the row.
        site: the extractor's, or the host.
        attempts: tries that have begun; `blocks` is how many of them ended in a block.
        began: when the present try did, on the monotonic clock.
        spent: seconds of the first try's time that were gone when the row came here.
        blocked: the last block; `failure` and `facts` are of the last try.
    """

    item: Item
    url: urls.Url
    site: str
    attempts: int = 0
    began: float = 0.0
    spent: float = 0.0
    blocked: Failure | None = None
    blocks: int = 0
    failure: Failure | None = None
    facts: FetchFacts = field(default_factory=FetchFacts)


class SiteFetcher:
    """See the module. Its methods may be called from any thread.

    Args:
        config: the options.
        context: where the folders of rows are, the rules by host, which hold for each request of an extraction, and
            how many of us there are.
        wake: called from our threads when there is something to collect.
        slots: by which the workers of this machine share sites; None when alone.
        link: says whether this machine is connected.

    Raises:
        ConfigError: `yt_args` or `yt_metadata_args` hold something that cannot be.
    """

    def __init__(
        self,
        config: Options,
        context: FetchContext,
        *,
        wake: Callable[[], None],
        slots: FileSlots | None = None,
        link: Link | None = None,
    ) -> None:
        assert context.spool is not None
        check_yt_args(config.media.yt_args)
        check_yt_metadata_args(config.media.yt_metadata_args)
        self._config = config
        self._spool = context.spool
        self._table = context.table
        self._wake = wake
        self._notify = context.notify
        self._workers = context.workers * max(1, context.neighbours)
        self._sharing = self._workers if slots is None else context.workers
        self._link = link or Link()
        fetch = config.fetch
        self._health: Health[_Row] = Health(patience=fetch.network_patience, notify=context.notify)
        self._policy = RetryPolicy(retries=fetch.retries, backoff=fetch.retry_backoff, max_wait=fetch.retry_max_wait)
        self._claims = Claims((config.media.yt_args or {}).get("plugin_dirs") or ())
        self._change = threading.Condition()
        self._sites: Sites[_Row] = Sites(config.media.site_pause, self._limit, slots)
        self._waiting: Waiting[_Row] = Waiting()
        self._done: collections.deque[Fetched] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._busy = 0
        self._broken: Exception | None = None
        self._stopping = threading.Event()

    def claims(self, url: str) -> bool:
        """Whether yt-dlp has an extractor of its own for the URL. Asks nobody.

        Raises:
            EngineError: yt-dlp cannot be imported.
        """
        return self._claims.site(url) is not None

    def takes(self, url: str) -> bool:
        """Whether a row is ours from the beginning: of an extractor, or of a host that is left alone just now.

        Raises:
            EngineError: yt-dlp cannot be imported.
        """
        if self.claims(url):
            return True
        try:
            host = urls.parse(url).host
        except BadUrl:
            return False
        with self._change:
            return self._sites.rests(host)

    @property
    def has_credentials(self) -> bool:
        """Whether yt-dlp may be let in where we are not."""
        return any(value for name, value in (self._config.media.yt_args or {}).items() if name in CREDENTIALS)

    @property
    def busy(self) -> int:
        """Rows that were submitted and not collected yet. While files wait for that, no more are fetched."""
        return self._busy

    def submit(self, item: Item, *, spent: float = 0.0, wall: bool = False) -> None:
        """Take a row; its outcome comes by `collect`.

        Args:
            item: the row.
            spent: seconds of its `timeout` that are gone.
            wall: its site has just blocked us. So the site is left alone for a while.
        """
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
        row = _Row(item=item, url=url, site=self._claims.site(url.url) or url.host, spent=spent)
        with self._change:
            if wall:
                row.attempts = row.blocks = 1
                row.blocked = Failure.of(SiteBlocked(WALL))
            self._park(row)
            if wall and self._sites.leave_alone(row.site, time.monotonic()):
                self._say_paused(row.site)
            if not self._idle and len(self._threads) < self._config.media.site_processes:
                thread = threading.Thread(target=self._work, name="site", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._change.notify()

    def collect(self) -> list[Fetched]:
        """Rows that are done; does not wait.

        Raises:
            EngineError: no process that runs yt-dlp can be started. No row is to blame.
            NetworkDownError: the network of this machine has been down for `network_patience`.
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
        """How many rows of the row's site may be under way here, or on this machine where slots are shared."""
        common = self._config.fetch.max_connections_per_host
        own = self._table.rule(row.url.host).connections
        return min(PER_HOST, max(1, min(common if own is None else own, common) // self._sharing))

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
        desk = Desk(self._settings, self._spool, self._stopping)
        try:
            while (row := self._next()) is not None:
                row.attempts += 1
                seconds = self._config.fetch.timeout - _gone(row)
                said = desk.ask(row.url.url, seconds, any_page=row.site == row.url.host)
                if said is None:
                    return
                self._settle(row, self._outcome(row, said), said.answer)
        except Exception as error:  # noqa: BLE001 (`collect` raises it: rows of a thread that is gone would never come)
            self._broken = error
            self._wake()
        finally:
            desk.close()

    def _settings(self, home: str) -> Settings:
        share = 1 / (self._workers * self._config.media.site_processes)
        return Settings.of(self._config.fetch, self._config.media, table=self._table, home=home, share=share)

    def _next(self) -> _Row | None:
        """The row that may start next, when there is one; None when all is over."""
        with self._change:
            while not self._stopping.is_set():
                now = time.monotonic()
                while (due := self._waiting.pop_due(now)) is not None:
                    self._park(due)
                for other in self._health.convicted(now, idle=self._busy == len(self._done) + len(self._health)):
                    self._conclude(other)
                full = self._is_full()
                row = None if full else self._take(now)
                if row is not None:
                    row.began = now
                    return row
                dates = [self._waiting.next_due(), self._sites.next_start(now)]
                dates += [] if full else [self._health.next_look()]
                times = [when for when in dates if when is not None]
                self._idle += 1
                self._change.wait(max(0.0, min(times) - now) if times else None)
                self._idle -= 1
        return None

    def _take(self, now: float) -> _Row | None:
        """The row whose turn it is; while the network is down, now and then one that is tried.

        Raises:
            NetworkDownError: it has been down for too long.
        """
        if self._health.down:
            if not self._health.probe(now):
                return None
            held = self._health.one_held()
            if held is not None:
                self._again(held)
        taken = self._sites.take(now)
        return None if taken is None else taken[1]

    def _again(self, row: _Row) -> None:
        """What failed by our own network is tried anew, as if nothing had happened."""
        row.attempts -= 1
        self._park(row)

    def _is_full(self) -> bool:
        """Whether files lie there that nobody has collected: who collects has no room, so no more are fetched."""
        return sum(one.file is not None for one in self._done) >= self._config.media.site_processes

    def _outcome(self, row: _Row, said: Said) -> Fetched:
        """What a row gets for now; its folder is gone when that is a failure."""
        file: MediaFile | None = None
        answer = said.answer
        failure = None if said.error is None else Failure.of(said.error)
        if failure is None and "error" in answer:
            failure = failure_of(answer)
        if failure is None:
            try:
                file = file_of(said.folder, answer)
            except RowError as problem:
                failure = Failure.of(problem)
        if failure is not None:
            self._spool.remove(said.folder)
        facts = FetchFacts(
            http_status=whole(answer.get("status")),
            final_url=answer.get("webpage") or answer.get("url"),
            fetch_ms=round((_gone(row) + time.monotonic() - row.began) * 1000),
            attempts=row.attempts,
            bytes=whole(answer.get("bytes")),
        )
        return Fetched(item=row.item, facts=facts, file=file, failure=failure)

    def _settle(self, row: _Row, outcome: Fetched, answer: Mapping[str, Any]) -> None:
        """Give a row back, or let it wait for another try."""
        failure = outcome.failure
        code = None if failure is None else failure.code
        word = Word.BLOCKED if code == "site_blocked" else Word.NOTHING if code in _UNREACHED else Word.ANSWERED
        asked_for = float(answer.get("retry_after") or 0.0)
        with self._change:
            now = time.monotonic()
            sure = answer.get("status") == HTTPStatus.TOO_MANY_REQUESTS or asked_for > 0
            given_up = self._sites.done(row.site, word, now, began=row.began, sure=sure, retry_after=asked_for)
            row.facts, row.failure = outcome.facts, failure
            for other in given_up:
                self._finish(self._failed(other, other.blocked or _GIVEN_UP))
            if self._is_held(row, answer, now):
                pass
            elif word is Word.BLOCKED:
                self._blocked(row, outcome, now)
            elif failure is None:
                self._finish(outcome)
            else:
                self._conclude(row, asked_for)
            self._change.notify_all()

    def _is_held(self, row: _Row, answer: Mapping[str, Any], now: float) -> bool:
        """Whether a row failed by our own network and waits for it; any other end says that the network is there."""
        code = None if row.failure is None else row.failure.code
        cut = code in SILENCES and self._link.cut
        if cut or answer.get("ours") is True:
            self._health.hold(row, row.url.host, now, resolver=code == "dns" and not cut, certain=cut)
            return True
        if code is None or code in ANSWERS or answer.get("status"):
            for other in self._health.answered(row.url.host, now, resolved=not _is_address(row.url.host)):
                self._again(other)
        return False

    def _conclude(self, row: _Row, asked_for: float = 0.0) -> None:
        """A try has failed: another one later, in `asked_for` seconds at least, or the failure."""
        assert row.failure is not None
        wait = self._policy.wait(row.attempts - row.blocks, asked_for, random.random) if row.failure.transient else None
        if wait is None:
            self._finish(self._failed(row, row.failure))
        else:
            self._waiting.add(time.monotonic() + wait, row)

    def _blocked(self, row: _Row, outcome: Fetched, now: float) -> None:
        """The row waits with the others of its site, and has lost no try by it; `PATIENCE` times."""
        row.blocks += 1
        row.blocked = outcome.failure
        if row.blocks > PATIENCE or self._sites.refuses(row.site, now):
            self._finish(outcome)
            return
        self._sites.park(row.site, row)
        self._say_paused(row.site)

    def _say_paused(self, site: str) -> None:
        pause = self._sites.paused(site, time.monotonic())
        if pause:
            self._notify(f"{site} has blocked us; it is left alone for {pause:.0f} s")

    def _failed(self, row: _Row, failure: Failure) -> Fetched:
        return Fetched(item=row.item, facts=row.facts, failure=failure)

    def _finish(self, outcome: Fetched) -> None:
        with self._change:
            self._done.append(outcome)
        self._wake()


def _gone(row: _Row) -> float:
    """Seconds of the time for the present try that are gone when it begins."""
    return row.spent if row.attempts == 1 else 0.0


def _is_address(host: str) -> bool:
    """Whether no resolver is asked for a host."""
    return ":" in host or host.replace(".", "").isdigit()


_IGNORED = Failure.of(IgnoredHost("the host is on the ignore list"))
_GIVEN_UP = Failure.of(SiteBlocked("the site has blocked us for long; it was not asked"))
