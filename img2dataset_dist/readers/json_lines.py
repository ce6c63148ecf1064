"""jsonl: a JSON object per line."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from img2dataset_dist.model import Source
from img2dataset_dist.readers.columns import check_columns, clean, forced_text_types, infer_type, wanted
from img2dataset_dist.readers.lines import MAX_LINE, LineReader, text


class JsonLinesReader(LineReader):
    """One object per line; blank lines are no rows, missing keys are nulls, of a repeated key the last counts."""

    format = "jsonl"

    def parse(self, record: bytes, columns: tuple[str, ...] | None) -> tuple[dict[str, Any], str | None]:  # noqa: ARG002
        """The object, or what is wrong with the line."""
        if len(record) >= MAX_LINE:
            return {}, "line too long"
        try:
            row = json.loads(text(record))
        except (ValueError, RecursionError):
            return {}, "line is not valid JSON"
        if not isinstance(row, dict):
            return {}, "line is not a JSON object"
        return (_without_surrogates(row) if b"\\ud" in record.lower() else row), None

    def schema(self, source: Source, head: list[bytes]) -> pa.Schema:
        """Types guessed from the first rows, but for those that we decide."""
        rows = [self.parse(record, None)[0] for record in head]
        return schema_of_rows(self, source, rows)


def _without_surrogates(value: Any) -> Any:
    """A JSON value in which half of an escaped surrogate pair is U+FFFD: no other format could hold it."""
    if isinstance(value, dict):
        return {clean(name): _without_surrogates(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    return clean(value) if isinstance(value, str) else value


def schema_of_rows(reader: LineReader, source: Source, rows: list[dict[str, Any]]) -> pa.Schema:
    """The schema for JSON rows: forced types, else what the rows have in common."""
    if rows:
        check_columns(reader.config, list(dict.fromkeys(name for row in rows for name in row)), source.path)
    forced = forced_text_types(reader.config)
    return pa.schema(
        [
            pa.field(output, forced.get(output) or infer_type(row.get(name) for row in rows))
            for output, name in wanted(reader.config).items()
        ]
    )
