"""What the workers of one machine share about a host: its connections and its turns, exactly, whoever needs them.

A connection is one byte of a file that is locked, not written; the kernel gives locks back when their process ends,
however it ends. Turns are times of the machine's steady clock in the same file, which is mapped into memory: when the
host may be asked again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import mmap
import os
import struct

PER_HOST = 2**20
"""Bytes of the file that may be locked for one host: the most connections it can have."""

TIMES = 2**20
"""Times in the file. Two hosts that share one only wait for each other; the pages that nobody uses take no room."""

_TIME = struct.Struct("d")


class FileSlots:
    """See `hosts.Slots`. One per process; `path` is of a local disk. Threads may share it, but not a host in it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < TIMES * _TIME.size:
            os.ftruncate(self._file, TIMES * _TIME.size)
        self._times = mmap.mmap(self._file, TIMES * _TIME.size)
        self._held: dict[str, set[int]] = {}

    def acquire(self, host: str, limit: int) -> int | None:
        """See `hosts.Slots.acquire`. Locks are the process's, so slots that we hold ourselves are kept in mind."""
        held = self._held.setdefault(host, set())
        base = (1 + _place(host)) * PER_HOST
        begin = os.getpid() % limit  # workers begin at different places, so they seldom meet
        for offset in range(limit):
            slot = (begin + offset) % limit
            if slot in held:
                continue
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, base + slot)
            except OSError:
                continue
            held.add(slot)
            return slot
        if not held:
            del self._held[host]
        return None

    def release(self, host: str, slot: int) -> None:
        """See `hosts.Slots.release`."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, (1 + _place(host)) * PER_HOST + slot)
        held = self._held[host]
        held.discard(slot)
        if not held:
            del self._held[host]

    def free_at(self, host: str) -> float:
        """See `hosts.Slots.free_at`."""
        return float(_TIME.unpack_from(self._times, _place(host) % TIMES * _TIME.size)[0])

    def turn(self, host: str, now: float, seconds: float) -> float:
        """See `hosts.Slots.turn`."""
        index = _place(host) % TIMES
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, index)
        try:
            free = self.free_at(host)
            if free <= now:
                _TIME.pack_into(self._times, index * _TIME.size, now + seconds)
            return free
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)

    def pause(self, host: str, until: float) -> None:
        """See `hosts.Slots.pause`."""
        index = _place(host) % TIMES
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, index)
        try:
            _TIME.pack_into(self._times, index * _TIME.size, max(until, self.free_at(host)))
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)

    def close(self) -> None:
        """Give all back."""
        self._times.close()
        os.close(self._file)


@functools.lru_cache(maxsize=65536)
def _place(host: str) -> int:
    """Where in the file the bytes of a host are."""
    number = int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest(), "big")
    return number % 2**42
