"""EXIF tags as JSON text."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from io import BytesIO

import exifread

from img2dataset_dist.config import JobConfig
from img2dataset_dist.media import jpeg_exif, sniff
from img2dataset_dist.model import Sample

_MARKS = (b"Exif", b"eXIf", b"EXIF")
"""How a block of tags begins in HEIC and AVIF, in PNG, and in WebP."""


class ExtractExif:
    """Put the EXIF tags of `body` into `exif`. Option `extract_exif`.

    The text is `{tag: value}` with the names and the printed values of exifread, "{}" when there are no tags, None
    when they cannot be read.
    """

    def __init__(self, _config: JobConfig) -> None:
        # It warns about every second camera, once per image.
        logging.getLogger("exifread").setLevel(logging.CRITICAL + 1)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its tags. Never raises."""
        return replace(sample, exif=_tags(sample.body))


def _may_have_tags(body: bytes) -> bool:
    kind = sniff(body)
    if kind == "jpeg":
        return jpeg_exif(body) is not None
    return kind == "tiff" or any(mark in body for mark in _MARKS)


def _tags(body: bytes) -> str | None:
    # Most images on the web have no tags; to see that takes microseconds, exifread a good part of a millisecond.
    if not _may_have_tags(body):
        return "{}"
    try:
        tags = exifread.process_file(BytesIO(body), details=False)
        # Bytes are thumbnails, which some versions of exifread extract in spite of `details=False`.
        return json.dumps({name: str(value).strip() for name, value in tags.items() if not isinstance(value, bytes)})
    except Exception:  # noqa: BLE001 (tags are a courtesy: the image must not be lost over them)
        return None
