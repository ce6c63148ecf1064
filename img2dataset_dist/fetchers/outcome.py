"""What libcurl reports, as our errors: one table, and the cases that need a look at the transfer."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import pycurl

from img2dataset_dist.errors import (
    BadUrl,
    BlockedAddress,
    ConnectError,
    ConnectTimeout,
    DnsError,
    EmptyBody,
    FetchError,
    HttpStatus,
    ProtocolError,
    Reset,
    RowError,
    SiteBlocked,
    TlsError,
    TooLarge,
    TotalTimeout,
    Truncated,
)
from img2dataset_dist.fetchers.health import NO_ROUTE
from img2dataset_dist.fetchers.hosts import Sign
from img2dataset_dist.fetchers.transfer import REDIRECTS, Transfer
from img2dataset_dist.fetchers.walls import STATUS, is_wall
from img2dataset_dist.fetchers.wire import STALE_SECONDS, End
from img2dataset_dist.model import Failure, FetchFacts

BLOCKED = "the address is not of the open Internet; allow_private_addresses=True allows it"

WALL = "the site takes us for a robot or finds that we ask too much"

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
"""The standard ones: what the server itself says could be anything, and messages are counted."""

_SIZE_DOWNLOAD = getattr(pycurl, "SIZE_DOWNLOAD_T", pycurl.SIZE_DOWNLOAD)
_TIMES = (
    pycurl.NAMELOOKUP_TIME, pycurl.CONNECT_TIME, pycurl.APPCONNECT_TIME, pycurl.PRETRANSFER_TIME,
    pycurl.STARTTRANSFER_TIME,
)  # fmt: skip

_E_WEIRD_SERVER_REPLY, _E_HTTP2_STREAM, _E_TOO_LARGE = 8, 92, 100  # CURLE_ codes that pycurl does not name

_TABLE: dict[int, tuple[type[RowError], str]] = {
    pycurl.E_URL_MALFORMAT: (BadUrl, "malformed URL"),
    pycurl.E_UNSUPPORTED_PROTOCOL: (ProtocolError, "the server does not speak HTTP"),
    pycurl.E_COULDNT_RESOLVE_HOST: (DnsError, "could not resolve host"),
    pycurl.E_COULDNT_RESOLVE_PROXY: (DnsError, "could not resolve proxy"),
    pycurl.E_COULDNT_CONNECT: (ConnectError, "could not connect"),
    pycurl.E_GOT_NOTHING: (Reset, "connection closed without an answer"),
    pycurl.E_ABORTED_BY_CALLBACK: (Reset, "connection closed without an answer"),
    pycurl.E_SEND_ERROR: (Reset, "connection reset"),
    pycurl.E_RECV_ERROR: (Reset, "connection reset"),
    _E_HTTP2_STREAM: (Reset, "HTTP/2 stream reset"),
    pycurl.E_PARTIAL_FILE: (Truncated, "body ended early"),
    pycurl.E_FILESIZE_EXCEEDED: (TooLarge, "body too large"),
    pycurl.E_HTTP2: (ProtocolError, "HTTP/2 error"),
    pycurl.E_BAD_CONTENT_ENCODING: (ProtocolError, "bad content encoding"),
    _E_WEIRD_SERVER_REPLY: (ProtocolError, "the server does not speak HTTP"),
    _E_TOO_LARGE: (ProtocolError, "headers too large"),
    **dict.fromkeys(
        (
            pycurl.E_SSL_CONNECT_ERROR,
            pycurl.E_SSL_CERTPROBLEM,
            pycurl.E_SSL_CIPHER,
            pycurl.E_SSL_ISSUER_ERROR,
            pycurl.E_SSL_ENGINE_NOTFOUND,
            pycurl.E_SSL_INVALIDCERTSTATUS,
        ),
        (TlsError, "TLS handshake failed"),
    ),
    pycurl.E_PEER_FAILED_VERIFICATION: (TlsError, "certificate verification failed"),
    pycurl.E_SSL_CACERT_BADFILE: (TlsError, "the file of trusted certificates cannot be read"),
}


def end_of(end: End) -> Failure | None:
    """What the end of a transfer means for its row; None for a body that came whole."""
    transfer = end.transfer
    if transfer.failure is not None:
        return transfer.failure
    if transfer.blocked and not transfer.status and end.number == pycurl.E_COULDNT_CONNECT:
        return Failure.of(BlockedAddress(BLOCKED))
    headers_came = end.number == 0 or transfer.discarded
    if transfer.status >= 400 or (transfer.status >= 300 and headers_came):  # noqa: PLR2004
        return http_failure(transfer.status)  # whatever happened to the body of the error page
    if transfer.location is not None and transfer.status in REDIRECTS:
        return http_failure(transfer.status)
    if end.number and not transfer.cut:
        return Failure.of(_error_of(end.number, end.message, transfer))
    return None if transfer.body or transfer.item is None else Failure.of(EmptyBody("empty body"))


def overdue_as(error: FetchError, transfer: Transfer) -> Failure:
    """What it means for a row that a deadline is over: the status of an error page stays, though its body drips.

    So does that of a redirect, which will be followed, while there is time left for that.
    """
    redirected = transfer.location is not None and transfer.status in REDIRECTS and not isinstance(error, TotalTimeout)
    return http_failure(transfer.status) if redirected or transfer.status >= 400 else Failure.of(error)  # noqa: PLR2004


def _error_of(number: int, message: str, transfer: Transfer) -> RowError:
    """The error that libcurl gave up with.

    Its own words are used only where the code alone is ambiguous, and never passed on: they hold addresses and sizes,
    and would make every message unique.
    """
    if number == pycurl.E_OPERATION_TIMEDOUT:
        return TotalTimeout("timeout") if transfer.received else ConnectTimeout("timeout while connecting")
    if number == pycurl.E_RECV_ERROR and ("chunk" in message.lower() or "hexadecimal" in message.lower()):
        return ProtocolError("bad chunked encoding")
    if number == pycurl.E_RECV_ERROR and "response headers" in message.lower():
        return ProtocolError("headers too large")
    kind, text = _TABLE.get(number, (FetchError, f"libcurl error {number}"))
    return kind(text)


def is_stale(end: End, seconds: float) -> bool:
    """Whether all that failed is a kept connection that the server had closed: a new one will do (RFC 9112, 9.3.1).

    Libcurl tries again itself after some such errors, and is let do so once (`Wire.may_ask`).
    """
    transfer = end.transfer
    if transfer.received or transfer.fresh or transfer.handle is None or seconds > STALE_SECONDS:
        return False
    if end.number == pycurl.E_ABORTED_BY_CALLBACK:
        return True
    kept = transfer.handle.getinfo(pycurl.NUM_CONNECTS) == 0
    return kept and end.number in (pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR)


def is_ours(end: End) -> bool:
    """Whether the failure looks like a fault of our own network: no route at all."""
    handle = end.transfer.handle
    return (
        end.number == pycurl.E_COULDNT_CONNECT
        and not end.transfer.blocked
        and handle is not None
        and handle.getinfo(pycurl.OS_ERRNO) in NO_ROUTE
    )


def behind_a_wall(transfer: Transfer) -> Failure | None:
    """The failure of a row whose page is not shown before a test; None for any other answer.

    It is not `transient` here: when to ask again is up to those who know the site (`sites.py`). A host that says itself
    when it may be asked again is asked then, like any other.
    """
    if transfer.item is None or transfer.status not in STATUS:
        return None
    if transfer.status in TRANSIENT_STATUS and transfer.retry_after is not None:
        return None
    if not (transfer.challenged or is_wall(transfer.page.decode("utf-8", "replace"))):
        return None
    return replace(Failure.of(SiteBlocked(WALL)), transient=False)


def sign_of(transfer: Transfer, failure: Failure | None, *, ours: bool) -> Sign:
    """What the end of a request says about its host."""
    if ours:
        return Sign.NOTHING
    if transfer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return Sign.SLOW_DOWN
    if transfer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Sign.STRAINED
    if failure is None:
        return Sign.GOOD
    if failure.code in ("timeout_idle", "timeout_total") and transfer.received:
        return Sign.STRAINED
    if transfer.status or failure.code in ("tls", "protocol", "not_found", "fetch_error"):
        return Sign.GOOD  # badly, but it answered
    if failure.code in ("connect", "reset"):
        return Sign.BROKEN
    if failure.code.startswith("timeout"):
        return Sign.SILENT
    return Sign.NOTHING


def facts_of(transfer: Transfer, seconds: float) -> FetchFacts:
    """What there is to know about a request that is still with libcurl. `seconds` is what the whole try took."""
    handle = transfer.handle
    assert handle is not None
    name, tcp, tls, asked, first = (float(handle.getinfo(info)) for info in _TIMES)
    if not handle.getinfo(pycurl.REQUEST_SIZE):
        asked = 0.0  # for a request that was never sent, libcurl has the time of its end here
    return FetchFacts(
        http_status=transfer.status or None,
        final_url=transfer.url.url,
        content_type=_content_type(handle),
        fetch_ms=round(seconds * 1000),
        attempts=transfer.attempts,
        bytes=len(transfer.body) or int(handle.getinfo(_SIZE_DOWNLOAD)),
        dns_ms=round(transfer.dns * 1000),
        connect_ms=_ms(tcp - name) if tcp or asked else None,
        tls_ms=_ms(tls - tcp) if asked or tls else None,
        first_byte_ms=_ms(first - asked) if first and asked else None,
        x_robots_tag=transfer.x_robots_tag,
        robots_txt=transfer.robots_txt,
        total_bytes=transfer.total if transfer.total >= 0 else None,
        etag=transfer.etag,
    )


def _ms(seconds: float) -> int:
    """Whole milliseconds, none where libcurl has no time for a part that was not needed."""
    return max(0, round(seconds * 1000))


def _content_type(handle: pycurl.Curl) -> str | None:
    """Servers send any bytes, so libcurl's answer may not be UTF-8."""
    try:
        value = handle.getinfo(pycurl.CONTENT_TYPE)
    except UnicodeDecodeError:
        value = handle.getinfo_raw(pycurl.CONTENT_TYPE).decode("latin-1")
    return value or None


def http_failure(status: int) -> Failure:
    """The failure of an answer that is not 2xx."""
    phrase = _PHRASES.get(status)
    return Failure(
        code=f"http_{status}",
        message=f"HTTP Error {status}: {phrase}" if phrase else f"HTTP Error {status}",
        status=HttpStatus.status,
        transient=status in TRANSIENT_STATUS,
    )
