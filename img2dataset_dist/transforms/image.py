"""The picture path: header, filters, decode, resize, blur, crop or pad, encode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2

from img2dataset_dist.config import ImageConfig, JobConfig
from img2dataset_dist.decoders.decode import decode
from img2dataset_dist.decoders.frames import more_than
from img2dataset_dist.errors import (
    AreaTooLarge,
    AspectTooLarge,
    ImageTooSmall,
    MediaError,
    TooManyFrames,
    TooManyPixels,
)
from img2dataset_dist.media import Header, quiet_pillow, read_header
from img2dataset_dist.model import Sample
from img2dataset_dist.transforms.blur import Box, blur, read_boxes
from img2dataset_dist.transforms.encode import encode
from img2dataset_dist.transforms.resize import Pixels, Plan, plan, resize, square

_KIND = {"jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif"}
"""`encode_format` to what `sniff` calls it."""

_OVERSAMPLING = 2
"""A JPEG is decoded at no less than this many times the target, so that the area filter still decides how it looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    data: bytes
    width: int
    height: int
    phash: str | None


class ImageTransform:
    """Make the stored image of a sample. The options of `ImageConfig` say how.

    Sizes, boxes and filters mean the upright picture, which is what people and their annotation tools see: a photo
    with an EXIF orientation is turned first. (The peer stores such photos on their side, and takes boxes so, too.)
    """

    def __init__(self, config: JobConfig) -> None:
        self._image = config.image
        self._boxes = config.input.bbox_col
        self._phash: Callable[[Pixels], str] | None = None
        if config.image.compute_phash:
            from img2dataset_dist.transforms.phash import phash  # noqa: PLC0415 (only who asks for it needs it)

            self._phash = phash
        quiet_pillow()
        cv2.setNumThreads(1)  # a process per core is there already
        # It tells standard error of every broken image. Newer versions have the function in `utils`.
        getattr(cv2.utils, "logging", cv2).setLogLevel(0)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with `data` and its sizes.

        Raises:
            NotMedia: the bytes are no image.
            UnsupportedFormat: an image of a kind that no decoder here reads.
            TooManyPixels: the header, or the size to resize to, has more than `max_decode_pixels`, or a side is above
                `max_decode_side`.
            TooManyFrames: more than `max_decode_frames`.
            Rejected: a filter refuses the size that the header has; nothing was decoded.
            BadBox: the row's boxes are malformed.
            DecodeError: truncated, corrupt, unsupported.
            EncodeError: the result does not fit the format.
            MediaError: OpenCV could not resize or blur, for want of memory most likely.
        """
        header = read_header(sample.body)
        check(*header.upright, self._image)
        if more_than(sample.body, header.kind, self._image.max_decode_frames):
            raise TooManyFrames("more frames than max_decode_frames")
        boxes = read_boxes(sample.item.columns.get(self._boxes)) if self._boxes is not None else []
        try:
            done = self._make(sample.body, header, boxes)
        except (cv2.error, MemoryError) as error:
            raise MediaError("the image could not be resized") from error
        width, height = header.upright
        return replace(
            sample,
            data=done.data,
            width=done.width,
            height=done.height,
            original_width=width,
            original_height=height,
            original_format=header.kind,
            phash=done.phash,
        )

    def _make(self, body: bytes, header: Header, boxes: list[Box]) -> _Result:
        todo = plan(*header.upright, self._image)
        at_least = sufficient(todo)
        picture = decode(body, header, at_least, allow_damaged=self._image.allow_truncated)
        pixels, to_srgb = picture.pixels, picture.to_srgb
        if to_srgb is not None and (at_least == (0, 0) or self._phash is not None):
            pixels, to_srgb = to_srgb(pixels), None
        phash = self._phash(pixels) if self._phash is not None else None
        changed = bool(boxes) or not picture.plain
        if todo is not None:
            changed |= header.upright != (todo.width, todo.height)
            pixels = resize(pixels, todo)
        if to_srgb is not None:
            pixels = to_srgb(pixels)  # a smaller picture by now: a twentieth of the time, and nearly the same
        if boxes:
            pixels = blur(pixels, boxes)
        if todo is not None and todo.square is not None:
            pixels, before = square(pixels, todo.square), pixels
            changed |= pixels.shape != before.shape
        keep = self._image.skip_reencode and not changed and header.kind == _KIND[self._image.encode_format]
        height, width = pixels.shape[:2]
        return _Result(data=body if keep else encode(pixels, self._image), width=width, height=height, phash=phash)


def check(width: int, height: int, image: ImageConfig) -> None:
    """Refuse a picture by the size in its header, in pixels.

    Raises:
        TooManyPixels: more than `max_decode_pixels`, or a side above `max_decode_side`.
        Rejected: below `min_image_size`, or above `max_image_area` or `max_aspect_ratio`.
    """
    if min(width, height) < image.min_image_size:
        raise ImageTooSmall("image too small")
    if width * height > image.max_image_area:
        raise AreaTooLarge("image area too large")
    if max(width, height) / min(width, height) > image.max_aspect_ratio:
        raise AspectTooLarge("aspect ratio too large")
    if max(width, height) > image.max_decode_side:
        raise TooManyPixels("a side is longer than max_decode_side")
    if width * height > image.max_decode_pixels:
        raise TooManyPixels("more pixels than max_decode_pixels")


def sufficient(todo: Plan | None) -> tuple[int, int]:
    """Width and height in pixels that a decoder may reduce to; (0, 0) when every pixel counts.

    Only the area filter averages over all pixels, so only its result stays close to what a full decode would give.
    """
    if todo is None or not (todo.fast and todo.shrinks) or todo.interpolation != cv2.INTER_AREA:
        return 0, 0
    return todo.width * _OVERSAMPLING, todo.height * _OVERSAMPLING
