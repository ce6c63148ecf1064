"""Apache Spark: the session that is active, else a local one.

::

    shards ──Dealer──▶ sub-job: a Spark job of many tasks ──▶ executors: cluster_task.run_group
                           │  │  │   several at once                   │
       events ◀── queue ◀──┴──┴──┴──── accumulator, result ◀───────────┘

There is no barrier: the next sub-job is handed to Spark while tasks of earlier ones still run, so that no core waits
for a straggler. Outcomes arrive with each task that ends, through an accumulator; what a sub-job returns at its end
says the same again, and is what counts.

A failed shard is an outcome, no failed task. Tasks fail when their process or machine dies, and Spark tries them
again elsewhere; when it gives up, it ends the whole sub-job, whose unfinished shards are then tried one by one, so
that the guilty one is found.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from pyspark import InheritableThread
from pyspark.accumulators import AccumulatorParam

from img2dataset_dist.about import VERSION
from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines import spark_session
from img2dataset_dist.engines.cluster_task import ClusterJob, check_version, run_group
from img2dataset_dist.engines.feed import Dealer
from img2dataset_dist.engines.inline import until_error
from img2dataset_dist.engines.spark_errors import fatal, reason_of
from img2dataset_dist.engines.spark_session import Cluster
from img2dataset_dist.model import Event, Notice, Progress, Receipt, Shard, ShardFailure
from img2dataset_dist.shard import ShardJob

SUBJOBS = 4
"""A full sub-job has this part of `subjob_size`: as many are under way at once, more when some have stragglers."""

MOST_SUBJOBS = 256
QUIET = 60.0
"""Seconds without any event after which we look whether tasks run at all."""

STOPPING = 20.0
"""Seconds that cancelled tasks may take to end."""

Groups = Sequence[tuple[Shard, ...]]


class SparkEngine:
    """See `Engine`."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._cluster: Cluster | None = None
        self._token = os.urandom(6).hex()

    def run(self, job: ShardJob, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        """See `Engine.run`."""
        late: list[Exception] = []
        if self._cluster is None:
            self._cluster = spark_session.connect(self._config)
            self._cluster.settle()
            yield from map(_notice, spark_session.advice(self._cluster, self._config))
        window = self._config.engine.subjob_size
        dealer = Dealer(until_error(shards, late), window=window, group=overlap)
        cluster_job = ClusterJob(job=job, token=self._token, overlap=overlap, path=self._cluster.path)
        yield from _Run(self._cluster, dealer, cluster_job, window=window).events()
        if late:
            raise late[0]

    def close(self) -> None:
        """Stop the session if it is ours."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


def _notice(text: str) -> Notice:
    return Notice(text=text)


class EventList(AccumulatorParam[list[Event]]):
    """Events of a task, on their way to the driver when it ends."""

    def zero(self, value: list[Event]) -> list[Event]:  # noqa: ARG002 (pyspark's signature)
        """Nothing."""
        return []

    def addInPlace(self, value1: list[Event], value2: list[Event]) -> list[Event]:  # noqa: N802
        """Both."""
        value1.extend(value2)
        return value1


class EventQueue(EventList):
    """The driver's end: nothing is kept, all goes to a queue. Arrives at the executors as an `EventList`."""

    def __init__(self, events: queue.SimpleQueue[Any]) -> None:
        self._events = events

    def addInPlace(self, value1: list[Event], value2: list[Event]) -> list[Event]:  # noqa: N802
        """Called in pyspark's thread, for each task that ended well."""
        for event in value2:
            self._events.put(event)
        return value1

    def __reduce__(self) -> tuple[type[EventList], tuple[()]]:
        return EventList, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubJob:
    """One Spark job of ours.

    Attributes:
        groups: one task each.
        alone: a single shard, so that Spark's failure is this shard's.
    """

    groups: Groups
    alone: bool
    result: Future[list[Event]]

    @property
    def shards(self) -> list[Shard]:
        """All of them."""
        return [shard for group in self.groups for shard in group]


class _Run:
    """One `SparkEngine.run`."""

    def __init__(self, cluster: Cluster, dealer: Dealer, cluster_job: ClusterJob, *, window: int) -> None:
        self._cluster = cluster
        self._dealer = dealer
        self._cluster_job = cluster_job
        self._window = window
        self._events: queue.SimpleQueue[Event | SubJob] = queue.SimpleQueue()
        self._accumulator = cluster.context.accumulator([], EventQueue(self._events))
        self._shared = cluster.context.broadcast(cluster_job)  # read once per process: a table of hosts may be large
        self._under_way: list[SubJob] = []
        self._suspects: list[Shard] = []
        self._submitted = 0
        self._group = f"img2dataset-{cluster_job.token}"
        self._warned = False

    def events(self) -> Iterator[Event]:
        """See `Engine.run`."""
        last = time.monotonic()
        try:
            while self._under_way or self._suspects or not self._dealer.over():
                self._submit()
                try:
                    event = self._events.get(timeout=1.0)
                except queue.Empty:
                    yield from self._is_anybody_there(time.monotonic() - last)
                    continue
                last = time.monotonic()
                yield from self._ended(event) if isinstance(event, SubJob) else self._heard(event)
        finally:
            self._stop()

    def _submit(self) -> None:
        """Hand to Spark what there is room for; suspects first, and each for itself."""
        slots = self._cluster.slots()
        while self._suspects and len(self._under_way) < min(MOST_SUBJOBS, 2 * slots):
            self._start([(self._suspects.pop(0),)], alone=True)
        full = max(1, self._window // SUBJOBS)
        if not self._cluster_job.overlap:
            while len(self._under_way) < min(MOST_SUBJOBS, 2 * slots) and (groups := self._dealer.deal(slots, 1)):
                self._start(groups, alone=True)
            return
        # the first ones are small, so that work begins before much of the list was read
        size = min(full, slots << min(self._submitted, 20))
        while len(self._under_way) < MOST_SUBJOBS and (self._dealer.room >= size or not self._under_way):
            groups = self._dealer.deal(slots, size)
            if not groups:
                return
            self._start(groups, alone=len(groups) == len(groups[0]) == 1)
            size = min(full, 2 * size)

    def _start(self, groups: Groups, *, alone: bool) -> None:
        machines = self._cluster.machines()
        neighbours = max(1, self._cluster.slots() // machines)
        task = Task(self._shared, self._accumulator, workers=machines, neighbours=neighbours)
        self._submitted += 1
        ids = [shard.id for group in groups for shard in group]
        span = f"shard {ids[0]}" if len(ids) == 1 else f"shards {ids[0]}-{ids[-1]}"
        text = f"img2dataset {self._cluster_job.job.output_url}: {span}"
        subjob = SubJob(groups=groups, alone=alone, result=Future())
        self._under_way.append(subjob)
        try:
            tasks = self._cluster.context.parallelize(groups, len(groups)).mapPartitions(task).setName(text)
            tasks.getNumPartitions()  # it is ready now; so Spark sees sub-jobs in our order, or nearly so
            # takes over the scheduler pool of our thread; a daemon, since an interpreter waits for others at its end
            InheritableThread(self._collect, args=(subjob, tasks, text), name="subjob", daemon=True).start()
        except Exception as error:  # noqa: BLE001 (the JVM is gone; told as the end of the sub-job)
            subjob.result.set_exception(error)
            self._events.put(subjob)

    def _collect(self, subjob: SubJob, tasks: Any, text: str) -> None:
        """In a thread of its own: the Spark job."""
        try:
            subjob.result.set_result(self._cluster.collect(tasks, self._group, text))
        except BaseException as error:  # noqa: BLE001 (raised by whoever takes the result)
            subjob.result.set_exception(error)
        self._events.put(subjob)

    def _heard(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Notice):
            yield event
        elif self._dealer.heard(event):
            if isinstance(event, Receipt):
                yield Progress(stats=event.stats)
            yield event

    def _ended(self, subjob: SubJob) -> Iterator[Event]:
        """All of a sub-job has an outcome now, or goes through Spark again alone."""
        self._under_way.remove(subjob)
        error = subjob.result.exception()
        if error is None:
            for event in subjob.result.result():
                if not isinstance(event, Notice):  # those were heard by the accumulator, or are old by now
                    yield from self._heard(event)
            error = RuntimeError("a task ended without an outcome for all of its shards")
        left = self._dealer.unheard(subjob.shards)
        if not left:
            return
        if end := fatal(error):
            raise end from error
        text = str(error)
        reason = reason_of(text)
        if subjob.alone:
            yield from self._heard(ShardFailure(shard_id=left[0].id, error=reason, trace=text[-4000:]))
            return
        self._suspects += left
        yield _notice(f"Spark gave up a sub-job ({reason}); its {len(left)} unfinished shard(s) are tried one by one")

    def _is_anybody_there(self, seconds: float) -> Iterator[Notice]:
        """Say it once when no executor takes our tasks."""
        if seconds < QUIET or self._warned or self._cluster.active_tasks(self._group):
            return
        self._warned = True
        yield _notice(
            f"no task has started for {seconds:.0f} s: are there executors, and are their cores free? The Spark UI at "
            f"{self._cluster.context.uiWebUrl or 'the master, port 8080,'} shows them"
        )

    def _stop(self) -> None:
        """Cancel what is under way, and wait until it is over so that nobody writes any more."""
        if self._under_way:
            self._cluster.cancel(self._group, STOPPING, lambda: all(one.result.done() for one in self._under_way))
        with contextlib.suppress(Exception):  # the context may be gone
            self._shared.destroy()


class Task:
    """What an executor runs on one partition: one group of shards."""

    def __init__(self, shared: Any, accumulator: Any, *, workers: int, neighbours: int) -> None:
        self._shared = shared
        self._accumulator = accumulator
        self._workers = workers
        self._neighbours = neighbours
        self._version = VERSION

    def __call__(self, groups: Iterable[tuple[Shard, ...]]) -> Iterator[Event]:
        """The outcomes, which the accumulator takes to the driver as well."""
        check_version(self._version)  # before anything is read that another version may have written otherwise
        cluster_job: ClusterJob = self._shared.value
        job = replace(cluster_job.job, workers=self._workers, neighbours=self._neighbours)
        cluster_job = replace(cluster_job, job=job)
        for group in groups:
            for event in run_group(cluster_job, group):
                self._accumulator.add([event])
                yield event
