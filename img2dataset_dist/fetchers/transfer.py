"""One row on its way: where it is in its chain of redirects, what has come in so far, and its clocks."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from img2dataset_dist.fetchers.body import FileBody
from img2dataset_dist.fetchers.walls import CHALLENGE
from img2dataset_dist.model import Failure, FetchFacts, Item

if TYPE_CHECKING:
    import pycurl

    from img2dataset_dist.fetchers.hosts import Host
    from img2dataset_dist.urls import Url

HEADERS = frozenset(b"HhCcLlXxRrEe")
"""First bytes of the header lines that matter.

The status line, Content-Length and -Range, Location, X-Robots-Tag, Retry-After, ETag, cf-mitigated.
"""

_CONTENT_RANGE = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
"""RFC 9110, 14.4; not what comes with status 416, which has no range."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Where(Enum):
    """Where a transfer is, between `take` and `done` of its host."""

    RESOLVING = "resolving"
    ON_THE_WIRE = "on the wire"
    PAUSED = "paused"  # by us: there is no room for its body
    READING = "reading"  # an object store or a file, in a thread


class Transfer:
    """What is known about one fetch. Times are seconds of the fetcher's clock.

    Attributes:
        item: the row; None for a robots.txt.
        url: what is asked now; changes with redirects. `first` is where it began.
        attempts: tries that came to a request; `tries` counts those that were refused too.
        spent: seconds on the network of this try, in earlier requests of its chain or its row.
        began: when the present request got its slot.
        asks: how often the request was sent; twice when a kept connection was found closed.
        received: bytes of headers and body of the present response.
        fresh: it needs a new connection, since a kept one was found closed.
        was_paused: we made it wait, so that its server may have lost patience; `unlucky` counts what that cost.
        reserved: bytes of the budget that it holds.
        facts: of the last request that ended.
        body: what has come of it; a `FileBody` where media go to files.
        length, total: bytes of the body and of the whole resource, -1 when not known.
        span: first and last byte of the resource that the body is, as the server says; None where it does not.
        challenged: it says that its answer is a test whether we are a browser.
        page: the beginning of an error page that may be such a one (`walls.py`), where that is asked for.
    """

    __slots__ = (
        "addresses", "asks", "attempts", "began", "blocked", "body", "challenged", "cut", "discarded", "dns", "etag",
        "facts", "failure", "first", "fresh", "handle", "host", "item", "length", "location", "page", "paused_at",
        "proxied", "received", "redirects", "reserved", "retry_after", "robots", "robots_txt", "seen", "span", "spent",
        "status", "total", "tries", "unlucky", "url", "was_paused", "where", "window_bytes", "window_start",
    )  # fmt: skip

    def __init__(self, item: Item | None, url: Url) -> None:
        self.item = item
        self.first = url
        self.attempts = 0
        self.tries = 0
        self.unlucky = 0
        self.reserved = 0
        self.facts = FetchFacts()
        self.body: bytearray | FileBody = bytearray()
        self.robots_txt: str | None = None
        self.host: Host[Transfer] | None = None
        self.handle: pycurl.Curl | None = None
        self.new_try()

    def new_try(self) -> None:
        """Begin again at the first URL."""
        self.spent = self.item.spent if self.item is not None else 0.0
        self.redirects = 0
        self.seen: set[str] | None = None
        self.new_request(self.first)

    def new_request(self, url: Url) -> None:
        """The next URL of the chain."""
        self.url = url
        self.where = Where.RESOLVING
        self.addresses: tuple[str, ...] = ()
        self.dns = 0.0
        self.began = 0.0
        self.received = 0
        self.window_start = self.window_bytes = 0.0
        self.asks = 0
        self.blocked = self.cut = self.fresh = self.proxied = self.was_paused = False
        self.paused_at = 0.0
        self.failure: Failure | None = None
        self.new_response(0)

    def new_response(self, status: int) -> None:
        """Headers of another response begin."""
        self.status = status
        self.clear()
        self.discarded = 0
        self.length = self.total = -1
        self.span: tuple[int, int] | None = None
        self.etag: str | None = None
        self.location: bytes | None = None
        self.robots: list[str] = []
        self.retry_after: str | None = None
        self.challenged = False
        self.page = b""

    def clear(self) -> None:
        """Forget the body."""
        if isinstance(self.body, FileBody):
            self.body.drop()
        self.body = bytearray()

    @property
    def good(self) -> bool:
        """Whether the answer is a 2xx, so that its body counts."""
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def x_robots_tag(self) -> str | None:
        """All X-Robots-Tag headers, for the row."""
        return "; ".join(self.robots)[:1000] or None

    def header(self, line: bytes) -> None:
        """One header line of a response that begins with one of `HEADERS`."""
        if line.startswith(b"HTTP/"):
            code = line.split(None, 2)[1:2]
            self.new_response(int(code[0]) if code and code[0].isdigit() and len(code[0]) == 3 else 0)  # noqa: PLR2004
            return
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"content-length":
            if value.strip().isdigit():
                self.length = int(value.strip()[:18])
        elif name == b"content-range":
            found = _CONTENT_RANGE.fullmatch(value.strip())
            if found is not None:
                self.span = int(found[1]), int(found[2])
                self.total = int(found[3]) if found[3] != b"*" else -1
        elif name == b"etag":
            self.etag = value.decode("latin-1").strip()[:200]
        elif name == b"location":
            self.location = value.strip()
        elif name == b"cf-mitigated":
            self.challenged = value.decode("latin-1").strip().lower() == CHALLENGE
        elif name == b"x-robots-tag":
            self.robots.append(value.decode("latin-1").strip())
        elif name == b"retry-after":
            self.retry_after = value.decode("latin-1").strip()
