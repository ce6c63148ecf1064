"""The live bar in a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Event, Notice, Progress, Receipt, ShardFailure, Stats, merge_counts
from img2dataset_dist.reports import JobStart

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines."""

WINDOW = 10.0
"""Seconds over which the current rate is taken."""


HINTS = {
    "blocked_address": "these hosts are not of the open Internet; --allow_private_addresses if you trust the list",
    "host_down": "these hosts stopped answering and were left alone; another run of their rows may find them back",
    "http_429": "too many requests for these hosts; --retries=3 waits for them, docs/politeness.md has more",
    "disallowed_by_robots": "what robots.txt forbids is in the column robots_txt",
}
"""What to do about a failure that many rows share."""

HINT_SHARE = 0.05


class ConsoleReport:
    """See `Report`. Writes to standard error, so that standard output stays free for results."""

    def __init__(
        self, config: JobConfig, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        mode = config.report.progress
        self._mode = mode if mode != "auto" else ("bar" if self._console.is_terminal else "plain")
        self._retries = config.engine.max_shard_retry
        self._live: Live | None = None
        self._rows_total: int | None = None
        self._seen = Stats()
        self._shards = 0
        self._began = self._last_line = clock()
        self._history: list[tuple[float, int, int]] = []
        self._output = ""
        self._done_earlier = 0

    def start(self, start: JobStart) -> None:
        """See `Report.start`."""
        self._output = start.output
        self._done_earlier = start.done
        self._began = self._last_line = self._clock()
        if self._mode == "none":
            return
        self._say(f"Writing to {start.output}")
        if start.done:
            self._say(f"{start.done} shard(s) are done already")
        for note in start.notes:
            self._say(f"Note: {note}")
        if self._mode == "bar":
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render, transient=True)
            self._live.start()

    def total(self, rows: int) -> None:
        """See `Report.total`."""
        self._rows_total = rows

    def event(self, event: Event) -> None:
        """See `Report.event`."""
        now = self._clock()
        if isinstance(event, Progress):
            self._seen += event.stats
            self._history.append((now, self._seen.count, self._seen.bytes_downloaded))
            while len(self._history) > 2 and self._history[0][0] < now - WINDOW:  # noqa: PLR2004
                self._history.pop(0)
        elif isinstance(event, Receipt):
            self._shards += 1
        elif isinstance(event, Notice):
            self._say(event.text)
        elif isinstance(event, ShardFailure):
            self._say(f"Shard {event.shard_id} failed: {event.error}")
            if event.trace and self._mode != "none":
                self._console.print(event.trace.rstrip(), style="dim", markup=False)
        if self._mode == "plain" and now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            self._say(self._line())

    def finish(self, stats: Stats, failed: Mapping[int, str]) -> None:
        """See `Report.finish`."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._mode != "none":
            self._console.print(self._table(stats, failed))
            for code, hint in HINTS.items():
                if stats.codes.get(code, 0) >= HINT_SHARE * max(1, stats.count):
                    self._say(f"{code}: {hint}")
            sys.stderr.flush()

    def _say(self, text: str) -> None:
        if self._mode != "none":
            self._console.print(text, markup=False, soft_wrap=True)

    def _rates(self) -> tuple[float, float]:
        """Rows and bytes per second over the last seconds."""
        if len(self._history) < 2:  # noqa: PLR2004
            return 0.0, 0.0
        (t0, rows0, bytes0), (t1, rows1, bytes1) = self._history[0], self._history[-1]
        seconds = max(t1 - t0, 1e-6)
        return (rows1 - rows0) / seconds, (bytes1 - bytes0) / seconds

    def _eta(self) -> str:
        if self._rows_total is None or not self._seen.count:
            return "-"
        average = self._seen.count / max(self._clock() - self._began, 1e-6)
        return duration(max(0, self._rows_total - self._seen.count) / average)

    def _line(self) -> str:
        rows, size = self._rates()
        total = f"/{self._rows_total:,}" if self._rows_total is not None else ""
        return (
            f"{self._seen.count:,}{total} rows  {self._shards} shards  {rows:,.0f} rows/s  "
            f"{_percent(self._seen.successes, self._seen.count)} ok  {size / 1e6:,.1f} MB/s  ETA {self._eta()}"
            + (f"  failures: {_causes(self._seen)}" if self._seen.codes else "")
        )

    def _render(self) -> Group:
        done = self._seen.count
        bar = ProgressBar(total=self._rows_total, completed=min(done, self._rows_total or done), width=40)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(bar, Text(self._line().partition("  failures:")[0]))
        causes = _causes(self._seen, 5)
        return Group(grid, Text(f"failures: {causes}" if causes else "", style="yellow"))

    def _table(self, stats: Stats, failed: Mapping[int, str]) -> Table:
        table = Table(title="img2dataset-dist", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(justify="right")
        table.add_row("rows", f"{stats.count:,}", "")
        table.add_row("success", f"{stats.successes:,}", _percent(stats.successes, stats.count))
        for code, count in sorted(stats.codes.items(), key=lambda pair: -pair[1]):
            table.add_row(f"  {code}", f"{count:,}", _percent(count, stats.count), style="yellow")
        seconds = max(self._clock() - self._began, 1e-6)
        table.add_section()
        table.add_row("shards", f"{self._shards:,}", "")
        if self._done_earlier:
            table.add_row("shards done earlier", f"{self._done_earlier:,}", "")
        if failed:
            table.add_row("shards failed", f"{len(failed):,}", "", style="red")
        table.add_row("downloaded", f"{stats.bytes_downloaded / 1e6:,.1f} MB", "")
        if stats.samples != stats.successes:
            table.add_row("samples", f"{stats.samples:,}", "")
        table.add_row("stored", f"{stats.bytes_stored / 1e6:,.1f} MB", "")
        table.add_row("time", duration(seconds), f"{stats.count / seconds:,.0f} rows/s")
        return table


def duration(seconds: float) -> str:
    """`1:02:03`, or `4.5 s` below a minute."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _causes(stats: Stats, top: int = 3) -> str:
    largest = sorted(merge_counts(stats.codes, {}).items(), key=lambda pair: -pair[1])[:top]
    return ", ".join(f"{code} {_percent(count, stats.count)}" for code, count in largest)
