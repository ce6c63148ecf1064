"""Fetchers: items to bytes.

A fetcher is one file here and one line in `registry.py`. How the parts of the one that we have fit together::

    rows ──▶ robots ──▶ hosts (the gate) ──▶ resolver ──▶ wire (libcurl) ──▶ outcome ──▶ body or failure
               ▲            ▲    ▲   waiting (retries) ◀──────────────────────┤
               └─ redirects ┘    └────────── health (is our network up?) ◀────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from img2dataset_dist.config import FetchConfig, JobConfig
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.host_table import HostTable
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.model import Fetched, Item
from img2dataset_dist.spool import Spool


def _silence(_: str) -> None:
    """Nobody listens."""


def _no_shard(_: int, error: Exception) -> None:
    """Nobody knows the shard."""
    raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchContext:
    """What a fetcher needs to know besides the options.

    Attributes:
        table: rules by host.
        rates: where to begin with a host, in requests per second of the whole job; from an earlier run.
        workers: how many of us there are that share nothing; each takes its part of what a host may be asked.
        slots: a file by which the workers of this machine share hosts; None when alone.
        neighbours: how many of them there are.
        by_host: a host is in one lane, so that its whole rate is ours, but for those in `spread`.
        spread: host to the number of lanes that it is in; may grow while the fetcher runs.
        budget: bytes in memory. A body's are taken from it, and given back by whoever gets the body. None: unlimited.
        notify: takes lines for people.
        fail: ends a shard that cannot be read to its end; may be called from the fetch thread.
        spool: where bodies go to as files; None for memory. The bytes of `budget` are those of its disk then.
        job: all options of the job, for a fetcher that needs more of them.
    """

    table: HostTable = field(default_factory=lambda: HostTable(rules={}, ignored=frozenset()))
    rates: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1
    slots: str | None = None
    neighbours: int = 1
    by_host: bool = False
    spread: dict[str, int] = field(default_factory=dict)
    budget: Budget | None = None
    notify: Callable[[str], None] = _silence
    fail: Callable[[int, Exception], None] = _no_shard
    spool: Spool | None = None
    job: JobConfig | None = None


class Fetcher(Protocol):
    """Lives in one thread of a worker; made once per process."""

    def __init__(self, config: FetchConfig, context: FetchContext) -> None: ...

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """One `Fetched` per `Item`, in any order; a failure of a row never raises.

        Args:
            items: pulled only when there is room for another transfer. None means: nothing to do just now, ask
                again soon.

        Raises:
            NetworkDownError: the network of this machine has been down for `network_patience`.
        """

    def stop(self) -> None:
        """Make `fetch` end within a second or so, whatever is under way; may be called from any thread."""

    def close(self) -> None:
        """Drop all connections."""

    @property
    def alive(self) -> float:
        """When `fetch` last went round, on the monotonic clock; may be read from any thread."""

    def profiles(self) -> list[HostProfile]:
        """What was learnt about hosts."""
