"""The perceptual hash, on real photographs; imagehash is the oracle."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.photos import COLOUR, GREY, photograph

from img2dataset_dist.transforms.phash import phash

imagehash = pytest.importorskip("imagehash")
PHOTOS = (*COLOUR, *GREY)
SAME_SCENE = {"motorcycle_left.png", "motorcycle_right.png"}


def pixels(name: str) -> np.ndarray:
    """Grey or blue-green-red."""
    image = photograph(name)
    return np.asarray(image.convert("L")) if name in GREY else np.asarray(image.convert("RGB"))[..., ::-1].copy()


def differing(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def resized(picture: np.ndarray, factor: float) -> np.ndarray:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how)


def cropped(picture: np.ndarray, share: float) -> np.ndarray:
    y, x = (round(side * share) for side in picture.shape[:2])
    return np.ascontiguousarray(picture[y:-y, x:-x])


def test_like_imagehash():
    distances = [differing(phash(pixels(name)), str(imagehash.phash(photograph(name)))) for name in PHOTOS]
    assert max(distances) <= 4
    assert np.mean(distances) < 1


@pytest.mark.parametrize("name", PHOTOS)
def test_small_pictures_are_as_imagehash_has_them(name):
    small = photograph(name).convert("L").resize((100, 90))
    assert phash(np.asarray(small)) == str(imagehash.phash(small))


@pytest.mark.parametrize("name", PHOTOS)
def test_near_after_encoding_and_scaling(name):
    picture = pixels(name)
    first = phash(picture)
    for quality in (95, 60, 30):
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert differing(first, phash(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))) <= 4
    for factor in (0.33, 0.5, 1.5):
        assert differing(first, phash(resized(picture, factor))) <= 6
    assert differing(first, phash(cv2.convertScaleAbs(picture, alpha=0.8, beta=10))) <= 6


@pytest.mark.parametrize("name", [name for name in PHOTOS if name != "brick.png"])  # courses of bricks: all alike
def test_near_after_a_slight_crop(name):
    assert differing(phash(pixels(name)), phash(cropped(pixels(name), 0.02))) <= 10


def test_other_photographs_are_far():
    hashes = {name: phash(pixels(name)) for name in PHOTOS}
    pairs = [(a, b) for a, b in itertools.combinations(PHOTOS, 2) if {a, b} != SAME_SCENE]
    distances = [differing(hashes[a], hashes[b]) for a, b in pairs]
    assert min(distances) >= 18
    assert 28 < np.mean(distances) < 36
    assert differing(*(hashes[name] for name in SAME_SCENE)) <= 12  # two cameras side by side


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (2, 3, 3), (1, 65500), (65500, 1, 3), (31, 33), (64, 64)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_plain_pictures_of_any_shape_are_one_hash(shape, value):
    assert phash(np.full(shape, value, np.uint8)) == ("8000000000000000" if value else "0000000000000000")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(0, 99))
def test_sixteen_digits_that_do_not_depend_on_memory_layout(height, width, colour, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, *([3] if colour else [])), np.uint8)
    text = phash(noise)
    assert len(text) == 16
    assert int(text, 16) >= 0
    assert phash(np.asfortranarray(noise)) == text
