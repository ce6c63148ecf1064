"""The parent's side of a process that runs yt-dlp: started, asked, and ended whatever it does."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from img2dataset_dist.errors import EngineError
from img2dataset_dist.fetchers.ytdlp_options import Settings

LENGTH = struct.Struct("<Q")
"""Before each message; see `ytdlp_child.py`."""

START_SECONDS = 120.0
"""For the process to be ready; it takes about one."""

_STEP = 0.5
"""Seconds after which the size of what is there is looked at again."""

DYING = 2.0
"""Seconds from the end of a socket to the end of its process; a core may be written meanwhile."""

_POLL = 0.01

_LARGEST = 64 * 2**20
"""Bytes of an answer."""

_ENVIRONMENT = ("LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME")
"""What the process gets of our environment: no secrets, and nothing that yt-dlp or Python would heed."""


class Overdue(Exception):
    """No answer within the time."""


class Overfull(Exception):
    """More bytes in the folder than allowed."""


class SiteProcess:
    """One process, in a group of its own, that dies with the thread that starts it.

    Args:
        settings: see there.
        stopping: set when nobody waits for answers any more.

    Raises:
        EngineError: it does not come up; the message says why.
        OSError: the system does not let it begin.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._cap = settings.cap
        self._stopping = stopping
        self._link, theirs = socket.socketpair()
        code = f"import sys; sys.path[:] = {sys.path!r}; from img2dataset_dist.fetchers.ytdlp_child import main; main()"
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        home = {"HOME": settings.home, "TMPDIR": settings.home, "DENO_DIR": settings.home, "PATH": os.defpath}
        with theirs, contextlib.ExitStack() as unstarted:
            unstarted.callback(self._link.close)
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [sys.executable, "-B", "-c", code, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=settings.home,
                env={**kept, **home},
                start_new_session=True,
            )
            unstarted.pop_all()
        self.pid = self._process.pid
        self._warm = False
        self._how: str | None = None
        pickled = pickle.dumps(settings)
        try:
            self._link.sendall(LENGTH.pack(len(pickled)) + pickled)
            answer = self._receive(time.monotonic() + START_SECONDS, None)
        except (OSError, EOFError, Overdue) as error:
            how = self.end(DYING)
            raise EngineError(f"a process that runs yt-dlp did not come up: it {how}") from error
        if "ready" not in answer:
            self.end()
            raise EngineError(f"a process that runs yt-dlp did not come up: {answer.get('broken')}")

    def ask(self, url: str, folder: str, seconds: float, *, any_page: bool) -> dict[str, Any]:
        """Have a URL fetched into a folder.

        Args:
            url: of http or https.
            folder: is there and empty.
            seconds: for all of it.
            any_page: no extractor is made for the URL. The first such one has the process import all of them before
                the clock starts.

        Raises:
            Overdue, Overfull: it took too long, or too much; the process is to be ended.
            EOFError, OSError: the process is gone.
        """
        if any_page and not self._warm:
            self._say(None, None)
            self._receive(time.monotonic() + START_SECONDS, None)
            self._warm = True
        self._say(url, folder)
        return self._receive(time.monotonic() + seconds, folder)

    def _say(self, url: str | None, folder: str | None) -> None:
        raw = json.dumps({"url": url, "folder": folder}).encode()
        self._link.settimeout(START_SECONDS)
        self._link.sendall(LENGTH.pack(len(raw)) + raw)

    def end(self, patience: float = 0.0) -> str:
        """End it and all that it has started, and say how it ended, to follow "it".

        Args:
            patience: seconds in which it should end by itself, since it has closed its socket.
        """
        if self._how is None:
            until = time.monotonic() + patience
            while not (early := self._has_ended()) and time.monotonic() < until:
                time.sleep(_POLL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # not reaped yet: the number is still its
            code = self._process.wait()
            self._link.close()
            self._how = "was ended" if not early else f"ended with exit code {code}"
            if early and code < 0:
                self._how = f"was killed by {signal.Signals(-code).name}"
        return self._how

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _receive(self, deadline: float, folder: str | None) -> dict[str, Any]:
        header = self._exactly(LENGTH.size, deadline, folder)
        length = LENGTH.unpack(header)[0]
        if length > _LARGEST:
            raise EOFError
        answer = json.loads(self._exactly(length, deadline, folder))
        if not (isinstance(answer, dict) and answer):
            raise EOFError
        return answer

    def _exactly(self, count: int, deadline: float, folder: str | None) -> bytes:
        received = bytearray()
        while len(received) < count:
            if self._stopping.is_set():
                raise EOFError
            left = deadline - time.monotonic()
            if left <= 0:
                raise Overdue
            self._link.settimeout(min(left, _STEP))
            try:
                piece = self._link.recv(count - len(received))
            except TimeoutError:
                if folder is not None and size_of(folder) > self._cap + 2**20:
                    raise Overfull from None
                continue
            if not piece:
                raise EOFError
            received += piece
        return bytes(received)


def size_of(folder: str) -> int:
    """Bytes of the files of a folder that has no folders in it."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
