"""json: one document, a list of objects or (as pandas writes by default) an object of columns.

A JSON document cannot be entered in the middle, so this reader only plans: it streams the document and cuts it into
slices of JSON lines, which `JsonLinesReader` reads on the workers.
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from typing import IO, Any

import ijson
import pyarrow as pa

from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.model import Source
from img2dataset_dist.readers import Span
from img2dataset_dist.readers.columns import check_columns, wanted
from img2dataset_dist.readers.json_lines import JsonLinesReader, schema_of_rows
from img2dataset_dist.readers.lines import open_stream, reading, refuse_foreign

SAMPLE_ROWS = 10_000
"""Rows that are looked at to guess column types."""

MAX_DEPTH = 100
"""Levels of lists and objects inside a row; a list is hostile input, and a deeper one would not fit the stack."""

Event = tuple[str, Any]
"""What the parser says: a kind of token and its value."""

_OPENING = ("start_map", "start_array")
_CLOSING = ("end_map", "end_array")


class JsonArrayReader(JsonLinesReader):
    """Plans `json` and `json.gz`; memory does not grow with the document."""

    def inspect(self, path: str) -> tuple[Source, pa.Schema]:
        """See `Reader.inspect`."""
        source = Source(path=path, format="jsonl")
        with _parsing(path):
            rows = list(itertools.islice(self._rows(path), SAMPLE_ROWS))
        return source, schema_of_rows(self, source, [row if isinstance(row, dict) else {} for row in rows])

    def spans(self, source: Source) -> Iterator[Span]:
        """See `Reader.spans`."""
        for span, _ in self._pack(source):
            yield span

    def slices(self, source: Source) -> Iterator[tuple[Span, bytes]]:
        """See `SlicingReader.slices`; opens the file once per column in the columnar form."""
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
        with self._open(path) as stream:
            opening = stream.read(1 << 16).lstrip()[:1]
        if opening == b"[":
            with self._open(path) as stream:
                yield from _elements(_events(stream))
        elif opening == b"{":
            yield from self._from_columns(path)
        elif opening:
            raise ConfigError(f"{path} is neither a JSON list nor a JSON object; is it jsonl?")

    @contextmanager
    def _open(self, path: str) -> Iterator[IO[bytes]]:
        """The document behind its byte order mark, which the parser does not know."""
        with open_stream(path, self.config) as stream:
            refuse_foreign(stream.read(4), path, self.config)
            stream.seek(0)
            if stream.read(3) != codecs.BOM_UTF8:
                stream.seek(0)
            yield stream

    def _from_columns(self, path: str) -> Iterator[dict[str, Any]]:
        """`{"url": {"0": ..., "1": ...}, ...}` or `{"url": [...], ...}`: the wanted columns, streamed side by side."""
        with self._open(path) as stream:
            names = [name for name, kind in _columns(_events(stream)) if kind in _OPENING]
        check_columns(self.config, names, path)
        wanted_names = list(dict.fromkeys(wanted(self.config).values()))
        with ExitStack() as stack:
            streams = [stack.enter_context(self._open(path)) for _ in wanted_names]
            cells = [_cells(_events(stream), name) for stream, name in zip(streams, wanted_names, strict=True)]
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


def _events(stream: IO[bytes]) -> Iterator[Event]:
    events: Iterator[Event] = ijson.basic_parse(stream)  # whole numbers of any size, others as Decimal
    return events


def _elements(events: Iterator[Event]) -> Iterator[Any]:
    """The elements of a document that is a list."""
    next(events)
    for event, value in events:
        if event != "end_array":
            yield _whole(event, value, events)


def _columns(events: Iterator[Event]) -> Iterator[tuple[str, str]]:
    """Keys of a document that is an object, with the event that opens each value."""
    next(events)
    for event, key in events:
        if event == "map_key":
            opening, _ = next(events)
            _skip(opening, events)
            yield key, opening


def _cells(events: Iterator[Event], name: str) -> Iterator[tuple[str, Any]]:
    """Row label and value of every cell of one column; labels of a list are its indices."""
    next(events)
    for event, key in events:
        if event != "map_key":
            continue
        opening, _ = next(events)
        if key != name:
            _skip(opening, events)
            continue
        for index in itertools.count():
            event, value = next(events)  # noqa: PLW2901 (a label, a value or the end)
            if event in _CLOSING:
                break
            label = str(index)
            if opening == "start_map":
                label = value
                event, value = next(events)  # noqa: PLW2901 (the value behind its label)
            yield label, _whole(event, value, events)


def _whole(event: str, value: Any, events: Iterator[Event], depth: int = 0) -> Any:
    """The value that this event begins, taking the rest of it from `events`."""
    if event not in _OPENING:
        return float(value) if isinstance(value, Decimal) else value
    if depth == MAX_DEPTH:
        raise ijson.JSONError(f"a value is nested deeper than {MAX_DEPTH} levels")
    if event == "start_array":
        return [_whole(inner, value, events, depth + 1) for inner, value in _until(events, "end_array")]
    return {key: _whole(*next(events), events, depth + 1) for _, key in _until(events, "end_map")}


def _until(events: Iterator[Event], end: str) -> Iterator[Event]:
    return iter(lambda: next(events), (end, None))


def _skip(event: str, events: Iterator[Event]) -> None:
    """Pass over the rest of the value that this event begins."""
    depth = int(event in _OPENING)
    while depth:
        event, _ = next(events)
        depth += (event in _OPENING) - (event in _CLOSING)
