"""Sizes and pixels of any picture under any options, against rules and filters that are written down once more here.

The rules are those of img2dataset 1.47: albumentations' SmallestMaxSize, LongestMaxSize, PadIfNeeded and CenterCrop. The
filters are in support/scaling.py. Neither uses OpenCV.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.handmade import ppm
from support.photos import photograph
from support.scaling import scaled

from img2dataset_dist import transforms
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Fetched, Item, Sample

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
FILTERS = {
    "nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic", "bicubic": "cubic",
    "area": "area", "lanczos": "lanczos", "lanczos4": "lanczos",
}  # fmt: skip
"""Names of the options to those of support/scaling.py."""

MOST = 700_000
"""Pixels of a picture here, before and after, so that hundreds of them take seconds."""

PHOTO = np.asarray(photograph("coffee.png"))
FEW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
MANY = settings(FEW, max_examples=250)


class Picture(NamedTuple):
    """What to expect: the size after scaling, and the one after cropping or padding."""

    scaled: tuple[int, int]
    final: tuple[int, int]
    shrinks: bool


def by_the_rules(width: int, height: int, size: int, mode: str, only_if_bigger: bool) -> Picture:
    """What img2dataset makes of it, from its resizer.py and albumentations 1.4."""
    if mode == "no":
        return Picture((width, height), (width, height), False)
    reference = min(width, height) if mode in ("keep_ratio", "center_crop") else max(width, height)
    downscale = reference > size
    if only_if_bigger and not downscale:
        return Picture((width, height), (width, height), False)
    ratio = size / reference
    new = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return Picture(new, (size, size) if mode in ("border", "center_crop") else new, downscale)


def run(pixels: np.ndarray, **options: Any) -> Sample:
    """The whole chain of transforms over a file that holds exactly these pixels; PNG comes out."""
    height, width = pixels.shape[:2]
    body = ppm("P6" if pixels.ndim == 3 else "P5", width, height, 255, pixels.tobytes())
    flat = {"url_list": "x.txt", "encode_format": "png", "encode_quality": 0, "compute_hash": None, **options}
    item = Item(shard_id=0, index=0, key="00000", url="http://x/")
    done = transforms.apply(transforms.build(JobConfig.from_flat(flat)), Fetched(item=item, body=body))
    assert done.failure is None, done.failure
    assert (done.original_width, done.original_height) == (width, height)
    return done


def decoded(sample: Sample) -> np.ndarray:
    assert sample.data is not None
    with Image.open(io.BytesIO(sample.data)) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1::-1] == (sample.width, sample.height)
    return pixels


def cut(width: int, height: int, colour: bool = True) -> np.ndarray:
    """A photograph of that size: the real one, mirrored as often as it takes."""
    source = PHOTO if colour else PHOTO[:, :, 1]
    extra = [(0, max(0, wanted - there)) for wanted, there in zip((height, width), source.shape, strict=False)]
    padded = np.pad(source, [*extra, (0, 0)][: source.ndim], "symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def framed(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Its middle, of that size: white around what is smaller, the rest cut off. Odd pixels go right and down."""
    top, left = max(0, (pixels.shape[0] - height) // 2), max(0, (pixels.shape[1] - width) // 2)
    middle = pixels[top : top + height, left : left + width]
    result = np.full((height, width, *pixels.shape[2:]), 255.0)
    top, left = (height - middle.shape[0]) // 2, (width - middle.shape[1]) // 2
    result[top : top + middle.shape[0], left : left + middle.shape[1]] = middle
    return result


@st.composite
def sides(draw: st.DrawFn, most: int = MOST) -> tuple[int, int]:
    """Width and height from 1 to 3000, squares and lines alike."""
    one = draw(st.integers(1, 3000))
    other = draw(st.integers(1, min(3000, most // one)))
    return draw(st.sampled_from([(one, other), (other, one)]))


# sizes


@MANY
@given(
    size_of=sides(), size=st.integers(1, 1500), mode=st.sampled_from(MODES), only=st.booleans(), colour=st.booleans()
)
@example(size_of=(1, 1), size=1, mode="border", only=False, colour=True)
@example(size_of=(3000, 1), size=256, mode="border", only=False, colour=True)
@example(size_of=(1, 3000), size=3, mode="keep_ratio", only=False, colour=False)
@example(size_of=(3000, 7), size=7, mode="center_crop", only=True, colour=True)
@example(size_of=(7, 3000), size=7, mode="center_crop", only=False, colour=True)
@example(size_of=(257, 257), size=256, mode="keep_ratio_largest", only=True, colour=True)
@example(size_of=(5, 3), size=2, mode="keep_ratio_largest", only=False, colour=True)
def test_sizes_and_what_is_around(size_of, size, mode, only, colour):
    width, height = size_of
    want = by_the_rules(width, height, size, mode, only)
    assume(want.scaled[0] * want.scaled[1] <= 3 * MOST)
    pixels = np.full((height, width, 3), 90, np.uint8) if colour else np.full((height, width), 90, np.uint8)
    done = decoded(run(pixels, image_size=size, resize_mode=mode, resize_only_if_bigger=only))
    assert done.shape[1::-1] == want.final
    assert done.ndim == pixels.ndim, "grey stays grey, colour stays colour"
    expected = framed(np.full((*want.scaled[::-1], *pixels.shape[2:]), 90.0), *want.final)
    assert (done == expected).all(), "white, and in the middle"


@given(size_of=sides(), size=st.integers(1, 3000), mode=st.sampled_from(MODES[2:]))
def test_the_rule_keeps_the_ratio(size_of, size, mode):
    """Of the rule itself: the reference side is met exactly, the other within half a pixel, but never zero."""
    want = by_the_rules(*size_of, size, mode, False)
    reference = max(size_of) if mode == "keep_ratio_largest" else min(size_of)
    for before, after in zip(size_of, want.scaled, strict=True):
        exact = Fraction(before * size, reference)
        assert after == 1 if exact < Fraction(1, 2) else abs(after - exact) <= Fraction(1, 2) + Fraction(1, 10**9)
    assert size in want.scaled


@FEW
@given(size_of=sides(), colour=st.booleans(), mode=st.sampled_from(["border", "center_crop"]))
def test_without_scaling_pixels_are_only_moved(size_of, colour, mode):
    """`image_size` is the side that counts, so that only the crop or the border is left to do."""
    size = max(size_of) if mode == "border" else min(size_of)
    assume(size * size <= 3 * MOST)
    pixels = cut(*size_of, colour)
    done = decoded(run(pixels, image_size=size, resize_mode=mode))
    assert (done == framed(pixels, size, size)).all()


@FEW
@given(size_of=sides(), size=st.integers(1, 3000), mode=st.sampled_from(MODES), colour=st.booleans())
def test_small_ones_are_left_alone_when_asked(size_of, size, mode, colour):
    pixels = cut(*size_of, colour)
    assume(by_the_rules(*size_of, size, mode, True).shrinks is False)
    done = decoded(run(pixels, image_size=size, resize_mode=mode, resize_only_if_bigger=True))
    assert (done == pixels).all()


# pixels

WORST = {"nearest": 0.0, "area": 1.0, "linear": 1.0, "cubic": 2.0, "lanczos": 2.0}
"""Levels by which any value may be off: rounding, and the fixed-point weights of fast implementations."""


@MANY
@given(
    size_of=sides(300_000),
    size=st.integers(1, 900),
    mode=st.sampled_from(MODES[1:]),
    name=st.sampled_from(sorted(FILTERS)),
    colour=st.booleans(),
)
def test_pixels_by_the_book(size_of, size, mode, name, colour):
    want = by_the_rules(*size_of, size, mode, False)
    assume(want.scaled[0] * want.scaled[1] <= 300_000)
    assume(want.shrinks or name != "area")  # enlarging by it is taking the nearest, and OpenCV rounds some wrongly
    pixels = cut(*size_of, colour)
    filters = {"upscale_interpolation": name, "downscale_interpolation": name, "decode": "exact"}
    done = decoded(run(pixels, image_size=size, resize_mode=mode, **filters))
    expected = framed(scaled(pixels, *want.scaled, FILTERS[name]), *want.final)
    assert done.shape == expected.shape
    off = np.abs(done - expected)
    assert off.max() <= WORST[FILTERS[name]] + 0.51, f"{name}: {off.max():.2f}"


@FEW
@given(size_of=sides(300_000), size=st.integers(1, 600), mode=st.sampled_from(MODES[1:]), colour=st.booleans())
@example(size_of=(112, 1), size=1, mode="border", colour=False)  # one axis shrinks, the other cannot
@example(size_of=(3000, 5), size=256, mode="border", colour=True)
def test_the_fast_way_is_close_to_the_book(size_of, size, mode, colour):
    want = by_the_rules(*size_of, size, mode, False)
    assume(want.shrinks)
    assume(want.scaled[0] * want.scaled[1] <= 300_000)
    pixels = cut(*size_of, colour)
    done = decoded(run(pixels, image_size=size, resize_mode=mode))
    expected = framed(scaled(pixels, *want.scaled, "area"), *want.final)
    assert done.shape == expected.shape
    assert np.abs(done - expected).mean() <= 4


@pytest.mark.parametrize("up", ["nearest", "linear", "cubic", "area", "lanczos"])
def test_enlarging_and_shrinking_have_their_own_filters(up):
    pixels = cut(120, 90)
    for size in (60, 240):
        filters = {"upscale_interpolation": up, "downscale_interpolation": "nearest", "decode": "exact"}
        done = decoded(run(pixels, image_size=size, resize_mode="keep_ratio_largest", **filters))
        expected = scaled(pixels, size, size * 3 // 4, up if size > 120 else "nearest")
        assert np.abs(done - expected).max() <= WORST[up] + 0.51
