"""Everything else through Pillow: GIF, TIFF, AVIF, BMP, JPEG 2000, icons, and the odd kinds of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from img2dataset_dist.decoders.colour import conversion
from img2dataset_dist.decoders.picture import Picture, finish, from_16_bit
from img2dataset_dist.errors import DecodeError
from img2dataset_dist.media import ORIENTATION, Header, open_pillow
from img2dataset_dist.transforms.resize import Pixels

_CODESTREAM, _CODESTREAM_END, _CODING_STYLE = b"\xff\x4f\xff\x51", b"\xff\xd9", b"\xff\x52"
_WAVELET_MARGIN = 1.25
"""A wavelet is no area filter: at exactly twice the target the difference shows (SSIM 0.95 in place of 0.98)."""
_AV1_CONFIGURATION = b"av1C"
_MONOCHROME = 0x10
_PNG_DEPTH = 24
_DEEP, _BYTE = 16, 8
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_LENIENT = threading.Lock()


def decode_pillow(body: bytes, header: Header, at_least: tuple[int, int], *, damaged: bool = False) -> Picture:
    """The first picture in a file of a kind that Pillow reads.

    Args:
        body: the file.
        header: what `read_header` said of it.
        at_least: upright width and height in pixels that suffice; JPEG 2000 can then be decoded at 1/2, 1/4 and so on.
        damaged: whether to accept what can be decoded of a broken file.

    Raises:
        DecodeError: truncated, or pixels of a kind that cannot be shown.
        Exception: whatever Pillow raises for a corrupt file.
    """
    kind = header.kind
    image = open_pillow(body, kind)
    if sorted(image.size) != sorted((header.width, header.height)):  # sorted: Pillow turns a TIFF
        raise DecodeError(f"corrupt {kind}")  # it would make room for another picture than the one that was checked
    if kind == "jp2":
        if body.rfind(_CODESTREAM_END) < 0:
            raise DecodeError("truncated jp2")  # of which Pillow takes the first part for a picture
        image.reduce = _levels(body, header, at_least)  # type: ignore[assignment,method-assign]
    with _lenient() if damaged else nullcontext():
        image.load()
    if kind == "tiff" and ORIENTATION not in image.getexif():
        width, height = header.upright  # Pillow has turned it, as it does for TIFF only
        header = Header(kind=kind, width=width, height=height)
    elif kind == "avif" and image.mode == "RGB" and _is_monochrome(body):
        image = image.getchannel(0)
    depth = body[_PNG_DEPTH] if kind == "png" else _BYTE
    return _to_picture(image, header, depth, plain=not damaged and depth != _DEEP)


def _levels(body: bytes, header: Header, at_least: tuple[int, int]) -> int:
    """How many times a JPEG 2000 picture may be halved; its COD segment says how many it has (ISO 15444-1, A.6.1)."""
    start = body.index(_CODESTREAM)
    style = body.find(_CODING_STYLE, start, start + 4096)
    if at_least == (0, 0) or style < 0 or any(body[start + 16 : start + 24]):  # an offset: sizes round otherwise
        return 0
    width, height = (_WAVELET_MARGIN * side for side in at_least)
    most, levels = body[style + 9], 0
    while levels < most and _halves(header.width, width, levels + 1) and _halves(header.height, height, levels + 1):
        levels += 1
    return levels


def _halves(side: int, least: float, levels: int) -> bool:
    """Whether `side`, halved `levels` times, is enough, and rounded in Pillow as in OpenJPEG."""
    whole = 1 << levels
    return -(-side // whole) >= least and (side + whole // 2) // whole == -(-side // whole)


def _is_monochrome(body: bytes) -> bool:
    """Whether all pictures in an AVIF file are grey (AV1 Codec ISO Media File Format Binding, 2.3.3)."""
    pieces = body.split(_AV1_CONFIGURATION)[1:]
    return bool(pieces) and all(len(piece) > 2 and piece[2] & _MONOCHROME for piece in pieces)  # noqa: PLR2004


@contextmanager
def _lenient() -> Iterator[None]:
    """Pillow's switch is one for the process: another thread that decodes strictly may be lenient meanwhile."""
    with _LENIENT:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_picture(image: Image.Image, header: Header, depth: int, *, plain: bool) -> Picture:
    """Any mode of Pillow's to grey or blue-green-red; whatever is transparent goes onto white.

    Args:
        image: loaded.
        header: for its kind and orientation.
        depth: bits per channel in the file, which a PNG's transparent colour is given in.
        plain: see `Picture`.
    """
    profile = image.info.get("icc_profile")
    key = image.info.get("transparency")
    if image.mode == "P":
        return _from_palette(image, header, plain=plain)
    if image.mode == "1":
        image = image.convert("L")
        depth = _BYTE
    if image.mode in _WITH_ALPHA:
        rgba = np.asarray(image.convert("RGBA"))
        grey = image.mode in ("LA", "La")
        pixels = cv2.extractChannel(rgba, 0) if grey else cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR)
        return finish(pixels, header, alpha=cv2.extractChannel(rgba, 3), profile=profile)
    if image.mode == "CMYK":
        return finish(_from_ink(image, profile), header, plain=False)
    if image.mode == "L" or image.mode.startswith(("I", "F")):
        return _from_grey(image, header, depth, plain=plain)
    if image.mode == "LAB":
        image, profile = _from_lab(image), None
    elif image.mode != "RGB":
        image = image.convert("RGB")
    colours = np.asarray(image)
    alpha = None
    if isinstance(key, tuple):
        wanted = np.asarray([value >> _BYTE if depth == _DEEP else value for value in key])
        alpha = _hidden((colours == wanted).all(axis=2))
    return finish(cv2.cvtColor(colours, cv2.COLOR_RGB2BGR), header, alpha=alpha, profile=profile, plain=plain)


