"""What this worker may do to a host: its part of what the whole job may."""

from __future__ import annotations

import math

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.hosts import Host, HostLimits
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.fetchers.slots import PER_HOST
from img2dataset_dist.fetchers.transfer import Transfer


class Limits:
    """From the options, the table of hosts and the number of workers.

    The processes of one machine share a host's limits (`slots.py`) and count as one worker here. Workers that share
    nothing, the machines of a cluster, divide them: by their number, or, where the list is sorted by host, by the
    lanes of the host.
    """

    def __init__(self, config: FetchConfig, context: FetchContext) -> None:
        self._connections = config.max_connections_per_host
        self._rate = config.max_requests_per_second_per_host
        self._context = context

    def parts(self, host: str) -> int:
        """By how many workers the host is asked at most."""
        workers = self._context.workers
        return min(self._context.spread.get(host, 1), workers) if self._context.by_host else workers

    def stranger(self, host: str) -> None:
        """A redirect leads to `host`, which may be in no lane of ours: so may it lead all other workers there."""
        if self._context.by_host:
            self._context.spread.setdefault(host, self._context.workers)

    def share(self, host: str, rate: float) -> float:
        """Our part of what the whole job may ask of the host per second."""
        return rate / self.parts(host)

    def of(self, host: str) -> HostLimits:
        """The limits of a host for us."""
        rule = self._context.table.rule(host)
        connections = max(1, (rule.connections or self._connections) // self.parts(host))
        rate = rule.rate or self._rate or math.inf
        start = self._context.rates.get(host, math.inf)
        return HostLimits(
            connections=min(connections, PER_HOST), rate=self.share(host, rate), start_rate=self.share(host, start)
        )

    def profile(self, host: Host[Transfer], now: str) -> HostProfile:
        """What was learnt about a host."""
        return HostProfile(
            host=host.name,
            requests=host.requests,
            successes=host.successes,
            errors=host.errors,
            slow_downs=host.slow_downs,
            rate=None if math.isinf(host.rate) else host.rate * self.parts(host.name),
            latency_ms=round(1000 * host.seconds / max(1, host.answered)),
            last_seen=now,
        )
