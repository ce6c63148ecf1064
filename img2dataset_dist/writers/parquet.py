"""NNNNN.parquet that holds the media too: all rows, the media in a binary column named after its format."""

from __future__ import annotations

from img2dataset_dist.model import Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.metadata import GROUP_BYTES, MetadataWriter


class ParquetWriter:
    """All rows to NNNNN.parquet; failed rows have no media. The caption is a column, there is no KEY.txt.

    Args:
        opener: opens the file.
        shard_name: its name without extension.
        layout: the columns.
        group_bytes: how many bytes of rows, media included, make a row group; they are held in memory.
    """

    def __init__(self, opener: Opener, shard_name: str, layout: Layout, *, group_bytes: int = GROUP_BYTES) -> None:
        self._layout = layout
        self._file = MetadataWriter(opener, f"{shard_name}.parquet", layout.schema(media=True), group_bytes)

    def write(self, sample: Sample) -> None:
        """Take one sample."""
        row = self._layout.row(sample)
        row |= self._layout.cells(sample)
        self._file.write(row)

    def close(self) -> None:
        """Write what is held back and close the file, also when that fails."""
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is; never raises."""
        self._file.abort()
