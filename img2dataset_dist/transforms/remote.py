"""Transforms in processes of their own: the worker's side. `child.py` is the other.

When a process dies or is over the deadline, its rows are tried again one by one. A row that ends its process alone is
tried once more in a fresh one; if it ends that one too, it fails as `decoder_crash`. A row that alone is over its
deadline fails at once, and its process is ended with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import DecoderCrash, Img2datasetError, RowError, TransformTimeout
from img2dataset_dist.model import Fetched, Sample
from img2dataset_dist.transforms import child, failed
from img2dataset_dist.transforms.channel import Channel, exactly

TRIES = 2
"""Processes that a row may end when it is alone in them; one more when it was in company first."""

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Threads of numpy's library, which we do not use, would make forking unsafe."""


class TransformsBrokenError(Img2datasetError):
    """No process for transforms can be started; the message says why. No row is to blame."""


class Nursery:
    """Starts and ends the processes of one worker. Its own process is started at once, in the background."""

    def __init__(self, config: JobConfig) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._control, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from img2dataset_dist.transforms.child import nursery; nursery()"
        )
        self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        theirs.close()
        pickled = pickle.dumps(config)
        with contextlib.suppress(OSError):  # it is dead already: `fork` says so
            self._control.sendall(child.NUMBER.pack(len(pickled)) + pickled)

    def fork(self) -> tuple[Channel, int]:
        """A new process that is ready to work: the channel to it, and its id.

        Raises:
            TransformsBrokenError: there is none to be had.
        """
        channel, theirs = Channel.pair()
        try:
            pid = self._fork(theirs)
            channel.receive()
        except (EOFError, OSError) as error:
            channel.close()
            raise TransformsBrokenError(
                "a process for transforms ended before it began to work; its own message stands above"
            ) from error
        return channel, pid

    def _fork(self, descriptors: tuple[int, int]) -> int:
        try:
            with self._lock:
                self._await_ready()
                socket.send_fds(self._control, [b"f"], descriptors)
                return self._number()
        finally:
            for descriptor in descriptors:  # or we would not see it when the process ends
                os.close(descriptor)

    def end(self, pid: int) -> str:
        """End a process, unless it has ended already, and say how it did, to follow "it"."""
        with self._lock:
            try:
                self._control.sendall(child.NUMBER.pack(pid))
                status = self._number()
            except (EOFError, OSError):
                return "ended with the process that had started it"
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"

    def close(self) -> None:
        """End all processes, whatever they do. May be called twice."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    def _await_ready(self) -> None:
        if not self._ready:
            length = self._number()
            if length:
                raise TransformsBrokenError(exactly(self._control, length).decode())
            self._ready = True

    def _number(self) -> int:
        number: int = child.NUMBER.unpack(exactly(self._control, child.NUMBER.size))[0]
        return number


class RemoteTransform:
    """The whole chain of transforms, in a process of its own. For one thread; called with some rows after others.

    Args:
        nursery: starts the process, when the first row comes.
        timeout: seconds for one row.
    """

    def __init__(self, nursery: Nursery, timeout: float) -> None:
        self._nursery = nursery
        self._timeout = timeout
        self._channel: Channel | None = None
        self._pid = 0

    def __call__(self, rows: Sequence[Fetched]) -> Iterator[Sample]:
        """Fetched rows to samples, in the same order, each as soon as there is a word on it.

        Raises:
            TransformsBrokenError: no process can be started.
        """
        yield from self._together(rows) or map(self._alone, rows)

    def _together(self, rows: Sequence[Fetched]) -> list[Sample]:
        """All or, when one of them was too much for the process, none."""
        if len(rows) > 1:
            try:
                return self._ask(rows)
            except (EOFError, OSError):  # also BlockingIOError, too late
                self._end()
            except (pickle.PicklingError, TypeError, AttributeError):
                pass  # one of them cannot be sent
        return []

    def _alone(self, row: Fetched) -> Sample:
        ends = []
        for _ in range(TRIES):
            try:
                return self._ask([row])[0]
            except BlockingIOError:
                self._end()
                return failed(row, TransformTimeout(f"not done after {self._timeout:g} s; it was given up"))
            except (EOFError, OSError):
                ends.append(self._end())
            except (pickle.PicklingError, TypeError, AttributeError) as problem:
                return failed(row, RowError(f"{type(problem).__name__}: {problem}"[:500]))
        return failed(row, DecoderCrash(f"the decoder {' and then '.join(dict.fromkeys(ends))}"))

    def close(self) -> None:
        """Let the process end when it is idle."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ask(self, rows: Sequence[Fetched]) -> list[Sample]:
        if self._channel is None:
            self._channel, self._pid = self._nursery.fork()
            self._channel.limit(self._timeout)
        self._channel.send(*child.question(rows))
        return child.understood(rows, *self._channel.receive())

    def _end(self) -> str:
        self.close()
        return self._nursery.end(self._pid)
