"""What runs inside one worker process: a stream of shards in, a stream of events out.

::

    reader thread ──items──▶ fetch thread ──bodies──▶ transform threads ──samples──▶ one writer thread per open shard
         ▲                        ▲                                                            │
      shards (engine)      admission by bytes and rows                                events ◀─┘ receipts, failures

The next shard is asked for as soon as all rows of this one are with the fetch thread: the slowest URLs of a shard
never idle the process. At most `OPEN_SHARDS` are in work at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from img2dataset_dist import registry, transforms
from img2dataset_dist.commit import output_folder
from img2dataset_dist.fetchers import Fetcher
from img2dataset_dist.model import Event, Fetched, Item, Progress, Receipt, Shard, ShardFailure
from img2dataset_dist.readers import Reader
from img2dataset_dist.shard import OpenShard, ShardJob
from img2dataset_dist.stats import Tally

OPEN_SHARDS = 2
PROGRESS_SECONDS = 0.5
TRANSFORM_THREADS = 2
_END = object()


class Backlog:
    """How many rows and bytes wait for their transform. Thread-safe."""

    def __init__(self, *, rows: int, size: int) -> None:
        self._lock = threading.Lock()
        self._rows_left = rows
        self._bytes_left = size

    def add(self, size: int) -> None:
        """A row with so many bytes came in."""
        with self._lock:
            self._rows_left -= 1
            self._bytes_left -= size

    def done(self, size: int) -> None:
        """It was transformed."""
        with self._lock:
            self._rows_left += 1
            self._bytes_left += size

    @property
    def full(self) -> bool:
        """Whether no more transfers should start for now."""
        return self._rows_left <= 0 or self._bytes_left <= 0


class Pipeline:
    """Runs shards in this process; `run` may be called once.

    Args:
        job: what to do with each shard.
        overlap: False works on one shard at a time, so that a crash can be pinned on it.
    """

    def __init__(self, job: ShardJob, *, overlap: bool = True) -> None:
        self._job = job
        fetch = job.config.fetch
        self._transforms = transforms.build(job.config)
        self._fetcher: Fetcher = registry.lookup("fetcher", "curl")(fetch)
        self._output = output_folder(job.output_url)
        self._backlog = Backlog(rows=4 * fetch.thread_count, size=fetch.max_buffered_bytes)
        self._items: queue.Queue[Item | object] = queue.Queue(2 * fetch.thread_count)
        self._events: queue.Queue[Event | BaseException | object] = queue.Queue()
        self._slots = threading.Semaphore(OPEN_SHARDS if overlap else 1)
        self._open: dict[int, OpenShard] = {}
        self._tally = Tally()
        self._tally_lock = threading.Lock()
        self._stop = threading.Event()
        threads = job.config.engine.transform_threads or TRANSFORM_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="transform")

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
                if time.monotonic() - last > PROGRESS_SECONDS:
                    last = time.monotonic()
                    yield from self._progress()
            fetcher.join(timeout=30)
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        """Stop all threads; what is unfinished is thrown away."""
        self._stop.set()
        self._fetcher.stop()
        self._slots.release()
        self._pool.shutdown(wait=False, cancel_futures=True)
        unfinished = list(self._open.values())
        for shard in unfinished:
            shard.fail(RuntimeError("interrupted"))
        for shard in unfinished:
            shard.join(2)

    def _guard(self, target: object, *args: object) -> None:
        try:
            target(*args)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 (handed to the main thread)
            self._events.put(error)

    def _progress(self) -> Iterator[Progress]:
        with self._tally_lock:
            stats = self._tally.freeze()
            self._tally.reset()
        if stats.count or any(shard.busy for shard in list(self._open.values())):
            yield Progress(stats=stats)

    def _read_all(self, shards: Iterable[Shard]) -> None:
        """Reader thread: open shards one after another and queue their items."""
        self._slots.acquire()
        for shard in shards:
            if self._stop.is_set():
                return
            opened = OpenShard(self._job, shard, self._output, self._events.put)
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
                size = len(fetched.body or b"")
                self._backlog.add(size)
                if self._stop.is_set():
                    break
                self._pool.submit(self._finish, fetched, size)
        finally:
            self._fetcher.close()

    def _next_items(self) -> Iterator[Item | None]:
        while not self._stop.is_set():
            if self._backlog.full:
                yield None
                continue
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

    def _finish(self, fetched: Fetched, size: int) -> None:
        """Transform thread: one row to its end."""
        try:
            opened = self._open.get(fetched.item.shard_id)
            if opened is None or opened.dead or self._stop.is_set():
                return
            sample = transforms.apply(self._transforms, fetched)
            with self._tally_lock:
                self._tally.add(sample)
            opened.put(sample)
        except BaseException as error:  # noqa: BLE001 (apply() raises nothing: this is the end of the process)
            self._events.put(error)
        finally:
            self._backlog.done(size)
