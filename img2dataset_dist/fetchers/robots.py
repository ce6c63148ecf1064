"""robots.txt (RFC 9309): what a site asks of robots, and for how long its answer holds.

Two steps. Which lines bind us is decided here, by the exact product token: parsers in use also take a group for `img`
to be meant for `img2dataset`. What those lines say about a path (percent-encoding, wildcards, the longest match, allow
before disallow) is left to protego. Nothing here touches the network: who fetches gives the answer to `store`.

A file is hostile input as any other. What is absurd in it (thousands of wildcards) is read as the more cautious of
what it could mean, since a search for it would stop all transfers of the process.
"""

from __future__ import annotations

import codecs
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from protego import Protego

MAX_BYTES = 500 * 2**10
"""How much of a file is read; RFC 9309 (2.5) asks for at least this. What is beyond is cut off at a line end."""

MAX_REDIRECTS = 5
"""RFC 9309 (2.3.1.2): at least five are followed, also to other hosts."""

MAX_DELAY = 60.0
FRESH, RETRY = 24 * 3600.0, 300.0
"""Seconds for which an answer holds (RFC 9309, 2.4: at most a day), and after which a silent site is asked again."""

MAX_ORIGINS = 10_000
MAX_MEMORY = 64 * 2**20
RULE_MEMORY = 400
"""Bytes that protego needs for one rule beside its text; measured."""

MAX_LINE = 16 * 2**10
"""Longer lines are no rules: no URL of a list has as many characters."""

MAX_STARS, MAX_STAR_RULES = 10, 1000
"""Wildcards in a rule, and rules with wildcards in a group; measured: 1,000 such rules cost 15 ms for the longest
URL, the 40,000 that fit into a file 0.5 s."""

_URL = re.compile(r"(https?)://(?:[^/?#]*@)?([^/?#@]*)([^#]*)", re.IGNORECASE)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_RECORD = re.compile(
    r"(user[ -]?agent|allow|disallow|dissallow|dissalow|disalow|diasllow|disallaw|crawl[ -]delay)"
    r"[ \t]*(?::|(?<=[ \t]))[ \t]*(.*)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")
_CLEAN = {
    **{number: f"%{number:02X}" for number in range(0x80, 0x100)},
    **dict.fromkeys(range(1, 0x20), " "),
    0x7F: " ",
    0: None,  # so that UTF-16 without a mark is readable, too
    **{ord(keep): keep for keep in "\r\n"},
}
"""Octets to ASCII text. Those above 127 are percent-encoded, as RFC 9309 (2.2.2) compares them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a URL may be fetched.

    Attributes:
        allowed: it may.
        state: `allowed` or `disallowed` by the file; `missing`: there is no file (4xx), everything is allowed;
            `unreachable`: the site did not answer or said 429 or 5xx, nothing is allowed for now.
        crawl_delay: seconds between requests that the file asks for, more than 0, at most `MAX_DELAY`; None: nothing.
    """

    allowed: bool
    state: str
    crawl_delay: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What is known of an origin. `rules` None: it has none for us. `cost` is bytes of memory."""

    state: str
    expires: float
    rules: Protego | None = None
    crawl_delay: float | None = None
    cost: int = 0


class RobotsCache:
    """The answers of sites, by origin (`scheme://host[:port]`). Bounded: the oldest answers go first.

    Args:
        agents: our names, the preferred one first. The first that a file has a group for decides, else `*`.
        clock: seconds, monotonic.
    """

    def __init__(self, agents: tuple[str, ...], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = (*dict.fromkeys(filter(None, map(_product_token, agents))), "*")
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._memory = 0

    def verdict(self, url: str) -> Verdict | None:
        """Whether `url` may be fetched; None when its origin's robots.txt must be fetched and stored first."""
        match = _URL.match(url)
        if match is None:
            return Verdict(allowed=True, state="missing", crawl_delay=None)  # only HTTP has such a file
        path = _path(match[3])
        entry = self._entries.get(_origin(match))
        if path.partition("?")[0] == "/robots.txt":  # RFC 9309, 2.2.2: implicitly allowed
            delay = entry.crawl_delay if entry else None
            return Verdict(allowed=True, state="allowed", crawl_delay=delay)
        if entry is None or entry.expires <= self._clock():
            return None
        if entry.state == "allowed" and entry.rules is not None and not entry.rules.can_fetch(f"http://h{path}", "*"):
            return Verdict(allowed=False, state="disallowed", crawl_delay=entry.crawl_delay)
        return Verdict(allowed=entry.state != "unreachable", state=entry.state, crawl_delay=entry.crawl_delay)

    def store(self, origin: str, status: int | None, body: bytes) -> None:
        """Remember what came of a request for `robots_url(origin)`.

        RFC 9309 (2.3.1): 2xx is the file; 4xx means there is none; so does a chain of more than `MAX_REDIRECTS`
        redirects, or another 3xx that cannot be followed. 429 is taken as 5xx: a server that has too much to do has
        not said that robots are welcome. A site that had answered before keeps that answer while it is unreachable
        (2.4).

        Args:
            origin: `scheme://host[:port]`.
            status: of the last response; None when there was no answer.
            body: of the last response.
        """
        match = _URL.match(origin)
        if match is None:
            return
        key, now = _origin(match), self._clock()
        old = self._entries.pop(key, None)
        self._memory -= old.cost if old else 0
        if status is not None and 200 <= status < 300:  # noqa: PLR2004
            entry = _parse(body, self._agents, now + FRESH)
        elif status is not None and 300 <= status < 500 and status != 429:  # noqa: PLR2004
            entry = _Entry(state="missing", expires=now + FRESH)
        elif old is not None and old.state == "allowed":
            entry = _Entry(
                state=old.state, expires=now + RETRY, rules=old.rules, crawl_delay=old.crawl_delay, cost=old.cost
            )
        else:
            entry = _Entry(state="unreachable", expires=now + RETRY)
        self._entries[key] = entry
        self._memory += entry.cost
        while len(self._entries) > MAX_ORIGINS or (self._memory > MAX_MEMORY and len(self._entries) > 1):
            self._memory -= self._entries.pop(next(iter(self._entries))).cost


