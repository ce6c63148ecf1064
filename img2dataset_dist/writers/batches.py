"""A file that takes small pieces and writes large ones."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import IO

BATCH_BYTES = 2**20
"""Each write is a system call, during which the interpreter's lock goes to other threads, and has to be waited for."""


class BatchedFile:
    """Holds back what is written until there is a mebibyte of it.

    Args:
        file: open for writing; belongs to this object from here on.

    Attributes:
        written: bytes taken.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._flushed = 0
        self.written = 0

    def write(self, pieces: Collection[bytes]) -> None:
        """Take the pieces, one after the other.

        Raises:
            OSError: the disk is full or broken; maybe of pieces that were taken before.
        """
        self._pieces += pieces
        self.written += sum(map(len, pieces))
        if self.written - self._flushed >= BATCH_BYTES:
            self._flush()

    def copy(self, path: str, size: int) -> None:
        """Take `size` bytes of a file, piece by piece.

        Raises:
            OSError: as of `write`; or the file is shorter.
        """
        with open(path, "rb") as file:
            left = size
            while left:
                piece = file.read(min(left, BATCH_BYTES))
                if not piece:
                    raise OSError(f"a file of a sample has {left} bytes less than it should")
                self.write((piece,))
                left -= len(piece)

    def close(self, last: Collection[bytes] = ()) -> None:
        """Write what is held back and the last pieces, and close the file, also when that fails."""
        with contextlib.closing(self._file):
            self._pieces += last
            self._flush()

    def abort(self) -> None:
        """Close the file as it is; never raises."""
        with contextlib.suppress(Exception):
            self._file.close()

    def _flush(self) -> None:
        content = b"".join(self._pieces)
        self._pieces.clear()
        self._flushed = self.written
        self._file.write(content)
