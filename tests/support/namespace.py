"""A network of one's own, where every address is at hand: the list may say 169.254.169.254, and something is there.

    with Namespace(["93.184.216.34", "10.0.0.1", "fd00::1"]) as world, world.inside():
        ...     this thread, and what it starts, sees a loopback interface with these addresses and nothing else

Nothing outside is touched, and nothing is left when the sockets and threads in it have gone. It takes root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator

import pytest

CLONE_NEWNET = 0x40000000
HERE = "/proc/thread-self/ns/net"


class Namespace:
    """See the module. `up=False`: not even loopback works. Skips the test where the system does not let us."""

    def __init__(self, addresses: Iterable[str] = (), *, up: bool = True) -> None:
        self._addresses = list(addresses)
        self._up = up

    def __enter__(self) -> Namespace:
        if not os.path.exists(HERE) or shutil.which("ip") is None:
            pytest.skip("needs Linux and the command ip (Debian package iproute2)")
        self._libc = ctypes.CDLL(None, use_errno=True)
        home = os.open(HERE, os.O_RDONLY)
        try:
            if self._libc.unshare(CLONE_NEWNET):
                pytest.skip(f"a network namespace takes root: {os.strerror(ctypes.get_errno())}")
            try:
                self._there = os.open(HERE, os.O_RDONLY)
                if self._up:
                    ip("link", "set", "lo", "up")
                for address in self._addresses:
                    more = ("nodad",) if ":" in address else ()
                    ip("addr", "add", f"{address}/{128 if ':' in address else 32}", "dev", "lo", *more)
            finally:
                self._go(home)
        finally:
            os.close(home)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._there)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be there, with this thread alone."""
        home = os.open(HERE, os.O_RDONLY)
        self._go(self._there)
        try:
            yield
        finally:
            self._go(home)
            os.close(home)

    def _go(self, namespace: int) -> None:
        if self._libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)
