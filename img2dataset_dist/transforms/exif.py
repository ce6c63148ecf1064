"""EXIF tags as JSON text."""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import replace
from io import BytesIO
from typing import Literal

import exifread

from img2dataset_dist.config import JobConfig
from img2dataset_dist.kinds import sniff
from img2dataset_dist.media import jpeg_exif
from img2dataset_dist.model import Sample
from img2dataset_dist.transforms.ifd import Tags, TooMuch, Unusual, read_tags

_MOST_READS = 10_000
_MOST_BYTES = 2**18
"""What exifread may read of one file; some 20 ms. Photos take some hundred reads."""

_HEAD = 64
"""How much of a block of tags is looked for, as the way to it told no position."""

_PNG_CHUNK, _WEBP_CHUNK = struct.Struct(">I4s"), struct.Struct("<4sI")

_BOXED = frozenset({"heic", "avif", "jxl", "unknown"})
"""Kinds in which exifread looks for a block of tags itself. Raw files of cameras are "unknown"."""


class ExtractExif:
    """Put the EXIF tags of `body` into `exif`. Option `extract_exif`.

    The text is `{tag: value}` with the names and the printed values of exifread, "{}" when there are no tags, None
    when they cannot be read, or only with an unreasonable effort. GPS tags are there; maker notes, user comments and
    thumbnails are not, as in img2dataset. The tags tell of the picture as it came: "Image Orientation" says how it had
    to be turned, and is not undone although what is stored is upright and has no tags itself (other than bytes that
    `skip_reencode` or `disable_all_reencoding` kept).
    """

    def __init__(self, _config: JobConfig) -> None:
        # It warns about every second camera, once per image.
        logging.getLogger("exifread").setLevel(logging.CRITICAL + 1)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its tags. Never raises."""
        try:
            tags = _tags(sample.body, sample.original_format or sniff(sample.body))
            return replace(sample, exif=json.dumps(tags))
        except Exception:  # noqa: BLE001 (tags are a courtesy: the image must not be lost over them)
            return replace(sample, exif=None)


def _tags(body: bytes, kind: str) -> Tags:
    """The tags of a file of `kind`, as `sniff` names it.

    Raises:
        Exception: the tags cannot be read; any kind of it.
    """
    if kind in _BOXED:
        return _by_exifread(body) if b"Exif" in body or body[:2] in (b"II", b"MM") else {}
    base = _find(body, kind)
    if base is None:
        return {}
    try:
        tags = read_tags(body, base)
    except Unusual:
        return _by_exifread(body)
    return {name: value.strip() for name, value in tags.items()}


def _find(body: bytes, kind: str) -> int | None:
    """Where the TIFF header of the tags is; None for no tags, which most images on the web have."""
    if kind == "jpeg":
        block = jpeg_exif(body)
        return None if block is None else body.index(block[:_HEAD]) + len(b"Exif\0\0")
    if kind == "tiff":
        return 0
    if kind == "png":
        return _chunk(body, b"eXIf", 8, "big")
    if kind == "webp":
        at = _chunk(body, b"EXIF", 12, "little")
        return at + len(b"Exif\0\0") if at is not None and body.startswith(b"Exif\0\0", at) else at
    return None


def _chunk(body: bytes, name: bytes, at: int, order: Literal["big", "little"]) -> int | None:
    """Where the content of a chunk begins, in a PNG (big endian) or a WebP (little endian).

    From chunk to chunk: to look for the name in all bytes takes ten times as long.
    """
    form, extra, padded = (_PNG_CHUNK, 4, 0) if order == "big" else (_WEBP_CHUNK, 0, 1)
    while at + 8 <= len(body):
        first, second = form.unpack_from(body, at)
        length, head = (first, second) if order == "big" else (second, first)
        if head == name:
            return at + 8
        at += 8 + length + extra + (length & padded)
    return None


def _by_exifread(body: bytes) -> Tags:
    tags = exifread.process_file(_Bounded(body), details=False, extract_thumbnail=False)
    return {name: str(value).strip() for name, value in tags.items()}


class _Bounded(BytesIO):
    """A file that ends the reading of tags that would take too long."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._reads = _MOST_READS
        self._bytes = _MOST_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._reads -= 1
        self._bytes -= len(content)
        if self._reads < 0 or self._bytes < 0:
            raise TooMuch
        return content
