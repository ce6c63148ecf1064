"""ICC profiles: what they do to the pixels, and when they do nothing."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image, ImageCms
from support.photos import photograph

from img2dataset_dist.config import JobConfig
from img2dataset_dist.decoders import colour
from img2dataset_dist.decoders.decode import decode
from img2dataset_dist.media import read_header
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.image import ImageTransform

PHOTO = photograph("coffee.png").resize((96, 64), Image.Resampling.LANCZOS)
COLOUR = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
P3, CMYK, SRGB_OF_VIPS = (bytes(pyvips.Operation.call("profile_load", name)) for name in ("p3", "cmyk", "srgb"))
SRGB = ImageCms.createProfile("sRGB")
SRGB_OF_PILLOW = ImageCms.ImageCmsProfile(SRGB).tobytes()


def grey_profile(gamma: float) -> bytes:
    """A grey profile with nothing but a gamma (ICC.1, 8.3.4)."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78)
    tags = [(b"desc", text), (b"wtpt", white), (b"kTRC", curve)]
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags:
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + table + data


def work(**options) -> ImageTransform:
    options = {"resize_mode": "no", "encode_format": "png", "encode_quality": 1, **options}
    return ImageTransform(JobConfig.from_flat({"url_list": "x.txt", **options}))


def sample(body: bytes) -> Sample:
    return Sample(item=Item(shard_id=0, index=0, key="00000", url="http://x/"), body=body)


def stored(body: bytes, **options) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(work(**options)(sample(body)).data)))


