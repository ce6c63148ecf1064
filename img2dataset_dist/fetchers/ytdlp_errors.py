"""What yt-dlp raises, as our error codes.

yt-dlp has few classes of errors; most of what a site says comes as text. Its own texts and those of large sites are
told apart here. Only in the process that runs yt-dlp.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace

from yt_dlp.networking import exceptions as net
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError, UserNotLive

from img2dataset_dist.fetchers.health import NO_ROUTE
from img2dataset_dist.fetchers.retry import parse_retry_after
from img2dataset_dist.fetchers.walls import CHALLENGE, of_page


class Unsupported(Exception):
    """We do not fetch such a thing; the message says why."""


class PageTooLarge(Exception):
    """More bytes than are allowed; the message says of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a row has no media.

    Attributes:
        code: an error code; "http" for that of `status`.
        message: for people.
        status: of HTTP.
        retry_after: seconds for which the site asked to be left alone.
        ours: it looks like the fault of our own network: no resolver that answers, no route.
    """

    code: str
    message: str
    status: int | None = None
    retry_after: float | None = None
    ours: bool = False


_TEXTS: dict[str, str] = {
    "site_blocked": (
        r"confirm you.re not a (?:ro)?bot|not a robot|rate.?limit|too many requests|captcha|unusual traffic|"
        r"anti-?bot|bot (?:detection|protection|challenge)|verify (?:that )?you are (?:a )?human|cloudflare|"
        r"IP(?: address)? is (?:blocked|unable|not allowed)|blocked your IP|current session has been rate|"
        r"content isn.t available, try again later|temporarily (?:blocked|banned)|access denied by|"
        r"automated (?:requests|queries)|ddos"
    ),
    "site_geo": (
        r"geo.?(?:restrict|block|lock|fenc)|(?:in|from|for) your (?:country|region|location|area|territory)|"
        r"your (?:country|region|location) (?:is|has|does)|blocked (?:it )?in this (?:country|region)|"
        r"not (?:made this video )?available in (?:this|your) (?:country|region)|outside (?:of )?the (?:US|UK|USA|EU)"
    ),
    "site_private": (
        r"private (?:video|vod|content|post|account|clip|playlist)|(?:video|vod|content|post|account|clip|playlist) is "
        r"private|members?.only|join this channel|log(?:ged)? ?in|login|sign(?:ed)? ?in|account cookies|"
        r"registered users|subscri(?:be|ption|bers?)|premium|purchase|payment|rental|paid|password|"
        r"age.?restrict|confirm your age|age verification|inappropriate for some|only available (?:to|for) |"
        r"does not have access|authori[sz]ation|entitle|nsfw|requires? (?:an )?account|not authori[sz]ed|forbidden"
    ),
    "site_removed": (
        r"(?:been|was|is) (?:removed|deleted|terminated|taken down|suspended|disabled)|no longer (?:available|exists?)|"
        r"does(?:n.t| not) exist|(?:video|content|post|clip|page|track|media) (?:is )?(?:un|not )available|"
        r"not? (?:longer )?found|unavailable|expired|copyright|offline"
    ),
    "site_unsupported": (
        r"drm|unsupported url|no video|not? (?:a )?video|no media|no formats|live (?:event|stream|video)|"
        r"livestream|not currently live|premieres? (?:in|will)|upcoming|unsupported|not supported|"
        r"requested format is not|no suitable"
    ),
}
"""By what a site says. The order matters: the first that fits counts."""

_PATTERNS = tuple((code, re.compile(pattern, re.IGNORECASE)) for code, pattern in _TEXTS.items())

_NOISE = re.compile(
    r"\x1b\[[0-9;]*m|^ERROR: |^\[[^]]+\] \S+: |;? *please report this issue on .*|\(caused by .*|"
    r"https?://\S+|Use --\S+.*|See {1,2}https?://.*",
    re.DOTALL,
)
_MESSAGES = {
    "site_unsupported": "no video or sound was found that can be fetched",
    "site_blocked": "the site takes us for a robot or finds that we ask too much",
    "site_private": "the site shows it only to some",
    "site_removed": "the site says that it is no longer there",
    "site_geo": "the site does not show it in this country",
    "dns": "could not resolve host",
    "connect": "could not connect",
    "tls": "TLS handshake failed",
    "reset": "connection reset",
    "truncated": "body ended early",
    "timeout_idle": "no bytes came for a while",
    "too_large": "larger than max_body_bytes",
    "disk_full": "no room on the disk of the media under way",
}  # fmt: skip


def classify(error: BaseException, page: str = "", last: Exception | None = None) -> Trouble:
    """What an exception of yt-dlp means.

    Args:
        error: as it was caught.
        page: text of the page that was asked for last, where it was HTML.
        last: what the network said last; yt-dlp's downloaders pass on its text only.
    """
    chain = list(_chain(error))
    if last is not None and "Got error: " in str(error) and not any(isinstance(one, net.RequestError) for one in chain):
        chain = list(_chain(last))
    for one in chain:
        if isinstance(one, net.HTTPError):
            return _of_status(one, chain)
    for one in chain:
        found = _of_class(one, page)
        if found is not None:
            return replace(found, ours=_is_ours(one))
    said = _said(chain)
    if re.search("did not get any data|downloaded file is empty", said, re.IGNORECASE):
        return Trouble(code="empty_body", message="empty body")
    code = _of_text(said) or "extractor_error"
    return Trouble(code=code, message=_tidy(said) or _MESSAGES.get(code, type(error).__name__))


def _chain(error: BaseException | None, seen: int = 0) -> Iterator[BaseException]:
    """The error, and what it came from."""
    while error is not None and seen < 20:  # noqa: PLR2004 (they may go round)
        seen += 1
        yield error
        inner = (getattr(error, "exc_info", None) or (None, None))[1] if isinstance(error, DownloadError) else None
        cause = getattr(error, "cause", None)
        reason = getattr(error, "reason", None)
        odd = next(iter(getattr(error, "unexpected_errors", ())), None)  # of NoSupportingHandlers
        following = (inner, odd, cause, reason, error.__cause__, error.__context__)
        error = next((one for one in following if isinstance(one, BaseException) and one is not error), None)


def _of_status(error: net.HTTPError, chain: list[BaseException]) -> Trouble:
    status = int(error.status)
    headers = error.response.headers
    wait = parse_retry_after(headers.get("Retry-After"))
    said = _said([one for one in chain if isinstance(one, ExtractorError)])
    code = _of_text(said) if said and "HTTP Error" not in said else None
    if status == 429 or headers.get("cf-mitigated") == CHALLENGE or _of_text(said) == "site_blocked":  # noqa: PLR2004
        return Trouble(code="site_blocked", message=_MESSAGES["site_blocked"], status=status, retry_after=wait)
    if code in ("site_geo", "site_private", "site_removed"):
        return Trouble(code=code, message=_tidy(said), status=status)
    if error.redirect_loop or status in (301, 302, 303, 307, 308):
        return Trouble(code="redirect_loop", message="too many redirects", status=status)
    return Trouble(code="http", message=f"HTTP Error {status}", status=status, retry_after=wait)


def _is_ours(error: BaseException) -> bool:
    """Whether it may be our own network."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, OSError) and error.errno in NO_ROUTE


