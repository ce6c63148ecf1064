"""Any file as it came, and what it is."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from img2dataset_dist import kinds
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import MediaError
from img2dataset_dist.ffmpeg.demuxers import DEMUXERS
from img2dataset_dist.media import quiet_pillow, read_header
from img2dataset_dist.model import MediaFile, Part, Sample

LARGEST_HEADER = 32 * 2**20
"""Bytes of an image that is read for its size; a larger one keeps it to itself."""

_TEXTS = {"text": "data.txt", "json": "data.json", "xml": "xml"}
"""Extensions of what may not be called KEY.txt and KEY.json, which are other parts of a sample."""


class AnyFile:
    """Keep a file, decode nothing. `media="any"`.

    Its kind is told from its bytes, its extension from its kind. An image's size and the duration of a video or a sound
    come from its header, when that can be read; they are null otherwise.
    """

    def __init__(self, config: JobConfig) -> None:
        quiet_pillow()
        self._pixels = config.image.max_decode_pixels

    def __call__(self, sample: Sample) -> Sample:
        """The sample with one part. Never raises for what a file holds.

        Raises:
            OSError: the disk is broken.
        """
        file = sample.file
        assert file is not None
        with open(file.path, "rb") as stream:
            kind = kinds.sniff_file(stream)
        group = kinds.class_of(kind)
        extra: dict[str, Any] = {"kind": group, "mime": kinds.mime_of(kind)}
        sizes: dict[str, Any] = {}
        if group == "image":
            sizes = _image_size(file)
        elif group in ("video", "audio"):
            sizes = self._look_into(file, kind, extra)
        part = Part(extension=_TEXTS.get(kind) or kinds.extension_of(kind), path=file.path, size=file.size)
        return replace(sample, parts=(part,), extra=extra, original_format=kind, **sizes)

    def _look_into(self, file: MediaFile, kind: str, extra: dict[str, Any]) -> dict[str, int | None]:
        from img2dataset_dist.ffmpeg.probe import probe  # noqa: PLC0415 (only lists with videos need it)

        if kind not in DEMUXERS:
            return {}
        with contextlib.suppress(MediaError):
            found = probe(file.path, kind, max_pixels=self._pixels)
            extra["duration"] = found.duration
            if found.picture is not None:
                return _sizes(found.picture.width, found.picture.height)
            extra["kind"] = "audio"
        return {}


def _image_size(file: MediaFile) -> dict[str, int | None]:
    """Width and height, upright, in pixels."""
    if file.size > LARGEST_HEADER:
        return {}
    with open(file.path, "rb") as stream:
        body = stream.read()
    try:
        width, height = read_header(body).upright
    except MediaError:
        return {}
    return _sizes(width, height)


def _sizes(width: int, height: int) -> dict[str, int | None]:
    return {"width": width, "height": height, "original_width": width, "original_height": height}
