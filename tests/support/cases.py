"""Every behaviour of the nasty server, and what has to come of a row that meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from support.fetching import SUCCESS

MAX_BODY = 2_000_000
SHORT = 1.0
"""`timeout` of the cases that end by it; the others have `LONG`, so that a busy machine does not matter."""

LONG = 15.0


def whole(photo: bytes) -> bytes:
    return photo


def half(photo: bytes) -> bytes:
    return photo[: len(photo) // 2]


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `ID` in the path is replaced by something that only this row has.

    Attributes:
        path: of the URL.
        outcome: error code of the fetch, or success.
        status: `http_status` of the row.
        body: what a success brings, from the bytes of the picture; None: something else, not empty.
        stored: error code at the end of the pipeline, where it is another.
        timeout: option; the row may take two seconds longer.
        options: more of them. Such a case is no part of the one great list.
        h2: outcomes through nginx and HTTP/2, where nginx makes another thing of it.
    """

    path: str
    outcome: str = SUCCESS
    status: int | None = 200
    body: Callable[[bytes], bytes] | None = whole
    stored: str = ""
    timeout: float = LONG
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    h2: tuple[str, ...] = ()

    @property
    def behaviour(self) -> str:
        return self.path.partition("?")[0].split("/")[1]

    @property
    def account(self) -> str:
        """What `error_code` of the dataset says; success for None."""
        return self.stored or self.outcome

    def url_path(self, number: int | str) -> str:
        """The path for one of many rows."""
        path = self.path.replace("ID", f"row-{number}")
        return f"{path}{'&' if '?' in path else '?'}row={number}"

    def content(self, folder: Path) -> bytes | None:
        """The body of a success."""
        name = next((part for part in self.path.partition("?")[0].split("/") if part.endswith(".jpg")), None)
        photo = (folder / (name or "photo_00000.jpg")).read_bytes()
        return self.body(photo) if self.body else None


slow = partial(Case, timeout=SHORT)
PHOTO = "photo_00001.jpg"
IDLE = {"min_bytes_per_second": 1000, "min_speed_window": 0.5}
BAD_GATEWAY = ("http_502",)
RESET = ("reset",)

GOOD = (
    Case(f"/photo/{PHOTO}"),
    Case(f"/chunked/{PHOTO}"),
    Case(f"/trailers/{PHOTO}"),
    Case("/no-length"),
    Case("/half-close"),
    Case("/gzip"),
    Case("/deflate"),
    Case("/deflate?raw=1"),
    Case(f"/typed/{PHOTO}?type=text/html"),
    Case(f"/typed/{PHOTO}?type="),
    Case("/length-and-chunked"),
    Case("/early-hints", h2=(SUCCESS, "reset")),  # not every nginx knows 103
    Case("/keepalive-close"),
    Case("/latency?ms=50"),
    Case("/first-byte?s=0.2"),
    Case("/slow-first-byte?s=0.2"),
    Case("/throttle/ID?limit=1"),
    Case("/robots?tag=otherbot:%20noai"),
    Case("/huge-header?n=50000", h2=BAD_GATEWAY),
    Case("/echo-headers", body=None, stored="not_media"),
    Case("/html", body=None, stored="not_media"),
    Case("/big?n=100000", body=lambda _: bytes(100000), stored="not_media"),
    Case("/big?n=100000&length=0", body=lambda _: bytes(100000), stored="not_media"),
    Case("/half-picture", body=half, stored="decode_error"),
    Case(f"/redirect/3/photo/{PHOTO}"),
    Case(f"/redirect/10/photo/{PHOTO}?code=308"),
    Case(f"/redirect-relative/{PHOTO}"),
    Case(f"/redirect-host/photo/{PHOTO}"),
    Case(f"/redirect-slow/2/{PHOTO}?s=0.1"),
    *(Case(f"/redirect-bad/{kind}", h2=("http_403",)) for kind in ("crlf", "space", "latin1", "utf8")),
)
"""Odd, but good enough."""

STATUSES = (
    *(Case(f"/status/{code}", f"http_{code}", code) for code in (304, 400, 401, 404, 408, 410, 418, 425, 500, 501)),
    *(Case(f"/status/{code}", f"http_{code}", code) for code in (502, 503, 504, 600, 999)),
    Case("/status/429?retry_after=0", "http_429", 429),
    Case("/status/204", "empty_body", 204),
    Case("/status/99", "protocol", None, h2=RESET),
    Case("/flaky/ID?fail=1", "http_503", 503),
    Case("/throttle/ID?limit=0", "http_429", 429),
    Case("/retry-date", "http_503", 503),
    Case("/auth", "http_401", 401),
    Case("/304", "http_304", 304),
    Case("/text-404", "http_404", 404),
    Case("/robots.txt", "http_404", 404),
    Case("/no-such-behaviour", "http_404", 404),
)

