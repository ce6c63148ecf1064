"""One call of ffmpeg: bounded in time, memory and threads, and gone when we are.

The process gets a group of its own, all of which is ended at the deadline. The kernel ends it with the process that
started it (PR_SET_PDEATHSIG), so that a transform that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from img2dataset_dist.errors import DecodeError, DiskFull, FfmpegError, RowError, TooLarge, TransformTimeout

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_KEEP = 8192
"""Bytes of what ffmpeg says that are kept, of the last ones: a broken film has an error for each picture."""

_CONTEXT = re.compile(r"^(\[[^\]]*\] )+")
"""`[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d5c0] `: who speaks, with an address that is another one each time."""
_PATH = re.compile(r"'?file:[^\s']*?/[^\s':]*'?:?")
_SUMMARY = re.compile(
    r"(Conversion failed!|Error (opening|while|sending|submitting|marking|parsing|selecting|(re)?initializing) .*|"
    r"To ignore this, .*|Failed to set value .*|"
    r"Could not open encoder before EOF|Terminating thread .*|Task finished .*|Nothing was written .*|"
    r"Last message repeated .*|Exiting .*|Cannot determine format .*)"
)
"""What follows from an error that was said before."""
_BROKEN = re.compile(
    r"Invalid data found|moov atom not found|End of file|could not find codec parameters|Header missing|"
    r"error reading header|Decode error rate|Error splitting|Invalid NAL|no frame!",
    re.IGNORECASE,
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_OVER = re.compile(r"File too large")
_NO_MEMORY = re.compile(r"Cannot allocate memory|pthread_create\(\) failed|malloc of size \d+ failed")
_CUT_SHORT = re.compile(r"File ended prematurely|Error during demuxing")
"""What it says when it ends early, and yet reports success."""

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one call may take: `seconds`, bytes of private `memory`, and bytes of a file that it makes (None: any)."""

    seconds: float
    memory: int
    file: int | None = None


def run(binary: str, arguments: Sequence[str], bounds: Bounds) -> None:
    """Run ffmpeg to its end.

    Raises:
        TransformTimeout: it took too long, and was ended.
        DiskFull: there was no room for what it makes.
        TooLarge: a file that it makes has more bytes than it may.
        DecodeError: it could not read the file.
        FfmpegError: anything else; the message is what ffmpeg said, without paths and addresses.
    """
    deadline = time.monotonic() + bounds.seconds
    process = subprocess.Popen(  # noqa: S603 (a list that we made)
        [binary, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_bound(bounds, os.getpid()),  # noqa: PLW1509 (it makes a few system calls)
    )
    assert process.stderr is not None
    try:
        said = _listen(process.stderr.fileno(), deadline)
        code = process.wait(max(deadline - time.monotonic(), 0.001))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise TransformTimeout("ffmpeg took longer than ffmpeg_timeout") from None
    finally:
        _end(process)
    error = _error(code, said)
    if error is not None:
        raise error


def _listen(descriptor: int, deadline: float) -> str:
    """The last of what it says, until it has nothing more to say.

    Raises:
        TimeoutError: it goes on beyond the deadline.
    """
    said = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return said.decode(errors="replace")
        said = (said + chunk)[-_KEEP:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of its group, and take its exit status; the group is there until that is taken."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _bound(bounds: Bounds, parent: int) -> Callable[[], None]:
    """What the new process does before it becomes ffmpeg."""

    def bound() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before it could be said
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if bounds.file is not None:
            _limit(resource.RLIMIT_FSIZE, bounds.file)
        _limit(resource.RLIMIT_DATA, bounds.memory)  # the last step: we may have more than that already

    return bound


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _error(code: int, said: str) -> RowError | None:
    """What went wrong, by what it said; None when nothing did. Complaints about single pictures are no failure."""
    if _FULL.search(said):
        return DiskFull("no room for what ffmpeg makes")
    if _NO_MEMORY.search(said):
        return FfmpegError("ffmpeg needs more memory than max_transform_memory")
    if code == -signal.SIGXFSZ or _OVER.search(said):
        return TooLarge("what ffmpeg makes of it is too large; see max_body_bytes and max_spool_bytes")
    if code < 0:
        return FfmpegError(f"ffmpeg was ended by {signal.Signals(-code).name}")
    if "Decode error rate" in said:
        return DecodeError("most of it cannot be decoded")
    if not code:
        return DecodeError("the file ends early or is broken") if _CUT_SHORT.search(said) else None
    message = _message(said) or f"ffmpeg ended with status {code}"
    return DecodeError(message) if _BROKEN.search(said) else FfmpegError(message)


def _message(said: str) -> str:
    """The line that says why, in a form that is the same for each file that has the same trouble."""
    whole = said if len(said) < _KEEP else said.partition("\n")[2]
    lines = [_PATH.sub("", _CONTEXT.sub("", line)).strip() for line in whole.splitlines()]
    reasons = [line for line in lines if line and not _SUMMARY.fullmatch(line)]
    return (reasons or [line for line in lines if line] or [""])[-1][:200]
