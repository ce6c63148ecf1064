"""URLs of a list: what is a usable one, and in which form it goes to the network.

A list is hostile input, so nothing reaches libcurl that has not been through `parse`. Rules as browsers have them
(WHATWG URL): outer white space is dropped, spaces and non-ASCII characters in path and query are percent-encoded,
international host names become IDNA. Control characters are never passed on.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from img2dataset_dist.errors import BadUrl

MAX_URL_LENGTH = 8192
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SAFE = "!$%&'()*+,-./:;=?@_~[]"
_SAFE_IN_USER = "!$%&'()*+,-.:;=_~"
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?")
_PLAIN = re.compile(
    r"https?://[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9](?::[1-9][0-9]{0,3})?(?:[/?][!$&'()*+,\-./0-9:;=?@A-Z_a-z~]*)?"
)


class Url(NamedTuple):
    """A URL that can be fetched: pure ASCII, http or https."""

    url: str
    host: str


def parse(text: str | None) -> Url:
    """Check and normalise one URL of a list.

    Raises:
        BadUrl: with a message that says what is wrong, without the URL in it (messages are counted).
    """
    if text is None or not (text := text.strip(" \t\r\n\f")):
        raise BadUrl("missing URL")
    if len(text) > MAX_URL_LENGTH:
        raise BadUrl(f"URL longer than {MAX_URL_LENGTH} characters")
    if _PLAIN.fullmatch(text) and ".." not in text.split("/", 3)[2]:
        return Url(text, _host_of_plain(text))
    if _CONTROL.search(text):
        raise BadUrl("control character in URL")
    if "\ufffd" in text:
        raise BadUrl("URL is not valid UTF-8")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadUrl("malformed URL") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise BadUrl("URL scheme is not http or https" if parts.scheme else "URL has no scheme (http:// or https://)")
    host = _ascii_host(parts.hostname or "")
    if "[" in parts.netloc.rpartition("@")[2] and ":" not in host:
        raise BadUrl("malformed host in URL")  # brackets are for IPv6; Python 3.10 does not mind
    try:
        user = f"{quote(parts.netloc.rpartition('@')[0], safe=_SAFE_IN_USER)}@" if "@" in parts.netloc else ""
        path = quote(parts.path, safe=_SAFE) or "/"
        query = quote(parts.query, safe=_SAFE)
    except UnicodeError:  # lone surrogates
        raise BadUrl("URL is not valid UTF-8") from None
    netloc = user + (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    url = urlunsplit((parts.scheme.lower(), netloc, path, query, ""))
    if len(url) > MAX_URL_LENGTH:
        raise BadUrl(f"URL longer than {MAX_URL_LENGTH} characters")
    return Url(url, host)


def _host_of_plain(text: str) -> str:
    netloc = re.split(r"[/?]", text.split("://", 1)[1], maxsplit=1)[0]
    return netloc.partition(":")[0].lower()


def _ascii_host(host: str) -> str:
    if not host:
        raise BadUrl("URL has no host")
    if ":" in host:
        if not re.fullmatch(r"[0-9A-Fa-f:.]+", host):
            raise BadUrl("malformed host in URL")
        return host
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise BadUrl("malformed host in URL") from None
    if not _HOST.fullmatch(host):
        raise BadUrl("malformed host in URL")
    return host
