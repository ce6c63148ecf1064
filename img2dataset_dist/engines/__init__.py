"""Engines: where shards are worked on.

An engine is one file here and one line in `registry.py`. It never looks into a shard: it hands shards to
`Pipeline(job).run(...)` in as many processes as it likes and passes on what comes back. The contract suite in
tests/engines/ runs over every engine in the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Event, Shard
from img2dataset_dist.shard import ShardJob


class Engine(Protocol):
    """Made once per job on the driver."""

    def __init__(self, config: JobConfig) -> None: ...

    def run(self, job: ShardJob, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        """Every shard exactly once in the result, as a receipt or a failure; order and latency unspecified.

        A worker that dies costs its open shards a failure each, and no more. Closing the iterator stops all work
        within seconds.

        Args:
            job: what to do with a shard.
            shards: pulled only as fast as workers ask. If it raises, shards under way are finished first.
            overlap: False works on one shard per worker at a time, so that a crash can be pinned on it.
        """

    def close(self) -> None:
        """The job is over: give back what was kept between runs. Called once, whatever happened."""
