"""What the line formats (txt, csv, tsv, jsonl) share: lines with their offsets, spans, slices and reading a shard."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa

from img2dataset_dist import inputs
from img2dataset_dist.config import InputConfig
from img2dataset_dist.errors import ConfigError, InputError
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Item, Shard, Source
from img2dataset_dist.readers import Inspected, Span
from img2dataset_dist.readers.columns import ItemMaker

MAX_LINE = 4 * 2**20
"""Bytes of a line that are kept; a longer one is a bad row, not a reason to run out of memory."""

SAMPLE_BYTES = 2**20
"""How much of a file is looked at to guess column types."""

SAMPLE_TOTAL = 64 * 2**20
SAMPLE_LEAST = 2**13
"""Of many files less is looked at: so much of all together, but at least so much of each."""

RANGE_BYTES = 64 * 2**20
"""Shards up to this size are read from a store in one request."""

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

    def __init__(self, stream: IO[bytes], *, offset: int = 0, end: int | None = None) -> None:
        self._stream = stream
        self._back: deque[tuple[bytes, int]] = deque()
        self._end = end
        self._history: list[tuple[bytes, int]] = []
        self.offset = offset
        self.taken: list[bytes] | None = None

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
            if self.taken:
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

    def ends(self, lines: Lines) -> Iterator[Any]:
        """As `records`, for who only wants to know where they end."""
        yield from self.records(lines)

    def inspect(self, file: InputFile) -> Inspected:
        """See `Reader.inspect`."""
        content = whole(file)
        with open_stream(file.path, self.config, content, head=True) as stream:
            lines = self._start(stream, file.path)
            columns = self.header(lines, file.path)
            source = Source(path=file.path, format=self.format, columns=columns)
            schema = self.schema(source, list(self._head(lines, sample_bytes(file))))
        return Inspected(source, schema, inputs.identity(file, content))

    def spans(self, source: Source, after: Span | None = None) -> Iterator[Span]:
        """See `Reader.spans`."""
        with open_stream(source.path, self.config) as stream:
            yield from self._cut(self._enter(stream, source, after), after)

    def slices(self, source: Source, after: Span | None = None) -> Iterator[tuple[Span, bytes]]:
        """See `SlicingReader.slices`."""
        with open_stream(source.path, self.config) as stream:
            lines = self._enter(stream, source, after)
            lines.taken = []
            for span in self._cut(lines, after):
                content = b"".join(lines.taken)
                lines.taken.clear()
                yield span, content

    def slice_source(self, path: str, source: Source) -> Source:
        """See `SlicingReader.slice_source`."""
        return replace(source, path=path)

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """See `Reader.read`."""
        assert shard.byte_range is not None
        maker = ItemMaker(self.config, shard, schema)
        begin, end = shard.byte_range
        count = 0
        with reading(shard.source.path), open_range(shard.source.path, begin, end) as stream:
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

    def _head(self, lines: Lines, size: int) -> Iterator[Any]:
        for record in self.records(lines):
            yield record
            if lines.offset >= size:
                return

    def _enter(self, stream: IO[bytes], source: Source, after: Span | None) -> Lines:
        """The lines of the rows behind `after`, of all rows without it."""
        if after is None:
            lines = self._start(stream, source.path)
            self.header(lines, source.path)
            return lines
        assert after.byte_range is not None
        stream.seek(after.byte_range[1])
        return Lines(stream, offset=after.byte_range[1])

    def _cut(self, lines: Lines, after: Span | None) -> Iterator[Span]:
        size = self.config.number_sample_per_shard
        start = after.start + after.rows if after else 0
        rows = 0
        begin = lines.offset
        for _ in self.ends(lines):
            rows += 1
            if rows == size:
                yield Span(start, rows, (begin, lines.offset))
                start, rows, begin = start + rows, 0, lines.offset
        if rows:
            yield Span(start, rows, (begin, lines.offset))

    def _start(self, stream: IO[bytes], path: str) -> Lines:
        """Lines behind the byte order mark; refuses files that are plainly something else."""
        lines = Lines(stream)
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


def whole(file: InputFile) -> bytes | None:
    """All bytes of a file that is fingerprinted whole, so that it is read once; None for a larger one."""
    with reading(file.path):
        return inputs.read_range(file.path, 0, file.size) if file.whole else None


def sample_bytes(file: InputFile) -> int:
    """How much of a file is looked at to guess column types."""
    return max(SAMPLE_LEAST, min(SAMPLE_BYTES, SAMPLE_TOTAL // file.among))


@contextmanager
def open_stream(
    path: str, config: InputConfig, content: bytes | None = None, *, head: bool = False
) -> Iterator[IO[bytes]]:
    """The text of a file, decompressed when the input format ends in .gz.

    Args:
        path: the file.
        config: its format.
        content: the bytes of the file, if they are here already.
        head: only its beginning is wanted, so that a store need not send more.
    """
    block = inputs.BLOCK if head else inputs.WALK_BLOCK
    with reading(path), inputs.open_input(path, block) if content is None else io.BytesIO(content) as raw:
        if not config.input_format.endswith(".gz"):
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:  # no buffer around it: what precedes a damage is wanted
            yield stream  # type: ignore[misc]


def open_range(path: str, begin: int, end: int) -> IO[bytes]:
    """A stream that stands at `begin`, of which nobody reads beyond `end`."""
    local = "://" not in path
    if not local and end - begin <= RANGE_BYTES:
        return io.BytesIO(inputs.read_range(path, begin, end))
    stream = inputs.open_input(path, inputs.WALK_BLOCK)
    stream.seek(begin)
    return stream


def text(line: bytes) -> str:
    """A line as text: UTF-8, with U+FFFD for what is not."""
    return line.decode("utf-8", "replace")
