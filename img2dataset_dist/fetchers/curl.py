"""The fetcher: libcurl's multi interface in one thread, `thread_count` transfers in flight.

libcurl brings keep-alive, HTTP/2, TLS session reuse, compressed transfer, deadlines and redirect rules; it tells us by
callbacks which sockets to watch, so a round costs what is active, not what is open. Handles are made once and reused.
"""

from __future__ import annotations

import os
import random
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import certifi
import pycurl

from img2dataset_dist import urls
from img2dataset_dist.about import PROJECT_URL, VERSION
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import BadUrl, Disallowed, EmptyBody, TooLarge
from img2dataset_dist.fetchers.outcome import failure_of, http_failure
from img2dataset_dist.fetchers.retry import RetryPolicy, Waiting, parse_retry_after
from img2dataset_dist.fetchers.x_robots import is_disallowed
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item

AGENT = "img2dataset-dist"
AGENT_NAMES = (AGENT, "img2dataset")
"""Names by which an X-Robots-Tag may address us: our own, and the tool that site owners have known for longer."""

ERROR_BODY = 256 * 2**10
"""Bytes of an error page that are read away to keep its connection; a longer one is cut off."""

_SIZE_DOWNLOAD = getattr(pycurl, "SIZE_DOWNLOAD_T", pycurl.SIZE_DOWNLOAD)

POLL = 0.02
"""Seconds after which a list that had nothing to give is asked again."""


def user_agent(token: str | None) -> str:
    """Who we say we are: honest, with a URL for site owners, and the user's own token."""
    return f"{AGENT}/{VERSION} (+{PROJECT_URL})" + (f" {token}" if token else "")


class Transfer:
    """One item on its way: which try it is, and what has come in so far."""

    __slots__ = ("attempts", "body", "discarded", "failure", "item", "retry_after", "robots", "status", "url")

    def __init__(self, item: Item, url: str) -> None:
        self.item = item
        self.url = url
        self.attempts = 0
        self.start()

    def start(self) -> None:
        """Forget an earlier try."""
        self.attempts += 1
        self.new_response(0)
        self.failure: Failure | None = None

    def new_response(self, status: int) -> None:
        """Headers of another response begin: the first, or the one behind a redirect."""
        self.status = status
        self.body = bytearray()
        self.discarded = 0
        self.robots: list[str] = []
        self.retry_after: str | None = None