def file(image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def heic(profile: bytes | None) -> bytes:
    out, holder = io.BytesIO(), PHOTO.copy()
    if profile:
        holder.info["icc_profile"] = profile
    pillow_heif.from_pillow(holder).save(out, quality=-1, chroma=444)
    return out.getvalue()


def converted(body: bytes) -> np.ndarray:
    """As Pillow and littlecms do it, to the whole picture."""
    image = Image.open(io.BytesIO(body))
    source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return np.asarray(ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB"))


KINDS = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {},
    "AVIF": {"quality": 90},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_gamut_becomes_srgb(kind):
    body = file(PHOTO, kind, icc_profile=P3, **KINDS[kind])
    done = stored(body).astype(int)
    assert np.abs(done - converted(body)).max() <= 1
    unconverted = stored(file(PHOTO, kind, **KINDS[kind])).astype(int)
    assert np.abs(done - unconverted).max() > 10


def test_by_another_program():
    body = file(PHOTO, icc_profile=P3)
    by_vips = pyvips.Image.new_from_buffer(body, "").icc_transform("srgb", intent="relative").numpy()
    assert np.abs(stored(body).astype(int) - by_vips).mean() < 1


def test_heic():
    holder = Image.fromarray(stored(heic(None)))
    expected = converted(file(holder, icc_profile=P3)).astype(int)
    assert np.abs(stored(heic(P3)) - expected).mean() < 2


@pytest.mark.parametrize("profile", [SRGB_OF_VIPS, SRGB_OF_PILLOW])
@pytest.mark.parametrize("kind", KINDS)
def test_srgb_by_any_name_changes_nothing(kind, profile):
    body = file(PHOTO, kind, icc_profile=profile, **KINDS[kind])
    assert np.array_equal(stored(body), stored(file(PHOTO, kind, **KINDS[kind])))


def test_no_profile_is_left_in_the_file():
    for encode_format in ("jpg", "png", "webp"):
        quality = 9 if encode_format == "png" else 90
        done = work(encode_format=encode_format, encode_quality=quality)(sample(file(PHOTO, icc_profile=P3)))
        assert "icc_profile" not in Image.open(io.BytesIO(done.data)).info


def test_transparent_pixels_are_converted_before_they_are_blended():
    rgba = np.dstack([COLOUR, np.full(GREY.shape, 128, np.uint8)])
    expected = np.rint(converted(file(PHOTO, icc_profile=P3)) * (128 / 255) + 255 * (127 / 255))
    assert np.abs(stored(file(rgba, icc_profile=P3)) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_grey_profiles(kind):
    options = {"quality": 95} if kind == "JPEG" else {}
    linear = file(GREY, kind, icc_profile=grey_profile(1.0), **options)
    done = stored(linear)
    assert done.ndim == 2
    values = np.asarray(Image.open(io.BytesIO(linear))) / 255  # IEC 61966-2-1
    expected = 255 * np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    assert np.abs(done - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_ink_by_its_profile(kind):
    """The profile of this printing press has 961 kB: fifteen segments of a JPEG."""
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(one)) for one in (SRGB_OF_PILLOW, CMYK))
    ink = ImageCms.profileToProfile(PHOTO, source, target, outputMode="CMYK")
    body = file(ink, kind, icc_profile=CMYK, **({"quality": 95} if kind == "JPEG" else {}))
    done = stored(body).astype(int)
    assert np.abs(done - converted(body)).mean() < 1
    ink.info.clear()
    without = np.abs(stored(file(ink, kind)).astype(int) - COLOUR).mean()
    assert np.abs(done - COLOUR).mean() < 10 < without


def chunks_swapped(body: bytes) -> bytes:
    """A JPEG whose first two ICC segments have changed places."""
    first = body.index(b"\xff\xe2")
    second = first + 2 + int.from_bytes(body[first + 2 : first + 4], "big")
    third = second + 2 + int.from_bytes(body[second + 2 : second + 4], "big")
    return body[:first] + body[second:third] + body[first:second] + body[third:]


def test_segments_in_any_order():
    body = file(PHOTO.convert("CMYK"), "JPEG", icc_profile=CMYK)
    assert read_header(body).profile == CMYK == read_header(chunks_swapped(body)).profile
    cut = body.index(b"\xff\xe2")
    end = cut + 2 + int.from_bytes(body[cut + 2 : cut + 4], "big")
    assert read_header(body[:cut] + body[end:]).profile is None


@pytest.mark.parametrize(
    "profile",
    [b"rubbish", P3[:200], P3[:128] + bytes(len(P3) - 128), CMYK, grey_profile(1.0), bytes(5_000_000), b"x" * 300],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_broken_and_foreign_profiles_are_ignored(kind, profile):
    assert np.array_equal(stored(file(PHOTO, kind, icc_profile=profile, **KINDS[kind])), COLOUR)


def test_a_profile_that_inflates_to_many_times_its_size():
    packed = zlib.compress(bytes(40_000_000))
    data = b"icc\0\0" + packed
    chunk = struct.pack(">I", len(data)) + b"iCCP" + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
    body = file(PHOTO)
    body = body[:33] + chunk + body[33:]
    began = time.process_time()
    assert np.array_equal(stored(body), COLOUR)
    assert time.process_time() - began < 1


def test_a_converted_picture_is_stored_anew():
    options = {"encode_format": "jpg", "encode_quality": 95, "skip_reencode": True}
    for profile, kept in ((P3, False), (SRGB_OF_VIPS, True), (b"rubbish", True)):
        body = file(PHOTO, "JPEG", icc_profile=profile)
        assert (work(**options)(sample(body)).data == body) == kept


def test_converting_after_resizing_is_about_the_same():
    body = file(photograph("astronaut.png"), icc_profile=P3)
    options = {"resize_mode": "keep_ratio_largest", "image_size": 128}
    fast, exact = (stored(body, decode=how, **options).astype(int) for how in ("fast", "exact"))
    plain = stored(file(photograph("astronaut.png")), decode="exact", **options)
    assert np.abs(fast - exact).mean() < 1 < np.abs(plain - exact).mean()


def test_of_a_known_profile_nothing_is_computed_again(monkeypatch):
    body = file(PHOTO, "JPEG", icc_profile=SRGB_OF_VIPS)
    header = read_header(body)
    assert decode(body, header).plain
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *_: pytest.fail("computed again"))
    assert decode(body, header).to_srgb is None


def test_what_is_remembered_is_bounded():
    assert colour._conversion.cache_info().maxsize <= 16
    assert colour.conversion(bytes(colour.MOST_BYTES + 1), "RGB") is None
