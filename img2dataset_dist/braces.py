"""`{00000..00004}.tar` and `{train,test}.csv`: braces in paths, as shells and the webdataset library write them."""

from __future__ import annotations

import re

from img2dataset_dist.errors import ConfigError

MOST = 1_000_000
"""Paths that one pattern may stand for."""

_INNERMOST = re.compile(r"\{((-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?|[^{}]*,[^{}]*)\}", re.ASCII)


def has_braces(path: str) -> bool:
    """Whether `expand` would do anything."""
    return _INNERMOST.search(path) is not None


def expand(pattern: str) -> list[str]:
    """All paths that a pattern stands for, in its order, each once; braces that mean nothing stay as they are.

    `{08..11}` counts with as many digits as its longer end has when one of them begins with a zero, `{0..8..2}` by
    twos; braces may stand within braces.

    Raises:
        ConfigError: it stands for more than `MOST` paths.
    """
    found = {pattern: None}
    while any(has_braces(path) for path in found):
        wider: dict[str, None] = {}
        for path in found:
            wider |= dict.fromkeys(_first_expanded(path, pattern))
            if len(wider) > MOST:
                raise _too_many(pattern)
        found = wider
    return list(found)


def _first_expanded(path: str, pattern: str) -> list[str]:
    match = _INNERMOST.search(path)
    if match is None:
        return [path]
    inner, first, last, step = match.groups()
    choices = inner.split(",") if first is None else _counted(first, last, int(step or 1), pattern)
    return [f"{path[: match.start()]}{choice}{path[match.end() :]}" for choice in choices]


def _counted(first: str, last: str, step: int, pattern: str) -> list[str]:
    start, end = int(first), int(last)
    if abs(end - start) // max(step, 1) >= MOST:
        raise _too_many(pattern)
    padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (first, last))
    digits = max(len(first), len(last)) if padded else 1
    numbers = range(start, end + 1, max(step, 1)) if start <= end else range(start, end - 1, -max(step, 1))
    return [f"{number:0{digits}d}" for number in numbers]


def _too_many(pattern: str) -> ConfigError:
    return ConfigError(f"{pattern} stands for more than {MOST:,} paths")
