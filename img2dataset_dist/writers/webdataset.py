"""NNNNN.tar for webdataset: KEY.jpg, KEY.json and KEY.txt of each success, side by side.

https://github.com/webdataset/webdataset reads a tar front to back and takes neighbouring members with the same name up
to the first dot as one sample. The same samples in the same order give the same bytes: no times, no owners.
"""

from __future__ import annotations

import tarfile

from img2dataset_dist.model import Part, Sample
from img2dataset_dist.writers import Opener
from img2dataset_dist.writers.batches import BatchedFile
from img2dataset_dist.writers.layout import Layout
from img2dataset_dist.writers.metadata import MetadataWriter
from img2dataset_dist.writers.sample_json import dump_row, utf8

_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 154)
"""Where a header has what differs between members: POSIX.1-1988, ustar."""
_LARGEST = 8**11 - 1
"""Bytes of a member whose size fits in eleven octal digits."""

_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # mode 0644, owner 0, time 0, no names, size 0
_AFTER_NAME = _HEADER[_NAME.stop : _SIZE.start]
_AFTER_SIZE = _HEADER[_SIZE.stop : _CHECKSUM.start]
_AFTER_CHECKSUM = _HEADER[_CHECKSUM.stop :]
_SUM = sum(_AFTER_NAME) + sum(_AFTER_SIZE) + 7 * ord(" ") + sum(_AFTER_CHECKSUM)
"""Sum of the bytes that are the same in all headers. The checksum counts as eight spaces, and has one at its end."""
_PADDING = [bytes(size) for size in range(tarfile.BLOCKSIZE)]


class WebDatasetWriter:
    """Successes to NNNNN.tar, the metadata of all rows to NNNNN.parquet."""

    def __init__(self, opener: Opener, shard_name: str, layout: Layout) -> None:
        self._layout = layout
        self._metadata = MetadataWriter(opener, f"{shard_name}.parquet", layout.schema())
        self._tar = BatchedFile(opener(f"{shard_name}.tar"))

    def write(self, sample: Sample) -> None:
        """Take one sample."""
        row = self._layout.row(sample)
        if sample.failure is None:
            key = sample.item.key
            pieces: tuple[bytes, ...] = ()
            if sample.data is not None:
                pieces = _member(self._layout.name_of(sample), sample.data)
            for part in sample.parts:
                self._tar.write((*pieces, _header(f"{key}.{part.extension}", part.size)))
                self._put(part)
                pieces = (_PADDING[-part.size % tarfile.BLOCKSIZE],)
            texts = [_member(f"{key}.json", dump_row(row).encode())]
            if self._layout.caption:
                texts.append(_member(f"{key}.txt", utf8(self._layout.caption_text(sample))))
            for text in texts if self._layout.media == "image" else reversed(texts):  # img2dataset's order, or ours
                pieces += text
            self._tar.write(pieces)
        self._metadata.write(row)

    def _put(self, part: Part) -> None:
        if part.path is None:
            self._tar.write((part.data or b"",))
        else:
            self._tar.copy(part.path, part.size)

    def close(self) -> None:
        """Write the end of the archive and the metadata, and close both files, also when one fails."""
        try:
            end = 2 * tarfile.BLOCKSIZE
            self._tar.close([bytes(end + -(self._tar.written + end) % tarfile.RECORDSIZE)])
        except BaseException:
            self._metadata.abort()
            raise
        self._metadata.close()

    def abort(self) -> None:
        """Close the files as they are; never raises."""
        self._tar.abort()
        self._metadata.abort()


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, content and padding of one file in a tar."""
    return _header(name, len(content)), content, _PADDING[-len(content) % tarfile.BLOCKSIZE]


def _header(name: str, size: int) -> bytes:
    """The same bytes as `TarInfo.tobuf`, in a tenth of its time: nearly everything in them is always the same.

    What is too long or too foreign for ustar goes to `tarfile`, which puts a pax header before it. `tarfile.TarFile`
    itself would keep every member in memory until the archive is closed.
    """
    if size > _LARGEST or len(name) > _NAME.stop or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    start, digits = name.encode(), b"%011o" % size
    checksum = b"%06o" % (_SUM + sum(start) + sum(digits))
    return b"".join((start.ljust(_NAME.stop, b"\0"), _AFTER_NAME, digits, _AFTER_SIZE, checksum, _AFTER_CHECKSUM))
