"""X-Robots-Tag: may this response be used?

`directive, directive` binds everybody, `agent: directive, directive` only the named agent. One header may hold several
groups (`googlebot: noindex, otherbot: noai`), and a response several headers. `none` stands for `noindex, nofollow`.
Source: the specification that search engines publish for the header; `noai` and `noimageai` are DeviantArt's additions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives that have a colon themselves; their values hold no directive."""


def is_disallowed(headers: Iterable[str], agents: Collection[str], directives: Collection[str]) -> bool:
    """Whether any of the header values forbids the use.

    Args:
        headers: values of all X-Robots-Tag headers of the response.
        agents: names that we answer to, lower case.
        directives: what counts as a refusal, lower case.
    """
    return any(
        (directive in directives or (directive == "none" and "noindex" in directives))
        and (agent is None or agent in agents)
        for header in headers
        for agent, directive in _groups(header)
    )


def _groups(header: str) -> Iterable[tuple[str | None, str]]:
    """Agent (None: everybody) and directive, one by one."""
    agent: str | None = None
    for part in header.split(","):
        name, colon, rest = part.strip().lower().partition(":")
        name = name.strip()
        if colon and name in _VALUED:
            continue
        if colon:
            agent = None if name in ("", "*") else name
            name, inner, _ = rest.strip().partition(":")
            name = name.strip()
            if inner and name in _VALUED:
                continue
        yield agent, name