REFUSED = (
    Case("/206", "protocol", 206),
    Case("/upgrade", "protocol", 101, h2=RESET),
    Case("/empty", "empty_body"),
    Case("/robots?tag=noai", "disallowed_by_header"),
    Case("/robots?tag=all&tag=img2dataset-dist:%20noindex", "disallowed_by_header"),
    Case("/big?n=3000000", "too_large"),
    Case("/big?n=3000000&length=0", "too_large"),
    Case("/huge-announce", "too_large"),
    Case("/gzip-bomb?mib=20", "too_large"),
    Case("/gzip-drip?mib=20&n=2000", "too_large"),
    Case("/bad-gzip", "protocol"),
    Case("/bad-brotli", "protocol"),
    Case("/bad-chunk", "protocol", h2=RESET),
    Case("/garbage", "protocol", None, h2=RESET),
    Case("/http09", "protocol", None, h2=RESET),
    Case("/two-lengths", "protocol", h2=RESET),
    Case("/negative-length", "protocol", h2=(SUCCESS,)),
    Case("/huge-header?n=2000000", "protocol", h2=BAD_GATEWAY),
    Case("/endless-headers", "protocol", h2=BAD_GATEWAY),
    Case("/continue-flood?every=0.001", "protocol", 100, h2=RESET),
    Case("/redirect-loop", "redirect_loop", 302),
    Case(f"/redirect/11/photo/{PHOTO}", "redirect_loop", 302),
    Case("/redirect-file", "redirect_refused", 302),
    Case("/redirect-ftp", "redirect_refused", 302),
    Case("/redirect-to?url=gopher://127.0.0.1/", "redirect_refused", 302),
    Case("/redirect-to?url=http://", "protocol", 302),
    Case("/redirect-empty", "http_302", 302),
    Case("/redirect-empty?code=308", "http_308", 308),
    *(Case(f"/redirect-bad/{kind}", "protocol", 302) for kind in ("no-host", "port", "brackets")),
    Case("/redirect-bad/control", "protocol", 302, h2=("http_302", "protocol")),
    *(Case(f"/redirect-bad/{kind}", "protocol", 302, h2=BAD_GATEWAY) for kind in ("nul", "cr")),
)

CUT = (
    Case("/truncated", "truncated", h2=RESET),
    Case("/chunked-cut", "truncated", h2=RESET),
    Case("/reset", "reset", None, h2=BAD_GATEWAY),
    Case("/reset-body", "reset"),
    Case("/close", "reset", None, h2=BAD_GATEWAY),
    Case("/redirect-bad/scheme", "reset", None, h2=BAD_GATEWAY),  # a relative one, to where the connection is closed
    Case("/redirect-private?to=127.0.0.1:1", "connect", None),
)

LATE = (
    slow("/hang", "timeout_first_byte", None),
    slow("/first-byte?s=60", "timeout_first_byte", None),
    slow("/hang-headers", "timeout_total", h2=("timeout_first_byte",)),
    slow("/drip-headers?every=0.05", "timeout_total", h2=("timeout_first_byte",)),
    slow("/slow-first-byte?s=60", "timeout_total", h2=("timeout_first_byte", "timeout_total")),
    slow("/drip?every=0.05", "timeout_total"),
    slow("/gzip-drip?mib=1&n=5", "timeout_total"),
    slow("/endless-chunks", "timeout_total"),
    slow("/continue-flood?every=0.2", "timeout_total", 100, h2=RESET),
    slow(f"/redirect-slow/20/{PHOTO}?s=0.4", "timeout_total", None),
    Case("/drip?every=0.02", "timeout_idle", options=IDLE),
    Case("/drip-headers?every=0.02", "timeout_idle", timeout=3, options=IDLE, h2=("timeout_first_byte",)),
    Case("/endless-chunks?every=0.1", "timeout_idle", options=IDLE),
    Case("/first-byte?s=60", "timeout_first_byte", None, options={"first_byte_timeout": 0.5}),
)

CASES = (*GOOD, *STATUSES, *REFUSED, *CUT, *LATE)

TRANSIENT = frozenset({
    "http_408", "http_425", "http_429", "http_500", "http_502", "http_503", "http_504", "connect", "reset", "truncated",
    "timeout_first_byte", "timeout_idle", "timeout_total",
})  # fmt: skip
"""Of the outcomes here, those that are worth another try."""
