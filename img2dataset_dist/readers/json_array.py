"""json: one document, a list of objects or (as pandas writes by default) an object of columns.

The workers cannot enter a JSON document in the middle, so this reader only plans: it streams the document and cuts it
into slices of JSON lines, which `JsonLinesReader` reads on the workers. A list can be entered behind any of its
elements that is known, so that a run which goes on need not parse what was sliced before; columns are parsed again.
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

from img2dataset_dist import inputs
from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Source
from img2dataset_dist.readers import Inspected, Span
from img2dataset_dist.readers.columns import check_columns, wanted
from img2dataset_dist.readers.json_lines import JsonLinesReader, schema_of_rows
from img2dataset_dist.readers.json_text import MAX_DEPTH, ListText
from img2dataset_dist.readers.lines import SAMPLE_BYTES, open_stream, reading, refuse_foreign, sample_bytes, whole

SAMPLE_ROWS = 10_000
"""Rows that are looked at to guess column types."""

Event = tuple[str, Any]
"""What the parser says: a kind of token and its value."""

_OPENING = ("start_map", "start_array")
_CLOSING = ("end_map", "end_array")


class JsonArrayReader(JsonLinesReader):
    """Plans `json` and `json.gz`; memory does not grow with the document."""

    def inspect(self, file: InputFile) -> Inspected:
        """See `Reader.inspect`."""
        source = Source(path=file.path, format="jsonl")
        content = whole(file)
        count = max(1, SAMPLE_ROWS * sample_bytes(file) // SAMPLE_BYTES)
        with _parsing(file.path):
            rows = [row for row, _ in itertools.islice(self._rows(file.path, content=content), count)]
        schema = schema_of_rows(self, source, [row if isinstance(row, dict) else {} for row in rows])
        return Inspected(source, schema, inputs.identity(file, content))

    def spans(self, source: Source, after: Span | None = None) -> Iterator[Span]:
        """See `Reader.spans`."""
        for span, _ in self.slices(source, after):
            yield span

    def slices(self, source: Source, after: Span | None = None) -> Iterator[tuple[Span, bytes]]:
        """See `SlicingReader.slices`; opens the file once per column in the columnar form."""
        start = after.start + after.rows if after else 0
        begin = after.byte_range[1] if after and after.byte_range else 0
        rows = self._rows(source.path, begin)
        with _parsing(source.path):
            if not begin:
                next(itertools.islice(rows, start, start), None)
            while True:
                lines, elements = [], None
                for row, elements in itertools.islice(rows, self.config.number_sample_per_shard):
                    lines.append(_line(row, elements))
                if not lines:
                    return
                byte_range = None if elements is None else (begin, elements.offset)
                yield Span(start, len(lines), byte_range), b"".join(lines)
                start += len(lines)
                begin = byte_range[1] if byte_range else 0

    def _rows(
        self, path: str, begin: int = 0, *, content: bytes | None = None
    ) -> Iterator[tuple[Any, ListText | None]]:
        """Every row, with the parser that knows where in the document it ends; `begin` is such a place."""
        if begin:
            with open_stream(path, self.config) as stream:
                stream.seek(begin)
                elements = ListText(stream, offset=begin, inside=True)
                yield from ((row, elements) for row in elements)
            return
        with self._open(path, content) as stream:
            place = stream.tell()
            opening = stream.read(1 << 16).lstrip()[:1]
            stream.seek(place)
            if opening == b"[":
                elements = ListText(stream, offset=place, inside=False)
                yield from ((row, elements) for row in elements)
        if opening == b"{":
            yield from ((row, None) for row in self._from_columns(path))
        elif opening not in (b"", b"["):
            raise ConfigError(f"{path} is neither a JSON list nor a JSON object; is it jsonl?")

    @contextmanager
    def _open(self, path: str, content: bytes | None = None) -> Iterator[IO[bytes]]:
        """The document behind its byte order mark, which the parser does not know."""
        with open_stream(path, self.config, content) as stream:
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


def _line(row: Any, elements: ListText | None) -> bytes:
    """A row as JSON on one line: as it stands in a list, if it does stand on one line there."""
    text = elements.text if elements else ""
    if not text or "\n" in text or "\r" in text:
        text = json.dumps(row)
    return text.encode() + b"\n"


@contextmanager
def _parsing(path: str) -> Iterator[None]:
    with reading(path):
        try:
            yield
        except (ConfigError, InputError):
            raise
        except (ijson.JSONError, RecursionError, ValueError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error


def _events(stream: IO[bytes]) -> Iterator[Event]:
    events: Iterator[Event] = ijson.basic_parse(stream)  # whole numbers of any size, others as Decimal
    return events


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
