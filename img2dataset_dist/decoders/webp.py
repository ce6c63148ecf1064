"""WebP through OpenCV, which takes three quarters of Pillow's time; animations through Pillow."""

from __future__ import annotations

import cv2
import numpy as np

from img2dataset_dist.decoders import pillow_decoder
from img2dataset_dist.decoders.picture import Picture, finish, split_alpha
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import Header, webp_chunk

_ALPHA = 4


def decode_webp(body: bytes, header: Header, at_least: tuple[int, int]) -> Picture:
    """The picture, or the first of an animation.

    Raises:
        DecodeError: truncated or corrupt.
    """
    if int.from_bytes(body[4:8], "little") + 8 > len(body):
        raise DecodeError("truncated webp")
    if header.animated:
        return pillow_decoder.decode_pillow(body, header, at_least)
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DecodeError("corrupt webp")
    profile = webp_chunk(body, b"ICCP")
    if pixels.shape[2] == _ALPHA:
        pixels, alpha = split_alpha(pixels)
        return finish(pixels, header, alpha=alpha, profile=profile)
    return finish(pixels, header, profile=profile)
