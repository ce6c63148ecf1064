"""How much may be in memory: rows and bytes between the network and the writer."""

from __future__ import annotations

import threading


class Budget:
    """Counts bytes of bodies from their arrival to the end of their transform, and rows that wait for one.

    Thread-safe: the fetch thread takes, the transform threads give back.

    Args:
        size: bytes.
        rows: rows that may wait for their transform.
    """

    def __init__(self, *, size: int, rows: int) -> None:
        self._lock = threading.Lock()
        self._size = size
        self._rows = rows
        self.used = 0
        self.waiting = 0

    @property
    def full(self) -> bool:
        """Whether no more transfers should start for now."""
        return self.used >= self._size or self.waiting >= self._rows

    def has(self, size: int) -> bool:
        """Whether so many bytes are free, or all are."""
        return not self.used or self.used + size <= self._size

    def take(self, size: int, *, force: bool = False) -> bool:
        """Take so many bytes if they are there, or if nobody else has any, or by `force`; else take nothing."""
        with self._lock:
            if not force and self.used and self.used + size > self._size:
                return False
            self.used += size
            return True

    def give(self, size: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self.used -= size

    def row_in(self) -> None:
        """A row waits for its transform; its bytes were taken before."""
        with self._lock:
            self.waiting += 1

    def row_out(self, size: int) -> None:
        """It was transformed, and its body of so many bytes is gone."""
        with self._lock:
            self.waiting -= 1
            self.used -= size
