"""What other decoders make of a file: the witnesses by whom the gallery is checked, and its originals shown.

`views(body)` gives one picture for each of Pillow (with pillow-heif and LittleCMS) and libvips that can read it: upright,
in sRGB, on white, grey or RGB. Nothing of img2dataset_dist takes part.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings

import numpy as np
import pillow_heif
import pyvips
from PIL import Image, ImageCms, ImageFile, ImageOps

MOST = 20_000_000
"""Pixels; what says it has more is not looked at."""


@functools.lru_cache(maxsize=1000)
def views(body: bytes) -> tuple[np.ndarray, ...]:
    """(h, w) or (h, w, 3) uint8, one for each decoder that can; none when nobody can."""
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # a line for each thing that is odd, of which there are many
    found = []
    for decoder in (by_pillow, by_vips):
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            found.append(decoder(body))
    return tuple(found)


def glimpse(body: bytes) -> tuple[np.ndarray, ...]:
    """What can be seen of a file that is cut off: one picture at most."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return (by_pillow(body),)
    except Exception:  # noqa: BLE001 (Pillow raises whatever its plug-ins raise)
        return ()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def by_pillow(body: bytes) -> np.ndarray:
    pillow_heif.register_heif_opener()
    image: Image.Image = Image.open(io.BytesIO(body))
    if image.width * image.height > MOST:
        raise ValueError("too large")
    image.load()
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return (np.asarray(image).astype(int) >> 8).astype(np.uint8)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            image = _to_srgb(image, profile)
    if image.mode == "RGBA":
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    opacity = image.getchannel("A") if image.mode == "RGBA" else None
    opaque = image.convert("RGB") if opacity else image
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    done = ImageCms.profileToProfile(opaque, source, target, renderingIntent=0, outputMode="RGB")
    assert done is not None
    if opacity:
        done.putalpha(opacity)
    return done


def by_vips(body: bytes) -> np.ndarray:
    image = pyvips.Image.new_from_buffer(body, "", fail_on="error")
    if image.width * image.height > MOST:
        raise ValueError("too large")
    image = image.autorot()
    if image.interpretation in ("grey16", "rgb16"):
        image = (image >> 8).cast("uchar").copy(interpretation="b-w" if image.bands < 3 else "srgb")
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True)
    if image.hasalpha():
        image = image.flatten(background=[255] * (image.bands - 1))
    if image.bands >= 3:
        image = image.colourspace("srgb")
    pixels: np.ndarray = image.cast("uchar").numpy()
    return pixels


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in that of 9 x 6 tiles where it is largest; pictures of the same size, grey or RGB."""
    assert one.shape[:2] == other.shape[:2]
    a, b = (array[..., None] if array.ndim == 2 else array for array in (one.astype(float), other.astype(float)))
    distance = np.abs(a - b).mean(axis=2)
    strips = np.array_split(distance, min(6, len(distance)))
    return max(float(tile.mean()) for strip in strips for tile in np.array_split(strip, min(9, strip.shape[1]), axis=1))
