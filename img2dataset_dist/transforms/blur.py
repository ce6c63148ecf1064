"""Blur what is in bounding boxes, such as faces.

The method is that of "A Study of Face Obfuscation in ImageNet" (Yang et al., 2022), with the peer's parameters: each
box grows by 10% of its longest side, and a blurred mask of all boxes blends the picture with its blurred self.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import cv2
import numpy as np

from img2dataset_dist.errors import BadBox
from img2dataset_dist.transforms.resize import Pixels

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as parts of width and height, from the top left of the upright picture."""

_GROW = 0.1
_LEAST, _MOST = -1.0, 2.0
"""Detectors overshoot the picture a little; numbers beyond these are pixels, not parts, and would hide nothing."""


def read_boxes(value: Any) -> list[Box]:
    """Check the boxes of one row: a list of [x0, y0, x1, y1]; None and [] mean that there are none.

    Parts outside the picture are clipped later.

    Raises:
        BadBox: not such a list, not finite, far outside 0..1 (pixels?), or x1 < x0 or y1 < y0.
    """
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise BadBox("the boxes are not a list")
    return [_box(one) for one in value]


def _box(value: Any) -> Box:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise BadBox("a box is not a list of four numbers")
    numbers = list(value)
    if len(numbers) != 4 or any(isinstance(n, bool) or not isinstance(n, Real) for n in numbers):  # noqa: PLR2004
        raise BadBox("a box is not a list of four numbers")
    if not all(_LEAST <= n <= _MOST for n in numbers):  # false for NaN too
        raise BadBox("a box has numbers that are not in 0..1")
    x0, y0, x1, y1 = (float(n) for n in numbers)
    if x1 < x0 or y1 < y0:
        raise BadBox("a box ends before it starts")
    return x0, y0, x1, y1


def blur(pixels: Pixels, boxes: list[Box]) -> Pixels:
    """A copy of `pixels` with the boxes blurred; pixels away from them stay exactly as they are.

    The width of the blur follows the largest box. Where a box reaches the right or bottom edge, the last column or
    row is blurred too; the peer forgets it.
    """
    height, width = pixels.shape[:2]
    areas, longest = [], 0
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = int(x0 * width), int(y0 * height), int(x1 * width), int(y1 * height)
        side = max(right - left, bottom - top)
        longest = max(longest, side)
        grow = _GROW * side
        areas.append(
            (
                min(max(int(left - grow), 0), width),
                min(max(int(top - grow), 0), height),
                min(max(int(right + grow), 0), width),
                min(max(int(bottom + grow), 0), height),
            )
        )
    kernel = max(3, 2 * math.ceil(_GROW * longest) + 1)

    # Nothing farther than two half kernels from a box can change or count: blur that part only, or a small face in a
    # 20 megapixel photo would cost a second and a gigabyte.
    left, top = (max(0, min(area[i] for area in areas) - kernel) for i in (0, 1))
    right, bottom = (max(area[i] for area in areas) + kernel for i in (2, 3))
    part = pixels[top:bottom, left:right].astype(np.float32)
    mask = np.zeros(part.shape[:2], np.float32)
    for x0, y0, x1, y1 in areas:
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = 1

    # Sigma 0 lets OpenCV derive it from the kernel, 0.3 * ((kernel - 1) / 2 - 1) + 0.8, as happens in the peer.
    mask = cv2.GaussianBlur(mask, (kernel, kernel), 0)
    if part.ndim > mask.ndim:
        mask = mask[..., np.newaxis]
    mixed = part * (1 - mask) + cv2.GaussianBlur(part, (kernel, kernel), 0) * mask
    result: Pixels = pixels.copy()
    result[top:bottom, left:right] = np.rint(mixed)
    return result
