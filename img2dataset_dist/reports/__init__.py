"""Reports: what people see of a job while it runs and when it is over.

A report is one file here and one line in `registry.py`. Its methods are called on the driver; `total` may come from
another thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Event, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """What is known when a job starts: where it writes, shards done earlier, and remarks for the user."""

    output: str
    done: int
    notes: tuple[str, ...] = ()


class Report(Protocol):
    """One audience."""

    def __init__(self, config: JobConfig) -> None: ...

    def start(self, start: JobStart) -> None:
        """The job begins."""

    def total(self, rows: int) -> None:
        """How many rows this run has to do, once that is known; of a long text list first an estimate."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def finish(self, stats: Stats, failed: Mapping[int, str]) -> None:
        """The job is over, or was interrupted. `failed`: shard id to reason."""
