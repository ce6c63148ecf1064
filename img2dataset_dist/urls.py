"""URLs of a list: what is a usable one, and in which form it goes to the network.

A list is hostile input, so nothing reaches libcurl that has not been through `parse`. Rules as browsers have them
(WHATWG URL): outer white space is dropped, spaces and non-ASCII characters in path and query are percent-encoded,
international host names become IDNA, and a host that ends in a number is an IPv4 address, in whatever notation, or an
error. Control characters are never passed on.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from img2dataset_dist.errors import BadUrl

MAX_URL_LENGTH = 8192
WEB = ("http", "https")
_PORTS = {"http": "80", "https": "443"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SAFE = "!$%&'()*+,-./:;=?@_~[]"
_SAFE_IN_USER = "!$%&'()*+,-.:;=_~"
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN = re.compile(
    rf"(https?)://((?:[A-Za-z0-9][A-Za-z0-9.-]*\.)?[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?|(?:{_OCTET}\.){{3}}{_OCTET})"
    r"(?::[1-9][0-9]{0,3})?(?:[/?][!$&'()*+,\-./0-9:;=?@A-Z_a-z~]*)?"
)
_AUTHORITY = re.compile(r"[^/]*//([^/?]*)")
_NUMBER = re.compile(r"[0-9]+|0[Xx][0-9A-Fa-f]*")


class Url(NamedTuple):
    """A URL that can be fetched.

    Attributes:
        url: of http and https pure ASCII; of other schemes the text as it was.
        host: in lower case, an IPv6 address without brackets; of other schemes the bucket, "" if there is none.
    """

    url: str
    host: str

    @property
    def scheme(self) -> str:
        """The scheme, in lower case."""
        return self.url.partition(":")[0]

    @property
    def origin(self) -> str:
        """`scheme://host`, and `:port` where it is not the one of the scheme (RFC 6454)."""
        scheme, port = self.scheme, self.port
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}" + (f":{port}" if port != _PORTS.get(scheme, "") else "")

    @property
    def port(self) -> str:
        """The port, as text; "" where the scheme has none."""
        authority = _AUTHORITY.match(self.url)
        assert authority is not None
        given = authority[1].rpartition("@")[2].rpartition("]")[2].partition(":")[2]
        return given or _PORTS.get(self.scheme, "")


def parse(text: str | None, schemes: tuple[str, ...] = WEB) -> Url:
    """Check and normalise one URL of a list.

    Args:
        text: the URL.
        schemes: those that are allowed, in lower case. What is neither http nor https is for fsspec to read, so that
            its text stays as it is.

    Raises:
        BadUrl: with a message that says what is wrong, without the URL in it (messages are counted).
    """
    if text is None or not (text := text.strip(" \t\r\n\f")):
        raise BadUrl("missing URL")
    if len(text) > MAX_URL_LENGTH:
        raise BadUrl(f"URL longer than {MAX_URL_LENGTH} characters")
    plain = _PLAIN.fullmatch(text)
    if plain is not None and ".." not in plain[2] and plain[1] in schemes:
        return Url(text, plain[2].lower())
    if _CONTROL.search(text):
        raise BadUrl("control character in URL")
    if "\ufffd" in text:
        raise BadUrl("URL is not valid UTF-8")
    try:
        parts = urlsplit(text)
        scheme = parts.scheme.lower()
        port = parts.port if scheme in WEB else None
    except ValueError:
        raise BadUrl("malformed URL") from None
    if port == 0:  # nobody can be connected to there
        raise BadUrl("malformed URL")
    if scheme not in schemes:
        allowed = "http or https" if schemes == WEB else f"one of {', '.join(schemes)}"
        raise BadUrl(f"URL scheme is not {allowed}" if scheme else "URL has no scheme (http:// or https://)")
    if scheme not in WEB:
        return _for_fsspec(scheme + text[len(scheme) :], parts.netloc)
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
    url = urlunsplit((scheme, netloc, path, query, ""))
    if len(url) > MAX_URL_LENGTH:
        raise BadUrl(f"URL longer than {MAX_URL_LENGTH} characters")
    return Url(url, host)


def _for_fsspec(text: str, authority: str) -> Url:
    if not text.partition(":")[2].startswith("//"):  # `s3:/x` would be taken for a local path
        raise BadUrl("malformed URL")
    if "::" in text:
        raise BadUrl("chained URL")  # fsspec would go on to the second one, which may have any scheme
    try:
        text.encode()
    except UnicodeError:
        raise BadUrl("URL is not valid UTF-8") from None
    return Url(text, authority)


def _ascii_host(host: str) -> str:
    if not host:
        raise BadUrl("URL has no host")
    if ":" in host:
        return _ipv6(host)
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise BadUrl("malformed host in URL") from None
    if not _HOST.fullmatch(host):
        raise BadUrl("malformed host in URL")
    host = host.removesuffix(".")
    return _ipv4(host) if _NUMBER.fullmatch(host.rpartition(".")[2]) else host


def _ipv4(host: str) -> str:
    """An address of one to four decimal, octal or hexadecimal numbers, the last of which fills what is left."""
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):  # noqa: PLR2004
        raise BadUrl("malformed host in URL")
    try:
        *first, last = map(_number, parts)
    except ValueError:  # 09: no octal number
        raise BadUrl("malformed host in URL") from None
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):  # noqa: PLR2004
        raise BadUrl("malformed host in URL")
    return str(IPv4Address(sum(number << 24 - 8 * at for at, number in enumerate(first)) + last))


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)


def _ipv6(host: str) -> str:
    """The short form, with hexadecimal digits only; Python 3.13 shows mapped addresses otherwise."""
    try:
        short = IPv6Address(host).compressed
    except ValueError:
        raise BadUrl("malformed host in URL") from None
    if "%" in short:  # a zone is of this machine alone
        raise BadUrl("malformed host in URL")
    head, _, tail = short.rpartition(":")
    if "." in tail:
        number = int(IPv4Address(tail))
        short = f"{head}:{number >> 16:x}:{number & 0xFFFF:x}"
    return short
