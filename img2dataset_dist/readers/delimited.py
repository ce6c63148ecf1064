"""csv and tsv, with a header line.

Quoting as RFC 4180 has it, quoted line breaks included. A quote that is never closed must not swallow the rest of the
file: after `MAX_RECORD` bytes the record is given up and its first line alone becomes a bad row.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.model import Source
from img2dataset_dist.readers.columns import NULLS, check_columns, forced_types, wanted
from img2dataset_dist.readers.lines import LineReader, Lines, text

MAX_RECORD = 2**20
_BOXES = pa.list_(pa.list_(pa.float64()))
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|-?inf")


class Record(NamedTuple):
    """The fields of one record, or what is wrong with it."""

    fields: list[str]
    problem: str | None = None


class _Runaway(Exception):
    """A quoted field did not end within MAX_RECORD bytes."""


class CsvReader(LineReader):
    """Comma-separated values. Short rows end in nulls; rows with more fields than the header are bad rows."""

    format = "csv"
    delimiter = ","
    has_header = True

    def records(self, lines: Lines) -> Iterator[Record]:
        """Records as the csv module splits them, one at a time so that offsets stay exact."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))
        while True:
            lines.forget()
            taken = _Taken(lines)
            try:
                fields = next(csv.reader(taken, delimiter=self.delimiter), None)
            except _Runaway:
                lines.put_back(taken.count - 1)
                yield Record([], "a quoted field is never closed")
                continue
            except csv.Error:
                yield Record([], "not valid csv")
                continue
            if fields is None:
                return
            if not taken.blank:
                yield Record(fields)

    def parse(self, record: Record, columns: tuple[str, ...] | None) -> tuple[dict[str, Any], str | None]:
        """Values by column; an empty field is an empty text, and a null where its column has another type."""
        assert columns is not None
        if record.problem is not None:
            return {}, record.problem
        row: dict[str, Any] = dict(zip(columns, record.fields, strict=False))
        problem = None
        if len(record.fields) > len(columns):
            problem = "the row has more fields than the header"
        elif self.config.bbox_col is not None and row.get(self.config.bbox_col) in NULLS:
            row[self.config.bbox_col] = None
        elif self.config.bbox_col is not None and row.get(self.config.bbox_col) is not None:
            try:
                row[self.config.bbox_col] = json.loads(row[self.config.bbox_col])
            except ValueError:
                row[self.config.bbox_col] = None
                problem = f"column '{self.config.bbox_col}' is not valid JSON"
        return row, problem

    def header(self, lines: Lines, path: str) -> tuple[str, ...]:
        """The first record: the column names."""
        record = next(self.records(lines), None)
        if record is None or record.problem is not None:
            raise ConfigError(f"{path} has no header line with column names")
        columns = tuple(name.strip() for name in record.fields)
        check_columns(self.config, columns, path)
        return columns

    def schema(self, source: Source, head: list[Record]) -> pa.Schema:
        """Types guessed from the first rows, but for those that we decide."""
        rows = [self.parse(record, source.columns)[0] for record in head]
        types = forced_types(self.config)
        if self.config.bbox_col is not None:
            types[self.config.bbox_col] = _BOXES
        return pa.schema(
            [
                pa.field(output, types.get(output) or self._guess([row.get(name) for row in rows]))
                for output, name in wanted(self.config).items()
            ]
        )

    def _guess(self, values: list[str | None]) -> pa.DataType:
        """int64, double, bool or text: the narrowest that loses nothing ("007" stays text)."""
        present = [value for value in values if value is not None and value not in NULLS]
        if not present or not self.config.infer_types:
            return pa.string()
        if all(_INTEGER.fullmatch(value) for value in present):
            return pa.int64()
        if all(_NUMBER.fullmatch(value) for value in present) and not any(map(_padded, present)):
            return pa.float64()
        if all(value in ("true", "false", "True", "False") for value in present):
            return pa.bool_()
        return pa.string()


class TsvReader(CsvReader):
    """Tab-separated values, otherwise as csv."""

    format = "tsv"
    delimiter = "\t"


class _Taken:
    """Feeds one record's lines to the csv module as text, and counts them."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.count = 0
        self.size = 0
        self.blank = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.count and self.size > MAX_RECORD:
            raise _Runaway
        try:
            line = next(self._lines)
        except StopIteration:
            if self.count > 1:
                raise _Runaway from None
            raise
        self.count += 1
        self.size += len(line)
        self.blank = self.blank and line.isspace()
        return text(line).replace("\0", "\ufffd")


def _padded(value: str) -> bool:
    return bool(re.match(r"-?0\d", value))
