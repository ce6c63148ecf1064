"""One shard on a worker, from the first sample to its receipt.

`OpenShard` counts what goes in and what comes out, owns the writer and the staging, and has a thread of its own, so
that a slow disk or a long upload stalls neither the fetches nor the next shard.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from img2dataset_dist import registry
from img2dataset_dist.commit import Attempt, read_receipt
from img2dataset_dist.config import JobConfig
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.model import Receipt, Sample, Shard, ShardFailure
from img2dataset_dist.stats import Tally
from img2dataset_dist.storage import Folder
from img2dataset_dist.writers import Writer
from img2dataset_dist.writers.layout import Layout

QUEUE = 512
"""Samples that may wait for a shard's writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """What every worker gets once, and every shard is done with. Picklable; holds no connection.

    Attributes:
        hosts: rules by host.
        rates: requests per second of the whole job to begin with, by host; from an earlier run.
        workers: how many work at the same time and share nothing; set by the engine. They divide what a host may be
            asked.
        slots: a file by which the processes of one machine share hosts; None for a single one.
        neighbours: how many of those there are.
    """

    config: JobConfig
    input_schema: pa.Schema
    fingerprint: str
    output_url: str
    hosts: HostTable = field(default_factory=lambda: HostTable(rules={}, ignored=frozenset()))
    rates: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1
    slots: str | None = None
    neighbours: int = 1

    def shard_name(self, shard_id: int) -> str:
        """The number that a shard's files are named by."""
        return f"{shard_id:0{self.config.input.oom_shard_count}d}"


class OpenShard:
    """A shard in work. `put` may be called from any thread; the outcome goes to `report` exactly once.

    Args:
        job: what to do with it.
        shard: it.
        output: where to.
        report: gets the outcome.
        release: gets every sample that was put, when it was written or will not be.
    """

    def __init__(
        self,
        job: ShardJob,
        shard: Shard,
        output: Folder,
        report: Callable[[Receipt | ShardFailure], None],
        *,
        release: Callable[[Sample], None] = lambda _: None,
    ) -> None:
        self.shard = shard
        self._release = release
        self._drained = threading.Event()
        self._job = job
        self._output = output
        self._report = report
        self._queue: queue.SimpleQueue[Sample | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._busy = True
        self._thread = threading.Thread(target=self._run, name=f"shard-{shard.id}", daemon=True)
        self._thread.start()

    @property
    def dead(self) -> bool:
        """Whether the shard has failed already, so that more work on it is wasted."""
        return self._error is not None

    @property
    def busy(self) -> bool:
        """Whether its writer has something to do, or is committing."""
        return self._busy

    def put(self, sample: Sample) -> None:
        """One finished row. Waits while the writer is far behind, but not for one that is gone."""
        while self._queue.qsize() >= QUEUE and not self.dead:
            time.sleep(0.01)  # rare; a queue with a limit of its own costs every row several times as much
        self._queue.put(sample)
        if self._drained.is_set():
            self._drain()

    def fail(self, error: BaseException) -> None:
        """The shard cannot be finished; its output will be thrown away. Rows already under way may still be put."""
        self._error = self._error or error
        self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait until the outcome was reported, or for so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        name = self._job.shard_name(self.shard.id)
        attempt = Attempt(self._output, self.shard.id, name)
        outcome: Receipt | ShardFailure
        try:
            outcome = self._write_and_commit(attempt, name)
        except BaseException as error:  # noqa: BLE001 (whatever it is, the driver must hear of it)
            self._error = self._error or error
            outcome = self._failed(attempt, name)
        self._drained.set()
        self._drain()
        self._report(outcome)

    def _drain(self) -> None:
        """Samples that nobody will write."""
        with contextlib.suppress(queue.Empty):
            while True:
                sample = self._queue.get_nowait()
                if sample is not None:
                    self._release(sample)

    def _write_and_commit(self, attempt: Attempt, name: str) -> Receipt:
        tally = Tally()
        writer: Writer = self._writer(attempt, name)
        try:
            while tally.count < self.shard.rows:
                sample = self._next_sample()
                try:
                    for each in sample.pieces or (sample,):
                        writer.write(each)
                finally:
                    self._release(sample)
                tally.add(sample)
            writer.close()
        except BaseException:
            writer.abort()
            raise
        return attempt.commit(tally.freeze(), self._job.fingerprint)

    def _next_sample(self) -> Sample:
        self._busy = not self._queue.empty()
        sample = self._queue.get()
        self._busy = True
        if self._error is not None:
            if sample is not None:
                self._release(sample)
            raise self._error
        assert sample is not None
        return sample

    def _writer(self, attempt: Attempt, name: str) -> Any:
        kind = registry.lookup("writer", self._job.config.output.output_format)
        return kind(attempt.open, name, Layout.of(self._job.config, self._job.input_schema))

    def _failed(self, attempt: Attempt, name: str) -> Receipt | ShardFailure:
        """Throw away what was staged; the shard may still be done, by another attempt."""
        error = self._error
        assert error is not None
        try:
            attempt.discard()
            receipt = read_receipt(self._output, name)
        except Exception:  # noqa: BLE001 (the first error is the one to tell)
            receipt = None
        if receipt is not None:
            return receipt
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return ShardFailure(shard_id=self.shard.id, error=f"{type(error).__name__}: {error}", trace=trace)
