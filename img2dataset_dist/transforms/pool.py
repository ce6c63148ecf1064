"""Threads that transform rows under a deadline.

A codec that runs in circles over one picture cannot be stopped from outside: Python has no way to end a thread. What
can be done is to fail the row, to leave its thread behind and to put a fresh one in its place. `TransformPool` does
that, and asks for a new process when too many threads were left behind.

Who gives a row its outcome, the thread that worked on it or `check`, is decided by one `list.pop()`: each row in work
is the only element of a list of its own, and whoever takes it out may go on. That is atomic in every CPython, so a row
costs no lock.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable

from img2dataset_dist.errors import TransformTimeout
from img2dataset_dist.model import Failure, Fetched, Sample


def max_lost(threads: int) -> int:
    """How many threads may be left behind, still running, before the process is no good any more."""
    return 2 * threads + 6


class _Place:
    """What one thread works on: `row` is empty, or holds the row and when it was begun."""

    __slots__ = ("row", "thread")

    def __init__(self) -> None:
        self.row: list[tuple[Fetched, float]] = []
        self.thread: threading.Thread | None = None

    def take_begun_before(self, limit: float) -> Fetched | None:
        """Take the row away from the thread when it was begun before `limit`; None when there is no such row."""
        row = self.row  # the thread may go on to its next row meanwhile, but not in this list
        try:
            fetched, begun = row[0]
            if begun >= limit:
                return None
            row.pop()
        except IndexError:
            return None
        return fetched


class TransformPool:
    """Threads that work on fetched rows; a row that takes too long is failed and its thread given up.

    Each row that is submitted gets exactly one `done`, from the thread that worked on it or from `check`, unless the
    pool is closed before or `work` raises.

    Args:
        work: makes a sample of a row. It should not raise for a row: what it raises goes to `broken`.
        done: gets each row and its sample, on a thread of the pool or on the one that calls `check`. The time that it
            takes does not count against the row.
        threads: how many work at once, at least 1.
        timeout: seconds that `work` may take for one row.
        broken: gets what `work` or `done` raised, and a RuntimeError when more than `max_lost(threads)` threads were
            left behind. The process should then end. Called on any thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        work: Callable[[Fetched], Sample],
        done: Callable[[Fetched, Sample], None],
        *,
        threads: int,
        timeout: float,
        broken: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._done = done
        self._timeout = timeout
        self._broken = broken
        self._clock = clock
        self._rows: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()
        self._waiting: collections.deque[None] = collections.deque()  # its length is the number; no lock needed
        self._closed = False
        self._numbers = itertools.count()
        self._lost: list[threading.Thread] = []
        self._max_lost = max_lost(threads)
        self._hopeless = False
        self._places = [self._start() for _ in range(threads)]

    @property
    def waiting(self) -> int:
        """Rows that were submitted and whose `done` has not been called to its end."""
        return len(self._waiting)

    def submit(self, fetched: Fetched) -> None:
        """Leave a row to the threads. Never blocks; the caller sees to it that not too many wait."""
        self._waiting.append(None)
        self._rows.put(fetched)

    def check(self) -> None:
        """Fail the rows that are over their deadline. To be called by one thread, every half second or so."""
        limit = self._clock() - self._timeout
        for index, place in enumerate(self._places):
            fetched = place.take_begun_before(limit)
            if fetched is not None:
                self._replace(index)
                error = TransformTimeout(f"not done after {self._timeout:g} s; it was given up")
                self._deliver(fetched, Sample(item=fetched.item, facts=fetched.facts, failure=Failure.of(error)))

    def close(self) -> None:
        """Begin no new work and return at once; what still waits is dropped. The threads end by themselves."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._rows.get_nowait()
        self._rows.put(None)

    def _start(self) -> _Place:
        place = _Place()
        name = f"transform-{next(self._numbers)}"
        place.thread = threading.Thread(target=self._run, args=(place,), name=name, daemon=True)
        place.thread.start()
        return place

    def _replace(self, index: int) -> None:
        """Put a fresh thread in place of one that got stuck, unless there were too many of those."""
        stuck = self._places[index].thread
        assert stuck is not None
        self._lost = [*(thread for thread in self._lost if thread.is_alive()), stuck]
        if self._closed or self._hopeless:
            return
        if len(self._lost) > self._max_lost:
            self._hopeless = True
            self._broken(
                RuntimeError(
                    f"{len(self._lost)} transforms did not end within {self._timeout:g} s each and still run; "
                    "a new process is needed to be rid of them"
                )
            )
            return
        try:
            self._places[index] = self._start()
        except RuntimeError as error:  # the system has no more threads for us
            self._hopeless = True
            self._broken(error)

    def _run(self, place: _Place) -> None:
        get = self._rows.get
        while self._one(place, get()):
            pass

    def _one(self, place: _Place, fetched: Fetched | None) -> bool:
        """Work on one row. False: this thread has to end."""
        if fetched is None or self._closed:
            self._rows.put(None)  # for the next thread that waits
            return False
        row = place.row = [(fetched, self._clock())]
        raised: BaseException | None = None
        try:
            sample = self._work(fetched)
        except BaseException as error:  # noqa: BLE001 (handed on; a thread has nobody above it)
            raised = error
        try:
            row.pop()
        except IndexError:
            return False  # given up meanwhile: the row has its outcome, and another thread has this place
        if raised is None:
            self._deliver(fetched, sample)
        else:
            self._broken(raised)
        return True

    def _deliver(self, fetched: Fetched, sample: Sample) -> None:
        try:
            self._done(fetched, sample)
        except BaseException as error:  # noqa: BLE001 (handed on)
            self._broken(error)
        finally:
            self._waiting.pop()
