"""Messages between a worker and a process that decodes for it: small ones by a socket, pictures by shared memory.

One side asks, the other answers, in turns; so the memory holds one message. By the socket alone a picture of 130 kB
would cost about 0.3 ms on both sides together.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

_LENGTHS = struct.Struct("<QQ")
_TIMEVAL = struct.Struct("@ll")
_AT_ONCE = 65536
"""Bytes asked of the socket: nearly all messages come whole then, with one call."""
ROOM = 4 * 2**20
"""Bytes of memory that a channel keeps; more only as long as a picture needs it."""


class Channel:
    """One end of a channel. `Channel.pair` makes the first, a process that gets its `descriptors` the second.

    Args:
        link: a stream socket.
        memory: descriptor of a file that both ends have; owned by the channel from now on.
    """

    def __init__(self, link: socket.socket, memory: int) -> None:
        self.link = link
        self._memory = memory
        self._map = mmap.mmap(memory, os.fstat(memory).st_size)

    @classmethod
    def pair(cls) -> tuple[Channel, tuple[int, int]]:
        """A channel, and the two descriptors of its other end, for another process; to be closed here."""
        ours, theirs = socket.socketpair()
        memory = _anonymous_file()
        os.ftruncate(memory, ROOM)
        return cls(ours, memory), (theirs.detach(), os.dup(memory))

    def send(self, message: object, raws: Sequence[bytes] = ()) -> None:
        """Send something to pickle, and pictures.

        Raises:
            OSError: the other side is gone.
            Exception: `message` cannot be pickled; nothing was sent.
        """
        sizes = tuple(map(len, raws))
        pickled = pickle.dumps((message, sizes), pickle.HIGHEST_PROTOCOL)
        size = sum(sizes)
        there = os.fstat(self._memory).st_size  # not the length of our map: the other side resizes the file too
        if size > there or there > max(size, ROOM):
            os.ftruncate(self._memory, max(size, ROOM))
        if size > len(self._map):
            self._remap()
        self._map.seek(0)
        for raw in raws:
            self._map.write(raw)
        self.link.sendall(_LENGTHS.pack(len(pickled), size) + pickled)

    def limit(self, seconds: float) -> None:
        """How long `receive` waits from now on."""
        whole = int(seconds)
        self.link.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(whole, int((seconds - whole) * 1e6) or 1)
        )

    def receive(self) -> tuple[Any, list[bytes]]:
        """Wait for a message.

        Raises:
            BlockingIOError: there was none within the limit.
            EOFError, OSError: the other side is gone.
        """
        received = self.link.recv(_AT_ONCE)
        if len(received) < _LENGTHS.size:
            received += exactly(self.link, _LENGTHS.size - len(received))
        length, size = _LENGTHS.unpack_from(received)
        if len(received) < _LENGTHS.size + length:
            received += exactly(self.link, _LENGTHS.size + length - len(received))
        if size > len(self._map):
            self._remap()
        message, sizes = pickle.loads(memoryview(received)[_LENGTHS.size :])  # noqa: S301 (from our own processes)
        self._map.seek(0)
        return message, [self._map.read(each) for each in sizes]

    def close(self) -> None:
        """Close everything; the other side gets an EOFError."""
        self.link.close()
        self._map.close()
        os.close(self._memory)

    def _remap(self) -> None:
        self._map.close()
        self._map = mmap.mmap(self._memory, os.fstat(self._memory).st_size)


def exactly(link: socket.socket, count: int) -> bytes:
    """The next `count` bytes.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    received = link.recv(count, socket.MSG_WAITALL)
    if not received:
        raise EOFError
    while len(received) < count:  # a signal came in between, or the end
        more = link.recv(count - len(received), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        received += more
    return received


def _anonymous_file() -> int:
    """The descriptor of a file in memory, or at least of one without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("img2dataset")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
