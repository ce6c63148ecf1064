"""ICC profiles: pixels to sRGB, where that makes a difference.

Most profiles on the web are sRGB under one of its many names. Whether one is does not depend on the name but on what
it does to sample colours, which is computed once per profile. Profiles that are broken, or for other pixels than they
come with, are ignored, as browsers do; so are gAMA and cHRM of a PNG.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from img2dataset_dist.transforms.resize import Pixels

Conversion = Callable[[NDArray[np.uint8]], Pixels]
"""Grey (h, w) to grey, blue-green-red (h, w, 3) to the same, or ink (h, w, 4) to blue-green-red."""

MOST_BYTES = 4 << 20
"""Larger profiles are ignored. Those of printing presses have up to 3 MB."""
_REMEMBERED = 8
_UNSEEN = 2
"""Of 255: by so much the many variants of sRGB differ from each other."""
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def conversion(profile: bytes, space: str) -> Conversion | None:
    """How pixels with `profile` become sRGB, by its perceptual intent; None when they are (as good as), or if unknown.

    Args:
        profile: an ICC profile.
        space: "GRAY", "RGB" or "CMYK" (ink, 255 is most): what the pixels are.
    """
    return _conversion(profile, space) if len(profile) <= MOST_BYTES else None


@lru_cache(maxsize=_REMEMBERED)
def _conversion(profile: bytes, space: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space.strip() != space:
            return None
        flags = ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else ImageCms.Flags.NONE  # off by 10 in dark greys
        transform = ImageCms.buildTransform(source, _SRGB, _MODES[space], "RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if space == "GRAY":
        return _grey(transform)
    if space == "CMYK":
        return lambda ink: _swapped(_apply(transform, ink, "CMYK"))
    step = np.arange(0, 256, 15, dtype=np.uint8)
    samples = np.stack(np.meshgrid(step, step, step), axis=-1).reshape(1, -1, 3)
    if np.abs(_apply(transform, samples, "RGB").astype(np.int16) - samples).max() <= _UNSEEN:
        return None
    return lambda pixels: _swapped(_apply(transform, _swapped(pixels), "RGB"))


def _grey(transform: ImageCms.ImageCmsTransform) -> Conversion | None:
    """By a table of all 256 greys; stays grey."""
    greys = np.arange(256, dtype=np.uint8).reshape(1, 256)
    table = _apply(transform, greys, "L")[..., 1]
    if np.abs(table.astype(np.int16) - greys).max() <= _UNSEEN:
        return None
    return lambda pixels: cv2.LUT(pixels, table)


def _apply(transform: ImageCms.ImageCmsTransform, pixels: NDArray[np.uint8], mode: str) -> Pixels:
    """Red-green-blue (h, w, 3) of pixels in the order of Pillow's `mode`."""
    height, width = pixels.shape[:2]
    image = Image.frombuffer(mode, (width, height), pixels.tobytes(), "raw", mode, 0, 1)
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return np.asarray(converted)


def _swapped(pixels: Pixels) -> Pixels:
    swapped: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return swapped
