"""Plug-ins for tests, named as a user names theirs: `support.plugins:Class`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from img2dataset_dist.model import Event, Receipt, Sample, Shard, ShardFailure, Stats
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.dummy import DummyWriter
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.webdataset import WebDatasetWriter


class BrokenWriter(DummyWriter):
    """Fails for every shard."""

    def write(self, sample: Sample) -> None:
        raise OSError(28, "No space left on device")


class Poison(WebDatasetWriter):
    """Does something terrible, as the caption of a row says; `once` marks a file so that it happens only once."""

    def write(self, sample: Sample) -> None:
        deed, _, once = (sample.item.columns.get("caption") or "").partition(" ")
        if deed and not (once and _seen(once)) and "NO_POISON" not in os.environ:
            DEEDS[deed]()
        super().write(sample)


def _seen(path: str) -> bool:
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    """To this thread: it would go on for a while if another one got the signal."""
    signal.raise_signal(signal.SIGSEGV)


def _raise() -> None:
    raise RuntimeError("poisoned")


def _hang() -> None:
    time.sleep(3600)


DEEDS = {"die": _die, "segfault": _segfault, "raise": _raise, "hang": _hang}


class FullDisk:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: object, room: int) -> None:
        self._file = file
        self.room = room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self._file.write(data)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


class FullDiskWriter(WebDatasetWriter):
    """Every shard finds the disk full, until the file `disk_has_room` exists beside the working directory."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        room = 10**12 if Path(os.environ["DISK_HAS_ROOM"]).exists() else 20_000
        super().__init__(lambda name: FullDisk(opener(name), room), shard_name, layout)  # type: ignore[arg-type,return-value]


class Stuck(DummyWriter):
    """Not a writer that hangs, but a whole process: every thread of it stops, as in a broken native library."""

    def write(self, sample: Sample) -> None:
        deed, _, once = (sample.item.columns.get("caption") or "").partition(" ")
        if deed and not (once and _seen(once)):
            os.kill(os.getpid(), signal.SIGSTOP)


class InstantEngine:
    """Works on nothing: every shard comes back as a receipt, at once. `FAIL` in the environment fails all instead."""

    def __init__(self, config: object) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, job: object, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        for shard in shards:
            if "FAIL" in os.environ:
                yield ShardFailure(shard_id=shard.id, error="OSError: no space left", trace="line\n" * 40)
            else:
                stats = Stats(count=shard.rows, successes=shard.rows, messages={"success": shard.rows})
                yield Receipt(shard_id=shard.id, stats=stats, attempt="", fingerprint="")


class WatchingEngine(InstantEngine):
    """Pulls three shards ahead of its receipts, and writes down the most slices that lay in the spool at a time."""

    def run(self, job: Any, shards: Iterable[Shard], *, overlap: bool) -> Iterator[Event]:
        spool = Path(job.output_url) / "_img2dataset" / "input"
        most, ahead = 0, []
        for shard in shards:
            most = max(most, sum(path.is_file() for path in spool.iterdir()))
            ahead.append(shard)
            if len(ahead) == 3:
                yield from super().run(job, [ahead.pop(0)], overlap=overlap)
        yield from super().run(job, ahead, overlap=overlap)
        Path(os.environ["SPOOL_WATCH"]).write_text(str(most))
