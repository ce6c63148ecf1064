"""What the line formats (txt, csv, tsv, jsonl) share: lines with their offsets, spans, slices and reading a shard."""

from __future__ import annotations

import codecs
import gzip
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa

from img2dataset_dist import storage
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.model import Item, Shard, Source
from img2dataset_dist.readers import Span
from img2dataset_dist.readers.columns import ItemMaker

MAX_LINE = 4 * 2**20
"""Bytes of a line that are kept; a longer one is a bad row, not a reason to run out of memory."""

SAMPLE_BYTES = 2**20
"""How much of a file is looked at to guess column types."""

_FOREIGN = {
    b"PAR1": "parquet",
    b"\x1f\x8b": "gzip; use input_format=txt.gz, csv.gz, tsv.gz, json.gz or jsonl.gz",
    codecs.BOM_UTF16_LE: "UTF-16 text; convert it to UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text; convert it to UTF-8",
    b"PK\x03\x04": "a zip archive",
}


class Lines:
    """The lines of a binary stream. `offset` is where the last line that was taken ends.

    Lines can be put back, and what was taken can be collected (`taken`), so that a parser may read ahead.
    """

    def __init__(self, stream: IO[bytes], *, offset: int = 0, end: int | None = None, collect: bool = False) -> None:
        self._stream = stream
        self._back: deque[tuple[bytes, int]] = deque()
        self._end = end
        self._history: list[tuple[bytes, int]] = []
        self.offset = offset
        self.taken: list[bytes] | None = [] if collect else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line, size = self._back.popleft() if self._back else self._read()
        self.offset += size
        if self.taken is not None:
            self.taken.append(line)
        self._history.append((line, size))
        return line

    def put_back(self, count: int) -> None:
        """Undo the last `count` calls of next()."""
        for _ in range(count):
            line, size = self._history.pop()
            self._back.appendleft((line, size))
            self.offset -= size
            if self.taken is not None:
                self.taken.pop()

    def drop_prefix(self, size: int) -> None:
        """Skip the first `size` bytes of the next line, which has just been put back."""
        line, total = self._back.popleft()
        if total > size:
            self._back.appendleft((line[size:], total - size))
        self.offset += size

    def forget(self) -> None:
        """The lines so far will not be put back."""
        self._history.clear()

    def _read(self) -> tuple[bytes, int]:
        if self._end is not None and self.offset >= self._end:
            raise StopIteration
        line = self._stream.readline(MAX_LINE)
        size = len(line)
        if not line:
            raise StopIteration
        if size == MAX_LINE and not line.endswith(b"\n"):
            while rest := self._stream.readline(MAX_LINE):
                size += len(rest)
                if rest.endswith(b"\n"):
                    line = line[:-1] + b"\n"
                    break
        return line, size


class LineReader(ABC):
    """Base of the line formats. A subclass says how lines make records and what a record says."""

    format: str
    has_header = False

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def records(self, lines: Lines) -> Iterator[Any]:
        """Group lines into records, skipping blank lines; takes no more lines than the records need."""
        for line in lines:
            lines.forget()
            if not line.isspace():
                yield line

    @abstractmethod
    def parse(self, record: Any, columns: tuple[str, ...] | None) -> tuple[dict[str, Any], str | None]:
        """A record's values by input column name, and what is wrong with it, if anything."""

    @abstractmethod
    def schema(self, source: Source, head: list[Any]) -> pa.Schema:
        """Arrow schema of the wanted columns, from the first records."""

    def header(self, lines: Lines, path: str) -> tuple[str, ...] | None:  # noqa: ARG002 (for subclasses)
        """The column names, taken from the first lines."""
        return None

    def inspect(self, path: str) -> tuple[Source, pa.Schema]:
        """See `Reader.inspect`."""
        with open_stream(path, self.config) as stream:
            lines = self._start(stream, path)
            columns = self.header(lines, path)
            source = Source(path=path, format=self.format, columns=columns)
            return source, self.schema(source, list(self._head(lines)))

    def spans(self, source: Source) -> Iterator[Span]:
        """See `Reader.spans`."""
        with open_stream(source.path, self.config) as stream:
            lines = self._start(stream, source.path)
            self.header(lines, source.path)
            yield from self._cut(lines)

    def slices(self, source: Source) -> Iterator[tuple[Span, bytes]]:
        """See `SlicingReader.slices`."""
        with open_stream(source.path, self.config) as stream:
            lines = self._start(stream, source.path, collect=True)
            self.header(lines, source.path)
            lines.taken = []
            for span in self._cut(lines):
                content = b"".join(lines.taken)
                lines.taken.clear()
                yield Span(span.start, span.rows, (0, len(content))), content

    def slice_source(self, path: str, source: Source) -> Source:
        """See `SlicingReader.slice_source`."""
        return replace(source, path=path)

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        assert shard.byte_range is not None
        maker = ItemMaker(self.config, shard, schema)
        begin, end = shard.byte_range
        count = 0
        with reading(shard.source.path), storage.open_input(shard.source.path) as stream:
            stream.seek(begin)
            for record in self.records(Lines(stream, offset=begin, end=end)):
                if count < shard.rows:
                    row, problem = self.parse(record, shard.source.columns)
                    yield maker.make(count, row, problem)
                count += 1
        if count != shard.rows:
            raise InputError(
                f"{shard.source.path}: found {count} rows at bytes {begin}-{end} where {shard.rows} were planned; "
                "the file changed while it was read"
            )

    def _head(self, lines: Lines) -> Iterator[Any]:
        for record in self.records(lines):
            yield record
            if lines.offset >= SAMPLE_BYTES:
                return

    def _cut(self, lines: Lines) -> Iterator[Span]:
        size = self.config.number_sample_per_shard
        start = rows = 0
        begin = lines.offset
        for _ in self.records(lines):
            rows += 1
            if rows == size:
                yield Span(start, rows, (begin, lines.offset))
                start, rows, begin = start + rows, 0, lines.offset
        if rows:
            yield Span(start, rows, (begin, lines.offset))

    def _start(self, stream: IO[bytes], path: str, *, collect: bool = False) -> Lines:
        """Lines behind the byte order mark; refuses files that are plainly something else."""
        lines = Lines(stream, collect=collect)
        first = next(lines, b"")
        refuse_foreign(first, path, self.config)
        if first:
            lines.put_back(1)
        if first.startswith(codecs.BOM_UTF8):
            lines.drop_prefix(len(codecs.BOM_UTF8))
        return lines


def refuse_foreign(head: bytes, path: str, config: InputConfig) -> None:
    """Refuse a file whose first bytes are plainly those of something else.

    Raises:
        ConfigError: naming the file and what it looks like.
    """
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise ConfigError(f"input_format={config.input_format!r}, but {path} looks like {name}")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Name the file in whatever goes wrong while it is read."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error


@contextmanager
def open_stream(path: str, config: InputConfig) -> Iterator[IO[bytes]]:
    """The text of a file, decompressed when the input format ends in .gz."""
    with reading(path), storage.open_input(path) as raw:
        if not config.input_format.endswith(".gz"):
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]


def text(line: bytes) -> str:
    """A line as text: UTF-8, with U+FFFD for what is not."""
    return line.decode("utf-8", "replace")
