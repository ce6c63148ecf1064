"""csv and tsv, with a header line.

Quoting as RFC 4180 has it, quoted line breaks included. A quote that is never closed must not swallow the rows after
it: when it runs on for `MAX_RECORD` bytes or to the end, or closes where no quote may close (at the opening quote of a
later row), the record is given up and its first line alone becomes a bad row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.model import Source
from img2dataset_dist.readers.columns import FROM_TEXT, NULLS, check_columns, fits, forced_text_types, wanted
from img2dataset_dist.readers.lines import MAX_LINE, LineReader, Lines, text

MAX_RECORD = 2**20


class Record(NamedTuple):
    """The fields of one record, or what is wrong with it."""

    fields: list[str]
    problem: str | None = None


class _Runaway(Exception):
    """A quoted field does not end where it should."""


class CsvReader(LineReader):
    """Comma-separated values. Short rows end in nulls; rows with more fields than the header are bad rows."""

    format = "csv"
    delimiter = ","
    has_header = True

    def records(self, lines: Lines) -> Iterator[Record]:
        """Records as the csv module splits them, one at a time so that offsets stay exact."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD + MAX_LINE))  # what is too long, we decide
        while True:
            lines.forget()
            taken = _Taken(lines, self.delimiter)
            try:
                fields = next(csv.reader(taken, delimiter=self.delimiter, strict=True), None)
            except (csv.Error, _Runaway):  # the end of the file inside quotes is an error, too
                lines.put_back(taken.count - 1)
                yield self._lenient(taken.first)
                continue
            if fields is None:
                return
            if not taken.blank:
                yield Record(fields)

    def ends(self, lines: Lines) -> Iterator[None]:
        """A line without a quote is a record, whatever is in it; only others need a parser to find their end."""
        space = _space(self.delimiter)
        records = None
        for line in lines:
            if b'"' in line:
                lines.put_back(1)
                records = records or self.records(lines)
                if next(records, None) is not None:
                    yield
            elif line.strip(space):
                yield
            lines.forget()

    def _lenient(self, line: bytes) -> Record:
        """A line that is no strict csv: text after a closing quote is forgiven, an open quote is not."""
        if len(line) >= MAX_LINE:
            return Record([], "line too long")
        try:
            return Record(next(csv.reader(_only(line), delimiter=self.delimiter)))
        except _Runaway:
            return Record([], "a quoted field is never closed")
        except csv.Error:
            return Record([], "not valid csv")

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
            except (ValueError, RecursionError):
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
        types = forced_text_types(self.config)
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
        return next((kind for kind in FROM_TEXT if all(fits(value, kind) for value in present)), pa.string())


class TsvReader(CsvReader):
    """Tab-separated values, otherwise as csv."""

    format = "tsv"
    delimiter = "\t"


class _Taken:
    """Feeds one record's lines to the csv module as text, and counts them."""

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self._lines = lines
        self._space = _space(delimiter)
        self.first = b""
        self.count = 0
        self.size = 0
        self.blank = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.count and self.size > MAX_RECORD:
            raise _Runaway
        line = next(self._lines)
        self.count += 1
        self.size += len(line)
        self.first = self.first or line
        if len(line) >= MAX_LINE:
            raise _Runaway
        self.blank = self.blank and not line.strip(self._space)
        return _text(line)


def _space(delimiter: str) -> bytes:
    """What a blank line may hold."""
    return b" \t\r\n\v\f".replace(delimiter.encode(), b"")


def _only(line: bytes) -> Iterator[str]:
    yield _text(line)
    raise _Runaway


def _text(line: bytes) -> str:
    return text(line).replace("\0", "\ufffd")
