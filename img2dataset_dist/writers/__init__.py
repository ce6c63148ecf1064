"""Writers: samples of one shard to the files of one output format.

A writer is one file here and one line in `registry.py`. It opens its files through `opener`, by names relative to the
output folder (`00000.tar`, `00000/000000001.jpg`); where they are staged and when they are published is no concern of
its own (see `commit.py`). The contract suite in tests/writers/ runs over every writer in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol

from img2dataset_dist.model import Sample
from img2dataset_dist.writers.layout import Layout

Opener = Callable[[str], IO[bytes]]
"""Opens a new staged binary file by its name in the output folder."""


class Writer(Protocol):
    """Writes the samples of one shard, successes and failures alike, in any order.

    A writer is used by one thread at a time. Exactly one of `close` and `abort` is called, once.
    """

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None: ...

    def write(self, sample: Sample) -> None:
        """Take one sample. Only a broken disk or a bug may raise; that fails the shard."""

    def close(self) -> None:
        """Finish and close every file."""

    def abort(self) -> None:
        """Close what is open without finishing it; never raises. The staged files are thrown away."""
