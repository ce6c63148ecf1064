"""Where a thread does its rows: one process at a time that runs yt-dlp, replaced when it has done enough or dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from img2dataset_dist.errors import DiskFull, EngineError, RowError, SiteError, TooLarge, TotalTimeout
from img2dataset_dist.fetchers.ytdlp_options import Settings
from img2dataset_dist.fetchers.ytdlp_process import DYING, Overdue, Overfull, SiteProcess
from img2dataset_dist.spool import Spool

ROWS_PER_PROCESS = 500
"""After so many a process is replaced: what extractors leave behind in memory goes with it."""

TRIES = 2
"""Processes that a row may end before it is blamed."""

FORK_SECONDS = 60.0
"""For the system to let a process begin; it may have none to spare, or no memory, for a moment."""

FORK_PAUSE = 1.0
"""Seconds until it is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a try at a row ended.

    Attributes:
        folder: of the row, with its files; "" when there is none.
        answer: of the process; empty when there is none.
        error: why not.
    """

    folder: str
    answer: Mapping[str, Any]
    error: RowError | None = None


class Desk:
    """See the module. For one thread, with which its process ends.

    Args:
        settings: of a process, by the folder that is its own.
        spool: makes that and the folders of rows.
        stopping: set when nobody waits for rows any more.
    """

    def __init__(self, settings: Callable[[str], Settings], spool: Spool, stopping: threading.Event) -> None:
        self._settings = settings
        self._spool = spool
        self._stopping = stopping
        self._process: SiteProcess | None = None
        self._home = ""
        self._rows = 0

    def ask(self, url: str, seconds: float, *, any_page: bool) -> Said | None:
        """Have a URL fetched; see `SiteProcess.ask`. None when nobody waits for it any more.

        Raises:
            EngineError: no process can be started.
        """
        ends: list[str] = []
        folder = ""
        while True:
            try:
                self._spool.remove(folder)
                folder = self._spool.folder()
                process = self._ready()
            except OSError as problem:
                return Said(folder=folder, answer={}, error=DiskFull(f"tmp_dir: {problem.strerror or 'no room'}"))
            self._rows += 1
            try:
                return Said(folder=folder, answer=process.ask(url, folder, seconds, any_page=any_page))
            except Overdue:
                self._end()
                return Said(folder=folder, answer={}, error=TotalTimeout("timeout"))
            except Overfull:
                self._end()
                return Said(folder=folder, answer={}, error=TooLarge("larger than max_body_bytes"))
            except (EOFError, OSError, ValueError):
                stopping = self._stopping.is_set()
                ends.append(self._end(0.0 if stopping else DYING))
                if stopping:
                    return None
                if len(ends) >= TRIES:
                    blame = f"the process that ran yt-dlp {' and then '.join(dict.fromkeys(ends))}"
                    return Said(folder=folder, answer={}, error=SiteError(blame))

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end()
        if self._home:
            self._spool.remove(self._home)

    def _ready(self) -> SiteProcess:
        """The process; a new one where there is none, or where it has done enough.

        Raises:
            OSError: no room for its folder.
        """
        if self._rows >= ROWS_PER_PROCESS:
            self._end()
        if self._process is None:
            self._home = self._home or self._spool.folder()
            self._process, self._rows = self._start(self._settings(self._home)), 0
        return self._process

    def _start(self, settings: Settings) -> SiteProcess:
        until = time.monotonic() + FORK_SECONDS
        while True:
            try:
                return SiteProcess(settings, self._stopping)
            except OSError as error:
                if time.monotonic() > until or self._stopping.wait(FORK_PAUSE):
                    raise EngineError(f"no process that runs yt-dlp can be started: {error.strerror}") from error

    def _end(self, patience: float = 0.0) -> str:
        """End the process and say how it ended; see there."""
        process, self._process = self._process, None
        return "" if process is None else process.end(patience)
