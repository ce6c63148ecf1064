"""One picture in every format and with every defect, each with what has to come of it.

for case in cases(): case.body, case.codes, case.size, case.picture, case.note

The picture is a photograph with a red corner top left, a green one top right and a blue one bottom left, so that turned,
mirrored, cropped and swapped channels show. What a success has to look like is the picture that went *into* the file,
never what some decoder makes of it, so all decoders may be wrong together and it would still be seen.

gallery_images.py and gallery_colours.py have the good ones, gallery_defects.py the others. They make their files when they are asked to, with
Pillow, pillow-heif, imagecodecs, tifffile and OpenCV, and by hand (handmade.py) what none of them writes.

Left out, since nothing here makes them: BMPs with a JPEG or PNG inside, 12-bit AVIF and HEIC, JPEG 2000 with parts of
the second part of its standard, and TIFFs in old-style JPEG (compression 6). `arithmetic.jpg` beside this file is from
`jpegtran -arithmetic`, as no Python package writes one.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image
from support.photos import photograph

WIDTH, HEIGHT = 288, 192
CORNER = 32

SUCCESS = "success"
LOSSLESS = 4.0
LOSSY = 10.0
COARSE = 14.0
"""Differences of a tile in levels of 255 that show nothing but compression; a wrong corner has 60 and more."""

FAST = {"speed": 9}
"""For AVIF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file.

    Attributes:
        name: unique; also its file name, before the suffix.
        group: a heading for people.
        body: the bytes that the server sends.
        codes: what may come of it: error codes, or success. Several where decoders may differ in good faith.
        size: width and height, upright, of a success; None for a failure.
        picture: what a success has to show, of that size: grey or RGB, on white. None where nobody can say.
        tolerance: mean difference that any tile of 32 pixels a side may have, in levels of 255.
        note: one line for people.
        suffix: of the URL.
        content_type: of the answer; None: what the suffix says.
        rescued: codes with `allow_truncated`, where they are others.
    """

    name: str
    group: str
    body: bytes
    codes: frozenset[str] = frozenset({SUCCESS})
    size: tuple[int, int] | None = None
    picture: Image.Image | None = None
    tolerance: float = LOSSLESS
    note: str = ""
    suffix: str = "bin"
    content_type: str | None = None
    rescued: frozenset[str] | None = None

    @property
    def file(self) -> str:
        return f"{self.name}.{self.suffix}"


def good(name: str, group: str, body: bytes, picture: Image.Image | None = None, **more: Any) -> Case:
    """A case that has to succeed and show `picture`, by default the base picture."""
    picture = base() if picture is None else picture
    more.setdefault("suffix", name.partition("_")[0])
    return Case(name=name, group=group, body=body, size=picture.size, picture=picture, **more)


def bad(name: str, group: str, body: bytes, codes: str | frozenset[str], **more: Any) -> Case:
    """A case that has to end with this code, or one of them."""
    more.setdefault("suffix", name.partition("_")[0])
    accepted = frozenset({codes}) if isinstance(codes, str) else codes
    return Case(name=name, group=group, body=body, codes=accepted, **more)


@functools.cache
def cases() -> tuple[Case, ...]:
    """All of them; names are unique."""
    from support import gallery_colours, gallery_defects, gallery_images  # noqa: PLC0415 (they use this module)

    found = (*gallery_images.cases(), *gallery_colours.cases(), *gallery_defects.cases())
    assert len({case.name for case in found}) == len(found)
    return found


# the picture


@functools.cache
def base() -> Image.Image:
    """The picture of most cases: RGB, 288 x 192."""
    image = photograph("astronaut.png").crop((60, 0, 510, 300)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    image.paste((235, 20, 20), (0, 0, CORNER, CORNER))
    image.paste((20, 200, 40), (WIDTH - CORNER, 0, WIDTH, CORNER))
    image.paste((30, 50, 230), (0, HEIGHT - CORNER, CORNER, HEIGHT))
    return image


@functools.cache
def grey() -> Image.Image:
    """The same in grey."""
    return base().convert("L")


@functools.cache
def deep() -> np.ndarray:
    """(h, w, 3) uint16 whose upper half is the base picture; the lower bits are not just zeros."""
    return np.asarray(base()).astype(np.uint16) * 257


@functools.cache
def alpha() -> Image.Image:
    """Transparency from left to right, with an opaque frame of 40 pixels, so that the corners stay."""
    ramp = np.broadcast_to(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, WIDTH)).copy()
    ramp[:40], ramp[-40:], ramp[:, :40], ramp[:, -40:] = 255, 255, 255, 255
    return Image.fromarray(ramp)


@functools.cache
def rgba() -> Image.Image:
    """The base picture with `alpha`."""
    image = base().convert("RGBA")
    image.putalpha(alpha())
    return image


def on_white(image: Image.Image) -> Image.Image:
    """What is seen of a picture with transparency, computed in floating point."""
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    opacity = pixels[..., 3:] / 255
    return Image.fromarray(np.rint(pixels[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8))


def hidden(image: Image.Image, colour: Any) -> Image.Image:
    """What is seen when exactly this colour is transparent: white in its place."""
    pixels = np.asarray(image)
    match = pixels == np.asarray(colour)
    mask = match.all(axis=2) if pixels.ndim == 3 else match
    return Image.fromarray(np.where(mask[..., None] if pixels.ndim == 3 else mask, np.uint8(255), pixels))


def stored_for(image: Image.Image, orientation: int) -> Image.Image:
    """How a camera stores `image` under an EXIF orientation: the inverse of what the viewer does."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the viewer turns clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(undo[orientation]) if orientation in undo else image


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    """`image` as a file by Pillow."""
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
