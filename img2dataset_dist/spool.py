"""Media under way, on the local disk: a folder for each row, gone when the row has been written.

A worker process has one spool. The folder of a process that was killed is removed by the next one that makes a spool in
the same place: whoever uses one holds a lock on the file beside it as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import itertools
import os
import shutil
import tempfile

from img2dataset_dist.errors import ConfigError

PREFIX = "img2dataset-spool-"
MADE = "made-"
"""How files in a row's folder begin that were made here of those that came."""


class Spool:
    """See the module. Thread-safe.

    Args:
        parent: a local folder, which is made when it is not there; None for the system's temporary one.

    Attributes:
        root: where the folders are.
    """

    def __init__(self, parent: str | None = None) -> None:
        parent = parent or tempfile.gettempdir()
        try:
            os.makedirs(parent, exist_ok=True)
            sweep(parent)
            self._lock, name = _own_lock(parent)
            self.root = name.removesuffix(".lock")
            os.mkdir(self.root, 0o700)
        except OSError as error:
            raise ConfigError(f"tmp_dir: cannot write to {parent}: {error}") from error
        self._numbers = itertools.count()

    def folder(self) -> str:
        """A new, empty folder for one row.

        Raises:
            OSError: the disk is full or broken.
        """
        path = os.path.join(self.root, str(next(self._numbers)))
        os.mkdir(path)
        return path

    def made(self, folder: str) -> int:
        """Bytes of the files in a row's folder that were made here; never raises."""
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.startswith(MADE))
        return 0

    def remove(self, folder: str) -> None:
        """Remove a row's folder and all in it; never raises."""
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(f"{self.root}.lock")
            os.close(self._lock)


def _own_lock(parent: str) -> tuple[int, str]:
    """A new lock file that is held, and its name."""
    while True:
        lock, name = tempfile.mkstemp(".lock", PREFIX, parent)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(name).st_ino == os.fstat(lock).st_ino:
                return lock, name
        os.close(lock)  # somebody took it for a dead one's between our two calls


def sweep(parent: str | None) -> None:
    """Remove what processes that are gone have left there."""
    parent = parent or tempfile.gettempdir()
    for name in glob.glob(os.path.join(glob.escape(parent), f"{PREFIX}*.lock")):
        with contextlib.suppress(OSError):
            lock = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(name.removesuffix(".lock"), ignore_errors=True)
                os.unlink(name)
            finally:
                os.close(lock)
