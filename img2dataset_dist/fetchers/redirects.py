"""Where a redirect leads. We follow them ourselves, since each request has to pass the gate of its own host."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from img2dataset_dist import urls
from img2dataset_dist.errors import BadUrl, ProtocolError, RedirectRefused, TooManyRedirects
from img2dataset_dist.fetchers.transfer import Transfer

HTTP = ("http", "https")


def follow(transfer: Transfer, limit: int) -> urls.Url:
    """The next URL of a transfer that was redirected.

    User names and passwords of a URL go on only where the new one is relative, so never to another host.

    Args:
        transfer: its answer has a Location header.
        limit: how many redirects may be followed.

    Raises:
        TooManyRedirects: more than `limit`, or back to where the chain has been.
        RedirectRefused: to something other than http and https.
        ProtocolError: to something that is no URL.
    """
    assert transfer.location is not None
    transfer.redirects += 1
    transfer.seen = transfer.seen or set()
    transfer.seen.add(transfer.url.url)
    url = _resolve(transfer.url.url, _text(transfer.location))
    if transfer.redirects > limit:
        raise TooManyRedirects("too many redirects")
    if url.url in transfer.seen:
        raise TooManyRedirects("redirects in a circle")
    return url


def _resolve(base: str, location: str) -> urls.Url:
    try:
        parts = urlsplit(location)
        if parts.scheme and parts.scheme.lower() not in HTTP:
            raise RedirectRefused("redirect to a scheme other than http and https")
        if parts.scheme and not parts.netloc:  # urljoin would read it as a relative one
            raise ProtocolError("redirect to a malformed URL")
        return urls.parse(urljoin(base, location))
    except (BadUrl, ValueError):
        raise ProtocolError("redirect to a malformed URL") from None


def _text(value: bytes) -> str:
    """A Location header: UTF-8 where it is that, and never an error."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
