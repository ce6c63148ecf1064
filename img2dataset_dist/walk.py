"""From a plan to its shards, one after the other: the list is walked as far as somebody asks.

A shard of parquet follows from the row counts in the footers. Text is walked, and what was found is remembered in the
spool (`span_log.py`), so that the next run enters the list where it has something to do. Inputs that cannot be entered
in the middle are cut into slices; a slice that an earlier run left is used again.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from img2dataset_dist import registry
from img2dataset_dist.config import InputConfig
from img2dataset_dist.model import Shard, Source
from img2dataset_dist.readers import Reader, Span
from img2dataset_dist.readers.columns import wanted
from img2dataset_dist.span_log import Found, SpanLog
from img2dataset_dist.storage import Folder

if TYPE_CHECKING:
    from img2dataset_dist.plan import Plan


def reader_for(config: InputConfig) -> Any:
    """The reader that plans `config.input_format`."""
    return registry.lookup("reader", config.input_format.removesuffix(".gz"))(config)


def sliced(config: InputConfig) -> bool:
    """Whether inputs must be cut into slices because they cannot be entered in the middle."""
    return config.input_format.endswith(".gz") or config.input_format == "json"


@dataclass(frozen=True, kw_only=True)
class Walk:
    """One way through a list.

    Attributes:
        plan: the list.
        spool: where slices are; None: they are counted, not made.
        done: ids of shards that are left out.
        remember: use and keep what is known of the list in `spool`.
    """

    plan: Plan
    spool: Folder | None = None
    done: Container[int] = ()
    remember: bool = False

    def shards(self) -> Iterator[Shard]:
        """The shards in order, without those that are done."""
        if self.spool is not None and sliced(self.plan.config):
            if self.remember:
                self._sweep(self.spool)
            return self._slices(self.spool)
        return self._ranges()

    def _ranges(self) -> Iterator[Shard]:
        """Shards that the workers read where they lie."""
        reader: Reader = reader_for(self.plan.config)
        log = self._log()
        number, file, after = 0, 0, None
        for found in log.behind(self._first_wanted()) if log else ():
            number, file, after = found.number + 1, found.file, found.span
            yield from self._wanted(found, self.plan.sources[found.file])
        for place in range(file, len(self.plan.sources)):
            source = self.plan.sources[place]
            if source.number is not None:  # a tar of a dataset keeps its number
                number = source.number
                if self.plan.first_shard + number in self.done:
                    continue  # without counting its rows
            for span in reader.spans(source, after):
                found = Found(number, place, span)
                if log:
                    log.add(found)
                yield from self._wanted(found, source)
                number += 1
            after = None

    def _wanted(self, found: Found, source: Source) -> Iterator[Shard]:
        shard_id = self.plan.first_shard + found.number
        if shard_id not in self.done:
            yield _shard(shard_id, source, found.span)

    def _slices(self, spool: Folder) -> Iterator[Shard]:
        """Shards of slices: those that lie in the spool already, then, from the first that does not, new ones."""
        reader = reader_for(self.plan.config)
        log = self._log()
        number, file, after = 0, 0, None
        known = log.behind(self._first_wanted()) if log else iter(())
        for found in known:
            number, file, after = found.number, found.file, _behind_what_is_before(found.span)
            if self.plan.first_shard + number not in self.done:
                size = spool.size(self._slice_name(number))
                if size is None:
                    break
                yield self._slice(spool, found, size)
            number, after = number + 1, found.span
        logged = max([number, *(found.number + 1 for found in known)])
        for place in range(file, len(self.plan.sources)):
            for span, content in reader.slices(self.plan.sources[place], after):
                found = Found(number, place, span)
                if log and number >= logged:
                    log.add(found)
                if self.plan.first_shard + number not in self.done:
                    spool.write_whole(self._slice_name(number), content)
                    yield self._slice(spool, found, len(content))
                number += 1
            after = None

    def _slice(self, spool: Folder, found: Found, size: int) -> Shard:
        source = self.plan.sources[found.file]
        url = spool.url(self._slice_name(found.number))
        span = found.span._replace(byte_range=(0, size))
        shard_id = self.plan.first_shard + found.number
        return _shard(shard_id, reader_for(self.plan.config).slice_source(url, source), span, temporary=True)

    def _slice_name(self, number: int) -> str:
        """Says what is in it: the list, and, since a JSON document of columns is cut by them, the columns."""
        return f"{self._tag}-{number}.{self.plan.sources[0].format}"

    @functools.cached_property
    def _tag(self) -> str:
        columns = sorted(set(wanted(self.plan.config).values()))
        return hashlib.sha256(f"{self.plan.fingerprint} {columns}".encode()).hexdigest()[:16]

    def _sweep(self, spool: Folder) -> None:
        """Remove slices of shards that are done: who was killed between a receipt and this could not."""
        tag = f"{self._tag}-"
        for name in spool.names():
            number = name.removeprefix(tag).partition(".")[0]
            if name.startswith(tag) and number.isdigit() and self.plan.first_shard + int(number) in self.done:
                spool.remove(name)

    def _first_wanted(self) -> int:
        first = self.plan.first_shard
        return next(number for number in itertools.count() if first + number not in self.done)

    def _log(self) -> SpanLog | None:
        """What is remembered of the list; nothing has to be where the files themselves say it."""
        known = self.plan.rows is not None or self.plan.config.input_format == "webdataset"
        if self.spool is None or not self.remember or known:
            return None
        return SpanLog(self.spool, self.plan.fingerprint)


def _behind_what_is_before(span: Span) -> Span | None:
    """Stands for all rows of the file before `span`."""
    if span.start == 0:
        return None
    return Span(0, span.start, None if span.byte_range is None else (0, span.byte_range[0]))


def _shard(shard_id: int, source: Source, span: Span, *, temporary: bool = False) -> Shard:
    return Shard(
        id=shard_id,
        source=source,
        start=span.start,
        rows=span.rows,
        byte_range=span.byte_range,
        temporary=temporary,
    )
