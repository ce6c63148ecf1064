"""NNNNN.tar for webdataset: KEY.jpg, KEY.json and KEY.txt of each success, side by side.

https://github.com/webdataset/webdataset reads a tar front to back and takes neighbouring members with the same name up
to the first dot as one sample. The same samples in the same order give the same bytes: no times, no owners.
"""

from __future__ import annotations

import contextlib
import tarfile

from img2dataset_dist.model import Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.metadata import MetadataWriter
from img2dataset_dist.writers.sample_json import dump_row, utf8


class WebDatasetWriter:
    """Successes to NNNNN.tar, the metadata of all rows to NNNNN.parquet."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        self._layout = layout
        self._metadata = MetadataWriter(opener, f"{shard_name}.parquet", layout.schema())
        self._written = 0
        self._tar = opener(f"{shard_name}.tar")

    def write(self, sample: Sample) -> None:
        """Take one sample."""
        row = self._layout.row(sample)
        if sample.failure is None:
            key = sample.item.key
            blocks = [
                *_member(self._layout.name_of(sample), sample.data or b""),
                *_member(f"{key}.json", dump_row(row).encode()),
            ]
            if self._layout.caption:
                blocks += _member(f"{key}.txt", utf8(self._layout.caption_text(sample)))
            self._put(b"".join(blocks))
        self._metadata.write(row)

    def close(self) -> None:
        """Write the end of the archive and the metadata, and close both files, also when one fails."""
        try:
            with contextlib.closing(self._tar):
                end = 2 * tarfile.BLOCKSIZE
                self._put(bytes(end + -(self._written + end) % tarfile.RECORDSIZE))
        except BaseException:
            self._metadata.abort()
            raise
        self._metadata.close()

    def abort(self) -> None:
        """Close the files as they are; never raises."""
        with contextlib.suppress(Exception):
            self._tar.close()
        self._metadata.abort()

    def _put(self, content: bytes) -> None:
        self._tar.write(content)
        self._written += len(content)


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, content and padding of one file in a tar.

    Written here and not by `tarfile.TarFile`, which keeps every member in memory until the archive is closed. The pax
    format is plain ustar unless the name is too long or too foreign for it.
    """
    info = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0, no names
    info.size = len(content)
    return info.tobuf(tarfile.PAX_FORMAT), content, bytes(-len(content) % tarfile.BLOCKSIZE)
