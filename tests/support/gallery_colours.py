"""The good ones of the gallery whose pixels need something more: turned, with profiles, in CMYK, of odd sizes."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import pyvips
from PIL import Image, ImageCms
from support.gallery import COARSE, FAST, LOSSY, Case, alpha, base, exif, good, grey, on_white, pillow, rgba, stored_for
from support.handmade import ADOBE_D50, PNG_RGB, SRGB_D50, icc_grey, icc_matrix, jpeg_without, png


@functools.cache
def cases() -> tuple[Case, ...]:
    return tuple(case for group in (orientations, profiles, cmyk, sizes) for case in group())


def orientations() -> Iterator[Case]:
    add = functools.partial(good, group="EXIF orientation", tolerance=LOSSY)
    for number in range(1, 9):
        image = stored_for(base(), number)
        body = pillow(image, "JPEG", quality=92, exif=exif(number))
        yield add(f"exif_jpeg_{number}", body=body, suffix="jpg", note="stored as a camera does that was held so")
    for kind, suffix, more in (
        ("PNG", "png", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("TIFF", "tif", {}),
        ("AVIF", "avif", {"quality": 90, "subsampling": "4:4:4", **FAST}),
        ("HEIF", "heic", {"quality": 92, "chroma": 444}),
    ):
        for number in (6, 8) if kind != "AVIF" else range(2, 9):
            body = pillow(stored_for(base(), number), kind, exif=exif(number), **more)
            yield add(f"exif_{suffix}_{number}", body=body, suffix=suffix, tolerance=COARSE)


SWAPPED = icc_matrix(SRGB_D50[:, ::-1], 2.2)
"""A profile for which red is blue. Whoever leaves it out shows blue for red."""


def profiles() -> Iterator[Case]:
    add = functools.partial(good, group="ICC profiles", tolerance=LOSSY, suffix="jpg")
    swapped = Image.merge("RGB", base().split()[::-1])
    for kind, suffix, more in (
        ("JPEG", "jpg", {"quality": 95, "subsampling": 0}),
        ("PNG", "png", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("TIFF", "tif", {}),
        ("AVIF", "avif", {"quality": 92, "subsampling": "4:4:4", **FAST}),
        ("HEIF", "heic", {"quality": 92, "chroma": 444}),
    ):
        body = pillow(swapped, kind, icc_profile=SWAPPED, **more)
        yield add(f"icc_swapped_{suffix}", body=body, suffix=suffix, tolerance=COARSE, note="profile: red is blue")
    best = {"quality": 95, "subsampling": 0}
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield add("icc_srgb", body=pillow(base(), "JPEG", icc_profile=srgb, **best), note="changes nothing")
    adobe = icc_matrix(ADOBE_D50, 563 / 256)
    wide = _converted(base(), srgb, adobe, "RGB")
    yield add("icc_adobe", body=pillow(wide, "JPEG", icc_profile=adobe, **best), note="Adobe RGB; dull if left out")
    wide16 = np.asarray(wide).astype(np.uint16) * 257
    body = png(wide16, 16, PNG_RGB, before=[(b"iCCP", _iccp(adobe))])
    yield add("icc_adobe_png16", body=body, suffix="png", note="Adobe RGB, 16 bit")
    body = pillow(swapped, "JPEG", icc_profile=SWAPPED + bytes(200_000), **best)
    yield add("icc_long", body=body, note="a profile in four segments")
    clear = rgba().copy()
    clear = Image.merge("RGBA", (*swapped.split(), alpha()))
    body = pillow(clear, "PNG", icc_profile=SWAPPED)
    yield add("icc_alpha", body=body, picture=on_white(rgba()), suffix="png", note="profile and alpha")
    few = swapped.quantize(256, dither=Image.Dither.NONE)
    body = pillow(few, "PNG", icc_profile=SWAPPED)
    picture = Image.merge("RGB", few.convert("RGB").split()[::-1])
    yield add("icc_palette", body=body, picture=picture, suffix="png", note="profile and palette")
    linear = (255 * (np.asarray(grey()) / 255) ** 2.2).round().astype(np.uint8)
    body = pillow(Image.fromarray(linear), "PNG", icc_profile=icc_grey(1.0))
    yield add("icc_grey", body=body, picture=grey(), suffix="png", note="linear grey; dark if left out")
    for name, profile in (("broken", b"not a profile" * 50), ("cut", srgb[:200]), ("of_grey", icc_grey(1.0))):
        body = pillow(base(), "JPEG", icc_profile=profile, **best)
        yield add(f"icc_{name}", body=body, note="a profile that does not fit is left out")


def _converted(image: Image.Image, source: bytes, target: bytes, mode: str, intent: int = 1) -> Image.Image:
    """By LittleCMS. Intent 0 is perceptual, which readers use, 1 relative colorimetric."""
    pair = (ImageCms.ImageCmsProfile(io.BytesIO(profile)) for profile in (source, target))
    result = ImageCms.profileToProfile(image, *pair, renderingIntent=intent, outputMode=mode)
    assert result is not None
    return result


def _iccp(profile: bytes) -> bytes:
    return b"name\0\0" + zlib.compress(profile)


def cmyk() -> Iterator[Case]:
    add = functools.partial(good, group="CMYK", suffix="jpg", tolerance=LOSSY)
    ink = base().convert("CMYK")  # by the plain formula: cyan is white without red, no black
    quality = {"quality": 95, "subsampling": 0}
    inverted = pillow(ink, "JPEG", **quality)
    yield add("cmyk_adobe", body=inverted, note="inverted, as Photoshop stores it")
    yield add("cmyk_unmarked", body=jpeg_without(inverted, 0xEE), note="inverted, without a marker that says so")
    samples = 255 - np.asarray(ink)
    body = imagecodecs.jpeg8_encode(samples, 95, colorspace="CMYK", outcolorspace="YCCK", subsampling="444")
    yield add("cmyk_ycck", body=body, note="inverted, and as YCC and black")
    black = _with_black(ink)
    yield add("cmyk_black", body=pillow(black, "JPEG", **quality), note="with real black")
    body = pillow(ink, "TIFF")
    yield add("cmyk_tiff", body=body, suffix="tif", note="not inverted in TIFF")
    press = bytes(pyvips.Image.profile_load("cmyk"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    printed = _converted(base(), srgb, press, "CMYK")
    picture = _converted(printed, press, srgb, "RGB", intent=0)
    body = pillow(printed, "JPEG", icc_profile=press, **quality)
    yield add("cmyk_profile", body=body, picture=picture, tolerance=COARSE, note="with a press profile")
    body = pillow(ink, "JPEG", icc_profile=b"nonsense" * 20, **quality)
    yield add("cmyk_broken_profile", body=body, note="a profile that does not fit is left out")


def _with_black(ink: Image.Image) -> Image.Image:
    """The same colours with as much black ink as possible: c = 1 - (1 - c') / (1 - k)."""
    cyan = np.asarray(ink).astype(np.float64)[..., :3] / 255
    key = cyan.min(axis=2, keepdims=True)
    rest = np.divide(cyan - key, 1 - key, out=np.zeros_like(cyan), where=key < 1)
    return Image.fromarray(np.rint(np.dstack([rest, key]) * 255).astype(np.uint8), "CMYK")


def sizes() -> Iterator[Case]:
    add = functools.partial(good, group="sizes", suffix="png")
    red = Image.new("RGB", (1, 1), (235, 20, 20))
    yield add("size_1x1", body=pillow(red, "PNG"), picture=red)
    body = pillow(red, "JPEG", quality=95, subsampling=0)
    yield add("size_1x1_jpeg", body=body, picture=red, suffix="jpg", tolerance=LOSSY)
    body = pillow(red.quantize(2), "GIF")
    yield add("size_1x1_gif", body=body, picture=red, suffix="gif", note="a tracking pixel")
    ramp = np.zeros((5000, 1, 3), np.uint8)
    ramp[:, 0, 0] = np.linspace(0, 255, 5000)
    for width, height in ((1, 5000), (5000, 1)):
        picture = Image.fromarray(ramp if width == 1 else ramp.swapaxes(0, 1))
        yield add(f"size_{width}x{height}", body=pillow(picture, "PNG"), picture=picture)
        body = pillow(picture, "JPEG", quality=95, subsampling=0)
        yield add(f"size_{width}x{height}_jpeg", body=body, picture=picture, suffix="jpg", tolerance=LOSSY)
