"""Worker processes on this machine, one per core by default.

The driver and each worker talk over a socket pair: a worker asks for a shard when it has room, and sends events.
Workers are started by running the interpreter anew on `engines.worker`, not by the multiprocessing module: nothing of
the driver's state is inherited, and the user's script is not imported again, so it needs no `__main__` guard.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe, wait

from img2dataset_dist.config import JobConfig
from img2dataset_dist.engines.feed import Feed
from img2dataset_dist.engines.inline import until_error
from img2dataset_dist.errors import EngineError, NetworkDownError
from img2dataset_dist.model import Event, Receipt, Shard, ShardFailure
from img2dataset_dist.shard import ShardJob
from img2dataset_dist.transforms.remote import TRIES

NEXT = "next"
"""What a worker sends to ask for a shard; the answer is a Shard, or None for no more."""

PATIENCE = 120.0
"""Seconds without any sign of life, on top of what the fetch options allow, after which a worker counts as hung."""


def patience(config: JobConfig) -> float:
    """Seconds without any sign of life after which a worker with open shards counts as hung."""
    fetch = config.fetch
    waits = (fetch.timeout + fetch.retry_max_wait) * (fetch.retries + 1)
    return PATIENCE + (TRIES + 1) * config.engine.transform_timeout + waits


class WorkerStartError(EngineError):
    """A worker process ended before it asked for its first shard."""


class Worker:
    """The driver's side of one worker process."""

    def __init__(self, job: ShardJob, slots: int, *, overlap: bool) -> None:
        ours, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from img2dataset_dist.engines.worker import main; main()"
        self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno(), slots],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is the driver's to handle
        )
        theirs.close()
        self.connection: Connection = ours
        self.open: set[int] = set()
        self.started = False
        self.seen = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead already: the next recv() says so
            self.connection.send((job, overlap))

    def stop(self) -> None:
        """End the process now; what it staged is swept later."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def obituary(self) -> str:
        """Why the process is gone, for people."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"worker process {self.process.pid} was killed by {name}{hint}"
        return f"worker process {self.process.pid} ended with exit code {code}"


class LocalEngine:
    """See `Engine`."""

    def __init__(self, config: JobConfig) -> None:
        self._processes = config.processes()
        self._patience = patience(config)
        self._workers: list[Worker] = []

    def run(self, job: ShardJob, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        """See `Engine.run`."""
        late: list[Exception] = []
        feed = Feed(until_error(shards, late))
        slots, path = tempfile.mkstemp(prefix="img2dataset-", suffix=".slots")
        os.unlink(path)  # the workers inherit it; whatever happens, nothing is left
        shared = f"/dev/fd/{slots}" if self._processes > 1 else None
        job = replace(job, neighbours=self._processes, slots=shared)
        try:
            while self._workers or feed.has(1):
                while len(self._workers) < self._processes and feed.has(self._yet_to_ask() + 1):
                    self._workers.append(Worker(job, slots, overlap=overlap))
                yield from self._round(feed)
        finally:
            self._stop_all()
            os.close(slots)
        if late:
            raise late[0]

    def _yet_to_ask(self) -> int:
        """Workers that are still starting; each will take a shard."""
        return sum(not worker.started for worker in self._workers)

    def close(self) -> None:
        """See `Engine.close`; every run has ended its own workers."""

    def _round(self, feed: Feed) -> Iterator[Event]:
        """Hear from the workers once."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout=1.0):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                yield from self._bury(worker, feed, worker.obituary())
                continue
            worker.seen = time.monotonic()
            if isinstance(message, NetworkDownError):
                raise message
            if message == NEXT:
                self._give(worker, feed)
            else:
                if isinstance(message, (Receipt, ShardFailure)):
                    worker.open.discard(message.shard_id)
                    self._free(feed, [message.shard_id])
                yield message
        for worker in list(self._workers):
            if worker.open and time.monotonic() - worker.seen > self._patience:
                worker.process.kill()
                worker.process.wait()
                yield from self._bury(worker, feed, f"worker process {worker.process.pid} hung and was ended")

    def _give(self, worker: Worker, feed: Feed) -> None:
        worker.started = True
        shard = feed.next(worker)
        if shard is None and feed.has(1):
            feed.waiting.append(worker)  # all that is left is in lanes of others
            return
        if shard is not None:
            worker.open.add(shard.id)
        with contextlib.suppress(OSError):  # it is dead: the next recv() says so, and reports its open shards
            worker.connection.send(shard)

    def _free(self, feed: Feed, shard_ids: Iterable[int]) -> None:
        """These shards are over here: answer those who wait for their lanes, or for the end."""
        feed.free(shard_ids)
        waiting, feed.waiting = feed.waiting, []
        for worker in waiting:
            if isinstance(worker, Worker) and worker in self._workers:
                self._give(worker, feed)

    def _bury(self, worker: Worker, feed: Feed, reason: str) -> Iterator[ShardFailure]:
        self._workers.remove(worker)
        worker.connection.close()
        if not worker.started:
            raise WorkerStartError(f"{reason} before it began to work; its own message stands above")
        self._free(feed, worker.open)
        for shard_id in sorted(worker.open):
            yield ShardFailure(shard_id=shard_id, error=reason, certain=len(worker.open) == 1)

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
