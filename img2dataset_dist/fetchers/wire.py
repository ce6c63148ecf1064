"""libcurl's multi interface as an event loop: transfers in, ends of transfers out.

libcurl brings keep-alive, HTTP/2, TLS sessions and compressed transfer; it tells us by callbacks which sockets to
watch, so a turn costs what is active, not what is open. Handles are made once and reused. Nothing here knows about
rows, hosts or retries. Redirects are not followed here: each of their requests has to pass the gate of its host.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

import certifi
import pycurl

from img2dataset_dist.about import PROJECT_URL, VERSION
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.fetchers.addresses import is_public
from img2dataset_dist.fetchers.transfer import Transfer

AGENT = "img2dataset-dist"

STALE_SECONDS = 2.0
"""Within this time of its request a kept connection turns out to be closed, or it was not."""

IDLE_SECONDS = 60
"""Connections that were not used for so long are not used again; servers tend to have closed them."""


def user_agent(token: str | None) -> str:
    """Who we say we are: honest, with a URL for site owners, and the user's own token."""
    return f"{AGENT}/{VERSION} (+{PROJECT_URL})" + (f" {token}" if token else "")


class Receiver(Protocol):
    """Who hears what comes in."""

    def on_header(self, transfer: Transfer, line: bytes) -> int | None:
        """One header line. Returns None to go on, 0 to end the transfer."""

    def on_body(self, transfer: Transfer, chunk: bytes) -> int | None:
        """Some bytes of a body. Returns None for all taken, PAUSE to get them again later, 0 to end the transfer."""


PAUSE: int = pycurl.WRITEFUNC_PAUSE


class End(NamedTuple):
    """The end of a transfer: libcurl's code (0 for a good one) and its words."""

    transfer: Transfer
    number: int
    message: str


class Extras(NamedTuple):
    """What a request has besides its URL: headers of the user's, a proxy, and whether its connection may be kept."""

    headers: tuple[tuple[str, str], ...] = ()
    proxy: str | None = None
    keep: bool = True


