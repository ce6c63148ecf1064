"""NNNNN.parquet: one row per sample, failures too. Shared by all writers; with the media it is the parquet format.

Samples come in the order in which they were fetched. Rows are held back until they fill a row group and are sorted by
key there, so that a shard of usual size is in the order of its list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.sample_json import well_formed

GROUP_BYTES = 64 * 2**20
"""A row group is written when the rows held back take about this many bytes of memory."""

_CELL_BYTES = 64
"""What a value costs besides its text: the Python object and its slot."""

_CHUNK = 64
_BATCH = 16
"""For columns of bytes: values in an array, and values that go into a page before its size is looked at."""


class MetadataWriter:
    """Writes rows to one parquet file, which it opens when the first row group is complete.

    Args:
        opener: opens the file.
        name: its name in the output folder.
        schema: its columns; `key` is one of them.
        group_bytes: how many bytes of rows make a row group.
    """

    def __init__(self, opener: Opener, name: str, schema: pa.Schema, group_bytes: int = GROUP_BYTES) -> None:
        self._opener = opener
        self._name = name
        self._schema = schema
        self._group_bytes = group_bytes
        self._values = itemgetter(*schema.names)
        self._by_key = itemgetter(schema.names.index("key"))
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row, a value for every column.

        Raises:
            OSError: the disk is full or broken.
            TypeError: some value of the row group does not fit its column; names the column.
        """
        values = self._values(row)
        self._rows.append(values)
        self._bytes += _memory(values)
        if self._bytes >= self._group_bytes:
            self._flush()

    def close(self) -> None:
        """Write what is held back and the footer, and close the file, also when that fails."""
        try:
            if self._rows or self._writer is None:
                self._flush()
            self._writer.close()
        except BaseException:
            self.abort()
            raise
        assert self._file is not None
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is; never raises."""
        self._rows.clear()
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()
        if self._writer is not None:  # after its file, so that it cannot put a footer under half of the rows
            with contextlib.suppress(Exception):
                self._writer.close()

    def _flush(self) -> None:
        """Write the rows held back as one row group."""
        table = self._take_rows()
        if self._writer is None:
            self._file = self._opener(self._name)
            self._writer = pq.ParquetWriter(self._file, self._schema, **_options(self._schema))
        self._writer.write_table(table, row_group_size=max(1, len(table)))

    def _take_rows(self) -> pa.Table:
        """The rows held back, sorted; they are let go here, before the encoder needs memory."""
        self._rows.sort(key=self._by_key)
        columns = list(zip(*self._rows, strict=True)) or [()] * len(self._schema)
        self._rows.clear()
        self._bytes = 0
        arrays = [_array(field, values) for field, values in zip(self._schema, columns, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _options(schema: pa.Schema) -> dict[str, Any]:
    """How to encode: as pyarrow does by default, but for columns of bytes, which may be media.

    A dictionary of pictures only delays their pages, and the default of 1024 values between two looks at the size of a
    page makes the whole row group one page, of which pyarrow holds several copies: 200 MB more for a group of 64 MiB.
    """
    if pa.binary() not in schema.types:
        return {}
    return {"use_dictionary": [f.name for f in schema if f.type != pa.binary()], "write_batch_size": _BATCH}


def _array(field: pa.Field, values: Sequence[Any]) -> Any:
    """One column of a row group."""
    try:
        if field.type == pa.binary():  # may be media: an array that grows takes thrice their bytes, small ones do not
            chunks = [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
            return pa.chunked_array([pa.array(chunk, type=field.type) for chunk in chunks], type=field.type)
        return pa.array(values, type=field.type)
    except UnicodeEncodeError:
        return pa.array([well_formed(value) for value in values], type=field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"column {field.name!r} holds a value that is no {field.type}: {error}") from error


def _memory(values: Sequence[Any]) -> int:
    """About how many bytes these values take while they are held back."""
    total = _CELL_BYTES * len(values)
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            total += len(value)
        elif kind is int or value is None:  # nearly all others; to ask them first saves half of the time
            continue
        elif isinstance(value, (list, tuple)):
            total += _memory(value)
        elif isinstance(value, dict):
            total += _memory(list(value.values()))
    return total
