"""Is our own network up? When it is not, a list must not be burnt against it.

Failures that look like ours (no resolver answers, no route) on many different hosts in a row mean that the fault is
here. The rows concerned are held back; while the network is down one row now and then is tried, and when any answer
comes all of them are fetched again as if nothing had happened.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Generic, TypeVar

from img2dataset_dist.errors import NetworkDownError

T = TypeVar("T")

WINDOW = 12
"""Different hosts that are looked at."""

SHARE = 0.9
"""Share of them that must have failed in our own way."""

HOLD = 5.0
"""Seconds for which a row is held back before its host is taken at its word after all."""

FIRST_PROBE, LAST_PROBE = 1.0, 15.0
"""Seconds between two rows that are tried while the network is down: at first, and at most."""

MAX_SUSPECTS = 100_000
"""Hosts of which it is kept that they failed while we were not at fault."""

NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
"""What the system says when it cannot send a packet at all."""


class Health(Generic[T]):
    """Lives in the fetch thread.

    Args:
        patience: seconds after which a network that is down is an error.
        notify: takes lines for people.
    """

    def __init__(self, *, patience: float, notify: Callable[[str], None]) -> None:
        self._patience = patience
        self._notify = notify
        self._seen: dict[str, bool] = {}
        self._held: list[tuple[float, str, T]] = []
        self._suspects: set[str] = set()
        self.resolver = False
        self._down_since: float | None = None
        self._next_probe = 0.0
        self._wait = FIRST_PROBE
        self._said = 0.0

    @property
    def down(self) -> bool:
        """Whether nothing should be started but probes."""
        return self._down_since is not None

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, thing: T, host: str, now: float, *, resolver: bool = False, certain: bool = False) -> None:
        """`thing` failed in a way that looks like our own fault.

        Hosts that failed so before it turned out that we are not at fault say nothing when they fail again.

        Args:
            thing: the row.
            host: its host.
            now: the time.
            resolver: its name was not resolved.
            certain: it is our own fault, whatever other hosts do (`link.py`).
        """
        self._held.append((now, host, thing))
        if host in self._suspects and not certain:
            return
        self.resolver = resolver
        self._note(host, ours=True)
        convincing = len(self._seen) >= WINDOW and sum(self._seen.values()) >= SHARE * WINDOW
        if self.down or not (certain or convincing):
            return
        self._down_since = now
        self._wait = FIRST_PROBE
        self._next_probe = now + self._wait
        self._said = now
        reason = (
            "this machine has no link"
            if certain
            else f"neither a resolver nor a route for {sum(self._seen.values())} hosts in a row"
        )
        self._notify(f"network: {reason}; waiting, nothing is lost")

    def answered(self, host: str, now: float, *, resolved: bool = True) -> list[T]:
        """Something came from the network. Returns what was held back while it was down, to be fetched again.

        Args:
            host: it came from there.
            now: the time.
            resolved: the resolver was asked for it just now; else it says nothing about the resolver.
        """
        if self.resolver and not resolved:
            return []
        self._suspects.discard(host)
        self._note(host, ours=False)
        if self._down_since is None:
            return []
        self._notify(f"network: back after {now - self._down_since:.0f} s; going on")
        self._down_since = None
        if len(self._suspects) > MAX_SUSPECTS:
            self._suspects.clear()
        self._suspects.update(name for _, name, _ in self._held)
        self._seen.clear()
        again = [thing for _, _, thing in self._held]
        self._held.clear()
        return again

    def convicted(self, now: float, *, idle: bool) -> list[T]:
        """What was held back long enough while the network is up: its hosts are at fault, not we.

        Args:
            now: the time.
            idle: nothing else is under way, so nothing more will be learnt.
        """
        if self.down or not self._held:
            return []
        failed = [thing for since, _, thing in self._held if idle or now - since > HOLD]
        self._held = [] if idle else [held for held in self._held if now - held[0] <= HOLD]
        return failed

    def probe(self, now: float) -> bool:
        """Whether one row may be tried now although the network is down.

        Raises:
            NetworkDownError: it has been down for too long.
        """
        assert self._down_since is not None
        gone = now - self._down_since
        if gone > self._patience:
            raise NetworkDownError(
                f"the network of this machine has been down for {gone:.0f} s (no resolver, no route); "
                "run the same command again when it is back"
            )
        if now - self._said >= 60:  # noqa: PLR2004
            self._said = now
            self._notify(f"network: still down after {gone:.0f} s")
        if now < self._next_probe:
            return False
        self._wait = min(2 * self._wait, LAST_PROBE)
        self._next_probe = now + self._wait
        return True

    def one_held(self) -> T | None:
        """Something to probe with: what has been held back the longest."""
        return self._held.pop(0)[2] if self._held else None

    def next_look(self) -> float | None:
        """When to call `probe` or `convicted` again."""
        if self.down:
            return self._next_probe
        return self._held[0][0] + HOLD if self._held else None

    def _note(self, host: str, *, ours: bool) -> None:
        self._seen.pop(host, None)
        self._seen[host] = ours
        while len(self._seen) > WINDOW:
            del self._seen[next(iter(self._seen))]
