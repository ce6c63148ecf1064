"""Threads that see rows through their transforms, each with a process of its own or with functions of this one."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from img2dataset_dist import transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, Sample


class Work(Protocol):
    """Makes a sample of a row; for one thread. It should not raise for a row."""

    def __call__(self, fetched: Fetched) -> Sample: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class InProcess:
    """The transforms in this very process: a crash of theirs is its end, and there is no deadline."""

    def __init__(self, config: JobConfig) -> None:
        self._chain = transforms.build(config)

    def __call__(self, fetched: Fetched) -> Sample:
        """One fetched row to one sample."""
        return transforms.apply(self._chain, fetched)

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
                while (fetched := self._rows.get()) is not None and not self._closed:
                    self._done(fetched, self._sample(work, fetched))
                    self._waiting.pop()
        except BaseException as error:  # noqa: BLE001 (handed on; a thread has nobody above it)
            if not self._closed:
                self._broken(error)
        self._rows.put(None)  # for the next thread that waits

    def _sample(self, work: Work, fetched: Fetched) -> Sample:
        if fetched.body is None:
            return Sample(item=fetched.item, facts=fetched.facts, failure=fetched.failure)
        return work(fetched)
