"""Perceptual hash: 64 bits that stay about the same when a picture is re-encoded, scaled or slightly cropped.

The recipe is that of imagehash.phash (https://github.com/JohannesBuchner/imagehash): 32 x 32 grey values, the 8 x 8
lowest frequencies of their cosine transform, and for each whether it is above the median. Only the way to 32 x 32 is
shorter: a mean over whole blocks of pixels comes before the Lanczos filter, as long as there are more than twice 32.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_FREQUENCIES = 8
_SCALE = 2**14
"""Cosines are whole multiples of 1 / _SCALE: all sums are whole numbers below 2^53, so that every processor gets the
same bits, and a plain picture exact zeros."""

_COSINES: NDArray[np.float64] = np.rint(
    _SCALE * np.cos(np.pi / (2 * _SIDE) * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1))
)


def phash(pixels: NDArray[np.uint8]) -> str:
    """The perceptual hash of a picture, as 16 hex digits.

    Count the bits that differ: up to 10 of the 64 is most likely the same picture; pictures that have nothing in
    common differ in about 32. Mirrored and turned pictures are others. Three of four hashes equal imagehash's, the
    rest differs by 2 to 4 bits (a picture made of one repeated pattern may by more).

    Args:
        pixels: grey (h, w), or blue-green-red (h, w, 3); at least 1 x 1.
    """
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)  # noqa: PLR2004
    image = Image.fromarray(np.ascontiguousarray(grey))
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    strengths = (_COSINES @ np.asarray(small, np.float64) @ _COSINES.T).ravel()
    ordered = np.sort(strengths)
    median = (ordered[31] + ordered[32]) / 2
    return np.packbits(strengths > median).tobytes().hex()
