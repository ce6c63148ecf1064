"""Ray: the one that is initialized or that Ray finds, else a local one.

::

    shards ──Dealer──▶ groups ──▶ Ray tasks of one CPU ──▶ workers: cluster_task.run_group
                                    │ │ │   twice as many as there are CPUs
       events ◀─── ray.wait ◀───────┴─┴─┘

There is no barrier: for each task that ends another one starts. A failed shard is an outcome, no failed task. Tasks
fail when their process or node dies, and Ray tries them again elsewhere; when it gives up, the shards of the task that
are unfinished are tried one by one, so that the guilty one is found.

Tasks on a cluster of the user's have a runtime_env of their own, so that their processes run nothing else: they hold a
pipeline from one task to the next, and end when there is no next one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Ray reads it when it is imported. Without it a task that was ended for lack of memory is tried again for ever.
os.environ.setdefault("RAY_task_oom_retries", "3")

import ray

from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines import ray_session
from img2dataset_dist.engines.cluster_task import ClusterJob, HungError, run_group
from img2dataset_dist.engines.feed import Dealer
from img2dataset_dist.engines.inline import until_error
from img2dataset_dist.engines.ray_errors import fatal, reason_of
from img2dataset_dist.engines.ray_session import Cluster
from img2dataset_dist.model import Event, Notice, Progress, Receipt, Shard, ShardFailure
from img2dataset_dist.shard import ShardJob

TRIES = 4
"""How often Ray tries a task whose process or node dies."""

QUIET = 60.0
"""Seconds without any event after which we look whether tasks can run at all."""

STOPPING = 20.0
"""Seconds that cancelled tasks may take to end."""

IDLE_SECONDS = 20.0
"""How long a worker process keeps its pipeline, and with it processes and connections, without a task."""

LAST_WORDS = 0.5
"""Seconds for an exception to leave a process that ends because threads of it hang."""


class RayEngine:
    """See `Engine`."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._cluster: Cluster | None = None
        self._token = os.urandom(6).hex()

    def run(self, job: ShardJob, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        """See `Engine.run`."""
        late: list[Exception] = []
        if self._cluster is None:
            self._cluster = ray_session.connect(self._config)
            for text in ray_session.advice(self._cluster, self._config):
                yield Notice(text=text)
        dealer = Dealer(until_error(shards, late), window=self._config.engine.subjob_size, group=overlap)
        cluster_job = ClusterJob(job=job, token=self._token, overlap=overlap, path=self._cluster.path)
        yield from _Run(self._cluster, dealer, cluster_job).events()
        if late:
            raise late[0]

    def close(self) -> None:
        """End the Ray, or the connection, that is ours."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One Ray task of ours.

    Attributes:
        alone: its only shard is alone in its process, so that Ray's failure is this shard's.
    """

    shards: tuple[Shard, ...]
    alone: bool


class _Run:
    """One `RayEngine.run`."""

    def __init__(self, cluster: Cluster, dealer: Dealer, cluster_job: ClusterJob) -> None:
        self._cluster = cluster
        self._dealer = dealer
        self._cluster_job = cluster_job
        self._under_way: dict[Any, Task] = {}
        self._suspects: list[Shard] = []
        self._sent: tuple[ClusterJob, Any] | None = None
        self._warned = False
        self._work = ray.remote(work)
        self._options: dict[str, Any] = {"num_cpus": 1, "max_retries": TRIES - 1, "scheduling_strategy": "SPREAD"}
        if not cluster.is_local:
            self._options["runtime_env"] = {"env_vars": {"IMG2DATASET_RUN": cluster_job.token}}

    def events(self) -> Iterator[Event]:
        """See `Engine.run`."""
        last = time.monotonic()
        try:
            while self._under_way or self._suspects or not self._dealer.over():
                self._submit()
                ready = self._wait()
                if ready:
                    last = time.monotonic()
                else:
                    yield from self._is_anybody_there(time.monotonic() - last)
                for reference in ready:
                    yield from self._ended(reference)
        finally:
            self._stop()

    def _wait(self) -> list[Any]:
        """Tasks that are over."""
        references = list(self._under_way)
        if not references:  # a list that is slow to read
            return []
        ready, _ = ray.wait(references, timeout=1.0)
        return ray.wait(references, num_returns=len(references), timeout=0)[0] if ready else []

    def _submit(self) -> None:
        """Hand to Ray what there is room for; suspects first, and each for itself."""
        slots = self._cluster.slots()
        room = 2 * slots - len(self._under_way)
        while self._suspects and room > 0:
            self._start((self._suspects.pop(0),), alone=True)
            room -= 1
        if room > 0:
            for group in self._dealer.deal(slots, self._dealer.room, tasks=room):
                self._start(group, alone=len(group) == 1)

    def _start(self, shards: tuple[Shard, ...], *, alone: bool) -> None:
        span = f"{shards[0].id}" if len(shards) == 1 else f"{shards[0].id}-{shards[-1].id}"
        task = self._work.options(name=f"img2dataset {span}", **self._options)
        self._under_way[task.remote(self._job(), shards)] = Task(shards=shards, alone=alone)

    def _job(self) -> Any:
        """What all tasks share, put into Ray's store once."""
        machines = self._cluster.machines()
        job = replace(self._cluster_job.job, workers=machines, neighbours=max(1, self._cluster.slots() // machines))
        cluster_job = replace(self._cluster_job, job=job)
        if self._sent is None or self._sent[0] != cluster_job:
            self._sent = cluster_job, ray.put(cluster_job)
        return self._sent[1]

    def _heard(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Notice):
            yield event
        elif self._dealer.heard(event):
            if isinstance(event, Receipt):
                yield Progress(stats=event.stats)
            yield event

    def _ended(self, reference: Any) -> Iterator[Event]:
        """All shards of a task have an outcome now, or go through Ray again alone."""
        task = self._under_way.pop(reference)
        error: Exception = RuntimeError("a task ended without an outcome for all of its shards")
        try:
            events: Sequence[Event] = ray.get(reference)
        except Exception as caught:  # noqa: BLE001 (Ray's, or whatever the pipeline raised)
            error, events = caught, ()
        for event in events:
            yield from self._heard(event)
        left = self._dealer.unheard(task.shards)
        if not left:
            return
        if end := fatal(error):
            raise end from error
        reason = reason_of(error)
        if task.alone:
            yield from self._heard(ShardFailure(shard_id=left[0].id, error=reason, trace=str(error)[-4000:]))
            return
        self._suspects += left
        yield Notice(text=f"Ray gave up a task ({reason}); its {len(left)} unfinished shard(s) are tried one by one")

    def _is_anybody_there(self, seconds: float) -> Iterator[Notice]:
        """Say it once when no node can take our tasks."""
        if seconds < QUIET or self._warned or (self._cluster.cpus() and not self._cluster.busy_at_start):
            return
        self._warned = True
        yield Notice(
            text=f"no task has ended for {seconds:.0f} s: are there nodes, and are CPUs of theirs free? "
            "`ray status` on the head node shows them"
        )

    def _stop(self) -> None:
        """Cancel what is under way, and wait until it is over so that nobody writes any more."""
        references, self._under_way = list(self._under_way), {}
        if references and ray.is_initialized():
            for reference in references:
                ray.cancel(reference, force=True)
            ray.wait(references, num_returns=len(references), timeout=STOPPING, fetch_local=False)


def work(cluster_job: ClusterJob, shards: tuple[Shard, ...]) -> list[Event]:
    """A Ray task: the outcomes of a group of shards."""
    _idle.over()
    try:
        return list(run_group(cluster_job, shards))
    except HungError:
        _end_in(LAST_WORDS)  # the process takes its hung threads with it
        raise
    finally:
        sys.stdout.flush()
        _idle.begins()


def _end_in(seconds: float) -> threading.Timer:
    """End this process later. A task that it has then is lost, and Ray tries it again."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()
    return timer


class _Idle:
    """Ends a worker process that gets no task for some time: its pipeline holds memory, processes and connections."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begins(self) -> None:
        """A task is over."""
        self._timer = _end_in(IDLE_SECONDS)

    def over(self) -> None:
        """There is a task."""
        if self._timer is not None:
            self._timer.cancel()


_idle = _Idle()
