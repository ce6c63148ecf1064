"""Encoders: what they write is the picture, in the options' format."""

from __future__ import annotations

import io
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image, features
from support.photos import COLOUR, photograph

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import EncodeError
from img2dataset_dist.kinds import sniff
from img2dataset_dist.transforms import encode as module
from img2dataset_dist.transforms.encode import encode

FORMATS = {"jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif"}
LOSSY = ("jpg", "webp", "avif")


def photo(name="astronaut.png", side=256) -> np.ndarray:
    picture = np.asarray(photograph(name).convert("RGB"))[..., ::-1].copy()
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def encoded(pixels: np.ndarray, encode_format="jpg", quality: int | None = None, **options) -> bytes:
    if encode_format == "avif" and not cv2.haveImageWriter(".avif"):
        pytest.skip("this OpenCV cannot write AVIF")
    quality = {"png": 6}.get(encode_format, 90) if quality is None else quality
    flat = {"url_list": "x.txt", "encode_format": encode_format, "encode_quality": quality, **options}
    return encode(pixels, JobConfig.from_flat(flat).image)


def decoded(data: bytes) -> np.ndarray:
    if sniff(data) == "avif" and not features.check("avif"):
        pytest.skip("this Pillow cannot read AVIF")
    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image)
    return pixels if image.mode == "L" else np.asarray(image.convert("RGB"))[..., ::-1]


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Root of the mean squared difference, in grey levels."""
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("encode_format", FORMATS)
def test_the_picture_comes_back(encode_format):
    pixels = photo()
    data = encoded(pixels, encode_format)
    assert isinstance(data, bytes)
    assert sniff(data) == FORMATS[encode_format]
    assert error(decoded(data), pixels) <= (0 if encode_format == "png" else 8)


@pytest.mark.parametrize("encode_format", FORMATS)
def test_grey_stays_grey(encode_format):
    pixels = photo()[..., 0].copy()
    back = decoded(encoded(pixels, encode_format))
    if encode_format == "webp":  # the format has no grey
        back = back[..., 0]
    assert back.shape == pixels.shape
    assert error(back, pixels) <= 4


@pytest.mark.parametrize("encode_format", LOSSY)
def test_quality_buys_likeness_with_bytes(encode_format):
    pixels = photo()
    files = [encoded(pixels, encode_format, quality) for quality in (0, 30, 60, 90, 100)]
    sizes = [len(data) for data in files]
    errors = [error(decoded(data), pixels) for data in files]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert sizes[0] * 5 < sizes[-1]


def test_avif_at_full_quality_is_lossless():
    assert error(decoded(encoded(photo(), "avif", 100)), photo()) == 0


def test_avif_is_smaller_than_jpeg_at_the_same_likeness():
    pixels = photo("chelsea.png")
    avif, jpeg = encoded(pixels, "avif", 80), encoded(pixels, "jpg", 90)
    assert len(avif) < 0.8 * len(jpeg)
    assert error(decoded(avif), pixels) < 1.2 * error(decoded(jpeg), pixels)


def test_avif_takes_milliseconds_and_no_threads():
    pixels = photo()
    encoded(pixels, "avif")
    before, began = threading.active_count(), time.process_time()
    for _ in range(3):
        encoded(pixels, "avif")
    assert (time.process_time() - began) / 3 < 0.1  # 5 ms on a quiet machine
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "progressive"), [({"jpg_progressive": True}, True), ({"jpg_optimize": True}, False), ({}, False)]
)
def test_jpeg_options_change_the_file_but_not_the_picture(options, progressive):
    pixels = photo()
    plain, data = encoded(pixels), encoded(pixels, **options)
    assert ("progressive" in Image.open(io.BytesIO(data)).info) == progressive
    np.testing.assert_array_equal(decoded(data), decoded(plain))
    assert len(data) < len(plain) if options else data == plain


@pytest.mark.parametrize("level", range(10))
def test_png_is_lossless_at_every_level(level):
    for pixels in (photo(), photo()[..., 1].copy(), photo(side=9), np.zeros((300, 2, 3), np.uint8)):
        np.testing.assert_array_equal(decoded(encoded(pixels, "png", level)), pixels)


def usual(pixels: np.ndarray) -> int:
    return len(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1])


def test_png_of_photographs_is_smaller_than_usual():
    sizes = [(len(encoded(photo(name), "png")), usual(photo(name))) for name in COLOUR]
    assert sum(ours for ours, _ in sizes) < 0.99 * sum(others for _, others in sizes)
    assert max(ours / others for ours, others in sizes) < 1.03


@pytest.mark.parametrize("name", ["camera.png", "page.png", "text.png"])
def test_png_of_what_repeats_is_as_small_as_usual(name):
    board = np.kron(np.indices((16, 16)).sum(axis=0) % 2 * 255, np.ones((16, 16))).astype(np.uint8)
    for pixels in (photo(name), board, np.full((256, 256, 3), 200, np.uint8)):
        assert len(encoded(pixels, "png")) <= usual(pixels)


@pytest.mark.parametrize("encode_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (2, 3, 3), (17, 1), (1, 300, 3)])
def test_any_shape(encode_format, shape):
    back = decoded(encoded(np.full(shape, 200, np.uint8), encode_format))
    assert back.shape[:2] == shape[:2]
    assert abs(int(back.max()) - 200) <= 4


@pytest.mark.parametrize("encode_format", FORMATS)
def test_the_longest_side_of_a_format(encode_format):
    longest = module._LONGEST[encode_format]
    data = encoded(np.zeros((1, longest), np.uint8), encode_format, 1)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (longest, 1)
    for shape in ((1, longest + 1), (longest + 1, 1)):
        with pytest.raises(EncodeError, match=f"a side is longer than {encode_format} allows"):
            encoded(np.zeros(shape, np.uint8), encode_format, 1)


@pytest.mark.parametrize("encode_format", FORMATS)
def test_a_failing_encoder(encode_format, monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(EncodeError, match=f"the {encode_format} encoder failed"):
        encoded(photo(), encode_format)

    def broken(*_):
        raise cv2.error("no memory at 0x1234")

    monkeypatch.setattr(cv2, "imencode", broken)
    with pytest.raises(EncodeError, match=f"^the {encode_format} encoder failed$"):
        encoded(photo(), encode_format)
