"""JPEG through libjpeg-turbo, which can decode at a fraction of the size for a fraction of the time."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from img2dataset_dist.decoders import pillow_decoder
from img2dataset_dist.decoders.colour import conversion
from img2dataset_dist.decoders.picture import Picture, finish
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import Header
from img2dataset_dist.transforms.resize import Pixels

_CMYK = "CMYK"
_SPACES = {"Gray": "GRAY", "CMYK": _CMYK, "YCCK": _CMYK}
"""What to ask of the decoder, by what the header says; else "BGR"."""
_SCALES = (8, 4, 2)
"""3/8 and what is between 1/2 and 1 have no SIMD code: those take longer than more pixels do, and look worse."""


def decode_jpeg(body: bytes, header: Header, at_least: tuple[int, int], *, damaged: bool = False) -> Picture:
    """The picture, at 1/2, 1/4 or 1/8 of its size if that is still `at_least`.

    When less than every pixel is asked for, chroma is also enlarged by the quick method.

    Args:
        body: the file.
        header: what `read_header` said of it.
        at_least: upright width and height in pixels that suffice.
        damaged: whether to accept what can be decoded of a broken file.

    Raises:
        DecodeError: truncated.
        ValueError: corrupt.
    """
    if not header.space:
        return pillow_decoder.decode_pillow(body, header, at_least)
    space = _SPACES.get(header.space, "BGR")
    pixels = _turbo(body, space, _scaled(header, at_least), damaged)
    if space == _CMYK:
        return finish(_from_light(pixels, header.profile), header, plain=False)
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    return finish(pixels, header, profile=header.profile, plain=not damaged)


def _scaled(header: Header, at_least: tuple[int, int]) -> tuple[int, int]:
    """The smallest width and height, as stored, that the decoder may give; (0, 0) for every pixel."""
    if at_least == (0, 0):
        return at_least
    width, height = at_least if header.orientation < 5 else at_least[::-1]  # noqa: PLR2004 (5 to 8 swap the sides)
    for scale in _SCALES:
        if width * scale <= header.width and height * scale <= header.height:
            return -(-header.width // scale), -(-header.height // scale)
    return header.width, header.height


def _turbo(body: bytes, space: str, size: tuple[int, int], damaged: bool) -> Pixels:
    """libjpeg-turbo at `size`; its warnings are errors, but for one."""
    quick = size != (0, 0)

    def attempt(strict: bool) -> Pixels:
        pixels: Pixels = simplejpeg.decode_jpeg(
            body, space, fastupsample=quick, min_width=size[0], min_height=size[1], min_factor=1, strict=strict
        )
        return pixels

    if damaged:
        return attempt(strict=False)
    try:
        return attempt(strict=True)
    except ValueError as error:
        text = str(error).lower()
        if "premature end" in text:
            raise DecodeError("truncated jpeg") from error
        if not ("extraneous bytes" in text and "marker 0xd9" in text):
            raise
    # Some cameras put a few bytes between the picture data and the end marker; all data was there.
    return attempt(strict=False)


def _from_light(light: Pixels, profile: bytes | None) -> Pixels:
    """CMYK to blue-green-red, by its profile, else by plain multiplication.

    It is stored inverted, as Photoshop does and everyone expects (with or without Adobe's marker), so that each is
    light and not ink.
    """
    to_srgb = conversion(profile, _CMYK) if profile else None
    if to_srgb is not None:
        return to_srgb(cv2.bitwise_not(light))
    cyan, magenta, yellow, black = cv2.split(light)
    pixels: Pixels = cv2.merge([cv2.multiply(one, black, scale=1 / 255) for one in (yellow, magenta, cyan)])
    return np.ascontiguousarray(pixels)