def _from_palette(image: Image.Image, header: Header, *, plain: bool) -> Picture:
    """Colours are converted and blended once for the palette, not for each pixel."""
    assert image.palette is not None
    key, kind = image.info.get("transparency"), "RGBA" if image.palette.mode == "RGBA" else "RGB"
    swatch = Image.frombytes("P", (256, 1), bytes(range(256)))
    swatch.putpalette(image.getpalette(kind) or [], kind)
    if key is not None:
        swatch.info["transparency"] = key
    rgba = np.asarray(swatch.convert("RGBA"))
    alpha = None if key is None and kind == "RGB" else cv2.extractChannel(rgba, 3)
    upright = Header(kind=header.kind, width=256, height=1)
    colours = finish(
        cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR), upright, alpha=alpha, profile=image.info.get("icc_profile"), plain=plain
    )
    table = colours.pixels if colours.to_srgb is None else colours.to_srgb(colours.pixels)
    indices = np.asarray(image)
    pixels: Pixels = cv2.merge([cv2.LUT(indices, np.ascontiguousarray(table[0, :, channel])) for channel in range(3)])
    return finish(pixels, header, plain=colours.plain)


def _from_grey(image: Image.Image, header: Header, depth: int, *, plain: bool) -> Picture:
    if image.mode == "F":
        raise DecodeError("unsupported pixel format: float")
    stored = np.asarray(image)
    pixels: Pixels = stored if stored.dtype == np.uint8 else from_16_bit(stored)
    tags = getattr(image, "tag_v2", {})
    if pixels is not stored and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = cv2.bitwise_not(pixels)  # which Pillow forgets for 16 bits
    key, alpha = image.info.get("transparency"), None
    if isinstance(key, int):
        alpha = _hidden(stored == (key * 255 // (2**depth - 1) if depth < _BYTE else key))
    plain = plain and pixels is stored
    return finish(pixels, header, alpha=alpha, profile=image.info.get("icc_profile"), plain=plain)


def _hidden(where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The alpha of a transparent colour."""
    alpha: NDArray[np.uint8] = np.where(where, np.uint8(0), np.uint8(255))
    return alpha


def _from_ink(image: Image.Image, profile: bytes | None) -> Pixels:
    """CMYK by its profile, else as Pillow does: each colour darkened by black."""
    to_srgb = conversion(profile, "CMYK") if profile else None
    if to_srgb is not None:
        return to_srgb(np.asarray(image))
    pixels: Pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    return pixels


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted
