"""The picture path as a whole: sizes, pixels, filters, formats. Expected values are computed without OpenCV."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage.metrics import structural_similarity
from support.photos import photograph

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import (
    AreaTooLarge,
    AspectTooLarge,
    DecodeError,
    EncodeError,
    ImageTooSmall,
    NotMedia,
    RowError,
    TooManyPixels,
)
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms import image as image_module
from img2dataset_dist.transforms.image import ImageTransform

RNG = np.random.default_rng(7)
SMALL = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
PHOTO = photograph("coffee.png")


def transform(**options) -> ImageTransform:
    return ImageTransform(JobConfig.from_flat({"url_list": "x.txt", **options}))


def lossless(**options) -> ImageTransform:
    return transform(encode_format="png", encode_quality=1, **options)


def sample(body: bytes, **columns) -> Sample:
    return Sample(item=Item(shard_id=0, index=0, key="00000", url="http://x/", columns=columns), body=body)


def file(image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def png(width, height, depth, colour, raw, *chunks) -> bytes:
    """A PNG written by hand, for what no library writes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(chunk(*one) for one in chunks) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


# --- sizes -----------------------------------------------------------------------------------------------------------

PEER_SIZES = [  # width, height, mode, only_if_bigger, what img2dataset 1.47 makes of it with image_size=64
    (1, 1, "border", False, (64, 64)),
    (1, 1, "border", True, (1, 1)),
    (77, 1001, "border", False, (64, 64)),
    (77, 1001, "keep_ratio", False, (64, 832)),
    (77, 1001, "keep_ratio_largest", False, (5, 64)),
    (77, 1001, "center_crop", False, (64, 64)),
    (3, 1000, "keep_ratio", False, (64, 21333)),
    (3, 1000, "keep_ratio", True, (3, 1000)),
    (3, 1000, "keep_ratio_largest", False, (1, 64)),
    (640, 481, "keep_ratio", False, (85, 64)),
    (640, 481, "keep_ratio_largest", True, (64, 48)),
    (300, 255, "keep_ratio_largest", False, (64, 54)),
    (255, 333, "no", False, (255, 333)),
]


@pytest.mark.parametrize(("width", "height", "mode", "only", "expected"), PEER_SIZES)
def test_sizes_are_those_of_the_peer(width, height, mode, only, expected):
    body = file(np.full((height, width, 3), 90, np.uint8))
    done = lossless(resize_mode=mode, image_size=64, resize_only_if_bigger=only)(sample(body))
    assert (done.width, done.height) == expected
    assert (done.original_width, done.original_height) == (width, height)
    assert pixels(done.data).shape[1::-1] == expected


def expected_size(width, height, size, mode, only):
    """The documented formula, written down once more."""
    smaller = {"keep_ratio": True, "center_crop": True, "border": False, "keep_ratio_largest": False}
    if mode == "no":
        return width, height
    reference = sorted((width, height))[0 if smaller[mode] else 1]
    if only and reference <= size:
        return width, height
    if mode in ("border", "center_crop"):
        return size, size
    return tuple(max(1, round(side * (size / reference))) for side in (width, height))


@settings(deadline=None, max_examples=60)
@given(
    wide_high=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.integers(1, 100),
    mode=st.sampled_from(["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]),
    only=st.booleans(),
    kind=st.sampled_from(["PNG", "JPEG"]),
)
def test_any_size(wide_high, size, mode, only, kind):
    width, height = wide_high
    body = file(np.full((height, width, 3), 200, np.uint8), kind)
    done = lossless(resize_mode=mode, image_size=size, resize_only_if_bigger=only)(sample(body))
    assert (done.width, done.height) == expected_size(width, height, size, mode, only)
    assert pixels(done.data).shape[1::-1] == (done.width, done.height)


def test_border_puts_the_odd_row_at_the_bottom():
    done = lossless(image_size=40)(sample(file(np.zeros((37, 40, 3), np.uint8))))
    rows = pixels(done.data).mean(axis=(1, 2))
    assert list(rows) == [255] + [0] * 37 + [255] * 2


def test_center_crop_takes_the_middle_and_rounds_to_the_left():
    picture = np.zeros((8, 13, 3), np.uint8)
    picture[:, :, 0] = np.arange(13)
    done = lossless(image_size=8, resize_mode="center_crop")(sample(file(picture)))
    assert list(pixels(done.data)[0, :, 0]) == list(range(2, 10))


def test_a_grey_border_is_white():
    done = lossless(image_size=8)(sample(file(np.zeros((4, 8), np.uint8))))
    assert pixels(done.data)[0].tolist() == [255] * 8


# --- pixels ----------------------------------------------------------------------------------------------------------


def box_filter(picture: np.ndarray, factor: int) -> np.ndarray:
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    cut = picture[: height * factor, : width * factor].astype(float)
    return cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))


@pytest.mark.parametrize("factor", [2, 4])
def test_area_is_the_mean_of_the_covered_pixels(factor):
    picture = np.asarray(PHOTO)[:400, :600]
    done = lossless(image_size=600 // factor, resize_mode="keep_ratio_largest")(sample(file(picture)))
    assert np.abs(pixels(done.data) - box_filter(picture, factor)).max() <= 1


def test_area_at_an_odd_factor():
    picture = np.asarray(PHOTO)[:300, :450]
    done = lossless(image_size=180, resize_mode="keep_ratio_largest", decode="exact")(
        sample(file(picture))
    )  # factor 2.5
    twice = picture.repeat(2, axis=0).repeat(2, axis=1)
    assert np.abs(pixels(done.data) - box_filter(twice, 5)).max() <= 1


@pytest.mark.parametrize("width", [600, 599, 411])
def test_colour_and_grey_are_resized_alike(width):
    """Colour takes another path within, which must not show."""
    grey = np.asarray(photograph("camera.png"))[:, :width][:400]
    work = lossless(image_size=200, resize_mode="keep_ratio_largest")
    colour = pixels(work(sample(file(np.dstack([grey] * 3)))).data)
    assert (colour == pixels(work(sample(file(grey))).data)[..., np.newaxis]).all()


def test_small_decode_of_a_jpeg_looks_like_the_full_one(monkeypatch):
    body = file(PHOTO.resize((1800, 1200), Image.BICUBIC), "JPEG", quality=90)
    work = lossless()
    fast = pixels(work(sample(body)).data).astype(int)
    monkeypatch.setattr(image_module, "sufficient", lambda _: (0, 0))
    full = pixels(work(sample(body)).data).astype(int)
    assert fast.shape == full.shape
    assert 0 < np.abs(fast - full).mean() < 1.5


@pytest.mark.parametrize("options", [{"downscale_interpolation": "cubic"}, {"resize_mode": "no"}])
def test_small_decode_only_for_the_area_filter(options, monkeypatch):
    body = file(PHOTO.resize((1800, 1200)), "JPEG")
    calls = []

    def spy(body, header, at_least, **_):
        calls.append(at_least)
        raise DecodeError("enough")

    monkeypatch.setattr(image_module, "decode", spy)
    for more in ({}, options):
        with pytest.raises(DecodeError):
            transform(**more)(sample(body))
    assert calls == [(512, 2 * round(256 / 1800 * 1200)), (0, 0)]


NAMES = ["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]


@pytest.mark.parametrize("name", NAMES)
def test_all_interpolations_keep_a_flat_colour(name):
    body = file(np.full((50, 60, 3), 77, np.uint8))
    for size in (20, 100):
        work = lossless(
            image_size=size, resize_mode="keep_ratio", upscale_interpolation=name, downscale_interpolation=name
        )
        assert (pixels(work(sample(body)).data) == 77).all()


def test_enlarging_uses_the_other_filter():
    body = file(np.asarray([[0, 255]], np.uint8))
    work = lossless(image_size=4, resize_mode="keep_ratio_largest", upscale_interpolation="nearest")
    assert pixels(work(sample(body)).data).tolist() == [[0, 0, 255, 255]] * 2


# --- kinds of pixels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_goes_onto_white(kind):
    rgba = RNG.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    done = lossless(resize_mode="no")(sample(file(rgba, kind, **options)))
    assert (pixels(done.data) == on_white(rgba)).all()


def test_grey_with_alpha_goes_onto_white():
    grey_alpha = RNG.integers(0, 256, (30, 40, 2), dtype=np.uint8)
    done = lossless(resize_mode="no")(sample(file(Image.fromarray(grey_alpha, "LA"))))
    assert (pixels(done.data) == on_white(grey_alpha[..., [0, 0, 0, 1]])).all()


def test_palette_with_and_without_transparency():
    palette = Image.fromarray(SMALL).quantize(16)
    plain = lossless(resize_mode="no")(sample(file(palette)))
    assert (pixels(plain.data) == np.asarray(palette.convert("RGB"))).all()
    seen = lossless(resize_mode="no")(sample(file(palette, transparency=bytes(range(0, 256, 16)))))
    alphas = np.arange(0, 256, 16, dtype=np.uint8)[np.asarray(palette)]
    assert (pixels(seen.data) == on_white(np.dstack([np.asarray(palette.convert("RGB")), alphas]))).all()


TRANSPARENT = [
    (png(4, 1, 2, 0, b"\0\x1b", (b"tRNS", b"\0\1")), [0, 255, 170, 255]),
    (png(4, 1, 4, 0, b"\0\x0f\x37", (b"tRNS", b"\0\3")), [0, 255, 255, 119]),
    (png(4, 1, 1, 0, b"\0\x50", (b"tRNS", b"\0\0")), [255, 255, 255, 255]),
    (png(2, 1, 8, 0, b"\0\x07\x08", (b"tRNS", b"\0\x07")), [255, 8]),
    (png(2, 1, 16, 0, b"\0\x12\x34\x12\x35", (b"tRNS", b"\x12\x34")), [255, 0x12]),
    (png(2, 1, 8, 2, b"\0\1\1\1\2\2\2", (b"tRNS", b"\0\1\0\1\0\1")), [255, 2]),
]


@pytest.mark.parametrize(("body", "greys"), TRANSPARENT)
def test_transparent_colour_of_a_png(body, greys):
    done = lossless(resize_mode="no")(sample(body))
    assert pixels(done.data).tolist() == [[[grey] * 3 for grey in greys]]


def test_sixteen_bits_keep_their_tones():
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(8, 128)
    done = pixels(lossless(resize_mode="no")(sample(file(Image.fromarray(ramp)))).data)
    assert np.abs(done - ramp / 257).max() <= 1
    colour = png(128, 8, 16, 2, b"".join(b"\0" + np.dstack([row] * 3).astype(">u2").tobytes() for row in ramp))
    done = pixels(lossless(resize_mode="no")(sample(colour)).data)
    assert done.shape == (8, 128, 3)
    assert np.abs(done - ramp[..., np.newaxis] / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_stays_grey(kind):
    done = transform()(sample(file(photograph("camera.png"), kind)))
    assert Image.open(io.BytesIO(done.data)).mode == "L"


def test_cmyk_jpeg():
    cmyk = PHOTO.convert("CMYK")
    body = file(cmyk, "JPEG", quality=95)
    done = pixels(lossless(resize_mode="no")(sample(body)).data).astype(int)
    assert np.abs(done - np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))).mean() < 1
    assert np.abs(done - np.asarray(PHOTO)).mean() < 6


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue", "lime")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        body = file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        done = pixels(lossless(resize_mode="no")(sample(body)).data)
        assert (done == [255, 0, 0]).all(), kind


def test_floating_point_is_refused():
    with pytest.raises(DecodeError, match="float"):
        transform()(sample(file(Image.new("F", (9, 9)), "TIFF")))


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = file(PHOTO.resize((60, 40)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    done = lossless(resize_mode="no")(sample(body))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")).astype(int)
    assert (done.original_width, done.original_height) == expected.shape[1::-1] == (done.width, done.height)
    assert np.abs(pixels(done.data) - expected).mean() < 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_with_a_small_decode(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = file(PHOTO.resize((1800, 1200)), "JPEG", exif=exif)
    done = lossless(resize_mode="keep_ratio_largest")(sample(body))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    expected = np.asarray(upright.resize((done.width, done.height), Image.BOX)).astype(int)
    assert np.abs(pixels(done.data) - expected).mean() < 4


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_nonsense_orientation_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    done = transform(resize_mode="no")(sample(file(SMALL, "JPEG", exif=exif)))
    assert (done.width, done.height) == (40, 30)


# --- filters and bombs -----------------------------------------------------------------------------------------------


def huge(width=60000, height=60000):
    return png(width, height, 8, 2, b"\0")


REFUSED = [
    (huge(), {}, TooManyPixels, None),
    (huge(), {"max_image_area": 1e6}, AreaTooLarge, "image area too large"),
    (huge(100, 10), {"min_image_size": 11}, ImageTooSmall, "image too small"),
    (huge(100, 10), {"max_aspect_ratio": 9.99}, AspectTooLarge, "aspect ratio too large"),
    (b"GIF89a" + struct.pack("<HH", 60000, 60000) + file(SMALL, "GIF")[10:], {}, TooManyPixels, None),
    (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x00" * 2, {}, TooManyPixels, None),
    (b"P6 60000 60000 255\n", {}, TooManyPixels, None),
]


@pytest.mark.parametrize(("body", "options", "error", "message"), REFUSED)
def test_refused_by_the_header_before_decoding(body, options, error, message, monkeypatch):
    monkeypatch.setattr(image_module, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(error) as caught:
        transform(**options)(sample(body))
    if message is not None:
        assert str(caught.value) == message


def test_limits_are_inclusive():
    work = lossless(min_image_size=10, max_image_area=200, max_aspect_ratio=2, max_decode_pixels=200, image_size=10)
    assert work(sample(file(np.zeros((10, 20), np.uint8)))).width == 10


def test_a_resize_may_not_explode_either():
    body = file(np.zeros((1000, 3), np.uint8))
    with pytest.raises(TooManyPixels):
        transform(resize_mode="keep_ratio", image_size=2000)(sample(body))
    with pytest.raises(TooManyPixels):
        transform(image_size=20000)(sample(body))


@pytest.mark.parametrize("encode_format", ["jpg", "webp"])
def test_wider_than_the_format_allows(encode_format):
    body = file(np.zeros((3, 1000), np.uint8))
    with pytest.raises(EncodeError):
        transform(resize_mode="keep_ratio", encode_format=encode_format)(sample(body))  # 85333 x 256


def test_pillows_own_limits_do_not_show(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("PNG", "WEBP", "GIF", "BMP"):
            body = file(SMALL, kind)
            try:
                assert transform()(sample(body)).width == 256
            except TooManyPixels:
                assert kind in ("GIF", "WEBP")  # these two check by themselves


# --- what is no picture ----------------------------------------------------------------------------------------------

NO_IMAGE = [
    (b"", "empty"),
    (b"  \n<!DOCTYPE html><html>", "html"),
    (b"\xef\xbb\xbf<HTML>", "html"),
    (b"404 not found", "text"),
    (b'{"error": 404}', "json"),
    (b"%PDF-1.4", "pdf"),
    (b"\x00\x00\x00\x18ftypmp42", "mp4"),
    (bytes(range(256)), "unknown"),
]


@pytest.mark.parametrize(("body", "kind"), NO_IMAGE)
def test_not_media(body, kind):
    with pytest.raises(NotMedia) as caught:
        transform()(sample(body))
    assert str(caught.value) == f"not an image: {kind}"


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "lossless"])
def test_a_part_of_a_file_never_succeeds(kind):
    options = {"progressive": {"progressive": True}, "lossless": {"lossless": True}}.get(kind, {})
    body = file(SMALL, {"progressive": "JPEG", "lossless": "WEBP"}.get(kind, kind), **options)
    work = transform(image_size=8)
    assert work(sample(body)).data
    messages = set()
    for cut in [*range(0, len(body), 7), *range(len(body) - 12, len(body))]:
        with pytest.raises(RowError) as caught:
            work(sample(body[:cut]))
        messages.add(str(caught.value))
    assert len(messages) < 8  # they are counted, so they hold no offsets


def test_a_cut_jpeg_with_a_repaired_end_is_no_picture():
    body = file(PHOTO, "JPEG")
    with pytest.raises(DecodeError, match="truncated jpeg"):
        transform()(sample(body[: len(body) // 2] + b"\xff\xd9"))


def test_harmless_bytes_before_and_after_the_end_of_a_jpeg():
    body = file(PHOTO, "JPEG")
    good = transform()(sample(body)).data
    assert transform()(sample(body[:-2] + b"abc" + body[-2:])).data == good
    assert transform()(sample(body + b"<html>")).data == good


@settings(deadline=None, max_examples=150)
@given(
    start=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"II*\0",
            b"RIFF\x40\0\0\0WEBPVP8 ",
            b"P6 9 9 255\n",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_noise_only_raises_row_errors(start, rest):
    with contextlib.suppress(RowError):
        transform(image_size=8)(sample(start + rest))


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"]),
    at=st.integers(0, 10**6),
    value=st.binary(min_size=1, max_size=4),
)
def test_damaged_files_only_raise_row_errors(kind, at, value):
    if f".{kind.lower()}" == ".avif" and "AVIF" not in Image.SAVE:
        return
    body = bytearray(file(SMALL, kind))
    at %= len(body)
    body[at : at + len(value)] = value
    with contextlib.suppress(RowError):
        transform(image_size=8)(sample(bytes(body)))


@pytest.mark.parametrize("error", [MemoryError(), ValueError("at 0x7f12"), RecursionError(), OSError("123")])
def test_whatever_a_decoder_raises_is_a_decode_error(error, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr("img2dataset_dist.decoders.png.load", broken)
    with pytest.raises(DecodeError) as caught:
        transform()(sample(file(SMALL)))
    assert not any(character.isdigit() for character in str(caught.value))


# --- encoding --------------------------------------------------------------------------------------------------------


def test_jpeg_quality_and_subsampling():
    work = transform(encode_quality=95, resize_mode="no")
    image = Image.open(io.BytesIO(work(sample(file(PHOTO))).data))
    reference = Image.open(io.BytesIO(file(PHOTO, "JPEG", quality=95, subsampling="4:2:0")))
    assert image.quantization == reference.quantization
    assert [layer[1:3] for layer in image.layer] == [layer[1:3] for layer in reference.layer]
    assert np.abs(np.asarray(image).astype(int) - np.asarray(PHOTO)).mean() < 3


def test_quality_matters():
    sizes = {
        quality: len(transform(encode_format="webp", encode_quality=quality)(sample(file(PHOTO))).data)
        for quality in (10, 50, 90)
    }
    assert sizes[10] < sizes[50] < sizes[90]
    fast, small = (transform(encode_format="png", encode_quality=level)(sample(file(PHOTO))).data for level in (0, 9))
    assert len(small) < len(fast)
    assert (pixels(fast) == pixels(small)).all()


def test_a_failing_encoder(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(EncodeError):
        transform()(sample(file(SMALL)))


# --- skip_reencode ---------------------------------------------------------------------------------------------------


def kept(body: bytes, encode_format="jpg", boxes=None, **options) -> bool:
    options = {"resize_mode": "no", "encode_quality": 9, **options}
    work = transform(skip_reencode=True, encode_format=encode_format, input_format="csv", bbox_col="boxes", **options)
    done = work(sample(body, boxes=boxes))
    assert (done.width, done.height) == Image.open(io.BytesIO(done.data)).size
    return done.data == body


def test_untouched_pictures_keep_their_bytes():
    jpeg = file(SMALL, "JPEG")
    assert kept(jpeg)
    assert kept(jpeg + b"trailing")
    assert kept(file(SMALL), "png")
    assert kept(file(SMALL, "WEBP"), "webp")
    assert kept(jpeg, resize_mode="border", image_size=50, resize_only_if_bigger=True)
    assert kept(jpeg, resize_mode="keep_ratio_largest", image_size=40)
    assert kept(jpeg, boxes=[])


def test_changed_pictures_do_not():
    jpeg = file(SMALL, "JPEG")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    assert not kept(jpeg, "png")
    assert not kept(jpeg, resize_mode="keep_ratio", image_size=20)
    assert not kept(jpeg, resize_mode="border", image_size=40)  # only padded
    assert not kept(jpeg, resize_mode="center_crop", image_size=30)  # only cropped
    assert not kept(jpeg, boxes=[[0.2, 0.2, 0.8, 0.8]])
    assert not kept(file(SMALL, "JPEG", exif=sideways))
    assert not kept(file(Image.fromarray(SMALL).convert("CMYK"), "JPEG"))
    assert not kept(file(Image.fromarray(SMALL).convert("RGBA")), "png")
    assert not kept(file(Image.fromarray(np.zeros((9, 9), np.uint16))), "png")
    assert not kept(TRANSPARENT[3][0], "png")


# --- threads ---------------------------------------------------------------------------------------------------------


def test_threads_share_a_transform():
    samples = [sample(file(PHOTO, kind)) for kind in ("JPEG", "PNG", "WEBP")] * 4
    work = transform()
    alone = [work(one).data for one in samples]
    with ThreadPoolExecutor(4) as pool:
        assert [done.data for done in pool.map(work, samples)] == alone


@pytest.mark.parametrize(
    ("size", "to"), [((450, 300), 180), ((900, 700), 256), ((1000, 640), 211), ((1600, 1100), 256)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_fast_is_close_to_exact(kind, size, to):
    """The two differ, by less than saving as JPEG would change; exact is the area filter on every pixel."""
    body = file(PHOTO.resize(size, Image.Resampling.LANCZOS), kind)
    options = {"image_size": to, "resize_mode": "keep_ratio_largest"}
    fast = pixels(lossless(**options)(sample(body)).data)
    exact = pixels(lossless(decode="exact", **options)(sample(body)).data)
    whole = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    area = cv2.resize(whole, exact.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(exact.astype(int) - area).max() <= 1
    assert structural_similarity(fast, exact, channel_axis=2) > (0.98 if kind == "JPEG" else 0.99)
    assert not np.array_equal(fast, exact)
