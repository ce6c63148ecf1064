"""What of a job's options may be written down: folders of datasets are published, and trackers of runs are shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(not recorded)"
"""Stands in place of a secret."""

_SECRET = re.compile(
    r"(?:.*_)?(?:pass|.*passw(?:or)?d|passphrase|secret|.*_?token|api_?key|access_?key|private_?key|key|auth|authorization"
    r"|user|username|twofactor|cookies?|proxy|credentials?|(?:http_)?headers)",
    re.IGNORECASE,
)
"""Names of nested options, such as those of `yt_args`, whose values are nobody's business."""

_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")


def redacted(value: Any) -> Any:
    """An option's value without its secrets: those of nested options by their names, and user and password of URLs."""
    if isinstance(value, Mapping):
        return {name: HIDDEN if _is_secret(name, inner) else redacted(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        inside = [redacted(inner) for inner in value]
        return inside if isinstance(value, list) else tuple(inside)
    return _USER.sub("", value) if isinstance(value, str) else value


def _is_secret(name: object, value: object) -> bool:
    return value is not None and _SECRET.fullmatch(str(name).replace("-", "_")) is not None
