"""parquet: read in place on the workers, only the wanted columns of the row groups that a shard touches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset_dist import storage
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import InputError
from img2dataset_dist.model import Item, Shard, Source
from img2dataset_dist.readers import Span
from img2dataset_dist.readers.columns import ItemMaker, check_columns, forced_types, wanted
from img2dataset_dist.readers.lines import reading

BATCH_ROWS = 1024


class ParquetReader:
    """Shards are row ranges; nothing but the footer is read to plan them."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def inspect(self, path: str) -> tuple[Source, pa.Schema]:
        """See `Reader.inspect`."""
        with _open(path) as file:
            schema = file.schema_arrow
        check_columns(self.config, schema.names, path)
        forced = forced_types(self.config)
        fields = [
            pa.field(output, forced.get(output) or _storable(schema.field(name).type))
            for output, name in wanted(self.config).items()
        ]
        return Source(path=path, format="parquet", columns=tuple(schema.names)), pa.schema(fields)

    def spans(self, source: Source) -> Iterator[Span]:
        """See `Reader.spans`."""
        with _open(source.path) as file:
            rows = file.metadata.num_rows
        size = self.config.number_sample_per_shard
        for start in range(0, rows, size):
            yield Span(start, min(size, rows - start), None)

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        maker = ItemMaker(self.config, shard, schema)
        names = list(dict.fromkeys(wanted(self.config).values()))
        index = 0
        with _open(shard.source.path) as file:
            if lost := set(names) - set(file.schema_arrow.names):
                raise InputError(f"{shard.source.path}: column '{min(lost)}' is gone; the file changed")
            for table in _rows(file, names, shard.start, shard.rows):
                for row in _plain(table).to_pylist():
                    yield maker.make(index, row)
                    index += 1
        if index != shard.rows:
            raise InputError(f"{shard.source.path}: {index} rows where {shard.rows} were planned; the file changed")


def _rows(file: pq.ParquetFile, names: list[str], start: int, rows: int) -> Iterator[pa.RecordBatch]:
    """Record batches of rows start..start+rows, from the row groups that hold them and no others."""
    first = 0
    groups: list[int] = []
    skip = 0
    for number in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(number).num_rows
        if first + size > start and first < start + rows:
            if not groups:
                skip = start - first
            groups.append(number)
        first += size
    left = rows
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names):
        part = batch.slice(min(skip, batch.num_rows), left)
        skip -= min(skip, batch.num_rows)
        left -= part.num_rows
        if part.num_rows:
            yield part
        if left == 0:
            return


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Nanosecond timestamps to microseconds: Python's datetime has no more."""
    columns = [
        column.cast(_storable(column.type), safe=False) if _storable(column.type) != column.type else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _storable(kind: pa.DataType) -> pa.DataType:
    """The type that a column goes on with: one whose values Python objects can hold, also inside of others."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if kind == pa.time64("ns"):
        return pa.time64("us")
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([inner.with_type(_storable(inner.type)) for inner in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_storable(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_storable(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(_storable(kind.key_type), _storable(kind.item_type))
    return kind


@contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    with reading(path), storage.open_input(path) as stream:
        try:
            file = pq.ParquetFile(stream)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise InputError(f"{path} is not a readable parquet file: {error}") from error
        try:
            yield file
        except pa.ArrowException as error:
            raise InputError(f"{path}: {error}") from error
