"""Resizing by the book: each filter as a matrix of weights, in floating point, without OpenCV or Pillow.

`scaled(pixels, width, height, name)` is slow and simple. Filters are as img2dataset's users know them, that is as
OpenCV defines them: pixel centres at one half, edges repeated, and none but `area` looks at more source pixels when it
shrinks.
"""

from __future__ import annotations

import functools

import numpy as np

TAPS = {"linear": 1, "cubic": 2, "lanczos": 4}
"""Source pixels to each side."""


def scaled(pixels: np.ndarray, width: int, height: int, name: str) -> np.ndarray:
    """(h, w) or (h, w, channels) to float64 of that size, within 0..255 and not rounded."""
    rows, columns = matrix(pixels.shape[0], height, name), matrix(pixels.shape[1], width, name)
    done = np.einsum("ij,jk...->ik...", rows, pixels.astype(np.float64), optimize=True)
    return np.clip(np.einsum("ij,kj...->ki...", columns, done, optimize=True), 0, 255)


@functools.lru_cache(maxsize=64)
def matrix(before: int, after: int, name: str) -> np.ndarray:
    """(after, before) weights along one axis; each row adds up to one."""
    if before == after:
        return np.eye(before)
    if name == "area":
        return overlap(before, after)
    weights = np.zeros((after, before))
    every = np.arange(after)
    if name == "nearest":
        step = 1 / (after / before)  # rounded twice, as OpenCV does: it decides which pixel an exact border belongs to
        weights[every, np.minimum(np.floor(every * step).astype(int), before - 1)] = 1
        return weights
    centres = (every + 0.5) * before / after - 0.5
    first = np.floor(centres).astype(int) - TAPS[name] + 1
    taps = first[:, None] + np.arange(2 * TAPS[name])
    values = kernel(name, centres[:, None] - taps)
    values /= values.sum(axis=1, keepdims=True)
    np.add.at(weights, (every[:, None], np.clip(taps, 0, before - 1)), values)
    return weights


def overlap(before: int, after: int) -> np.ndarray:
    """Area averaging: how much of each target pixel each source pixel covers."""
    edges = np.arange(after + 1) * before / after
    low, high = edges[:-1, None], edges[1:, None]
    source = np.arange(before)
    covered = np.clip(np.minimum(high, source + 1) - np.maximum(low, source), 0, None)
    result: np.ndarray = covered / covered.sum(axis=1, keepdims=True)
    return result


def kernel(name: str, x: np.ndarray) -> np.ndarray:
    """Weight at a distance in source pixels."""
    x = np.abs(x)
    if name == "linear":
        return np.clip(1 - x, 0, None)
    if name == "cubic":  # Keys, with a = -0.75
        near = (1.25 * x - 2.25) * x * x + 1
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        return np.where(x <= 1, near, np.where(x < 2, far, 0))
    return np.where(x < 4, np.sinc(x) * np.sinc(x / 4), 0)
