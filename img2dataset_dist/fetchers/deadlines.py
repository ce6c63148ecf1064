"""When a fetch has taken too long: four clocks that no server, resolver, redirect or body can stop.

::

    slot ──name, TCP, TLS──▶ request ──▶ first byte ──▶ body ...... end
     │    connect_timeout    │ first_byte_timeout │ min_bytes_per_second over min_speed_window │
     └───────────────────────────── timeout, with all redirects ───────────────────────────────┘

They are read by looking at all transfers now and then, and stand still while we ourselves make a transfer wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import pycurl

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import ConnectTimeout, FetchError, FirstByteTimeout, IdleTimeout, TotalTimeout
from img2dataset_dist.fetchers.transfer import Transfer, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that each part may take.

    Attributes:
        total: one try, redirects included.
        connect: name, TCP and TLS of one request.
        first_byte: from the request to the first byte of the answer.
        window: seconds over which the speed of a body is measured, `least` bytes in them are enough.
    """

    total: float
    connect: float
    first_byte: float
    window: float
    least: float

    @classmethod
    def of(cls, config: FetchConfig) -> Deadlines:
        """As the options say; parts that are not set may take as long as the whole."""
        return cls(
            total=config.timeout,
            connect=min(config.connect_timeout or config.timeout, config.timeout),
            first_byte=min(config.first_byte_timeout or config.timeout, config.timeout),
            window=config.min_speed_window,
            least=config.min_bytes_per_second * config.min_speed_window,
        )

    @property
    def look(self) -> float:
        """Seconds between two looks: fine enough for the shortest deadline."""
        return min(0.25, max(0.02, min(self.total, self.connect, self.first_byte, self.window) / 8))

    def spent(self, transfer: Transfer, now: float) -> float:
        """Seconds that the try has taken so far, without those in which we made it wait."""
        end = transfer.paused_at or now
        return transfer.spent + max(0.0, end - transfer.began)

    def overdue(self, transfer: Transfer, now: float) -> FetchError | None:
        """What has taken too long, if anything has."""
        if transfer.where in (Where.PAUSED, Where.READING):
            return None
        over = self.spent(transfer, now) > self.total
        if not transfer.received:
            asked = self._asked(transfer)
            if asked is None:
                if now - transfer.began > self.connect:
                    return ConnectTimeout("timeout while connecting")
            elif now - transfer.began - asked > self.first_byte or (over and self._names_first_byte(transfer)):
                return FirstByteTimeout("no answer in time")
        elif not over and self.least and self._too_slow(transfer, now):
            return IdleTimeout("too slow")
        return TotalTimeout("timeout") if over else None

    def _names_first_byte(self, transfer: Transfer) -> bool:
        """Whether this wait is to blame when the whole is over: of two equal deadlines it is chance which is first."""
        return self.first_byte == self.total and not transfer.redirects

    @staticmethod
    def _asked(transfer: Transfer) -> float | None:
        """Seconds from the slot to the request; None before that."""
        if transfer.handle is None:
            return None
        seconds = float(transfer.handle.getinfo(pycurl.PRETRANSFER_TIME))
        return seconds + transfer.dns if seconds > 0 else None

    def _too_slow(self, transfer: Transfer, now: float) -> bool:
        if not transfer.window_start:
            transfer.window_start, transfer.window_bytes = now, transfer.received
        if now - transfer.window_start < self.window:
            return False
        slow = transfer.received - transfer.window_bytes < self.least
        transfer.window_start, transfer.window_bytes = now, transfer.received
        return slow
