"""When to try again: an immutable policy, and the waiting rows."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter; Retry-After obeyed up to `max_wait`.

    Attributes:
        retries: tries after the first.
        backoff: seconds before the first retry; doubles with each.
        max_wait: longest wait in seconds.
    """

    retries: int
    backoff: float
    max_wait: float

    def wait(self, attempts: int, retry_after: float | None, random: Callable[[], float]) -> float | None:
        """Seconds to wait before the next try, None for no more tries.

        Args:
            attempts: tries so far, at least 1.
            retry_after: what the server asked for, in seconds.
            random: gives numbers from 0 to 1; spreads the waits from half to one and a half times.
        """
        if attempts > self.retries:
            return None
        seconds = self.backoff * 2.0 ** (attempts - 1) * (0.5 + random())
        return min(max(seconds, retry_after or 0.0), self.max_wait)


class Waiting(Generic[T]):
    """Things that become due at a time, soonest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: float, thing: T) -> None:
        """`thing` comes out at `due` or later."""
        heapq.heappush(self._heap, (due, next(self._order), thing))

    def pop_due(self, now: float) -> T | None:
        """The next thing whose time has come."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None

    def next_due(self) -> float | None:
        """When the next thing is due; None when nothing waits."""
        return self._heap[0][0] if self._heap else None


def parse_retry_after(value: str | None, now: Callable[[], datetime] | None = None) -> float | None:
    """Seconds of a Retry-After header, which may be a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    current = now() if now else datetime.now(timezone.utc)
    return max(0.0, (when - current).total_seconds())
