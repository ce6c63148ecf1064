"""Pages that stand before the real one: what they say in place of it."""

from __future__ import annotations

import re
from http import HTTPStatus

CHALLENGE = "challenge"
"""What Cloudflare says in the header cf-mitigated of such a page."""

STATUS = frozenset({
    HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE,
})  # fmt: skip
"""Under which they come, where it is not 200."""

HEAD = 16 * 2**10
"""Bytes of such an answer that `is_wall` wants."""

_WALLS = re.compile(
    r"just a moment\.\.\.|attention required! \| cloudflare|are you (?:a )?(?:robot|human)|verify (?:that )?you are "
    r"(?:a )?human|access to this page has been denied|pardon our interruption|unusual traffic|ddos.?guard|"
    r"checking your browser|captcha|not a robot",
    re.IGNORECASE,
)
"""What pages say that stand before the real one."""

_PAGES = {
    "site_geo": r"(?:un|not )available in your (?:country|region|location|area)|geo.?(?:restrict|block)",
    "site_private": r"(?:video|vod|content|post|account|clip|playlist) is private|private video|members only",
    "site_removed": r"(?:video|vod|content|post|account|clip|page) (?:has been|was|is) (?:removed|deleted|terminated)|"
    r"no longer available|(?:video|post|clip) (?:is )?unavailable",
}
"""What pages say that would show a video otherwise."""

_SHORT = 4000
"""Characters of text of a page that says one thing only; in a longer one such words may stand by chance."""


def is_wall(head: str) -> bool:
    """Whether an answer with one of `STATUS` is a wall by its title, or a short page that says so.

    In time that grows with its length and no faster: this is asked in the fetch thread.

    Args:
        head: the first `HEAD` bytes of it.
    """
    lower = head.lower()
    start = lower.find("<title")
    title = lower[start : lower.find("</title", start)] if start >= 0 else ""
    return bool(_WALLS.search(title)) or (len(head) <= _SHORT and of_page(head) == "site_blocked")


def of_page(html: str) -> str | None:
    """What a page without a video says instead of showing one: it is a wall, or there is little else on it.

    Returns:
        An error code, None for a page that says nothing of the kind.
    """
    title = re.search(r"<title[^>]*>([^<]*)", html, re.IGNORECASE)
    if title and _WALLS.search(title[1]):
        return "site_blocked"
    text = " ".join(re.sub(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", html, flags=re.DOTALL | re.IGNORECASE).split())
    if len(text) > _SHORT:
        return None
    if _WALLS.search(text):
        return "site_blocked"
    return next((code for code, pattern in _PAGES.items() if re.search(pattern, text, re.IGNORECASE)), None)
