"""The fetcher as a function, and servers of a few lines for what the nasty one does not do.

fetch([url, ...], timeout=2)        outcomes in the order of the URLs; rows are conserved
code(fetched)                       its error code, or "success"
with Raw(drip) as url: ...          each connection is handed to a function
with full_backlog() as url: ...     a port that drops every SYN
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.curl import CurlFetcher
from img2dataset_dist.model import Fetched, Item

SUCCESS = "success"


def items(urls: Sequence[str | None]) -> Iterator[Item]:
    for index, url in enumerate(urls):
        yield Item(shard_id=0, index=index, key=f"{index:04d}", url=url)


def fetcher(context: FetchContext | None = None, **options: Any) -> CurlFetcher:
    """A fetcher that may reach this machine."""
    config = {"timeout": 5, "retry_backoff": 0.01, "allow_private_addresses": True} | options
    return CurlFetcher(FetchConfig(**config), context)


def fetch(urls: Sequence[str | None], context: FetchContext | None = None, **options: Any) -> list[Fetched]:
    """Outcomes in the order of `urls`."""
    with contextlib.closing(fetcher(context, **options)) as running:
        found = list(running.fetch(items(urls)))
    assert sorted(f.item.index for f in found) == list(range(len(urls))), "rows are conserved"
    for one in found:
        assert (one.body is None) != (one.failure is None)
    return sorted(found, key=lambda f: f.item.index)


def timed(urls: Sequence[str | None], **options: Any) -> tuple[list[str], float]:
    """Codes in the order of `urls`, and the seconds that all of it took."""
    began = time.monotonic()
    found = fetch(urls, **options)
    return [code(one) for one in found], time.monotonic() - began


def code(fetched: Fetched) -> str:
    return fetched.failure.code if fetched.failure else SUCCESS


class Raw:
    """Each connection goes to `talk`, in a thread of its own, and is closed after it."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._talk = talk
        self.connections = 0

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the accept that waits
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._socket.accept()[0]
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            connection.recv(65536)
            self._talk(connection)


def dripping(head: bytes, *, every: float = 0.05, seconds: float = 20.0) -> Callable[[socket.socket], None]:
    """Sends `head`, then a byte now and then until the client has gone."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(round(seconds / every)):
            time.sleep(every)
            connection.sendall(b"x")

    return talk


@contextlib.contextmanager
def full_backlog() -> Iterator[str | None]:
    """URL of a port whose queue is full, so that the kernel drops each SYN; None where it does not do that."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            one = stack.enter_context(socket.socket())
            one.settimeout(0.2)
            try:
                one.connect(listener.getsockname())
            except TimeoutError:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg"
                return
        yield None
