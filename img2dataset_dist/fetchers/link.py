"""Is this machine connected to any network at all? A cable that was pulled, an interface that was shut down."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import time
from collections.abc import Callable

UP, LOOPBACK, RUNNING = 0x1, 0x8, 0x40
"""Flags of an interface (netdevice(7)); it is running when it is up and its link, too."""

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_REQUEST = struct.Struct("16sH14x")

FRESH = 1.0
"""Seconds for which an answer of the system is good."""


def no_link() -> bool:
    """Whether there are interfaces that are up, besides loopback, and none of them has a link. False when unknown."""
    if not sys.platform.startswith("linux"):
        return False
    found = False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            for _, name in socket.if_nameindex():
                answer = fcntl.ioctl(asker, _SIOCGIFFLAGS, _REQUEST.pack(name.encode(), 0))
                flags = _REQUEST.unpack(answer)[1]
                if flags & LOOPBACK or not flags & UP:
                    continue
                if flags & RUNNING:
                    return False
                found = True
    except OSError:
        return False
    return found


class Link:
    """Asks the system now and then.

    Args:
        look: whether there is no link.
        clock: seconds, monotonic.
    """

    def __init__(self, look: Callable[[], bool] = no_link, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._cut = False
        self._until = float("-inf")

    @property
    def cut(self) -> bool:
        """Whether we are cut off."""
        now = self._clock()
        if now >= self._until:
            self._cut = self._look()
            self._until = now + FRESH
        return self._cut