class Wire:
    """See the module. `wake` may be called from any thread, everything else from the fetch thread."""

    def __init__(self, config: FetchConfig, receiver: Receiver, clock: Callable[[], float]) -> None:
        self._config = config
        self._receiver = receiver
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._woken)
        self._timer: float | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, config.thread_count)
        # Idle connections make room for new ones: never more sockets than transfers, and the idle ones live longer.
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, config.thread_count)
        self._free: list[pycurl.Curl] = []
        self._busy: dict[pycurl.Curl, Transfer] = {}
        self._given: socket.socket | None = None
        self.ended: deque[End] = deque()

    def start(self, transfer: Transfer, extras: Extras) -> None:
        """Put a request on the wire; `transfer.addresses` are connected to, whatever its name resolves to."""
        handle = self._free.pop() if self._free else self._new_handle()
        url = transfer.url
        handle.setopt(pycurl.URL, url.url)
        handle.setopt(pycurl.WRITEFUNCTION, partial(self._receiver.on_body, transfer))
        handle.setopt(pycurl.HEADERFUNCTION, partial(self._receiver.on_header, transfer))
        handle.setopt(pycurl.PREREQFUNCTION, lambda *_: self._may_ask(transfer))
        handle.setopt(pycurl.OPENSOCKETFUNCTION, lambda _purpose, address: self._open_socket(transfer, address))
        if transfer.addresses and transfer.addresses != (url.host,):  # an IPv6 address is no host to RESOLVE
            where = ",".join(f"[{a}]" if ":" in a else a for a in transfer.addresses)
            handle.setopt(pycurl.RESOLVE, [f"+{url.host}:{url.port}:{where}"])
        if transfer.fresh:
            handle.setopt(pycurl.FRESH_CONNECT, 1)
        if not extras.keep:
            handle.setopt(pycurl.FORBID_REUSE, 1)
        if extras.headers:
            handle.setopt(pycurl.HTTPHEADER, [f"{n}: {v}" if v else f"{n};" for n, v in extras.headers])
        if extras.proxy:
            handle.setopt(pycurl.PROXY, extras.proxy)
            transfer.proxied = True
        transfer.handle = handle
        self._busy[handle] = transfer
        self._multi.add_handle(handle)

    def end(self, transfer: Transfer) -> None:
        """Take a transfer off the wire, whether it is done or not, and make its handle ready for another."""
        handle = transfer.handle
        assert handle is not None
        transfer.handle = None
        del self._busy[handle]
        self._multi.remove_handle(handle)
        if transfer.addresses:
            handle.setopt(pycurl.RESOLVE, [])
        if transfer.fresh:
            handle.setopt(pycurl.FRESH_CONNECT, 0)
        if transfer.proxied:
            handle.setopt(pycurl.PROXY, "")
        handle.setopt(pycurl.FORBID_REUSE, 0)
        handle.unsetopt(pycurl.HTTPHEADER)
        self._free.append(handle)

    def go_on(self, transfer: Transfer) -> None:
        """Let a transfer that was paused receive again."""
        assert transfer.handle is not None
        transfer.handle.pause(pycurl.PAUSE_CONT)

    def wake(self) -> None:
        """End the present wait; something else has happened."""
        with suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")

    def next_timer(self) -> float | None:
        """When libcurl wants to be called at the latest."""
        return self._timer

    def turn(self, seconds: float) -> None:
        """Wait for sockets, let libcurl work on them, and collect what ended."""
        self._let_go()
        for key, events in self._selector.select(seconds):
            if key.data is self._woken:
                with suppress(BlockingIOError, OSError):
                    self._woken.recv(4096)
                continue
            mask = (pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
            )
            self._multi.socket_action(key.fd, mask)
        if self._timer is not None and self._timer <= self._clock():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        more = 1
        while more:
            more, finished, failed = self._multi.info_read(100)
            self.ended.extend(End(self._busy[handle], 0, "") for handle in finished)
            self.ended.extend(End(self._busy[handle], number, message) for handle, number, message in failed)

    def close(self) -> None:
        """Drop all connections."""
        for handle in self._busy:
            self._multi.remove_handle(handle)
        self._multi.close()
        for handle in (*self._busy, *self._free):
            handle.close()
        self._busy.clear()
        self._free.clear()
        self._selector.close()
        self._let_go()
        self._waker.close()
        self._woken.close()

    def _may_ask(self, transfer: Transfer) -> Any:
        """Libcurl is about to send the request, again when a kept connection failed it.

        Once more is fine where it was closed already, and then on a new one; later the server had the request, and
        whether it gets it again is for the gate to say.
        """
        late = self._clock() - transfer.began > STALE_SECONDS
        if transfer.asks and (late or transfer.asks > 1 + transfer.fresh):
            return pycurl.PREREQFUNC_ABORT
        transfer.asks += 1
        return pycurl.PREREQFUNC_OK

    def _open_socket(self, transfer: Transfer, address: Any) -> Any:
        """The last word on where a connection goes: nothing can come between this address and the socket."""
        if not (self._config.allow_private_addresses or transfer.proxied or is_public(str(address.addr[0]))):
            transfer.blocked = True
            return pycurl.SOCKET_BAD
        self._let_go()
        self._given = socket.socket(address.family, address.socktype, address.protocol)
        return self._given

    def _let_go(self) -> None:
        """Close our end of the last socket that was made: pycurl has taken a duplicate of it."""
        if self._given is not None:
            self._given.close()
            self._given = None

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
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(fd)
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
        handle.setopt(pycurl.HTTP09_ALLOWED, 0)
        handle.setopt(pycurl.PROXY, "")  # no proxy from the environment by surprise
        handle.setopt(pycurl.NOPROXY, "")  # nor none: `no_proxy` would have a proxied host connected to unchecked
        handle.setopt(pycurl.USERAGENT, user_agent(config.user_agent_token))
        handle.setopt(pycurl.ACCEPT_ENCODING, "")
        handle.setopt(pycurl.BUFFERSIZE, 2**18)
        handle.setopt(pycurl.MAXAGE_CONN, IDLE_SECONDS)
        connect = config.timeout if config.connect_timeout is None else min(config.connect_timeout, config.timeout)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, round(connect * 1000)))
        handle.setopt(pycurl.CAINFO, os.environ.get("SSL_CERT_FILE") or certifi.where())
        if config.ignore_ssl_certificate:
            handle.setopt(pycurl.SSL_VERIFYPEER, 0)
            handle.setopt(pycurl.SSL_VERIFYHOST, 0)
        return handle
