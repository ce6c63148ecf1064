"""Readers: an input file to shards (on the driver), and a shard to items (on a worker).

A reader is one file here and one line in `registry.py`. All of them agree on what a row is:

- a blank line is no row; everything else is one, and comes out as exactly one `Item`
- what cannot be understood comes out as an item with a `bad_row` failure, never as an exception
- text is UTF-8 with or without a byte order mark; other bytes become U+FFFD, and a URL that holds one is a `bad_url`
- an unreadable file raises `InputError`: that ends the plan or the shard, since nobody knows which rows were lost

The contract suite in tests/readers/ runs over every reader in the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from img2dataset_dist.config import InputConfig
from img2dataset_dist.inputs import InputFile
from img2dataset_dist.model import Item, Shard, Source


class Span(NamedTuple):
    """Rows of one file that make a shard: index of the first, count, and bytes from-to (None: not by bytes).

    Bytes are those of the text, which is the file itself unless it is compressed.
    """

    start: int
    rows: int
    byte_range: tuple[int, int] | None


class Inspected(NamedTuple):
    """What is known of a file before the job starts.

    The source, the Arrow schema of the wanted columns by output name, and what tells the file from a changed one.
    """

    source: Source
    schema: pa.Schema
    identity: dict[str, Any]


class Reader(Protocol):
    """Knows one input format. Built on the driver and again in each worker; holds no open files between calls."""

    def __init__(self, config: InputConfig) -> None: ...

    def inspect(self, file: InputFile) -> Inspected:
        """Look at the head of a file, or its foot, and no more.

        Raises:
            ConfigError: not such a file, a wanted column is missing or there twice.
            InputError: the file cannot be opened or breaks off.
        """

    def spans(self, source: Source, after: Span | None = None) -> Iterator[Span]:
        """Cut the file into runs of `number_sample_per_shard` rows; constant memory.

        Args:
            source: the file.
            after: a span that was found earlier; only those behind it are wanted, and the file is entered there.

        Raises:
            InputError: the file cannot be read to its end.
        """

    def read(self, shard: Shard, schema: pa.Schema) -> Iterator[Item]:
        """The `shard.rows` items of a shard, in order.

        Raises:
            InputError: the file is gone, or it changed and has other rows than planned.
        """


class SlicingReader(Reader, Protocol):
    """A reader that can also cut a stream that cannot be entered in the middle (gzip, a JSON array) into slices."""

    def slices(self, source: Source, after: Span | None = None) -> Iterator[tuple[Span, bytes]]:
        """As `spans`, each with the bytes of its rows alone, which `read` understands with `slice_source`."""

    def slice_source(self, path: str, source: Source) -> Source:
        """What a slice of `source`, stored at `path`, is to `read`."""
