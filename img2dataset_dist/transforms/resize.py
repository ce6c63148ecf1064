"""Target sizes, and resizing, cropping and padding of pixels. The five modes have the peer's exact sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from img2dataset_dist.config import ImageConfig
from img2dataset_dist.errors import TooManyPixels

Pixels = NDArray[np.uint8]
"""(height, width) grey or (height, width, 3) blue-green-red, upright, 0..255."""

INTERPOLATIONS: dict[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}
_WHITE = (255, 255, 255)
_COLOUR = 3  # axes of the array
_STRIDE = 2  # in pixels: up to here the linear filter takes every pixel into account
_CACHEABLE = 4_000_000  # bytes of pixels; from about 10 million on float is slower


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do with a picture of a known size, decided before it is decoded.

    Attributes:
        width, height: to resize to, in pixels.
        interpolation: OpenCV's flag.
        shrinks: whether the option for downscaling was the one to use.
        square: side to crop or pad to afterwards, None for neither.
        fast: whether the result may differ a little from the filter's own, for speed.
    """

    width: int
    height: int
    interpolation: int
    shrinks: bool
    square: int | None = None
    fast: bool = False


def plan(width: int, height: int, image: ImageConfig) -> Plan | None:
    """How the options resize a picture of `width` x `height` pixels (upright); None when they leave it alone.

    Raises:
        TooManyPixels: the result would have more than `max_decode_pixels`, say a 3 x 1000 picture scaled by 1000.
    """
    mode, size = image.resize_mode, image.image_size
    if mode == "no":
        return None
    side = min(width, height) if mode in ("keep_ratio", "center_crop") else max(width, height)
    shrinks = side > size
    if image.resize_only_if_bigger and not shrinks:
        return None
    scale = size / side
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    square = size if mode in ("border", "center_crop") else None
    if max(new_width * new_height, (square or 0) ** 2) > image.max_decode_pixels:
        raise TooManyPixels("the resized image would have more than max_decode_pixels")
    name = image.downscale_interpolation if shrinks else image.upscale_interpolation
    return Plan(
        width=new_width,
        height=new_height,
        interpolation=INTERPOLATIONS[name],
        shrinks=shrinks,
        square=square,
        fast=image.decode == "fast",
    )


def resize(pixels: Pixels, to: Plan) -> Pixels:
    """`pixels` at exactly `to.width` x `to.height`; the very array when that is its size."""
    height, width = pixels.shape[:2]
    if height == to.height and width == to.width:
        return pixels
    size = (to.width, to.height)
    resized: Pixels
    if to.fast and to.shrinks and to.interpolation == cv2.INTER_AREA:
        resized = _area_in_steps(pixels, size)
    elif _faster_in_float(pixels, to):
        # OpenCV's own path for bytes computes in float too: the same bytes come out, in 0.7 of the time.
        resized = cv2.convertScaleAbs(cv2.resize(pixels.astype(np.float32), size, interpolation=to.interpolation))
    else:
        resized = cv2.resize(pixels, size, interpolation=to.interpolation)
    return resized


def _area_in_steps(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Nearly what the area filter gives, in a fifth to a half of its time.

    The linear filter goes to a multiple of the target, in strides that leave out no pixel; then the area filter
    averages whole blocks. For both OpenCV has SIMD code, which it has not for blocks with a fraction. By less than half
    the linear filter is all that is needed. How close that is to the area filter alone, and how much faster, is in
    docs/performance.md. The other order, whole blocks first, is as fast, but blurs.
    """
    height, width = pixels.shape[:2]
    across, down = math.ceil(width / (_STRIDE * size[0])), math.ceil(height / (_STRIDE * size[1]))
    step = (across * size[0], down * size[1])
    if step != (width, height):
        pixels = cv2.resize(pixels, step, interpolation=cv2.INTER_LINEAR)
    if step != size:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels


def _faster_in_float(pixels: Pixels, to: Plan) -> bool:
    """Colour that fits a CPU's cache, shrunk by the area filter, but not by whole numbers: those have SIMD code."""
    height, width = pixels.shape[:2]
    return (
        pixels.ndim == _COLOUR
        and pixels.size <= _CACHEABLE
        and to.interpolation == cv2.INTER_AREA
        and to.width <= width
        and to.height <= height
        and (width % to.width != 0 or height % to.height != 0)
    )


def square(pixels: Pixels, side: int) -> Pixels:
    """Crop the middle of what is larger than `side`, add white around what is smaller.

    An odd pixel goes to the right or bottom: of three missing rows one is added on top, of three to crop one is cut
    off there.
    """
    height, width = pixels.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    pixels = pixels[top : top + side, left : left + side]
    rows, columns = side - pixels.shape[0], side - pixels.shape[1]
    if rows or columns:
        top, left = rows // 2, columns // 2
        padded: Pixels = cv2.copyMakeBorder(
            pixels, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=_WHITE
        )
        return padded
    return pixels
