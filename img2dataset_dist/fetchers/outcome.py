"""What libcurl reports, as our errors: one table, and the cases that need a look at the transfer."""

from __future__ import annotations

from http import HTTPStatus

import pycurl

from img2dataset_dist.errors import (
    BadUrl,
    ConnectError,
    ConnectTimeout,
    DnsError,
    FetchError,
    HttpStatus,
    IdleTimeout,
    ProtocolError,
    RedirectRefused,
    Reset,
    RowError,
    TlsError,
    TooLarge,
    TooManyRedirects,
    TotalTimeout,
    Truncated,
)
from img2dataset_dist.model import Failure

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
"""The standard ones: what the server itself says could be anything, and messages are counted."""

_E_WEIRD_SERVER_REPLY, _E_HTTP2_STREAM, _E_TOO_LARGE = 8, 92, 100  # CURLE_ codes that pycurl does not name

_TABLE: dict[int, tuple[type[RowError], str]] = {
    pycurl.E_URL_MALFORMAT: (BadUrl, "malformed URL"),
    pycurl.E_COULDNT_RESOLVE_HOST: (DnsError, "could not resolve host"),
    pycurl.E_COULDNT_RESOLVE_PROXY: (DnsError, "could not resolve proxy"),
    pycurl.E_COULDNT_CONNECT: (ConnectError, "could not connect"),
    pycurl.E_GOT_NOTHING: (Reset, "connection closed without an answer"),
    pycurl.E_SEND_ERROR: (Reset, "connection reset"),
    pycurl.E_RECV_ERROR: (Reset, "connection reset"),
    _E_HTTP2_STREAM: (Reset, "HTTP/2 stream reset"),
    pycurl.E_PARTIAL_FILE: (Truncated, "body ended early"),
    pycurl.E_FILESIZE_EXCEEDED: (TooLarge, "body too large"),
    pycurl.E_TOO_MANY_REDIRECTS: (TooManyRedirects, "too many redirects"),
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


def failure_of(number: int, message: str, handle: pycurl.Curl) -> Failure:
    """The failure of a transfer that libcurl gave up.

    Args:
        number: the CURLE_ code.
        message: libcurl's own words; used only where the code alone is ambiguous, and never passed on, since they
            hold addresses and sizes and would make every message unique.
        handle: the finished transfer.
    """
    return Failure.of(_error_of(number, message, handle))


def _error_of(number: int, message: str, handle: pycurl.Curl) -> RowError:
    if number == pycurl.E_OPERATION_TIMEDOUT:
        if message.startswith("Operation too slow"):
            return IdleTimeout("too slow")
        if message.startswith("Operation timed out"):
            return TotalTimeout("timeout")
        return ConnectTimeout("timeout while connecting")  # resolving, connecting, TLS
    if number == pycurl.E_UNSUPPORTED_PROTOCOL:
        if handle.getinfo(pycurl.REDIRECT_COUNT):
            return RedirectRefused("redirect to a scheme other than http and https")
        return ProtocolError("the server does not speak HTTP")
    if number == pycurl.E_URL_MALFORMAT and handle.getinfo(pycurl.REDIRECT_COUNT):
        return ProtocolError("redirect to a malformed URL")
    if number == pycurl.E_RECV_ERROR and ("chunk" in message.lower() or "hexadecimal" in message.lower()):
        return ProtocolError("bad chunked encoding")
    kind, text = _TABLE.get(number, (FetchError, f"libcurl error {number}"))
    return kind(text)


def http_failure(status: int) -> Failure:
    """The failure of an answer that is not 2xx."""
    phrase = _PHRASES.get(status)
    return Failure(
        code=f"http_{status}",
        message=f"HTTP Error {status}: {phrase}" if phrase else f"HTTP Error {status}",
        status=HttpStatus.status,
        transient=status in TRANSIENT_STATUS,
    )
