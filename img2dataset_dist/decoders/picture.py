"""What every decoder ends with: colours to convert, transparency onto white, the right way up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from img2dataset_dist.decoders.colour import Conversion, conversion
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import Header
from img2dataset_dist.transforms.resize import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: upright; smaller than the original when `decode` was allowed to.
        plain: whether the bytes show just these pixels to any reader: nothing was turned, blended, converted to
            sRGB or reduced from 16 bits, and there is nothing else in the file.
        to_srgb: what is still to be done to the colours, before or after resizing; None for nothing.
    """

    pixels: Pixels
    plain: bool
    to_srgb: Conversion | None = None


Decoder = Callable[[bytes, Header, tuple[int, int]], Picture]
"""Bytes, what `read_header` said of them, and the width and height in upright pixels that suffice; (0, 0): all."""


def finish(
    pixels: Pixels,
    header: Header,
    *,
    alpha: NDArray[np.uint8] | None = None,
    profile: bytes | None = None,
    plain: bool = True,
) -> Picture:
    """The picture made of decoded pixels.

    Args:
        pixels: as stored, grey or blue-green-red.
        header: its orientation is applied.
        alpha: (h, w), 255 for opaque; None for a picture without transparency.
        profile: ICC profile of the pixels.
        plain: False when the pixels are not what is in the file already.
    """
    to_srgb = conversion(profile, "GRAY" if pixels.ndim == 2 else "RGB") if profile else None  # noqa: PLR2004
    plain = plain and alpha is None and to_srgb is None and header.orientation == 1 and not header.animated
    if alpha is not None:
        if to_srgb is not None:
            pixels, to_srgb = to_srgb(pixels), None
        pixels = _onto_white(pixels, alpha)
    return Picture(pixels=turn(pixels, header.orientation), plain=plain, to_srgb=to_srgb)


def _onto_white(pixels: Pixels, alpha: NDArray[np.uint8]) -> Pixels:
    """Alpha blending, rounded to the nearest: colour * a + 255 * (1 - a). Always three channels, as in the peer."""
    if pixels.ndim == 2:  # noqa: PLR2004
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if alpha.min() == 255:  # noqa: PLR2004
        return pixels
    # 255 - (255 - colour) * a / 255: there is no tie, so that single precision rounds as the exact product does.
    darkness = cv2.multiply(cv2.bitwise_not(pixels), cv2.merge([alpha] * 3), scale=1 / 255)
    blended: Pixels = cv2.bitwise_not(darkness)
    return blended


def split_alpha(pixels: Pixels) -> tuple[Pixels, NDArray[np.uint8]]:
    """(h, w, 4) in any order of colours to (h, w, 3) in the same order and (h, w)."""
    colours: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)
    return colours, cv2.extractChannel(pixels, 3)


def from_16_bit(deep: NDArray[Any]) -> Pixels:
    """The upper half of 16 bits, as libpng and Pillow do for colour; tones stay, clipping would make all white.

    Raises:
        DecodeError: there are values below 0 or above 65535.
    """
    if deep.dtype != np.uint16 and (deep.min() < 0 or deep.max() > 0xFFFF):  # noqa: PLR2004
        raise DecodeError("unsupported pixel format: 32-bit integer")
    pixels: Pixels = (deep >> 8).astype(np.uint8)
    return pixels


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels to upright ones, by EXIF orientation 1 to 8 (CIPA DC-008, tag 0x0112); contiguous."""
    steps = _TURNS.get(orientation, ())
    for step in steps:
        pixels = step(pixels)
    return pixels if pixels.flags.c_contiguous else np.ascontiguousarray(pixels)


_TURNS: dict[int, tuple[Callable[[Pixels], Pixels], ...]] = {
    2: (lambda pixels: cv2.flip(pixels, 1),),
    3: (lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),),
    4: (lambda pixels: cv2.flip(pixels, 0),),
    5: (cv2.transpose,),
    6: (lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),),
    7: (cv2.transpose, lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180)),
    8: (lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),),
}
