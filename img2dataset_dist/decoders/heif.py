"""HEIC and HEIF through libheif. It applies the turns that the file asks for; EXIF must not turn it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2dataset_dist.decoders.picture import Picture, finish, from_16_bit, split_alpha
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import Header, open_heif

_ALPHA = 4


def decode_heif(body: bytes, header: Header, _at_least: tuple[int, int]) -> Picture:
    """The primary picture. Ten and more bits become eight.

    Raises:
        DecodeError: libheif gives another format of pixels than it should.
        ValueError: truncated or corrupt.
    """
    image = open_heif(body)
    pixels: NDArray[Any] = np.array(image)  # a copy: what libheif holds may go with `image`
    profile = image.info.get("icc_profile")
    if pixels.dtype == np.uint16:
        pixels = from_16_bit(pixels)
    if pixels.dtype != np.uint8:
        raise DecodeError("unsupported pixel format in heic")
    if pixels.ndim == 3 and pixels.shape[2] == _ALPHA:  # noqa: PLR2004
        pixels, alpha = split_alpha(pixels)
        return finish(pixels, header, alpha=alpha, profile=profile)
    return finish(pixels, header, profile=profile)
