"""Threads that see rows through their transforms, each with a process of its own or with functions of this one."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from img2dataset_dist import transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, Sample

BATCH_ROWS = 8
BATCH_BYTES = 2**20
"""Rows that go to a process together when many wait, so that each need not wake it; a few small ones."""


class Work(Protocol):
    """Makes samples of rows, in the same order; for one thread. It should not raise for a row."""

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class InProcess:
    """The transforms in this very process: a crash of theirs is its end, and there is no deadline."""

    def __init__(self, config: JobConfig) -> None:
        self._chain = transforms.build(config)

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]:
        """Fetched rows to samples."""
        return (transforms.apply(self._chain, row) for row in rows)

    def close(self) -> None:
        """Nothing to do."""


class TransformPool:
    """Threads that work on fetched rows.

    Each row that is submitted gets exactly one `done`, unless the pool is closed before or `work` raises.

    Args:
        make: makes the work of one thread, on that thread.
        done: gets each row and its sample, on a thread of the pool.
        threads: how many work at once, at least 1.
        broken: gets what `make`, `work` or `done` raised; the process should then end. Called on any thread.
    """

    def __init__(
        self,
        make: Callable[[], Work],
        done: Callable[[Fetched, Sample], None],
        *,
        threads: int,
        broken: Callable[[BaseException], None],
    ) -> None:
        self._make = make
        self._done = done
        self._broken = broken
        self._rows: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()
        self._waiting: collections.deque[None] = collections.deque()  # its length is the number; no lock needed
        self._closed = False
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._run, name=f"transform-{number}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Rows that were submitted and whose `done` has not been called to its end."""
        return len(self._waiting)

    def submit(self, fetched: Fetched) -> None:
        """Leave a row to the threads. Never blocks; the caller sees to it that not too many wait."""
        self._waiting.append(None)
        self._rows.put(fetched)

    def close(self) -> None:
        """Begin no new work and return at once; what still waits is dropped. The threads end by themselves."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._rows.get_nowait()
        self._rows.put(None)

    def _run(self) -> None:
        try:
            with contextlib.closing(self._make()) as work:
                while (first := self._rows.get()) is not None and not self._closed:
                    self._see_through(work, self._with_company(first))
        except BaseException as error:  # noqa: BLE001 (handed on; a thread has nobody above it)
            if not self._closed:
                self._broken(error)
        self._rows.put(None)  # for the next thread that waits

    def _with_company(self, first: Fetched) -> list[Fetched]:
        """A row and some of those that wait behind it, but no more than this thread's share of them."""
        rows, size = [first], len(first.body or b"")
        share = min(BATCH_ROWS, 1 + self._rows.qsize() // self._threads)
        while len(rows) < share and size < BATCH_BYTES:
            try:
                row = self._rows.get_nowait()
            except queue.Empty:
                break
            if row is None:
                self._rows.put(None)  # the end, for all threads
                break
            rows.append(row)
            size += len(row.body or b"")
        return rows

    def _see_through(self, work: Work, rows: list[Fetched]) -> None:
        for row in rows:
            if row.body is None:
                self._deliver(row, Sample(item=row.item, facts=row.facts, failure=row.failure))
        bodies = [row for row in rows if row.body is not None]
        if bodies:
            for row, sample in zip(bodies, work(bodies), strict=True):
                self._deliver(row, sample)

    def _deliver(self, row: Fetched, sample: Sample) -> None:
        self._done(row, sample)
        self._waiting.pop()
