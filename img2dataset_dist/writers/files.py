"""A folder NNNNN with a file for each part of each success: KEY.jpg, KEY.json and KEY.txt."""

from __future__ import annotations

import shutil

from img2dataset_dist.model import Part, Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.metadata import MetadataWriter
from img2dataset_dist.writers.sample_json import dump_row, utf8


class FilesWriter:
    """Successes to files in NNNNN/, the metadata of all rows to NNNNN.parquet."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        self._opener = opener
        self._folder = shard_name
        self._layout = layout
        self._metadata = MetadataWriter(opener, f"{shard_name}.parquet", layout.schema())

    def write(self, sample: Sample) -> None:
        """Take one sample."""
        row = self._layout.row(sample)
        if sample.failure is None:
            key = sample.item.key
            if sample.data is not None:
                self._put(self._layout.name_of(sample), sample.data)
            for part in sample.parts:
                self._copy(f"{key}.{part.extension}", part)
            self._put(f"{key}.json", dump_row(row).encode())
            if self._layout.caption:
                self._put(f"{key}.txt", utf8(self._layout.caption_text(sample)))
        self._metadata.write(row)

    def close(self) -> None:
        """Write the metadata; the other files are closed already."""
        self._metadata.close()

    def abort(self) -> None:
        """Close the metadata as it is; never raises."""
        self._metadata.abort()

    def _copy(self, name: str, part: Part) -> None:
        if part.path is None:
            self._put(name, part.data or b"")
            return
        with open(part.path, "rb") as source, self._opener(f"{self._folder}/{name}") as file:
            shutil.copyfileobj(source, file, 2**20)

    def _put(self, name: str, content: bytes) -> None:
        with self._opener(f"{self._folder}/{name}") as file:
            file.write(content)
