"""Pixels to bytes."""

from __future__ import annotations

import cv2

from img2dataset_dist.config import ImageConfig
from img2dataset_dist.errors import EncodeError
from img2dataset_dist.transforms.resize import Pixels

_FLAGS = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION, "webp": cv2.IMWRITE_WEBP_QUALITY}
_LONGEST = {"jpg": 65500, "png": 1_000_000, "webp": 16383}
"""Longest side in pixels: limits of libjpeg, libpng and the WebP format."""


def encode(pixels: Pixels, image: ImageConfig) -> bytes:
    """`pixels` in the options' format and quality; JPEG has the usual tables and 4:2:0 chroma.

    OpenCV rather than simplejpeg: equally fast (0.17 ms at 256 x 256), slightly smaller files, nearer to the original.

    Raises:
        EncodeError: a side is longer than the format allows, or the encoder failed.
    """
    name = image.encode_format
    if max(pixels.shape[:2]) > _LONGEST[name]:
        raise EncodeError(f"a side is longer than {name} allows")
    try:
        done, encoded = cv2.imencode(f".{name}", pixels, [_FLAGS[name], image.encode_quality])
    except (cv2.error, MemoryError) as error:
        raise EncodeError(f"the {name} encoder failed") from error
    if not done:
        raise EncodeError(f"the {name} encoder failed")
    return bytes(encoded)
