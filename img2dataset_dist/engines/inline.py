"""Everything in this process: for tests, debugging and notebooks that may not start others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Event, Shard
from img2dataset_dist.pipeline import Pipeline
from img2dataset_dist.shard import ShardJob


class InlineEngine:
    """See `Engine`. A crash of a decoder is a crash of the whole program here, and `transform_timeout` is not kept."""

    def __init__(self, config: JobConfig) -> None:
        """`processes_count` does not apply."""

    def run(self, job: ShardJob, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        """See `Engine.run`."""
        late: list[Exception] = []
        yield from Pipeline(job, overlap=overlap, isolate=False).run(until_error(shards, late))
        if late:
            raise late[0]

    def close(self) -> None:
        """See `Engine.close`; nothing is kept."""


def until_error(shards: Iterable[Shard], late: list[Exception]) -> Iterator[Shard]:
    """`shards` up to the first exception, which is put into `late`: what was handed out is finished first."""
    try:
        yield from shards
    except Exception as error:  # noqa: BLE001 (raised by the engine once the open shards are done)
        late.append(error)
