"""The spine: plan -> engine -> receipts -> totals."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from img2dataset_dist import registry, spool, stages, storage
from img2dataset_dist.commit import SPOOL, output_folder
from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines import Engine
from img2dataset_dist.errors import ConfigError, InputError, ShardsFailed
from img2dataset_dist.fetchers import profiles
from img2dataset_dist.fetchers.host_table import HostTable, load_host_table
from img2dataset_dist.model import Receipt, Shard, ShardFailure, Stats
from img2dataset_dist.plan import Plan, make_plan
from img2dataset_dist.reports import JobStart, Report
from img2dataset_dist.resume import Standing, enter, leave
from img2dataset_dist.shard import ShardJob
from img2dataset_dist.storage import Folder
from img2dataset_dist.walk import sliced

COUNTED_BYTES = 256 * 2**20
"""Text lists up to this size are walked a second time to know their rows; of longer ones the rows are estimated."""

ESTIMATED_SHARDS = 8
"""Shards from which it is estimated."""


def run_job(config: JobConfig) -> Stats:
    """Do a whole job.

    Returns:
        Totals over the shards that this run completed.

    Raises:
        ConfigError: an option or an input is wrong; nothing was written.
        ShardsFailed: some shards stayed failed; all others are complete.
        InputError: the list could not be read to its end; shards before that point are complete.
        NetworkDownError: our own network was down for `network_patience`.
        KeyboardInterrupt: stopped; the same call goes on where this one ended.
    """
    engine: Engine = registry.lookup("engine", config.engine.distributor)(config)
    registry.lookup("writer", config.output.output_format)
    hosts = load_host_table(config.fetch)
    reports = [registry.lookup("report", name) for name in _report_names(config)]
    _refuse_memory(config)
    _check_media(config)
    plan = make_plan(config.input)
    _refuse_empty(plan)
    output, standing = _enter(plan, config)
    plan = replace(plan, first_shard=standing.first_shard)
    run = _Run(config=config, plan=plan, output=output, standing=standing, engine=engine, hosts=hosts)
    run.reports = [report(config) for report in reports]
    return run.go()


def _report_names(config: JobConfig) -> list[str]:
    return ["console", *(["wandb"] if config.report.enable_wandb else [])]


def _check_media(config: JobConfig) -> None:
    """What only the parts that do it can say; they are imported where they are needed."""
    stages.check(config)
    if config.media.media in {"video", "audio"}:
        from img2dataset_dist.fetchers.ytdlp_options import check_yt_args, check_yt_metadata_args  # noqa: PLC0415
        from img2dataset_dist.transforms.video import VideoTransform  # noqa: PLC0415

        check_yt_args(config.media.yt_args)
        check_yt_metadata_args(config.media.yt_metadata_args)
        VideoTransform(config)


def _refuse_memory(config: JobConfig) -> None:
    """What a worker process writes to its own memory is gone with it."""
    engine = config.engine.distributor
    if (
        config.output.output_folder.startswith("memory://")
        and engine in registry.PLUGINS["engine"]
        and engine != "inline"
    ):
        raise ConfigError(
            "output_folder: memory:// is each process's own, and lost when the workers end; use another place, or "
            "distributor=inline"
        )


def _refuse_empty(plan: Plan) -> None:
    try:
        empty = plan.is_empty()
    except InputError as error:  # so early that nothing was written yet
        raise ConfigError(f"url_list: {error}") from error
    if empty:
        raise ConfigError(f"url_list: {plan.config.url_list} holds no rows")


def _enter(plan: Plan, config: JobConfig) -> tuple[Folder, Standing]:
    try:
        output = output_folder(storage.absolute(config.output.output_folder))
        return output, enter(output, plan, config)
    except ConfigError:
        raise
    except (OSError, ImportError, ValueError) as error:
        raise ConfigError(f"output_folder: cannot write to {config.output.output_folder}: {error}") from error


@dataclass(kw_only=True)
class _Run:
    """State of one job while it runs."""

    config: JobConfig
    plan: Plan
    output: Folder
    standing: Standing
    engine: Engine
    hosts: HostTable
    reports: list[Report] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)
    shards: dict[int, Shard] = field(default_factory=dict)
    failed: dict[int, ShardFailure] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)

    def go(self) -> Stats:
        """Run all shards, then those that failed again, and tidy up whatever happened."""
        job = ShardJob(
            config=self.config,
            input_schema=self.plan.schema,
            fingerprint=self.plan.fingerprint,
            output_url=self.output.url(""),
            hosts=self.hosts,
            rates=self._rates(),
        )
        complete = False
        late: OSError | None = None
        start = JobStart(output=self.output.url(""), done=len(self.standing.done), notes=self.standing.notes)
        try:
            for report in self.reports:
                report.start(start)
            if self.plan.config.schedule == "by_host":
                self._count(self.output.sub(SPOOL))  # sorts the list; then counting costs nothing
            else:
                self._count_in_background()
            self._round(job, self._missing(), overlap=True)
            while again := self._to_retry():
                self._round(job, again, overlap=False)
            complete = not self.failed
        finally:
            self.engine.close()  # first: what its workers staged can be swept when they are gone
            if self.config.media.media != "image":
                spool.sweep(self.config.media.tmp_dir)
            try:
                profiles.merge_pieces(self.output)
                leave(self.output, self.plan, self.standing.first_shard, complete=complete)
            except OSError as error:  # what went wrong before says more
                late = error
            for report in self.reports:
                report.finish(self.stats, {i: failure.error for i, failure in self.failed.items()})
        if self.failed:
            raise ShardsFailed({i: failure.error for i, failure in self.failed.items()}, self.stats)
        if late is not None:
            raise late
        return self.stats

    def _rates(self) -> dict[str, float]:
        """Where to begin with hosts that had to be slowed down before."""
        path = self.config.fetch.host_profiles
        if path is not None:
            known = profiles.read_profiles(path)
        else:
            try:
                known = profiles.read_profiles(self.output.url(profiles.FILE))
            except ConfigError:  # there is none yet
                return {}
        return {host: profile.rate for host, profile in known.items() if profile.rate is not None}

    def _missing(self) -> Iterator[Shard]:
        """The shards without a receipt, found while they are asked for."""
        estimate = _Estimate(self.plan, len(self.standing.done), self._total)
        for shard in self.plan.shards(self.output.sub(SPOOL), self.standing.done):
            estimate.add(shard)
            self.shards[shard.id] = shard
            yield shard
        estimate.finish()

    def _round(self, job: ShardJob, shards: Iterator[Shard], *, overlap: bool) -> None:
        events = self.engine.run(job, shards, overlap=overlap)
        with contextlib.closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Receipt):
                    self._finished(event)
                elif isinstance(event, ShardFailure):
                    self.failed[event.shard_id] = replace(event, error=sys.intern(event.error), trace="")
                    self.tries[event.shard_id] = self.tries.get(event.shard_id, 0) + event.certain
                for report in self.reports:
                    report.event(event)

    def _finished(self, receipt: Receipt) -> None:
        self.stats += receipt.stats
        self.failed.pop(receipt.shard_id, None)
        shard = self.shards.pop(receipt.shard_id, None)
        if shard is not None and shard.temporary:
            slices = self.output.sub(SPOOL)
            slices.remove(slices.name_of(shard.source.path))

    def _to_retry(self) -> Iterator[Shard] | None:
        """Failed shards that may be tried again; an exception or a crash of its own counts as a try."""
        again = [i for i in sorted(self.failed) if self.tries[i] <= self.config.engine.max_shard_retry]
        return iter([self.shards[i] for i in again]) if again else None

    def _count_in_background(self) -> None:
        """Tell the reports how many rows there are, for the ETA. Only where that is known or soon counted."""
        if self.plan.rows is None and ("://" in self.plan.sources[0].path or self.plan.size > COUNTED_BYTES):
            return

        def count() -> None:
            with contextlib.suppress(Exception):  # the job itself meets the same error and tells it
                self._count(None)

        threading.Thread(target=count, name="count", daemon=True).start()

    def _count(self, spool: Folder | None) -> None:
        self._total(sum(shard.rows for shard in self.plan.shards(spool, self.standing.done)))

    def _total(self, rows: int) -> None:
        for report in self.reports:
            report.total(rows)


class _Estimate:
    """How many rows a long text list has: first by the bytes of its first shards, at the end exactly."""

    def __init__(self, plan: Plan, done: int, tell: Callable[[int], None]) -> None:
        self._plan = plan
        self._done = done
        self._tell = tell
        self._shards = self._rows = self._bytes = 0

    def add(self, shard: Shard) -> None:
        """The next shard of the list."""
        self._shards += 1
        self._rows += shard.rows
        begin, end = shard.byte_range or (0, 0)
        self._bytes += end - begin
        if self._shards != ESTIMATED_SHARDS or not self._bytes or sliced(self._plan.config):
            return
        rows = self._rows * self._plan.size / self._bytes - self._done * self._plan.config.number_sample_per_shard
        if self._plan.size > COUNTED_BYTES and rows > 0:
            self._tell(round(int(rows), 1 - math.floor(math.log10(rows))))

    def finish(self) -> None:
        """That was the last one."""
        if self._plan.rows is None:
            self._tell(self._rows)