def _of_class(error: BaseException, page: str) -> Trouble | None:
    """What the class alone says."""
    code = None
    if isinstance(error, PageTooLarge):
        return Trouble(code="too_large", message=str(error))
    if isinstance(error, Unsupported):
        return Trouble(code="site_unsupported", message=str(error))
    if isinstance(error, UnsupportedError):
        code = of_page(page) or "site_unsupported"
    elif isinstance(error, GeoRestrictedError):
        code = "site_geo"
    elif isinstance(error, UserNotLive):
        return Trouble(code="site_unsupported", message="it is live, or will be; that is not fetched")
    elif isinstance(error, MemoryError):
        return Trouble(code="too_large", message="a page that takes too much memory")
    elif isinstance(error, socket.gaierror):
        code = "dns"
    elif isinstance(error, (net.SSLError, ssl.SSLError)):
        code = "tls"
    elif isinstance(error, net.IncompleteRead):
        code = "truncated"
    elif isinstance(error, TimeoutError):
        code = "timeout_idle"
    elif isinstance(error, (ConnectionRefusedError, net.ProxyError)):
        code = "connect"
    elif isinstance(error, ConnectionError):
        code = "reset"
    elif isinstance(error, OSError):
        code = _ERRNO.get(error.errno or 0)
    return None if code is None else Trouble(code=code, message=_MESSAGES[code])


_ERRNO = {
    errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.EHOSTUNREACH: "connect", errno.ENETUNREACH: "connect",
    errno.ETIMEDOUT: "timeout_idle", errno.EFBIG: "too_large",
}  # fmt: skip


def _of_text(said: str) -> str | None:
    return next((code for code, pattern in _PATTERNS if pattern.search(said)), None) if said else None


def _said(chain: list[BaseException]) -> str:
    """What an extractor said, or else what was said last."""
    for one in reversed(chain):
        if isinstance(one, ExtractorError):
            return str(one.orig_msg)
    return str(chain[0]) if chain else ""


def _tidy(text: str) -> str:
    """One short line, without what differs from row to row."""
    return " ".join(_NOISE.sub("", text).split()).rstrip(" ;:.,")[:200]
