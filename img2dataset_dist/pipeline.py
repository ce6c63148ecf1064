"""What runs inside one worker process: a stream of shards in, a stream of events out.

::

    reader thread ──items──▶ fetch thread ──bodies──▶ transform threads ──samples──▶ one writer thread per open shard
         ▲                        ▲                        ▲ │                                 │
      shards (engine)      budget of bytes and rows        │ ▼                      events ◀───┘ receipts, failures
                                               a process each: deadline, memory bound

The next shard is asked for as soon as all rows of this one are with the fetch thread: the slowest URLs of a shard
never idle the process. At most `OPEN_SHARDS` are in work at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from img2dataset_dist import registry
from img2dataset_dist.commit import output_folder
from img2dataset_dist.config import JobConfig
from img2dataset_dist.fetchers import FetchContext, Fetcher
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.profiles import write_piece
from img2dataset_dist.fetchers.stored import accompanied
from img2dataset_dist.model import Event, Fetched, Item, Notice, Progress, Receipt, Sample, Shard, ShardFailure
from img2dataset_dist.readers import Reader
from img2dataset_dist.shard import OpenShard, ShardJob
from img2dataset_dist.spool import Spool
from img2dataset_dist.stats import Tally
from img2dataset_dist.storage import own_name
from img2dataset_dist.transforms.pool import Company, InProcess, TransformPool, Work
from img2dataset_dist.transforms.remote import Nursery, RemoteTransform

OPEN_SHARDS = 2
PROGRESS_SECONDS = 0.5
TRANSFORM_PROCESSES = 2
STAGE_BYTES = 64 * 2**20
STAGE_WAIT = 0.5
"""Bytes of a batch for stages, and seconds that its rows wait for one another."""

LIVELY = 10.0
"""Seconds without a turn of its loop after which the fetch thread counts as stuck."""

_END = object()


class Pipeline:
    """Runs shards in this process; `run` may be called once.

    Args:
        job: what to do with each shard.
        overlap: False works on one shard at a time, so that a crash can be pinned on it.
        isolate: False transforms in this process, where a decoder that crashes or hangs takes all with it.
    """

    def __init__(self, job: ShardJob, *, overlap: bool = True, isolate: bool = True) -> None:
        self._job = job
        fetch = job.config.fetch
        self._output = output_folder(job.output_url)
        media = job.config.media
        self._spool = Spool(media.tmp_dir) if media.media != "image" else None
        self._budget = Budget(
            rows=max(4 * fetch.thread_count, 2 * media.stage_batch if media.stages else 0),
            size=fetch.max_buffered_bytes if self._spool is None else media.max_spool_bytes,
        )
        self._spread: dict[str, int] = {}
        self._items: queue.Queue[Item | object] = queue.Queue(2 * fetch.thread_count)
        self._events: queue.Queue[Event | BaseException | object] = queue.Queue()
        self._fetcher: Fetcher = registry.lookup("fetcher", _fetcher(job.config))(fetch, self._context())
        self._slots = threading.Semaphore(OPEN_SHARDS if overlap else 1)
        self._open: dict[int, OpenShard] = {}
        self._tally = Tally()
        self._tally_lock = threading.Lock()
        self._stop = threading.Event()
        self._here = _config_here(job)
        self._nursery = Nursery(self._here) if isolate else None
        self._profiles_name = own_name("hosts")
        self._pool = TransformPool(
            self._work,
            self._finish,
            threads=job.config.engine.transform_processes or (1 if media.stages else TRANSFORM_PROCESSES),
            broken=self._events.put,
            company=Company(media.stage_batch, STAGE_BYTES, STAGE_WAIT) if media.stages else Company(),
        )

    def _context(self) -> FetchContext:
        job = self._job
        return FetchContext(
            table=job.hosts,
            rates=job.rates,
            workers=job.workers,
            slots=job.slots,
            neighbours=job.neighbours,
            by_host=job.config.input.schedule == "by_host",
            spread=self._spread,
            budget=self._budget,
            notify=lambda text: self._events.put(Notice(text=text)),
            fail=self._fail,
            spool=self._spool,
            job=job.config,
        )

    def run(self, shards: Iterable[Shard]) -> Iterator[Event]:
        """Work on `shards`, pulled one by one as there is room, until they end.

        Yields:
            Exactly one receipt or failure per shard, in the order they finish, and progress in between.

        Raises:
            Exception: a thread of the pipeline itself broke; shards without an outcome have none.
        """
        reader = threading.Thread(target=self._guard, args=(self._read_all, shards), name="reader", daemon=True)
        fetcher = threading.Thread(target=self._guard, args=(self._fetch_all,), name="fetch", daemon=True)
        reader.start()
        fetcher.start()
        reading, last = True, time.monotonic()
        try:
            while reading or self._open:
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=PROGRESS_SECONDS)
                    if event is _END:
                        reading = False
                    elif isinstance(event, BaseException):
                        raise event
                    elif isinstance(event, (Receipt, ShardFailure)):
                        self._open.pop(event.shard_id)
                        self._slots.release()
                        yield from self._progress()
                        yield event
                    elif isinstance(event, Notice):
                        yield event
                if time.monotonic() - last > PROGRESS_SECONDS:
                    last = time.monotonic()
                    yield from self._progress()
            fetcher.join(timeout=30)
            self.leave_profiles()
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        """Stop all threads; what is unfinished is thrown away."""
        self._stop.set()
        self._fetcher.stop()
        self._slots.release()
        self._pool.close()
        if self._nursery is not None:
            self._nursery.close()
        unfinished = list(self._open.values())
        for shard in unfinished:
            shard.fail(RuntimeError("interrupted"))
        for shard in unfinished:
            shard.join(2)
        if self._spool is not None:
            self._spool.close()

    def leave_profiles(self) -> None:
        """Write down what was learnt about hosts so far, for the next run; nothing depends on it."""
        learnt = self._fetcher.profiles()
        with contextlib.suppress(OSError):
            if learnt:
                write_piece(self._output, self._profiles_name, learnt)

    def _guard(self, target: object, *args: object) -> None:
        try:
            target(*args)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 (handed to the main thread)
            self._events.put(error)

    def _progress(self) -> Iterator[Progress]:
        with self._tally_lock:
            stats = self._tally.freeze()
            self._tally.reset()
        if stats.count or any(shard.busy for shard in list(self._open.values())) or self._waits_for_the_network:
            yield Progress(stats=stats)

    @property
    def _waits_for_the_network(self) -> bool:
        """Whether there is nothing to do here but to wait, for slow hosts or a polite rate: that is no hang."""
        return not self._pool.waiting and time.monotonic() - self._fetcher.alive < LIVELY

    def _read_all(self, shards: Iterable[Shard]) -> None:
        """Reader thread: open shards one after another and queue their items."""
        self._slots.acquire()
        for shard in shards:
            if self._stop.is_set():
                return
            self._spread.update(shard.spread)
            opened = OpenShard(self._job, shard, self._output, self._events.put, release=self._release)
            self._open[shard.id] = opened
            self._read_one(opened)
            self._slots.acquire()
            if self._stop.is_set():
                return
        self._offer(_END)
        self._events.put(_END)

    def _offer(self, item: Item | object) -> None:
        """Queue an item for the fetch thread, unless nobody takes them any more."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.5)
                return

    def _read_one(self, opened: OpenShard) -> None:
        config = self._job.config.input
        try:
            reader: Reader = registry.lookup("reader", opened.shard.source.format)(config)
            for item in reader.read(opened.shard, self._job.input_schema):
                if opened.dead or self._stop.is_set():
                    return
                self._offer(item)
        except Exception as error:  # noqa: BLE001 (costs this shard, not the others)
            opened.fail(error)

    def _fetch_all(self) -> None:
        """Fetch thread: keep the transfers going and hand bodies to the transform threads."""
        try:
            for fetched in self._fetcher.fetch(self._next_items()):
                self._budget.row_in()
                if self._stop.is_set():
                    break
                self._pool.submit(fetched)
        finally:
            self._fetcher.close()

    def _next_items(self) -> Iterator[Item | None]:
        while not self._stop.is_set():
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                yield None
                continue
            if item is _END:
                return
            assert isinstance(item, Item)
            opened = self._open.get(item.shard_id)
            if opened is not None and not opened.dead:
                yield item

    def _work(self) -> Work:
        """Transform thread: what it does to its rows."""
        if self._nursery is None:
            return InProcess(self._here)
        return RemoteTransform(self._nursery, self._here.engine.transform_timeout)

    def _finish(self, fetched: Fetched, sample: Sample) -> None:
        """Transform thread: hand a row to its writer, and its room to others."""
        sample = accompanied(self._with_made(sample), fetched.beside, self._job.config.image.encode_format)
        try:
            opened = self._open.get(fetched.item.shard_id)
            if opened is None or opened.dead or self._stop.is_set():
                self._release(sample)
                return
            with self._tally_lock:
                self._tally.add(sample)
            opened.put(sample)
        finally:
            self._budget.row_out(len(fetched.body or b""))

    def _with_made(self, sample: Sample) -> Sample:
        """Count what was made of a row with what came: both are on the disk until the row has been written."""
        if sample.file is None or self._spool is None:
            return sample
        made = self._spool.made(os.path.dirname(sample.file.path))
        self._budget.take(made, force=True)  # it is there; who waited for room here might do so for ever
        return replace(sample, file=replace(sample.file, size=sample.file.size + made))

    def _release(self, sample: Sample) -> None:
        """A row has been written, or will not be: the disk gets back what it took."""
        if sample.file is not None and self._spool is not None:
            self._spool.remove(os.path.dirname(sample.file.path))
            self._budget.give(sample.file.size)

    def _fail(self, shard_id: int, error: Exception) -> None:
        """A shard cannot be read to its end; may be called from any thread."""
        opened = self._open.get(shard_id)
        if opened is not None:
            opened.fail(error)


def _config_here(job: ShardJob) -> JobConfig:
    """The options for this machine: on a cluster the engine knows how many workers it has, whatever the option says."""
    engine = job.config.engine.model_copy(update={"processes_count": job.neighbours})
    return job.config.model_copy(update={"engine": engine})


def _fetcher(config: JobConfig) -> str:
    if config.input.input_format == "webdataset":
        return "stored"
    return "curl" if config.media.media == "image" else "media"