def robots_url(origin: str) -> str:
    """Where the file of `scheme://host[:port]` is (RFC 9309, 2.3)."""
    return f"{origin.rstrip('/')}/robots.txt"


def _origin(match: re.Match[str]) -> str:
    scheme, host = match[1].lower(), match[2].lower()
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORT[scheme]).removesuffix(':')}"


def _path(target: str) -> str:
    """Path and query as libcurl will send them: without `.` and `..` (RFC 3986, 5.2.4), which could hide a path."""
    path, mark, query = target.partition("?")
    if "/." not in path and "/%2" not in path:
        return (path or "/") + mark + query
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments):
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain not in (".", ".."):
            kept.append(segment)
            continue
        if plain == ".." and kept:
            kept.pop()
        if number == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept) + mark + query


def _product_token(text: str) -> str:
    """The product token that a name begins with, lower case: `MyBot/1.0` is `mybot`; a group for all is `*`."""
    bare = text.strip().lstrip("*")
    if not bare or bare[0] in " \t":
        return "*" if "*" in text else ""
    match = _TOKEN.match(bare)
    return match[0].lower() if match else ""


def _parse(body: bytes, agents: tuple[str, ...], expires: float) -> _Entry:
    """The group of a file that binds us."""
    group = _group(_records(_text(body)), agents)
    lines = _rules((kind, value) for kind, value in group if kind != "c")
    if not lines:
        return _Entry(state="allowed", expires=expires, crawl_delay=_delay(group))
    text = "\n".join(("User-agent: *", *lines))
    return _Entry(
        state="allowed",
        expires=expires,
        rules=Protego.parse(text),
        crawl_delay=_delay(group),
        cost=len(text) + RULE_MEMORY * len(lines),
    )


def _text(body: bytes) -> str:
    """The part of a file that is read, as ASCII."""
    if len(body) > MAX_BYTES:
        body = body[:MAX_BYTES]
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        body = body.decode("utf-16", "replace").encode("utf-8", "replace")
    return body.removeprefix(codecs.BOM_UTF8).decode("latin-1").translate(_CLEAN)


def _records(text: str) -> Iterator[tuple[str, str]]:
    """Kind (`u`ser-agent, `a`llow, `d`isallow, `c`rawl-delay) and value of the lines that we know.

    Other lines are passed over: they must not end a group (RFC 9309, 2.2.4).
    """
    for line in re.split(r"[\r\n]+", text):
        if len(line) <= MAX_LINE:
            match = _RECORD.match(line.partition("#")[0].strip())
            if match is not None:
                yield match[1][0].lower(), match[2]


def _group(records: Iterable[tuple[str, str]], agents: tuple[str, ...]) -> list[tuple[str, str]]:
    """The records that bind the first of `agents` with a group of its own, all its groups together."""
    groups: dict[str, list[tuple[str, str]]] = {}
    current: dict[str, list[tuple[str, str]]] = {}
    heading = False
    for kind, value in records:
        if kind == "u":
            if not heading:
                current = {}
            heading = True
            name = _product_token(value)
            if name in agents:
                current[name] = groups.setdefault(name, [])
            continue
        heading = False
        for group in current.values():
            group.append((kind, value))
    return next((groups[name] for name in agents if name in groups), [])


def _rules(records: Iterable[tuple[str, str]]) -> list[str]:
    """Rules as protego reads them, each once, with no more wildcards than can be searched for in time.

    What has more is made more cautious: a path that is disallowed is cut before the first wildcard too many, so that
    it covers more; one that is allowed is left out.
    """
    lines: dict[str, None] = {}
    starred = 0
    for kind, path in records:
        value = re.sub(r"\*{2,}", "*", path)
        stars = value.count("*")
        room = MAX_STARS if starred < MAX_STAR_RULES else 0
        if stars > room:
            if kind == "a":
                continue
            value = "*".join(value.split("*")[: room + 1]) or "/"
        starred += "*" in value
        if value:
            lines[f"{'Allow' if kind == 'a' else 'Disallow'}: {value}"] = None
    return list(lines)


def _delay(records: Iterable[tuple[str, str]]) -> float | None:
    """The longest `crawl-delay`: not in RFC 9309, but meant by who writes it. What is no number of seconds is not."""
    longest = 0.0
    for kind, value in records:
        if kind == "c" and re.fullmatch(r"\+?[0-9.]+(?:e[0-9]+)?", value, re.IGNORECASE):
            try:
                seconds = float(value)
            except ValueError:
                continue
            longest = max(longest, seconds if math.isfinite(seconds) else 0.0)
    return min(longest, MAX_DELAY) or None
