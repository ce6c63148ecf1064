"""json: one document, a list of objects or (as pandas writes by default) an object of columns.

A JSON document cannot be entered in the middle, so this reader only plans: it streams the document and cuts it into
slices of JSON lines, which `JsonLinesReader` reads on the workers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import ijson
import pyarrow as pa

from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.model import Source
from img2dataset_dist.readers import Span
from img2dataset_dist.readers.columns import check_columns, wanted
from img2dataset_dist.readers.json_lines import JsonLinesReader, schema_of_rows
from img2dataset_dist.readers.lines import SAMPLE_ROWS, open_stream, reading


class JsonArrayReader(JsonLinesReader):
    """Plans `json` and `json.gz`; memory does not grow with the document."""

    def inspect(self, path: str) -> tuple[Source, pa.Schema]:
        """See `Reader.inspect`."""
        source = Source(path=path, format="jsonl")
        with _parsing(path):
            rows = list(itertools.islice(self._rows(path), SAMPLE_ROWS))
        objects = [row for row in rows if isinstance(row, dict)]
        return source, schema_of_rows(self, source, objects)

    def spans(self, source: Source) -> Iterator[Span]:
        """See `Reader.spans`."""
        for span, _ in self._pack(source):
            yield span

    def slices(self, stream: IO[bytes], source: Source) -> Iterator[tuple[Span, bytes]]:  # noqa: ARG002
        """See `SlicingReader.slices`; opens the file itself, once per column in the columnar form."""
        return self._pack(source)

    def _pack(self, source: Source) -> Iterator[tuple[Span, bytes]]:
        start = 0
        rows = self._rows(source.path)
        with _parsing(source.path):
            while chunk := list(itertools.islice(rows, self.config.number_sample_per_shard)):
                content = b"".join(json.dumps(row).encode() + b"\n" for row in chunk)
                yield Span(start, len(chunk), (0, len(content))), content
                start += len(chunk)

    def _rows(self, path: str) -> Iterator[Any]:
        with open_stream(path, self.config) as stream:
            opening = _first_character(stream)
        if opening == b"[":
            with open_stream(path, self.config) as stream:
                yield from ijson.items(stream, "item", use_float=True)
        elif opening == b"{":
            yield from self._from_columns(path)
        elif opening:
            raise ConfigError(f"{path} is neither a JSON list nor a JSON object; is it jsonl?")

    def _from_columns(self, path: str) -> Iterator[dict[str, Any]]:
        """`{"url": {"0": ..., "1": ...}, ...}` or `{"url": [...], ...}`: the wanted columns, streamed side by side."""
        with open_stream(path, self.config) as stream:
            names = [name for name, kind in _columns(stream) if kind in ("start_map", "start_array")]
        check_columns(self.config, names, path)
        wanted_names = list(dict.fromkeys(wanted(self.config).values()))
        with ExitStack() as stack:
            streams = [stack.enter_context(open_stream(path, self.config)) for _ in wanted_names]
            cells = [_cells(stream, name) for stream, name in zip(streams, wanted_names, strict=True)]
            for row in itertools.zip_longest(*cells):
                if None in row or len({label for label, _ in row}) != 1:
                    raise InputError(f"{path}: its columns have different row labels")
                yield {name: value for name, (_, value) in zip(wanted_names, row, strict=True)}


@contextmanager
def _parsing(path: str) -> Iterator[None]:
    with reading(path):
        try:
            yield
        except (ijson.JSONError, RecursionError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error


def _first_character(stream: IO[bytes]) -> bytes:
    head = stream.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head[:1]


def _columns(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Top-level keys of an object, with the event that opens each value."""
    depth = 0
    key = None
    for event, value in ijson.basic_parse(stream):
        if depth == 1 and event == "map_key":
            key = value
        elif depth == 1 and key is not None:
            yield key, event
            key = None
        depth += event in ("start_map", "start_array")
        depth -= event in ("end_map", "end_array")


def _cells(stream: IO[bytes], name: str) -> Iterator[tuple[str, Any]]:
    """Row label and value of every cell of one column; labels of a list are its indices."""
    depth = 0
    key = label = None
    index = 0
    builder = None
    for event, value in ijson.basic_parse(stream, use_float=True):
        opens, closes = event in ("start_map", "start_array"), event in ("end_map", "end_array")
        if depth == 1 and event == "map_key":
            key = value
        elif depth == 2 and key == name and event == "map_key":  # noqa: PLR2004 (column, cell)
            label = value
        elif depth >= 2 and key == name and not (depth == 2 and closes):  # noqa: PLR2004
            builder = builder or ijson.ObjectBuilder()
            builder.event(event, value)
            if depth == (3 if closes else 2) and not opens:
                yield label if label is not None else str(index), builder.value
                index, builder = index + 1, None
        depth += opens - closes
