"""parquet: read in place on the workers, only the wanted columns of the row groups that a shard touches."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset_dist import inputs
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import InputError
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Item, Shard, Source
from img2dataset_dist.readers import Inspected, Span
from img2dataset_dist.readers.columns import ItemMaker, check_columns, forced_types, wanted
from img2dataset_dist.readers.lines import reading

BATCH_ROWS = 1024

TAIL_BYTES = 64 * 2**10
"""Read from the end of a file at once; most footers are in it."""

FOOTERS_BYTES = 32 * 2**20
"""Footers that are held at once while a list is planned; parsed they are eight times as large."""


class _Room:
    """Bytes that threads may hold together; who wants more than there are waits until nobody has any."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold so many bytes inside of the block."""
        with self._freed:
            self._freed.wait_for(lambda: self._held == 0 or self._held + size <= self._size)
            self._held += size
        try:
            yield
        finally:
            with self._freed:
                self._held -= size
                self._freed.notify_all()


_ROOM = _Room(FOOTERS_BYTES)
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="footer")
"""One thread parses all footers: what the parser used, the C library keeps for the thread, and there are many."""


class ParquetReader:
    """Shards are row ranges; nothing but the footer is read to plan them."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def inspect(self, file: InputFile) -> Inspected:
        """See `Reader.inspect`; one read, or two when the footer is long.

        A file that does not count whole is known by its footer: that has the rows, places, sizes and mostly the least
        and largest values of all its pieces.
        """
        with reading(file.path):
            tail = inputs.read_range(file.path, 0 if file.whole else max(0, file.size - TAIL_BYTES), file.size)
            size = footer_bytes(tail, file.size)
            with _ROOM.taken(size):
                if (missing := size - len(tail)) > 0:
                    begin = file.size - len(tail)
                    tail = inputs.read_range(file.path, begin - missing, begin) + tail
                return _PARSER.submit(self._inspected, file, tail, size).result()

    def _inspected(self, file: InputFile, tail: bytes, size: int) -> Inspected:
        with readable(file.path), pq.ParquetFile(pa.BufferReader(tail)) as opened:
            schema = opened.schema_arrow  # not metadata.schema: that makes a cycle, and the footer stays for long
            rows = opened.metadata.num_rows
        check_columns(self.config, schema.names, file.path)
        forced = forced_types(self.config)
        fields = [
            pa.field(output, forced.get(output) or storable(schema.field(name).type))
            for output, name in wanted(self.config).items()
        ]
        if file.whole:
            identity = inputs.identity(file, tail)
        else:
            footer = hashlib.sha256(tail[-size:]).hexdigest()
            identity = {"size": file.size, "version": file.version, "footer": footer}
        return Inspected(Source(path=file.path, format="parquet", rows=rows), pa.schema(fields), identity)

    def spans(self, source: Source, after: Span | None = None) -> Iterator[Span]:
        """See `Reader.spans`; reads nothing."""
        assert source.rows is not None
        size = self.config.number_sample_per_shard
        for start in range(after.start + after.rows if after else 0, source.rows, size):
            yield Span(start, min(size, source.rows - start), None)

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        maker = ItemMaker(self.config, shard, schema)
        names = list(dict.fromkeys(wanted(self.config).values()))
        index = 0
        with _open(shard.source.path) as (file, foot):
            if lost := set(names) - set(file.schema_arrow.names):
                raise InputError(f"{shard.source.path}: column '{min(lost)}' is gone; the file changed")
            for table in _rows(file, foot.bounds, names, shard):
                for row in plain(table).to_pylist():
                    yield maker.make(index, row)
                    index += 1
        if index != shard.rows:
            raise InputError(f"{shard.source.path}: {index} rows where {shard.rows} were planned; the file changed")


def _rows(file: pq.ParquetFile, bounds: list[int], names: list[str], shard: Shard) -> Iterator[pa.RecordBatch]:
    """Record batches of the shard's rows, from the row groups that hold them and no others.

    `bounds` has the first row of each row group, and the end of the last.
    """
    first = max(0, bisect.bisect_right(bounds, shard.start) - 1)
    last = bisect.bisect_left(bounds, shard.start + shard.rows, lo=first)
    groups = list(range(first, min(last, len(bounds) - 1)))
    skip, left = shard.start - bounds[first], shard.rows
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names):
        part = batch.slice(min(skip, batch.num_rows), left)
        skip -= min(skip, batch.num_rows)
        left -= part.num_rows
        if part.num_rows:
            yield part
        if left == 0:
            return


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Nanosecond timestamps to microseconds: Python's datetime has no more."""
    columns = [
        column.cast(storable(column.type), safe=False) if storable(column.type) != column.type else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def storable(kind: pa.DataType) -> pa.DataType:
    """The type that a column goes on with: one whose values Python objects can hold, also inside of others."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if kind == pa.time64("ns"):
        return pa.time64("us")
    if pa.types.is_dictionary(kind):
        return storable(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([inner.with_type(storable(inner.type)) for inner in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(storable(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(storable(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(storable(kind.key_type), storable(kind.item_type))
    return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Foot:
    """A footer as this process keeps it; the next shard is mostly of the same file."""

    key: tuple[str, str]
    metadata: Any
    bounds: list[int]


_LAST: list[_Foot] = []


@contextmanager
def _open(path: str) -> Iterator[tuple[pq.ParquetFile, _Foot]]:
    with reading(path), inputs.open_input(path) as stream:
        with readable(path):
            foot = _foot(path, stream)
            file = pq.ParquetFile(stream, metadata=foot.metadata)
        try:
            yield file, foot
        except pa.ArrowException as error:
            raise InputError(f"{path}: {error}") from error


def _foot(path: str, stream: IO[bytes]) -> _Foot:
    key = path, inputs.version_of(stream)
    for foot in _LAST:
        if foot.key == key:
            return foot
    metadata = pq.ParquetFile(stream).metadata
    counts = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    foot = _Foot(key=key, metadata=metadata, bounds=list(itertools.accumulate(counts, initial=0)))
    _LAST[:] = [foot]
    return foot


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Within it, what pyarrow says of a broken file is an InputError that names it."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{path} is not a readable parquet file: {error}") from error


def footer_bytes(tail: bytes, size: int) -> int:
    """Length of the footer, its length and the magic bytes included, as the last bytes of a file of `size` have it."""
    return min(size, int.from_bytes(tail[-8:-4], "little") + 8) if tail.endswith(b"PAR1") else len(tail)
