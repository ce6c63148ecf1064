"""txt: a line is a URL, whatever commas or quotes it has."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from img2dataset_dist.model import Source
from img2dataset_dist.readers.lines import MAX_LINE, LineReader, text


class TextReader(LineReader):
    """One URL per line; blank lines are no rows."""

    format = "txt"

    def parse(self, record: bytes, columns: tuple[str, ...] | None) -> tuple[dict[str, Any], str | None]:  # noqa: ARG002
        """The line without outer white space; an overlong one is cut and fails as a row."""
        if len(record) >= MAX_LINE:
            return {self.config.url_col: None}, "line too long"
        return {self.config.url_col: text(record).strip()}, None

    def schema(self, source: Source, head: list[bytes]) -> pa.Schema:  # noqa: ARG002
        """The URL alone."""
        return pa.schema([pa.field("url", pa.string())])