class CurlFetcher:
    """See `Fetcher`. `clock` (seconds, monotonic) and `rand` (0 to 1) are arguments so that tests need not wait."""

    def __init__(
        self,
        config: FetchConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._random = rand
        self._policy = RetryPolicy(retries=config.retries, backoff=config.retry_backoff, max_wait=config.retry_max_wait)
        self._agents = frozenset({*AGENT_NAMES, (config.user_agent_token or AGENT).lower()})
        self._directives = frozenset(config.disallowed_header_directives)
        self._selector = selectors.DefaultSelector()
        self._timer: float | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, config.thread_count)
        self._free = [self._new_handle() for _ in range(config.thread_count)]
        self._active: dict[pycurl.Curl, Transfer] = {}
        self._waiting: Waiting[Transfer] = Waiting()
        self._ready: deque[Fetched] = deque()
        self._stopped = False

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """See `Fetcher.fetch`."""
        more = True
        while not self._stopped and (more or self._active or self._waiting or self._ready):
            idle = False
            while self._free and not idle:
                transfer = self._waiting.pop_due(self._clock())
                if transfer is None and more:
                    try:
                        item = next(items)
                    except StopIteration:
                        more = False
                        continue
                    idle = item is None
                    transfer = None if item is None else self._admit(item)
                    if len(self._ready) > self._config.thread_count:
                        idle = True  # rows that fail at once must not starve the transfers
                elif transfer is None:
                    idle = True
                if transfer is not None:
                    self._start(transfer)
            self._turn(self._patience(more=more))
            while self._ready:
                yield self._ready.popleft()

    def stop(self) -> None:
        """See `Fetcher.stop`."""
        self._stopped = True

    def close(self) -> None:
        """See `Fetcher.close`."""
        for handle in self._active:
            self._multi.remove_handle(handle)
            handle.close()
        self._active.clear()
        for handle in self._free:
            handle.close()
        self._free.clear()
        self._multi.close()
        self._selector.close()

    def _admit(self, item: Item) -> Transfer | None:
        """A transfer for an item, or its failure straight away."""
        if item.failure is not None:
            self._ready.append(Fetched(item=item, failure=item.failure))
            return None
        try:
            return Transfer(item, urls.parse(item.url).url)
        except BadUrl as error:
            self._ready.append(Fetched(item=item, failure=Failure.of(error)))
            return None

    def _start(self, transfer: Transfer) -> None:
        handle = self._free.pop()
        handle.setopt(pycurl.URL, transfer.url)
        handle.setopt(pycurl.WRITEFUNCTION, lambda chunk: self._on_body(transfer, chunk))
        handle.setopt(pycurl.HEADERFUNCTION, lambda line: self._on_header(transfer, line))
        self._active[handle] = transfer
        self._multi.add_handle(handle)

    def _patience(self, *, more: bool) -> float:
        """How long a turn may wait for sockets, in seconds."""
        if self._ready:
            return 0.0
        now = self._clock()
        waits = [1.0]
        if more and self._free:
            waits.append(POLL)
        if self._timer is not None:
            waits.append(self._timer - now)
        due = self._waiting.next_due()
        if due is not None and self._free:
            waits.append(due - now)
        return max(0.0, min(waits))

    def _turn(self, seconds: float) -> None:
        """Wait for sockets, let libcurl work on them, and collect what is finished."""
        if not self._selector.get_map():
            time.sleep(seconds)
        for key, events in self._selector.select(seconds) if self._selector.get_map() else ():
            mask = (pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
            )
            self._multi.socket_action(key.fd, mask)
        if self._timer is not None and self._timer <= self._clock():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _collect(self) -> None:
        more = 1
        while more:
            more, finished, failed = self._multi.info_read(100)
            for handle in finished:
                self._finish(handle, 0, "")
            for handle, number, message in failed:
                self._finish(handle, number, message)

    def _finish(self, handle: pycurl.Curl, number: int, message: str) -> None:
        transfer = self._active.pop(handle)
        self._multi.remove_handle(handle)
        failure = self._failure(transfer, handle, number, message)
        facts = self._facts(transfer, handle)
        self._free.append(handle)
        if failure is None:
            self._ready.append(Fetched(item=transfer.item, facts=facts, body=bytes(transfer.body)))
            return
        wait = None
        if failure.transient:
            wait = self._policy.wait(transfer.attempts, parse_retry_after(transfer.retry_after), self._random)
        if wait is None:
            self._ready.append(Fetched(item=transfer.item, facts=facts, failure=failure))
        else:
            transfer.start()
            self._waiting.add(self._clock() + wait, transfer)

    def _failure(self, transfer: Transfer, handle: pycurl.Curl, number: int, message: str) -> Failure | None:
        if transfer.failure is not None:
            return transfer.failure
        if transfer.status >= 400 or (transfer.status >= 300 and number == 0):  # noqa: PLR2004
            return http_failure(transfer.status)  # whatever happened to the body of the error page
        if number:
            return failure_of(number, message, handle)
        return None if transfer.body else Failure.of(EmptyBody("empty body"))

    def _facts(self, transfer: Transfer, handle: pycurl.Curl) -> FetchFacts:
        return FetchFacts(
            http_status=handle.getinfo(pycurl.RESPONSE_CODE) or None,
            final_url=_text(handle, pycurl.EFFECTIVE_URL),
            content_type=_text(handle, pycurl.CONTENT_TYPE),
            fetch_ms=round(handle.getinfo(pycurl.TOTAL_TIME) * 1000),
            attempts=transfer.attempts,
            bytes=len(transfer.body) or int(handle.getinfo(_SIZE_DOWNLOAD)),
        )

    def _on_header(self, transfer: Transfer, line: bytes) -> int:
        """One header line. Returns how much of it was taken; anything but its length ends the transfer."""
        if line.startswith(b"HTTP/"):
            code = line.split(None, 2)[1:2]
            transfer.new_response(int(code[0]) if code and code[0].isdigit() else 0)
        elif line[:1] in b"xXrR" and len(line) > 2:  # noqa: PLR2004 (the blank line is 2 bytes)
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "x-robots-tag":
                transfer.robots.append(value.strip())
            elif name.lower() == "retry-after":
                transfer.retry_after = value.strip()
        elif line in (b"\r\n", b"\n") and self._refused(transfer):
            transfer.failure = Failure.of(Disallowed("Use of image disallowed by X-Robots-Tag directive"))
            return 0
        return len(line)

    def _refused(self, transfer: Transfer) -> bool:
        """Whether the headers of a good answer forbid its use."""
        return (
            bool(transfer.robots and self._directives)
            and 200 <= transfer.status < 300  # noqa: PLR2004
            and is_disallowed(transfer.robots, self._agents, self._directives)
        )

    def _on_body(self, transfer: Transfer, chunk: bytes) -> int:
        """Some bytes of a body. Returns how many were taken; anything but all ends the transfer."""
        body = transfer.body
        if not 200 <= transfer.status < 300:  # noqa: PLR2004
            transfer.discarded += len(chunk)
            return len(chunk) if transfer.discarded <= ERROR_BODY else 0
        if len(body) + len(chunk) > self._config.max_body_bytes:
            transfer.failure = Failure.of(TooLarge("body too large"))
            transfer.body = bytearray()
            return 0
        body += chunk
        return len(chunk)

    def _on_socket(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """Libcurl asks to watch a socket, or to stop watching it."""
        if what == pycurl.POLL_REMOVE:
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(fd)
            return
        events = (selectors.EVENT_READ if what & pycurl.POLL_IN else 0) | (
            selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        )
        if not events:
            return
        try:
            self._selector.modify(fd, events)
        except (KeyError, OSError):
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(fd)
            self._selector.register(fd, events)

    def _on_timer(self, milliseconds: int) -> None:
        """Libcurl asks to be called in so many milliseconds; -1 for not at all."""
        self._timer = None if milliseconds < 0 else self._clock() + milliseconds / 1000

    def _new_handle(self) -> pycurl.Curl:
        config = self._config
        handle = pycurl.Curl()
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.REDIR_PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.FOLLOWLOCATION, 1)
        handle.setopt(pycurl.MAXREDIRS, config.max_redirects)
        handle.setopt(pycurl.PROXY, "")  # no proxy from the environment by surprise
        handle.setopt(pycurl.USERAGENT, user_agent(config.user_agent_token))
        handle.setopt(pycurl.ACCEPT_ENCODING, "")
        handle.setopt(pycurl.BUFFERSIZE, 2**18)
        handle.setopt(pycurl.TIMEOUT_MS, max(1, round(config.timeout * 1000)))
        connect = config.timeout if config.connect_timeout is None else min(config.connect_timeout, config.timeout)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, round(connect * 1000)))
        handle.setopt(pycurl.LOW_SPEED_LIMIT, config.min_bytes_per_second)
        handle.setopt(pycurl.LOW_SPEED_TIME, config.min_speed_window)
        handle.setopt(pycurl.CAINFO, os.environ.get("SSL_CERT_FILE") or certifi.where())
        if config.ignore_ssl_certificate:
            handle.setopt(pycurl.SSL_VERIFYPEER, 0)
            handle.setopt(pycurl.SSL_VERIFYHOST, 0)
        return handle


def _text(handle: pycurl.Curl, info: int) -> str | None:
    """A text fact; servers send any bytes, so libcurl's answer may not be UTF-8."""
    try:
        value = handle.getinfo(info)
    except UnicodeDecodeError:
        value = handle.getinfo_raw(info).decode("latin-1")
    return value or None
