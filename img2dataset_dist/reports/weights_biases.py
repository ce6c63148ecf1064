"""Weights & Biases: the metrics that the peer logs, under the same names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import wandb

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Event, Receipt, Stats
from img2dataset_dist.redaction import redacted
from img2dataset_dist.reports import JobStart

TABLE_SECONDS = 60.0
TABLE_ROWS = 100


class WandbReport:
    """See `Report`. `worker/...` is one shard, `total/...` all so far, `status` the most frequent messages."""

    def __init__(self, config: JobConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = Stats()
        self._table_at = float("-inf")
        self._run: Any = wandb.init(project=config.report.wandb_project, config=redacted(config.flat()))

    def start(self, start: JobStart) -> None:
        """See `Report.start`."""
        self._run.config.update({"output": start.output, "shards_done_earlier": start.done})

    def total(self, rows: int) -> None:
        """See `Report.total`."""
        self._run.config.update({"rows": rows}, allow_val_change=True)

    def event(self, event: Event) -> None:
        """See `Report.event`."""
        if not isinstance(event, Receipt):
            return
        self._total += event.stats
        self._run.log(_metrics("worker", event.stats))
        self._run.log(_metrics("total", self._total))
        if self._clock() - self._table_at >= TABLE_SECONDS:
            self._log_table()

    def finish(self, stats: Stats, failed: Mapping[int, str]) -> None:
        """See `Report.finish`."""
        if stats.count:
            self._log_table()
        self._run.summary["shards_failed"] = len(failed)
        self._run.finish(exit_code=1 if failed else 0)

    def _log_table(self) -> None:
        self._table_at = self._clock()
        messages = sorted(self._total.messages.items(), key=lambda pair: -pair[1])[:TABLE_ROWS]
        count = self._total.count
        table = wandb.Table(
            columns=["status", "frequency", "count"], data=[[name, n / count, n] for name, n in messages]
        )
        self._run.log({"status": table})


def _metrics(prefix: str, stats: Stats) -> dict[str, float]:
    seconds = max(stats.end_time - stats.start_time, 1e-9)
    return {
        f"{prefix}/img_per_sec": stats.count / seconds,
        f"{prefix}/success": stats.successes / stats.count,
        f"{prefix}/failed_to_download": stats.failed_to_download / stats.count,
        f"{prefix}/failed_to_resize": stats.failed_to_resize / stats.count,
        f"{prefix}/failed_to_subsample": stats.failed_to_subsample / stats.count,
        f"{prefix}/count": stats.count,
    }
