"""Who may be fetched as far as robots.txt goes, and who waits until that is known."""

from __future__ import annotations

from collections.abc import Callable

from img2dataset_dist import urls
from img2dataset_dist.errors import RobotsDisallowed
from img2dataset_dist.fetchers.robots import MAX_ORIGINS, RobotsCache, Verdict, robots_url
from img2dataset_dist.fetchers.transfer import Transfer
from img2dataset_dist.model import Failure

NOBODY_THERE = ("blocked_address", "connect", "dns", "host_down", "ignored_host", "timeout_connect", "tls")
"""Failures of a robots.txt that its site's rows would have had as well."""


class Permission:
    """Lives in the fetch thread.

    Args:
        names: by which a site may address us, in order of preference.
        clock: seconds.
    """

    def __init__(self, names: tuple[str, ...], clock: Callable[[], float]) -> None:
        self._cache = RobotsCache(names, clock=clock)
        self._waiting: dict[str, list[Transfer]] = {}
        self._silent: dict[str, Failure] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def verdict(self, transfer: Transfer) -> Verdict | None:
        """What robots.txt says about a transfer; None when it has to be fetched first."""
        verdict = self._cache.verdict(transfer.url.url)
        if verdict is not None:
            transfer.robots_txt = verdict.state
        return verdict

    def refusal(self, transfer: Transfer) -> Failure | None:
        """Why it may not be fetched. Where the site itself could not be reached, that is the reason."""
        if transfer.robots_txt not in ("disallowed", "unreachable"):
            return None
        failure = Failure.of(RobotsDisallowed(f"robots.txt: {transfer.robots_txt}"))
        return self._silent.get(transfer.url.origin, failure) if transfer.robots_txt == "unreachable" else failure

    def wait(self, transfer: Transfer) -> Transfer | None:
        """Let a transfer wait for its site's file. Returns the transfer that fetches it, unless one is under way."""
        origin = transfer.url.origin
        self._count += 1
        others = self._waiting.setdefault(origin, [])
        others.append(transfer)
        return Transfer(None, urls.parse(robots_url(origin))) if len(others) == 1 else None

    def came(self, file: Transfer) -> list[Transfer]:
        """A file is there, or will not be. Returns who waited for it."""
        origin, failure = file.first.origin, file.failure
        assert isinstance(file.body, bytearray)
        whole = failure is None or file.status >= 300  # noqa: PLR2004 (the body of an error says nothing)
        self._cache.store(origin, file.status if file.status and whole else None, bytes(file.body))
        self._silent.pop(origin, None)
        if failure is not None and failure.code in NOBODY_THERE and not file.redirects:
            if len(self._silent) >= MAX_ORIGINS:
                self._silent.clear()
            self._silent[origin] = failure
        waited = self._waiting.pop(origin, [])
        self._count -= len(waited)
        return waited
