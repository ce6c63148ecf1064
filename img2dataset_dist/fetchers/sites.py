"""Which row may be extracted next: rows wait by site, and one that has blocked us is left alone for a while.

A block is not a dead link: the same row works later. So a site that says that we are a robot or ask too much is not
asked for `pause` seconds, and after that one row is tried. If it is blocked, too, the pause doubles, up to an hour; if
not, all is as before. Rows of the site wait meanwhile and lose none of their retries, for `PATIENCE` pauses in a row;
then they fail, so that a shard can end. Other sites go on all the time. A single row that is blocked between others
that are not says more of the row than of the site: it is tried again behind the others, without a pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

PATIENCE = 3
"""Pauses in a row in which the rows of a site wait."""

LONGEST = 3600.0
"""Seconds of a pause, at most."""

SLOT_POLL = 0.2
"""Seconds after which a slot that other workers hold is asked for again."""

MAX_SITES = 10_000
"""Sites that are remembered; beyond it those without rows are forgotten."""


class Slots(Protocol):
    """What the workers of one machine share; see `hosts.Slots`."""

    def acquire(self, host: str, limit: int) -> int | None:
        """One of `limit` slots of the site, by number; None while others have them all."""

    def release(self, host: str, slot: int) -> None:
        """Give a slot back."""


class Word(Enum):
    """What the end of a row says of its site."""

    ANSWERED = "answered"
    BLOCKED = "blocked"
    NOTHING = "nothing"  # it could not be asked, or the fault was ours


@dataclass(slots=True, eq=False)
class _Site(Generic[T]):
    """One site; times are seconds of the caller's clock."""

    limit: int
    queue: deque[T] = field(default_factory=deque)
    active: int = 0
    slots: list[int] = field(default_factory=list)
    good: bool = False
    pauses: int = 0
    paused_at: float = 0.0
    paused_until: float = 0.0


class Sites(Generic[T]):
    """See the module. Not thread-safe: the caller holds a lock.

    Args:
        pause: seconds of the first pause.
        limit: how many rows of a site may be under way at once, of all who share `slots`; asked with its first row.
        slots: shared with the other workers of this machine; None when there are no others.
    """

    def __init__(self, pause: float, limit: Callable[[T], int], slots: Slots | None = None) -> None:
        self._pause = pause
        self._limit = limit
        self._slots = slots
        self._short = False  # of slots, when somebody was to be taken last
        self._sites: dict[str, _Site[T]] = {}
        self._queued: dict[str, _Site[T]] = {}

    def park(self, name: str, row: T) -> None:
        """`row` waits for its turn at the site, behind all others there."""
        site = self._sites.get(name)
        if site is None:
            if len(self._sites) >= MAX_SITES:
                self._forget()
            site = self._sites[name] = _Site(limit=max(1, self._limit(row)))
        site.queue.append(row)
        self._queued[name] = site

    def refuses(self, name: str, now: float) -> bool:
        """Whether rows of the site fail at once: it has blocked us for long, and another row is the one to try."""
        site = self._sites.get(name)
        if site is None or site.pauses <= PATIENCE:
            return False
        return now < site.paused_until or bool(site.active or site.queue)

    def take(self, now: float) -> tuple[str, T] | None:
        """A row that may start now, of the site with the fewest under way; it counts until `done`."""
        fitting = [
            (name, site)
            for name, site in self._queued.items()
            if site.active < (1 if site.pauses else site.limit) and site.paused_until <= now
        ]
        self._short = False
        for name, site in sorted(fitting, key=lambda each: each[1].active):
            if self._slots is None:
                return name, self._start(name, site)
            slot = self._slots.acquire(_slot_name(name), site.limit)
            if slot is not None:
                site.slots.append(slot)
                return name, self._start(name, site)
            self._short = True
        return None

    def _start(self, name: str, site: _Site[T]) -> T:
        row = site.queue.popleft()
        site.active += 1
        del self._queued[name]
        if site.queue:
            self._queued[name] = site  # behind the others
        return row

    def done(
        self, name: str, word: Word, now: float, *, began: float, sure: bool = True, retry_after: float = 0.0
    ) -> list[T]:
        """A row of the site is over; it counts no longer.

        Args:
            name: of the site.
            word: what the end says.
            now: the time.
            began: when the row was taken; what began before a pause says nothing new about it.
            sure: a block is surely meant for us and not for the row.
            retry_after: seconds for which the site asked to be left alone; heeded up to an hour.

        Returns:
            Rows that wait there and must fail now.
        """
        site = self._sites[name]
        site.active -= 1
        if self._slots is not None:
            self._slots.release(_slot_name(name), site.slots.pop())
        given_up: list[T] = []
        fresh = not site.pauses or began >= site.paused_at
        if word is Word.ANSWERED and fresh:
            site.pauses, site.good = 0, True
        elif word is Word.BLOCKED and fresh:
            if sure or not site.good:
                self._pause_it(site, now, retry_after)
                given_up = list(site.queue) if site.pauses > PATIENCE else []
            site.good = False
        if given_up:
            site.queue.clear()
            del self._queued[name]
        return given_up

    def leave_alone(self, name: str, now: float) -> bool:
        """A row that waits at the site was blocked before it came here. Returns whether a pause begins by it.

        As in `done`: one row between others that are not blocked stops nobody.
        """
        site = self._sites.get(name)
        if site is None or site.pauses:
            return False
        if not site.good:
            self._pause_it(site, now, 0.0)
        site.good = False
        return site.pauses > 0

    def rests(self, name: str) -> bool:
        """Whether a site is left alone, or was and has not answered since."""
        site = self._sites.get(name)
        return site is not None and site.pauses > 0

    def _pause_it(self, site: _Site[T], now: float, retry_after: float) -> None:
        site.pauses += 1
        site.paused_at = now
        wait = min(self._pause * 2.0 ** min(site.pauses - 1, 20), LONGEST)
        site.paused_until = now + max(wait, min(retry_after, LONGEST))

    def _forget(self) -> None:
        for name, site in list(self._sites.items()):
            if not (site.queue or site.active or site.pauses):
                del self._sites[name]

    def next_start(self, now: float) -> float | None:
        """When a site that is paused, or has no slot, may be asked and has something to ask; None for no such site."""
        times = [site.paused_until for site in self._queued.values() if site.paused_until > now]
        times += [now + SLOT_POLL] if self._short else []
        return min(times, default=None)

    def paused(self, name: str, now: float) -> float:
        """Seconds for which a site is still left alone; 0 when it is not."""
        site = self._sites.get(name)
        return max(0.0, site.paused_until - now) if site else 0.0


def _slot_name(site: str) -> str:
    """No host is called so: their own requests have slots, too."""
    return f"site {site}"
