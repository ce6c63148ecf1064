"""Threads that see rows through their transforms, each with a process of its own or with functions of this one."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from img2dataset_dist import stages, transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, Sample


class Company(NamedTuple):
    """Which rows go to a process together, when many wait, so that each need not wake it.

    Attributes:
        rows: so many at most,
        size: with bodies of so many bytes.
        wait: how long they wait for one another, in seconds.
    """

    rows: int = 8
    size: int = 2**20
    wait: float = 0.0


class Work(Protocol):
    """Makes samples of rows, in the same order; for one thread. It should not raise for a row."""

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class InProcess:
    """The transforms in this very process: a crash of theirs is its end, and there is no deadline."""

    def __init__(self, config: JobConfig) -> None:
        self._chain = transforms.build(config)
        self._staged = stages.build(config)

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]:
        """Fetched rows to samples."""
        samples = (transforms.apply(self._chain, row) for row in rows)
        return samples if self._staged is None else iter(self._staged(list(samples)))

    def close(self) -> None:
        """Nothing to do."""


class TransformPool:
    """Threads that work on fetched rows.

    Each row that is submitted gets exactly one `done`, unless the pool is closed before or `work` raises.

    Args:
        make: makes the work of one thread, on that thread.
        done: gets each row and its sample, on a thread of the pool.
        threads: how many work at once, at least 1.
        company: which rows are worked on together.
        broken: gets what `make`, `work` or `done` raised; the process should then end. Called on any thread.
    """

    def __init__(
        self,
        make: Callable[[], Work],
        done: Callable[[Fetched, Sample], None],
        *,
        threads: int,
        broken: Callable[[BaseException], None],
        company: Company = Company(),  # noqa: B008 (a constant)
    ) -> None:
        self._company = company
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
        most, enough, wait = self._company
        until = time.monotonic() + wait
        share = most if wait else min(most, 1 + self._rows.qsize() // self._threads)
        while len(rows) < share and size < enough:
            try:
                left = until - time.monotonic() if wait else 0.0
                row = self._rows.get(timeout=left) if left > 0 else self._rows.get_nowait()
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
            if row.failure is not None:
                self._deliver(row, Sample(item=row.item, facts=row.facts, failure=row.failure))
        bodies = [row for row in rows if row.failure is None]
        if bodies:
            for row, sample in zip(bodies, work(bodies), strict=True):
                self._deliver(row, sample)

    def _deliver(self, row: Fetched, sample: Sample) -> None:
        self._done(row, sample)
        self._waiting.pop()
