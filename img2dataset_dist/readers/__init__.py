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
from typing import NamedTuple, Protocol

import pyarrow as pa

from img2dataset_dist.config import InputConfig
from img2dataset_dist.model import Item, Shard, Source


class Span(NamedTuple):
    """Rows of one file that make a shard: index of the first, count, and bytes from-to (None: not by bytes)."""

    start: int
    rows: int
    byte_range: tuple[int, int] | None


class Reader(Protocol):
    """Knows one input format. Built on the driver and again in each worker; holds no open files between calls."""

    def __init__(self, config: InputConfig) -> None: ...

    def inspect(self, path: str) -> tuple[Source, pa.Schema]:
        """Look at the head of a file: its columns, and the Arrow schema of the wanted ones by output name.

        Raises:
            ConfigError: not such a file, a wanted column is missing or there twice.
            InputError: the file cannot be opened or breaks off.
        """

    def spans(self, source: Source) -> Iterator[Span]:
        """Cut the file into runs of `number_sample_per_shard` rows; constant memory.

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

    def slices(self, source: Source) -> Iterator[tuple[Span, bytes]]:
        """Each span with the bytes of its rows alone, which `read` understands with `slice_source`."""

    def slice_source(self, path: str, source: Source) -> Source:
        """What a slice of `source`, stored at `path`, is to `read`."""
