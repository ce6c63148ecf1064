"""Bodies behind other schemes than http and https (`s3`, `gs`, `file`, ...), read by threads through fsspec.

fsspec's calls block and cannot be stopped from outside. So each read has a thread to itself, and one that takes too
long is given up together with its thread: the row has its timeout, another thread takes over, and what the old one
brings in the end is dropped. How many may hang like that is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from img2dataset_dist.errors import EmptyBody, FetchError, NotFound, RowError, TooLarge, TotalTimeout

GIVEN_UP = 4
"""Threads that may hang at once, as a multiple of those that work."""

_MISSING = "no such file or object"


class _Read:
    """One URL on its way. `began` is None until a thread has it; `over` is set by whoever is first to have a result."""

    __slots__ = ("began", "over", "token", "url")

    def __init__(self, token: object, url: str) -> None:
        self.token = token
        self.url = url
        self.began: float | None = None
        self.over = False


class ObjectReader:
    """Reads whole objects in the background; exactly one result for each `start`.

    Its methods belong to one thread. `collect` must be called now and then even if `wake` was not: it is what notices
    that a read is overdue.

    Args:
        timeout: seconds that one read may take, counted from when a thread begins with it.
        max_body_bytes: larger objects fail; no more than one byte beyond this is read.
        wake: called, from any thread, when `collect` has something to give.
        threads: reads at once; more wait for their turn.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        timeout: float,
        max_body_bytes: int,
        wake: Callable[[], None],
        threads: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._wake = wake
        self._threads = threads
        self._clock = clock
        self._change = threading.Condition()
        self._queue: deque[_Read] = deque()
        self._reading: set[_Read] = set()
        self._results: list[tuple[object, bytes | RowError, float]] = []
        self._active = 0
        self._workers = 0
        self._idle = 0
        self._hanging = 0
        self._closed = False

    @property
    def active(self) -> int:
        """Reads that were started and not yet collected."""
        return self._active

    def start(self, token: object, url: str) -> None:
        """Begin to read `url`; its result will come with `token`."""
        with self._change:
            if self._closed:
                return
            self._active += 1
            self._queue.append(_Read(token, url))
            self._provide()
            ready = bool(self._results)
        if ready:
            self._call_wake()

    def collect(self) -> list[tuple[object, bytes | RowError, float]]:
        """What has ended since the last call: token, body or error, seconds that it took."""
        with self._change:
            self._give_up_overdue(self._clock())
            found, self._results = self._results, []
            self._active -= len(found)
            return found

    def close(self) -> None:
        """Drop everything. Returns at once; threads that hang end with the process."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._reading.clear()
            self._results.clear()
            self._active = 0
            self._change.notify_all()

    def _provide(self) -> None:
        """Have threads for what waits, or fail it when there may be no more of them. Called with the lock."""
        if self._hanging >= GIVEN_UP * self._threads:
            self._refuse_waiting()
        self._change.notify(len(self._queue))
        while self._workers < self._threads and self._idle < len(self._queue):
            try:
                threading.Thread(target=self._work, name="object-reader", daemon=True).start()
            except RuntimeError:  # the system has none left: those that work will come to what waits
                if not self._workers:
                    self._refuse_waiting()
                return
            self._workers += 1
            self._idle += 1

    def _refuse_waiting(self) -> None:
        while self._queue:
            self._results.append((self._queue.popleft().token, FetchError("too many reads hang"), 0.0))

    def _give_up_overdue(self, now: float) -> None:
        """Fail what takes too long, and replace its threads. Called with the lock."""
        for read in [r for r in self._reading if r.began is not None and now - r.began >= self._timeout]:
            assert read.began is not None
            read.over = True
            self._reading.discard(read)
            self._results.append((read.token, TotalTimeout("timeout"), now - read.began))
            self._workers -= 1
            self._hanging += 1
        self._provide()

    def _work(self) -> None:
        """The life of a thread: until the end, or until it is given up."""
        while self._read_one():
            self._call_wake()

    def _read_one(self) -> bool:
        """Wait for a read and do it; a body lives no longer than this call. False when the thread is not needed."""
        read = self._next()
        if read is None:
            return False
        outcome = read_object(read.url, self._max_body_bytes)
        with self._change:
            if read.over:
                self._hanging -= 1
                return False
            if self._closed:
                return False
            assert read.began is not None
            read.over = True
            self._reading.discard(read)
            self._results.append((read.token, outcome, self._clock() - read.began))
            self._idle += 1
            return True

    def _next(self) -> _Read | None:
        """What to read next; None at the end. A thread counts as idle when it comes here."""
        with self._change:
            while not self._queue and not self._closed:
                self._change.wait()
            self._idle -= 1
            if self._closed:
                return None
            read = self._queue.popleft()
            read.began = self._clock()
            self._reading.add(read)
            return read

    def _call_wake(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # who is to be woken has gone meanwhile
            self._wake()


def read_object(url: str, max_body_bytes: int) -> bytes | RowError:
    """The bytes behind a URL, or why there are none; never raises.

    Args:
        url: of any scheme that fsspec knows, or a local path.
        max_body_bytes: the most that is accepted.
    """
    try:
        body = _read(url, max_body_bytes)
    except RowError as error:
        return error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return NotFound(_MISSING)
    except PermissionError:
        return FetchError("not permitted")
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        return TotalTimeout("timeout")
    except BaseException as error:  # noqa: BLE001 (drivers raise anything, and a row must not vanish with its thread)
        return FetchError(f"could not be read: {type(error).__name__}")
    if len(body) > max_body_bytes:
        return TooLarge("body too large")
    return body or EmptyBody("empty body")


def _read(url: str, limit: int) -> bytes:
    # Not url_to_fs: it would take `a::b` in an object's name for a chain, and so a list could name a second scheme.
    scheme = url.partition("://")[0].lower() if "://" in url else "file"
    kind: Any = fsspec.get_filesystem_class(scheme)
    path = kind._strip_protocol(url)  # noqa: SLF001 (what url_to_fs calls)
    if issubclass(kind, LocalFileSystem):
        return _read_file(path, limit)
    fs = kind(**kind._get_kwargs_from_urls(url))  # noqa: SLF001 (as above)
    info = fs.info(path)
    if info.get("type") == "directory":
        raise NotFound(_MISSING)
    size = info.get("size")
    if isinstance(size, int):
        _check_size(size, limit)
    return bytes(fs.cat_file(path, start=0, end=limit + 1))


def _read_file(path: str, limit: int) -> bytes:
    """A regular file. Others (FIFOs, devices, sockets) may block for ever, or act when they are opened."""
    try:
        _check_regular(os.stat(path).st_mode)
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL
        raise NotFound(_MISSING) from None
    with open(number, "rb", buffering=0) as file:
        found = os.fstat(number)  # it may be another one than a moment ago
        _check_regular(found.st_mode)
        _check_size(found.st_size, limit)
        parts: list[bytes] = []
        length = 0
        while length <= limit:  # as it may grow meanwhile, and a read may bring less than was asked for
            part = file.read(min(max(found.st_size - length, 0), limit - length) + 1)
            if not part:
                break
            parts.append(part)
            length += len(part)
        return b"".join(parts)


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotFound(_MISSING)
    if not stat.S_ISREG(mode):
        raise FetchError("not a regular file")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge("body too large")
    if size == 0:
        raise EmptyBody("empty body")
