"""A body on its way to a file, for media that are too large for memory; images stay in a bytearray."""

from __future__ import annotations

import os

from img2dataset_dist.model import MediaFile
from img2dataset_dist.spool import Spool

NAME = "body"


class FileBody:
    """Grows like a bytearray, in a folder of its own; the file is made with the first byte.

    Args:
        spool: where.
    """

    __slots__ = ("_file", "_folder", "_size", "_spool")

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._folder: str | None = None
        self._file = -1
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, chunk: bytes) -> None:
        """Take some more bytes.

        Raises:
            OSError: the disk is full or broken.
        """
        if self._folder is None:
            self._folder = self._spool.folder()
            self._file = os.open(os.path.join(self._folder, NAME), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(chunk)

    def finish(self) -> MediaFile:
        """The file, complete; whoever gets it removes its folder. Not for an empty body."""
        assert self._folder is not None
        done = MediaFile(path=os.path.join(self._folder, NAME), size=self._size)
        self._close()
        return done

    def drop(self) -> None:
        """Forget what came so far."""
        if self._folder is not None:
            self._spool.remove(self._folder)
            self._close()

    def _close(self) -> None:
        if self._file >= 0:  # it may never have been made, on a disk that is full
            os.close(self._file)
        self._file = -1
        self._folder = None
        self._size = 0
