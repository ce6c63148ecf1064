"""yt-dlp's way to the network: every request under the rules for its host, every byte counted.

One way only, that of the standard library, whose connections the guard sees (`ytdlp_guard.py`). A redirect is a request
like another, so that rules, headers and proxies are always those of the host that is asked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import time
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.networking import Request, Response
from yt_dlp.networking import _urllib as urllib_handler
from yt_dlp.networking.exceptions import HTTPError, RequestError

from img2dataset_dist.fetchers.host_table import HostRule
from img2dataset_dist.fetchers.robots import MAX_BYTES, MAX_REDIRECTS, RobotsCache, robots_url
from img2dataset_dist.fetchers.ytdlp_errors import PageTooLarge
from img2dataset_dist.fetchers.ytdlp_guard import Guard
from img2dataset_dist.fetchers.ytdlp_options import Settings

PAGE_BYTES = 64 * 2**20
"""Of pages, playlists and answers of APIs together, for one row."""

_SCHEMES = ("http", "https", "data")
_HEAD = 256 * 2**10
"""Bytes of a page that are kept to see what it says."""

REFUSALS = {
    "blocked_address": "the address is not of the open Internet; allow_private_addresses=True allows it",
    "ignored_host": "the host is on the ignore list",
    "redirect_refused": "it leads to something that is no http or https URL",
    "disallowed_by_robots": "robots.txt: disallowed",
    "redirect_loop": "too many redirects",
    "too_large": "larger than max_body_bytes",
}
"""What the guard or we have refused, for people."""


class Redirected(RequestError):  # type: ignore[misc]
    """The answer is a redirect; it is for `Network.urlopen` to follow it."""

    def __init__(self, following: urllib.request.Request) -> None:
        super().__init__("a redirect")
        self._following = following

    def following(self, request: Request, rule: HostRule) -> Request:
        """The next request; what was for the first host only is not in it.

        yt-dlp leaves out cookies; those of the new host come from the jar.
        """
        new = self._following
        headers = dict(new.header_items())
        if urlsplit(new.full_url).netloc != urlsplit(request.url).netloc:
            private = {"authorization", *(name.lower() for name, _ in rule.headers)}
            headers = {name: value for name, value in headers.items() if name.lower() not in private}
        return Request(new.full_url, new.data, headers, method=new.get_method(), extensions=request.extensions.copy())


class Network(yt_dlp.YoutubeDL):  # type: ignore[misc]
    """yt-dlp, with an eye on all that it asks for.

    Attributes:
        requests, total: requests and bytes of the row so far.
        received, limit: bytes towards the present limit, and that.
        page: the beginning of the last page.
        last_error: what the network said last.
        url, status: where the first answer came from, and the status of the last one.
    """

    def __init__(self, settings: Settings, guard: Guard, params: dict[str, Any]) -> None:
        self.settings = settings
        self.guard = guard
        self._next_start: dict[str, float] = {}
        self._robots = RobotsCache(settings.robots) if settings.robots else None
        self.begin("")
        super().__init__(params)
        self._request_director = self.build_request_director([urllib_handler.UrllibRH])

    def begin(self, folder: str) -> None:
        """Another row."""
        self.requests = 0
        self.total = 0
        self.received = 0
        self.limit = PAGE_BYTES
        self.page = ""
        self.last_error: Exception | None = None
        self.url: str | None = None
        self.status: int | None = None
        self._playlists: dict[str, tuple[bytes, Response]] = {}
        self.guard.refused.clear()
        self.guard.folders = (self.settings.home, folder) if folder else (self.settings.home,)

    def urlopen(self, req: Any) -> Any:
        """See yt_dlp.YoutubeDL; each redirect is a request like another, under the rules for its own host."""
        request = Request(req) if isinstance(req, str) else req
        asked, own_proxies = request.url, dict(request.proxies)
        if asked in self._playlists and request.data is None:
            return _again(*self._playlists[asked])
        for _ in range(self.settings.redirects + 1):
            try:
                return self._kept(asked, self._watched(super().urlopen(self._ruled(request))))
            except Redirected as redirect:
                rule = self.settings.table.rule((urlsplit(request.url).hostname or "").lower())
                request = redirect.following(request, rule)
                request.proxies = dict(own_proxies)
            except RequestError as error:
                self.last_error = error
                raise
        raise self.guard.refuse("redirect_loop", "")

    def _ruled(self, request: Request, *, ask_robots: bool = True) -> Request:
        """The request, by the rules for its host, when its time has come.

        Raises:
            Refused: it is not to be made.
        """
        parts = urlsplit(request.url)
        if parts.scheme.lower() not in _SCHEMES:
            raise self.guard.refuse("redirect_refused", parts.scheme)
        host = (parts.hostname or "").lower()
        if host and self.guard.ignored(host):
            raise self.guard.refuse("ignored_host", host)
        rate = self._permitted(request.url, host) if self._robots is not None and ask_robots else None
        rule = self.settings.table.rule(host)
        request.headers.update(dict(rule.headers))
        if rule.proxy:
            request.proxies["all"] = rule.proxy
        proxy = rule.proxy or self.settings.params.get("proxy")
        self.guard.endpoints.now = _endpoints(proxy) if proxy else set()
        self._pace(host, min((one for one in (rule.rate, rate) if one is not None), default=None))
        self.requests += 1
        return request

    def _permitted(self, url: str, host: str) -> float | None:
        """Requests per second that the site's robots.txt asks for, None where it does not.

        Raises:
            Refused: it does not allow the URL.
        """
        assert self._robots is not None
        verdict = self._robots.verdict(url)
        if verdict is None:
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            self._robots.store(origin, *self._robots_file(robots_url(origin)))
            verdict = self._robots.verdict(url)
        if verdict is None or not verdict.allowed:
            raise self.guard.refuse("disallowed_by_robots", host)
        return None if verdict.crawl_delay is None else 1 / verdict.crawl_delay

    def _robots_file(self, url: str) -> tuple[int, bytes]:
        """Status and content of a robots.txt.

        Raises:
            RequestError: the site does not answer; so its pages would not come either.
        """
        request = Request(url)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = super().urlopen(self._ruled(request, ask_robots=False))
                return response.status, response.read(MAX_BYTES)
            except Redirected as redirect:
                request = redirect.following(request, HostRule())
            except HTTPError as error:
                return error.status, b""
        return HTTPStatus.FOUND, b""

    def _pace(self, host: str, rate: float | None) -> None:
        """No more requests per second than the host may have."""
        pace = min(self.settings.pace, float("inf") if rate is None else rate * self.settings.share)
        now = time.monotonic()
        start = max(now, self._next_start.get(host, 0.0))
        self._next_start[host] = start + 1 / pace
        time.sleep(start - now)

    def _watched(self, response: Response) -> Response:
        """The answer, of which every byte is counted, and whose beginning is kept when it is a page."""
        self.url, self.status = self.url or response.url, response.status
        length = response.headers.get("Content-Length", "")
        if self.limit != PAGE_BYTES and length.isdecimal() and self.received + int(length) > self.limit:
            raise self._too_large()
        kept: list[bytes] | None = [] if "html" in response.headers.get("Content-Type", "") else None
        response.read = functools.partial(self._read, response.read, kept)
        return response

    def _kept(self, asked: str, response: Response) -> Response:
        """The answer; a playlist is kept for its row, since yt-dlp asks for it up to four times."""
        kind = response.headers.get("Content-Type", "").lower()
        if response.status != HTTPStatus.OK or not ("mpegurl" in kind or "dash+xml" in kind):
            return response
        self._playlists[asked] = response.read(), response
        return _again(*self._playlists[asked])

    def _read(self, read: Callable[[int], bytes], kept: list[bytes] | None, amount: int | None = None) -> bytes:
        wanted = float("inf") if amount is None or amount < 0 else amount
        pieces: list[bytes] = []
        while wanted > 0 and (piece := self._piece(read, int(min(wanted, 2**16)))):
            self.total += len(piece)
            self.received += len(piece)
            if self.received > self.limit:
                raise self._too_large()
            pieces.append(piece)
            wanted -= len(piece)
        if kept is not None and sum(map(len, kept)) < _HEAD:
            kept += pieces
            self.page = b"".join(kept)[:_HEAD].decode("utf-8", "replace")
        return b"".join(pieces)

    def _piece(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except RequestError as error:
            self.last_error = error
            raise

    def _too_large(self) -> PageTooLarge:
        what = "pages of more than 64 MiB" if self.limit == PAGE_BYTES else REFUSALS["too_large"]
        self.guard.refuse("too_large", what)
        return PageTooLarge(what)


def _again(body: bytes, response: Response) -> Response:
    """An answer that was there before."""
    return Response(io.BytesIO(body), response.url, response.headers, response.status, response.reason)


def _endpoints(proxy: str) -> set[tuple[str, int]]:
    """Where a proxy of the user's is; it may be anywhere."""
    parts = urlsplit(proxy)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 1080)
    with contextlib.suppress(OSError):
        return {(str(to[0]), port) for *_, to in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    return set()


def follow_no_redirect() -> None:
    """Redirects are for `Network.urlopen` to follow."""
    redirect_request = urllib_handler.RedirectHandler.redirect_request

    def redirect(self: Any, req: Any, fp: Any, *rest: Any) -> NoReturn:
        following = redirect_request(self, req, fp, *rest)
        fp.close()
        raise Redirected(following)

    urllib_handler.RedirectHandler.redirect_request = redirect
