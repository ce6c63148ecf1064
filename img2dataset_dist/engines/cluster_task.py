"""What a task of a cluster engine does, in a process that the cluster started: some shards, and their outcomes.

The process keeps one pipeline, and with it connections, what was learnt about hosts and the processes that decode,
from one task to the next; a task puts its shards in and waits until all have come out. A cluster may run a task
again, or twice at the same time: shards that have a receipt are not worked on again, and commit.py sees to it that
attempts do not mix.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from img2dataset_dist import about, storage
from img2dataset_dist.commit import output_folder, read_receipt
from img2dataset_dist.engines.local import patience
from img2dataset_dist.engines.worker import raise_file_limit
from img2dataset_dist.errors import EngineError
from img2dataset_dist.model import Event, Notice, Receipt, Shard, ShardFailure
from img2dataset_dist.pipeline import Pipeline
from img2dataset_dist.resume import JOB_FILE
from img2dataset_dist.shard import ShardJob

CLOSING = 30.0
"""Seconds that a pipeline without shards may take to close."""


class HungError(Exception):
    """The pipeline gave no sign of life; threads of it may hang, so this process had better end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob:
    """What all tasks of a run share.

    Attributes:
        job: what to do with a shard; its `workers` are the machines, its `neighbours` the tasks of one machine.
        token: names the run.
        overlap: see `Engine.run`.
        version: of this package on the driver.
        path: where the driver found its modules, for processes of its own machine.
    """

    job: ShardJob
    token: str
    overlap: bool
    version: str = about.VERSION
    path: tuple[str, ...] = ()


def run_group(cluster_job: ClusterJob, shards: Sequence[Shard]) -> Iterator[Event]:
    """Work on the shards of one task.

    Yields:
        Exactly one receipt or failure per shard, and notices.

    Raises:
        EngineError: this process cannot do the job, whatever the shard: another version, folders that are not shared.
        HungError: no sign of life for `patience`; shards without an outcome have none.
        Exception: the pipeline broke; shards without an outcome have none.
    """
    global _service  # noqa: PLW0603 (one per process is the point)
    if _service is None or not _service.fits(cluster_job):
        if _service is not None:
            _service.end()
            _service.join()
        _service = _Service(cluster_job, shards[0])
    try:
        yield from _service.work(shards)
    except BaseException:
        _service.end()
        _service = None
        raise


class _Service:
    """The pipeline of this process, in a thread of its own."""

    def __init__(self, cluster_job: ClusterJob, first: Shard) -> None:
        _check(cluster_job, first)
        sys.path.extend(folder for folder in cluster_job.path if folder not in sys.path)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the driver's to handle
        raise_file_limit()
        self._cluster_job = cluster_job
        job = replace(cluster_job.job, slots=machine_slots(cluster_job.token))
        self._output = output_folder(job.output_url)
        self._patience = patience(job.config)
        self._feed: queue.SimpleQueue[Shard | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._pipeline = Pipeline(job, overlap=cluster_job.overlap)
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._thread.start()

    def fits(self, cluster_job: ClusterJob) -> bool:
        """Whether this is the pipeline for tasks of that run."""
        ours = self._cluster_job
        same_run = (cluster_job.token, cluster_job.overlap) == (ours.token, ours.overlap)
        return same_run and cluster_job.job.workers == ours.job.workers

    def end(self) -> None:
        """No more shards: the pipeline closes when it is done with what it has."""
        self._feed.put(None)

    def join(self) -> None:
        """Wait until it is closed: two at a time in one process would give back each other's hosts (`FileSlots`)."""
        self._thread.join(CLOSING)

    def _run(self) -> None:
        try:
            for event in self._pipeline.run(iter(self._feed.get, None)):
                self._events.put(event)
        except BaseException as error:  # noqa: BLE001 (whoever waits for an outcome gets it)
            self._events.put(error)

    def work(self, shards: Sequence[Shard]) -> Iterator[Event]:
        """See `run_group`."""
        left = set()
        for shard in shards:
            receipt = read_receipt(self._output, self._cluster_job.job.shard_name(shard.id))
            if receipt is not None:
                yield receipt  # of an earlier attempt at this task
                continue
            left.add(shard.id)
            self._feed.put(shard)
        while left:
            try:
                event = self._events.get(timeout=self._patience)
            except queue.Empty:
                raise HungError(f"no sign of life from shard {min(left)} for {self._patience:.0f} s") from None
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, (Receipt, ShardFailure)):
                left.discard(event.shard_id)
                yield event
            elif isinstance(event, Notice):
                yield replace(event, text=f"{socket.gethostname()}: {event.text}")
        self._pipeline.leave_profiles()


_service: _Service | None = None


def check_version(version: str) -> None:
    """Refuse to work for a driver that has another version of this package."""
    if version != about.VERSION:
        raise EngineError(
            f"{socket.gethostname()} has img2dataset_dist {about.VERSION}, the driver has {version}: give the workers "
            "the same pex or environment"
        )


def _check(cluster_job: ClusterJob, first: Shard) -> None:
    """Say now what would otherwise end as a riddle, or as a dataset on the wrong disk."""
    check_version(cluster_job.version)
    host = socket.gethostname()
    job = cluster_job.job
    with _reading(f"{JOB_FILE} in the output_folder {job.output_url}"):
        content = output_folder(job.output_url).read(JOB_FILE)
    if content is None or job.fingerprint not in {entry["fingerprint"] for entry in json.loads(content)["jobs"]}:
        raise EngineError(
            f"{host} does not see the driver's output_folder at {job.output_url}: it must be on storage that the "
            "driver and all workers share, for example s3:// or a disk that is mounted everywhere"
        )
    with _reading(f"the list at {first.source.path}"):
        storage.open_input(first.source.path).close()


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """What this machine cannot read, no shard can be done with here: the job ends, unless the trouble may pass."""
    try:
        yield
    except Exception as error:
        if storage.may_pass(error):
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise EngineError(
            f"{socket.gethostname()} cannot read {what} ({why}): it must be on storage that the driver and all workers "
            "share, and that all have the credentials for"
        ) from error


def machine_slots(token: str, folder: str | None = None) -> str:
    """A file by which the tasks of a run on this machine share hosts; see `fetchers/slots.py`.

    Who uses it holds a shared lock as long as the process lives. Files that nobody holds are of runs that are over,
    and are removed.

    Args:
        token: names the run.
        folder: on a local disk, the same for all processes of the user.
    """
    folder = folder or tempfile.gettempdir()
    prefix = os.path.join(folder, f"img2dataset-{os.getuid()}-")
    path = f"{prefix}{token}.slots"
    for other in glob.glob(f"{glob.escape(prefix)}*.slots"):
        if other != path:
            _remove_unused(other)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                _held.append(file)
                return path
        os.close(file)  # somebody took it for unused between our two calls


_held: list[int] = []
"""Descriptors that are never closed: closing one would give back the process's slots in the same file."""


def _remove_unused(path: str) -> None:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(file)
