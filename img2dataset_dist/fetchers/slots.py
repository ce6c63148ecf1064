"""Slots of a host that all workers of one machine share: exact, whoever needs them, and free again when one dies.

Each slot is one byte of a file that is locked, not written: the file stays empty. The kernel gives locks back when
their process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os

PER_HOST = 2**20
"""Bytes of the file that belong to one host: the most slots it can have."""


class FileSlots:
    """See `hosts.Slots`. One per process; `path` is of a local disk."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: dict[str, set[int]] = {}

    def acquire(self, host: str, limit: int) -> int | None:
        """See `hosts.Slots.acquire`. Locks are the process's, so slots that we hold ourselves are kept in mind."""
        held = self._held.setdefault(host, set())
        base = _place(host)
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
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(host) + slot)
        held = self._held[host]
        held.discard(slot)
        if not held:
            del self._held[host]

    def close(self) -> None:
        """Give all back."""
        os.close(self._file)


@functools.lru_cache(maxsize=65536)
def _place(host: str) -> int:
    """Where in the file the bytes of a host are; two hosts in one place would only share their slots."""
    number = int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest(), "big")
    return (number % 2**42) * PER_HOST
